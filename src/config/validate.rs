//! From what was typed to what it means. Every problem is found, not only the first.

use std::net::IpAddr;
use std::time::Duration;

use super::problem::{Problem, nearest};
use super::raw::Raw;
use super::settings::Key;
use super::vip_target::{origin, targets};
use super::{
    Api, ClassRule, Config, DnsMode, Election, Health, Layer2, LogFormat, Mode, Prefixes, RoutingTable,
    ServiceElection, Services, SubnetPrefix, Telemetry, VipTarget, bgp,
};
use crate::model::route::Table;
use crate::model::validation::{is_name, unusable};

/// What validation has to know about this host.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The hostname.
    pub hostname: String,
    /// The namespace of the service account, in a pod that has one.
    pub service_account_namespace: Option<String>,
    /// The interfaces there are, and whether each is up (or does not say).
    pub interfaces: Vec<(String, bool)>,
    /// The addresses of each interface, but for those that we put there.
    pub addresses: Vec<(String, Vec<IpAddr>)>,
}

impl Facts {
    /// The addresses of an interface, if there is such an interface.
    pub fn addresses_of(&self, interface: &str) -> Option<&[IpAddr]> {
        self.addresses.iter().find(|(name, _)| name == interface).map(|(_, addresses)| addresses.as_slice())
    }
}

/// What holds for generating manifests and for running alike.
pub fn check_common(raw: &Raw) -> Vec<Problem> {
    let mut problems = Vec::new();
    let modes: Vec<Key> = MODES.into_iter().filter(|key| raw.bool(*key)).collect();
    if modes.len() > 1 {
        let names: Vec<String> = modes.iter().map(|key| raw.describe(*key)).collect();
        problems.push(Problem::Combination(format!(
            "multiple kube-vip modes detected ({}): exactly one of vip_arp, bgp_enable, vip_routingtable and \
             vip_wireguard may be on",
            names.join(", ")
        )));
    }
    if raw.bool(Key::ControlPlane) && targets(raw).is_empty() && !raw.bool(Key::Ddns) {
        problems.push(Problem::Combination(
            "no address is specified for kube-vip to expose services on: with cp_enable, set `address` to the \
             VIP (flag --address)"
                .into(),
        ));
    }
    let (duration, renew, retry) =
        (raw.int(Key::LeaseDuration), raw.int(Key::RenewDeadline), raw.int(Key::RetryPeriod));
    if !(duration > renew && renew > retry) {
        problems.push(Problem::Combination(format!(
            "the lease timings do not fit: vip_leaseduration ({duration}, {}) has to be greater than \
             vip_renewdeadline ({renew}, {}), and that greater than vip_retryperiod ({retry}, {})",
            raw.origin(Key::LeaseDuration),
            raw.origin(Key::RenewDeadline),
            raw.origin(Key::RetryPeriod)
        )));
    }
    let port = raw.int(Key::HealthPort);
    if port != 0 && port < 1024 {
        let allowed = "0 (off) or a port from 1024 to 65535";
        problems.push(Problem::unacceptable(raw.origin(Key::HealthPort), port.to_string(), allowed));
    }
    let instance = raw.text(Key::InstanceName);
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if instance.len() > 243 || !instance.chars().all(legal) {
        let allowed = "at most 243 ASCII letters, digits, `.`, `-` and `_`";
        problems.push(Problem::unacceptable(raw.origin(Key::InstanceName), instance, allowed));
    }
    if !raw.text(Key::BgpSourceIf).is_empty() && !raw.text(Key::BgpSourceIp).is_empty() {
        problems.push(Problem::Combination(format!(
            "bgp_sourceif ({}) and bgp_sourceip ({}) exclude each other: keep one",
            raw.origin(Key::BgpSourceIf),
            raw.origin(Key::BgpSourceIp)
        )));
    }
    if let Err(problem) = prefixes(raw) {
        problems.push(problem);
    }
    problems
}

/// Everything that has to hold before the daemon opens a port.
///
/// # Errors
/// All problems found.
pub fn check(raw: Raw, facts: &Facts) -> Result<Config, Vec<Problem>> {
    let mut problems = check_common(&raw);
    let modes: Vec<Key> = MODES.into_iter().filter(|key| raw.bool(*key)).collect();
    if modes.is_empty() {
        problems.push(Problem::Combination(
            "no valid kube-vip mode detected: set one of vip_arp, bgp_enable, vip_routingtable or vip_wireguard \
             to true"
                .into(),
        ));
    }
    if !raw.bool(Key::ControlPlane) && !raw.bool(Key::Services) {
        problems.push(Problem::Combination(
            "no features are enabled: set cp_enable, svc_enable or both to true".into(),
        ));
    }
    problems.extend(not_built(&raw));
    for key in [Key::Interface, Key::ServicesInterface] {
        problems.extend(check_interface(&raw, key, facts));
    }
    let targets = targets(&raw);
    for target in &targets {
        if let VipTarget::Ip(address) = target
            // Hosts with a link-local IPv4 subnet of their own can have a VIP on it.
            && let Some(kind) = unusable(*address).filter(|kind| address.is_ipv6() || *kind != "link-local")
        {
            let allowed = format!("an address that can be announced (this one is a {kind} address)");
            problems.push(Problem::unacceptable(origin(&raw), address.to_string(), allowed));
        }
        if let VipTarget::Name(name) = target
            && !is_name(name)
        {
            let allowed = "an IP address or a DNS name";
            problems.push(Problem::unacceptable(origin(&raw), name.clone(), allowed));
        }
    }
    let metrics = listen_address(&raw, &mut problems);
    let prefixes = prefixes(&raw).unwrap_or_default();
    for target in &targets {
        if let VipTarget::Ip(address) = target
            && prefixes.of(*address) > crate::model::vip::host_prefix(*address)
        {
            let allowed = format!("a prefix length for {address}");
            problems.push(Problem::unacceptable(
                raw.origin(Key::VipSubnet),
                raw.text(Key::VipSubnet),
                allowed,
            ));
        }
    }
    let mut notes = Vec::new();
    let bgp = raw.bool(Key::Bgp).then(|| bgp::bgp(&raw, facts, &mut notes)).transpose();
    let bgp = bgp.unwrap_or_else(|more| {
        problems.extend(more);
        None
    });
    let home = super::home::home(&raw, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut config = build(raw, facts, targets, prefixes, metrics);
    config.bgp = bgp;
    config.home = home;
    config.notes.extend(notes);
    Ok(config)
}

fn build(
    raw: Raw,
    facts: &Facts,
    targets: Vec<VipTarget>,
    prefixes: Prefixes,
    metrics: Option<String>,
) -> Config {
    let seconds = |key| Duration::from_secs(raw.int(key).try_into().unwrap_or_default());
    let node_name = match raw.text(Key::NodeName) {
        "" => facts.hostname.to_lowercase(),
        name => name.to_lowercase(),
    };
    let lease = lease(&raw, Key::LeaseName, facts);
    let annotations = serde_json::from_str(raw.text(Key::LeaseAnnotations)).unwrap_or_default();
    let health = match raw.text(Key::HealthAddress) {
        "" => Health::Local,
        url => Health::Url {
            url: url.to_owned(),
            period: seconds(Key::HealthPeriod).max(Duration::from_millis(250)),
            timeout: seconds(Key::HealthTimeout),
            threshold: raw.int(Key::HealthThreshold).try_into().unwrap_or(1),
            ca: Some(raw.text(Key::HealthCa)).filter(|path| !path.is_empty()).map(str::to_owned),
        },
    };
    let mut notes = Vec::new();
    let announce_every = match raw.int(Key::ArpRate) {
        0 => None,
        rate @ 1..500 => {
            notes.push(format!("vip_arpRate {rate} is below 500 ms; announcing every 3000 ms"));
            Some(Duration::from_secs(3))
        }
        rate => Some(Duration::from_millis(rate.try_into().unwrap_or(3000))),
    };
    if raw.bool(Key::ServicesElection) && raw.int(Key::ServicesElectionGroups) > 0 {
        notes.push(
            "svc_election_groups has no effect beside svc_election, which elects each Service".to_owned(),
        );
    }
    notes.extend(without_effect(&raw));
    let port = |key| u16::try_from(raw.int(key)).unwrap_or_default();
    let mode = MODES
        .into_iter()
        .zip([Mode::Arp, Mode::Bgp, Mode::RoutingTable, Mode::Wireguard])
        .find(|(key, _)| raw.bool(*key))
        .map_or(Mode::Arp, |(_, mode)| mode);
    let optional = |key| Some(raw.text(key)).filter(|text| !text.is_empty()).map(str::to_owned);
    Config {
        mode,
        node_name,
        targets,
        prefixes,
        dns_mode: match raw.text(Key::DnsMode) {
            "ipv4" => DnsMode::Ipv4,
            "ipv6" => DnsMode::Ipv6,
            "dual" => DnsMode::Dual,
            _ => DnsMode::First,
        },
        home: super::Home::default(),
        interface: optional(Key::Interface),
        election: Election {
            namespace: lease.0,
            name: lease.1,
            lease_duration: seconds(Key::LeaseDuration),
            renew_deadline: seconds(Key::RenewDeadline),
            retry_period: seconds(Key::RetryPeriod),
            annotations,
        },
        services: raw.bool(Key::Services).then(|| services(&raw, facts)),
        layer2: Layer2 {
            announce_every,
            skip_dad: raw.bool(Key::SkipDad),
            preserve: raw.bool(Key::PreserveVip),
            lo_global: raw.bool(Key::LoGlobalScope),
            tolerate_down: raw.bool(Key::AllowInterfaceNotUp),
            give_up_when_down_for: raw.bool(Key::LoseLeadership).then(|| seconds(Key::LoseLeadershipTimeout)),
        },
        bgp: None,
        table: raw.bool(Key::RoutingTable).then(|| routing_table(&raw)),
        health,
        api: Api {
            kubeconfig: raw.text(Key::Kubeconfig).to_owned(),
            address: optional(Key::KubernetesAddr),
            detect: raw.bool(Key::DetectControlPlane),
            port: port(Key::Port),
        },
        telemetry: Telemetry {
            level: raw.int(Key::LogLevel),
            format: if raw.text(Key::LogFormat) == "json" { LogFormat::Json } else { LogFormat::Text },
            metrics,
            health_port: Some(port(Key::HealthPort)).filter(|port| *port != 0),
            label_node: raw.bool(Key::NodeLabeling),
        },
        notes,
        raw,
    }
}

fn routing_table(raw: &Raw) -> RoutingTable {
    let every = Duration::from_secs(raw.int(Key::BackendHealthInterval).try_into().unwrap_or(5));
    RoutingTable {
        table: Table {
            id: raw.int(Key::TableId).try_into().unwrap_or(198),
            // As the Go program has it: none is the kernel's own number for redirects, which no daemon takes.
            protocol: u8::try_from(raw.int(Key::RoutingProtocol)).unwrap_or(248).max(1),
            kind: raw.int(Key::TableType).try_into().unwrap_or(1),
        },
        clean: raw.bool(Key::CleanRoutingTable),
        reassert: raw.bool(Key::RouteRealms).then_some(every),
    }
}

/// Settings that are accepted, and change nothing in what this configuration runs.
fn without_effect(raw: &Raw) -> Vec<String> {
    let keys = [Key::DebounceTime, Key::SingleNode, Key::StartLeader, Key::ConfigMap];
    let set = keys.into_iter().filter(|key| raw.text(*key) != key.setting().default);
    set.map(|key| format!("{} has no effect in this version ({})", key.name(), raw.origin(key))).collect()
}

/// Namespace and name of a Lease: the name may bring its namespace along.
fn lease(raw: &Raw, key: Key, facts: &Facts) -> (String, String) {
    match raw.text(key).split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => {
            let namespace = facts.service_account_namespace.as_deref().unwrap_or(raw.text(Key::Namespace));
            (namespace.to_owned(), raw.text(key).to_owned())
        }
    }
}

fn services(raw: &Raw, facts: &Facts) -> Services {
    let optional = |key| Some(raw.text(key)).filter(|text| !text.is_empty()).map(str::to_owned);
    let class = raw.text(Key::ClassName).to_owned();
    let groups = usize::try_from(raw.int(Key::ServicesElectionGroups)).unwrap_or(0);
    let prefix = |item: Option<&&str>, host: u8| match item.map(|item| item.trim_start_matches('/')) {
        Some("auto") => SubnetPrefix::Auto,
        Some(length) => SubnetPrefix::Fixed(length.parse().unwrap_or(host).min(host)),
        None => SubnetPrefix::Fixed(host),
    };
    let subnets = raw.list(Key::VipSubnet);
    Services {
        namespace: optional(Key::ServiceNamespace),
        class: match (raw.bool(Key::ClassLegacy), class.is_empty()) {
            (true, _) if raw.bool(Key::ClassOnly) => ClassRule::Named(class),
            (true, _) => ClassRule::NamedOrNone(class),
            (false, true) => ClassRule::None,
            (false, false) => ClassRule::Named(class),
        },
        election: match (raw.bool(Key::ServicesElection), groups) {
            (true, _) => ServiceElection::PerService,
            (false, 0) if raw.bool(Key::Bgp) => ServiceElection::EveryNode,
            (false, 0) if raw.bool(Key::RoutingTable) && !raw.bool(Key::LeaderElection) => {
                ServiceElection::EveryNode
            }
            (false, 0) => ServiceElection::Global,
            (false, groups) => ServiceElection::Groups(groups),
        },
        lease: lease(raw, Key::ServicesLeaseName, facts),
        on_demand: raw.bool(Key::OnDemandElection),
        interface: optional(Key::ServicesInterface),
        prefixes: (prefix(subnets.first(), 32), prefix(subnets.get(1), 128)),
        publish: !raw.bool(Key::DisableServiceUpdates),
        endpoints: raw.bool(Key::EnableEndpoints),
    }
}

const MODES: [Key; 4] = [Key::Arp, Key::Bgp, Key::RoutingTable, Key::Wireguard];

#[expect(clippy::result_large_err, reason = "it is made once, and ends the program")]
/// The prefix length for each family: of two the first is for IPv4, a single one is for both.
fn prefixes(raw: &Raw) -> Result<Prefixes, Problem> {
    let origin = || raw.origin(Key::VipSubnet);
    let items = raw.list(Key::VipSubnet);
    let text = raw.text(Key::VipSubnet);
    if items.contains(&"auto") {
        if raw.bool(Key::Arp) && raw.text(Key::Address).is_empty() {
            return Ok(Prefixes::default());
        }
        let allowed =
            "a number here: `auto` is for the addresses of Services, in ARP mode, without `address`";
        return Err(Problem::unacceptable(origin(), text, allowed));
    }
    let lengths: Option<Vec<u8>> = items
        .iter()
        .map(|item| item.trim_start_matches('/').parse().ok().filter(|length| *length <= 128))
        .collect();
    match lengths.as_deref() {
        Some([]) => Ok(Prefixes::default()),
        Some([both]) => Ok(Prefixes { v4: Some(*both), v6: Some(*both) }),
        Some([v4, v6]) => Ok(Prefixes { v4: Some(*v4), v6: Some(*v6) }),
        _ => {
            let allowed = "one or two prefix lengths, such as `32`, `128` or `32,128`";
            Err(Problem::unacceptable(origin(), text, allowed))
        }
    }
}

fn check_interface(raw: &Raw, key: Key, facts: &Facts) -> Option<Problem> {
    let name = raw.text(key);
    if name.is_empty() || (name == "auto" && key == Key::ServicesInterface) {
        return None;
    }
    let known: Vec<&str> = facts.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    match facts.interfaces.iter().find(|(interface, _)| interface == name) {
        None => {
            let hint = nearest(name, known.iter().copied());
            let allowed = format!("an interface of this host, which has: {}", known.join(", "));
            Some(Problem::Value { origin: raw.origin(key), value: name.to_owned(), allowed, hint })
        }
        Some((_, false)) if !raw.bool(Key::AllowInterfaceNotUp) => {
            let allowed = "up (vip_allow_interface_not_up lets kube-vip start all the same)";
            Some(Problem::unacceptable(raw.origin(key), name, allowed))
        }
        Some(_) => None,
    }
}

/// `:2112`, `2112`, `0.0.0.0:2112` or `[::]:2112`; a host-less address listens on every one.
fn listen_address(raw: &Raw, problems: &mut Vec<Problem>) -> Option<String> {
    let text = raw.text(Key::MetricsAddress);
    if text.is_empty() {
        return None;
    }
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None if text.parse::<u16>().is_ok() => format!("[::]:{text}"),
        None => text.to_owned(),
    };
    if full.parse::<std::net::SocketAddr>().is_err() {
        let allowed = "an address to listen on, such as `:2112` or `127.0.0.1:2112`";
        problems.push(Problem::unacceptable(raw.origin(Key::MetricsAddress), text, allowed));
    }
    Some(full)
}

/// What is parsed and generated, but cannot be run by this version.
fn not_built(raw: &Raw) -> Vec<Problem> {
    let on = |key: Key| raw.bool(key);
    let table = [
        (on(Key::Wireguard), Key::Wireguard, "WireGuard mode"),
        (on(Key::ServiceSecurity), Key::ServiceSecurity, "dropping traffic to other ports"),
        (!raw.text(Key::MirrorInterface).is_empty(), Key::MirrorInterface, "mirroring traffic"),
        (on(Key::LoadBalancer), Key::LoadBalancer, "balancing control-plane connections"),
        (raw.text(Key::LeaderElectionType) == "etcd", Key::LeaderElectionType, "electing in etcd"),
    ];
    table
        .into_iter()
        .filter(|(wanted, ..)| *wanted)
        .map(|(_, key, what)| {
            Problem::Combination(format!(
                "{what} ({}) is not built into this version yet; it runs the control-plane VIP and Services in ARP, BGP and routing-table mode",
                raw.describe(key)
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::raw::Sources;
    use super::*;

    fn facts() -> Facts {
        let interfaces =
            [("lo", true), ("eth0", true), ("eth1", false)].map(|(name, up)| (name.to_owned(), up));
        Facts { hostname: "Node-A".into(), interfaces: interfaces.into(), ..Facts::default() }
    }

    fn raw(env: &[(&str, &str)]) -> Raw {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (raw, problems, _) = Raw::collect(&Sources { env, ..Sources::default() });
        assert_eq!(problems, []);
        raw
    }

    fn with(more: &[(&'static str, &'static str)]) -> Result<Config, Vec<String>> {
        let mut env = vec![("vip_arp", "true"), ("cp_enable", "true"), ("address", "192.0.2.1")];
        for (name, value) in more {
            env.retain(|(known, _)| known != name);
            env.push((name, value));
        }
        check(raw(&env), &facts()).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_smallest_configuration_has_upstreams_defaults() {
        let config = with(&[]).unwrap();
        assert_eq!(config.node_name, "node-a");
        assert_eq!(config.targets, [VipTarget::Ip("192.0.2.1".parse().unwrap())]);
        assert_eq!(
            (config.election.namespace.as_str(), config.election.name.as_str()),
            ("kube-system", "plndr-cp-lock")
        );
        assert_eq!(config.election.lease_duration, Duration::from_secs(15));
        assert_eq!(config.telemetry.metrics.as_deref(), Some("[::]:2112"));
        assert_eq!(config.prefixes.of("2001:db8::1".parse().unwrap()), 128);
    }

    #[test]
    fn addresses_are_trimmed_and_may_be_names() {
        let config = with(&[("address", " 192.0.2.1, [2001:db8::1] ,vip.example.com")]).unwrap();
        assert_eq!(config.targets.len(), 3);
        assert_eq!(config.targets[2], VipTarget::Name("vip.example.com".into()));
    }

    #[test]
    fn how_services_are_announced() {
        let services = |more: &[(&'static str, &'static str)]| {
            let all = [&[("svc_enable", "true")], more].concat();
            with(&all).unwrap().services.unwrap()
        };
        let plain = services(&[]);
        assert_eq!(plain.lease, ("kube-system".to_owned(), "plndr-svcs-lock".to_owned()));
        assert_eq!(plain.class, ClassRule::NamedOrNone("kube-vip.io/kube-vip-class".into()));
        assert_eq!(plain.election, ServiceElection::Global);
        assert_eq!(plain.prefixes, (SubnetPrefix::Fixed(32), SubnetPrefix::Fixed(128)));
        assert!(plain.publish && !plain.endpoints && !plain.on_demand);
        let modern = [("lb_class_legacy_handling", "false")];
        let table = [
            (&[("lb_class_only", "true")][..], ClassRule::Named("kube-vip.io/kube-vip-class".into())),
            (&modern, ClassRule::Named("kube-vip.io/kube-vip-class".into())),
            (&[modern[0], ("lb_class_name", "")], ClassRule::None),
        ];
        for (env, expected) in table {
            assert_eq!(services(env).class, expected, "{env:?}");
        }
        assert_eq!(services(&[("svc_election", "true")]).election, ServiceElection::PerService);
        assert_eq!(services(&[("svc_election_groups", "16")]).election, ServiceElection::Groups(16));
        assert_eq!(
            services(&[("vip_subnet", "24")]).prefixes,
            (SubnetPrefix::Fixed(24), SubnetPrefix::Fixed(128))
        );
        let both =
            with(&[("svc_enable", "true"), ("svc_election", "true"), ("svc_election_groups", "4")]).unwrap();
        assert_eq!(both.services.unwrap().election, ServiceElection::PerService);
        assert!(both.notes[0].contains("no effect beside svc_election"));
        let auto = with(&[
            ("svc_enable", "true"),
            ("cp_enable", "false"),
            ("address", ""),
            ("vip_subnet", "auto,auto"),
        ]);
        assert_eq!(auto.unwrap().services.unwrap().prefixes, (SubnetPrefix::Auto, SubnetPrefix::Auto));
    }

    #[test]
    fn a_lease_name_may_carry_its_namespace() {
        let election = with(&[("vip_leasename", "infra/vip")]).unwrap().election;
        assert_eq!((election.namespace.as_str(), election.name.as_str()), ("infra", "vip"));
    }

    #[test]
    fn every_sentence_names_the_value_its_place_and_what_is_allowed() {
        let table = [
            (
                ("vip_interface", "eth9"),
                "variable vip_interface: `eth9` is not an interface of this host, which has: lo, eth0, eth1; did you mean `eth0`?",
            ),
            (
                ("vip_interface", "eth1"),
                "variable vip_interface: `eth1` is not up (vip_allow_interface_not_up lets kube-vip start all the same)",
            ),
            (
                ("vip_leaseduration", "10"),
                "the lease timings do not fit: vip_leaseduration (10, variable vip_leaseduration) has to be greater than vip_renewdeadline (10, default), and that greater than vip_retryperiod (2, default)",
            ),
            (
                ("address", "127.0.0.1"),
                "variable address: `127.0.0.1` is not an address that can be announced (this one is a loopback address)",
            ),
            (
                ("address", "192.0.2.256"),
                "variable address: `192.0.2.256` is not an IP address or a DNS name",
            ),
            (("vip_subnet", "33"), "variable vip_subnet: `33` is not a prefix length for 192.0.2.1"),
            (
                ("vip_subnet", "32,128,1"),
                "variable vip_subnet: `32,128,1` is not one or two prefix lengths, such as `32`, `128` or `32,128`",
            ),
            (
                ("health_check_port", "80"),
                "variable health_check_port: `80` is not 0 (off) or a port from 1024 to 65535",
            ),
            (
                ("prometheus_server", "localhost"),
                "variable prometheus_server: `localhost` is not an address to listen on, such as `:2112` or `127.0.0.1:2112`",
            ),
        ];
        for (setting, sentence) in table {
            assert_eq!(with(&[setting]).unwrap_err(), [sentence]);
        }
    }

    #[test]
    fn modes_exclude_each_other_and_one_is_needed() {
        let two = with(&[("bgp_enable", "true")]).unwrap_err();
        assert!(two[0].starts_with("multiple kube-vip modes detected"), "{two:?}");
        let none = with(&[("vip_arp", "false")]).unwrap_err();
        assert!(none[0].starts_with("no valid kube-vip mode detected"), "{none:?}");
        let nothing = with(&[("cp_enable", "false")]).unwrap_err();
        assert!(nothing[0].starts_with("no features are enabled"), "{nothing:?}");
    }

    #[test]
    fn what_is_not_built_yet_is_refused_in_one_sentence() {
        let problems = with(&[("lb_enable", "true")]).unwrap_err();
        assert_eq!(
            problems,
            [
                "balancing control-plane connections (lb_enable by variable lb_enable) is not built into this version yet; it runs the control-plane VIP and Services in ARP, BGP and routing-table mode"
            ]
        );
    }

    #[test]
    fn a_deprecated_vip_needs_no_subnet() {
        let config = with(&[("address", ""), ("vip_address", "192.0.2.7")]).unwrap();
        assert_eq!(config.targets, [VipTarget::Ip("192.0.2.7".parse().unwrap())]);
    }
}
