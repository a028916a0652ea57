//! What a host with kubeadm runs.

use crate::setup::{self, KUBERNETES, Module, module};
use crate::sh::Outcome;

/// Programs, and their packages in Debian.
const PACKAGES: [(&str, &str); 4] =
    [("runc", "runc"), ("busybox", "busybox"), ("unshare", "util-linux"), ("ldd", "libc-bin")];

const MODULES: [Module; 4] = [
    module(
        "kubeadm",
        &[
            ("kubeadm", "k8s.io/kubernetes/cmd/kubeadm"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ],
    ),
    Module {
        folder: "kubeadm-1.33",
        kubernetes: "v1.33.13",
        tags: "",
        programs: &[("1.33/kubeadm", "k8s.io/kubernetes/cmd/kubeadm")],
    },
    Module {
        folder: "containerd",
        kubernetes: KUBERNETES,
        tags: "no_btrfs,no_devmapper,no_zfs",
        programs: &[
            ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
            ("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    },
    module(
        "cni",
        &[
            ("bridge", "github.com/containernetworking/plugins/plugins/main/bridge"),
            ("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local"),
            ("loopback", "github.com/containernetworking/plugins/plugins/main/loopback"),
            ("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap"),
        ],
    ),
];

/// Installs and builds what is missing.
pub(super) fn all() -> Outcome {
    setup::all()?;
    setup::install(&setup::missing(&PACKAGES))?;
    MODULES.iter().try_for_each(setup::build)
}
