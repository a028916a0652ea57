//! From the given settings to the configuration, with all problems at once.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::problem::{Problem, nearest};
use super::raw::Raw;
use super::settings::{Key, Values};
use super::value::ElectionStore;
use super::{
    Config, api, bgp, dhcp, election, layer2, mdns, policy, routing_table, services, telemetry, upnp, vip,
};
use crate::model::Vip;
use crate::model::validation::is_interface;

/// What validation has to know about this host.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    pub hostname: String,
    /// The namespace of the service account, in a pod that has one.
    pub service_account_namespace: Option<String>,
    /// Each interface, and whether it is up or of unknown state.
    pub interfaces: Vec<(String, bool)>,
    /// The addresses of each interface, without those that kube-vip has put there.
    pub addresses: Vec<(String, Vec<Vip>)>,
    /// Of the default routes.
    pub gateways: BTreeSet<IpAddr>,
}

impl HostFacts {
    /// None if there is no such interface.
    pub fn addresses_of(&self, interface: &str) -> Option<&[Vip]> {
        self.addresses.iter().find(|(name, _)| name == interface).map(|(_, addresses)| addresses.as_slice())
    }
}

/// Settings that contradict each other, and values that no host accepts.
fn check_values(values: &Values, modes: &[(Key, &'static str)]) -> Vec<Problem> {
    let raw = &values.raw;
    let mut problems: Vec<Problem> = several_modes(raw, modes).into_iter().collect();
    if values.control_plane && vip::targets(values).is_empty() && !values.ddns {
        problems.push(Problem::Combination(
            "no address is specified for kube-vip to expose services on: with cp_enable, set `address` to the \
             VIP (flag --address)"
                .into(),
        ));
    }
    if !values.control_plane && !values.services {
        problems.push(Problem::Combination(
            "no features are enabled: set cp_enable, svc_enable or both to true".into(),
        ));
    }
    if (1..1024).contains(&values.health_port) {
        problems.push(raw.unacceptable(Key::HealthPort, "0 (off) or a port from 1024 to 65535"));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if values.instance_name.as_ref().is_some_and(|name| name.len() > 243 || !name.chars().all(legal)) {
        let allowed = "at most 243 ASCII letters, digits, `.`, `-` and `_`";
        problems.push(raw.unacceptable(Key::InstanceName, allowed));
    }
    if values.bgp_source_if.is_some() && values.bgp_source_ip.is_some() {
        problems.push(raw.exclusive(Key::BgpSourceIf, Key::BgpSourceIp));
    }
    problems.extend(vip::prefixes(values).err());
    problems
}

fn several_modes(raw: &Raw, modes: &[(Key, &'static str)]) -> Option<Problem> {
    let names: Vec<String> = modes.iter().map(|(key, _)| raw.describe(*key)).collect();
    let text = format!(
        "multiple kube-vip modes detected ({}): exactly one of vip_arp, bgp_enable, vip_routingtable and \
         vip_wireguard may be on",
        names.join(", ")
    );
    (modes.len() > 1).then_some(Problem::Combination(text))
}

/// The checks of what permissions depend on: they need neither a mode nor an address.
pub(crate) fn check_for_roles(values: &Values) -> Vec<Problem> {
    let mut problems: Vec<Problem> = several_modes(&values.raw, &modes(values)).into_iter().collect();
    problems.extend(election::check_names(values));
    bgp::given_peers(values, &mut problems, &mut Vec::new());
    problems
}

/// The checks that have to pass before the daemon opens a port, or a manifest is printed. Facts of the host are checked if
/// they are known: a manifest is for any host.
///
/// # Errors
/// All problems found.
pub fn check(raw: Raw, facts: Option<&HostFacts>) -> Result<Config, Vec<Problem>> {
    let values = Values::read(raw)?;
    let modes = modes(&values);
    let (mut problems, mut notes) = (check_values(&values, &modes), Vec::new());
    if modes.is_empty() {
        let text = "no valid kube-vip mode detected: set one of vip_arp, bgp_enable, vip_routingtable or vip_wireguard to true";
        match facts {
            Some(_) => problems.push(Problem::Combination(text.into())),
            // The manifest's reader may add it.
            None => notes.push(text.into()),
        }
    }
    problems.extend(election::check(&values, &mut notes));
    problems.extend(not_implemented(&values, &mut notes));
    problems.extend(check_interface(&values, Key::Interface, values.interface.as_deref(), facts));
    let services_interface = values.services_interface.as_deref().filter(|name| *name != "auto");
    let services_interface = services_interface.filter(|_| values.services);
    problems.extend(check_interface(&values, Key::ServicesInterface, services_interface, facts));
    let targets = vip::targets(&values);
    // `check_values` has reported what is wrong with them.
    let prefixes = vip::prefixes(&values).unwrap_or_default();
    problems.extend(vip::check(&values, &targets, prefixes));
    notes.extend(facts.iter().flat_map(|facts| vip::notes(&values, &targets, facts)));
    let layer2 = layer2::read(&values, &mut notes);
    notes.extend(without_effect(&values));
    let telemetry = telemetry::read(&values, &mut problems, &mut notes);
    let bgp = values.bgp.then(|| bgp::read(&values, facts, &mut problems, &mut notes));
    let mdns = mdns::read(&values, &mut problems);
    let dhcp = dhcp::read(&values, &mut problems);
    let policy = policy::read(&values, &mut problems);
    let upnp = upnp::read(&values, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let anywhere = HostFacts::default();
    let facts = facts.unwrap_or(&anywhere);
    Ok(Config {
        mode: modes.first().map_or("none", |(_, mode)| *mode),
        instance: values.instance_name.clone(),
        node_name: values.node_name.as_ref().unwrap_or(&facts.hostname).to_lowercase(),
        targets,
        prefixes,
        dns_mode: values.dns_mode,
        dhcp,
        upnp,
        mdns,
        interface: values.interface.clone(),
        election: election::read(&values, facts),
        services: values.services.then(|| services::read(&values, facts, policy)),
        layer2,
        bgp,
        table: values.routing_table.then(|| routing_table::read(&values)),
        health: api::health(&values),
        api: api::read(&values),
        telemetry,
        notes,
        raw: values.raw,
    })
}

/// The modes that are on.
fn modes(values: &Values) -> Vec<(Key, &'static str)> {
    let all = [
        (values.arp, Key::Arp, "ARP"),
        (values.bgp, Key::Bgp, "BGP"),
        (values.routing_table, Key::RoutingTable, "Routing Table"),
        (values.wireguard, Key::Wireguard, "Wireguard"),
    ];
    all.into_iter().filter(|(on, ..)| *on).map(|(_, key, mode)| (key, mode)).collect()
}

/// Warnings about settings that are accepted and change nothing here.
fn without_effect(values: &Values) -> Vec<String> {
    let raw = &values.raw;
    let mut notes = Vec::new();
    if values.services_election && values.services_election_groups > 0 {
        notes.push(
            "svc_election_groups has no effect beside svc_election, which elects each Service".to_owned(),
        );
    }
    let of_control_plane =
        [(!vip::configured(values).is_empty(), vip::key(values)), (values.ddns, Key::Ddns)];
    for (_, key) in of_control_plane.into_iter().filter(|(set, _)| *set && !values.control_plane) {
        notes.push(format!("{} has no effect without cp_enable (--controlplane)", raw.describe(key)));
    }
    if values.services_local_election && services::election(values) != super::ServiceElection::Global {
        notes.push(
            "svc_local_election has no effect here: it is for one election of all Services, without svc_election, \
             svc_election_groups and modes without an election"
                .to_owned(),
        );
    }
    let keys = [Key::DebounceTime, Key::SingleNode, Key::StartLeader, Key::ConfigMap];
    let set = keys.into_iter().filter(|key| raw.text(*key) != key.setting().default);
    notes
        .extend(set.map(|key| format!("{} has no effect in this version ({})", key.name(), raw.origin(key))));
    notes
}

fn check_interface(
    values: &Values,
    key: Key,
    name: Option<&str>,
    facts: Option<&HostFacts>,
) -> Option<Problem> {
    let name = name?;
    let Some(facts) = facts else {
        let allowed = "the name of an interface: at most 15 characters without `/`, `:` and blanks";
        return (!is_interface(name)).then(|| values.raw.unacceptable(key, allowed));
    };
    let known: Vec<&str> = facts.interfaces.iter().map(|(name, _)| name.as_str()).collect();
    match facts.interfaces.iter().find(|(interface, _)| interface == name) {
        None => {
            let hint = nearest(name, known.iter().copied());
            let allowed = format!("an interface of this host, which has: {}", known.join(", "));
            Some(Problem::Value { origin: values.raw.origin(key), value: name.to_owned(), allowed, hint })
        }
        Some((_, false)) if !values.allow_interface_not_up => {
            let allowed = "up (vip_allow_interface_not_up lets kube-vip start all the same)";
            Some(values.raw.unacceptable(key, allowed))
        }
        Some(_) => None,
    }
}

/// Settings that manifests may contain and this version cannot run. A switch that nothing depends on is a note.
fn not_implemented(values: &Values, notes: &mut Vec<String>) -> Vec<Problem> {
    let raw = &values.raw;
    let etcd = values.leader_election_type == ElectionStore::Etcd;
    let elects = election::is_held(values);
    let table = [
        (values.wireguard, Key::Wireguard, "WireGuard mode", (true, "")),
        (
            values.service_security,
            Key::ServiceSecurity,
            "dropping traffic to other ports",
            (values.services, "svc_enable"),
        ),
        (values.mirror_interface.is_some(), Key::MirrorInterface, "mirroring traffic", (true, "")),
        (
            values.load_balancer,
            Key::LoadBalancer,
            "balancing control-plane connections",
            (values.control_plane, "cp_enable"),
        ),
        (etcd, Key::LeaderElectionType, "electing in etcd", (elects, "an election")),
    ];
    let mut problems = Vec::new();
    for (_, key, what, (needed, other)) in table.into_iter().filter(|(wanted, ..)| *wanted) {
        let key = raw.describe(key);
        if needed {
            let text = format!("{what} ({key}) is not supported by this version: unset it");
            problems.push(Problem::Combination(text));
        } else {
            notes.push(format!("{what} ({key}) has no effect without {other}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{ClassRule, ServiceElection, Sources, SubnetPrefix, VipTarget};

    fn facts() -> HostFacts {
        let interfaces =
            [("lo", true), ("eth0", true), ("eth1", false)].map(|(name, up)| (name.to_owned(), up));
        HostFacts { hostname: "Node-A".into(), interfaces: interfaces.into(), ..HostFacts::default() }
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
        check(raw(&env), Some(&facts()))
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_smallest_configuration_has_the_defaults_of_the_go_program() {
        let config = with(&[]).unwrap();
        assert_eq!(config.node_name, "node-a");
        assert_eq!(config.targets, [VipTarget::Ip("192.0.2.1".parse().unwrap())]);
        assert_eq!(config.election.lease.to_string(), "kube-system/plndr-cp-lock");
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
    fn settings_of_services_are_read() {
        let services = |more: &[(&'static str, &'static str)]| {
            let all = [&[("svc_enable", "true")], more].concat();
            with(&all).unwrap().services.unwrap()
        };
        let plain = services(&[]);
        assert_eq!(plain.lease.to_string(), "kube-system/plndr-svcs-lock");
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
        for (more, noted) in [(("svc_election", "false"), false), (("svc_election_groups", "4"), true)] {
            let config = with(&[("svc_enable", "true"), ("svc_local_election", "true"), more]).unwrap();
            assert!(config.services.as_ref().unwrap().local_alone);
            let noted_now = config.notes.iter().any(|note| note.starts_with("svc_local_election"));
            assert_eq!(noted_now, noted, "{more:?}");
        }
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
        assert_eq!(election.lease.to_string(), "infra/vip");
    }

    #[test]
    fn a_problem_names_the_origin_the_value_and_what_is_allowed() {
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
                "the lease timings do not fit: vip_leaseduration (10, variable vip_leaseduration) has to be greater than vip_renewdeadline (10, default), that greater than vip_retryperiod (2, default), and that at least 1",
            ),
            (
                ("address", "127.0.0.1"),
                "variable address: `127.0.0.1` is not an address that can be announced (this one is a loopback address)",
            ),
            (
                ("address", "192.0.2.256"),
                "variable address: `192.0.2.256` is not an IP address or a DNS name",
            ),
            (
                ("address", "::ffff:192.0.2.50"),
                "variable address: `::ffff:192.0.2.50` is not an address that can be announced (this one is a mapped IPv4 address); did you mean `192.0.2.50`?",
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
    fn exactly_one_mode_and_at_least_one_feature_are_required() {
        let two = with(&[("bgp_enable", "true")]).unwrap_err();
        assert!(two[0].starts_with("multiple kube-vip modes detected"), "{two:?}");
        let none = with(&[("vip_arp", "false")]).unwrap_err();
        assert!(none[0].starts_with("no valid kube-vip mode detected"), "{none:?}");
        let nothing = with(&[("cp_enable", "false")]).unwrap_err();
        assert!(nothing[0].starts_with("no features are enabled"), "{nothing:?}");
    }

    #[test]
    fn an_unimplemented_feature_is_rejected() {
        let problems = with(&[("lb_enable", "true")]).unwrap_err();
        assert_eq!(
            problems,
            [
                "balancing control-plane connections (lb_enable by variable lb_enable) is not supported by this version: unset it"
            ]
        );
    }

    #[test]
    fn a_switch_that_nothing_depends_on_is_a_note() {
        // The values of the official chart.
        let chart = [
            ("vip_interface", ""),
            ("lb_enable", "true"),
            ("lb_port", "6443"),
            ("vip_subnet", "32"),
            ("cp_enable", "false"),
            ("svc_enable", "true"),
            ("address", ""),
            ("svc_election", "false"),
            ("vip_leaderelection", "false"),
            ("prometheus_server", ":2112"),
        ];
        let notes = with(&chart).unwrap().notes;
        assert_eq!(
            notes,
            [
                "balancing control-plane connections (lb_enable by variable lb_enable) has no effect without cp_enable"
            ]
        );
        // No address of the control plane is held without it, as in the Go program.
        let services =
            [("vip_arp", "true"), ("svc_enable", "true"), ("address", "192.0.2.7"), ("vip_ddns", "true")];
        let config = with(&[&services[..], &[("cp_enable", "false")]].concat()).unwrap();
        assert!(config.targets.is_empty() && config.dhcp.control_plane.is_none());
        assert_eq!(
            config.notes,
            [
                "address by variable address has no effect without cp_enable (--controlplane)",
                "vip_ddns by variable vip_ddns has no effect without cp_enable (--controlplane)"
            ]
        );
        let unelected = [
            ("vip_arp", "false"),
            ("bgp_enable", "true"),
            ("bgp_routerid", "192.0.2.9"),
            ("bgp_peers", "192.0.2.2:65001,"),
            ("vip_leaseduration", "0"),
            ("vip_renewdeadline", "0"),
            ("vip_retryperiod", "0"),
            ("vip_leaderelectiontype", "etcd"),
            ("vip_loglevel", "10"),
            ("svc_interface", "eth9"),
        ];
        let config = with(&unelected).unwrap();
        assert_eq!(config.election.lease_duration, Duration::from_secs(15));
        let notes = config.notes;
        assert!(notes.iter().any(|note| note.contains("electing in etcd")), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("lease timings")), "{notes:?}");
    }

    #[test]
    fn a_manifest_is_checked_like_the_daemon_except_for_facts_of_a_host() {
        let of_manifest = |more: &[(&str, &str)]| {
            let base = [("vip_arp", "true"), ("cp_enable", "true"), ("address", "192.0.2.1")];
            let mut env: Vec<(&str, &str)> = base.to_vec();
            for (name, value) in more {
                env.retain(|(known, _)| known != name);
                env.push((name, value));
            }
            check(raw(&env), None).map(|config| config.notes)
        };
        let sentences = |more: &[(&str, &str)]| -> Vec<String> {
            of_manifest(more).unwrap_err().iter().map(ToString::to_string).collect()
        };
        assert_eq!(of_manifest(&[("vip_interface", "eth9")]), Ok(Vec::new()));
        for (setting, part) in [
            (("address", "192.0.2.300"), "is not an IP address or a DNS name"),
            (("address", "192.0.2.50/24"), "is not an IP address or a DNS name"),
            (("vip_subnet", "33"), "is not a prefix length"),
            (("vip_interface", "an-interface-name-too-long"), "at most 15 characters"),
            (("cp_namespace", "Bad_NS"), "is not the name of a namespace"),
            (("cp_namespace", "a/b"), "is not the name of a namespace"),
            (("vip_leasename", "A_b"), "is not the name of a Lease"),
            (("vip_leaseduration", "0"), "the lease timings do not fit"),
            (("cp_enable", "false"), "no features are enabled"),
            (("lb_enable", "true"), "is not supported by this version"),
        ] {
            let problems = sentences(&[setting]);
            assert!(problems.len() == 1 && problems[0].contains(part), "{setting:?}: {problems:?}");
        }
        let bgp = [("vip_arp", "false"), ("bgp_enable", "true")];
        for (setting, part) in [
            (("bgp_routerid", "notanip"), "bgp_routerid: `notanip` is not an identifier"),
            (("bgp_peers", "192.0.2.10:abc::false"), "abc"),
            (("bgp_peers", "garbage"), "bgp_peers"),
        ] {
            let problems = sentences(&[&bgp[..], &[("bgp_peers", "192.0.2.2:65001"), setting]].concat());
            assert!(problems.len() == 1 && problems[0].contains(part), "{setting:?}: {problems:?}");
        }
        assert_eq!(of_manifest(&[&bgp[..], &[("bgp_peers", "192.0.2.2:65001")]].concat()), Ok(Vec::new()));
        let none = of_manifest(&[("vip_arp", "false")]).unwrap();
        assert!(none[0].starts_with("no valid kube-vip mode detected"), "{none:?}");
    }

    #[test]
    fn a_vip_that_this_host_needs_and_a_port_for_two_pages_are_notes() {
        let base = [("vip_arp", "true"), ("cp_enable", "true"), ("svc_enable", "true")];
        let notes = |more: &[(&str, &str)]| {
            let vip = |text: &str, prefix| Vip { address: text.parse().unwrap(), prefix };
            let facts = HostFacts {
                addresses: vec![
                    ("lo".to_owned(), vec![vip("192.0.2.7", 32)]),
                    (
                        "eth0".to_owned(),
                        vec![vip("192.0.2.8", 24), vip("2001:db8::8", 64), vip("fe80::8", 64)],
                    ),
                ],
                gateways: ["192.0.2.254".parse().unwrap()].into(),
                ..facts()
            };
            check(raw(&[&base[..], more].concat()), Some(&facts)).unwrap().notes
        };
        let owned = "is an address of this host's interface eth0, which another program has configured";
        for (setting, part) in [
            (("address", "192.0.2.1"), None),
            (("address", "192.0.2.7"), None),
            (("address", "192.0.2.8"), Some(format!("192.0.2.8 (variable address) {owned}"))),
            (("vip_address", "192.0.2.8"), Some(format!("192.0.2.8 (variable vip_address) {owned}"))),
            (("address", "192.0.2.255"), Some("is the broadcast address of eth0's 192.0.2.0/24".to_owned())),
            (("address", "2001:db8::ffff"), None),
            (("address", "198.51.100.1"), Some("is in no subnet of eth0 (192.0.2.0/24), so".to_owned())),
            (("address", "2001:db8:1::1"), Some("is in no subnet of eth0 (2001:db8::/64), so".to_owned())),
            (("address", "192.0.2.local"), None),
            (
                ("address", "192.0.2.1O"),
                Some("192.0.2.1O (variable address) is no IP address: it".to_owned()),
            ),
            (
                ("address", "192.0.2.1,192.0.2.254"),
                Some("is this host's default gateway: set the VIP".to_owned()),
            ),
        ] {
            let notes = notes(&[setting, ("vip_interface", "eth0")]);
            assert_eq!(notes.len(), usize::from(part.is_some()), "{setting:?}: {notes:?}");
            assert!(part.is_none_or(|part| notes[0].contains(&part)), "{setting:?}: {notes:?}");
        }
        for (metrics, health, noted) in [
            (":2112", "2112", true),
            ("127.0.0.1:2113", "2113", true),
            (":2112", "2113", false),
            (":2112", "0", false),
        ] {
            let vip = ("address", "192.0.2.1");
            let notes = notes(&[vip, ("prometheus_server", metrics), ("health_check_port", health)]);
            assert_eq!(notes.len(), usize::from(noted), "{metrics} {health}: {notes:?}");
            assert!(
                notes.iter().all(|note| note.contains("prometheus_server") && note.contains("change one"))
            );
        }
    }

    #[test]
    fn the_deprecated_vip_setting_needs_no_subnet() {
        let config = with(&[("address", ""), ("vip_address", "192.0.2.7")]).unwrap();
        assert_eq!(config.targets, [VipTarget::Ip("192.0.2.7".parse().unwrap())]);
    }
}
