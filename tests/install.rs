//! The files of docs/install: what the program prints, and what it accepts. The distributions are not run.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::path::Path;
use std::process::Command;

use kube_vip::config::{Raw, Sources, check};
use kube_vip::doctor::manifest;
use serde_json::Value;

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the commands in the comments before the first document print, in order.
fn printed(text: &str) -> Vec<String> {
    let head = text.lines().take_while(|line| line.starts_with('#'));
    let commands: Vec<&str> = head
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains("kube-vip manifest "))
        .collect();
    assert!(!commands.is_empty(), "{text}");
    let program = Path::new(env!("CARGO_BIN_EXE_kube-vip")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let image = format!("localhost/kube-vip:{}", kube_vip::VERSION);
    let run = |command: &&str| {
        let mut shell = Command::new("sh");
        let output =
            shell.args(["-ec", command]).env("PATH", &path).env("KUBE_VIP_IMAGE", &image).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        documents(&String::from_utf8(output.stdout).unwrap())
    };
    commands.iter().flat_map(run).collect()
}

/// The documents of a file without its comments.
fn documents(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let parts = text.split("---\n").map(|part| part.trim().to_owned());
    parts.filter(|part| !part.is_empty()).collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn manifests_are_what_the_commands_in_them_print() {
    for name in [
        "kubeadm/kube-vip.yaml",
        "k3s/kube-vip.yaml",
        "rke2/kube-vip.yaml",
        "k0s/kube-vip.yaml",
        "talos/kube-vip.yaml",
        "openshift/api.yaml",
        "openshift/ingress.yaml",
    ] {
        let text = read(name);
        assert_eq!(documents(&text).join("\n---\n"), printed(&text).join("\n---\n"), "{name}");
    }
}

/// A trial runs that of k3s.
#[test]
fn daemon_sets_of_distributions_are_one() {
    let k3s = documents(&read("k3s/kube-vip.yaml"));
    for name in ["rke2/kube-vip.yaml", "k0s/kube-vip.yaml", "talos/kube-vip.yaml"] {
        assert_eq!(documents(&read(name)), k3s, "{name}");
    }
}

#[test]
fn objects_inside_of_other_files_are_those_of_the_program() {
    let patch = yaml(&read("talos/patch.yaml"));
    let inline = patch["cluster"]["inlineManifests"][0]["contents"].as_str().unwrap();
    assert_eq!(documents(inline), documents(&read("talos/kube-vip.yaml")));
    let control_plane = yaml(&read("cluster-api/kubeadm-control-plane.yaml"));
    let file = &control_plane["spec"]["kubeadmConfigSpec"]["files"][0];
    assert_eq!(documents(file["content"].as_str().unwrap()), documents(&read("kubeadm/kube-vip.yaml")));
}

/// With the settings of a manifest `manager` starts.
#[test]
fn settings_of_manifests_are_valid() {
    for name in ["kubeadm/kube-vip.yaml", "k3s/kube-vip.yaml", "openshift/api.yaml", "openshift/ingress.yaml"]
    {
        let given = manifest::read(&read(name)).unwrap();
        assert_eq!(given.arguments, ["manager"], "{name}");
        assert!(given.notes.iter().all(|note| note.contains("service account")), "{name}: {:?}", given.notes);
        let (raw, problems, notes) = Raw::collect(&Sources { env: given.env, ..Sources::default() });
        assert_eq!((problems, notes), (Vec::new(), Vec::new()), "{name}");
        assert_eq!(check(raw, None).unwrap().notes, [""; 0], "{name}");
    }
}

/// Variables of Kubespray, the settings that its template makes of them, and files of the distributions.
#[test]
fn other_files_are_yaml_and_name_one_vip() {
    for name in
        ["k3s/config.yaml", "rke2/config.yaml", "k0s/k0s.yaml", "kubespray/kube-vip.yml", "talos/patch.yaml"]
    {
        let text = read(name);
        assert!(yaml(&text).is_object() && text.contains("192.168.0.40"), "{name}");
    }
    let kubespray = yaml(&read("kubespray/kube-vip.yml"));
    let settings = [
        ("vip_arp", "kube_vip_arp_enabled"),
        ("cp_enable", "kube_vip_controlplane_enabled"),
        ("address", "kube_vip_address"),
        ("vip_interface", "kube_vip_interface"),
        ("vip_leaseduration", "kube_vip_leaseduration"),
        ("vip_renewdeadline", "kube_vip_renewdeadline"),
        ("vip_retryperiod", "kube_vip_retryperiod"),
    ];
    let env = settings.map(|(setting, variable)| {
        let value = &kubespray[variable];
        assert!(!value.is_null(), "{variable}");
        (setting.to_owned(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    });
    let (raw, problems, _) = Raw::collect(&Sources { env: env.into(), ..Sources::default() });
    assert_eq!(problems, []);
    assert!(check(raw, None).is_ok());
}
