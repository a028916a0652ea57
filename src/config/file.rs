//! The configuration file, YAML or JSON, as settings with the line of each for messages.

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::bgp::{PEER_KEYS, to_text};
use super::problem::{Hint, Problem, nearest};
use super::raw::Origin;
use super::settings::{Key, SETTINGS};
use crate::model::text::first_line;

/// A node of the document. JSON needs no parser of its own: it is YAML.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    Scalar(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_string()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.to_owned()))
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

/// A value found in the file, with its setting.
pub type Found = (Key, String, Origin);

/// Parses the text of the file at `path`: settings, BGP peers, problems.
pub fn parse(path: &str, text: &str) -> (Vec<Found>, Vec<Value>, Vec<Problem>) {
    let mut reader = Reader { path, found: Vec::new(), peers: Vec::new(), problems: Vec::new() };
    let lower = path.to_lowercase();
    if ![".yaml", ".yml", ".json"].iter().any(|ending| lower.ends_with(ending)) {
        let why = "unsupported config file format; its name has to end in .json, .yaml or .yml".to_owned();
        return (Vec::new(), Vec::new(), vec![Problem::File { file: path.to_owned(), why }]);
    }
    match serde_saphyr::from_str::<Option<Node>>(text) {
        Ok(Some(Node::Map(entries))) => reader.map("", entries),
        Ok(None | Some(Node::Null)) => {}
        Ok(Some(_)) => reader.fail("the file has to hold a map of settings".into()),
        Err(error) => reader.fail(first_line(&error.to_string())),
    }
    (reader.found, reader.peers, reader.problems)
}

/// The documents of another YAML file, such as a manifest.
///
/// # Errors
/// If it is not YAML.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| first_line(&error.to_string()))
}

struct Reader<'a> {
    path: &'a str,
    found: Vec<Found>,
    /// BGP peers as strings and maps.
    peers: Vec<Value>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn fail(&mut self, why: String) {
        self.problems.push(Problem::File { file: self.path.to_owned(), why });
    }

    fn unknown(&mut self, line: u64, key: String, hint: Hint) {
        self.problems.push(Problem::UnknownKey { file: self.path.to_owned(), line, key, hint });
    }

    fn map(&mut self, prefix: &str, entries: Vec<(Spanned<String>, Spanned<Node>)>) {
        for (key, value) in entries {
            let line = key.referenced.line();
            let path = if prefix.is_empty() { key.value } else { format!("{prefix}.{}", key.value) };
            let origin = Origin::File { path: self.path.to_owned(), line, key: path.clone() };
            match (setting(&path), value.value) {
                (_, Node::Null) => {}
                (Some(key), Node::Scalar(text)) => self.found.push((key, text, origin)),
                (Some(Key::BgpPeers), Node::List(peers)) => self.peers(&path, origin, peers),
                (Some(key), Node::List(items)) => {
                    let texts: Vec<String> =
                        items.into_iter().filter_map(|item| scalar(item.value)).collect();
                    self.found.push((key, texts.join(","), origin));
                }
                (Some(Key::LeaseAnnotations), Node::Map(entries)) => {
                    let annotations: serde_json::Map<String, serde_json::Value> = entries
                        .into_iter()
                        .filter_map(|(key, value)| Some((key.value, scalar(value.value)?.into())))
                        .collect();
                    let text = serde_json::Value::from(annotations).to_string();
                    self.found.push((Key::LeaseAnnotations, text, origin));
                }
                (None, Node::Map(entries)) if is_parent(&path) => self.map(&path, entries),
                (None, _) if path.eq_ignore_ascii_case("loadBalancers") => {}
                (Some(_), Node::Map(_)) => {
                    self.problems.push(Problem::unacceptable(origin, "{…}", "a single value"));
                }
                (None, _) => {
                    let hint = nearest(&path, known());
                    self.unknown(line, path, hint);
                }
            }
        }
    }

    /// Peers are strings in the form of `bgp_peers`, or maps. If that form cannot express one of them, the value is a
    /// JSON list.
    fn peers(&mut self, path: &str, origin: Origin, peers: Vec<Spanned<Node>>) {
        let mut values = Vec::new();
        for peer in peers {
            let entries = match peer.value {
                Node::Scalar(text) => {
                    values.push(Value::String(text));
                    continue;
                }
                Node::Map(entries) => entries,
                _ => continue,
            };
            let mut fields = serde_json::Map::new();
            for (key, value) in entries {
                let line = key.referenced.line();
                match PEER_KEYS.iter().find(|field| field.eq_ignore_ascii_case(&key.value)) {
                    Some(field) => drop(fields.insert((*field).to_owned(), json(value.value))),
                    None => {
                        let hint = nearest(&key.value, PEER_KEYS);
                        self.unknown(line, format!("{path}[].{}", key.value), hint);
                    }
                }
            }
            values.push(Value::Object(fields));
        }
        self.found.push((Key::BgpPeers, to_text(&values), origin));
        self.peers = values;
    }
}

fn json(node: Node) -> Value {
    match node {
        Node::Null => Value::Null,
        Node::Scalar(text) => Value::String(text),
        Node::List(items) => items.into_iter().map(|item| json(item.value)).collect(),
        Node::Map(entries) => {
            entries.into_iter().map(|(key, value)| (key.value, json(value.value))).collect()
        }
    }
}

fn scalar(node: Node) -> Option<String> {
    match node {
        Node::Scalar(text) => Some(text),
        _ => None,
    }
}

/// File keys match in any case; names of flags and variables are accepted as well.
fn setting(path: &str) -> Option<Key> {
    let names = |names: &'static [&'static str]| names.iter().any(|name| name.eq_ignore_ascii_case(path));
    let by = |select: fn(&'static super::settings::Setting) -> &'static [&'static str]| {
        SETTINGS.iter().find(|setting| names(select(setting))).map(|setting| setting.key)
    };
    by(|setting| setting.file).or_else(|| by(|setting| setting.env)).or_else(|| by(|setting| setting.flags))
}

fn known() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().flat_map(|setting| setting.file.iter().copied())
}

fn is_parent(path: &str) -> bool {
    let prefix = format!("{path}.").to_lowercase();
    known().any(|name| name.to_lowercase().starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Key, String)> {
        let (found, _, problems) = parse("c.yaml", text);
        assert_eq!(problems, []);
        found.into_iter().map(|(key, value, _)| (key, value)).collect()
    }

    #[test]
    fn keys_match_in_any_case_and_by_every_name() {
        let text = "enablearp: true\nVIP_INTERFACE: eth0\nlbPort: 7443\ncontrolPlaneHealthCheck:\n  periodSeconds: 2\n";
        let expected = [
            (Key::Arp, "true"),
            (Key::Interface, "eth0"),
            (Key::LoadBalancerPort, "7443"),
            (Key::HealthPeriod, "2"),
        ];
        assert_eq!(found(text), expected.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn json_is_read_as_well() {
        let (found, _, problems) = parse("c.json", r#"{"port": 7443, "leaseAnnotations": {"a": "b"}}"#);
        assert_eq!(problems, []);
        assert_eq!(found[0].1, "7443");
        assert_eq!(found[1].1, r#"{"a":"b"}"#);
    }

    #[test]
    fn an_unknown_key_is_reported_with_its_line_and_a_hint() {
        let (_, _, problems) = parse("c.yaml", "enableARP: true\nbgpConfig:\n  holdtimer: 3\nadress: x\n");
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "c.yaml, line 3: there is no key `bgpConfig.holdtimer`; did you mean `bgpConfig.holdTime`?",
                "c.yaml, line 4: there is no key `adress`; did you mean `address`?",
            ]
        );
    }

    #[test]
    fn peers_are_strings_or_maps() {
        let text = "bgpConfig:\n  peers:\n  - 192.0.2.1:65000::false\n  - {address: 'fd00::1', as: 65001, port: 1179}\n  - {interface: eth1, bfdEnabled: true}\n";
        let peers = "192.0.2.1:65000::false,[fd00::1]:65001:::1179,unnumbered:eth1::::::true;300;300;3";
        assert_eq!(found(text), [(Key::BgpPeers, peers.to_owned())]);
        // Fields that `bgp_peers` cannot express.
        let text = "bgpConfig:\n  peers:\n  - {address: 192.0.2.1, as: 65001, holdTime: 3, nodeSelector: {rack: a}, communities: ['65000:1']}\n";
        let (peers, problems) = super::super::bgp::peers(&found(text)[0].1, &mut Vec::new());
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(
            (peers[0].hold_time, peers[0].defaults.communities.len(), peers[0].node_selector.len()),
            (Some(3), 1, 1)
        );
    }

    #[test]
    fn lists_invalid_yaml_and_other_file_names_are_rejected() {
        for (path, text) in [("c.yaml", "- a"), ("c.yaml", "a: [1"), ("c.toml", "a = 1")] {
            assert_eq!(parse(path, text).2.len(), 1, "{path} {text}");
        }
    }
}
