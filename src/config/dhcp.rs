//! The control plane's addresses from a DHCP server.

use super::value::{DhcpMode, DnsMode};
use super::vip::targets;
use super::{Key, Problem, Values, VipTarget};
use crate::model::Family;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// What is requested for the control plane.
    pub control_plane: Option<ControlPlaneDhcp>,
    /// DISCOVER rounds without a reply before all pauses are the longest; 0: they grow.
    pub attempts: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneDhcp {
    pub families: Vec<Family>,
    /// The name that the server publishes in the DNS.
    pub name: Option<String>,
}

/// Of `dhcp_mode`, or of `dns_mode`, whose `first` is IPv4 as in the Go program.
fn families(values: &Values) -> Vec<Family> {
    match (values.dhcp_mode, values.dns_mode) {
        (DhcpMode::Ipv6, _) | (DhcpMode::AsDnsMode, DnsMode::Ipv6) => vec![Family::V6],
        (DhcpMode::Dual, _) | (DhcpMode::AsDnsMode, DnsMode::Dual) => Family::BOTH.to_vec(),
        (DhcpMode::Ipv4, _) | (DhcpMode::AsDnsMode, DnsMode::First | DnsMode::Ipv4) => vec![Family::V4],
    }
}

pub(super) fn read(values: &Values, problems: &mut Vec<Problem>) -> Dhcp {
    Dhcp { control_plane: control_plane(values, problems), attempts: values.dhcp_backoff_attempts }
}

fn control_plane(values: &Values, problems: &mut Vec<Problem>) -> Option<ControlPlaneDhcp> {
    let targets = targets(values);
    let addresses = targets.iter().filter_map(|target| match target {
        VipTarget::Ip(address) => Some(*address),
        VipTarget::Name(_) => None,
    });
    let (placeholders, fixed): (Vec<_>, Vec<_>) = addresses.partition(std::net::IpAddr::is_unspecified);
    let names: Vec<&str> = targets.iter().filter_map(VipTarget::name).collect();
    if !values.control_plane || (!values.ddns && placeholders.is_empty()) {
        return None;
    }
    let mut wrong = |text: String| problems.push(Problem::Combination(text));
    if values.ddns && names.len() != 1 {
        let (have, fix) = if names.is_empty() { ("none", "add it") } else { ("several", "leave one") };
        let switch = values.raw.describe(Key::Ddns);
        wrong(format!("{switch} requests an address for a name, and `address` has {have}: {fix}"));
    }
    if !fixed.is_empty() {
        wrong("`address` has a fixed address beside one from a DHCP server: leave one".into());
    }
    // ARP mode always elects, BGP mode by configuration, routing-table mode never.
    let elects = values.arp || (values.bgp && values.leader_election);
    if !elects {
        wrong(
            "an address from a DHCP server belongs to one host: switch the election on (vip_leaderelection), or set \
             `address`"
                .into(),
        );
    }
    let families = match placeholders.as_slice() {
        [] => families(values),
        addresses => addresses.iter().map(|address| Family::of(*address)).collect(),
    };
    let name = names.first().filter(|_| values.ddns).map(|name| (*name).to_owned());
    Some(ControlPlaneDhcp { families, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Raw, Sources};

    fn read(env: &[(&str, &str)]) -> Result<Option<ControlPlaneDhcp>, Vec<String>> {
        let all = [("vip_arp", "true"), ("cp_enable", "true")].iter().chain(env);
        let env = all.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (raw, ..) = Raw::collect(&Sources { env, ..Sources::default() });
        let mut problems = Vec::new();
        let found = control_plane(&Values::read(raw).unwrap(), &mut problems);
        if problems.is_empty() { Ok(found) } else { Err(problems.iter().map(ToString::to_string).collect()) }
    }

    #[test]
    fn unspecified_addresses_and_ddns_select_families_and_name() {
        use Family::{V4, V6};
        let name = Some("vip.example.com".to_owned());
        let table: [(&[(&str, &str)], _); 6] = [
            (&[("address", "192.0.2.1")], None),
            (&[("address", "vip.example.com")], None),
            (&[("address", "0.0.0.0")], Some((vec![V4], None))),
            (&[("address", "0.0.0.0,::")], Some((vec![V4, V6], None))),
            (&[("address", "vip.example.com"), ("vip_ddns", "true")], Some((vec![V4], name.clone()))),
            (
                &[("address", "vip.example.com"), ("vip_ddns", "true"), ("dhcp_mode", "dual")],
                Some((vec![V4, V6], name)),
            ),
        ];
        for (env, expected) in table {
            let dhcp = read(env).map(|dhcp| dhcp.map(|dhcp| (dhcp.families, dhcp.name)));
            assert_eq!(dhcp, Ok(expected), "{env:?}");
        }
    }

    #[test]
    fn names_addresses_and_election_have_to_fit_dhcp() {
        let table: [(&[(&str, &str)], &str); 4] = [
            (&[("vip_ddns", "true")], "`address` has none"),
            (&[("vip_ddns", "true"), ("address", "a.example,b.example")], "`address` has several"),
            (&[("address", "0.0.0.0,192.0.2.1")], "leave one"),
            (
                &[("address", "0.0.0.0"), ("vip_arp", "false"), ("bgp_enable", "true")],
                "switch the election on",
            ),
        ];
        for (env, part) in table {
            let problems = read(env).unwrap_err();
            assert!(problems.iter().any(|problem| problem.contains(part)), "{env:?}: {problems:?}");
        }
    }
}
