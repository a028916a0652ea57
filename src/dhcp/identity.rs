//! What servers identify a client by: the same on every host, so that a lease continues where another host takes over.

use std::net::IpAddr;

use crate::model::Family;
use crate::model::hash::fnv1a;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// `chaddr`; no interface need have it.
    pub mac: [u8; 6],
    pub hostname: Option<Name>,
    /// Servers identify the client by its hardware address although it has a name.
    pub by_mac: bool,
    /// Set the BROADCAST flag (RFC 2131 §4.1): no interface receives unicast frames for `chaddr`.
    pub broadcast: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The first label.
    pub label: String,
    /// The whole name, where the server is to register it in the DNS.
    pub domain: Option<String>,
}

impl Identity {
    /// A hardware address derived from a UID: locally administered, unicast (IEEE 802 §8.4).
    pub fn mac_of(uid: &str) -> [u8; 6] {
        let [first, rest @ .., _, _] = fnv1a(uid.as_bytes()).to_be_bytes();
        let [a, b, c, d, e] = rest;
        [first & 0xfc | 0x02, a, b, c, d, e]
    }

    /// The client identifier (RFC 2132 §9.14): as in the Go program the bytes of the name, else the hardware address.
    pub fn client_id(&self) -> Vec<u8> {
        match self.client_name() {
            Some(name) => name.as_bytes().to_vec(),
            None => [&[1], &self.mac[..]].concat(),
        }
    }

    /// As in the Go program a DUID-EN (RFC 8415 §11.3) with the name, else a DUID-LL (§11.4).
    pub fn duid(&self) -> Vec<u8> {
        match self.client_name() {
            Some(name) => [&[0, 2, 0, 0, 0, 1], name.as_bytes()].concat(),
            None => [&[0, 3, 0, 1], &self.mac[..]].concat(),
        }
    }

    /// Whether a server's reply with this `chaddr` or DUID is for the client.
    pub fn is(&self, family: Family, client: &[u8]) -> bool {
        match family {
            Family::V4 => self.mac == *client,
            Family::V6 => self.duid() == client,
        }
    }

    /// The name that servers identify the client by; none where they do so by its hardware address.
    pub fn client_name(&self) -> Option<&str> {
        self.hostname.as_ref().filter(|_| !self.by_mac).map(|name| name.label.as_str())
    }

    /// The IAID of its only identity association (RFC 8415 §12).
    pub fn iaid(&self) -> u32 {
        let [_, _, a, b, c, d] = self.mac;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The name that the server is to register in the DNS, for the option of RFC 4702.
    pub fn fqdn_wire(&self) -> Option<Vec<u8>> {
        Some(to_wire(self.hostname.as_ref()?.domain.as_ref()?))
    }
}

/// A name as in DNS messages (RFC 1035 §3.1), for the options of RFC 4702 and RFC 4704. A name without a dot is partial, and has
/// no root label.
pub fn to_wire(name: &str) -> Vec<u8> {
    let labels = name.trim_end_matches('.').split('.');
    let mut wire: Vec<u8> = labels
        .flat_map(|label| [&[u8::try_from(label.len()).unwrap_or(0)], label.as_bytes()].concat())
        .collect();
    if name.contains('.') {
        wire.push(0);
    }
    wire
}

impl Name {
    /// A host name; with `dns` the server is to register it. None if the text is no name.
    pub fn new(text: &str, dns: bool) -> Option<Self> {
        if text.parse::<IpAddr>().is_ok() || !crate::model::validation::is_name(text) {
            return None;
        }
        let label = text.split('.').next().unwrap_or_default().to_owned();
        Some(Self { label, domain: dns.then(|| text.to_owned()) })
    }
}

/// A unicast hardware address of six bytes, with colons or dashes.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.trim().split([':', '-']).map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let bytes: [u8; 6] = bytes?.try_into().ok()?;
    (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(bytes)
}

/// Whether the agents write the hardware address themselves to the Service with this UID: it is derived, or of the range from
/// which the Go program chooses. Any other one may be another host's, whose lease the Service would get and end. What is no
/// hardware address is not used.
pub fn is_generated(text: &str, uid: &str) -> bool {
    let generated =
        |address: [u8; 6]| matches!(address, [0, 0, 0x6c, ..]) || address == Identity::mac_of(uid);
    parse_mac(text).is_none_or(generated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: Option<Name>) -> Identity {
        Identity { mac: [2, 1, 2, 3, 4, 5], hostname: name, by_mac: false, broadcast: true }
    }

    #[test]
    fn client_identifiers() {
        let mac = Identity::mac_of("0b7c1f0e-8a8e-4d6f-9b57-6f3f0b1b7a11");
        assert_eq!(mac[0] & 3, 2);
        assert_ne!(mac, Identity::mac_of("0b7c1f0e-8a8e-4d6f-9b57-6f3f0b1b7a12"));
        let plain = named(None);
        assert_eq!(plain.client_id(), [1, 2, 1, 2, 3, 4, 5]);
        assert_eq!(plain.duid(), [0, 3, 0, 1, 2, 1, 2, 3, 4, 5]);
        assert_eq!(plain.iaid(), 0x0203_0405);
        assert_eq!(plain.fqdn_wire(), None);
        // As in the Go program.
        let named = named(Name::new("web.example.com", true));
        assert_eq!(named.client_id(), b"web");
        assert_eq!(named.duid(), b"\0\x02\0\0\0\x01web");
        assert_eq!(named.fqdn_wire().unwrap(), b"\x03web\x07example\x03com\0");
        // The server registers the name in the DNS all the same.
        let second = Identity { by_mac: true, ..named };
        assert_eq!((second.client_id(), second.duid()), (plain.client_id(), plain.duid()));
        assert!(second.fqdn_wire().is_some());
    }

    #[test]
    fn names_and_hardware_addresses_are_parsed() {
        assert_eq!(Name::new("192.0.2.1", false), None);
        assert_eq!(Name::new("a b", false), None);
        assert_eq!(Name::new("web", false), Some(Name { label: "web".into(), domain: None }));
        assert_eq!(parse_mac("00:00:6c:0a:0b:0c"), Some([0, 0, 0x6c, 10, 11, 12]));
        assert_eq!(parse_mac("00-00-6C-0A-0B-0C"), Some([0, 0, 0x6c, 10, 11, 12]));
        for wrong in
            ["", "00:00:6c:0a:0b", "01:00:5e:00:00:01", "00:00:00:00:00:00", "00:00:6c:0a:0b:0c:0d", "x"]
        {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
