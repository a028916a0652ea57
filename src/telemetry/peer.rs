//! The process at the other end of a Unix socket, and what it may request.

use std::fs::read_to_string;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::UnixStream;

/// The bit of CAP_NET_ADMIN in a set of capabilities (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

const INVISIBLE: &str = "kube-vip does not see the requesting process, which is in another PID namespace: run this in the container of kube-vip";
const ENDED: &str = "the requesting process has ended";
const UNKNOWN: &str = "kube-vip cannot read the capabilities of the requesting process";
const INCAPABLE: &str = "the requesting process lacks CAP_NET_ADMIN";

pub(super) fn is_root(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0)
}

/// Whether the peer may change what this process does: it has CAP_NET_ADMIN here, with which it could remove addresses
/// itself. A container of root without it must not.
///
/// # Errors
/// Why it may not.
pub(super) fn may_control(stream: &UnixStream) -> Result<(), &'static str> {
    // The kernel reports 0 for a process that is not in this PID namespace or one below it.
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0).ok_or(INVISIBLE)?;
    let process = match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(process) => Some(process),
        // Before Linux 6.5. Then the process must still be the one that connected a moment ago.
        Err(Errno::ENOPROTOOPT) => None,
        Err(_) => return Err(ENDED),
    };
    let status = read_to_string(format!("/proc/{pid}/status")).map_err(|_| UNKNOWN)?;
    let users = |process: &str| read_to_string(format!("/proc/{process}/uid_map")).ok();
    // Capabilities of a user namespace below this one have no effect on this network.
    let same_users = users(&pid.to_string()) == users("self");
    // What was read is of the peer if its PID has not become another process's.
    if process.is_some_and(|process| pid_of(&process) != Some(pid)) {
        return Err(ENDED);
    }
    if same_users && effective(&status).ok_or(UNKNOWN)? & NET_ADMIN != 0 { Ok(()) } else { Err(INCAPABLE) }
}

/// The PID of a process that has not been reaped yet.
fn pid_of(process: &OwnedFd) -> Option<i32> {
    let info = read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    field(&info, "Pid:")?.parse().ok()
}

/// The effective capabilities in /proc/<pid>/status.
pub(crate) fn effective(status: &str) -> Option<u64> {
    u64::from_str_radix(field(status, "CapEff:")?, 16).ok()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_the_effective_ones() {
        let status = |effective: &str| {
            format!("Name:\tCapEff: x\nUid:\t0\t0\t0\t0\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n")
        };
        for (text, expected) in [
            // All; those of kube-vip's container; those of a container without NET_ADMIN; none.
            ("000001ffffffffff", Some(true)),
            ("0000000000003000", Some(true)),
            ("00000000a80425fb", Some(false)),
            ("0000000000000000", Some(false)),
            ("nonsense", None),
        ] {
            let found = effective(&status(text)).map(|effective| effective & NET_ADMIN != 0);
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn a_peer_is_the_process_that_connected() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        let own = effective(&read_to_string("/proc/self/status").unwrap()).unwrap();
        assert_eq!(may_control(&stream).is_ok(), own & NET_ADMIN != 0);
        let own = i32::try_from(std::process::id()).unwrap();
        match getsockopt(&stream, sockopt::PeerPidfd) {
            Ok(process) => assert_eq!(pid_of(&process), Some(own)),
            Err(error) => assert_eq!(error, Errno::ENOPROTOOPT),
        }
    }
}
