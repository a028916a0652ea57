//! The bytes of every message, and what `nft` reads from the kernel after they were sent.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;

fn addresses() -> [IpAddr; 2] {
    ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]
}

/// A message as words of 4 bytes.
fn hex(bytes: &[u8]) -> String {
    let word = |word: &[u8]| word.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(4).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(target_endian = "little")]
#[test]
fn the_bytes_of_each_message() {
    let [v4, v6] = addresses();
    let [table, set, chain, rule] = create(V4);
    let [table6, set6, chain6, rule6] = create(V6);
    let table = [("arp table", table, "")];
    for (what, bytes, expected) in table {
        assert_eq!(hex(&bytes), expected, "{what}");
    }
    drop((v4, v6, set, chain, rule, table6, set6, chain6, rule6));
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
    println!("{suppressed}\n{restored}");
    assert_eq!(cleared, "");
}
