//! Processes that end with their owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{LabError, Namespace, Result, io, wait_for};

/// A process in a namespace, with its output in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Start `command` inside `namespace` with exactly this environment; its output goes to `log`.
    pub fn start(
        namespace: &Namespace,
        command: &[&str],
        env: &[(String, String)],
        log: &Path,
    ) -> Result<Self> {
        let what = || command.join(" ");
        let file = File::options().create(true).append(true).open(log).map_err(io(log.to_string_lossy()))?;
        let errors = file.try_clone().map_err(io(what()))?;
        let path = std::env::var("PATH").unwrap_or_default();
        // `ip netns exec` becomes the command: the process id is the command's own.
        let child = Command::new("ip")
            .args(["netns", "exec", namespace.name()])
            .args(command)
            .env_clear()
            .env("PATH", path)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(io(what()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Send SIGTERM, as the kubelet does.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Send SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Send SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Stop one of its threads until the result is dropped, in the thread that called this. The first thread has the
    /// process's name.
    pub fn freeze_thread(&self, name: &str) -> Result<FrozenThread> {
        let tasks = format!("/proc/{}/task", self.pid());
        let is_named = |path: &PathBuf| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let found = std::fs::read_dir(&tasks).map_err(io(&tasks))?.flatten().map(|entry| entry.path());
        let thread = found.filter(is_named).find_map(|path| path.file_name()?.to_str()?.parse().ok());
        let missing = || io(format!("thread {name} in {tasks}"))(std::io::ErrorKind::NotFound.into());
        let thread = thread.ok_or_else(missing)?;
        FrozenThread::new(Pid::from_raw(thread)).map_err(|error| io(&tasks)(error.into()))
    }

    /// Send it a signal. That it is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Wait for its end.
    pub fn wait(&mut self, seconds: u64) -> Result<std::process::ExitStatus> {
        let what = format!("process {} to end", self.child.id());
        wait_for(&what, seconds, || self.ended())
    }

    /// Send SIGKILL, and wait for the end.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The log file, with the output of earlier processes that used it.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Wait until the log contains a text. The error shows the log.
    pub fn wait_for_log(&self, text: &str, seconds: u64) -> Result<()> {
        let found = wait_for("a log line", seconds, || self.log().contains(text).then_some(()));
        found
            .map_err(|_| LabError::Timeout { what: format!("`{text}` in the log:\n{}", self.log()), seconds })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process has to go on to notice that it was killed; SIGKILL needs no such help.
        self.kill();
    }
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Resident memory in MiB.
    pub rss_mb: f64,
    /// The part of it that no other process shares.
    pub private_mb: f64,
    /// The most resident memory it ever had.
    pub peak_mb: f64,
    /// Seconds of processor time since it began.
    pub cpu: f64,
}

/// What a process uses now; nothing if there is none.
pub fn usage(pid: u32) -> Usage {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mebibytes = |text: &str, name: &str| -> f64 {
        let lines = text.lines().filter_map(|line| {
            line.strip_prefix(name)?.trim_start_matches(':').split_whitespace().next()?.parse::<f64>().ok()
        });
        lines.sum::<f64>() / 1024.0
    };
    let (rollup, status, stat) = (read("smaps_rollup"), read("status"), read("stat"));
    let ticks = |field: usize| -> f64 {
        let after = stat.rsplit(')').next().unwrap_or_default();
        after.split_whitespace().nth(field).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    Usage {
        rss_mb: mebibytes(&rollup, "Rss"),
        private_mb: mebibytes(&rollup, "Private_Clean") + mebibytes(&rollup, "Private_Dirty"),
        peak_mb: mebibytes(&status, "VmHWM"),
        // utime and stime, in ticks of 10 ms.
        cpu: (ticks(11) + ticks(12)) / 100.0,
    }
}

/// A thread that does not run.
#[derive(Debug)]
pub struct FrozenThread(Pid);

impl FrozenThread {
    fn new(thread: Pid) -> nix::Result<Self> {
        ptrace::seize(thread, ptrace::Options::empty())?;
        let frozen = Self(thread);
        ptrace::interrupt(thread)?;
        waitpid(thread, Some(WaitPidFlag::__WALL))?;
        Ok(frozen)
    }
}

impl Drop for FrozenThread {
    fn drop(&mut self) {
        // The process may have ended.
        ptrace::detach(self.0, None).ok();
    }
}
