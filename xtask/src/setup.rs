//! Installs what a fresh Debian machine lacks.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use kube_vip_lab::binaries;

use crate::sh::{Outcome, have, root, run};

/// A program, and its Debian package.
const PACKAGES: [(&str, &str); 28] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("sysctl", "procps"),
    ("setpriv", "util-linux"),
    ("arping", "iputils-arping"),
    ("keepalived", "keepalived"),
    ("vtysh", "frr"),
    ("bird", "bird2"),
    ("gobgpd", "gobgpd"),
    ("exabgp", "exabgp"),
    ("ss", "iproute2"),
    ("dnsmasq", "dnsmasq-base"),
    ("dhcpd", "isc-dhcp-server"),
    ("dhcrelay", "isc-dhcp-relay"),
    ("kea-dhcp4", "kea-dhcp4-server"),
    ("kea-dhcp6", "kea-dhcp6-server"),
    ("udhcpd", "udhcpd"),
    ("miniupnpd", "miniupnpd"),
    ("upnpc", "miniupnpc"),
    ("curl", "curl"),
    ("avahi-daemon", "avahi-daemon"),
    ("avahi-resolve", "avahi-utils"),
    ("dbus-daemon", "dbus-daemon"),
    ("python3", "python3"),
    ("g++", "g++"),
    ("skopeo", "skopeo"),
    ("debootstrap", "debootstrap"),
    ("qemu-aarch64-static", "qemu-user-static"),
];

/// A Go module of tests/lab/go.
pub(crate) struct Module {
    pub(crate) folder: &'static str,
    /// The version that programs of Kubernetes report.
    pub(crate) kubernetes: &'static str,
    /// Build tags.
    pub(crate) tags: &'static str,
    /// What is built from it: a path in the lab's cache, and the package.
    pub(crate) programs: &'static [(&'static str, &'static str)],
}

/// The version of Kubernetes in the lab.
pub(crate) const KUBERNETES: &str = "v1.36.3";

const MODULES: [Module; 5] = [
    module("actionlint", &[("actionlint", "github.com/rhysd/actionlint/cmd/actionlint")]),
    module("etcd", &[("etcd", ".")]),
    module("helm", &[("helm", "helm.sh/helm/v3/cmd/helm")]),
    module("prometheus", &[("promtool", "github.com/prometheus/prometheus/cmd/promtool")]),
    module(
        "kubernetes",
        &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("elector", "./elector"),
        ],
    ),
];

pub(crate) const fn module(
    folder: &'static str,
    programs: &'static [(&'static str, &'static str)],
) -> Module {
    Module { folder, kubernetes: KUBERNETES, tags: "", programs }
}

/// Installs everything that is missing.
pub(crate) fn all() -> Outcome {
    let mut missing = missing(&PACKAGES);
    if !has_python_yaml() {
        missing.push("python3-yaml");
    }
    install(&missing)?;
    MODULES.iter().try_for_each(build)
}

/// Packages whose programs are not there.
pub(crate) fn missing(packages: &[(&str, &'static str)]) -> Vec<&'static str> {
    packages.iter().filter(|(program, _)| !have(program)).map(|(_, package)| *package).collect()
}

pub(crate) fn install(packages: &[&str]) -> Outcome {
    if packages.is_empty() {
        return Ok(());
    }
    println!("installing {}", packages.join(", "));
    let env = [("DEBIAN_FRONTEND", "noninteractive")];
    run("apt-get", &["update", "-qq"], &env)?;
    let args = [&["install", "-y", "-qq", "--no-install-recommends"][..], packages].concat();
    run("apt-get", &args, &env)
}

/// The YAML 1.1 parser that manifests are compared with.
fn has_python_yaml() -> bool {
    let checked = std::process::Command::new("/usr/bin/python3").args(["-c", "import yaml"]).output();
    checked.is_ok_and(|output| output.status.success())
}

/// Builds the programs of a module that are missing or out of date, in one go: they have most packages in common.
pub(crate) fn build(module: &Module) -> Outcome {
    let folder = root().join("tests/lab/go").join(module.folder);
    let wanted = fingerprint(&folder)?;
    let missing: Vec<_> = module.programs.iter().filter(|(name, _)| !is_there(name, &wanted)).collect();
    let Some((first, _)) = missing.first() else { return Ok(()) };
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    if !have("go") {
        return Err(format!("{names} cannot be built without Go: install Go 1.26 or later"));
    }
    let output = binaries::cache().join(first);
    let output = output.parent().unwrap_or(&output);
    std::fs::create_dir_all(output).map_err(|error| format!("{}: {error}", output.display()))?;
    println!("building {names}; the first time this takes minutes");
    let began = kube_vip::net::clock::now();
    let (folder, output) = (folder.to_string_lossy(), format!("{}/", output.display()));
    let (tags, flags) = (format!("-tags={}", module.tags), linker_flags(module.kubernetes));
    let mut args = vec!["-C", &folder, "build", "-trimpath", &tags, "-ldflags", &flags];
    args.extend(["-o", &output]);
    args.extend(missing.iter().map(|(_, package)| *package));
    // Less garbage collection in the compiler: faster, and a few hundred megabytes larger.
    run("go", &args, &[("CGO_ENABLED", "0"), ("GOGC", "400")])?;
    println!("built {names} in {:.0} s", kube_vip::net::clock::now().since(began).as_secs_f64());
    for (name, _) in missing {
        let stamp = stamp(name);
        std::fs::write(&stamp, &wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    }
    Ok(())
}

/// No debug information, and the version that the programs report and expect.
fn linker_flags(version: &str) -> String {
    let numbers: Vec<&str> = version.trim_start_matches('v').split('.').collect();
    let [major, minor, _] = numbers.as_slice() else { return "-s -w".to_owned() };
    let component = "k8s.io/component-base/version.git";
    let helm = "helm.sh/helm/v3/pkg/chartutil.k8sVersion";
    format!(
        "-s -w -X {component}Version={version} -X {component}Major={major} -X {component}Minor={minor} \
         -X {helm}Major={major} -X {helm}Minor={minor}"
    )
}

fn stamp(name: &str) -> PathBuf {
    binaries::cache().join(format!("{name}.stamp"))
}

fn is_there(name: &str, fingerprint: &str) -> bool {
    let given = std::env::var_os("KUBEBUILDER_ASSETS");
    if given.is_some_and(|folder| Path::new(&folder).join(name).is_file()) {
        return true;
    }
    let found = std::fs::read_to_string(stamp(name));
    binaries::cache().join(name).is_file() && found.is_ok_and(|found| found == fingerprint)
}

/// Changes when anything that the programs are built from does.
fn fingerprint(folder: &Path) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    for file in ["go.mod", "go.sum", "main.go", "elector/main.go"] {
        if let Ok(text) = std::fs::read(folder.join(file)) {
            text.hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}
