//! What is wrong with the API server, the credentials, or the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::manifest::ServiceAccount;
use super::{Check, HostReadings, Severity};
use crate::cluster::RequestProblem;
use crate::config::file::documents;
use crate::config::{ClassRule, Config, VipTarget};
use crate::manifest::rbac::Right;
use crate::model::{Family, Tag};

/// Clocks that differ by more seconds make certificates of one host invalid on another.
const CLOCK_LIMIT: i64 = 60;

pub(super) type Response = Result<Value, RequestProblem>;

/// Why there are no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoCredentials {
    /// There is no kubeconfig: it may be created later.
    pub missing: bool,
    pub why: String,
}

/// Whether a certificate is for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    Valid,
    Invalid(String),
    Unknown(String),
}

/// What was read from the API servers.
#[derive(Debug, Clone, Default)]
pub struct ApiFacts {
    /// Where the credentials come from, or why there are none.
    pub credentials: Option<Result<String, NoCredentials>>,
    /// The pod's, whose rights were checked in place of those of the credentials.
    pub account: Option<ServiceAccount>,
    /// Each server: URL, on this host, why it does not respond.
    pub servers: Vec<(String, bool, Option<String>)>,
    /// VIPs and their names, and what clients make of the certificate of this host's API server for each.
    pub names: Vec<(String, Certificate)>,
    /// What these settings need and the credentials do not permit; or why that is unknown.
    pub denied: Option<Result<Vec<Right>, String>>,
    /// All Nodes.
    pub nodes: Option<Response>,
    /// Of the control plane.
    pub lease: Option<Response>,
    /// ConfigMaps of kube-system.
    pub kubeadm: Option<Response>,
    pub kube_proxy: Option<Response>,
    /// Names of API groups.
    pub groups: BTreeSet<String>,
    /// Load balancers of which there are objects.
    pub others: BTreeSet<&'static str>,
    /// The time of the server, or of this host.
    pub now: Option<Timestamp>,
    /// Seconds by which the server's clock is ahead.
    pub clock_difference: Option<i64>,
}

impl ApiFacts {
    /// The Node of this host: by its name, or by an address of this host.
    fn own_node<'a>(&'a self, name: &str, host: &HostReadings) -> Option<&'a Value> {
        let nodes = self.nodes.as_ref()?.as_ref().ok()?.get("items")?.as_array()?;
        let is_here = |address: &str| {
            let own = host.state.addresses.iter().filter(|own| own.tag == Tag::None && !own.deprecated);
            address.parse().is_ok_and(|address: IpAddr| own.into_iter().any(|own| own.vip.address == address))
        };
        let has_address = |node: &&Value| {
            let addresses = node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
            addresses.filter_map(|entry| entry.get("address")?.as_str()).any(is_here)
        };
        let named = nodes.iter().find(|node| name_of(node) == name);
        named.or_else(|| nodes.iter().find(has_address))
    }

    /// The name of this host's Node, where it is known.
    fn node_name(&self, config: &Config, host: &HostReadings) -> Option<String> {
        match self.own_node(&config.node_name, host).map(name_of) {
            Some(own) => Some(own.to_owned()),
            // The pod's name is not among the settings.
            None if host.named_by_pod => None,
            None => Some(config.node_name.clone()),
        }
    }

    /// Those of the pod network.
    pub(super) fn families(&self, config: &Config, host: &HostReadings) -> BTreeSet<Family> {
        let node = self.own_node(&config.node_name, host);
        let networks = node.and_then(|node| node.pointer("/spec/podCIDRs")?.as_array());
        let networks = networks.into_iter().flatten().filter_map(Value::as_str);
        let addresses = networks.filter_map(|network| network.split('/').next()?.parse().ok());
        addresses.map(Family::of).collect()
    }

    pub(super) fn responds(&self) -> bool {
        self.servers.iter().any(|(_, _, why)| why.is_none())
    }
}

fn name_of(node: &Value) -> &str {
    node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn checks(config: &Config, host: &HostReadings, facts: &ApiFacts) -> Vec<Check> {
    match &facts.credentials {
        None => return Vec::new(),
        Some(Err(NoCredentials { missing: true, .. })) if facts.account.is_some() => {
            let text = "the pod has a ServiceAccount, whose token is not on this host: name a kubeconfig for these checks by \
                        --k8sConfigPath";
            return vec![Check::new("credentials", Severity::Skipped, text)];
        }
        Some(Err(NoCredentials { missing: true, why })) => {
            let text = format!("{why}; before `kubeadm init`, nothing has to be done");
            return vec![Check::new("credentials", Severity::Warning, text)];
        }
        Some(Err(NoCredentials { why, .. })) => {
            return vec![Check::new("credentials", Severity::Error, why.as_str())];
        }
        Some(Ok(_)) => {}
    }
    let mut checks: Vec<Check> = credentials(facts).into_iter().collect();
    checks.extend(servers(config, facts));
    if !facts.responds() {
        return checks;
    }
    checks.extend(facts.names.iter().map(|(name, found)| certificate(name, found)));
    checks.extend(rights(facts));
    checks.extend(node(config, host, facts));
    checks.extend(kubeadm_endpoint(config, facts));
    if config.services.is_some() {
        checks.extend(kube_proxy(config, facts));
        checks.extend(others(config, facts));
    }
    checks.extend(clock(facts));
    checks
}

fn credentials(facts: &ApiFacts) -> Option<Check> {
    let origin = facts.credentials.as_ref()?.as_ref().ok()?;
    Some(Check::new("credentials", Severity::Ok, format!("from {origin}")))
}

fn servers(config: &Config, facts: &ApiFacts) -> Vec<Check> {
    let own_needed = !config.targets.is_empty();
    let check = |(url, local, why): &(String, bool, Option<String>)| match why {
        None => Check::new("api-server", Severity::Ok, format!("{url} responds")),
        Some(why) => {
            let severity = match facts.responds() {
                true if *local && own_needed => Severity::Warning,
                true => Severity::Ok,
                false => Severity::Error,
            };
            let remedy = match local {
                // As rustls words it, below the errors of hyper and kube.
                _ if why.contains("invalid peer certificate") => {
                    "the kubeconfig has the CA of another cluster, or the server's certificate has expired: renew the one that is \
                     wrong"
                }
                true => "check that kube-apiserver runs on this host (`crictl ps`, its log)",
                false => "check the server in the kubeconfig, and the network to it",
            };
            Check::new("api-server", severity, format!("{url} does not respond ({why}): {remedy}"))
        }
    };
    // One address of loopback is enough.
    let local_responds = facts.servers.iter().any(|(_, local, why)| *local && why.is_none());
    facts
        .servers
        .iter()
        .filter(|(_, local, why)| why.is_none() || !(*local && local_responds))
        .map(check)
        .collect()
}

fn certificate(name: &str, found: &Certificate) -> Check {
    let check = |severity, text| Check::new("certificate", severity, text);
    match found {
        Certificate::Valid => check(Severity::Ok, format!("the API server's certificate is for {name}")),
        Certificate::Unknown(why) => {
            check(Severity::Skipped, format!("the certificate for {name} cannot be read: {why}"))
        }
        Certificate::Invalid(why) => {
            let text = format!(
                "clients reject the API server's certificate for {name} ({why}): add {name} to its names, with k3s and RKE2 in \
                 `tls-san`, with kubeadm in `apiServer.certSANs` of a file with its ClusterConfiguration (then, on each \
                 control-plane node, move apiserver.crt and apiserver.key out of /etc/kubernetes/pki and run `kubeadm init phase \
                 certs apiserver --config FILE`)"
            );
            check(Severity::Error, text)
        }
    }
}

fn rights(facts: &ApiFacts) -> Option<Check> {
    let check = |severity, text| Some(Check::new("rights", severity, text));
    let who = match &facts.account {
        Some(account) => format!("the ServiceAccount {}/{}", account.namespace, account.name),
        None => "the user of the credentials".to_owned(),
    };
    let denied = match facts.denied.as_ref()? {
        Err(why) => {
            return check(
                Severity::Skipped,
                format!("rights are not checked, since the API server rejects the review: {why}"),
            );
        }
        Ok(denied) => denied,
    };
    if denied.is_empty() {
        return check(Severity::Ok, format!("{who} may do what these settings need"));
    }
    let list = denied.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let text = format!("{who} may not {list}");
    match denied.iter().any(Right::is_required) {
        true => {
            let remedy = "apply the output of `kube-vip manifest rbac` with the settings of the pod, and with `--group kube-vip:nodes` \
                          for a certificate of `kube-vip kubeconfig`";
            check(Severity::Error, format!("{text}: {remedy}"))
        }
        false => {
            let remedy = "kube-vip works without; `kube-vip manifest rbac` prints roles with all of them";
            check(Severity::Warning, format!("{text}: {remedy}"))
        }
    }
}

/// Leases of the control plane need no Node, Services do.
fn node(config: &Config, host: &HostReadings, facts: &ApiFacts) -> Option<Check> {
    let name = &config.node_name;
    let check = |severity, text| Some(Check::new("node", severity, text));
    if let Err(problem) = facts.nodes.as_ref()? {
        return check(Severity::Skipped, format!("Nodes cannot be read: {}", problem.why));
    }
    let own = facts.own_node(name, host).map(name_of);
    match own {
        Some(own) if own == name || host.named_by_pod => {
            check(Severity::Ok, format!("the Node {own} exists"))
        }
        own => {
            let severity = if config.services.is_some() { Severity::Error } else { Severity::Warning };
            let value = own.map_or_else(
                || "the name that `kubectl get nodes` prints for this host".to_owned(),
                |own| format!("{own}, which has this host's address"),
            );
            check(severity, format!("there is no Node {name}: set vip_nodename to {value}"))
        }
    }
}

/// The first document of a key of a ConfigMap; none if there is no such ConfigMap.
fn embedded(response: &Response, key: &str) -> Result<Option<Value>, String> {
    match response {
        Err(RequestProblem { code: Some(404), .. }) => Ok(None),
        Err(problem) => Err(problem.why.clone()),
        Ok(map) => {
            let text = map.pointer("/data").and_then(|data| data.get(key)?.as_str()).unwrap_or_default();
            Ok(documents(text)?.into_iter().next())
        }
    }
}

fn kubeadm_endpoint(config: &Config, facts: &ApiFacts) -> Option<Check> {
    let by_dhcp = |target: &VipTarget| matches!(target, VipTarget::Ip(address) if address.is_unspecified());
    if config.targets.is_empty() || config.targets.iter().any(by_dhcp) {
        return None;
    }
    let check = |severity, text| Some(Check::new("kubeadm-endpoint", severity, text));
    let cluster = match embedded(facts.kubeadm.as_ref()?, "ClusterConfiguration") {
        Ok(cluster) => cluster?,
        Err(why) => {
            return check(Severity::Skipped, format!("kubeadm's configuration cannot be read: {why}"));
        }
    };
    let vips = config.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let remedy = "set controlPlaneEndpoint to it in the ConfigMap kube-system/kubeadm-config, and the server in the kubeconfigs of \
                  the nodes";
    let Some(endpoint) = cluster.get("controlPlaneEndpoint").and_then(Value::as_str) else {
        let text =
            format!("kubeadm has no controlPlaneEndpoint, so that nodes do not use the VIP {vips}: {remedy}");
        return check(Severity::Warning, text);
    };
    let host = match endpoint.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => endpoint,
    };
    let host = host.trim_matches(['[', ']']);
    // A name may resolve to the VIP.
    let is_other = |address: IpAddr| config.fixed_vips().iter().all(|vip| vip.address != address);
    if !host.parse().is_ok_and(is_other) {
        return check(Severity::Ok, format!("kubeadm's controlPlaneEndpoint is {endpoint}"));
    }
    check(
        Severity::Warning,
        format!("kubeadm's controlPlaneEndpoint is {endpoint}, not the VIP {vips}: {remedy}"),
    )
}

/// In IPVS mode kube-proxy configures the addresses of all Services on an interface of each node, which then replies for them.
fn kube_proxy(config: &Config, facts: &ApiFacts) -> Option<Check> {
    let check = |severity, text| Some(Check::new("kube-proxy", severity, text));
    let proxy = match embedded(facts.kube_proxy.as_ref()?, "config.conf") {
        Ok(proxy) => proxy?,
        Err(why) => {
            return check(Severity::Skipped, format!("kube-proxy's configuration cannot be read: {why}"));
        }
    };
    let mode =
        proxy.get("mode").and_then(Value::as_str).filter(|mode| !mode.is_empty()).unwrap_or("iptables");
    let strict = proxy.pointer("/ipvs/strictARP").and_then(Value::as_bool).unwrap_or(false);
    if mode == "ipvs" && !strict && !config.is_routed() {
        let text = "kube-proxy is in IPVS mode without strictARP, so that every node replies to ARP requests for every Service: set \
                    `ipvs.strictARP: true` in the ConfigMap kube-system/kube-proxy, and restart its pods";
        return check(Severity::Error, text.to_owned());
    }
    check(Severity::Ok, format!("kube-proxy is in mode {mode}"))
}

/// Another controller that assigns or announces addresses of Services without a class.
fn others(config: &Config, facts: &ApiFacts) -> Vec<Check> {
    const OTHERS: [(&str, &str); 3] =
        [("metallb.io", "MetalLB"), ("purelb.io", "PureLB"), ("network.kubesphere.io", "OpenELB")];
    let services = config.services.as_ref();
    let by_class = services.is_some_and(|services| matches!(services.class, ClassRule::Named(_)));
    if by_class {
        return Vec::new();
    }
    let by_group = OTHERS.iter().filter(|(group, _)| facts.groups.contains(*group)).map(|(_, name)| *name);
    let check = |name: &str| {
        let text = format!(
            "{name} is installed, too, and serves the same Services: set lb_class_only=true and give Services of kube-vip its \
             load balancer class, or remove {name}"
        );
        Check::new("other-load-balancers", Severity::Warning, text)
    };
    by_group.chain(facts.others.iter().copied()).map(check).collect()
}

fn clock(facts: &ApiFacts) -> Option<Check> {
    let difference = facts.clock_difference?;
    Some(match difference.abs() > CLOCK_LIMIT {
        true => {
            let text = format!(
                "the API server's clock differs from this host's by {difference} s: synchronize both by NTP, since certificates \
                 and log lines depend on them"
            );
            Check::new("clock", Severity::Warning, text)
        }
        false => Check::new("clock", Severity::Ok, "this host and the API server agree on the time"),
    })
}

/// A Lease that expired longer ago has no holder. Clocks differ, and a node writes its own time.
const EXPIRED: SignedDuration = SignedDuration::from_secs(60);

/// The holder of the control plane's Lease; none if it is free or has expired, and unknown if it could not be read.
fn holder(facts: &ApiFacts) -> Option<Option<&str>> {
    match facts.lease.as_ref()? {
        Ok(lease) => {
            let spec = lease.get("spec");
            let renewed = spec.and_then(|spec| spec.get("renewTime")?.as_str()?.parse::<Timestamp>().ok());
            let seconds = spec.and_then(|spec| spec.get("leaseDurationSeconds")?.as_i64()).unwrap_or(0);
            let end =
                renewed.map(|renewed| renewed.saturating_add(SignedDuration::from_secs(seconds) + EXPIRED));
            let is_over = end.is_some_and(|end| end.is_ok_and(|end| facts.now.is_some_and(|now| end < now)));
            let holder = spec.and_then(|spec| spec.get("holderIdentity")?.as_str());
            Some(holder.filter(|holder| !holder.is_empty() && !is_over))
        }
        Err(RequestProblem { code: Some(404), .. }) => Some(None),
        Err(_) => None,
    }
}

/// The owner of each VIP on the segment, compared with the holder of the Lease.
pub(super) fn owners(config: &Config, host: &HostReadings, api: &ApiFacts) -> Vec<Check> {
    // Without an election several hosts have it, and routers choose one.
    if !config.elects_control_plane() || config.is_routed() {
        return Vec::new();
    }
    let node = api.node_name(config, host);
    let check = |(vip, others): (&IpAddr, &Result<BTreeSet<String>, String>)| {
        let here: Vec<_> =
            host.state.addresses.iter().filter(|address| address.vip.address == *vip).collect();
        // Those of the Go program are deprecated.
        if here.iter().any(|address| address.tag == Tag::None && !address.deprecated) {
            let text = format!(
                "another program has configured {vip} on this host, so that kube-vip does not announce it: remove it there, or \
                 choose another address"
            );
            return Check::new("vip", Severity::Error, text);
        }
        match others {
            Ok(others) => {
                let (severity, text) = owner(*vip, !here.is_empty(), others, holder(api), node.as_deref());
                Check::new("vip", severity, text)
            }
            Err(why) => Check::new("vip", Severity::Skipped, format!("{vip} is not probed: {why}")),
        }
    };
    let unknown = config.targets.iter().filter_map(|target| match target {
        VipTarget::Ip(address) if !address.is_unspecified() => None,
        VipTarget::Ip(_) => Some("its address is assigned by DHCP".to_owned()),
        VipTarget::Name(name) => Some(format!("the address of {name} is not probed")),
    });
    let unknown = unknown.map(|why| Check::new("vip", Severity::Skipped, why));
    host.owners.iter().map(check).chain(unknown).collect()
}

/// `here`: this host has the address. `others`: hardware addresses that reply for it. `node`: the name of this one, if known.
fn owner(
    vip: IpAddr,
    here: bool,
    others: &BTreeSet<String>,
    holder: Option<Option<&str>>,
    node: Option<&str>,
) -> (Severity, String) {
    let list = others.iter().cloned().collect::<Vec<_>>().join(" and ");
    let find = "find the host with this hardware address, and remove the address there";
    match (here, others.len(), holder) {
        (false, 0, Some(Some(holder))) => (
            Severity::Error,
            format!(
                "no host replies for {vip}, although {holder} holds the Lease: check `kube-vip status` there, and that the network \
                 passes ARP and neighbour discovery between these hosts"
            ),
        ),
        (false, 0, _) => (Severity::Ok, format!("no host has {vip}")),
        (true, 0, Some(Some(holder))) if node.is_some_and(|node| holder != node) => (
            Severity::Error,
            format!(
                "this host has {vip}, although {holder} holds the Lease: compare `kube-vip status` here and there"
            ),
        ),
        (true, 0, _) => (Severity::Ok, format!("this host has {vip}")),
        (false, 1, Some(Some(holder))) if Some(holder) == node => {
            (Severity::Error, format!("{list} has {vip}, although this node holds the Lease: {find}"))
        }
        (false, 1, Some(Some(holder))) => {
            (Severity::Ok, format!("{list} has {vip}, and {holder} holds the Lease"))
        }
        (false, 1, Some(None)) => (
            Severity::Error,
            format!("{list} has {vip}, and no node holds the Lease: choose a free address, or {find}"),
        ),
        (false, 1, None) => (
            Severity::Warning,
            format!(
                "{list} has {vip}, and the Lease cannot be read: before the first `kubeadm init` choose a free address, or {find}; on \
                 a node that is to join, that host should be the holder"
            ),
        ),
        (here, _, _) => {
            let this = if here { "this host and " } else { "" };
            let text = format!(
                "{this}{list} have {vip} at once: find the hosts, and remove the address from all but one"
            );
            (Severity::Error, text)
        }
    }
}

#[cfg(test)]
mod tests;
