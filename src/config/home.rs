//! What a home network offers instead of an administrator: DHCP, UPnP, and names by mDNS.

use super::VipTarget;
use super::problem::Problem;
use super::raw::Raw;
use super::settings::Key;
use super::vip_target::targets;
use crate::dhcp::identity::Name;
use crate::model::Family;
use crate::model::validation::is_name;
use crate::upnp::forward::Consent;

/// What is made of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Home {
    /// What of the control plane's addresses comes from a DHCP server.
    pub dhcp: Option<Dhcp>,
    /// Rounds of questions after which a DHCP server that never answers is asked less often; 0 for never.
    pub dhcp_attempts: u32,
    /// For which Services that ask for it ports of the network's gateway are opened.
    pub upnp: Consent,
    /// The gateway's outer address is shown in the status of a Service to which it leads.
    pub upnp_status: bool,
    /// The control plane's name in the local network.
    pub control_plane_name: Option<String>,
    /// Every Service has a name in the local network.
    pub service_names: bool,
}

/// The control plane's addresses come from a DHCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dhcp {
    /// Addresses of these families.
    pub families: Vec<Family>,
    /// Under this name, which the server is to put into the DNS.
    pub name: Option<Name>,
}

/// The families of `dhcp_mode`: where it says nothing, those of `dns_mode`, the first of which is IPv4 as in the Go
/// program.
fn families(raw: &Raw) -> Vec<Family> {
    let text = match (raw.text(Key::DhcpMode), raw.text(Key::DnsMode)) {
        ("", dns) => dns,
        (given, _) => given,
    };
    match text {
        "ipv6" => vec![Family::V6],
        "dual" => Family::BOTH.to_vec(),
        _ => vec![Family::V4],
    }
}

/// All of it.
pub(super) fn home(raw: &Raw, problems: &mut Vec<Problem>) -> Home {
    let text = raw.text(Key::Mdns);
    let name = text.trim_end_matches('.').trim_end_matches(".local").to_lowercase();
    if !text.is_empty() && (name.contains('.') || !is_name(&name)) {
        let allowed = "a name in the local network, such as `k8s` or `k8s.local`";
        problems.push(Problem::unacceptable(raw.origin(Key::Mdns), text, allowed));
    }
    Home {
        dhcp: dhcp(raw, problems),
        dhcp_attempts: u32::try_from(raw.int(Key::DhcpBackoffAttempts)).unwrap_or(0),
        upnp: match raw.bool(Key::Upnp) {
            true => Consent::Always,
            false if raw.is_set(Key::Upnp) => Consent::Never,
            false => Consent::Delegated,
        },
        upnp_status: raw.bool(Key::UpnpStatus),
        control_plane_name: Some(name).filter(|name| !name.is_empty()),
        service_names: raw.bool(Key::ServicesMdns),
    }
}

/// What is asked of DHCP servers for the control plane; none if nothing is.
fn dhcp(raw: &Raw, problems: &mut Vec<Problem>) -> Option<Dhcp> {
    let ddns = raw.bool(Key::Ddns);
    let targets = targets(raw);
    let placeholders = targets.iter().filter_map(|target| match target {
        VipTarget::Ip(address) if address.is_unspecified() => Some(Family::of(*address)),
        _ => None,
    });
    let placeholders: Vec<Family> = placeholders.collect();
    let names: Vec<&str> = targets.iter().filter_map(VipTarget::name).collect();
    if !ddns && placeholders.is_empty() {
        return None;
    }
    let mut wrong = |text: String| problems.push(Problem::Combination(text));
    let switch = raw.describe(Key::Ddns);
    let name = match names.as_slice() {
        [name] if ddns => Name::new(name, true),
        [] if ddns => {
            wrong(format!("{switch} asks for an address under a name, and `address` has none: add it"));
            None
        }
        [_, _, ..] if ddns => {
            wrong(format!("{switch} asks for an address under a name, and `address` has several: leave one"));
            None
        }
        _ => None,
    };
    if targets.iter().any(|target| matches!(target, VipTarget::Ip(address) if !address.is_unspecified())) {
        wrong(
            "`address` has an address of its own next to one that is to come from a DHCP server: leave one"
                .into(),
        );
    }
    // As everywhere: in ARP mode always, with BGP where that is asked for, by the routing table never.
    let elected = raw.bool(Key::Arp) || (raw.bool(Key::Bgp) && raw.bool(Key::LeaderElection));
    if !elected {
        wrong(
            "an address from a DHCP server belongs to one host: switch the election on (vip_leaderelection), or set \
             `address`"
                .into(),
        );
    }
    let families = if placeholders.is_empty() { families(raw) } else { placeholders };
    Some(Dhcp { families, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn read(env: &[(&str, &str)]) -> (Option<Dhcp>, Vec<String>) {
        let all = [("vip_arp", "true")].iter().chain(env);
        let env = all.map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (raw, ..) = Raw::collect(&Sources { env, ..Sources::default() });
        let mut problems = Vec::new();
        let dhcp = dhcp(&raw, &mut problems);
        (dhcp, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_asks_for_what() {
        use Family::{V4, V6};
        let name = Name::new("vip.example.com", true);
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
            let (dhcp, problems) = read(env);
            assert_eq!(dhcp.map(|dhcp| (dhcp.families, dhcp.name)), expected, "{env:?}");
            assert_eq!(problems, [""; 0], "{env:?}");
        }
    }

    #[test]
    fn what_cannot_be_asked_for() {
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
            let (_, problems) = read(env);
            assert!(problems.iter().any(|problem| problem.contains(part)), "{env:?}: {problems:?}");
        }
    }
}
