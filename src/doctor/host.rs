//! What this host lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Check, Severity};
use crate::config::Config;
use crate::host::HostState;
use crate::model::Family;

/// What was read from this host and its interfaces.
#[derive(Debug, Clone, Default)]
pub struct HostReadings {
    /// Effective capabilities of this process, a bit for each (capabilities(7)).
    pub capabilities: u64,
    pub state: HostState,
    /// The interface of the control plane's VIPs, and by default of Services: configured, or the default route's.
    pub interface: Option<String>,
    /// The interface of the default route.
    pub default_route: Option<String>,
    pub firewall: Firewall,
    /// Kernel settings by their names for sysctl(8).
    pub sysctls: BTreeMap<String, i64>,
    /// `rp_filter` for all interfaces.
    pub reverse_path_for_all: i32,
    /// Hardware addresses of other hosts that reply for a VIP; or why that is unknown.
    pub owners: BTreeMap<IpAddr, Result<BTreeSet<String>, String>>,
    /// Ports that cannot be bound: setting, address, reason.
    pub taken_ports: Vec<(&'static str, String, String)>,
    /// kube-vip runs here: its ports are in use by itself.
    pub running: bool,
    /// The pod knows the name of its Node, which is not among the settings.
    pub named_by_pod: bool,
    /// Interfaces with a default route by router advertisement.
    pub advertised: BTreeSet<String>,
}

/// What nf_tables can do in this network namespace, and does.
#[derive(Debug, Clone)]
pub struct Firewall {
    /// Families that kube-vip needs and cannot use, with the reason.
    pub missing: Vec<(&'static str, String)>,
    /// Chains for forwarded packets that drop what no rule accepts; or why these are unknown.
    pub dropping: Result<BTreeMap<String, ChainRules>, String>,
}

/// The rules of a chain.
#[derive(Debug, Clone, Default)]
pub struct ChainRules {
    /// The chains that it jumps to.
    pub jumps: BTreeSet<String>,
    /// One of them accepts packets.
    pub accepts: bool,
}

/// Name prefixes of chains by which kube-proxy and pod networks accept their packets.
const ACCEPTING: [&str; 8] = ["KUBE-", "cali-", "CILIUM_", "FLANNEL-", "ANTREA-", "WEAVE-", "CNI-", "kube-"];

impl Default for Firewall {
    fn default() -> Self {
        Self { missing: Vec::new(), dropping: Ok(BTreeMap::new()) }
    }
}

impl HostReadings {
    /// The larger of the values for all interfaces and for this one, which is what applies (ip-sysctl).
    fn larger(&self, name: &str) -> i64 {
        let interface = self.interface.as_deref().unwrap_or_default();
        let of = |scope: &str| self.sysctls.get(&format!("net.ipv4.conf.{scope}.{name}")).copied();
        of("all").max(of(interface)).unwrap_or(0)
    }

    fn sysctl(&self, name: &str) -> Option<i64> {
        self.sysctls.get(name).copied()
    }
}

/// Name and number.
const CAPABILITIES: [(&str, u8); 2] = [("NET_ADMIN", 12), ("NET_RAW", 13)];

/// `api_responds`: this host is part of a cluster, so that kube-proxy and the pod network have their rules.
pub(super) fn checks(
    config: &Config,
    facts: &HostReadings,
    families: &BTreeSet<Family>,
    api_responds: bool,
) -> Vec<Check> {
    let mut checks = vec![capabilities(facts), interface(config, facts)];
    if !config.is_routed()
        && (config.services.is_some() || config.control_plane_families().contains(&Family::V4))
    {
        checks.push(arp(facts));
        checks.extend(reverse_path(config, facts));
    }
    if config.services.is_some() {
        checks.extend(families.iter().map(|family| forwarding(facts, *family)));
        if api_responds {
            checks.push(forward_policy(&facts.firewall));
        }
    }
    if !config.is_routed() && missing_capabilities(facts).is_empty() {
        checks.push(nftables(&facts.firewall));
    }
    checks.extend(router_advertisements(facts));
    checks.extend(ports(facts));
    checks
}

fn missing_capabilities(facts: &HostReadings) -> Vec<&'static str> {
    let missing = CAPABILITIES.iter().filter(|(_, number)| facts.capabilities & (1 << number) == 0);
    missing.map(|(name, _)| *name).collect()
}

fn capabilities(facts: &HostReadings) -> Check {
    let missing = missing_capabilities(facts);
    if missing.is_empty() {
        return Check::new("capabilities", Severity::Ok, "this process has NET_ADMIN and NET_RAW");
    }
    let text = format!(
        "this process lacks {}: run it as root, or add them to `securityContext.capabilities` of the container",
        missing.join(" and ")
    );
    Check::new("capabilities", Severity::Error, text)
}

/// A configured interface that is missing is a problem of the settings.
fn interface(config: &Config, facts: &HostReadings) -> Check {
    let check = |severity, text| Check::new("interface", severity, text);
    let Some(name) = &facts.interface else {
        let text = "this host has no default route whose interface could be used: set vip_interface";
        return check(Severity::Error, text.to_owned());
    };
    match facts.state.interface(name) {
        Some(interface) if interface.up => check(Severity::Ok, format!("{name} is up")),
        Some(_) if config.layer2.tolerate_down => {
            check(Severity::Warning, format!("{name} is down: addresses on it reach no other host"))
        }
        Some(_) => {
            let text = format!(
                "{name} is down or has no carrier: set it up (`ip link set {name} up`), or check its cable"
            );
            check(Severity::Error, text)
        }
        None => check(
            Severity::Error,
            format!(
                "{name} is not an interface of this host, whose interfaces are {}",
                facts.state.interface_names()
            ),
        ),
    }
}

/// ARP requests for the addresses that kube-vip configures are answered by the kernel.
fn arp(facts: &HostReadings) -> Check {
    match facts.larger("arp_ignore") {
        // ip-sysctl: 8 is "do not reply for all local addresses".
        8 => {
            let interface = facts.interface.as_deref().unwrap_or("all");
            let text = format!(
                "net.ipv4.conf.*.arp_ignore is 8, so that the kernel replies to no ARP request for the VIP: set it to 0 or 1 for \
                 `all` and for {interface}"
            );
            Check::new("arp", Severity::Error, text)
        }
        _ => Check::new("arp", Severity::Ok, "the kernel replies to ARP requests"),
    }
}

/// A strict filter drops requests of clients behind a router on interfaces without the default route, by which replies leave.
fn reverse_path(config: &Config, facts: &HostReadings) -> Vec<Check> {
    let Some(default) = facts.default_route.as_deref() else { return Vec::new() };
    let of_services = config.services.as_ref().and_then(|services| services.interface.as_deref());
    let names = facts.interface.as_deref().into_iter().chain(of_services.filter(|name| *name != "auto"));
    let interfaces = names.filter(|name| *name != default).filter_map(|name| facts.state.interface(name));
    let strict: BTreeSet<&str> = interfaces
        .filter(|interface| interface.is_strict(facts.reverse_path_for_all))
        .map(|interface| interface.name.as_str())
        .collect();
    let check = |severity, text| Check::new("reverse-path", severity, text);
    if strict.is_empty() {
        return vec![check(Severity::Ok, "rp_filter drops no requests of clients".to_owned())];
    }
    let finding = |name: &str| {
        format!(
            "the default route leads by {default}, and rp_filter of {name} is 1, so that it drops requests from outside of its \
             subnets: set net.ipv4.conf.{name}.rp_filter to 2"
        )
    };
    strict.into_iter().map(|name| check(Severity::Warning, finding(name))).collect()
}

fn forwarding(facts: &HostReadings, family: Family) -> Check {
    let name = match family {
        Family::V4 => "net.ipv4.ip_forward",
        Family::V6 => "net.ipv6.conf.all.forwarding",
    };
    match facts.sysctl(name) {
        Some(0) => {
            let text = format!(
                "{name} is 0, so that this host forwards no packet of a Service to a pod: set it to 1, and keep it in /etc/sysctl.d"
            );
            Check::new("forwarding", Severity::Error, text)
        }
        Some(_) => Check::new("forwarding", Severity::Ok, format!("{name} is on")),
        None => Check::new("forwarding", Severity::Skipped, format!("{name} cannot be read")),
    }
}

fn forward_policy(firewall: &Firewall) -> Check {
    let check = |severity, text| Check::new("forward-policy", severity, text);
    let dropping = match &firewall.dropping {
        Ok(dropping) => dropping,
        Err(why) => return check(Severity::Skipped, format!("cannot read the rules of nf_tables: {why}")),
    };
    let is_known = |jump: &String| ACCEPTING.iter().any(|prefix| jump.starts_with(prefix));
    let others = dropping.iter().filter(|(_, rules)| !rules.jumps.iter().any(is_known));
    let (unclear, drops): (Vec<_>, Vec<_>) = others.partition(|(_, rules)| rules.accepts);
    let names = |chains: &[(&String, &ChainRules)]| {
        chains.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" and ")
    };
    if !drops.is_empty() {
        let text = format!(
            "{} drops all forwarded packets by its policy: accept packets to pods there, or set its policy to accept",
            names(&drops)
        );
        return check(Severity::Warning, text);
    }
    if !unclear.is_empty() {
        let text = format!(
            "{} drops by its policy what none of its rules accepts: whether one accepts packets to pods is not examined",
            names(&unclear)
        );
        return check(Severity::Skipped, text);
    }
    check(Severity::Ok, "no chain of nf_tables drops packets to pods by its policy".to_owned())
}

/// With nf_tables a host suppresses replies for an address while it hands it over.
fn nftables(firewall: &Firewall) -> Check {
    if firewall.missing.is_empty() {
        return Check::new(
            "nftables",
            Severity::Ok,
            "the kernel has the families of nf_tables that kube-vip uses",
        );
    }
    let missing =
        firewall.missing.iter().map(|(family, why)| format!("{family} ({why})")).collect::<Vec<_>>();
    let text = format!(
        "the kernel has no nf_tables for the family {}, so that planned hand-overs drop connections: load the kernel module \
         nf_tables",
        missing.join(" and ")
    );
    Check::new("nftables", Severity::Warning, text)
}

/// A host that forwards IPv6 ignores router advertisements unless `accept_ra` is 2: its default route expires.
fn router_advertisements(facts: &HostReadings) -> Vec<Check> {
    let forwards = facts.sysctl("net.ipv6.conf.all.forwarding").is_some_and(|value| value != 0);
    let expires =
        |interface: &&String| facts.sysctl(&format!("net.ipv6.conf.{interface}.accept_ra")) == Some(1);
    let check = |interface: &String| {
        let text = format!(
            "this host forwards IPv6 and has net.ipv6.conf.{interface}.accept_ra=1, so that its default route by router \
             advertisement expires: set accept_ra to 2"
        );
        Check::new("router-advertisements", Severity::Warning, text)
    };
    facts.advertised.iter().filter(|_| forwards).filter(expires).map(check).collect()
}

fn ports(facts: &HostReadings) -> Vec<Check> {
    let check = |severity, text| Check::new("ports", severity, text);
    if facts.running {
        return vec![check(
            Severity::Skipped,
            "kube-vip runs on this host and has its ports: `kube-vip status`".to_owned(),
        )];
    }
    if facts.taken_ports.is_empty() {
        return vec![check(Severity::Ok, "the ports of the settings are free".to_owned())];
    }
    let taken = facts.taken_ports.iter().map(|(setting, address, why)| {
        let text = format!("{setting}: {address} cannot be bound ({why}): choose another port, or stop the program that has it");
        check(Severity::Warning, text)
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::config;
    use crate::model::{IfIndex, Interface};

    fn healthy() -> HostReadings {
        let eth0 = Interface { index: IfIndex(2), name: "eth0".to_owned(), up: true, ..Interface::default() };
        let sysctls = [
            ("net.ipv4.ip_forward", 1),
            ("net.ipv4.conf.all.arp_ignore", 1),
            ("net.ipv6.conf.all.forwarding", 1),
            ("net.ipv6.conf.eth0.accept_ra", 2),
        ];
        HostReadings {
            capabilities: 1 << 12 | 1 << 13,
            state: HostState { interfaces: vec![eth0], ..HostState::default() },
            interface: Some("eth0".to_owned()),
            sysctls: sysctls.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            advertised: ["eth0".to_owned()].into(),
            ..HostReadings::default()
        }
    }

    fn found(facts: &HostReadings) -> Vec<(&'static str, Severity, String)> {
        let all = checks(&config(&[]), facts, &Family::BOTH.into(), true);
        let wrong = all.into_iter().filter(|check| check.severity > Severity::Skipped);
        wrong.map(|check| (check.name, check.severity, check.text)).collect()
    }

    #[test]
    fn a_healthy_host_has_no_finding() {
        assert_eq!(found(&healthy()), []);
    }

    #[test]
    fn each_fault_has_its_finding() {
        type Fault = fn(&mut HostReadings);
        fn set(facts: &mut HostReadings, name: &str, value: i64) {
            facts.sysctls.insert(name.to_owned(), value);
        }
        let table: [(Fault, &str, Severity, &str); 11] = [
            (|it| it.capabilities = 1 << 12, "capabilities", Severity::Error, "lacks NET_RAW"),
            (|it| it.interface = None, "interface", Severity::Error, "no default route"),
            (
                |it| it.interface = Some("eth9".into()),
                "interface",
                Severity::Error,
                "whose interfaces are eth0",
            ),
            (|it| it.state.interfaces[0].up = false, "interface", Severity::Error, "eth0 is down"),
            (|it| set(it, "net.ipv4.conf.eth0.arp_ignore", 8), "arp", Severity::Error, "arp_ignore is 8"),
            (
                |it| set(it, "net.ipv4.ip_forward", 0),
                "forwarding",
                Severity::Error,
                "net.ipv4.ip_forward is 0",
            ),
            (
                |it| set(it, "net.ipv6.conf.all.forwarding", 0),
                "forwarding",
                Severity::Error,
                "net.ipv6.conf.all.forwarding is 0",
            ),
            (
                |it| set(it, "net.ipv6.conf.eth0.accept_ra", 1),
                "router-advertisements",
                Severity::Warning,
                "accept_ra=1",
            ),
            (
                |it| it.firewall.missing = vec![("arp", "not supported".into())],
                "nftables",
                Severity::Warning,
                "family arp (not supported)",
            ),
            (
                |it| {
                    let chains = [("a", "x", false), ("b", "KUBE-FORWARD", false), ("c", "x", true)];
                    let chains = chains.map(|(name, jump, accepts)| {
                        (format!("chain {name}"), ChainRules { jumps: [jump.to_owned()].into(), accepts })
                    });
                    it.firewall.dropping = Ok(chains.into());
                },
                "forward-policy",
                Severity::Warning,
                "chain a drops all forwarded packets",
            ),
            (
                |it| it.taken_ports = vec![("prometheus_server", "[::]:2112".into(), "in use".into())],
                "ports",
                Severity::Warning,
                "prometheus_server: [::]:2112",
            ),
        ];
        for (fault, name, severity, part) in table {
            let mut facts = healthy();
            fault(&mut facts);
            let found = found(&facts);
            let expected = found.iter().any(|it| it.0 == name && it.1 == severity && it.2.contains(part));
            assert!(expected && found.len() == 1, "{part}: {found:?}");
        }
    }
}
