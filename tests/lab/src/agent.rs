//! `kube-vip` on a host, in a root file system that holds nothing but it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube_vip::config::api::ADMIN_CONF;

use crate::control_plane::{LOCAL, client};
use crate::lab::{Host, Lab};
use crate::pki::Pki;
use crate::process::Process;
use crate::{Objects, Result, audit, io, rights, run};

/// Where an agent finds its configuration file.
const FILE: &str = "/etc/kube-vip.yaml";

/// Whose rights an agent has.
#[derive(Debug, Clone)]
pub enum Kubeconfig {
    /// There is no kubeconfig.
    Missing,
    /// This file's user.
    File(PathBuf),
    /// A user with the rights that `kube-vip manifest rbac` prints for the agent's own settings.
    Generated(Authority),
}

/// What it takes to make users and to give them rights.
#[derive(Debug, Clone)]
pub struct Authority {
    pki: Arc<Pki>,
    admin: PathBuf,
    /// The server that kubeconfigs name.
    pub(crate) server: String,
}

/// How to run an agent.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The `kube-vip` to run.
    pub program: PathBuf,
    /// Lease duration, renew deadline and retry period in seconds.
    pub lease: (u32, u32, u32),
    /// The VIPs.
    pub address: String,
    /// What is at /etc/kubernetes/admin.conf.
    pub kubeconfig: Kubeconfig,
    /// A configuration file, in place of variables.
    pub file: Option<PathBuf>,
    /// Further variables.
    pub env: BTreeMap<String, String>,
    /// Drop every capability but those that the generated pods have (and the one to change the root with).
    pub confined: bool,
}

impl AgentOptions {
    /// The configuration that tests use: leases 5/3/1, and the least rights. In a lab that begins without API servers it is
    /// `admin.conf`, as with kubeadm.
    pub fn new(lab: &Lab, program: &str) -> Self {
        let server = format!("https://{}:6443", lab.vip_v4);
        let kubeconfig = match lab.control_plane {
            true => Kubeconfig::Generated(Authority {
                pki: lab.pki.clone(),
                admin: lab.path("super-admin.conf"),
                server,
            }),
            false => Kubeconfig::File(lab.path("admin.conf")),
        };
        Self {
            program: program.into(),
            lease: (5, 3, 1),
            address: format!("{},{}", lab.vip_v4, lab.vip_v6),
            kubeconfig,
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

    /// Run a command of the program once, as an agent with these options would be. Returns its exit code and what it printed.
    pub fn run(&self, host: &Host, args: &[&str]) -> Result<(Option<i32>, String)> {
        let command = self.command(host, args)?;
        let mut process = std::process::Command::new("ip");
        process.args(["netns", "exec", host.namespace.name()]).args(command);
        let output = process.envs(self.environment(host)).output().map_err(io("ip netns exec"))?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// The same agent with its API server at this URL.
    #[must_use]
    pub(crate) fn with_server(mut self, url: &str) -> Self {
        if let Kubeconfig::Generated(authority) = &mut self.kubeconfig {
            authority.server = url.to_owned();
        }
        self
    }

    /// The roles for these settings, and the group that has their rights: one for all agents with the same roles.
    pub(crate) fn rights(&self, host: &Host) -> Result<Rights> {
        let environment = self.environment(host);
        let settings: Vec<String> =
            environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let path = format!("PATH={}", std::env::var("PATH").unwrap_or_default());
        let root = prepare_root(host, self)?.to_string_lossy().into_owned();
        let mut command = vec!["env", "-i", &path];
        command.extend(settings.iter().map(String::as_str));
        command.extend(["chroot", &root, "/kube-vip", "manifest", "rbac"]);
        let manifest = run(&command)?;
        let mut hasher = DefaultHasher::new();
        manifest.hash(&mut hasher);
        let group = format!("kube-vip-{:x}", hasher.finish());
        Ok(Rights { group, settings: settings.join(" "), manifest })
    }

    /// The agent's kubeconfig, with rights that are in effect.
    fn kubeconfig(&self, host: &Host, root: &Path) -> Result<Option<PathBuf>> {
        let authority = match &self.kubeconfig {
            Kubeconfig::Missing => return Ok(None),
            Kubeconfig::File(path) => return Ok(Some(path.clone())),
            Kubeconfig::Generated(authority) => authority,
        };
        let rights = self.rights(host)?;
        // As in a pod: the default namespace of Leases.
        let account = root.join("var/run/secrets/kubernetes.io/serviceaccount");
        std::fs::create_dir_all(&account).map_err(io(account.to_string_lossy()))?;
        let namespace = rights::account_namespace(&rights.manifest)?;
        std::fs::write(account.join("namespace"), namespace).map_err(io("the namespace of the agent"))?;
        authority.kubeconfig(host, &rights).map(Some)
    }

    /// Runs the program in a root file system of its own, with its kubeconfig.
    fn command(&self, host: &Host, args: &[&str]) -> Result<Vec<String>> {
        let root = prepare_root(host, self)?;
        let kubeconfig = self.kubeconfig(host, &root)?;
        let root = root.to_string_lossy();
        let mut mounts = format!("mount --rbind /proc {root}/proc");
        if let Some(kubeconfig) = kubeconfig {
            // Mounted, as in a pod: agents with other rights share the root.
            let place = format!("{root}{ADMIN_CONF}");
            std::fs::write(&place, "").map_err(io(&place))?;
            mounts.push_str(&format!(" && mount --bind {} {place}", kubeconfig.to_string_lossy()));
        }
        mounts.push_str(" && exec \"$@\"");
        // In a mount namespace of its own, which ends with it.
        let mut command = vec!["unshare", "--mount", "sh", "-c", &mounts, "sh"];
        if self.confined {
            let kept = "-all,+net_admin,+net_raw,+sys_chroot";
            command.extend(["setpriv", "--no-new-privs", "--bounding-set", kept, "--inh-caps", kept]);
        }
        command.extend(["chroot", &root, "/kube-vip"]);
        command.extend(args);
        Ok(command.into_iter().map(str::to_owned).collect())
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

/// Roles, and who has their rights.
#[derive(Debug)]
pub(crate) struct Rights {
    pub(crate) group: String,
    pub(crate) settings: String,
    pub(crate) manifest: String,
}

impl Authority {
    /// The kubeconfig of a user with these rights, which are in effect at the API server of the host.
    fn kubeconfig(&self, host: &Host, rights: &Rights) -> Result<PathBuf> {
        let Rights { group, settings, manifest } = rights;
        let path = host.folder.join(format!("{group}.conf"));
        if !path.exists() {
            let admin = client(&self.admin, LOCAL, &host.namespace)?;
            Objects::new(&admin, &host.namespace).grant(group, settings, manifest)?;
            let text = self.pki.kubeconfig(audit::USER, group, &self.server)?;
            std::fs::write(&path, text).map_err(io(path.to_string_lossy()))?;
        }
        Ok(path)
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent(Process);

impl Agent {
    /// Start one on a host.
    pub fn start(host: &Host, options: &AgentOptions) -> Result<Self> {
        let command = options.command(host, &["manager"])?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let log = host.folder.join("kube-vip.log");
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

/// What the container has, without the kubeconfig: the program, a hosts file with the static pod's alias, an empty
/// resolv.conf, a place for /proc.
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
    Ok(root)
}
