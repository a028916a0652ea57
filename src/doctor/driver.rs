//! Reads what the checks need: kernel settings, interfaces, API objects. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::ConfigExt;
use serde_json::Value;
use tokio::time::timeout;

use super::api::{Certificate, NoCredentials, Response};
use super::manifest::ServiceAccount;
use super::rights::denied;
use super::{ApiFacts, ChainRules, Firewall, HostReadings, Report, probes, services};
use crate::cluster::{Environment, RequestProblem, Source, SourceError, within};
use crate::config::{Config, VipTarget};
use crate::host::HostState;
use crate::host::selection::main_interface;
use crate::model::interface::hardware_text;
use crate::model::{Family, IfIndex};
use crate::net::nft::rules::{Member, Ruleset};
use crate::net::{nft, sysctl};
use crate::status::Status;
use crate::telemetry::peer::effective;
use crate::telemetry::socket::{self, StatusRequest};

pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The default namespace of Leases: that of the service account.
    pub namespace: Option<String>,
    /// The pod's, whose rights are to be checked.
    pub account: Option<ServiceAccount>,
    /// The settings are those of a pod, which gets the name of its Node from Kubernetes.
    pub named_by_pod: bool,
    pub host: HostState,
    /// The interface of the default route.
    pub default_route: Option<IfIndex>,
}

/// Examines this host and what it is connected to. It takes a few seconds.
pub async fn examine(config: &Config, context: &Context) -> Report {
    // One reply for each process; an older version may reply in another form.
    let replies = socket::request(StatusRequest::Status).await.unwrap_or_default();
    let running = !replies.is_empty();
    let states: Vec<Status> =
        replies.iter().flatten().filter_map(|reply| socket::parse(reply).ok()).collect();
    let host = read_host(config, context, running).await;
    let api = read_api(config, context, &host).await;
    let mut network = probes::peers(config, &host, &states).await;
    network.extend(services::checks(config, &host).await);
    Report::of(config, &host, &api, network)
}

async fn read_host(config: &Config, context: &Context, running: bool) -> HostReadings {
    let state = &context.host;
    let interface = main_interface(config, state, context.default_route);
    let mut owners = BTreeMap::new();
    if let Some(interface) = interface.filter(|it| it.up && it.has_neighbours() && !config.is_routed()) {
        // Of several interfaces on one segment each may reply.
        let own: BTreeSet<String> =
            state.interfaces.iter().map(|interface| hardware_text(&interface.hardware_address)).collect();
        for address in config.fixed_vips().iter().map(|vip| vip.address) {
            let found = match config.layer2.skip_probes[Family::of(address)] {
                true => Err("the settings exclude probes".to_owned()),
                false => probes::owners(interface, address).await.map_err(|error| error.to_string()),
            };
            owners.insert(address, found.map(|found| found.difference(&own).cloned().collect()));
        }
    }
    let name = interface.map(|interface| interface.name.clone()).or_else(|| config.interface.clone());
    let advertised = advertised();
    let names = name.iter().chain(&advertised).map(String::as_str).collect();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    HostReadings {
        capabilities: effective(&status).unwrap_or(0),
        sysctls: sysctls(&names),
        reverse_path_for_all: sysctl::reverse_path_for_all(),
        advertised,
        taken_ports: if running { Vec::new() } else { probes::taken_ports(config).await },
        firewall: firewall(),
        state: state.clone(),
        interface: name,
        default_route: state
            .interfaces
            .iter()
            .find(|interface| Some(interface.index) == context.default_route)
            .map(|interface| interface.name.clone()),
        owners,
        running,
        named_by_pod: context.named_by_pod,
    }
}

fn sysctls(interfaces: &BTreeSet<&str>) -> BTreeMap<String, i64> {
    let fixed = [
        vec!["net", "ipv4", "ip_forward"],
        vec!["net", "ipv4", "conf", "all", "arp_ignore"],
        vec!["net", "ipv6", "conf", "all", "forwarding"],
    ];
    let of_interfaces = interfaces.iter().flat_map(|name| {
        [vec!["net", "ipv4", "conf", name, "arp_ignore"], vec!["net", "ipv6", "conf", name, "accept_ra"]]
    });
    // The name of an interface may have a dot, which is no separator in a path.
    let read = |path: Vec<&str>| {
        let text = std::fs::read_to_string(Path::new("/proc/sys").join(path.join("/"))).ok()?;
        Some((path.join("."), text.trim().parse().ok()?))
    };
    fixed.into_iter().chain(of_interfaces).filter_map(read).collect()
}

fn firewall() -> Firewall {
    let missing =
        nft::missing_families().into_iter().map(|(family, error)| (family, error.to_string())).collect();
    let dropping = Ruleset::read().map(|Ruleset { dropping, rules, .. }| {
        let rules_of = |chain: &Member| {
            let of_chain = || rules.iter().filter(|rule| rule.chain == *chain);
            let jumps = of_chain().filter_map(|rule| rule.target.clone()).collect();
            ChainRules { jumps, accepts: of_chain().any(|rule| rule.accepts) }
        };
        dropping.into_iter().map(|chain| (format!("chain {chain}"), rules_of(&chain))).collect()
    });
    Firewall { missing, dropping: dropping.map_err(|error| error.to_string()) }
}

/// Interfaces with a default route by router advertisement, by the flags of route(8) in proc(5).
fn advertised() -> BTreeSet<String> {
    const DEFAULT: u32 = 0x0001_0000; // RTF_DEFAULT
    const BY_ADVERTISEMENT: u32 = 0x0004_0000; // RTF_ADDRCONF
    let routes = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let interface = |line: &str| {
        let mut words = line.split_whitespace();
        let flags = u32::from_str_radix(words.nth(8)?, 16).ok()?;
        let name = words.next()?;
        (flags & (DEFAULT | BY_ADVERTISEMENT) == DEFAULT | BY_ADVERTISEMENT).then(|| name.to_owned())
    };
    routes.lines().filter_map(interface).collect()
}

async fn read_api(config: &Config, context: &Context, host: &HostReadings) -> ApiFacts {
    let mut facts = ApiFacts { account: context.account.clone(), ..ApiFacts::default() };
    let environment = Environment::of(config, &host.state.addresses);
    let source = match Source::load(&config.api, &environment).await {
        Ok(source) => source,
        Err(error) => {
            let missing = matches!(error, SourceError::Missing { .. });
            let credentials = Some(Err(NoCredentials { missing, why: error.to_string() }));
            return ApiFacts { credentials, ..facts };
        }
    };
    facts.credentials = Some(Ok(source.origin.clone()));
    let mut first = None;
    for endpoint in &source.endpoints {
        let response = match endpoint.connect(&source.base) {
            Ok(client) => get(&client, "/version").await.map(|_| client),
            Err(error) => {
                let why = format!("the credentials of {} cannot be used: {error}", source.origin);
                return ApiFacts { credentials: Some(Err(NoCredentials { missing: false, why })), ..facts };
            }
        };
        if let Err(RequestProblem { code: Some(401), .. }) = response {
            let why = format!(
                "{} does not accept the credentials of {}: renew them, or name others by k8s_config_file",
                endpoint.url, source.origin
            );
            return ApiFacts { credentials: Some(Err(NoCredentials { missing: false, why })), ..facts };
        }
        let why = response.as_ref().err().map(|problem| problem.why.clone());
        facts.servers.push((endpoint.url.clone(), endpoint.local, why));
        if let Ok(client) = response
            && first.is_none()
        {
            first = Some((endpoint, client));
        }
    }
    let Some((endpoint, client)) = first else { return facts };
    if endpoint.local {
        let tls = source.base.rustls_client_config().map(Arc::new).map_err(|error| error.to_string());
        for target in &config.targets {
            let name = match target {
                VipTarget::Ip(address) if address.is_unspecified() => continue,
                VipTarget::Ip(address) => address.to_string(),
                VipTarget::Name(name) => name.clone(),
            };
            let found = match &tls {
                _ if source.base.accept_invalid_certs => {
                    Certificate::Unknown("the kubeconfig has insecure-skip-tls-verify".to_owned())
                }
                Ok(tls) => probes::certificate(&endpoint.url, &name, tls.clone()).await,
                Err(why) => Certificate::Unknown(why.clone()),
            };
            facts.names.push((name, found));
        }
    }
    facts.denied = Some(denied(config, context, &client).await);
    read_objects(config, &client, &mut facts).await;
    facts
}

async fn read_objects(config: &Config, client: &Client, facts: &mut ApiFacts) {
    facts.nodes = Some(get(client, "/api/v1/nodes").await);
    let config_map = |name| format!("/api/v1/namespaces/kube-system/configmaps/{name}");
    facts.kubeadm = Some(get(client, &config_map("kubeadm-config")).await);
    facts.kube_proxy = Some(get(client, &config_map("kube-proxy")).await);
    if let Some(lease) = config.control_plane_lease() {
        let path =
            format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}", lease.namespace, lease.name);
        facts.lease = Some(get(client, &path).await);
    }
    if config.services.is_some() {
        facts.others = other_load_balancers(client).await;
    }
    let groups = get(client, "/apis").await.unwrap_or_default();
    let groups = groups.get("groups").and_then(Value::as_array).into_iter().flatten();
    facts.groups = groups.filter_map(|group| group.get("name")?.as_str().map(str::to_owned)).collect();
    facts.clock_difference = clock_difference(client).await;
    let ahead = SignedDuration::from_secs(facts.clock_difference.unwrap_or(0));
    facts.now = Timestamp::now().checked_add(ahead).ok();
}

/// Load balancers that an API group alone does not show.
async fn other_load_balancers(client: &Client) -> BTreeSet<&'static str> {
    const BY_LIST: [(&str, &str); 3] = [
        (
            "k3s ServiceLB",
            "/apis/apps/v1/namespaces/kube-system/daemonsets?limit=1&labelSelector=svccontroller.k3s.cattle.io%2Fsvcname",
        ),
        ("Cilium LB IPAM", "/apis/cilium.io/v2/ciliumloadbalancerippools?limit=1"),
        ("Cilium LB IPAM", "/apis/cilium.io/v2alpha1/ciliumloadbalancerippools?limit=1"),
    ];
    let mut found = BTreeSet::new();
    for (name, path) in BY_LIST {
        let list = get(client, path).await.unwrap_or_default();
        if list.get("items").and_then(Value::as_array).is_some_and(|items| !items.is_empty()) {
            found.insert(name);
        }
    }
    found
}

async fn get(client: &Client, path: &str) -> Response {
    let request = Request::get(path).body(Vec::new());
    let request = request.map_err(|error| RequestProblem { code: None, why: error.to_string() })?;
    within(REQUEST_TIMEOUT, client.request::<Value>(request)).await
}

/// Seconds by which the server's clock is ahead, by the header `Date` (RFC 9110 §6.6.1).
async fn clock_difference(client: &Client) -> Option<i64> {
    let request = Request::get("/version").body(kube::client::Body::empty()).ok()?;
    let response = timeout(REQUEST_TIMEOUT, client.send(request)).await.ok()?.ok()?;
    let date = response.headers().get(http::header::DATE)?.to_str().ok()?;
    let server = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(server.as_second() - Timestamp::now().as_second())
}
