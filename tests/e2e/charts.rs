//! The Helm charts on a real API server: installed, with every kind of values, and over a release of the Go programs' charts.

use std::path::Path;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::Role;
use kube_vip_lab::binaries;
use kube_vip_lab::charts::value_sets;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Administrator, Lab, LabOptions};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("charts_are_installed_and_upgrade_releases_of_the_go_programs_charts", upgraded)]
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Helm, with a lab's first API server.
struct Helm {
    lab: Lab,
    command: Vec<String>,
}

impl Helm {
    fn new() -> Result<Self, Failed> {
        let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
        let kubeconfig = lab.path("helm.conf");
        std::fs::write(&kubeconfig, lab.pki.kubeconfig("helm", "system:masters", "https://127.0.0.1:6443")?)?;
        let kubeconfig = kubeconfig.to_string_lossy().into_owned();
        let command = vec![binaries::find("helm")?, "--kubeconfig".into(), kubeconfig];
        Ok(Self { lab, command })
    }

    fn run(&self, args: &[&str]) -> Result<String, Failed> {
        let command: Vec<&str> =
            self.command.iter().map(String::as_str).chain(args.iter().copied()).collect();
        Ok(self.lab.host(0).namespace.run(&command)?)
    }

    /// A release of a chart with these values alone; `values` are arguments of Helm.
    fn upgrade(&self, release: &str, chart: &str, values: &[&str]) -> Result<String, Failed> {
        let chart = format!("{ROOT}/{chart}");
        let args = ["upgrade", "--install", "--reset-values", release, chart.as_str()];
        self.run(&[&args[..], values].concat())
    }
}

fn upgraded() -> Outcome {
    let helm = Helm::new()?;
    // Not those that need an operator's kinds of objects.
    let sets = value_sets(Path::new(ROOT))?.into_iter().filter(|set| set.name != "monitoring");
    let (before, others): (Vec<_>, Vec<_>) = sets.partition(|set| set.name == "go-chart");
    let admin = Administrator::new(&helm.lab, 0)?;
    let objects = admin.objects(&helm.lab);
    for release in ["kube-vip", "kube-vip-cloud-provider"] {
        helm.upgrade(release, "tests/lab/charts/before", &[])?;
    }
    for set in before.iter().chain(&others) {
        let values = set.file.iter().flat_map(|file| ["--values".to_owned(), file.display().to_string()]);
        let values: Vec<String> = values.collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        helm.upgrade(set.chart, &format!("charts/{}", set.chart), &values)?;
    }
    let notes = helm.upgrade("kube-vip", "charts/kube-vip", &[])?;
    assert!(notes.contains("No registry has its image: import localhost/kube-vip on each node"), "{notes}");
    let agents: DaemonSet = objects.get("kube-vip")?.unwrap();
    let pod = agents.spec.unwrap().template.spec.unwrap();
    let image = format!("localhost/kube-vip:{}", kube_vip::VERSION);
    assert_eq!(pod.containers[0].image.as_deref(), Some(image.as_str()));
    let role: Role = objects.get("kube-vip")?.unwrap();
    let resources: Vec<String> =
        role.rules.iter().flatten().flat_map(|rule| rule.resources.clone().unwrap()).collect();
    assert!(!resources.contains(&"secrets".to_owned()), "{resources:?}");
    assert!(objects.get::<DaemonSet>("kube-vip-services")?.is_none(), "the second DaemonSet is still there");
    // What no documented set has.
    let values = [
        r#"imagePullSecrets=[{"name": "own"}]"#,
        r#"extraArgs={"prometheusHTTPServer": ":2115"}"#,
        r#"envFrom=[{"secretRef": {"name": "bgp"}}]"#,
        r#"annotations={"a": "b"}"#,
        r#"extraLabels={"c": "d"}"#,
    ];
    helm.upgrade("kube-vip", "charts/kube-vip", &values.map(|value| ["--set-json", value]).concat())?;
    let agents: DaemonSet = objects.get("kube-vip")?.unwrap();
    let pod = agents.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.containers[0].args.as_ref().unwrap()[1], "--prometheusHTTPServer=:2115");
    let pools = format!("{ROOT}/examples/helm/kube-vip-cloud-provider/pools.yaml");
    let provider = "kube-vip-cloud-provider";
    let notes = helm.upgrade(provider, "charts/kube-vip-cloud-provider", &["--values", &pools])?;
    assert!(!notes.contains("There is no pool yet"), "{notes}");
    let deployment: Deployment = objects.get(provider)?.unwrap();
    assert_eq!(deployment.spec.unwrap().replicas, Some(2));
    let pools: ConfigMap = objects.get(provider)?.unwrap();
    assert!(pools.data.unwrap().contains_key("range-global"));
    for release in ["kube-vip", "kube-vip-cloud-provider"] {
        helm.run(&["uninstall", release])?;
    }
    assert!(objects.get::<DaemonSet>("kube-vip")?.is_none());
    Ok(())
}
