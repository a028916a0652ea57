//! A cluster that kubeadm makes on the hosts of a lab.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube_vip::model::BootTime;
use kube_vip_lab::probe::Prober;
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::{Administrator, Lab, LabError, LabOptions, Result, binaries, now, wait_for};
use serde_json::{Value, json};

use super::host::{self, Machine};
use crate::image;

const TOKEN: &str = "abcdef.0123456789abcdef";
/// Encrypts the certificates that joining hosts fetch.
const CERTIFICATE_KEY: &str = "6b7562652d766970206c6162206f6e6c792c206e6f742061207365637265742e";
pub(super) const POD: &str = "/etc/kubernetes/manifests/kube-vip.yaml";

#[derive(Debug, Clone)]
pub(super) struct Options {
    /// The program, by its path in the lab's cache.
    pub(super) kubeadm: &'static str,
    /// Lease duration, renew deadline and retry period, in seconds.
    pub(super) lease: [u32; 3],
    /// A VIP, nodes, pods and Services of IPv6 as well.
    pub(super) dual: bool,
}

/// Hosts, and what watches them.
pub(super) struct Cluster {
    // Dropped in this order: processes before their network.
    machines: Vec<Machine>,
    /// One for each VIP.
    probers: Vec<Prober>,
    pub(super) sampler: Sampler,
    pub(super) lab: Lab,
    options: Options,
    folder: PathBuf,
}

impl Cluster {
    /// Boots three hosts and imports images.
    pub(super) fn boot(options: Options, archives: &[PathBuf], folder: PathBuf) -> Result<Self> {
        let lab = Lab::start(LabOptions { hosts: 3, control_plane: false })?;
        host::sweep();
        let v6 = options.dual.then_some(IpAddr::from(lab.vip_v6));
        let vips: Vec<IpAddr> = [IpAddr::from(lab.vip_v4)].into_iter().chain(v6).collect();
        let sampler = Sampler::watching(&lab, &vips)?;
        let probers =
            vips.iter().map(|vip| Prober::start(&lab, &lab.client_host, *vip)).collect::<Result<_>>()?;
        let mut cluster = Self { machines: Vec::new(), probers, sampler, lab, options, folder };
        for index in 0..cluster.lab.hosts.len() {
            let machine = cluster.start(index)?;
            for archive in archives {
                let file = format!("/tmp/{}", archive.file_name().unwrap_or_default().display());
                machine.copy(archive, &file)?;
                machine.run(&["ctr", "--namespace", "k8s.io", "images", "import", &file])?;
                machine.run(&["rm", &file])?;
            }
            cluster.machines.push(machine);
        }
        Ok(cluster)
    }

    /// Boots a host whose file system may be that of an earlier boot.
    fn start(&self, index: usize) -> Result<Machine> {
        let host = self.lab.host(index);
        host.namespace.sysctl("net.ipv4.ip_forward", "1")?;
        host.namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        for (other, peer) in self.lab.hosts.iter().enumerate().filter(|(other, _)| *other != index) {
            let [v4, v6] = pods(other);
            host.namespace.ip(&["route", "replace", &v4, "via", &peer.v4.to_string()])?;
            host.namespace.ip(&["-6", "route", "replace", &v6, "via", &peer.v6.to_string()])?;
        }
        let machine = Machine::boot(host, &self.folder.join(&host.name))?;
        let names = self.lab.hosts.iter().map(|host| format!("{} {}\n", host.v4, host.name));
        machine.write("/etc/hosts", format!("127.0.0.1 localhost\n{}", names.collect::<String>()))?;
        machine.write("/etc/cni/net.d/10-lab.conflist", self.network(index).to_string())?;
        Ok(machine)
    }

    #[expect(clippy::indexing_slicing, reason = "a scenario may only use hosts that it booted")]
    pub(super) fn machine(&self, index: usize) -> &Machine {
        &self.machines[index]
    }

    #[expect(clippy::indexing_slicing, reason = "a scenario may only use hosts that it booted")]
    fn machine_mut(&mut self, index: usize) -> &mut Machine {
        &mut self.machines[index]
    }

    /// What a person types to generate a manifest: the program out of the image, in no cluster yet.
    pub(super) fn manifest(&self, index: usize, image: &str, args: &[&str]) -> Result<String> {
        let run =
            ["ctr", "--namespace", "k8s.io", "run", "--rm", "--net-host", image, "manifest", "/kube-vip"];
        self.machine(index).run(&[&run[..], &["manifest"], args].concat())
    }

    /// Installs the static pod.
    pub(super) fn install_pod(&self, index: usize, image: &str) -> Result<()> {
        let (vip, lease) = (self.vips().join(","), self.options.lease.map(|seconds| seconds.to_string()));
        let [duration, deadline, retry] = &lease;
        let mut args = vec!["pod", "--interface", "eth0", "--address", &vip, "--controlplane", "--arp"];
        args.extend(["--leaderElection", "--leaseDuration", duration, "--leaseRenewDuration", deadline]);
        args.extend(["--leaseRetry", retry]);
        // The program names the image that it runs from.
        let own = image::local("kube-vip");
        if image != own {
            args.extend(["--image", image]);
        }
        let pod = self.manifest(index, &own, &args)?;
        self.machine(index).write(POD, pod)
    }

    fn kubeadm(&self, index: usize, config: &[Value], args: &[&str]) -> Result<String> {
        let machine = self.machine(index);
        let text: Vec<String> = config.iter().map(ToString::to_string).collect();
        machine.write("/etc/kubernetes/kubeadm.yaml", text.join("\n---\n"))?;
        let program = format!("/opt/lab/{}", self.options.kubeadm);
        machine.run(&[&[program.as_str()], args, &["--config", "/etc/kubernetes/kubeadm.yaml"]].concat())
    }

    /// `kubeadm init`, with the certificate authority of the lab, which signs for its clients.
    pub(super) fn init(&self, version: &str) -> Result<String> {
        for file in ["ca.crt", "ca.key"] {
            let text = self.lab.pki.path(file);
            let text = std::fs::read(&text).map_err(|source| LabError::Io { what: text, source })?;
            self.machine(0).write(&format!("/etc/kubernetes/pki/{file}"), text)?;
        }
        let endpoint = format!("{}:6443", self.lab.vip_v4);
        let config = [
            json!({
                "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "InitConfiguration",
                "bootstrapTokens": [{ "token": TOKEN, "groups": ["system:bootstrappers:kubeadm:default-node-token"] }],
                "certificateKey": CERTIFICATE_KEY,
                "nodeRegistration": self.registration(0),
                "skipPhases": ["addon/coredns"],
            }),
            json!({
                "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration",
                "kubernetesVersion": version,
                "controlPlaneEndpoint": endpoint,
                "apiServer": { "certSANs": self.vips() },
                "networking": self.networking(),
            }),
            json!({
                "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
                "cgroupDriver": "cgroupfs",
                "failCgroupV1": false,
                // A full disk of this machine is no concern of the cluster.
                "evictionHard": { "nodefs.available": "0%", "imagefs.available": "0%" },
                "imageGCHighThresholdPercent": 100,
            }),
            json!({
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
                "mode": "nftables",
                // They belong to the whole machine.
                "conntrack": { "maxPerCore": 0, "min": 0 },
            }),
        ];
        self.kubeadm(0, &config, &["init", "--upload-certs"])
    }

    /// `kubeadm join`, by the VIP.
    pub(super) fn join(&self, index: usize) -> Result<String> {
        let config = json!({
            "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "JoinConfiguration",
            "discovery": { "bootstrapToken": {
                "token": TOKEN,
                "apiServerEndpoint": format!("{}:6443", self.lab.vip_v4),
                "unsafeSkipCAVerification": true,
            }},
            "controlPlane": { "certificateKey": CERTIFICATE_KEY },
            "nodeRegistration": self.registration(index),
        });
        self.kubeadm(index, &[config], &["join"])
    }

    /// `kubeadm reset`, which ends the pods of the host and removes what kubeadm has written.
    pub(super) fn reset(&self, index: usize) -> Result<String> {
        let program = format!("/opt/lab/{}", self.options.kubeadm);
        self.machine(index).run(&[&program, "reset", "--force"])
    }

    /// The administrator, by the API server of a host.
    pub(super) fn administrator(&self, index: usize) -> Result<Administrator> {
        Administrator::new(&self.lab, index)
    }

    /// Waits until the node of a host is ready.
    pub(super) fn wait_until_ready(&self, admin: &Administrator, index: usize) -> Result<()> {
        let name = &self.lab.host(index).name;
        let ready = || {
            let node: Node = admin.objects(&self.lab).get(name).ok()??;
            let conditions = node.status?.conditions?;
            let is_ready = |condition: &k8s_openapi::api::core::v1::NodeCondition| {
                condition.type_ == "Ready" && condition.status == "True"
            };
            conditions.iter().any(is_ready).then_some(())
        };
        wait_for(&format!("node {name} to be ready"), 120, ready)
    }

    /// Cuts a host off and ends everything on it.
    pub(super) fn power_off(&mut self, index: usize) -> Result<()> {
        self.lab.segment.pull_cable(self.lab.host(index).number)?;
        self.machine_mut(index).power_off();
        Ok(())
    }

    /// Boots a host that was powered off: its network begins anew.
    pub(super) fn power_on(&mut self, index: usize) -> Result<()> {
        let host = self.lab.host(index);
        let (network, v4) = (&host.namespace, format!("{}/24", host.v4));
        network.run(&["nft", "flush", "ruleset"])?;
        network.ip(&["link", "delete", "cni0"]).ok();
        network.ip(&["address", "flush", "dev", "eth0", "scope", "global"])?;
        network.ip(&["address", "add", &v4, "dev", "eth0"])?;
        network.ip(&["address", "add", &format!("{}/64", host.v6), "dev", "eth0", "nodad"])?;
        let gateway = format!("{}.{}", kube_vip_lab::lab::PREFIX_V4, kube_vip_lab::lab::GATEWAY);
        self.lab.segment.plug_cable(host.number)?;
        network.ip(&["route", "replace", "default", "via", &gateway])?;
        let machine = self.start(index)?;
        *self.machine_mut(index) = machine;
        Ok(())
    }

    /// Waits until each VIP answers.
    pub(super) fn wait_until_answering(&self) -> Result<()> {
        let start = now();
        self.probers.iter().try_for_each(|prober| prober.wait_for_answer(start, 60).map(drop))
    }

    /// The longest time without an answer of a VIP.
    pub(super) fn outage(&self, start: BootTime) -> Duration {
        self.probers.iter().map(|prober| prober.outage(start)).max().unwrap_or_default()
    }

    fn vips(&self) -> Vec<String> {
        let v6 = self.options.dual.then(|| self.lab.vip_v6.to_string());
        [self.lab.vip_v4.to_string()].into_iter().chain(v6).collect()
    }

    /// Without it kubeadm has Services of one family.
    fn networking(&self) -> Value {
        match self.options.dual {
            true => {
                json!({ "podSubnet": "10.244.0.0/16,fd44::/48", "serviceSubnet": "10.96.0.0/16,fd96::/112" })
            }
            false => json!({}),
        }
    }

    /// A node that runs all pods, on a machine that kubeadm's checks were not made for.
    fn registration(&self, index: usize) -> Value {
        let host = self.lab.host(index);
        let kubelet = match self.options.dual {
            true => vec![json!({ "name": "node-ip", "value": format!("{},{}", host.v4, host.v6) })],
            false => Vec::new(),
        };
        json!({
            "criSocket": "unix:///run/containerd/containerd.sock",
            "ignorePreflightErrors": ["all"],
            "taints": [],
            "imagePullPolicy": "Never",
            "kubeletExtraArgs": kubelet,
        })
    }

    /// A bridge on each host, and routes between the hosts.
    fn network(&self, index: usize) -> Value {
        let families = if self.options.dual { 2 } else { 1 };
        let subnets = pods(index).into_iter().take(families);
        let routes = ["0.0.0.0/0", "::/0"].into_iter().take(families);
        let address = json!({
            "type": "host-local",
            "ranges": subnets.map(|subnet| json!([{ "subnet": subnet }])).collect::<Vec<_>>(),
            "routes": routes.map(|route| json!({ "dst": route })).collect::<Vec<_>>(),
        });
        json!({
            "cniVersion": "1.0.0",
            "name": "lab",
            "plugins": [{
                "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": address,
            }],
        })
    }

    /// Runs Helm on the machine of an administrator.
    pub(super) fn helm(&self, args: &[&str]) -> Result<String> {
        let (helm, config) = (binaries::find("helm")?, self.lab.path("super-admin.conf"));
        let config = config.to_string_lossy();
        let command =
            [&[helm.as_str(), "--kubeconfig", &config, "--namespace", "kube-system"], args].concat();
        self.lab.client_host.run(&command)
    }
}

/// The pods of a host, by family.
fn pods(index: usize) -> [String; 2] {
    [format!("10.244.{}.0/24", index + 1), format!("fd44:0:0:{}::/64", index + 1)]
}
