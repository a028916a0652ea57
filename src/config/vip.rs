//! The control plane's VIPs: addresses, names and prefix lengths.

use std::net::IpAddr;

use super::problem::Hint;
use super::value::address;
use super::{HostFacts, Key, Origin, Problem, SubnetPrefix, Values};
use crate::model::validation::{is_name, unusable};
use crate::model::{Family, Prefix, Vip};

/// A VIP as given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipTarget {
    Ip(IpAddr),
    /// A name to resolve.
    Name(String),
}

impl VipTarget {
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }
}

impl std::fmt::Display for VipTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Prefix lengths for VIPs; none means a host route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefixes {
    pub v4: Option<u8>,
    pub v6: Option<u8>,
}

impl Prefixes {
    pub fn vip(&self, address: IpAddr) -> Vip {
        Vip { address, prefix: self.of(address) }
    }

    pub fn of(&self, address: IpAddr) -> u8 {
        let configured = if address.is_ipv4() { self.v4 } else { self.v6 };
        configured.unwrap_or(Family::of(address).bits())
    }
}

/// The VIPs that this process holds: none without `cp_enable`.
pub(super) fn targets(values: &Values) -> Vec<VipTarget> {
    if values.control_plane { configured(values) } else { Vec::new() }
}

/// Those of `address`, or of its deprecated name.
pub fn configured(values: &Values) -> Vec<VipTarget> {
    let given = if values.address.is_empty() { &values.vip_address } else { &values.address };
    let target = |text: &String| address(text).map_or_else(|| VipTarget::Name(text.clone()), VipTarget::Ip);
    given.iter().map(target).collect()
}

/// Where [`configured`] targets are from.
pub(super) fn key(values: &Values) -> Key {
    if values.address.is_empty() { Key::VipAddress } else { Key::Address }
}

fn origin(values: &Values) -> Origin {
    values.raw.origin(key(values))
}

/// The entries of `vip_subnet`.
pub(super) fn subnets(values: &Values) -> Result<Vec<SubnetPrefix>, Problem> {
    let read = |text: &String| match text.trim_start_matches('/') {
        "auto" => Some(SubnetPrefix::Auto),
        length => length.parse().ok().filter(|length| *length <= 128).map(SubnetPrefix::Fixed),
    };
    let lengths: Option<Vec<_>> = values.vip_subnet.iter().map(read).collect();
    lengths.filter(|lengths| lengths.len() <= 2).ok_or_else(|| {
        values.raw.unacceptable(Key::VipSubnet, "one or two prefix lengths, such as `32`, `128` or `32,128`")
    })
}

/// The control plane's prefix lengths: a single one applies to both families; of two the first is for IPv4.
pub(super) fn prefixes(values: &Values) -> Result<Prefixes, Problem> {
    use SubnetPrefix::Fixed;
    match subnets(values)?.as_slice() {
        [] => Ok(Prefixes::default()),
        [Fixed(both)] => Ok(Prefixes { v4: Some(*both), v6: Some(*both) }),
        [Fixed(v4), Fixed(v6)] => Ok(Prefixes { v4: Some(*v4), v6: Some(*v6) }),
        _ if values.arp && values.address.is_empty() => Ok(Prefixes::default()),
        _ => Err(values.raw.unacceptable(
            Key::VipSubnet,
            "a number here: `auto` is for the addresses of Services, in ARP mode, without `address`",
        )),
    }
}

/// Checks each VIP, and that its prefix length fits it.
pub(super) fn check(values: &Values, targets: &[VipTarget], prefixes: Prefixes) -> Vec<Problem> {
    let unacceptable = |value: String, allowed: String| Problem::unacceptable(origin(values), value, allowed);
    let mut problems = Vec::new();
    for target in targets {
        match target {
            VipTarget::Name(name) if !is_name(name) => {
                problems.push(unacceptable(name.clone(), "an IP address or a DNS name".into()));
            }
            VipTarget::Name(_) => {}
            VipTarget::Ip(address) => {
                // A link-local IPv4 VIP works on a host that has a link-local subnet.
                let kind = unusable(*address).filter(|kind| address.is_ipv6() || *kind != "link-local");
                problems.extend(kind.map(|kind| Problem::Value {
                    origin: origin(values),
                    value: address.to_string(),
                    allowed: format!("an address that can be announced (this one is a {kind} address)"),
                    hint: Hint(unmapped(*address).map(|address| address.to_string().into())),
                }));
                if prefixes.of(*address) > Family::of(*address).bits() {
                    let allowed = format!("a prefix length for {address}");
                    problems.push(values.raw.unacceptable(Key::VipSubnet, allowed));
                }
            }
        }
    }
    problems
}

/// The IPv4 address in a mapped one.
fn unmapped(address: IpAddr) -> Option<IpAddr> {
    Some(address.to_canonical()).filter(|canonical| *canonical != address)
}

/// VIPs that will probably not work on this host.
pub(super) fn notes(values: &Values, targets: &[VipTarget], facts: &HostFacts) -> Vec<String> {
    let note = |target: &VipTarget| match target {
        VipTarget::Name(name) => mistyped(name, &origin(values)),
        VipTarget::Ip(address) => {
            let origin = origin(values);
            needed(*address, &origin, facts).or_else(|| unreachable(*address, values, &origin, facts))
        }
    };
    targets.iter().filter_map(note).collect()
}

/// A name that is almost an address.
fn mistyped(name: &str, origin: &Origin) -> Option<String> {
    let (before, last) = name.rsplit_once('.')?;
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let almost = before.split('.').count() == 3 && before.split('.').all(is_number) && last.len() <= 3;
    almost.then(|| format!("{name} ({origin}) is no IP address: it is resolved as a DNS name"))
}

/// An address that this host needs for itself: it would be announced nowhere, or cut the host off.
fn needed(address: IpAddr, origin: &Origin, facts: &HostFacts) -> Option<String> {
    // On `lo` an operator may have configured the VIP of a routed mode.
    let mut interfaces = facts.addresses.iter().filter(|(name, _)| name != "lo");
    let owner = match interfaces.find(|(_, addresses)| addresses.iter().any(|vip| vip.address == address)) {
        Some((name, _)) => {
            format!("an address of this host's interface {name}, which another program has configured")
        }
        None if facts.gateways.contains(&address) => "this host's default gateway".to_owned(),
        None => return None,
    };
    Some(format!("{address} ({origin}) is {owner}: set the VIP to an address that no host has"))
}

/// An address that other hosts do not ask for with ARP or NDP on the interface.
fn unreachable(address: IpAddr, values: &Values, origin: &Origin, facts: &HostFacts) -> Option<String> {
    let interface = values.interface.as_deref().filter(|name| values.arp && *name != "lo")?;
    let own = facts.addresses_of(interface).unwrap_or_default().iter();
    let subnets: Vec<Prefix> = own
        .filter(|vip| Family::of(vip.address) == Family::of(address) && **vip != Vip::host(vip.address))
        .filter(|vip| unusable(vip.address).is_none())
        .map(|vip| Prefix::new(vip.address, vip.prefix))
        .collect();
    match subnets.iter().find(|subnet| subnet.contains(address)) {
        Some(subnet) if subnet.broadcast() == Some(address) => Some(format!(
            "{address} ({origin}) is the broadcast address of {interface}'s {subnet}: set the VIP to another address"
        )),
        None if !subnets.is_empty() && !address.is_unspecified() => {
            let subnets: Vec<String> = subnets.iter().map(Prefix::to_string).collect();
            Some(format!(
                "{address} ({origin}) is in no subnet of {interface} ({}), so other hosts need a route to it",
                subnets.join(", ")
            ))
        }
        _ => None,
    }
}
