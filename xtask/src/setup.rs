//! What a fresh Debian machine lacks.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;

use kube_vip_lab::binaries;

use crate::sh::{Outcome, have, root, run};

/// A program, and the Debian package that brings it.
const PACKAGES: [(&str, &str); 25] = [
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
];

/// A Go program of the lab, the module it is built in, and its package there.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("etcd", "etcd", "."),
    ("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("elector", "kubernetes", "./elector"),
];

const KUBERNETES: &str = "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";

/// Install everything that is missing.
pub(crate) fn all() -> Outcome {
    packages()?;
    programs()
}

fn packages() -> Outcome {
    let mut missing: Vec<&str> =
        PACKAGES.iter().filter(|(program, _)| !have(program)).map(|(_, package)| *package).collect();
    if !has_python_yaml() {
        missing.push("python3-yaml");
    }
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(", "));
    let env = [("DEBIAN_FRONTEND", "noninteractive")];
    run("apt-get", &["update", "-qq"], &env)?;
    let args = [&["install", "-y", "-qq", "--no-install-recommends"][..], &missing].concat();
    run("apt-get", &args, &env)
}

/// The YAML 1.1 reader that manifests are held against.
fn has_python_yaml() -> bool {
    let asked = std::process::Command::new("/usr/bin/python3").args(["-c", "import yaml"]).output();
    asked.is_ok_and(|output| output.status.success())
}

fn programs() -> Outcome {
    for (name, module, package) in PROGRAMS {
        program(name, module, package)?;
    }
    Ok(())
}

fn program(name: &str, module: &str, package: &str) -> Outcome {
    let given = std::env::var_os("KUBEBUILDER_ASSETS");
    if given.is_some_and(|folder| Path::new(&folder).join(name).is_file()) {
        return Ok(());
    }
    let folder = root().join("tests/lab/go").join(module);
    let cache = binaries::cache();
    let (binary, stamp) = (cache.join(name), cache.join(format!("{name}.stamp")));
    let wanted = fingerprint(&folder)?;
    if binary.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    if !have("go") {
        return Err(format!(
            "{name} has to be built, and there is no Go: install Go 1.26 or later, or let \
                            KUBEBUILDER_ASSETS name a folder with etcd and kube-apiserver"
        ));
    }
    std::fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    println!("building {name}; the first time this takes minutes");
    let began = kube_vip::net::clock::now();
    let flags = if name.starts_with("kube-") { format!("-s -w {KUBERNETES}") } else { "-s -w".to_owned() };
    let (folder, output) = (folder.to_string_lossy(), binary.to_string_lossy());
    let args = ["-C", &folder, "build", "-trimpath", "-ldflags", &flags, "-o", &output, package];
    run("go", &args, &[("CGO_ENABLED", "0")])?;
    println!("built {name} in {:.0} s", kube_vip::net::clock::now().since(began).as_secs_f64());
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))
}

/// Changes when anything that the program is built from does.
fn fingerprint(folder: &Path) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    for file in ["go.mod", "go.sum", "main.go", "elector/main.go"] {
        if let Ok(text) = std::fs::read(folder.join(file)) {
            text.hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}
