//! `kube-vip` on a host, in a root file system that holds nothing but it.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use crate::lab::{Host, Lab};
use crate::process::Process;
use crate::{Result, io, run};

/// Where an agent finds its configuration file.
const FILE: &str = "/etc/kube-vip.yaml";

/// How to run an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The `kube-vip` to run.
    pub program: PathBuf,
    /// Lease duration, renew deadline and retry period in seconds.
    pub lease: (u32, u32, u32),
    /// The VIPs.
    pub address: String,
    /// The kubeconfig to put at /etc/kubernetes/admin.conf; none leaves the place empty.
    pub kubeconfig: Option<PathBuf>,
    /// A configuration file, in place of variables.
    pub file: Option<PathBuf>,
    /// Further variables.
    pub env: BTreeMap<String, String>,
    /// Drop every capability but those that the generated pods have (and the one to change the root with).
    pub confined: bool,
}

impl AgentOptions {
    /// The configuration that tests use: leases 5/3/1, `admin.conf`.
    pub fn new(lab: &Lab, program: &str) -> Self {
        Self {
            program: program.into(),
            lease: (5, 3, 1),
            address: format!("{},{}", lab.vip_v4, lab.vip_v6),
            kubeconfig: Some(lab.path("admin.conf")),
            file: None,
            env: BTreeMap::new(),
            confined: false,
        }
    }

    /// With one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    fn environment(&self, host: &Host) -> Vec<(String, String)> {
        if self.file.is_some() {
            let own = [("vip_interface", "eth0"), ("vip_nodename", &host.name), ("config_file", FILE)];
            let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
            return own.into_iter().chain(self.env.clone()).collect();
        }
        let (duration, renew, retry) = self.lease;
        let mut env: BTreeMap<String, String> = [
            ("vip_arp", "true".to_owned()),
            ("cp_enable", "true".to_owned()),
            ("vip_interface", "eth0".to_owned()),
            ("vip_nodename", host.name.clone()),
            ("address", self.address.clone()),
            ("vip_leaderelection", "true".to_owned()),
            ("vip_leaseduration", duration.to_string()),
            ("vip_renewdeadline", renew.to_string()),
            ("vip_retryperiod", retry.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(self.env.clone());
        env.into_iter().collect()
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent(Process);

impl Agent {
    /// Start one on a host.
    pub fn start(host: &Host, options: &AgentOptions) -> Result<Self> {
        let root = prepare_root(host, options)?;
        let log = host.folder.join("kube-vip.log");
        let root = root.to_string_lossy();
        let mount = format!("mount --rbind /proc {root}/proc && exec \"$@\"");
        // In a mount namespace of its own, which ends with it.
        let mut command = vec!["unshare", "--mount", "sh", "-c", &mount, "sh"];
        if options.confined {
            let kept = "-all,+net_admin,+net_raw,+sys_chroot";
            command.extend(["setpriv", "--no-new-privs", "--bounding-set", kept, "--inh-caps", kept]);
        }
        command.extend(["chroot", &root, "/kube-vip", "manager"]);
        Ok(Self(Process::start(&host.namespace, &command, &options.environment(host), &log)?))
    }
}

impl Deref for Agent {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.0
    }
}

/// What the container has: the program, a hosts file with the static pod's alias, an empty resolv.conf, a place for /proc,
/// the kubeconfig.
fn prepare_root(host: &Host, options: &AgentOptions) -> Result<PathBuf> {
    let root = host.folder.join("root");
    let etc = root.join("etc/kubernetes");
    std::fs::create_dir_all(&etc).map_err(io(etc.to_string_lossy()))?;
    let proc = root.join("proc");
    std::fs::create_dir_all(&proc).map_err(io(proc.to_string_lossy()))?;
    let program = root.join("kube-vip");
    if !program.exists() {
        // By a process of its own: with the file open for writing here, a child that another thread forks at that
        // moment would have it open as well, and the kernel refuses to run a file that is open for writing.
        run(&["cp", "--reflink=auto", &options.program.to_string_lossy(), &program.to_string_lossy()])?;
    }
    let write = |path: &Path, text: &str| std::fs::write(path, text).map_err(io(path.to_string_lossy()));
    write(&root.join("etc/hosts"), "127.0.0.1 localhost kubernetes\n")?;
    write(&root.join("etc/resolv.conf"), "")?;
    if let Some(file) = &options.file {
        std::fs::copy(file, root.join(FILE.trim_start_matches('/'))).map_err(io(file.to_string_lossy()))?;
    }
    if let Some(kubeconfig) = &options.kubeconfig {
        std::fs::copy(kubeconfig, etc.join("admin.conf")).map_err(io("copying the kubeconfig"))?;
    }
    Ok(root)
}
