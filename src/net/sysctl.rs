//! Settings of the kernel that netlink does not tell.

/// The setting of reverse path filtering for all links; the larger one of it and a link's own counts (ip-sysctl).
pub fn reverse_path_for_all() -> i32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
