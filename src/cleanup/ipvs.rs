//! Virtual services of IPVS, as the kernel lists them in /proc/net/ip_vs. They have no mark of their author: those of the Go program
//! are known only by not being kube-proxy's, and are left to the operator, whose keepalived may have made them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

/// The interface on which kube-proxy has the addresses of its virtual services, but for those of NodePorts.
pub const KUBE_IPVS_INTERFACE: &str = "kube-ipvs0";
/// Ports on the node's own addresses, unless `--service-node-port-range` of the API server differs.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VirtualService {
    Address {
        /// In lower case: `tcp`, `udp` or `sctp`.
        protocol: String,
        address: SocketAddr,
    },
    /// Of packets with this mark.
    Mark(u32),
}

/// Those in the table that kube-proxy did not make; these are the addresses on its interface, where it is in IPVS mode.
#[must_use]
pub fn of_others(table: &str, kube_proxy: Option<&BTreeSet<IpAddr>>) -> Vec<VirtualService> {
    let is_foreign = |service: &VirtualService| match (service, kube_proxy) {
        (VirtualService::Address { address, .. }, Some(own)) => {
            !own.contains(&address.ip()) && !NODE_PORTS.contains(&address.port())
        }
        _ => true,
    };
    table.lines().filter_map(service).filter(is_foreign).collect()
}

/// `TCP  C000020A:192B rr`, `TCP  [2001:0db8:…:000a]:192B rr` or `FWM  0000273A rr`.
fn service(line: &str) -> Option<VirtualService> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    match (words.next()?, words.next()?) {
        ("FWM", mark) => u32::from_str_radix(mark, 16).ok().map(VirtualService::Mark),
        (protocol @ ("TCP" | "UDP" | "SCTP"), server) => {
            let (address, port) = server.rsplit_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let address = match address.strip_prefix('[') {
                Some(v6) => IpAddr::V6(v6.strip_suffix(']')?.parse().ok()?),
                None => IpAddr::V4(Ipv4Addr::from_bits(u32::from_str_radix(address, 16).ok()?)),
            };
            let address = SocketAddr::new(address, port);
            Some(VirtualService::Address { protocol: protocol.to_lowercase(), address })
        }
        _ => None,
    }
}

/// The options of `ipvsadm` that name it.
impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { protocol, address } => write!(f, "--{protocol}-service {address}"),
            Self::Mark(mark) => write!(f, "--fwmark-service {mark}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_services_of_kube_proxy_are_not_listed() {
        let table = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
FWM  0000273A rr 
  -> C000020B:192B      Masq    1      0          0
TCP  C000020A:192B rr 
  -> C000020B:192B      Local   1      3          0
TCP  0A600001:01BB rr persistent 10800
TCP  [2001:0db8:0000:0000:0000:0000:0000:000a]:192B rr
UDP  C000020A:0035 rr ops
TCP  C000020B:7532 rr
TCP  nonsense rr
";
        let kube_proxy = BTreeSet::from([IpAddr::from([10, 96, 0, 1])]);
        let found: Vec<String> =
            of_others(table, Some(&kube_proxy)).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "--fwmark-service 10042",
                "--tcp-service 192.0.2.10:6443",
                "--tcp-service [2001:db8::a]:6443",
                "--udp-service 192.0.2.10:53",
            ]
        );
        assert_eq!(of_others(table, None).len(), 6, "without kube-proxy's IPVS mode");
    }
}
