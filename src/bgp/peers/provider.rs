//! Peers from the reply of a provider's API (`bgp_provider_url`).

use std::net::IpAddr;

use serde_json::Value;

use crate::config::Bgp;
use crate::config::bgp::{Peer, PeerTarget, Shape};

/// The configuration with the provider's local AS, and with its peers in addition to configured ones.
///
/// # Errors
/// All missing and invalid values. Only numbers and addresses are quoted: the reply may contain passwords.
pub fn apply(bgp: &Bgp, shape: &Shape, reply: &Value) -> Result<Bgp, Vec<String>> {
    let neighbours = match reply.pointer(&shape.neighbours) {
        Some(Value::Array(list)) => list.as_slice(),
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        _ => return Err(vec![format!("no list of neighbours at {}", location(&shape.neighbours))]),
    };
    let mut wrong = Vec::new();
    let mut found = Vec::new();
    for (index, neighbour) in neighbours.iter().enumerate() {
        let reader = Reader { number: index + 1, neighbour, reply };
        found.extend(reader.neighbour(shape, &mut wrong));
    }
    let Some(first) = found.first() else {
        if wrong.is_empty() {
            wrong.push(format!("the list of neighbours at {} is empty", location(&shape.neighbours)));
        }
        return Err(wrong);
    };
    let local_as = first.local_as;
    if let Some(other) = found.iter().find(|one| one.local_as != local_as) {
        wrong.push(format!("neighbours have different local AS numbers: {local_as} and {}", other.local_as));
    }
    let v4 = |one: &Neighbour| match one.source {
        Some(IpAddr::V4(v4)) => Some(v4),
        _ => None,
    };
    let router_id = bgp.router_id.or_else(|| found.iter().find_map(v4));
    if router_id.is_none() {
        wrong.push("no IPv4 source address to use as the router ID: set bgp_routerid".to_owned());
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut peers = bgp.peers.clone();
    peers.extend(found.into_iter().flat_map(|one| one.peers));
    Ok(Bgp { local_as, router_id, peers, ..bgp.clone() })
}

/// A JSON pointer in messages.
fn location(pointer: &str) -> &str {
    if pointer.is_empty() { "the top level" } else { pointer }
}

struct Neighbour {
    local_as: u32,
    source: Option<IpAddr>,
    peers: Vec<Peer>,
}

struct Reader<'a> {
    /// Counted from one.
    number: usize,
    neighbour: &'a Value,
    reply: &'a Value,
}

impl Reader<'_> {
    fn neighbour(&self, shape: &Shape, wrong: &mut Vec<String>) -> Option<Neighbour> {
        let local_as = self.asn(&shape.local_as, "local AS", wrong);
        let asn = self.asn(&shape.peer_as, "peer AS", wrong);
        let source = self.find(&shape.source_address).and_then(|value| self.address(value, wrong));
        let addresses: Vec<IpAddr> = match self.find(&shape.peer_addresses) {
            Some(Value::Array(list)) => list.iter().filter_map(|one| self.address(one, wrong)).collect(),
            Some(one) => self.address(one, wrong).into_iter().collect(),
            None => {
                wrong.push(self.missing("address", &shape.peer_addresses));
                Vec::new()
            }
        };
        let password = self.find(&shape.password).and_then(Value::as_str).filter(|text| !text.is_empty());
        let multihop = self.find(&shape.multihop).and_then(Value::as_bool).unwrap_or(false);
        let peer = |address: IpAddr| Peer {
            password: password.map(str::to_owned),
            multihop,
            source_address: source.filter(|source| source.is_ipv4() == address.is_ipv4()),
            ..Peer::new(PeerTarget::Address(address), asn)
        };
        let peers = addresses.into_iter().map(peer).collect();
        Some(Neighbour { local_as: local_as?, source, peers })
    }

    /// Looked up in the neighbour, then in the whole reply; null counts as missing.
    fn find(&self, pointer: &str) -> Option<&Value> {
        let has = |value: &'_ Value| value.pointer(pointer).is_some_and(|value| !value.is_null());
        let within = [self.neighbour, self.reply].into_iter().find(|value| has(value))?;
        within.pointer(pointer)
    }

    fn missing(&self, what: &str, pointer: &str) -> String {
        format!("neighbour {}: no {what} at {}", self.number, location(pointer))
    }

    fn asn(&self, pointer: &str, what: &str, wrong: &mut Vec<String>) -> Option<u32> {
        let number = self.find(pointer).and_then(|value| match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64().and_then(|number| u32::try_from(number).ok()),
        });
        let number = number.filter(|number| *number != 0);
        if number.is_none() {
            wrong
                .push(format!("{}: it has to be a number from 1 to 4294967295", self.missing(what, pointer)));
        }
        number
    }

    fn address(&self, value: &Value, wrong: &mut Vec<String>) -> Option<IpAddr> {
        let address = value.as_str().and_then(|text| text.parse().ok());
        if address.is_none() {
            wrong.push(format!("neighbour {}: {value} is not an IP address", self.number));
        }
        address
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;
    use crate::bgp::peers::tests::bgp;

    fn without_router_id() -> Bgp {
        Bgp { router_id: None, peers: Vec::new(), ..bgp("") }
    }

    #[test]
    fn the_metadata_of_equinix_metal() {
        let reply = json!({ "id": "x", "bgp_neighbors": [
            { "address_family": 4, "customer_as": 65000, "customer_ip": "10.66.5.129", "md5_enabled": true,
              "md5_password": "secret", "multihop": true, "peer_as": 65530,
              "peer_ips": ["169.254.255.1", "169.254.255.2"] },
            { "address_family": 6, "customer_as": 65000, "customer_ip": "2604:1380::1", "md5_password": null,
              "multihop": true, "peer_as": 65530, "peer_ips": ["fc00::e"] },
        ]});
        let bgp = apply(&without_router_id(), &Shape::equinix(), &reply).unwrap();
        assert_eq!((bgp.local_as, bgp.router_id), (65000, Some(Ipv4Addr::new(10, 66, 5, 129))));
        let peers: Vec<_> = bgp
            .peers
            .iter()
            .map(|peer| (peer.target.clone(), peer.password.as_deref(), peer.multihop, peer.source_address))
            .collect();
        let target = |text: &str| PeerTarget::Address(text.parse().unwrap());
        let (v4, v6) = ("10.66.5.129".parse().ok(), "2604:1380::1".parse().ok());
        assert_eq!(
            peers,
            [
                (target("169.254.255.1"), Some("secret"), true, v4),
                (target("169.254.255.2"), Some("secret"), true, v4),
                (target("fc00::e"), None, true, v6),
            ]
        );
    }

    #[test]
    fn another_shape_with_the_local_as_outside_of_neighbours() {
        let items = ["neighbours=/net/peers", "peerAddresses=/ip", "peerAS=/asn", "localAS=/net/asn"];
        let shape = Shape::read(&items).unwrap();
        let reply = json!({ "net": { "asn": "65000", "peers": { "ip": "192.0.2.1", "asn": 65001 } } });
        let before = bgp("192.0.2.9:65009");
        let after = apply(&before, &shape, &reply).unwrap();
        assert_eq!(after.router_id, before.router_id);
        let asns: Vec<_> = after.peers.iter().map(|peer| peer.asn).collect();
        assert_eq!(asns, [Some(65009), Some(65001)]);
    }

    #[test]
    fn all_problems_are_reported_without_passwords() {
        let reply = json!({ "bgp_neighbors": [
            { "customer_as": 0, "peer_as": "x", "peer_ips": ["192.0.2.300"], "md5_password": "secret" },
            { "customer_as": 65000, "peer_as": 65001 },
        ]});
        let wrong = apply(&without_router_id(), &Shape::equinix(), &reply).unwrap_err();
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        assert!(wrong.iter().all(|text| !text.contains("secret")), "{wrong:?}");
        for reply in [json!([]), json!({ "bgp_neighbors": [] }), json!({ "bgp_neighbors": 1 }), json!(null)] {
            assert_eq!(apply(&bgp(""), &Shape::equinix(), &reply).unwrap_err().len(), 1, "{reply}");
        }
    }
}
