//! The bytes of every message, and what `nft` reads from the kernel after they were sent.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;

fn addresses() -> [IpAddr; 2] {
    ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]
}

/// Words of 4 bytes, twelve to a line.
fn hex(bytes: &[u8]) -> String {
    let word = |word: &[u8]| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let words: Vec<String> = bytes.chunks(4).map(word).collect();
    words.chunks(12).map(|line| format!("  {}\n", line.join(" "))).collect()
}

/// `golden.txt` was computed from the kernel's headers by another program.
#[cfg(target_endian = "little")]
#[test]
fn the_bytes_of_each_message() {
    let mut text = String::new();
    for (name, family, address) in [("arp", V4, addresses()[0]), ("ip6", V6, addresses()[1])] {
        let [table, set, chain, rule] = create(family);
        let (add, delete) = (add_elements(family, &[address]), delete_elements(family, &[address]));
        let messages = [
            ("table", table),
            ("set", set),
            ("chain", chain),
            ("rule", rule),
            ("add", add),
            ("delete", delete),
            ("clear", delete_table(family)),
        ];
        text.extend(messages.iter().map(|(what, bytes)| format!("{name} {what}\n{}", hex(bytes))));
    }
    assert_eq!(text, include_str!("golden.txt"));
}

#[test]
fn nft_lists_what_was_created() {
    let listed = std::thread::spawn(|| {
        // Without privileges there is no namespace to try it in.
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let list = || Command::new("nft").args(["-n", "list", "ruleset"]).output().ok();
        list()?;
        suppress_replies(&addresses()).unwrap();
        let suppressed = list()?;
        restore_replies(&addresses()).unwrap();
        restore_replies(&addresses()).unwrap();
        let restored = list()?;
        clear().unwrap();
        clear().unwrap();
        let text = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
        Some([suppressed, restored, list()?].map(text))
    });
    let Some([suppressed, restored, cleared]) = listed.join().unwrap() else { return };
    println!("{suppressed}");
    for text in ["table arp kube-vip-silent", "table ip6 kube-vip-silent", "@addresses drop"] {
        assert!(suppressed.contains(text) && restored.contains(text), "{text}: {suppressed}{restored}");
    }
    for address in addresses().map(|address| address.to_string()) {
        assert!(suppressed.contains(&address) && !restored.contains(&address), "{suppressed}{restored}");
    }
    assert_eq!(cleared, "");
}
