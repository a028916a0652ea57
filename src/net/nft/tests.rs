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

/// As the Go program makes them, by `nft`.
#[test]
fn rules_are_read_with_their_comments_and_deleted_alone() {
    const RULES: &str = r#"
        table ip filter {
            set a1b2 { type inet_service; }
            chain INPUT { type filter hook input priority filter; policy accept;
                tcp dport @a1b2 accept comment "default/web kube-vip load balancer IP - TCP ports"
                tcp dport 22 accept comment "ssh" }
            chain KUBE-VIP-EGRESS { }
            chain PREROUTING { type filter hook prerouting priority mangle; jump KUBE-VIP-EGRESS; }
        }
        table ip6 kube_vip_v6 { }
        table inet firewall { chain fw { type filter hook forward priority 5; policy drop; jump pods; }
            chain pods { }
            chain out { type filter hook output priority 5; policy drop; } }"#;
    let read = std::thread::spawn(|| {
        // Without privileges there is no namespace to try it in.
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let nft = |args: &[&str]| Command::new("nft").args(args).output().ok();
        nft(&[RULES]).filter(|output| output.status.success())?;
        assert!(missing_families().is_empty());
        let ruleset = rules::Ruleset::read().unwrap();
        let dropping: Vec<String> = ruleset.dropping.iter().map(ToString::to_string).collect();
        assert_eq!(dropping, ["fw of table inet firewall"]);
        let rule = |comment: &str, target: Option<&str>| {
            let found = |rule: &&rules::Rule| rule.comment == comment && rule.target.as_deref() == target;
            ruleset.rules.iter().find(found).cloned()
        };
        let named =
            |members: &[rules::Member], name: &str| members.iter().find(|it| it.name == name).cloned();
        let deletions = [
            rules::Deletion::Rule(rule("default/web kube-vip load balancer IP - TCP ports", None).unwrap()),
            rules::Deletion::Rule(rule("", Some("KUBE-VIP-EGRESS")).unwrap()),
            rules::Deletion::Chain(named(&ruleset.chains, "KUBE-VIP-EGRESS").unwrap()),
            rules::Deletion::Set(named(&ruleset.sets, "a1b2").unwrap()),
            rules::Deletion::Table(rules::Table { family: NFPROTO_IPV6, name: "kube_vip_v6".into() }),
        ];
        // A rule of others refers to a set: the set stays, and all else goes.
        nft(&["add rule ip filter INPUT udp dport @a1b2 drop"])?;
        let refused = rules::delete(&deletions);
        let [(rules::Deletion::Set(set), error)] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!((set.name.as_str(), error.raw_os_error()), ("a1b2", Some(libc::EBUSY)));
        nft(&["flush chain ip filter INPUT"])?;
        nft(&["add rule ip filter INPUT tcp dport 22 accept comment ssh"])?;
        assert!(rules::delete(&deletions).is_empty(), "what has gone is no error");
        Some(String::from_utf8(nft(&["list", "ruleset"])?.stdout).unwrap())
    });
    let Some(left) = read.join().unwrap() else { return };
    for text in ["ssh", "chain INPUT", "chain PREROUTING"] {
        assert!(left.contains(text), "{text}: {left}");
    }
    for text in ["kube-vip", "kube-vip-test", "KUBE-VIP", "a1b2", "kube_vip"] {
        assert!(!left.contains(text), "{text}: {left}");
    }
}

/// More than one transaction, and more acknowledgements than the buffer of a socket holds.
#[test]
fn thousands_of_rules_are_deleted() {
    let left = std::thread::spawn(|| {
        // Without privileges there is no namespace to try it in.
        unshare(CloneFlags::CLONE_NEWNET).ok()?;
        let mut input = "table ip t { chain c { }; }\n".to_owned();
        for port in 1..=2_500 {
            input.push_str(&format!("add rule ip t c tcp dport {port} accept\n"));
        }
        Command::new("nft").arg(&input).output().ok().filter(|output| output.status.success())?;
        let rules = rules::Ruleset::read().unwrap().rules;
        assert_eq!(rules.len(), 2_500);
        let refused = rules::delete(&rules.into_iter().map(rules::Deletion::Rule).collect::<Vec<_>>());
        assert!(refused.is_empty(), "{refused:?}");
        Some(rules::Ruleset::read().unwrap())
    });
    let Some(left) = left.join().unwrap() else { return };
    assert_eq!((left.rules.len(), left.chains.len()), (0, 1));
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
