//! Network namespaces by name.

use std::fs::File;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::{Result, io, run};

/// All namespaces of labs have names that begin with this, then the process id of the lab's owner.
const PREFIX: &str = "kvlab-";

/// A network namespace. It is removed when it is dropped, with every process in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    runtime: OnceLock<Runtime>,
    /// Another one of this name removes it.
    alias: bool,
}

impl Namespace {
    /// Make one. `label` is unique in this process.
    pub fn new(label: &str) -> Result<Self> {
        // The first one on a machine mounts the folder of all.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{PREFIX}{}-{label}", std::process::id());
        run(&["ip", "netns", "add", &name])?;
        let namespace = Self { name, runtime: OnceLock::new(), alias: false };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The same namespace, which the alias does not remove when it is dropped.
    #[must_use]
    pub fn alias(&self) -> Self {
        Self { name: self.name.clone(), runtime: OnceLock::new(), alias: true }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Run `ip` inside.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        run(&[&["ip", "-n", &self.name], args].concat())
    }

    /// Run a command inside.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        run(&[&["ip", "netns", "exec", &self.name], command].concat())
    }

    /// Set a sysctl inside.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(&["sysctl", "-qw", &format!("{key}={value}")]).map(drop)
    }

    /// The answer to a GET on the loopback address, headers included.
    pub fn http_get(&self, port: u16, path: &str) -> Result<String> {
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let answer = self.block_on(async move {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        });
        answer.map_err(io(format!("GET {path} on port {port}")))
    }

    /// Drop incoming packets on an interface for a TCP port: no reset, no ICMP error.
    pub fn black_hole(&self, link: &str, port: u16) -> Result<()> {
        self.run(&["nft", "add table inet hole"])?;
        self.run(&["nft", "add chain inet hole in { type filter hook input priority 0 ; }"])?;
        self.run(&["nft", &format!("add rule inet hole in iifname {link} tcp dport {port} drop")]).map(drop)
    }

    /// Remove that rule.
    pub fn fill_black_hole(&self) -> Result<()> {
        self.run(&["nft", "delete table inet hole"]).map(drop)
    }

    /// Run `action` on this thread inside, then switch back.
    pub fn within<T>(&self, action: impl FnOnce() -> T) -> Result<T> {
        let home = File::open("/proc/thread-self/ns/net").map_err(io("opening the own namespace"))?;
        self.enter()?;
        let value = action();
        setns(home.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|error| io("coming back from a namespace")(error.into()))?;
        Ok(value)
    }

    fn enter(&self) -> Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let there = File::open(&path).map_err(io(path))?;
        setns(there.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|error| io(format!("entering {}", self.name))(error.into()))
    }

    /// Run a future on a runtime whose threads live inside: every socket it opens belongs to this namespace.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime().spawn(future)
    }

    /// The same, waiting for the end.
    #[expect(clippy::panic, reason = "carries a panic on to the test that caused it")]
    pub fn block_on<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match futures::executor::block_on(self.spawn(future)) {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("a task in {} was cancelled: {error}", self.name),
            },
        }
    }

    #[expect(clippy::expect_used, reason = "without a runtime inside the namespace there is no lab")]
    fn runtime(&self) -> &Runtime {
        self.runtime.get_or_init(|| {
            let name = self.name.clone();
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .on_thread_start(move || {
                    let inside = Self { name: name.clone(), runtime: OnceLock::new(), alias: true };
                    inside.enter().expect("a thread enters its namespace");
                    std::mem::forget(inside);
                })
                .enable_all()
                .build()
                .expect("a runtime")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if !self.alias {
            remove(&self.name);
        }
    }
}

/// End every process in a namespace, by process id, and remove it.
fn remove(name: &str) {
    let pids = run(&["ip", "netns", "pids", name]).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.trim().parse::<i32>().ok()) {
        // The threads of this very process live in the namespace, too.
        if u32::try_from(pid) != Ok(std::process::id()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
        }
    }
    drop(run(&["ip", "netns", "del", name]));
}

/// Clear away what labs left behind whose process is gone, once for each process.
pub fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(sweep_now);
}

fn sweep_now() {
    let names = run(&["ip", "netns", "list"]).unwrap_or_default();
    for line in names.lines() {
        let Some(name) = line.split_whitespace().next() else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let owner = rest.split('-').next().unwrap_or_default();
        if !std::path::Path::new(&format!("/proc/{owner}")).exists() {
            remove(name);
            drop(std::fs::remove_dir_all(crate::lab::directory(owner)));
        }
    }
}
