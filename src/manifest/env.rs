//! The environment of the container, in the Go program's order; settings that it does not emit come last.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::config::vip;
use crate::config::{Key, Raw, SETTINGS, Values, VipTarget};

/// The list for `spec.containers[0].env`.
pub(super) fn list(values: &Values) -> Vec<Value> {
    let mut env = Env {
        raw: &values.raw,
        list: Vec::new(),
        done: vec![Key::NodeName, Key::ConfigFile, Key::ConfigMap],
    };
    env.always(&[Key::Arp, Key::Port]);
    env.list.push(json!({
        "name": Key::NodeName.name(),
        "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } },
    }));
    env.if_set(&[Key::InstanceName, Key::Interface]);
    if values.interface.is_some() {
        env.if_set(&[Key::LoGlobalScope]);
    }
    env.if_set(&[Key::ServicesInterface, Key::AllowInterfaceNotUp]);
    env.value(Key::VipSubnet, subnet(values));
    env.always(&[Key::DnsMode]);
    env.value(Key::DhcpMode, dhcp_mode(&values.raw));
    env.if_set(&[Key::DhcpBackoffAttempts]);
    if values.control_plane {
        env.always(&[Key::ControlPlane, Key::Namespace]);
        env.if_set(&[Key::Ddns, Key::DetectControlPlane]);
    }
    if values.services {
        env.always(&[Key::Services, Key::ServicesLeaseName]);
        env.if_set(&[Key::ServicesElection, Key::ClassOnly, Key::ServiceSecurity]);
    }
    if values.leader_election {
        env.always(&[Key::LeaderElection, Key::LeaseName]);
        env.always(&[Key::LeaseDuration, Key::RenewDeadline, Key::RetryPeriod]);
    }
    if values.lose_leadership {
        env.always(&[Key::LoseLeadership, Key::LoseLeadershipTimeout]);
    }
    env.if_set(&[Key::NodeLabeling, Key::BgpAnnotations, Key::Wireguard, Key::RoutingTable]);
    if values.bgp {
        env.always(&[Key::Bgp]);
        env.if_set(&[Key::BgpAttach]);
        env.always(&[Key::BgpRouterId, Key::BgpAs, Key::BgpPeerAddress, Key::BgpPeerPass, Key::BgpPeerAs]);
        env.if_set(&[Key::BgpSourceIf, Key::BgpSourceIp, Key::BgpPeers]);
    }
    if values.health_address.is_some() {
        env.always(&[Key::HealthAddress, Key::HealthPeriod, Key::HealthTimeout, Key::HealthThreshold]);
        env.if_set(&[Key::HealthCa]);
    }
    if values.load_balancer {
        env.always(&[Key::LoadBalancer, Key::LoadBalancerPort, Key::LoadBalancerForwarding]);
    }
    let address = if values.address.is_empty() { Key::VipAddress } else { Key::Address };
    env.always(&[address, Key::MetricsAddress]);
    env.done.extend([Key::Address, Key::VipAddress]);
    env.if_set(&[Key::EnableEndpoints, Key::DisableServiceUpdates, Key::MirrorInterface, Key::HealthPort]);
    env.if_set(&[Key::PreserveVip, Key::DebounceTime]);
    for setting in SETTINGS {
        env.if_set(&[setting.key]);
    }
    env.list
}

struct Env<'a> {
    raw: &'a Raw,
    list: Vec<Value>,
    done: Vec<Key>,
}

impl Env<'_> {
    fn always(&mut self, keys: &[Key]) {
        for key in keys {
            self.value(*key, Some(self.raw.text(*key).to_owned()));
        }
    }

    /// Emits values that differ from the default and are not there yet.
    fn if_set(&mut self, keys: &[Key]) {
        for key in keys {
            let value = self.raw.text(*key);
            // An explicit `false` also overrides the cloud provider's `--upnp`.
            let explicit = *key == Key::Upnp && self.raw.is_set(Key::Upnp);
            if explicit || value != key.setting().default {
                self.value(*key, Some(value.to_owned()));
            }
        }
    }

    fn value(&mut self, key: Key, value: Option<String>) {
        if self.done.contains(&key) || key.setting().env.is_empty() {
            return;
        }
        self.done.push(key);
        match value {
            Some(value) if value.is_empty() => self.list.push(json!({ "name": key.name() })),
            Some(value) => self.list.push(json!({ "name": key.name(), "value": value })),
            None => {}
        }
    }
}

/// The given prefix lengths, or those of host routes for the families of `address`; none if that contains a name.
fn subnet(values: &Values) -> Option<String> {
    let configured = values.raw.text(Key::VipSubnet);
    if !configured.is_empty() {
        return Some(configured.to_owned());
    }
    if values.address.is_empty() {
        return None;
    }
    let is_v4 = |target: &VipTarget| match target {
        VipTarget::Ip(address) => Some(address.is_ipv4()),
        VipTarget::Name(_) => None,
    };
    let families: BTreeSet<bool> = vip::configured(values).iter().map(is_v4).collect::<Option<_>>()?;
    let length = |is_v4| if is_v4 { "32" } else { "128" };
    Some(families.into_iter().rev().map(length).collect::<Vec<_>>().join(","))
}

/// Follows `dns_mode` unless given.
fn dhcp_mode(raw: &Raw) -> Option<String> {
    let mode = match (raw.text(Key::DhcpMode), raw.text(Key::DnsMode)) {
        ("", "first") => "ipv4",
        ("", dns) => dns,
        (given, _) => given,
    };
    Some(mode.to_owned())
}
