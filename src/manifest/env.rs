//! The environment of the container, in the Go program's order; what it forgets to emit comes last.

use serde_json::{Value, json};

use crate::config::vip_target::targets;
use crate::config::{Key, Raw, SETTINGS, VipTarget};

/// The list for `spec.containers[0].env`.
pub(super) fn list(raw: &Raw) -> Vec<Value> {
    let mut env = Env { raw, list: Vec::new(), done: vec![Key::NodeName, Key::ConfigFile, Key::ConfigMap] };
    env.always(&[Key::Arp, Key::Port]);
    env.list.push(json!({
        "name": Key::NodeName.name(),
        "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } },
    }));
    env.if_set(&[Key::InstanceName, Key::Interface]);
    if !raw.text(Key::Interface).is_empty() {
        env.if_set(&[Key::LoGlobalScope]);
    }
    env.if_set(&[Key::ServicesInterface, Key::AllowInterfaceNotUp]);
    env.value(Key::VipSubnet, subnet(raw));
    env.always(&[Key::DnsMode]);
    env.value(Key::DhcpMode, dhcp_mode(raw));
    env.if_set(&[Key::DhcpBackoffAttempts]);
    if raw.bool(Key::ControlPlane) {
        env.always(&[Key::ControlPlane, Key::Namespace]);
        env.if_set(&[Key::Ddns, Key::DetectControlPlane]);
    }
    if raw.bool(Key::Services) {
        env.always(&[Key::Services, Key::ServicesLeaseName]);
        env.if_set(&[Key::ServicesElection, Key::ClassOnly, Key::ServiceSecurity]);
    }
    if raw.bool(Key::LeaderElection) {
        env.always(&[Key::LeaderElection, Key::LeaseName]);
        env.always(&[Key::LeaseDuration, Key::RenewDeadline, Key::RetryPeriod]);
    }
    if raw.bool(Key::LoseLeadership) {
        env.always(&[Key::LoseLeadership, Key::LoseLeadershipTimeout]);
    }
    env.if_set(&[Key::NodeLabeling, Key::BgpAnnotations, Key::Wireguard, Key::RoutingTable]);
    if raw.bool(Key::Bgp) {
        env.always(&[Key::Bgp]);
        env.if_set(&[Key::BgpAttach]);
        env.always(&[Key::BgpRouterId, Key::BgpAs, Key::BgpPeerAddress, Key::BgpPeerPass, Key::BgpPeerAs]);
        env.if_set(&[Key::BgpSourceIf, Key::BgpSourceIp, Key::BgpPeers]);
    }
    if !raw.text(Key::HealthAddress).is_empty() {
        env.always(&[Key::HealthAddress, Key::HealthPeriod, Key::HealthTimeout, Key::HealthThreshold]);
        env.if_set(&[Key::HealthCa]);
    }
    if raw.bool(Key::LoadBalancer) {
        env.always(&[Key::LoadBalancer, Key::LoadBalancerPort, Key::LoadBalancerForwarding]);
    }
    let address = if raw.text(Key::Address).is_empty() { Key::VipAddress } else { Key::Address };
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

    /// What differs from the default and was not emitted yet.
    fn if_set(&mut self, keys: &[Key]) {
        for key in keys {
            let value = self.raw.text(*key);
            // Who says no to gateways says more than who says nothing: the cloud provider cannot say yes then.
            let no = *key == Key::Upnp && self.raw.is_set(Key::Upnp);
            if no || value != key.setting().default {
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

/// The prefix lengths, derived from `address` where they are not given. A name's families are not known here.
fn subnet(raw: &Raw) -> Option<String> {
    let configured = raw.text(Key::VipSubnet);
    if !configured.is_empty() {
        return Some(configured.to_owned());
    }
    if raw.text(Key::Address).is_empty() {
        return None;
    }
    let targets = targets(raw);
    let has =
        |v4: bool| targets.iter().any(|target| matches!(target, VipTarget::Ip(ip) if ip.is_ipv4() == v4));
    if targets.iter().any(|target| matches!(target, VipTarget::Name(_))) {
        return None;
    }
    match (has(true), has(false)) {
        (true, true) => Some("32,128".to_owned()),
        (true, false) => Some("32".to_owned()),
        (false, true) => Some("128".to_owned()),
        (false, false) => None,
    }
}

/// Follows `dns_mode` unless it is given.
fn dhcp_mode(raw: &Raw) -> Option<String> {
    let mode = match (raw.text(Key::DhcpMode), raw.text(Key::DnsMode)) {
        ("", "first") => "ipv4",
        ("", dns) => dns,
        (given, _) => given,
    };
    Some(mode.to_owned())
}
