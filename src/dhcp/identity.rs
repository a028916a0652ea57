//! Who a client is to servers: the same on every host, so that a lease goes on where another host takes over.

use std::net::IpAddr;

use crate::model::hash::fnv1a;

/// A client, as servers know it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its hardware address, which no card need have.
    pub hardware: [u8; 6],
    /// Its host name.
    pub hostname: Option<Name>,
    /// Servers tell it from others by its hardware address, though it has a name.
    pub by_hardware: bool,
    /// Servers are asked to answer to everybody, since no card has the hardware address.
    pub broadcast: bool,
}

/// A host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Its first label.
    pub label: String,
    /// The whole of it, where the server is to put it into the DNS.
    pub domain: Option<String>,
}

impl Identity {
    /// The hardware address of what has this UID: locally administered, and not a group's (IEEE 802, §8.4).
    pub fn hardware_of(uid: &str) -> [u8; 6] {
        let [first, rest @ .., _, _] = fnv1a(uid.as_bytes()).to_be_bytes();
        let [a, b, c, d, e] = rest;
        [first & 0xfc | 0x02, a, b, c, d, e]
    }

    /// The client identifier (RFC 2132 §9.14): as in the Go program the bytes of the name, else the hardware address.
    pub fn client_id(&self) -> Vec<u8> {
        match self.known_as() {
            Some(name) => name.as_bytes().to_vec(),
            None => [&[1], &self.hardware[..]].concat(),
        }
    }

    /// The DUID: as in the Go program one of an enterprise (RFC 8415 §11.3) with the name, else that of the hardware
    /// address (§11.4).
    pub fn duid(&self) -> Vec<u8> {
        match self.known_as() {
            Some(name) => [&[0, 2, 0, 0, 0, 1], name.as_bytes()].concat(),
            None => [&[0, 3, 0, 1], &self.hardware[..]].concat(),
        }
    }

    /// The name by which servers tell it from others; none where they do so by its hardware address.
    pub fn known_as(&self) -> Option<&str> {
        self.hostname.as_ref().filter(|_| !self.by_hardware).map(|name| name.label.as_str())
    }

    /// The number of its one identity association (RFC 8415 §12).
    pub fn association(&self) -> u32 {
        let [_, _, a, b, c, d] = self.hardware;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The name as in DNS messages (RFC 1035 §3.1), for the options of RFC 4702 and RFC 4704; a name without a dot is
    /// part of one, and has no end.
    pub fn wire_name(&self) -> Option<Vec<u8>> {
        let name = self.hostname.as_ref()?;
        let domain = name.domain.as_ref()?;
        let labels = domain.trim_end_matches('.').split('.');
        let mut wire: Vec<u8> = labels
            .flat_map(|label| [&[u8::try_from(label.len()).unwrap_or(0)], label.as_bytes()].concat())
            .collect();
        if domain.contains('.') {
            wire.push(0);
        }
        Some(wire)
    }
}

impl Name {
    /// A name of a host: its first label, and where `dns` is set all of it for the DNS. None if it is no name.
    pub fn new(text: &str, dns: bool) -> Option<Self> {
        if text.parse::<IpAddr>().is_ok() || !crate::model::validation::is_name(text) {
            return None;
        }
        let label = text.split('.').next().unwrap_or_default().to_owned();
        Some(Self { label, domain: dns.then(|| text.to_owned()) })
    }
}

/// A hardware address of six bytes, as people write it.
pub fn hardware(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.trim().split([':', '-']).map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let bytes: [u8; 6] = bytes?.try_into().ok()?;
    // That of a group, or of nobody, is none.
    (bytes[0] & 1 == 0 && bytes != [0; 6]).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: Option<Name>) -> Identity {
        Identity { hardware: [2, 1, 2, 3, 4, 5], hostname: name, by_hardware: false, broadcast: true }
    }

    #[test]
    fn who_a_client_is() {
        let hardware = Identity::hardware_of("0b7c1f0e-8a8e-4d6f-9b57-6f3f0b1b7a11");
        assert_eq!(hardware[0] & 3, 2);
        assert_ne!(hardware, Identity::hardware_of("0b7c1f0e-8a8e-4d6f-9b57-6f3f0b1b7a12"));
        let plain = named(None);
        assert_eq!(plain.client_id(), [1, 2, 1, 2, 3, 4, 5]);
        assert_eq!(plain.duid(), [0, 3, 0, 1, 2, 1, 2, 3, 4, 5]);
        assert_eq!(plain.association(), 0x0203_0405);
        assert_eq!(plain.wire_name(), None);
        // As the Go program's.
        let named = named(Name::new("web.example.com", true));
        assert_eq!(named.client_id(), b"web");
        assert_eq!(named.duid(), b"\0\x02\0\0\0\x01web");
        assert_eq!(named.wire_name().unwrap(), b"\x03web\x07example\x03com\0");
        // Its name goes to the DNS all the same.
        let second = Identity { by_hardware: true, ..named };
        assert_eq!((second.client_id(), second.duid()), (plain.client_id(), plain.duid()));
        assert!(second.wire_name().is_some());
    }

    #[test]
    fn names_and_hardware_addresses() {
        assert_eq!(Name::new("192.0.2.1", false), None);
        assert_eq!(Name::new("a b", false), None);
        assert_eq!(Name::new("web", false), Some(Name { label: "web".into(), domain: None }));
        assert_eq!(hardware("00:00:6c:0a:0b:0c"), Some([0, 0, 0x6c, 10, 11, 12]));
        assert_eq!(hardware("00-00-6C-0A-0B-0C"), Some([0, 0, 0x6c, 10, 11, 12]));
        for wrong in
            ["", "00:00:6c:0a:0b", "01:00:5e:00:00:01", "00:00:00:00:00:00", "00:00:6c:0a:0b:0c:0d", "x"]
        {
            assert_eq!(hardware(wrong), None, "{wrong}");
        }
    }
}
