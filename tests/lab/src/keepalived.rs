//! keepalived on a host, for comparison: what people use for the same job without Kubernetes.

use nix::sys::signal::Signal;

use crate::lab::{Host, Lab};
use crate::process::Process;
use crate::{Result, io};

/// A running keepalived.
#[derive(Debug)]
pub struct Keepalived {
    process: Process,
}

impl Keepalived {
    /// Start one. Configured as kubeadm's documentation has it, with an advertisement and a check every second.
    pub fn start(lab: &Lab, host: &Host) -> Result<Self> {
        let text = format!(
            "global_defs {{\n  router_id {name}\n  script_user root\n  enable_script_security\n  vrrp_garp_master_delay 1\n}}\n\
             vrrp_script check_apiserver {{\n  script \"/usr/bin/timeout 1 /usr/bin/openssl s_client -connect 127.0.0.1:6443 -brief\"\n  \
             interval 1\n  timeout 2\n  fall 3\n  rise 2\n  weight -50\n}}\n\
             vrrp_instance VI_1 {{\n  state BACKUP\n  interface eth0\n  virtual_router_id 51\n  priority {priority}\n  advert_int 1\n  \
             virtual_ipaddress {{ {v4}/32 }}\n  virtual_ipaddress_excluded {{ {v6}/128 }}\n  \
             track_script {{ check_apiserver }}\n}}\n",
            name = host.name,
            priority = 150 - u32::from(host.number),
            v4 = lab.vip_v4,
            v6 = lab.vip_v6,
        );
        let config = host.folder.join("keepalived.conf");
        std::fs::write(&config, text).map_err(io("keepalived.conf"))?;
        let path = |name: &str| host.folder.join(name).to_string_lossy().into_owned();
        let config = config.to_string_lossy();
        let (pid, vrrp) = (path("keepalived.pid"), path("keepalived-vrrp.pid"));
        for left_over in [&pid, &vrrp] {
            // A killed one leaves them, and its successor believes them.
            drop(std::fs::remove_file(left_over));
        }
        let command =
            ["keepalived", "--dont-fork", "--log-console", "-f", &config, "-p", &pid, "-r", &vrrp, "--vrrp"];
        let process = Process::start(&host.namespace, &command, &[], &host.folder.join("keepalived.log"))?;
        Ok(Self { process })
    }

    /// The processes of keepalived: the parent and its VRRP child, which does the work.
    fn all(&self) -> Vec<i32> {
        let parent = self.process.pid();
        let children =
            std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        children.chain(i32::try_from(parent)).collect()
    }

    /// Send SIGTERM.
    pub fn terminate(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Send a signal to all its processes.
    pub fn signal(&self, signal: Signal) {
        for pid in self.all() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).ok();
        }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}
