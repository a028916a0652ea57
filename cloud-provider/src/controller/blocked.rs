//! Addresses that no Service may have: the nodes' own, and the control plane's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube_vip::model::annotation::HAS_IP;

/// The addresses of a node, each with whose it is, in words.
pub fn of_node(node: Node) -> Option<(String, BTreeMap<IpAddr, String>)> {
    let name = node.metadata.name?;
    let labels = node.metadata.labels.unwrap_or_default();
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    let own = addresses.iter().filter(|address| address.type_.ends_with("IP"));
    let own = own.filter_map(|address| Some((address.address.parse().ok()?, format!("node {name}'s own"))));
    let vips = labels.get(HAS_IP).into_iter().flat_map(|value| vips_of(value));
    let vips = vips.map(|address| (address, control_plane()));
    // What a node holds for the control plane may be listed among its own addresses.
    let all = own.collect::<BTreeMap<_, _>>().into_iter().chain(vips).collect();
    Some((name, all))
}

/// The label's value: IPv6 addresses as 32 hexadecimal digits, several with an underscore between them.
fn vips_of(value: &str) -> impl Iterator<Item = IpAddr> + '_ {
    value.split('_').filter_map(|part| match part.len() {
        32 => u128::from_str_radix(part, 16).ok().map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
        _ => part.parse().ok(),
    })
}

/// The server in kubeadm's `kube-public/cluster-info`, where it is given by address.
pub fn of_cluster_info(info: &ConfigMap) -> Option<IpAddr> {
    let text = info.data.as_ref()?.get("kubeconfig")?;
    let server = text.lines().find_map(|line| line.trim().strip_prefix("server:"))?;
    let rest = server.trim().trim_matches('"').split_once("://")?.1;
    let authority = rest.split('/').next()?;
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.trim_matches(['[', ']']).parse().ok()
}

/// Whose the control plane's address is.
pub fn control_plane() -> String {
    "the control plane's".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_addresses_and_what_it_holds_for_the_control_plane() {
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
        let (name, addresses) = of_node(node).unwrap();
        let text: Vec<String> =
            addresses.iter().map(|(address, owner)| format!("{address} {owner}")).collect();
        assert_eq!(name, "a");
        assert_eq!(
            text,
            [
                "192.0.2.1 node a's own",
                "192.0.2.9 the control plane's",
                "fd00::1 node a's own",
                "fd00::9 the control plane's"
            ]
        );
    }

    #[test]
    fn the_server_that_kubeadm_published() {
        let table = [
            ("    server: https://192.0.2.1:6443", Some("192.0.2.1")),
            ("server: \"https://[fd00::1]:6443/\"", Some("fd00::1")),
            ("server: https://api.example.com:6443", None),
            ("nothing", None),
        ];
        for (line, expected) in table {
            let data = [("kubeconfig".to_owned(), format!("clusters:\n- cluster:\n{line}\n"))].into();
            let info = ConfigMap { data: Some(data), ..ConfigMap::default() };
            assert_eq!(of_cluster_info(&info), expected.map(|text| text.parse().unwrap()), "{line}");
        }
    }
}
