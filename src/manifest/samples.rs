//! The manifests that come with the project, as command lines.

use crate::cli::{self, Action};
use crate::config::{Raw, Sources};

/// A file in manifests/ and the command that prints it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub file: &'static str,
    pub about: &'static str,
    pub command: &'static str,
}

pub fn all() -> Vec<Sample> {
    let sample = |file, about, command| Sample { file, about, command };
    vec![
        sample(
            "arp-control-plane-pod.yaml",
            "Static pod for /etc/kubernetes/manifests: a control-plane VIP by ARP. Set vip_interface and address.",
            "kube-vip manifest pod --interface eth0 --address 192.168.0.40 --controlplane --arp --leaderElection \
             --leaseDuration 5 --leaseRenewDuration 3 --leaseRetry 1 --healthCheckPort 2113",
        ),
        sample(
            "arp-control-plane-daemonset.yaml",
            "The same as a DaemonSet on the control-plane nodes. Apply rbac.yaml first.",
            "kube-vip manifest daemonset --interface eth0 --address 192.168.0.40 --controlplane --arp \
             --leaderElection --leaseDuration 5 --leaseRenewDuration 3 --leaseRetry 1 --healthCheckPort 2113 \
             --inCluster --taint",
        ),
        sample(
            "arp-control-plane-and-services-pod.yaml",
            "Static pod: a control-plane VIP and Services by ARP, one election per Service.",
            "kube-vip manifest pod --interface eth0 --address 192.168.0.40 --controlplane --services \
             --servicesElection --arp --leaderElection",
        ),
        sample(
            "arp-services-daemonset.yaml",
            "DaemonSet: Services by ARP, one election per Service. Apply rbac.yaml first.",
            "kube-vip manifest daemonset --interface eth0 --services --servicesElection --arp --inCluster",
        ),
        sample(
            "bgp-control-plane-and-services-daemonset.yaml",
            "DaemonSet: a control-plane VIP and Services by BGP. Set the router ID, the AS numbers and the peers.",
            "kube-vip manifest daemonset --interface lo --address 192.168.0.40 --controlplane --services --bgp \
             --localAS 65000 --bgpRouterID 192.168.0.2 --bgppeers 192.168.0.10:65000::false,192.168.0.11:65000::false \
             --inCluster --taint",
        ),
        sample(
            "ipv6-control-plane-pod.yaml",
            "Static pod: an IPv6 control-plane VIP by NDP.",
            "kube-vip manifest pod --interface eth0 --address fd00::40 --controlplane --arp --leaderElection",
        ),
        sample(
            "dual-stack-control-plane-pod.yaml",
            "Static pod: a control-plane VIP of each family.",
            "kube-vip manifest pod --interface eth0 --address 192.168.0.40,fd00::40 --controlplane --arp \
             --leaderElection",
        ),
        sample(
            "rbac.yaml",
            "ServiceAccount, roles and bindings for the DaemonSets, in every mode.",
            "kube-vip manifest rbac",
        ),
    ]
}

/// The text of the file.
///
/// # Errors
/// What is wrong with the command line: a bug in this file.
pub fn render(sample: &Sample) -> Result<String, String> {
    let words = sample.command.split_whitespace().map(Into::into);
    let cli = cli::parse(words).map_err(|problem| format!("{}: {problem}", sample.file))?;
    let Action::Manifest(manifest) = cli.action else {
        return Err(format!("{} is no manifest", sample.file));
    };
    let (raw, problems, _) = Raw::collect(&Sources { flags: cli.flags, ..Sources::default() });
    if let Some(problem) = problems.first() {
        return Err(format!("{}: {problem}", sample.file));
    }
    let rendered = super::render(&manifest, None, &raw);
    let (yaml, _) = rendered.map_err(|problems| format!("{}: {problems:?}", sample.file))?;
    Ok(format!("# {}\n#\n# {}\n{yaml}", sample.about, sample.command))
}
