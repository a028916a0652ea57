//! Settings of the kernel that netlink does not tell.

/// The setting of reverse path filtering for all interfaces; the larger one of it and an interface's own counts (ip-sysctl).
pub fn reverse_path_for_all() -> i32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Set reverse path filtering for an interface. Where the file system is for reading alone the kernel's default stays, which is
/// strict on some systems: then packets that come in another way than answers go out are dropped.
pub fn set_reverse_path(interface: &str, value: u8) {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter");
    if let Err(error) = std::fs::write(&path, value.to_string()) {
        tracing::debug!(path, %error, "cannot set reverse path filtering");
    }
}
