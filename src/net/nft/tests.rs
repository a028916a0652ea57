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
        let created = create(family);
        let (add, delete) = (add_elements(family, &[address]), delete_elements(family, &[address]));
        let of_table = ["table", "set", "chain", "rule", "rule"].into_iter().zip(created);
        let of_set = [("add", add), ("delete", delete), ("clear", delete_table(family))];
        text.extend(of_table.chain(of_set).map(|(what, bytes)| format!("{name} {what}\n{}", hex(&bytes))));
    }
    assert_eq!(text, include_str!("golden.txt"));
}

#[test]
fn a_family_that_the_kernel_lacks_fails_alone() {
    let [v4, v6] = addresses();
    // The family of the first message: `struct nfgenmsg` follows the header of 16 bytes.
    let lacks_arp = |messages: &[Vec<u8>]| match messages[0][16] {
        NFPROTO_ARP => Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        _ => Ok(()),
    };
    let failures = suppress(&[v4, v6], lacks_arp);
    assert_eq!(failures.into_iter().map(|(_, addresses)| addresses).collect::<Vec<_>>(), [[v4]]);
    let exists = |_: &[Vec<u8>]| Err(std::io::Error::from_raw_os_error(libc::EEXIST));
    assert_eq!(suppress(&[v4, v6], exists).len(), 2, "the tables exist, and the elements are refused");
    assert_eq!(suppress(&[v4, v6], |_| Ok(())).len(), 0);
}

#[test]
fn nft_lists_what_was_created() {
    let listed = std::thread::spawn(|| {
        // Without privileges there is no namespace to try it in.
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let list = || Command::new("nft").args(["-n", "list", "ruleset"]).output().ok();
        list()?;
        assert!(suppress_replies(&addresses()).is_empty());
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
