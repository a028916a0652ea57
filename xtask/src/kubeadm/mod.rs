//! Clusters of real kubeadm, kubelet and containerd, which start kube-vip out of its image: `cargo xtask demo kubeadm` and
//! `cargo xtask test kubeadm`.

mod cluster;
mod demo;
mod host;
mod images;
mod programs;
mod scenario;

use std::path::PathBuf;

use kube_vip_lab::binaries;

use crate::setup::KUBERNETES;
use crate::sh::{Outcome, root};

pub(crate) fn demo(arguments: &[&str]) -> Outcome {
    let (mut keep, mut lease) = (false, [5, 3, 1]);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "--keep" => keep = true,
            "--lease" => {
                let given = words.next().map(|text| text.split('/').map(str::parse).collect());
                let given: Option<Vec<u32>> = given.and_then(Result::ok);
                let three = given.and_then(|given| given.try_into().ok());
                lease = three.ok_or("--lease needs duration, deadline and retry period, as in 15/10/2")?;
            }
            other => return Err(format!("`{other}` is not an option of `cargo xtask demo kubeadm`")),
        }
    }
    let archives = prepare()?;
    demo::play(&archives, lease, keep).map_err(|error| error.to_string())
}

/// With each cluster, or one of them.
pub(crate) fn test(only: Option<&str>) -> Outcome {
    let names = scenario::VARIANTS.map(|(name, _)| name);
    if let Some(other) = only.filter(|only| !names.contains(only)) {
        return Err(format!(
            "`{other}` is not a cluster of `cargo xtask test kubeadm`, which are {}",
            names.join(", ")
        ));
    }
    let archives = prepare()?;
    scenario::all(&archives, only).map_err(|error| error.to_string())
}

/// Builds programs and images. Returns the archives of images.
fn prepare() -> Result<Vec<PathBuf>, String> {
    programs::all()?;
    let kubeadm = scenario::VARIANTS.iter().map(|(_, options)| binaries::find(options.kubeadm));
    let kubeadm = kubeadm.collect::<kube_vip_lab::Result<Vec<_>>>().map_err(|error| error.to_string())?;
    // What an earlier run has left.
    std::fs::remove_dir_all(folder()).ok();
    images::write(&kubeadm, KUBERNETES, &folder().join("images"))
}

/// Files of hosts, on a disk: the kubelet looks for a block device below its own, and runtimes cannot stack overlays.
fn folder() -> PathBuf {
    root().join("target/kubeadm")
}
