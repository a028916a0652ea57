//! What distinguishes this host from every other one until it boots again.

use std::os::unix::fs::MetadataExt;

/// The kernel's boot ID, and the network namespace for nodes that share a kernel. Machines with the same node name, such as
/// clones, differ in it; consecutive processes on one host do not. A part that cannot be read is empty or zero.
pub fn host_id() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::metadata("/proc/self/ns/net").map_or(0, |it| it.ino());
    format!("{}/{namespace}", boot.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_reads_a_boot_id_and_its_namespace() {
        let id = host_id();
        let (boot, namespace) = id.split_once('/').unwrap();
        assert!(boot.len() == 36 && namespace != "0", "{id}");
        assert_eq!(host_id(), id);
    }
}
