//! `kube-vip-cloud-provider` on a host.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::lab::{Host, Lab};
use crate::process::Process;
use crate::{Result, io};

/// A running provider.
#[derive(Debug)]
pub struct Provider {
    process: Process,
    log: PathBuf,
    port: u16,
}

impl Provider {
    /// Start one on a host, for the API server there, with the rights of a group. Several on one host need several
    /// ports.
    ///
    /// # Errors
    /// If it cannot be started.
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
        Ok(Self { process, log, port })
    }

    /// Start somebody else's provider, with all rights.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn foreign(lab: &Lab, host: usize, program: &str, args: &[&str]) -> Result<Self> {
        let host: &Host = lab.host(host);
        let kubeconfig = kubeconfig(lab, host, "system:masters")?;
        let log = host.folder.join("provider.log");
        let lease = "--leader-elect-resource-name=kube-vip-cloud-controller";
        let command = [&[program, &kubeconfig, lease], args].concat();
        let process = Process::start(&host.namespace, &command, &[], &log)?;
        Ok(Self { process, log, port: 0 })
    }

    /// Ask it to stop.
    pub fn terminate(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Stop it in its tracks.
    pub fn freeze(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Let it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// End it without warning.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Wait for its end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn wait(&mut self, seconds: u64) -> Result<std::process::ExitStatus> {
        self.process.wait(seconds)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its metrics and probes are.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The flag that names a kubeconfig for the API server of a host, with the rights of a group.
fn kubeconfig(lab: &Lab, host: &Host, group: &str) -> Result<String> {
    let path = host.folder.join(format!("{}.conf", group.replace(':', "-")));
    if !path.exists() {
        let text = lab.pki.kubeconfig("provider", group, "https://127.0.0.1:6443")?;
        std::fs::write(&path, text).map_err(io("a kubeconfig"))?;
    }
    Ok(format!("--kubeconfig={}", path.to_string_lossy()))
}
