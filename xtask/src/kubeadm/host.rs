//! A host: processes in namespaces of their own, with a file system that survives a reboot.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use kube_vip_lab::{Host, LabError, Result, binaries, run, wait_for};

use crate::sh::root;

/// Where the hosts find the programs of the lab.
const PROGRAMS: &str = "/opt/lab";

/// A host that runs.
#[derive(Debug)]
pub(super) struct Machine {
    /// `unshare`, with which all processes of the host end.
    outer: Child,
    /// The host's first process, as this machine numbers it.
    first: String,
    /// Whether it was powered off.
    off: bool,
    cgroup: String,
}

fn io(what: &Path) -> impl FnOnce(std::io::Error) -> LabError {
    let what = what.display().to_string();
    move |source| LabError::Io { what, source }
}

impl Machine {
    /// Boots a host of a lab whose files are in `state`, and waits for its container runtime.
    pub(super) fn boot(host: &Host, state: &Path) -> Result<Self> {
        std::fs::create_dir_all(state).map_err(io(state))?;
        let cgroup = host.namespace.name().to_owned();
        let log = state.join("boot.log");
        let log = File::options().create(true).append(true).open(&log).map_err(io(&log))?;
        let boot = root().join("xtask/src/kubeadm/host/boot.sh");
        let outer = Command::new(&boot)
            .args([host.name.as_str(), host.namespace.name(), &cgroup])
            .args([state, binaries::cache().as_path()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io(state))?)
            .stderr(log)
            .spawn()
            .map_err(io(&boot))?;
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let mut machine = Self { outer, first: String::new(), off: false, cgroup };
        machine.first = wait_for("the first process of a host", 10, || {
            let children = std::fs::read_to_string(&children).ok()?;
            children.split_whitespace().find(|child| is_first(child)).map(str::to_owned)
        })?;
        wait_for("the container runtime", 30, || machine.run(&["ctr", "version"]).ok())?;
        Ok(machine)
    }

    /// Runs a command on the host.
    pub(super) fn run(&self, command: &[&str]) -> Result<String> {
        let path = format!("PATH=/opt/files/bin:{PROGRAMS}:/usr/sbin:/usr/bin");
        let inside = ["nsenter", "--all", "--target", &self.first, "--", "/usr/bin/env", &path];
        run(&[&inside[..], command].concat())
    }

    /// The path of a file of the host, as this machine has it.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{file}", self.first))
    }

    /// Writes a file of the host, and the folders above it.
    pub(super) fn write(&self, file: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(file);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
        }
        std::fs::write(&path, content).map_err(io(&path))
    }

    /// Copies a file of this machine to the host.
    pub(super) fn copy(&self, from: &Path, file: &str) -> Result<()> {
        std::fs::copy(from, self.path(file)).map_err(io(from)).map(drop)
    }

    /// Ends all processes of the host at once.
    pub(super) fn power_off(&mut self) {
        // The next boot has a cgroup of the same name.
        if std::mem::replace(&mut self.off, true) {
            return;
        }
        if let Ok(first) = self.first.parse() {
            let first = nix::unistd::Pid::from_raw(first);
            nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL).ok();
        }
        self.outer.kill().ok();
        self.outer.wait().ok();
        // The kubelet of a later host looks at every cgroup that is left.
        hierarchies().iter().for_each(|hierarchy| remove_cgroup(&hierarchy.join(&self.cgroup)));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
    }
}

/// Whether a process is the first of its PID namespace.
fn is_first(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    // The numbers of the process in all namespaces, that of its own at the end.
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().skip(1).last() == Some("1"))
}

/// Of version 1 there are several.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    folders(&root).chain([root.clone()]).collect()
}

fn folders(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

/// Removes the cgroups of labs whose owner was killed. Their processes have ended with their network namespaces.
pub(super) fn sweep() {
    for cgroup in hierarchies().iter().flat_map(|hierarchy| folders(hierarchy)) {
        let name = cgroup.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let owner = name.strip_prefix("kvlab-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            remove_cgroup(&cgroup);
        }
    }
}

/// A cgroup can go once those below it have, and its last process.
fn remove_cgroup(cgroup: &Path) {
    folders(cgroup).for_each(|below| remove_cgroup(&below));
    if cgroup.is_dir() {
        wait_for("the processes of a cgroup to end", 5, || std::fs::remove_dir(cgroup).ok()).ok();
    }
}
