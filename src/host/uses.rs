//! Addresses that this host needs, as of the start.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::Config;
use crate::config::bgp::Peer;
use crate::model::HostUse;

/// Those of its resolvers, BGP peers, and the API server's Service.
pub fn uses(config: &Config) -> BTreeMap<IpAddr, HostUse> {
    let peers = config.bgp.iter().flat_map(|bgp| &bgp.peers).filter_map(Peer::address);
    let service = std::env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|host| host.parse().ok());
    let resolvers = resolvers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let resolvers = resolvers.into_iter().map(|address| (address, HostUse::Resolver));
    let peers = peers.map(|address| (address, HostUse::BgpPeer));
    resolvers.chain(peers).chain(service.map(|address| (address, HostUse::ApiServer))).collect()
}

/// The name servers of a resolv.conf(5) file.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver").and(words.next())
    });
    servers.filter_map(|server| server.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_addresses_after_the_keyword() {
        let text = "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # x\nnameserver\n";
        let expected: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
        assert_eq!(resolvers(text), expected);
    }
}
