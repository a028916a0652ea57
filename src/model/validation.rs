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

/// Words that users write for an address from a DHCP server.
pub const DHCP_WORDS: [&str; 2] = ["auto", "dhcp"];

/// Whether a text stands for an address from a DHCP server, in place of a DNS name. Neither program takes it for one.
pub fn is_dhcp_word(text: &str) -> bool {
    DHCP_WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Whether the API server accepts a text as the name of most objects (RFC 1123 subdomain).
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_of_any_length)
}

/// Whether the kernel accepts a text as the name of an interface: at most IFNAMSIZ - 1 bytes. In a name to create it replaces
/// `%d` by a number.
pub fn is_interface(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
    (1..=15).contains(&text.len()) && text.bytes().all(legal) && !matches!(text, "." | "..")
}

/// Whether the API server accepts a text as the name of a namespace (RFC 1123 label).
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_label_of_any_length(text)
}

fn is_label_of_any_length(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = [text.bytes().next(), text.bytes().last()];
    edges.iter().all(|edge| edge.is_some_and(legal)) && text.bytes().all(|byte| legal(byte) || byte == b'-')
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

    #[test]
    fn names_of_interfaces_are_those_that_the_kernel_accepts_as_they_are() {
        for (text, expected) in [
            ("eth0", true),
            ("eth0.200", true),
            ("a-name-of-fifte", true),
            ("a-name-of-sixtee", false),
            ("web%d", false),
            ("a/b", false),
            ("a:b", false),
            ("a b", false),
            ("..", false),
            ("", false),
        ] {
            assert_eq!(is_interface(text), expected, "{text}");
        }
    }

    #[test]
    fn names_of_objects_are_those_that_the_api_server_accepts() {
        let long = "a".repeat(64);
        for (text, label, subdomain) in [
            ("a", true, true),
            ("a-b", true, true),
            ("1", true, true),
            ("a.b", false, true),
            (&*long, false, true),
            ("a_b", false, false),
            ("A", false, false),
            ("a-", false, false),
            ("-a", false, false),
            ("a..b", false, false),
            ("", false, false),
            ("a?x=%2e", false, false),
        ] {
            assert_eq!((is_label(text), is_subdomain(text)), (label, subdomain), "{text}");
        }
        assert!(!is_subdomain(&"a.".repeat(127)) && !is_subdomain(&"a".repeat(254)));
    }
}
