//! Three hosts with agents that announce Services, for tests, demo and benchmarks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::agent::Rights;
use crate::control_plane::LOCAL;
use crate::lab::Lab;
use crate::sampler::Sampler;
use crate::{Administrator, Agent, AgentOptions, Follower, LabOptions, Namespace, Objects, Result, wait_for};

/// Addresses for Services: routed to the segment by every host, on no subnet of theirs.
pub const NETWORK_V4: &str = "10.43.0.0/16";
/// The same for IPv6.
pub const NETWORK_V6: &str = "fd43::/64";
/// The default of `routing_protocol`, which no test of Services changes.
const ROUTING_PROTOCOL: &str = "248";

/// Hosts whose agents announce Services.
pub struct ServiceLab {
    /// The agent on each host, where one was started.
    pub agents: Vec<Option<Agent>>,
    /// Watches which host has which of the addresses that were named at the start.
    pub sampler: Sampler,
    /// Follows the Services.
    pub follower: Follower,
    /// How agents are started.
    pub options: AgentOptions,
    plain: AgentOptions,
    admin: Administrator,
    /// The hosts.
    pub lab: Lab,
}

impl AsRef<Lab> for ServiceLab {
    fn as_ref(&self) -> &Lab {
        &self.lab
    }
}

impl ServiceLab {
    /// Bring up hosts and API servers, but no agents yet.
    pub fn start(program: &str, watched: &[IpAddr]) -> Result<Self> {
        let lab = Lab::start(LabOptions { hosts: 3, control_plane: true })?;
        let admin = Administrator::new(&lab, 0)?;
        create_nodes(&lab, admin.objects(&lab))?;
        for namespace in lab.hosts.iter().map(|host| &host.namespace).chain([&lab.client_host]) {
            namespace.ip(&["route", "add", NETWORK_V4, "dev", "eth0"])?;
            namespace.ip(&["-6", "route", "add", NETWORK_V6, "dev", "eth0"])?;
        }
        let options = AgentOptions { address: String::new(), ..AgentOptions::new(&lab, program) };
        let options = options.with_server(LOCAL);
        let options = options.with("cp_enable", "false").with("svc_enable", "true");
        // Tests use every annotation in this namespace.
        let options = options.with("svc_infrastructure_namespaces", "default");
        let plain = options.clone();
        let sampler = Sampler::watching(&lab, watched)?;
        let follower = Follower::start(&lab, 0)?;
        let agents = lab.hosts.iter().map(|_| None).collect();
        Ok(Self { agents, sampler, follower, options, plain, admin, lab })
    }

    /// Take the rights of agents with these options away.
    pub fn revoke(&self) -> Result<()> {
        let Rights { group, manifest, .. } = self.options.rights(self.lab.host(0))?;
        self.objects().revoke(&group, &manifest)
    }

    /// Give them back.
    pub fn restore(&self) -> Result<()> {
        let Rights { group, settings, manifest } = self.options.rights(self.lab.host(0))?;
        self.objects().grant(&group, &settings, &manifest)
    }

    /// Default options of agents: Services without the control plane, one election.
    pub fn plain_options(&self) -> AgentOptions {
        self.plain.clone()
    }

    /// Start an agent on every host that has none.
    pub fn start_agents(&mut self) -> Result<()> {
        for index in 0..self.lab.hosts.len() {
            self.start_agent(index)?;
        }
        Ok(())
    }

    /// Start an agent on a host, unless one runs there.
    pub fn start_agent(&mut self, index: usize) -> Result<()> {
        let host = self.lab.host(index);
        if let Some(slot) = self.agents.get_mut(index) {
            drop(slot.take_if(|agent| agent.ended().is_some()));
            if slot.is_none() {
                *slot = Some(Agent::start(host, &self.options)?);
            }
        }
        Ok(())
    }

    /// As at the start: no agents, no addresses or routes of theirs, no Services, no Leases, no Events.
    pub fn reset(&mut self) -> Result<()> {
        self.kill_agents();
        self.lab.heal()?;
        for service in self.objects().services("default")? {
            let name = service.metadata.name.unwrap_or_default();
            if name != "kubernetes" {
                self.delete(&name)?;
            }
        }
        for lease in self.objects().leases()? {
            self.objects().delete::<Lease>(&lease)?;
        }
        self.objects().delete_events()?;
        // The kernel would remove the addresses of killed agents a few seconds later, and their routes never.
        for host in &self.lab.hosts {
            remove_addresses(&host.namespace, self.sampler.addresses())?;
            for family in ["-4", "-6"] {
                host.namespace.ip(&[family, "route", "flush", "table", "all", "proto", ROUTING_PROTOCOL])?;
            }
        }
        wait_for("the addresses of killed agents to be removed", 20, || {
            self.sampler.latest()?.holds.iter().all(Vec::is_empty).then_some(())
        })
    }

    /// Stop all agents with SIGKILL.
    pub fn kill_agents(&mut self) {
        self.agents.iter_mut().for_each(|slot| *slot = None);
    }

    /// The agent on a host.
    #[expect(clippy::expect_used, reason = "a test may only use an agent that it started")]
    pub fn agent(&mut self, index: usize) -> &mut Agent {
        self.agents.get_mut(index).and_then(Option::as_mut).expect("an agent on that host")
    }

    /// Stop all agents with SIGTERM.
    pub fn stop_agents(&mut self) -> Result<()> {
        self.agents.iter().flatten().for_each(|agent| agent.terminate());
        self.agents.iter_mut().flatten().try_for_each(|agent| agent.wait(10).map(drop))?;
        self.agents.iter_mut().for_each(|slot| *slot = None);
        Ok(())
    }

    /// The objects of the cluster.
    pub fn objects(&self) -> Objects<'_> {
        self.admin.objects(&self.lab)
    }

    /// Create a Service of type LoadBalancer with these addresses in its annotation, and port 80.
    pub fn create(&self, name: &str, addresses: &str, spec: Value) -> Result<()> {
        let mut full = json!({
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": false,
            "ports": [{ "port": 80, "protocol": "TCP" }],
        });
        if let (Some(full), Some(more)) = (full.as_object_mut(), spec.as_object()) {
            full.extend(more.clone());
        }
        let annotations = match addresses {
            "" => json!({}),
            _ => json!({ "kube-vip.io/loadbalancerIPs": addresses }),
        };
        let object = json!({ "metadata": { "annotations": annotations }, "spec": full });
        self.objects().create::<Service>(name, object)
    }

    /// Write annotations of a Service; `null` takes one away.
    pub fn annotate(&self, name: &str, annotations: Value) -> Result<()> {
        self.objects().patch::<Service>(name, json!({ "metadata": { "annotations": annotations } }))
    }

    /// Set the nodes that have endpoints of a Service, one of each family, in one of its slices for each. A leading `-` marks
    /// nodes whose endpoints are not ready.
    pub fn set_endpoints(&self, service: &str, slice: &str, nodes: &[&str]) -> Result<()> {
        self.set_endpoints_of("IPv4", service, slice, nodes)?;
        self.set_endpoints_of("IPv6", service, &format!("{slice}-6"), nodes)
    }

    /// The same for one family.
    pub fn set_endpoints_of(&self, family: &str, service: &str, slice: &str, nodes: &[&str]) -> Result<()> {
        let network = if family == "IPv4" { "10.244.0." } else { "fd00:10:244::" };
        let endpoint = |(number, node): (usize, &&str)| {
            let name = node.trim_start_matches('-');
            let ready = name.len() == node.len();
            json!({
                "addresses": [format!("{network}{}", number + 2)],
                "conditions": { "ready": ready, "serving": ready, "terminating": false },
                "nodeName": name,
            })
        };
        let endpoints: Vec<Value> = nodes.iter().enumerate().map(endpoint).collect();
        let name = format!("{service}-{slice}");
        let object = json!({
            "metadata": { "labels": { "kubernetes.io/service-name": service } },
            "addressType": family,
            "endpoints": endpoints,
            "ports": [{ "port": 8080, "protocol": "TCP" }],
        });
        self.objects().create::<EndpointSlice>(&name, object)?;
        self.objects().patch::<EndpointSlice>(&name, json!({ "endpoints": endpoints }))
    }

    /// A Service with an address and an endpoint on every node.
    pub fn serve(&self, name: &str, addresses: &str) -> Result<()> {
        self.create(name, addresses, json!({}))?;
        self.set_endpoints(name, "a", &["node-1", "node-2", "node-3"])
    }

    /// The same for many Services at once, each with its address.
    pub fn serve_all(&self, services: &[(String, String)]) -> Result<()> {
        let slices = services.iter().map(|(name, address)| {
            let (family, network) =
                if address.contains(':') { ("IPv6", "fd00:10:244::") } else { ("IPv4", "10.244.0.") };
            let endpoint = |number: i32| json!({ "addresses": [format!("{network}{number}")], "nodeName": format!("node-{number}") });
            json!({
                "metadata": { "name": format!("{name}-a"), "labels": { "kubernetes.io/service-name": name } },
                "addressType": family,
                "endpoints": (1..=3).map(endpoint).collect::<Vec<Value>>(),
                "ports": [{ "port": 8080 }],
            })
        });
        self.objects().create_all::<EndpointSlice>(slices.collect())?;
        let services = services.iter().map(|(name, address)| {
            json!({
                "metadata": { "name": name, "annotations": { "kube-vip.io/loadbalancerIPs": address } },
                "spec": {
                    "type": "LoadBalancer",
                    "allocateLoadBalancerNodePorts": false,
                    "ports": [{ "port": 80 }],
                },
            })
        });
        self.objects().create_all::<Service>(services.collect())
    }

    /// The answer of one host's API server to a GET of any path.
    pub fn raw(&self, host: usize, path: &str) -> Result<String> {
        let admin = Administrator::new(&self.lab, host)?;
        admin.objects(&self.lab).raw(path)
    }

    /// Delete a Service and all its slices.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.objects().delete::<Service>(name)?;
        for slice in ["a", "a-6", "b", "b-6"] {
            self.objects().delete::<EndpointSlice>(&format!("{name}-{slice}"))?;
        }
        Ok(())
    }

    /// The index of the host that has an address, once exactly one has it.
    pub fn wait_for_holder(&self, address: &str) -> Result<usize> {
        self.sampler.wait_for_holders(&[parsed(address)], 20)
    }

    /// Wait until this host alone has an address.
    pub fn wait_for_holder_to_be(&self, address: &str, host: usize) -> Result<()> {
        let what = format!("{address} on host {}", host + 1);
        wait_for(&what, 20, || (self.holders(address) == [host]).then_some(()))
    }

    /// Wait until no host has an address.
    pub fn wait_until_no_host_has(&self, address: &str) -> Result<()> {
        wait_for(&format!("no host to have {address}"), 20, || self.holders(address).is_empty().then_some(()))
    }

    /// The hosts that have an address now.
    pub fn holders(&self, address: &str) -> Vec<usize> {
        self.sampler.latest().map(|sample| sample.holders(parsed(address))).unwrap_or_default()
    }

    /// Wait until the status of a Service names exactly these addresses.
    pub fn wait_for_status(&self, name: &str, addresses: &[&str]) -> Result<Service> {
        let wanted: BTreeSet<&str> = addresses.iter().copied().collect();
        wait_for(&format!("the status of {name} to name {addresses:?}"), 20, || {
            let service: Service = self.objects().get(name).ok().flatten()?;
            let status = service.status.clone().unwrap_or_default().load_balancer.unwrap_or_default();
            let ingress = status.ingress.unwrap_or_default();
            let named: BTreeSet<&str> = ingress.iter().filter_map(|entry| entry.ip.as_deref()).collect();
            (named == wanted).then_some(service.clone())
        })
    }

    /// The holder that a Lease names.
    pub fn lease_holder(&self, lease: &str) -> Result<String> {
        let lease = self.objects().get::<Lease>(lease)?;
        Ok(lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default())
    }
}

/// Remove these addresses from all interfaces of a host.
fn remove_addresses(host: &Namespace, addresses: &[IpAddr]) -> Result<()> {
    for line in host.ip(&["-o", "address", "show"])?.lines() {
        // 2: eth0    inet 10.43.0.1/32 …
        let mut words = line.split_whitespace().skip(1);
        let (Some(interface), Some(_), Some(prefix)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let address = prefix.split('/').next().and_then(|text| text.parse().ok());
        if address.is_some_and(|address| addresses.contains(&address)) {
            // It may have expired in between.
            drop(host.ip(&["address", "del", prefix, "dev", interface]));
        }
    }
    Ok(())
}

/// The Nodes of a lab's hosts.
pub fn create_nodes(lab: &Lab, objects: Objects<'_>) -> Result<()> {
    for host in &lab.hosts {
        objects.create::<Node>(&host.name, json!({ "status": {} }))?;
        let addresses = json!([
            { "type": "InternalIP", "address": host.v4 },
            { "type": "InternalIP", "address": host.v6 },
            { "type": "Hostname", "address": host.name },
        ]);
        objects.patch_status::<Node>(&host.name, json!({ "status": { "addresses": addresses } }))?;
    }
    Ok(())
}

#[expect(clippy::expect_used, reason = "a test's own address")]
fn parsed(address: &str) -> IpAddr {
    address.parse().expect("an address")
}
