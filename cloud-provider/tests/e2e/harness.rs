//! A cluster of one host, and what tests do in it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube_vip_lab::objects::{annotation, load_balancer};
use kube_vip_lab::pool::{Pool, Pooled};
use kube_vip_lab::{Administrator, Lab, LabOptions, Objects, Provider, Result, wait_for};
use serde_json::{Value, json};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-vip-cloud-provider");
pub(crate) const LOAD_BALANCER_IPS: &str = "kube-vip.io/loadbalancerIPs";
/// The group with the rights of the manifest.
pub(crate) const RIGHTS: &str = "providers";
/// Short leases, so that tests of a change of leaders take seconds.
pub(crate) const QUICK: [&str; 3] = [
    "--leader-elect-lease-duration=3s",
    "--leader-elect-renew-deadline=2s",
    "--leader-elect-retry-period=500ms",
];

static WORLDS: Pool<World> = Pool::new();

/// A cluster, and an administrator of it.
pub(crate) struct World {
    admin: Administrator,
    pub(crate) lab: Lab,
}

/// A shared cluster, without anything of an earlier trial.
pub(crate) fn world() -> Result<Pooled<World>> {
    let world = WORLDS.take(World::start)?;
    world.clear()?;
    Ok(world)
}

pub(crate) fn tear_down() {
    WORLDS.clear();
}

impl AsRef<Lab> for World {
    fn as_ref(&self) -> &Lab {
        &self.lab
    }
}

impl World {
    fn start() -> Result<Self> {
        let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
        let admin = Administrator::new(&lab, 0)?;
        let world = Self { admin, lab };
        world.objects().grant(
            RIGHTS,
            "the provider's manifest",
            &kube_vip_lab::run(&[PROGRAM, "manifest"])?,
        )?;
        Ok(world)
    }

    pub(crate) fn objects(&self) -> Objects<'_> {
        self.admin.objects(&self.lab)
    }

    /// Give a group these rights.
    pub(crate) fn grant(&self, group: &str, rules: &Value) -> Result<()> {
        self.objects().create::<ClusterRole>(group, json!({ "rules": rules }))?;
        self.objects().create::<ClusterRoleBinding>(
            group,
            json!({
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": group },
                "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group }],
            }),
        )
    }

    fn clear(&self) -> Result<()> {
        for service in self.objects().services("default")? {
            let name = service.metadata.name.unwrap_or_default();
            if name != "kubernetes" {
                self.objects().patch::<Service>(&name, json!({ "metadata": { "finalizers": null } }))?;
                self.objects().delete::<Service>(&name)?;
            }
        }
        self.objects().delete_events()?;
        self.objects()
            .delete::<k8s_openapi::api::coordination::v1::Lease>("kube-system/kube-vip-cloud-controller")?;
        self.objects().delete::<ConfigMap>("kube-system/kubevip")
    }

    /// The pools.
    pub(crate) fn configure(&self, data: Value) -> Result<()> {
        self.objects().create::<ConfigMap>("kube-system/kubevip", json!({ "data": {} }))?;
        // A merge keeps what it does not mention: what is to go has to be named.
        let before: ConfigMap = self.objects().get("kube-system/kubevip")?.unwrap();
        let mut merged: BTreeMap<String, Value> =
            before.data.unwrap_or_default().into_keys().map(|key| (key, Value::Null)).collect();
        merged.extend(data.as_object().unwrap().clone());
        self.objects().patch::<ConfigMap>("kube-system/kubevip", json!({ "data": merged }))
    }

    /// A provider with the rights of its manifest, and short leases.
    pub(crate) fn provider(&self, port: u16) -> Result<Provider> {
        Provider::start(&self.lab, 0, PROGRAM, (port, RIGHTS), &QUICK)
    }

    /// A Service of type LoadBalancer.
    pub(crate) fn create(&self, name: &str) -> Result<()> {
        self.objects().create::<Service>(name, json!({ "spec": load_balancer(80) }))
    }

    pub(crate) fn service(&self, name: &str) -> Service {
        self.objects().get(name).unwrap().unwrap_or_default()
    }

    /// The annotation with a Service's addresses.
    pub(crate) fn addresses(&self, name: &str) -> String {
        annotation(&self.service(name), LOAD_BALANCER_IPS)
    }

    pub(crate) fn wait_for_addresses(&self, name: &str, expected: &str) -> Result<()> {
        let what = format!("Service {name} to have `{expected}`");
        wait_for(&what, 20, || (self.addresses(name) == expected).then_some(()))
    }

    /// Wait until so many Services of `default` have an address of the first family. No two have the same.
    pub(crate) fn wait_for_served(&self, count: usize) -> Result<BTreeSet<String>> {
        wait_for(&format!("{count} Services to have an address"), 120, || {
            let services = self.objects().services("default").unwrap();
            let given: Vec<String> = services
                .iter()
                .map(|service| annotation(service, LOAD_BALANCER_IPS))
                .filter(|addresses| !addresses.is_empty())
                .collect();
            let different: BTreeSet<String> = given.iter().cloned().collect();
            assert_eq!(given.len(), different.len(), "an address was given twice");
            (given.len() == count).then_some(different)
        })
    }

    /// Wait until so many writes are counted. A write counts when its answer has come back, which is after others can
    /// see what was written.
    pub(crate) fn wait_for_writes(&self, provider: &Provider, number: f64) -> Result<f64> {
        wait_for(&format!("{number} writes to be counted"), 30, || {
            let done = self.metric(provider, "kube_vip_cloud_provider_writes_total{result=\"done\"}");
            (done >= number).then_some(done)
        })
    }

    /// A counter or gauge of a provider.
    pub(crate) fn metric(&self, provider: &Provider, line: &str) -> f64 {
        let text = self.lab.host(0).namespace.http_get(provider.port(), "/metrics").unwrap_or_default();
        let found = text.lines().find_map(|candidate| candidate.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or(f64::NAN)
    }

    pub(crate) fn wait_for_event(&self, name: &str, reason: &str, part: &str) -> Result<String> {
        wait_for(&format!("an Event {reason} with `{part}` about {name}"), 20, || {
            let events = self.objects().events(name).unwrap();
            events
                .into_iter()
                .find(|(r, message)| r == reason && message.contains(part))
                .map(|(_, text)| text)
        })
    }
}
