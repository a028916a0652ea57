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

/// A Go module, and the programs that are built from it: name and package.
type Module = (&'static str, &'static [(&'static str, &'static str)]);

const MODULES: [Module; 5] = [
    ("actionlint", &[("actionlint", "github.com/rhysd/actionlint/cmd/actionlint")]),
    ("etcd", &[("etcd", ".")]),
    ("helm", &[("helm", "helm.sh/helm/v3/cmd/helm")]),
    ("prometheus", &[("promtool", "github.com/prometheus/prometheus/cmd/promtool")]),
    (
        "kubernetes",
        &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("elector", "./elector"),
        ],
    ),
];

const KUBERNETES: &str = "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 \
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36";

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

/// The YAML 1.1 parser that manifests are compared with.
fn has_python_yaml() -> bool {
    let checked = std::process::Command::new("/usr/bin/python3").args(["-c", "import yaml"]).output();
    checked.is_ok_and(|output| output.status.success())
}

fn programs() -> Outcome {
    MODULES.iter().try_for_each(build)
}

/// Build the programs of a module that are missing or out of date, in one go: they have most packages in common.
fn build((module, programs): &Module) -> Outcome {
    let folder = root().join("tests/lab/go").join(module);
    let wanted = fingerprint(&folder)?;
    let missing: Vec<_> = programs.iter().filter(|(name, _)| !is_there(name, &wanted)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    if !have("go") {
        return Err(format!("{names} cannot be built without Go: install Go 1.26 or later"));
    }
    let cache = binaries::cache();
    std::fs::create_dir_all(&cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    println!("building {names}; the first time this takes minutes");
    let began = kube_vip::net::clock::now();
    let (folder, output) = (folder.to_string_lossy(), format!("{}/", cache.display()));
    let flags = format!("-s -w {KUBERNETES}");
    let mut args = vec!["-C", &folder, "build", "-trimpath", "-ldflags", &flags];
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
