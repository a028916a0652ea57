//! What kube-vip uses of a Node, and the address of the control plane in cluster-info.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use k8s_openapi::api::core::v1::Node;

use super::Prefix;
use super::annotation::{HAS_IP, SERVICE_PROVIDED};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeView {
    pub name: String,
    /// Addresses of types InternalIP and ExternalIP, without `vips`.
    pub own: BTreeSet<IpAddr>,
    /// Control-plane VIPs that the node holds, from its label.
    pub vips: BTreeSet<IpAddr>,
    /// `spec.podCIDRs`.
    pub pods: BTreeSet<Prefix>,
    /// Labels for the Services that it announces.
    pub provided: BTreeMap<String, String>,
}

/// None for an object without a name, which no server sends.
pub fn view(node: Node) -> Option<NodeView> {
    let name = node.metadata.name?;
    let labels = node.metadata.labels.unwrap_or_default();
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let own = addresses.iter().filter(|address| address.type_.ends_with("IP"));
    let vips: BTreeSet<IpAddr> = labels.get(HAS_IP).into_iter().flat_map(|value| vips_of(value)).collect();
    let own = own.filter_map(|address| address.address.parse().ok());
    // The kubelet may list a VIP among the addresses of the node.
    let own = own.filter(|address| !vips.contains(address)).collect();
    let ours = |name: &String| name.split_once('/').is_some_and(|(prefix, _)| prefix == SERVICE_PROVIDED);
    let provided = labels.into_iter().filter(|(name, _)| ours(name)).collect();
    let pods = node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default();
    let pods = pods.iter().filter_map(|network| network.parse().ok()).collect();
    Some(NodeView { name, own, vips, pods, provided })
}

/// Parses the label's value: addresses separated by underscores, IPv6 as 32 hexadecimal digits.
fn vips_of(value: &str) -> impl Iterator<Item = IpAddr> + '_ {
    value.split('_').filter_map(|part| match part.len() {
        32 => u128::from_str_radix(part, 16).ok().map(|bits| Ipv6Addr::from_bits(bits).into()),
        _ => part.parse().ok(),
    })
}

/// The value of a label for these addresses: IPv6 as 32 hexadecimal digits, joined by underscores.
///
/// The Go program joins them by commas, which the API server rejects.
pub fn label_value(addresses: &[IpAddr]) -> String {
    let one = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.octets().iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let mut value = addresses.iter().map(one).collect::<Vec<String>>().join("_");
    value.truncate(63);
    value.trim_end_matches(['_', '.']).to_owned()
}

/// The address of the server in the kubeconfig that kubeadm publishes as `kube-public/cluster-info`; none for a name.
pub fn of_cluster_info(kubeconfig: &str) -> Option<IpAddr> {
    let server = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server:"))?;
    let rest = server.trim().trim_matches('"').split_once("://")?.1;
    let authority = rest.split('/').next()?;
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_matches(['[', ']']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_plane_vips_are_not_addresses_of_the_node() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "a", "labels": { HAS_IP: "192.0.2.9_fd000000000000000000000000000009" } },
            "status": { "addresses": [
                { "type": "InternalIP", "address": "192.0.2.1" },
                { "type": "ExternalIP", "address": "fd00::1" },
                { "type": "InternalIP", "address": "192.0.2.9" },
                { "type": "Hostname", "address": "a" },
            ] },
        }))
        .unwrap();
        let view = view(node).unwrap();
        let text = |set: BTreeSet<IpAddr>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(
            (text(view.own).as_str(), text(view.vips).as_str()),
            ("192.0.2.1 fd00::1", "192.0.2.9 fd00::9")
        );
    }

    #[test]
    fn the_server_of_cluster_info() {
        let table = [
            ("    server: https://192.0.2.1:6443", Some("192.0.2.1")),
            ("server: \"https://[fd00::1]:6443/\"", Some("fd00::1")),
            ("server: https://api.example.com:6443", None),
            ("nothing", None),
        ];
        for (line, expected) in table {
            let text = format!("clusters:\n- cluster:\n{line}\n");
            assert_eq!(of_cluster_info(&text), expected.map(|text| text.parse().unwrap()), "{line}");
        }
    }

    #[test]
    fn label_values_are_valid() {
        let table = [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["2001:db8::1"], "20010db8000000000000000000000001"),
            (&["192.0.2.1", "2001:db8::1"], "192.0.2.1_20010db8000000000000000000000001"),
            (
                &["2001:db8::1", "2001:db8::2"],
                "20010db8000000000000000000000001_20010db800000000000000000000",
            ),
        ];
        for (addresses, expected) in table {
            let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(label_value(&addresses)[..expected.len()], *expected);
            assert!(label_value(&addresses).len() <= 63);
        }
    }
}
