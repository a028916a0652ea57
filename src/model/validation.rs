//! Checks of addresses and DNS names.

use std::net::IpAddr;

/// The kind of an address that other hosts cannot reach; none if they can. Unspecified addresses are left to the
/// caller: they request DHCP.
pub fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_loopback() => Some("loopback"),
        _ if address.is_multicast() => Some("multicast"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("broadcast"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("mapped IPv4"),
        _ => None,
    }
}

/// Whether a text can be a DNS name rather than a mistyped address: the last label is not a number (RFC 3696 §2).
/// Underscores are accepted: they are not valid in host names, but in use.
pub fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_address_is_not_a_name() {
        for (text, expected) in [
            ("a.example", true),
            ("a.example.", true),
            ("a_b", true),
            ("a-b", true),
            ("-a", false),
            ("192.0.2.256", false),
            ("", false),
            ("a..b", false),
            ("x y", false),
        ] {
            assert_eq!(is_name(text), expected, "{text}");
        }
    }
}
