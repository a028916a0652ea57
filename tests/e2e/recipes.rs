//! The manifests of docs/install, each with the credentials that its distribution gives the pod.

use std::path::Path;

use kube_vip::doctor::manifest::{self, Given};
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{
    Administrator, Agent, AgentOptions, Kubeconfig, Lab, LabOptions, Router, RouterKind, RouterOptions,
    Written, wait_for,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::bgp::HOSTS;
use crate::credentials::apply;
use crate::harness::{PROGRAM, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_daemon_set_of_distributions_holds_the_vip_with_its_service_account", daemon_set),
        trial("the_pod_of_kubeadm_and_the_unit_hold_the_vip_with_a_kubeconfig", kubeconfigs),
        trial("the_openshift_recipe_works", openshift),
    ]
}

/// The VIP in the examples.
const VIP: &str = "192.168.0.40";

fn example(name: &str) -> Result<String, Failed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    Ok(std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// An agent with these variables and no other.
fn agent_with(lab: &Lab, env: Vec<(String, String)>) -> Result<AgentOptions, Failed> {
    let empty = lab.path("empty.yaml");
    std::fs::write(&empty, "{}\n")?;
    let env = env.into_iter().collect();
    Ok(AgentOptions { file: Some(empty), env, confined: true, ..AgentOptions::new(lab, PROGRAM) })
}

/// That of RKE2, k0s and Talos is the same: tests/install.rs compares them.
fn daemon_set() -> Outcome {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
    let admin = Administrator::new(&lab, 0)?;
    let sampler = Sampler::watching(&lab, &[lab.vip_v4.into()])?;
    let host = lab.host(0);
    let text = example("k3s/kube-vip.yaml")?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let objects: String = lines.map(|line| format!("{line}\n")).collect();
    let (rights, _) = objects.split_once("apiVersion: apps/v1").ok_or("a DaemonSet")?;
    apply(&admin.objects(&lab), rights.trim_end_matches("---\n"))?;
    let Given { arguments, mut env, account, .. } =
        manifest::read(&text.replace(VIP, &lab.vip_v4.to_string()))?;
    assert_eq!(arguments, ["manager"]);
    let account = account.ok_or("a ServiceAccount")?;
    let token = admin.objects(&lab).token(&account.namespace, &account.name)?;
    let folder = host.folder.join("root/var/run/secrets/kubernetes.io/serviceaccount");
    std::fs::create_dir_all(&folder)?;
    std::fs::copy(lab.pki.path("ca.crt"), folder.join("ca.crt"))?;
    std::fs::write(folder.join("token"), token)?;
    std::fs::write(folder.join("namespace"), &account.namespace)?;
    // The Service `kubernetes`: there is no kube-proxy.
    env.extend([("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", "6443")].map(owned));
    let options = AgentOptions { kubeconfig: Kubeconfig::Missing, ..agent_with(&lab, env)? };
    let agent = Agent::start(host, &options)?;
    sampler.wait_for_holder(20).map_err(|error| format!("{error}\n{}", agent.log()))?;
    agent.wait_for_log("this node now holds the VIP provisional=false", 5)?;
    Ok(())
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// The static pod of kubeadm, and the unit.
fn kubeconfigs() -> Outcome {
    let pod = manifest::read(&example("kubeadm/kube-vip.yaml")?)?.env;
    let unit = example("systemd/kube-vip.env")?;
    let variables =
        unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    for (name, env) in [("kubeadm", pod), ("systemd", variables.map(owned).collect())] {
        let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
        let sampler = Sampler::watching(&lab, &[lab.vip_v4.into()])?;
        let vip = lab.vip_v4.to_string();
        let env = env.into_iter().map(|(name, value)| (name, value.replace(VIP, &vip))).collect();
        let agent = Agent::start(lab.host(0), &agent_with(&lab, env)?)?;
        sampler.wait_for_holder(20).map_err(|error| format!("{name}: {error}\n{}", agent.log()))?;
        agent.wait_for_log("this node now holds the VIP provisional=false", 5)?;
    }
    Ok(())
}

/// Two pods on a node, FRR beside them, and the health check of the router of OpenShift.
fn openshift() -> Outcome {
    let lab = services(&[])?;
    let neighbours = HOSTS.iter().map(|host| kube_vip_lab::Neighbour::new(host, 65_000)).collect();
    let gateway = Router::start(&lab.lab, RouterOptions::new(RouterKind::Frr, 65_001, neighbours))?;
    // One file for two daemons.
    let (zebra, bgp): (Vec<String>, Vec<String>) = example("openshift/frr.conf")?
        .lines()
        .map(|line| format!("{line}\n"))
        .partition(|line| line.starts_with("ip import-table"));
    let written = Some(Written { bgp: bgp.concat(), zebra: zebra.concat() });
    let options = RouterOptions { written, ..RouterOptions::new(RouterKind::Frr, 0, Vec::new()) };
    let _beside = Router::on_host(lab.lab.host(0), options)?;
    let mut agents = Vec::new();
    for name in ["api", "ingress"] {
        let env = manifest::read(&example(&format!("openshift/{name}.yaml"))?)?.env;
        // Where the pod has the kubeconfig.
        let env = env.into_iter().filter(|(name, _)| name != "k8s_config_file").collect();
        let options =
            AgentOptions { kubeconfig: lab.options.kubeconfig.clone(), ..agent_with(&lab.lab, env)? };
        agents.push(Agent::start(lab.lab.host(0), &options)?);
    }
    gateway.wait_for_next_hops("10.43.0.5/32", &HOSTS[..1])?;
    gateway.wait_for_next_hops("10.43.0.10/32", &[])?;
    let namespace = &lab.lab.host(0).namespace;
    let router = namespace.spawn(async {
        let listener = TcpListener::bind(("127.0.0.1", 1936)).await?;
        let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(ok).await.ok();
        }
        std::io::Result::Ok(())
    });
    gateway.wait_for_next_hops("10.43.0.10/32", &HOSTS[..1])?;
    router.abort();
    gateway.wait_for_next_hops("10.43.0.10/32", &[])?;
    // The instance whose check fails withdraws its own route alone.
    wait_for("the route of the API", 5, || (gateway.next_hops("10.43.0.5/32") == HOSTS[..1]).then_some(()))?;
    Ok(())
}
