//! `cargo xtask test kubeadm`: a cluster from `kubeadm init` to the reboot of all its hosts, by two versions of kubeadm.

use std::path::PathBuf;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube_vip_lab::{Administrator, LabError, Result, now, wait_for};

use super::cluster::{Cluster, Options, POD};
use crate::image;
use crate::setup::KUBERNETES;

/// The tag of an image with the same program, for an upgrade.
const NEXT: &str = "localhost/kube-vip:next";

/// Clusters by name: the version of kubeadm, or what else distinguishes them.
pub(super) const VARIANTS: [(&str, Options); 3] = [
    ("1.36", Options { kubeadm: "kubeadm", lease: [5, 3, 1], dual: false }),
    ("1.33", Options { kubeadm: "1.33/kubeadm", lease: [15, 10, 2], dual: false }),
    ("dual-stack", Options { kubeadm: "kubeadm", lease: [5, 3, 1], dual: true }),
];

/// All steps with each cluster, or one of them.
pub(super) fn all(archives: &[PathBuf], only: Option<&str>) -> Result<()> {
    for (name, options) in VARIANTS {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        println!("\nkubeadm {name}, leases {:?}", options.lease);
        let folder = super::folder().join("hosts");
        std::fs::remove_dir_all(&folder).ok();
        let cluster = Cluster::boot(options, archives, folder)?;
        Scenario { admin: None, cluster }.run()?;
    }
    Ok(())
}

struct Scenario {
    admin: Option<Administrator>,
    cluster: Cluster,
}

impl Scenario {
    fn run(mut self) -> Result<()> {
        type Step = fn(&mut Scenario) -> Result<()>;
        let steps: [(&str, Step); 7] = [
            ("init with admin.conf", Self::init),
            ("two joins", Self::join),
            ("upgrade of the image, pod by pod", Self::upgrade),
            ("reset of the holder, and its return", Self::reset),
            ("renewal of all certificates", Self::renew),
            ("reboot of the holder", Self::reboot_holder),
            ("reboot of all hosts", Self::reboot_all),
        ];
        for (name, step) in steps {
            let start = now();
            step(&mut self).inspect_err(|_| println!("test {name} ... FAILED"))?;
            let (took, overlap) = (now().since(start), self.cluster.sampler.overlap(start));
            println!("test {name} ... ok, {:.1} s", took.as_secs_f64());
            if !overlap.is_zero() {
                let what = format!("no two hosts with the VIP, but it was so for {overlap:?}");
                return Err(LabError::Timeout { what, seconds: 0 });
            }
        }
        Ok(())
    }

    fn admin(&self) -> Result<&Administrator> {
        self.admin.as_ref().ok_or_else(|| LabError::Missing("an administrator".into()))
    }

    fn init(&mut self) -> Result<()> {
        self.cluster.install_pod(0, &image::local("kube-vip"))?;
        self.cluster.init(KUBERNETES)?;
        self.admin = Some(self.cluster.administrator(0)?);
        self.cluster.wait_until_ready(self.admin()?, 0)?;
        self.wait_until_answering()
    }

    fn join(&mut self) -> Result<()> {
        for index in [1, 2] {
            self.cluster.join(index)?;
            self.cluster.install_pod(index, &image::local("kube-vip"))?;
            self.cluster.wait_until_ready(self.admin()?, index)?;
            self.wait_for_pod(index, &image::local("kube-vip"))?;
        }
        Ok(())
    }

    /// One pod after the other, the holder's last. The VIP moves once.
    fn upgrade(&mut self) -> Result<()> {
        let holder = self.cluster.sampler.wait_for_holder(30)?;
        let start = now();
        for index in (0..3).filter(|index| *index != holder).chain([holder]) {
            let current = image::local("kube-vip");
            let machine = self.cluster.machine(index);
            machine.run(&["ctr", "--namespace", "k8s.io", "images", "tag", &current, NEXT])?;
            let pod = machine.run(&["cat", POD])?;
            machine.write(POD, pod.replace(&current, NEXT))?;
            self.wait_for_pod(index, NEXT)?;
            self.wait_until_answering()?;
        }
        println!("  longest time without an answer {:.2} s", self.cluster.outage(start).as_secs_f64());
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        let holder = self.cluster.sampler.wait_for_holder(30)?;
        let other = (holder + 1) % 3;
        self.admin = Some(self.cluster.administrator(other)?);
        let start = now();
        self.cluster.reset(holder)?;
        wait_for("another holder", 60, || self.cluster.sampler.holder().ok().filter(|next| *next != holder))?;
        self.wait_until_answering()?;
        println!("  longest time without an answer {:.2} s", self.cluster.outage(start).as_secs_f64());
        let name = self.cluster.lab.host(holder).name.clone();
        self.admin()?.objects(&self.cluster.lab).delete::<Node>(&name)?;
        self.cluster.join(holder)?;
        self.cluster.install_pod(holder, NEXT)?;
        self.cluster.wait_until_ready(self.admin()?, holder)?;
        self.wait_for_pod(holder, NEXT)
    }

    /// The agent reads the new admin.conf without a restart: it goes on to renew its Lease.
    fn renew(&mut self) -> Result<()> {
        let holder = self.cluster.sampler.wait_for_holder(30)?;
        let start = now();
        self.cluster.machine(holder).run(&["/opt/lab/kubeadm", "certs", "renew", "all"])?;
        let renewed = self.renewed()?;
        wait_for("three further renewals", 60, || {
            let later = self.renewed().ok()?;
            (later > renewed + jiff::SignedDuration::from_secs(3)).then_some(())
        })?;
        let moved = self.cluster.sampler.holder()? != holder;
        println!("  longest time without an answer {:.2} s", self.cluster.outage(start).as_secs_f64());
        if moved { Err(LabError::Missing("the VIP on its host".into())) } else { Ok(()) }
    }

    fn reboot_holder(&mut self) -> Result<()> {
        let holder = self.cluster.sampler.wait_for_holder(30)?;
        self.admin = Some(self.cluster.administrator((holder + 1) % 3)?);
        let start = now();
        self.cluster.power_off(holder)?;
        wait_for("another holder", 60, || self.cluster.sampler.holder().ok().filter(|next| *next != holder))?;
        self.wait_until_answering()?;
        println!("  longest time without an answer {:.2} s", self.cluster.outage(start).as_secs_f64());
        self.cluster.power_on(holder)?;
        self.cluster.wait_until_ready(self.admin()?, holder)?;
        self.wait_for_pod(holder, NEXT)
    }

    fn reboot_all(&mut self) -> Result<()> {
        for index in 0..3 {
            self.cluster.power_off(index)?;
        }
        // The kernel drops what no agent renews.
        let empty = || self.cluster.sampler.latest().filter(|sample| sample.holds.iter().all(Vec::is_empty));
        wait_for("no host to have the VIP", 30, empty)?;
        let start = now();
        for index in 0..3 {
            self.cluster.power_on(index)?;
        }
        self.cluster.sampler.wait_for_holder(120)?;
        println!("  the VIP is back after {:.1} s", now().since(start).as_secs_f64());
        self.wait_until_answering()?;
        for index in 0..3 {
            self.cluster.wait_until_ready(self.admin()?, index)?;
        }
        Ok(())
    }

    fn wait_until_answering(&self) -> Result<()> {
        self.cluster.sampler.wait_for_holder(60)?;
        self.cluster.wait_until_answering()
    }

    fn wait_for_pod(&self, index: usize, image: &str) -> Result<()> {
        let name = format!("kube-system/kube-vip-{}", self.cluster.lab.host(index).name);
        wait_for(&format!("pod {name} with {image}"), 120, || {
            let pod: Pod = self.admin().ok()?.objects(&self.cluster.lab).get(&name).ok()??;
            let uses = pod.spec?.containers.iter().any(|container| container.image.as_deref() == Some(image));
            let statuses = pod.status?.container_statuses?;
            (uses && statuses.iter().all(|status| status.ready)).then_some(())
        })
    }

    /// When the Lease was renewed.
    fn renewed(&self) -> Result<jiff::Timestamp> {
        let lease: Option<Lease> =
            self.admin()?.objects(&self.cluster.lab).get("kube-system/plndr-cp-lock")?;
        let time = lease.and_then(|lease| lease.spec?.renew_time);
        time.map(|time| time.0).ok_or_else(|| LabError::Missing("the Lease".into()))
    }
}
