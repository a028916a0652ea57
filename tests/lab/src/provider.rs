//! `kube-vip-cloud-provider` on a host.

use std::ops::{Deref, DerefMut};

use crate::control_plane::LOCAL;
use crate::lab::{Host, Lab};
use crate::process::Process;
use crate::{Result, audit, io};

/// A running provider.
#[derive(Debug)]
pub struct Provider {
    process: Process,
    port: u16,
}

impl Provider {
    /// Start one on a host, for the API server there, with the rights of a group. Several on one host need several
    /// ports.
    pub fn start(
        lab: &Lab,
        host: usize,
        program: &str,
        (port, group): (u16, &str),
        args: &[&str],
    ) -> Result<Self> {
        let host: &Host = lab.host(host);
        let kubeconfig = kubeconfig(lab, host, group)?;
        let http = format!("--http-port={port}");
        let log = host.folder.join(format!("provider-{port}.log"));
        let command = [&[program, &kubeconfig, &http], args].concat();
        let process = Process::start(&host.namespace, &command, &[], &log)?;
        Ok(Self { process, port })
    }

    /// Start another project's provider, with all rights.
    pub fn foreign(lab: &Lab, host: usize, program: &str, args: &[&str]) -> Result<Self> {
        let host: &Host = lab.host(host);
        let kubeconfig = kubeconfig(lab, host, "system:masters")?;
        let log = host.folder.join("provider.log");
        let lease = "--leader-elect-resource-name=kube-vip-cloud-controller";
        let command = [&[program, &kubeconfig, lease], args].concat();
        let process = Process::start(&host.namespace, &command, &[], &log)?;
        Ok(Self { process, port: 0 })
    }

    /// Where its metrics and probes are.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Deref for Provider {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Provider {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The flag that names a kubeconfig for the API server of a host, with the rights of a group.
pub fn kubeconfig(lab: &Lab, host: &Host, group: &str) -> Result<String> {
    let path = host.folder.join(format!("{}.conf", group.replace(':', "-")));
    if !path.exists() {
        let text = lab.pki.kubeconfig(audit::USER, group, LOCAL)?;
        std::fs::write(&path, text).map_err(io("a kubeconfig"))?;
    }
    Ok(format!("--kubeconfig={}", path.to_string_lossy()))
}
