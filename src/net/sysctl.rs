//! Kernel settings without a netlink interface.

/// `net.ipv4.conf.all.rp_filter`. The larger value of it and of the interface's own applies (ip-sysctl).
pub fn reverse_path_for_all() -> i32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether the kernel keeps the other addresses of a subnet when it drops the first one (`promote_secondaries`; that of all
/// interfaces or of this one suffices).
pub fn promotes_secondaries(interface: &str) -> bool {
    ["all", interface].into_iter().any(|name| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/promote_secondaries");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
    })
}

/// Sets `rp_filter` of an interface. On a read-only file system the default stays; where that is strict, packets that
/// arrive on another interface than replies leave by are dropped.
pub fn set_reverse_path(interface: &str, value: u8) {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    if let Err(error) = std::fs::write(&path, value.to_string()) {
        tracing::debug!(path, %error, "cannot set reverse path filtering");
    }
}
