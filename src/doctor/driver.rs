//! Reads what the checks need: kernel settings, interfaces, API objects. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::api::{ApiProblem, NoCredentials, Response};
use super::{ApiFacts, HostFacts, Report, probes};
use crate::cluster::{Environment, Source, SourceError};
use crate::config::{Config, Values, VipTarget};
use crate::host::HostState;
use crate::host::observer::Observer;
use crate::host::selection::main_interface;
use crate::manifest::rbac::{self, Right};
use crate::model::interface::hardware_text;
use crate::model::text::with_causes;
use crate::model::{Family, Interface, Tags};
use crate::status::Status;
use crate::telemetry::socket::{self, StatusRequest};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Reviews of rights that are sent at once.
const REVIEWS: usize = 8;

/// What is known besides the configuration.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The default namespace of Leases: that of the service account.
    pub namespace: Option<String>,
    /// The settings are those of a pod, which knows the name of its Node.
    pub named_by_pod: bool,
}

/// Examines this host and what it is connected to. It takes a few seconds.
///
/// # Errors
/// If interfaces and addresses cannot be read.
pub async fn examine(config: &Config, context: &Context) -> Result<Report, String> {
    // One reply for each process; an older version may reply in another form.
    let replies = socket::request(StatusRequest::Status).await.unwrap_or_default();
    let running = !replies.is_empty();
    let states: Vec<Status> =
        replies.iter().flatten().filter_map(|reply| socket::parse(reply).ok()).collect();
    let host = HostFacts { named_by_pod: context.named_by_pod, ..read_host(config, running).await? };
    let api = read_api(config, context, &host).await;
    let peers = probes::peers(config, &host, &states).await;
    Ok(Report::of(config, &host, &api, peers))
}

async fn read_host(config: &Config, running: bool) -> Result<HostFacts, String> {
    let failed = |error: crate::net::netlink::NetlinkError| error.to_string();
    let observer = Observer::start(None, Tags::default()).await.map_err(failed)?;
    let default_route = observer.default_route_interface().await.map_err(failed)?;
    let state = observer.subscribe().borrow().clone();
    let interface: Option<Interface> = main_interface(config, &state, default_route).cloned();
    let vips = config.fixed_vips();
    let mut owners = BTreeMap::new();
    if let Some(interface) =
        interface.as_ref().filter(|it| it.up && it.has_neighbours() && !config.is_routed())
    {
        for address in vips.iter().map(|vip| vip.address) {
            let found = match config.layer2.skip_probes[Family::of(address)] {
                true => Err("the settings exclude probes".to_owned()),
                false => probes::owners(interface, address).await.map_err(|error| error.to_string()),
            };
            // Of several interfaces on one segment each may reply.
            let own: Vec<String> =
                state.interfaces.iter().map(|interface| hardware_text(&interface.hardware_address)).collect();
            owners.insert(
                address,
                found.map(|found| found.into_iter().filter(|mac| !own.contains(mac)).collect()),
            );
        }
    }
    let name = interface.map(|interface| interface.name).or_else(|| config.interface.clone());
    let advertised = advertised();
    let names = name.iter().chain(&advertised).map(String::as_str).collect();
    Ok(HostFacts {
        capabilities: capabilities(),
        sysctls: sysctls(&names),
        advertised,
        taken_ports: if running { Vec::new() } else { probes::taken_ports(config) },
        state: HostState::clone(&state),
        interface: name,
        owners,
        running,
        named_by_pod: false,
    })
}

/// From proc(5).
fn capabilities() -> BTreeSet<u8> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    (0..64).filter(|number| bits >> number & 1 == 1).collect()
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

async fn read_api(config: &Config, context: &Context, host: &HostFacts) -> ApiFacts {
    let mut facts = ApiFacts::default();
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
            Err(error) => Err(ApiProblem { code: None, why: error.to_string() }),
        };
        if let Err(ApiProblem { code: Some(401), .. }) = response {
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
        let roots = source.base.root_cert.clone().unwrap_or_default();
        for target in &config.targets {
            let name = match target {
                VipTarget::Ip(address) if address.is_unspecified() => continue,
                VipTarget::Ip(address) => address.to_string(),
                VipTarget::Name(name) => name.clone(),
            };
            let found = probes::certificate(&endpoint.url, &name, &roots).await;
            facts.names.push((name, found));
        }
    }
    facts.denied = Some(denied(config, context.namespace.as_deref(), &client).await);
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
    let groups = get(client, "/apis").await.unwrap_or_default();
    let groups = groups.get("groups").and_then(Value::as_array).into_iter().flatten();
    facts.groups = groups.filter_map(|group| group.get("name")?.as_str().map(str::to_owned)).collect();
    facts.clock_difference = clock_difference(client).await;
}

/// Rights that the API server refuses.
async fn denied(config: &Config, namespace: Option<&str>, client: &Client) -> Result<Vec<Right>, String> {
    let values = Values::read(config.raw.clone())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let reviews = rbac::rights(&values, namespace).into_iter().map(|right| async move {
        let response =
            send(client, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review(&right)).await;
        let response = response.map_err(|problem| problem.why)?;
        let allowed = response.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false);
        Ok(Some(right).filter(|_| !allowed))
    });
    let results: Vec<Result<Option<Right>, String>> =
        futures::stream::iter(reviews).buffered(REVIEWS).collect().await;
    let denied: Result<Vec<Option<Right>>, String> = results.into_iter().collect();
    Ok(denied?.into_iter().flatten().collect())
}

fn review(right: &Right) -> Value {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": {
            "namespace": right.namespace, "group": right.group, "resource": resource, "subresource": subresource,
            "name": right.name, "verb": right.verb,
        } },
    })
}

async fn get(client: &Client, path: &str) -> Response {
    call(client, Request::get(path).body(Vec::new())).await
}

async fn send(client: &Client, path: &str, body: &Value) -> Response {
    let request = Request::post(path).header("content-type", "application/json");
    call(client, request.body(body.to_string().into_bytes())).await
}

async fn call(client: &Client, request: http::Result<Request<Vec<u8>>>) -> Response {
    let problem = |why: String| ApiProblem { code: None, why };
    let request = request.map_err(|error| problem(error.to_string()))?;
    match timeout(REQUEST_TIMEOUT, client.request::<Value>(request)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => {
            Err(ApiProblem { code: Some(status.code), why: status.message.clone() })
        }
        Ok(Err(error)) => Err(problem(with_causes(&error).trim_start_matches("ServiceError: ").to_owned())),
        Err(_elapsed) => Err(problem("no response in time".to_owned())),
    }
}

/// Seconds by which the server's clock is ahead, by the header `Date` (RFC 9110 §6.6.1).
async fn clock_difference(client: &Client) -> Option<i64> {
    let request = Request::get("/version").body(kube::client::Body::empty()).ok()?;
    let response = timeout(REQUEST_TIMEOUT, client.send(request)).await.ok()?.ok()?;
    let date = response.headers().get(http::header::DATE)?.to_str().ok()?;
    let server = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(server.as_second() - jiff::Timestamp::now().as_second())
}
