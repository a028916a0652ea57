//! The value of a pool key: CIDRs, ranges and single addresses, separated by commas.

use std::net::IpAddr;

use kube_vip::model::family::number;
use kube_vip::model::{Family, PerFamily};

use super::set::RangeSet;

/// The addresses of a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    sets: PerFamily<RangeSet>,
    /// Families with addresses from a DHCP server.
    dhcp: Vec<Family>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("`{0}` is no address, CIDR or range: write 192.0.2.10, 192.0.2.0/24 or 192.0.2.10-192.0.2.20")]
    Malformed(String),
    #[error("`{text}` has a prefix length that {family} does not have: use 0 to {longest}", longest = .family.bits())]
    Prefix { text: String, family: Family },
    #[error("`{0}` begins with one family and ends with the other: make both ends IPv4 or both IPv6")]
    Mixed(String),
    #[error("`{0}` ends before it begins: swap its ends")]
    Reversed(String),
}

/// `skip-end-ips-in-cidr` applies to IPv4 networks with at most this prefix length.
const SMALLEST_WITH_ENDS: u8 = 30;

impl Addresses {
    /// Parses a value. More lenient than the Go program: blanks, trailing commas, single addresses, and CIDRs beside
    /// ranges are valid; `dhcp` stands for both placeholders, `0.0.0.0/32` and `::/128`.
    ///
    /// # Errors
    /// All invalid elements.
    pub fn parse(text: &str, skip_ends: bool) -> Result<Self, Vec<ValueError>> {
        let (mut found, mut networks, mut errors) = (Self::default(), RangeSet::default(), Vec::new());
        for element in elements(text) {
            match parse_element(element) {
                Ok(Element::Dhcp(families)) => found.dhcp.extend(families),
                Ok(Element::Network { first, last, prefix, family: Family::V4 })
                    if skip_ends && prefix <= SMALLEST_WITH_ENDS =>
                {
                    networks.insert(first, last);
                }
                Ok(Element::Network { first, last, family, .. } | Element::Range { first, last, family }) => {
                    found.sets[family].insert(first, last);
                }
                Err(error) => errors.push(error),
            }
        }
        // Adjacent networks are merged before their ends are removed, as in the Go program.
        networks.ranges().for_each(|(first, last)| found.sets.v4.insert(first + 1, last - 1));
        if errors.is_empty() { Ok(found) } else { Err(errors) }
    }

    pub fn set(&self, family: Family) -> &RangeSet {
        &self.sets[family]
    }

    /// Whether addresses of this family come from a DHCP server.
    pub fn by_dhcp(&self, family: Family) -> bool {
        self.dhcp.contains(&family)
    }

    /// Whether addresses of this family are available, from a range or a DHCP server.
    pub fn serves(&self, family: Family) -> bool {
        self.by_dhcp(family) || !self.set(family).is_empty()
    }

    pub fn add(&mut self, other: &Self) {
        Family::BOTH.into_iter().for_each(|family| self.sets[family].add_all(&other.sets[family]));
        self.dhcp.extend(
            other.dhcp.iter().copied().filter(|family| !self.dhcp.contains(family)).collect::<Vec<_>>(),
        );
    }

    /// The first addresses that both have.
    pub fn overlap(&self, other: &Self) -> Option<(Family, u128, u128)> {
        Family::BOTH.into_iter().find_map(|family| {
            let mut common = other.sets[family]
                .ranges()
                .filter_map(|(first, last)| self.sets[family].overlap(first, last));
            common.next().map(|(first, last)| (family, first, last))
        })
    }

    pub fn exclude(&mut self, other: &Self) {
        Family::BOTH.into_iter().for_each(|family| self.sets[family].remove_all(&other.sets[family]));
    }
}

/// The elements of a value.
pub(super) fn elements(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|element| !element.is_empty())
}

pub(super) enum Element {
    Dhcp(Vec<Family>),
    Network { first: u128, last: u128, prefix: u8, family: Family },
    Range { first: u128, last: u128, family: Family },
}

pub(super) fn parse_element(text: &str) -> Result<Element, ValueError> {
    let malformed = || ValueError::Malformed(text.to_owned());
    let address = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| malformed());
    if text.eq_ignore_ascii_case("dhcp") {
        return Ok(Element::Dhcp(Family::BOTH.into()));
    }
    if let Some((base, prefix)) = text.split_once('/') {
        let base = address(base)?;
        let family = Family::of(base);
        let prefix: u8 = prefix.trim().parse().map_err(|_| malformed())?;
        let host_bits = family
            .bits()
            .checked_sub(prefix)
            .ok_or_else(|| ValueError::Prefix { text: text.to_owned(), family })?;
        if base.is_unspecified() && host_bits == 0 {
            return Ok(Element::Dhcp(vec![family]));
        }
        let span = u128::MAX.checked_shr((128 - u32::from(host_bits)).min(128)).unwrap_or(0);
        let first = number(base) & !span;
        return Ok(Element::Network { first, last: first | span, prefix, family });
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (address(first)?, address(last)?);
        let family = Family::of(first);
        if Family::of(last) != family {
            return Err(ValueError::Mixed(text.to_owned()));
        }
        let (first, last) = (number(first), number(last));
        if first > last {
            return Err(ValueError::Reversed(text.to_owned()));
        }
        return Ok(Element::Range { first, last, family });
    }
    let single = address(text)?;
    Ok(Element::Range { first: number(single), last: number(single), family: Family::of(single) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges of a value as text.
    fn shown(text: &str, skip_ends: bool) -> Vec<String> {
        let found = Addresses::parse(text, skip_ends).unwrap();
        let family = |family: Family| {
            let ranges = found.set(family).ranges().collect::<Vec<_>>();
            ranges.into_iter().map(move |(first, last)| match (family.address(first), family.address(last)) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            })
        };
        Family::BOTH.into_iter().flat_map(family).collect()
    }

    #[test]
    fn ranges_networks_and_single_addresses_are_parsed() {
        let table: [(&str, &[&str]); 27] = [
            ("192.168.1.1-192.168.1.1", &["192.168.1.1"]),
            ("192.168.1.10-192.168.1.12", &["192.168.1.10-192.168.1.12"]),
            ("192.168.0.254-192.168.1.1", &["192.168.0.254-192.168.1.1"]),
            ("10.0.0.1-10.0.0.2,10.0.1.1-10.0.1.2", &["10.0.0.1-10.0.0.2", "10.0.1.1-10.0.1.2"]),
            ("10.0.0.1-10.0.0.4,10.0.0.3-10.0.0.6", &["10.0.0.1-10.0.0.6"]),
            ("fe80::1-fe80::2", &["fe80::1-fe80::2"]),
            ("fe80::fffe-fe80::1:1", &["fe80::fffe-fe80::1:1"]),
            ("fe80::1-fe80::2,fe80::5-fe80::6", &["fe80::1-fe80::2", "fe80::5-fe80::6"]),
            ("fe80::1-fe80::4,fe80::3-fe80::6", &["fe80::1-fe80::6"]),
            ("192.168.0.200/32", &["192.168.0.200"]),
            ("192.168.0.10/24", &["192.168.0.0-192.168.0.255"]),
            ("192.168.0.200/30", &["192.168.0.200-192.168.0.203"]),
            ("192.168.0.200/31", &["192.168.0.200-192.168.0.201"]),
            ("192.168.0.200/30,192.168.0.200/29", &["192.168.0.200-192.168.0.207"]),
            ("fd00::1/127", &["fd00::-fd00::1"]),
            ("fd00::/127,fd00::10/127", &["fd00::-fd00::1", "fd00::10-fd00::11"]),
            ("fd00::/126,fd00::/127", &["fd00::-fd00::3"]),
            ("::/0", &["::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
            ("0.0.0.0/0", &["0.0.0.0-255.255.255.255"]),
            // More lenient than the Go program.
            (" 10.0.0.1 , 10.0.0.3 - 10.0.0.4 ,", &["10.0.0.1", "10.0.0.3-10.0.0.4"]),
            ("10.0.0.0/30,10.0.1.1-10.0.1.2", &["10.0.0.0-10.0.0.3", "10.0.1.1-10.0.1.2"]),
            ("10.0.0.1,fd00::1", &["10.0.0.1", "fd00::1"]),
            ("", &[]),
            (",", &[]),
            ("0.0.0.0/32", &[]),
            ("dhcp", &[]),
            ("0.0.0.0/32,fd00::10/127", &["fd00::10-fd00::11"]),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text, false), expected, "{text}");
        }
    }

    #[test]
    fn ends_are_skipped_in_networks_of_ipv4_only() {
        let table: [(&str, &[&str]); 9] = [
            ("192.168.0.200/32", &["192.168.0.200"]),
            ("192.168.0.200/31", &["192.168.0.200-192.168.0.201"]),
            ("192.168.0.200/30", &["192.168.0.201-192.168.0.202"]),
            ("192.168.0.200/30,192.168.0.204/30", &["192.168.0.201-192.168.0.206"]),
            ("192.168.0.200/29,192.168.0.200/30", &["192.168.0.201-192.168.0.206"]),
            ("192.168.0.200/30,10.0.0.0-10.0.0.3", &["10.0.0.0-10.0.0.3", "192.168.0.201-192.168.0.202"]),
            ("192.168.0.0/24", &["192.168.0.1-192.168.0.254"]),
            ("fd00::/126", &["fd00::-fd00::3"]),
            ("0.0.0.0/0", &["0.0.0.1-255.255.255.254"]),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text, true), expected, "{text}");
        }
    }

    #[test]
    fn dhcp_has_three_spellings() {
        let served = |text: &str| {
            let found = Addresses::parse(text, false).unwrap();
            Family::BOTH.map(|family| found.by_dhcp(family))
        };
        assert_eq!(served("0.0.0.0/32"), [true, false]);
        assert_eq!(served("::/128"), [false, true]);
        assert_eq!(served("DHCP"), [true, true]);
        // As in the Go program, the range form is no placeholder.
        assert_eq!(served("0.0.0.0-0.0.0.0"), [false, false]);
    }

    #[test]
    fn every_invalid_element_is_reported() {
        let errors = |text: &str| -> Vec<String> {
            Addresses::parse(text, false).unwrap_err().iter().map(ToString::to_string).collect()
        };
        let table: [(&str, &[&str]); 8] = [
            ("10.0.0.1-", &["`10.0.0.1-` is no address"]),
            ("ten", &["`ten` is no address"]),
            ("10.0.0.0/33", &["`10.0.0.0/33` has a prefix length that IPv4 does not have: use 0 to 32"]),
            ("fd00::/129", &["that IPv6 does not have: use 0 to 128"]),
            ("10.0.0.1-fd00::1", &["begins with one family"]),
            ("10.0.0.2-10.0.0.1", &["ends before it begins"]),
            (
                "10.0.0.0/-1,10.0.0.1-10.0.0.2-10.0.0.3",
                &["`10.0.0.0/-1` is no", "`10.0.0.1-10.0.0.2-10.0.0.3` is no"],
            ),
            ("10.0.0.1;10.0.0.2", &["is no address"]),
        ];
        for (text, expected) in table {
            let found = errors(text);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found}");
            }
        }
    }
}
