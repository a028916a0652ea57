//! Peers from annotations of the Node (`annotation`), as bare-metal providers set them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::ByteString;

use crate::config::Bgp;
use crate::config::bgp::{Peer, PeerTarget};
use crate::model::text::quoted;

/// Prefix of the peer number; optional for the first peer.
const PEERS: &str = "bgp-peers-";

/// The configuration with its peers replaced by those of the annotations.
///
/// Keys are `PREFIX/KEY` or `PREFIX/bgp-peers-0-KEY`: `node-asn`, `src-ip` (BGP identifier and source address),
/// `peer-asn`, `peer-ip`, and optionally `bgp-pass` (base64) and `peer-multi-hop`. Further peers have
/// `bgp-peers-N-peer-ip`.
///
/// # Errors
/// All missing and invalid annotations.
pub fn apply(bgp: &Bgp, prefix: &str, annotations: &BTreeMap<String, String>) -> Result<Bgp, Vec<String>> {
    let mut reader = Reader { prefix: prefix.trim_end_matches('/'), annotations, wrong: Vec::new() };
    let as_number = |text: &str| text.parse().ok().filter(|number| *number != 0);
    let local_as = reader.required("node-asn", "an AS number from 1 to 4294967295", as_number);
    let asn = reader.required("peer-asn", "an AS number from 1 to 4294967295", as_number);
    let source = reader.required("src-ip", "an IP address", |text| text.parse::<IpAddr>().ok());
    let router_id = match source {
        Some(IpAddr::V4(address)) => Some(address),
        _ => bgp.router_id,
    };
    if source.is_some() && router_id.is_none() {
        let text = "src-ip is an IPv6 address, which cannot be the router ID: set bgp_routerid";
        reader.wrong.push(text.to_owned());
    }
    let addresses = reader.peers();
    let password = reader.find("bgp-pass").and_then(|(key, text)| {
        let decoded = serde_json::from_value::<ByteString>(text.into()).ok();
        let password = decoded.and_then(|ByteString(bytes)| String::from_utf8(bytes).ok());
        if password.is_none() {
            // Without the value, which is a secret.
            reader.wrong.push(format!("{key} is not base64"));
        }
        password
    });
    let multihop = reader.optional("peer-multi-hop", "true or false", |text| text.parse().ok());
    let (Some(local_as), Some(asn), Some(source), true) = (local_as, asn, source, reader.wrong.is_empty())
    else {
        return Err(reader.wrong);
    };
    let peer = |address: IpAddr| Peer {
        password: password.clone().filter(|password| !password.is_empty()),
        multihop: multihop.unwrap_or(false),
        ..Peer::new(PeerTarget::Address(address), Some(asn))
    };
    Ok(Bgp {
        local_as,
        router_id,
        source_address: Some(source),
        source_interface: None,
        peers: addresses.into_iter().map(peer).collect(),
        ..bgp.clone()
    })
}

struct Reader<'a> {
    prefix: &'a str,
    annotations: &'a BTreeMap<String, String>,
    /// Problems found so far.
    wrong: Vec<String>,
}

impl<'a> Reader<'a> {
    /// The key and the value of an annotation that is not empty.
    fn find(&self, name: &str) -> Option<(String, &'a str)> {
        let keys = [format!("{}/{name}", self.prefix), format!("{}/{PEERS}0-{name}", self.prefix)];
        keys.into_iter().find_map(|key| {
            let text = self.annotations.get(&key)?.trim();
            (!text.is_empty()).then_some((key, text))
        })
    }

    fn optional<T>(&mut self, name: &str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (key, text) = self.find(name)?;
        let value = read(text);
        if value.is_none() {
            self.wrong.push(format!("{key}: {} is not {expected}", quoted(text)));
        }
        value
    }

    fn required<T>(&mut self, name: &str, expected: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        if self.find(name).is_none() {
            let prefix = self.prefix;
            self.wrong
                .push(format!("the annotation {prefix}/{name} (or {prefix}/{PEERS}0-{name}) is missing"));
        }
        self.optional(name, expected, read)
    }

    /// Addresses of all peers; a value may be a comma-separated list.
    fn peers(&mut self) -> BTreeSet<IpAddr> {
        let is_peer = |key: &str| {
            let Some((prefix, name)) = key.rsplit_once('/') else { return false };
            let numbered = name.strip_prefix(PEERS).and_then(|rest| rest.strip_suffix("-peer-ip"));
            let numbered = numbered.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
            prefix == self.prefix && (name == "peer-ip" || numbered)
        };
        let mut addresses = BTreeSet::new();
        for (key, texts) in self.annotations.iter().filter(|(key, _)| is_peer(key)) {
            for text in texts.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                match text.parse() {
                    Ok(address) => drop(addresses.insert(address)),
                    Err(_) => self.wrong.push(format!("{key}: {} is not an IP address", quoted(text))),
                }
            }
        }
        if addresses.is_empty() && self.wrong.is_empty() {
            self.wrong.push(format!("the annotation {}/{PEERS}0-peer-ip is missing", self.prefix));
        }
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::peers::tests::bgp;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("test/{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn all_keys_of_a_provider_are_read() {
        let annotations = annotations(&[
            ("bgp-peers-0-node-asn", "65010"),
            ("bgp-peers-0-src-ip", "10.0.0.2"),
            ("bgp-peers-0-peer-asn", "65530"),
            ("bgp-peers-0-peer-ip", "169.254.255.1, 169.254.255.2"),
            ("bgp-peers-1-peer-ip", "169.254.255.3"),
            ("bgp-peers-0-bgp-pass", "czNjcmV0"),
            ("bgp-peers-0-peer-multi-hop", "true"),
        ]);
        let found = apply(&bgp("192.0.2.254:65001"), "test", &annotations).unwrap();
        assert_eq!((found.local_as, found.router_id), (65_010, Some("10.0.0.2".parse().unwrap())));
        assert_eq!(found.source_address, Some("10.0.0.2".parse().unwrap()));
        assert_eq!(found.peers.len(), 3);
        let first = &found.peers[0];
        assert_eq!(
            (first.asn, first.password.as_deref(), first.multihop),
            (Some(65_530), Some("s3cret"), true)
        );
    }

    #[test]
    fn all_problems_are_reported_together() {
        let bgp = bgp("192.0.2.254:65001");
        let missing = apply(&bgp, "test/", &BTreeMap::new()).unwrap_err();
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(missing[0].contains("test/node-asn"), "{missing:?}");
        let some = annotations(&[
            ("node-asn", "x"),
            ("src-ip", "10.0.0.2"),
            ("peer-asn", "1"),
            ("peer-ip", "y"),
            ("bgp-pass", "!"),
        ]);
        let wrong = apply(&bgp, "test", &some).unwrap_err();
        assert_eq!(
            wrong,
            [
                "test/node-asn: `x` is not an AS number from 1 to 4294967295",
                "test/peer-ip: `y` is not an IP address",
                "test/bgp-pass is not base64",
            ]
        );
    }
}
