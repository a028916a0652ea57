//! Elements of a value that are valid, and probably not what was meant.

use std::net::IpAddr;

use kube_vip::model::{Family, PerFamily};

use super::config::span;
use super::set::RangeSet;
use super::value::{Element, elements, parse_element};

/// Networks with addresses that no Service can have, by kind.
const UNUSABLE: [(&str, &str); 8] = [
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::1/128", "loopback"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
    ("::ffff:0:0/96", "mapped IPv4"),
];

/// An element's family, first and last number.
fn range(element: &str) -> Option<(Family, u128, u128)> {
    match parse_element(element).ok()? {
        Element::Network { first, last, family, .. } | Element::Range { first, last, family } => {
            Some((family, first, last))
        }
        Element::Dhcp(_) => None,
    }
}

/// One sentence for each suspicious element. Only a network that begins elsewhere is suspicious among excluded addresses.
pub(super) fn warnings(text: &str, excluded: bool) -> Vec<String> {
    let (mut before, mut warnings) = (PerFamily::<RangeSet>::default(), Vec::new());
    for element in elements(text) {
        let Some((family, first, last)) = range(element) else { continue };
        warnings.extend(misaligned(element, family, first, last));
        if excluded {
            continue;
        }
        warnings.extend(unusable(element, family, first, last));
        if let Some((start, end)) = before[family].overlap(first, last) {
            let common = span(family, start, end);
            warnings.push(format!("`{element}` has {common} in common with other elements: they count once"));
        }
        before[family].insert(first, last);
    }
    warnings
}

/// For a network that is written with an address inside it.
fn misaligned(element: &str, family: Family, first: u128, last: u128) -> Option<String> {
    let (base, prefix) = element.split_once('/')?;
    let network = family.address(first);
    (base.trim().parse::<IpAddr>().ok() != Some(network)).then(|| {
        format!(
            "`{element}` stands for the whole network, {}: write {network}/{}, or the range that you mean",
            span(family, first, last),
            prefix.trim()
        )
    })
}

fn unusable(element: &str, family: Family, first: u128, last: u128) -> Option<String> {
    let of_family = |(network, kind): &(&str, &'static str)| {
        let (_, start, end) = range(network).filter(|(of, ..)| *of == family)?;
        (first <= end && start <= last).then_some(*kind)
    };
    let kinds: Vec<&str> = UNUSABLE.iter().filter_map(of_family).collect();
    (!kinds.is_empty()).then(|| {
        format!("`{element}` has {} addresses, which no Service can have: take them out", kinds.join(" and "))
    })
}

#[cfg(test)]
mod tests {
    use kube_vip::model::validation;

    use super::*;

    #[test]
    fn suspicious_elements_are_reported() {
        let table: [(&str, &[&str]); 14] = [
            ("192.0.2.16/28", &[]),
            ("192.0.2.17/32,fd00::1/128,dhcp,0.0.0.0/32", &[]),
            (
                "192.0.2.17/28",
                &[
                    "`192.0.2.17/28` stands for the whole network, 192.0.2.16-192.0.2.31: write 192.0.2.16/28, or the range \
                     that you mean",
                ],
            ),
            (
                "fd00::1/120",
                &["`fd00::1/120` stands for the whole network, fd00::-fd00::ff: write fd00::/120"],
            ),
            (
                "127.0.0.1-127.0.0.9",
                &["`127.0.0.1-127.0.0.9` has loopback addresses, which no Service can have"],
            ),
            ("224.0.0.0/30", &["has multicast addresses"]),
            ("169.254.1.0/30", &["has link-local addresses"]),
            ("126.255.255.0-128.0.0.9", &["has loopback addresses"]),
            ("fe80::1-fe80::9", &["has link-local addresses"]),
            ("ff02::1", &["has multicast addresses"]),
            ("0.0.0.0/0", &["has loopback and link-local and multicast and broadcast addresses"]),
            ("10.0.0.1-10.0.0.4,10.0.0.3-10.0.0.6", &["`10.0.0.3-10.0.0.6` has 10.0.0.3-10.0.0.4 in common"]),
            ("10.0.0.0/24,10.0.0.9", &["`10.0.0.9` has 10.0.0.9 in common with other elements"]),
            ("10.0.0.0/25,10.0.0.128/25", &[]),
        ];
        for (text, expected) in table {
            let found = warnings(text, false);
            assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
            assert!(found.iter().zip(expected).all(|(found, part)| found.contains(part)), "{found:?}");
        }
        assert_eq!(warnings("127.0.0.1,127.0.0.1", true), [""; 0]);
        assert_eq!(warnings("10.0.0.1/24", true).len(), 1);
    }

    #[test]
    fn the_kinds_are_those_that_are_refused() {
        for (network, kind) in UNUSABLE {
            let (family, first, last) = range(network).unwrap();
            for number in [first, last] {
                assert_eq!(validation::unusable(family.address(number)), Some(kind), "{network}");
            }
        }
    }
}
