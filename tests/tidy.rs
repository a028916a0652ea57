//! The rules of ARCHITECTURE.md and CONTRIBUTING.md, as tests over the source text.
//!
//! Each rule is a function from a file to its violations, so that a test can show it failing once.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Longest file, in lines.
const FILE_LIMIT: usize = 600;
/// Longest `driver.rs`: a driver waits, feeds a state machine and executes its outputs.
const DRIVER_LIMIT: usize = 300;
/// Longest function outside tests, in lines.
const FUNCTION_LIMIT: usize = 80;
/// Longest file in `src/daemon/`, and all of them together: wiring only.
const DAEMON_FILE_LIMIT: usize = 400;
const DAEMON_LIMIT: usize = 800;

/// Words that personify machines, or belong to no vocabulary of the field. Matched without regard to case, as whole words.
const WORDS: &[&str] = &[
    "somebody",
    "nobody",
    "whoever",
    "whom",
    "anybody",
    "everybody",
    "is told",
    "are told",
    "was told",
    "says so",
    "say so",
    "in words",
    "were told",
    "goes on with",
    "nothing else is said",
    "the kernel says",
    "the kernel answers",
    "as far as we",
];

/// Layers of src/, lowest first. A folder may use those below it and its own.
const LAYERS: &[&[&str]] = &[
    &["model", "watch_ext"],
    &["config", "net", "cli", "manifest"],
    &[
        "host",
        "cluster",
        "kubeconfig",
        "conflict",
        "announce",
        "arp",
        "ndp",
        "bgp",
        "bfd",
        "dhcp",
        "upnp",
        "mdns",
        "route_table",
    ],
    &["election", "planner"],
    &["reconcile", "publish"],
    &["telemetry", "dump"],
    &["daemon", "doctor", "program"],
];

/// What code that computes must not mention.
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

/// Files and folders that compute. A file with a `poll_timeout` is pure wherever it is, unless it is a driver.
const PURE: &[&str] = &[
    "cloud-provider/src/cli.rs",
    "cloud-provider/src/controller/leader_session.rs",
    "cloud-provider/src/ipam/",
    "cloud-provider/src/manifest.rs",
    "cloud-provider/src/plan/",
    "cloud-provider/src/pools/",
    "cloud-provider/src/reference.rs",
    "src/cli.rs",
    "src/cluster/certificate.rs",
    "src/cluster/correlator.rs",
    "src/config/",
    "src/doctor/api.rs",
    "src/doctor/host.rs",
    "src/doctor/manifest.rs",
    "src/kubeconfig/document.rs",
    "src/manifest/",
    "src/model/",
    "src/planner/cache.rs",
    "src/planner/dhcp_clients.rs",
    "src/planner/plan/",
    "src/publish/events.rs",
    "src/publish/leases.rs",
    "src/publish/names.rs",
    "src/publish/port_mappings.rs",
    "src/publish/status.rs",
    "src/publish/writes.rs",
    "src/reconcile/desired.rs",
    "src/reconcile/diff.rs",
    "src/reconcile/placement.rs",
];

/// Words that belong to one file.
const CONFINED: &[(&str, &str)] = &[
    ("unsafe {", "src/net/sys.rs"),
    ("unsafe fn", "src/net/sys.rs"),
    ("serde_saphyr::to_string", "src/manifest/mod.rs"),
    ("serde_saphyr::from_str", "src/config/file.rs"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the project with this extension: its path from the root, and its text.
fn files(extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != "corpus" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let found = files("rs");
    assert!(found.len() > 200, "the sources are not where this test looks for them");
    found
}

/// Asserts that a rule finds nothing but the excepted files.
fn check(files: Vec<(String, String)>, rule: impl Fn(&str, &str) -> Vec<String>) {
    let violations: Vec<String> = files.iter().flat_map(|(name, text)| rule(name, text)).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// The code of a file without its tests: line numbers and lines.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end].lines().enumerate().filter_map(|(number, line)| {
        let code = line.split("//").next().unwrap_or_default();
        (!code.trim().is_empty()).then_some((number + 1, code))
    })
}

// Words.

fn listed_words(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        for word in WORDS {
            let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric());
            let whole = lower.match_indices(word).any(|(at, _)| {
                !is_part(lower[..at].chars().next_back()) && !is_part(lower[at + word.len()..].chars().next())
            });
            if whole {
                found.push(format!(
                    "{name}:{}: `{word}`: name the node, process, Service or peer",
                    number + 1
                ));
            }
        }
    }
    found
}

#[test]
fn no_word_of_the_list_is_used() {
    let prose = sources().into_iter().chain(files("md"));
    let rest = prose.filter(|(name, _)| name != "tests/tidy.rs");
    check(rest.collect(), listed_words);
}

#[test]
fn a_listed_word_is_found_as_a_whole_word_only() {
    assert_eq!(listed_words("a.rs", "// Somebody holds it.").len(), 1);
    assert_eq!(listed_words("a.rs", "// The peer is told of it.").len(), 1);
    assert_eq!(listed_words("a.rs", "// The whomping nobodyness.").len(), 0);
}

// Layers.

/// The folder (or file) directly below src/ that a path belongs to.
fn folder(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("src/")?;
    Some(rest.split('/').next()?.trim_end_matches(".rs"))
}

fn layer(folder: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&folder))
}

/// Folders that the code of a file uses.
fn uses(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, line) in code(text) {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split(['}', ';']).next().unwrap_or_default().split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let end = |c: char| !(c.is_alphanumeric() || c == '_');
                found.insert(name.trim().split(end).next().unwrap_or_default().to_owned());
            }
        }
    }
    found
}

fn wrong_direction(name: &str, text: &str) -> Vec<String> {
    let Some(own) = folder(name).and_then(layer) else { return Vec::new() };
    let above = |used: &String| layer(used).is_some_and(|used| used > own);
    let upward = uses(text).into_iter().filter(above);
    upward.map(|used| format!("{name} uses `{used}`, which is in a higher layer")).collect()
}

#[test]
fn folders_use_only_what_is_below_them() {
    check(sources(), wrong_direction);
}

#[test]
fn an_upward_use_is_found() {
    assert_eq!(wrong_direction("src/bgp/driver.rs", "use crate::telemetry::Telemetry;").len(), 1);
    assert_eq!(wrong_direction("src/bgp/driver.rs", "use crate::{model, daemon};").len(), 1);
    assert_eq!(wrong_direction("src/daemon/mod.rs", "use crate::bgp;").len(), 0);
}

/// The folders on a cycle of imports, if there is one.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
        graph: &BTreeMap<String, BTreeSet<String>>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|folder| folder == at) {
            return Some(path[start..].to_vec());
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        path.push(at.to_owned());
        let found = graph.get(at).into_iter().flatten().find_map(|next| visit(next, path, done, graph));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| visit(start, &mut Vec::new(), &mut done, graph))
}

fn folder_graph(files: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in files {
        let Some(own) = folder(name) else { continue };
        let used = uses(text).into_iter().filter(|used| used != own && layer(used).is_some());
        graph.entry(own.to_owned()).or_default().extend(used);
    }
    graph
}

#[test]
fn no_folders_import_each_other() {
    let cycle = cycle(&folder_graph(&sources()));
    assert_eq!(cycle, None, "these folders import each other in a circle");
}

#[test]
fn a_cycle_is_found() {
    let graph = |pairs: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert_eq!(cycle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(cycle(&graph(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap().len(), 2);
}

// Purity.

fn is_pure(name: &str, text: &str) -> bool {
    let driver = name.ends_with("driver.rs");
    let machine =
        name.starts_with("src/") && !driver && code(text).any(|(_, line)| line.contains("fn poll_timeout"));
    machine || PURE.iter().any(|pure| name.starts_with(pure))
}

fn impurities(name: &str, text: &str) -> Vec<String> {
    if !is_pure(name, text) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in code(text) {
        for word in IMPURE_WORDS.iter().filter(|word| line.contains(*word)) {
            found.push(format!("{name}:{number} computes, and may not mention `{word}`: {}", line.trim()));
        }
    }
    found
}

#[test]
fn code_that_computes_mentions_no_clock_socket_runtime_or_log() {
    for pure in PURE {
        assert!(root().join(pure).exists(), "{pure} was moved: update this list");
    }
    check(sources(), impurities);
}

/// Outputs and deadlines of state machines that a caller may ignore by mistake.
fn ignorable(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let polls = |line: &str| {
        let line = line.trim();
        line.starts_with("pub") && (line.contains("fn poll_timeout(") || line.contains("fn poll_output("))
    };
    let found =
        lines.windows(2).enumerate().filter(|(_, pair)| polls(pair[1]) && pair[0].trim() != "#[must_use]");
    found
        .map(|(number, pair)| format!("{name}:{}: `{}` lacks #[must_use]", number + 2, pair[1].trim()))
        .collect()
}

#[test]
fn what_a_state_machine_returns_must_be_used() {
    check(sources(), ignorable);
    let with = |attribute: &str| format!("{attribute}\npub fn poll_output(&mut self) -> Option<Output> {{");
    assert_eq!(ignorable("src/bgp/fsm/mod.rs", &with("/// The next output.")).len(), 1);
    assert_eq!(ignorable("src/bgp/fsm/mod.rs", &with("#[must_use]")).len(), 0);
}

#[test]
fn a_state_machine_that_reads_the_clock_is_found() {
    let machine = "fn poll_timeout(&self) {}\nfn advance() { clock::now(); }";
    assert_eq!(impurities("src/bgp/fsm.rs", machine).len(), 1);
    assert_eq!(impurities("src/bgp/driver.rs", machine).len(), 0);
}

fn misplaced(name: &str, text: &str) -> Vec<String> {
    let confined = CONFINED.iter().filter(|(_, place)| name.starts_with("src/") && name != *place);
    let mut found = Vec::new();
    for (word, place) in confined {
        let lines = code(text).filter(|(_, line)| line.contains(word));
        found.extend(lines.map(|(number, _)| format!("{name}:{number}: `{word}` belongs to {place}")));
    }
    found
}

#[test]
fn what_is_confined_to_one_file_stays_there() {
    for (_, place) in CONFINED {
        assert!(root().join(place).is_file(), "{place} was moved: update this list");
    }
    check(sources(), misplaced);
    assert_eq!(misplaced("src/bgp/driver.rs", "unsafe { f() }").len(), 1);
}

// Lengths.

fn too_long(name: &str, text: &str) -> Vec<String> {
    let limit = if name.starts_with("src/daemon/") {
        DAEMON_FILE_LIMIT
    } else if name.starts_with("src/") && name.ends_with("/driver.rs") {
        DRIVER_LIMIT
    } else {
        FILE_LIMIT
    };
    // The limit of drivers and of wiring is on what the program does.
    let lines = match limit {
        FILE_LIMIT => text.lines().count(),
        _ => text[..text.find("#[cfg(test)]").unwrap_or(text.len())].lines().count(),
    };
    (lines > limit).then(|| format!("{name} has {lines} lines, more than {limit}")).into_iter().collect()
}

#[test]
fn no_file_is_too_long() {
    check(sources(), too_long);
    let daemon = sources().into_iter().filter(|(name, _)| name.starts_with("src/daemon/"));
    let lines: usize = daemon.map(|(_, text)| text.lines().count()).sum();
    assert!(
        lines <= DAEMON_LIMIT,
        "src/daemon/ has {lines} lines, more than {DAEMON_LIMIT}: it is wiring only"
    );
}

#[test]
fn a_file_that_is_too_long_is_found() {
    let lines = |count| "//\n".repeat(count);
    assert_eq!(too_long("src/bgp/peers.rs", &lines(601)).len(), 1);
    assert_eq!(too_long("src/bgp/driver.rs", &lines(301)).len(), 1);
    assert_eq!(too_long("src/daemon/mod.rs", &lines(401)).len(), 1);
    assert_eq!(too_long("src/bgp/peers.rs", &lines(600)).len(), 0);
}

/// Functions that are longer than the limit, outside tests. Bodies end where a line has the indentation of the first.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let in_scope = name.starts_with("src/") || name.starts_with("cloud-provider/src/");
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    for (number, line) in text[..end].lines().enumerate().filter(|_| in_scope) {
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim_start();
        match &open {
            None => {
                let start = trimmed.find("fn ").filter(|at| {
                    trimmed[..*at].split_whitespace().all(|word| {
                        ["async", "const", "pub", "unsafe"].contains(&word) || word.starts_with("pub(")
                    })
                });
                if let Some(at) = start
                    && !trimmed.ends_with('}')
                    && !trimmed.ends_with(';')
                {
                    let function = trimmed[at + 3..].split(['(', '<']).next().unwrap_or_default();
                    open = Some((number, indent, function.to_owned()));
                }
            }
            Some((start, depth, function)) => {
                if indent == *depth && trimmed.starts_with('}') {
                    let lines = number - start + 1;
                    if lines > FUNCTION_LIMIT {
                        found.push(format!("{name}:{}: `{function}` has {lines} lines", start + 1));
                    }
                    open = None;
                } else if indent == *depth && trimmed.ends_with(';') {
                    open = None;
                }
            }
        }
    }
    found
}

#[test]
fn no_function_is_too_long() {
    check(sources(), long_functions);
}

#[test]
fn a_function_that_is_too_long_is_found() {
    let function = |lines| format!("pub fn f() {{\n{}}}\n", "    g();\n".repeat(lines));
    assert_eq!(long_functions("src/a.rs", &function(79)), ["src/a.rs:1: `f` has 81 lines"]);
    assert_eq!(long_functions("src/a.rs", &function(78)).len(), 0);
}

// Decoders.

/// Whether a file decodes bytes that another program wrote.
fn decodes(text: &str) -> bool {
    let flat: String = code(text).map(|(_, line)| line.trim()).collect::<Vec<_>>().join(" ");
    flat.match_indices("fn ").any(|(at, _)| {
        let rest = &flat[at + 3..];
        let name = rest.split(['(', '<']).next().unwrap_or_default();
        let signature = rest.split('{').next().unwrap_or_default();
        let decoder = ["decode", "parse", "from_bytes"].iter().any(|verb| name.starts_with(verb));
        decoder && signature.contains("&[u8]")
    })
}

#[test]
fn every_decoder_of_foreign_bytes_has_a_fuzz_target() {
    let targets = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let mut folders = BTreeSet::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("src/")) {
        if decodes(&text) {
            folders.extend(folder(&name).map(str::to_owned));
        }
    }
    assert!(folders.len() >= 4, "decoders are not recognized any more: {folders:?}");
    for folder in folders {
        assert!(
            targets.contains(&format!("name = \"{folder}\"")),
            "src/{folder} decodes bytes without a fuzz target"
        );
    }
}

#[test]
fn a_decoder_is_recognized_by_its_signature() {
    assert!(decodes("pub fn decode(\n    bytes: &[u8],\n) -> Result<Self, Malformed> {"));
    assert!(decodes("fn parse_options(bytes: &[u8]) {"));
    assert!(!decodes("fn parse(text: &str) {"));
    assert!(!decodes("fn encode(bytes: &[u8]) {"));
}

// Events.

/// Names in Events that are no reasons: kinds of objects, and types.
const OTHER_NAMES: &[&str] = &["ConfigMap", "Node", "Normal", "Service", "Warning"];

/// Event reasons in a file that makes Events: its texts of letters alone that begin with a capital.
fn reasons(name: &str, text: &str) -> BTreeSet<String> {
    let makes =
        |line: &str| ["record_on_node(", ".event(", " Event {"].iter().any(|call| line.contains(call));
    let in_scope = name.starts_with("src/") || name.starts_with("cloud-provider/src/");
    if !in_scope || name.ends_with("/tests.rs") || !code(text).any(|(_, line)| makes(line)) {
        return BTreeSet::new();
    }
    let is_reason = |text: &&str| {
        let letters = text.bytes().all(|byte| byte.is_ascii_alphabetic());
        letters && text.starts_with(|first: char| first.is_ascii_uppercase()) && !OTHER_NAMES.contains(text)
    };
    let texts = code(text).flat_map(|(_, line)| line.split('"').skip(1).step_by(2));
    texts.filter(is_reason).map(str::to_owned).collect()
}

/// The reasons in the first cells of the tables under headings about Events.
fn documented(page: &str) -> BTreeSet<String> {
    let of_events =
        page.split("\n#").filter(|section| section.trim_start_matches('#').starts_with(" Events on"));
    let rows = of_events.flat_map(str::lines).filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next()).map(str::to_owned).collect()
}

#[test]
fn every_event_reason_is_in_the_operations_page() {
    let found = sources().into_iter().flat_map(|(name, text)| reasons(&name, &text)).collect();
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let documented = documented(&page);
    let missing: Vec<&String> = documented.symmetric_difference(&found).collect();
    assert!(missing.is_empty(), "only one of the code and docs/operations.md has {missing:?}");
}

#[test]
fn a_reason_is_recognized_in_code_and_page() {
    let code = r#"events.record_on_node(true, "VIPLost", format!("lost {vips}")); kind("Node")"#;
    assert_eq!(reasons("src/a.rs", code), ["VIPLost".to_owned()].into());
    assert!(reasons("src/a.rs", r#"kind("VIPLost")"#).is_empty());
    let page = "# A\n| `Row` |\n## Events on Nodes\n| Reason |\n| `VIPLost` | x |\n## B\n| `Other` |\n";
    assert_eq!(documented(page), ["VIPLost".to_owned()].into());
}

#[test]
fn every_module_begins_with_its_purpose() {
    for (name, text) in sources() {
        assert!(text.starts_with("//!"), "{name} does not begin with `//!`");
    }
}
