//! The rules of the house, as tests. ARCHITECTURE.md says why.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::path::PathBuf;

/// Files and folders that compute: no clock, socket, runtime, client, environment, randomness or log.
const PURE: &[&str] = &[
    "cloud-provider/src/cli.rs",
    "cloud-provider/src/ipam/",
    "cloud-provider/src/manifest.rs",
    "cloud-provider/src/plan/",
    "cloud-provider/src/pools/",
    "cloud-provider/src/reference.rs",
    "src/conflict/",
    "src/announce/schedule.rs",
    "src/arp/packet.rs",
    "src/bfd/fsm.rs",
    "src/bfd/packet.rs",
    "src/bgp/annotations.rs",
    "src/bgp/fsm/",
    "src/bgp/packet/",
    "src/bgp/peers.rs",
    "src/bgp/provider.rs",
    "src/bgp/rib_in.rs",
    "src/bgp/rib_out.rs",
    "src/cli.rs",
    "src/config/",
    "src/election/anycast.rs",
    "src/election/elections.rs",
    "src/election/holders.rs",
    "src/election/host_health.rs",
    "src/planner/control_plane.rs",
    "src/reconcile/desired.rs",
    "src/dhcp/datagram.rs",
    "src/dhcp/fsm/",
    "src/dhcp/identity.rs",
    "src/dhcp/record.rs",
    "src/dhcp/v4.rs",
    "src/dhcp/v6.rs",
    "src/dhcp/wish.rs",
    "src/election/health/tracker.rs",
    "src/election/decide.rs",
    "src/election/elector.rs",
    "src/election/record.rs",
    "src/manifest/",
    "src/mdns/names.rs",
    "src/model/",
    "src/ndp/packet.rs",
    "src/ndp/router.rs",
    "src/reconcile/diff.rs",
    "src/planner/addresses.rs",
    "src/planner/rendezvous.rs",
    "src/planner/reserved.rs",
    "src/planner/endpoints.rs",
    "src/planner/leases.rs",
    "src/planner/placement.rs",
    "src/planner/plan/",
    "src/planner/routes.rs",
    "src/planner/select.rs",
    "src/publish/status.rs",
    "src/route_table/diff.rs",
    "src/upnp/forward.rs",
    "src/upnp/ledger.rs",
    "src/upnp/outcome.rs",
];

const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "kube::",
    "rtnetlink",
    "socket2",
    "nix::",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant",
    "SystemTime",
    "clock::",
    "Timestamp::now",
    "rand::",
    "std::env",
    "std::fs",
    "tracing",
];

/// Words that belong to one file.
const CONFINED: &[(&str, &str)] = &[
    ("rtnetlink", "src/net/netlink.rs"),
    ("unsafe {", "src/net/sys.rs"),
    ("unsafe fn", "src/net/sys.rs"),
    ("serde_saphyr::to_string", "src/manifest/mod.rs"),
    ("serde_saphyr::from_str", "src/config/file.rs"),
];

/// Files that may be longer than the limit, and why.
const LONG: &[(&str, &str)] = &[
    ("src/election/elector.rs", "one state machine; its parts have no meaning apart"),
    ("tests/simulation.rs", "one invented world; its parts have no meaning apart"),
];

const LIMIT: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project, with its path from the root.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "cloud-provider", "tests", "xtask", "fuzz"].map(|folder| root().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && path.file_name() != Some("target".as_ref()) {
                folders.push(path);
            } else if path.extension() == Some("rs".as_ref()) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 40, "the files are not where this test looks for them");
    found
}

/// Without tests and comments: the rules are about what the program does.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().enumerate().filter_map(|(number, line)| {
        let code = line.split("//").next().unwrap_or_default();
        (!code.trim().is_empty()).then_some((number + 1, code))
    })
}

#[test]
fn pure_files_are_pure() {
    let mut seen = 0;
    for (name, text) in files() {
        if !PURE.iter().any(|pure| name.starts_with(pure)) {
            continue;
        }
        seen += 1;
        for (number, line) in code(&text) {
            for word in IMPURE_WORDS {
                assert!(
                    !line.contains(word),
                    "{name}:{number} computes, and may not mention `{word}`: {line}"
                );
            }
        }
    }
    assert!(seen >= PURE.len(), "a pure file was moved without telling this test");
}

#[test]
fn what_is_confined_to_one_file_stays_there() {
    for (word, place) in CONFINED {
        assert!(root().join(place).is_file(), "{place} was moved without telling this test");
        for (name, text) in files().iter().filter(|(name, _)| name.starts_with("src/") && name != place) {
            for (number, line) in code(text) {
                assert!(
                    !line.contains(word),
                    "{name}:{number} mentions `{word}`, which belongs to {place}: {line}"
                );
            }
        }
    }
}

#[test]
fn no_file_is_too_long_without_a_reason() {
    for (name, text) in files() {
        let lines = text.lines().count();
        let excused = LONG.iter().any(|(excused, _)| *excused == name);
        assert!(
            lines <= LIMIT || excused,
            "{name} has {lines} lines; more than {LIMIT} need a reason in this test"
        );
    }
}

#[test]
fn every_decoder_of_network_bytes_has_a_fuzz_target() {
    let targets = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let decoders = files().into_iter().filter(|(name, text)| {
        let one_file = name.ends_with("/packet.rs") && text.contains("fn from_bytes");
        let a_folder = name.ends_with("/packet/mod.rs") && text.contains("pub fn decode");
        name.starts_with("src/") && (one_file || a_folder)
    });
    let mut seen = 0;
    for (name, _) in decoders {
        let (protocol, _) = name.trim_start_matches("src/").split_once('/').unwrap();
        assert!(
            targets.contains(&format!("name = \"{protocol}\"")),
            "{name} has no fuzz target `{protocol}`"
        );
        seen += 1;
    }
    assert!(seen >= 4, "the decoders are not where this test looks for them");
}

#[test]
fn every_module_says_what_it_is_for() {
    for (name, text) in files() {
        assert!(text.starts_with("//!"), "{name} does not begin with what it is for");
    }
}
