//! The state of gateways and their mappings, for the rest of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::mapping::MappingKey;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayStatus {
    /// External address by gateway.
    pub gateways: BTreeMap<IpAddr, Option<IpAddr>>,
    /// Open, or the reason of its failure, by gateway.
    pub ports: BTreeMap<MappingKey, BTreeMap<IpAddr, Result<(), String>>>,
    /// Mappings that a gateway may have besides: requested without a response yet, or not renewed.
    pub unconfirmed: BTreeSet<MappingKey>,
    /// A problem that concerns all mappings.
    pub trouble: Option<String>,
    /// Retired addresses without a mapping of ours on any gateway.
    pub cleared: BTreeSet<IpAddr>,
}

impl GatewayStatus {
    /// Whether any gateway has the mapping.
    pub fn is_open(&self, key: &MappingKey) -> bool {
        self.openers(key).next().is_some()
    }

    /// Whether a gateway has the mapping, or is just opening it.
    pub fn may_be_open(&self, key: &MappingKey) -> bool {
        self.unconfirmed.contains(key) || self.is_open(key)
    }

    /// The gateways that have the mapping.
    pub fn openers(&self, key: &MappingKey) -> impl Iterator<Item = IpAddr> {
        let gateways = self.ports.get(key).into_iter().flatten();
        gateways.filter(|(_, result)| result.is_ok()).map(|(gateway, _)| *gateway)
    }

    /// External addresses of these mappings.
    pub fn outside<'a>(&self, keys: impl IntoIterator<Item = &'a MappingKey>) -> BTreeSet<IpAddr> {
        let openers = keys.into_iter().flat_map(|key| self.openers(key));
        openers.filter_map(|gateway| self.gateways.get(&gateway).copied().flatten()).collect()
    }

    /// Gateways with one of these mappings behind another NAT, each with its private external address (RFC 1918, RFC 6598).
    pub fn nested<'a>(&self, keys: impl IntoIterator<Item = &'a MappingKey>) -> BTreeSet<(IpAddr, Ipv4Addr)> {
        let openers = keys.into_iter().flat_map(|key| self.openers(key));
        let nested = openers.filter_map(|gateway| match self.gateways.get(&gateway).copied().flatten()? {
            IpAddr::V4(outside) if is_private(outside) => Some((gateway, outside)),
            _ => None,
        });
        nested.collect()
    }

    /// Gateways and port mappings for `kube-vip status`, one a line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.trouble.iter().cloned().collect();
        for (gateway, external) in &self.gateways {
            let external = external.map(|address| format!(", external address {address}"));
            lines.push(format!("{gateway}{}", external.unwrap_or_default()));
        }
        for (key, gateways) in &self.ports {
            let port = format!("port {}/{} for {}", key.external, key.protocol, key.address);
            lines.extend(gateways.iter().map(|(gateway, result)| match result {
                Ok(()) => format!("{gateway}: {port} is open"),
                Err(why) => format!("{gateway}: {port} is not open: {why}"),
            }));
        }
        lines
    }
}

fn is_private(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    address.is_private() || (first == 100 && second & 0xc0 == 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::service::Protocol;

    #[test]
    fn openers_and_external_addresses_of_a_mapping() {
        let key = |external| MappingKey { address: [192, 0, 2, 9].into(), protocol: Protocol::Tcp, external };
        let gateways: [IpAddr; 3] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into(), [192, 0, 2, 3].into()];
        let outside: [Option<IpAddr>; 3] =
            [Some([198, 51, 100, 1].into()), Some([100, 64, 0, 1].into()), None];
        let outcome = GatewayStatus {
            gateways: gateways.into_iter().zip(outside).collect(),
            ports: [
                (key(80), gateways.map(|gateway| (gateway, Ok(()))).into()),
                (key(81), [(gateways[0], Ok(())), (gateways[1], Err("no".into()))].into()),
                (key(82), [(gateways[0], Err("no".into()))].into()),
            ]
            .into(),
            unconfirmed: [key(82), key(84)].into(),
            ..GatewayStatus::default()
        };
        let may_be_open = [81, 82, 83, 84].map(|port| outcome.may_be_open(&key(port)));
        assert_eq!(may_be_open, [true, true, false, true]);
        assert_eq!([80, 81, 82, 83].map(|port| outcome.is_open(&key(port))), [true, true, false, false]);
        let all: BTreeSet<IpAddr> = outside.into_iter().flatten().collect();
        assert_eq!(outcome.outside([&key(80), &key(82)]), all);
        assert_eq!(outcome.outside([&key(81)]), [[198, 51, 100, 1].into()].into());
        assert_eq!(outcome.nested([&key(80)]), [(gateways[1], [100, 64, 0, 1].into())].into());
        assert_eq!(outcome.nested([&key(81)]), [].into());
        for (address, private) in [
            ([10, 0, 0, 1], true),
            ([100, 63, 0, 1], false),
            ([100, 127, 0, 1], true),
            ([100, 128, 0, 1], false),
        ] {
            assert_eq!(is_private(address.into()), private, "{address:?}");
        }
    }
}
