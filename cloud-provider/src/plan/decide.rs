//! The decision on one Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube_vip::dhcp::spec::LeaseKey;
use kube_vip::model::annotation::{
    ALLOCATED, CLEANUP_FINALIZER, IMPLEMENTATION, LEGACY_ADDRESS, LOAD_BALANCER_IPS, SERVICE_INTERFACE,
    SHARING_KEY,
};
use kube_vip::model::family::number;
use kube_vip::model::service::{FamilyPolicy, TrafficPolicy};
use kube_vip::model::validation::{is_dhcp_word, is_name};
use kube_vip::model::{Family, ServiceKey, ServiceView};
use kube_vip::upnp::mapping::asks;

use super::leases::DhcpState;
use super::patch::Patch;
use super::reason::Reason;
use super::request::{Field, Request, copied, is_labelled, mentioned, request};
use crate::ipam::{Ipam, Sharing, SharingGroup, SharingKey};
use crate::pools::{Pool, PoolId, Pools};

/// The `spec.loadBalancerClass` of managed Services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Class {
    /// Services without a class.
    #[default]
    Unnamed,
    Named(String),
}

impl Class {
    pub fn covers(&self, view: &ServiceView) -> bool {
        match self {
            Self::Unnamed => view.class.is_none(),
            Self::Named(name) => view.class.as_ref() == Some(name),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The Service is not managed, or is being deleted and waits for another finalizer.
    Ignore,
    /// The Service was managed: remove the provider's metadata.
    Release(Patch),
    Allocate {
        /// Addresses or names, as in the annotation.
        addresses: Vec<String>,
        /// Empty when everything is written already.
        patch: Patch,
        /// A note for the Service's user.
        note: Option<String>,
        /// The Service would get another address if one were available.
        incomplete: bool,
    },
    /// No address is available. The patch removes addresses that the Service may not keep.
    Wait { reason: Reason, patch: Patch },
}

/// Decides on one Service.
#[derive(Debug)]
pub struct Allocator<'a> {
    pub pools: &'a Pools,
    pub ipam: &'a mut Ipam,
    pub class: &'a Class,
    /// Port mappings that Services request are delegated to the announcing node.
    pub upnp: bool,
    /// An earlier write may still be carried out: the Service keeps the addresses that were decided on.
    pub unconfirmed: bool,
    /// The DHCP clients, where this process runs them.
    pub dhcp: Option<&'a DhcpState>,
    /// Result: families with an address from a DHCP server.
    pub dhcp_families: BTreeSet<Family>,
    /// Result: leases with an address that another owner has, each with the reason.
    pub lease_conflicts: Vec<(LeaseKey, String)>,
}

/// How a Service shares its addresses.
pub fn sharing(pools: &Pools, key: &ServiceKey, view: &ServiceView) -> Sharing {
    let sharing_key = match view.annotation(SHARING_KEY) {
        Some(value) => Some(SharingKey::Annotation(value.to_owned())),
        None => pools.shares(&key.namespace).then_some(SharingKey::Pool),
    };
    let selector = match view.traffic_policy {
        TrafficPolicy::Cluster => Default::default(),
        TrafficPolicy::Local => view.selector.clone(),
    };
    let group = sharing_key.map(|key| SharingGroup { key, policy: view.traffic_policy, selector });
    Sharing { group, ports: view.ports.clone() }
}

impl Allocator<'_> {
    /// Decides, and holds the addresses at once, so that the next decision finds them in use.
    pub fn decide(&mut self, key: &ServiceKey, view: &ServiceView) -> Decision {
        let mut patch = Patch::of(view);
        if view.deleting {
            // The address is released when the object is gone, not before.
            // The finalizer may be that of a Service controller before this one. No other program removes it.
            if is_labelled(view) || self.class.covers(view) {
                patch.finalizer(view, CLEANUP_FINALIZER, false);
            }
            return if patch.is_empty() { Decision::Ignore } else { Decision::Release(patch) };
        }
        if !view.load_balancer {
            self.ipam.hold(key, &[], &Sharing::default());
            return unmanage(view, patch);
        }
        if !self.class.covers(view) {
            self.ipam.hold(key, &mentioned(view), &Sharing::default());
            return Decision::Ignore;
        }
        let sharing = sharing(self.pools, key, view);
        label(view, &mut patch);
        // A gateway maps ports only to the host that requests it: the announcing node does so.
        patch.delegate_upnp(view, self.upnp && asks(view));
        match request(view) {
            Request::Fixed { text, by } => self.allocate_requested(key, view, &sharing, &text, by, patch),
            Request::Any(before) => self.allocate_any(key, view, &sharing, before, patch),
        }
    }

    /// Allocates the addresses that the user has chosen.
    fn allocate_requested(
        &mut self,
        key: &ServiceKey,
        view: &ServiceView,
        sharing: &Sharing,
        text: &str,
        by: Field,
        mut patch: Patch,
    ) -> Decision {
        let elements: Vec<&str> =
            text.split(',').map(str::trim).filter(|element| !element.is_empty()).collect();
        let mut addresses = Vec::new();
        for element in &elements {
            match self.check(key, sharing, element, by) {
                Ok(found) => addresses.extend(found),
                Err(reason) => {
                    self.ipam.hold(key, &[], sharing);
                    // Permission for port mappings does not depend on the address.
                    let patch = Patch { upnp_delegated: patch.upnp_delegated, ..Patch::of(view) };
                    return Decision::Wait { reason, patch };
                }
            }
        }
        self.ipam.hold(key, &addresses, sharing);
        match by {
            Field::Spec => {
                patch.annotate(view, LOAD_BALANCER_IPS, Some(text));
                patch.annotate(view, ALLOCATED, Some(&copied(text)));
            }
            Field::Annotation => patch.annotate(view, ALLOCATED, None),
        }
        let outside = addresses.iter().filter(|address| {
            !address.is_unspecified() && !self.pools.contains(Family::of(**address), number(**address))
        });
        let outside: Vec<String> = outside.map(ToString::to_string).collect();
        let note = (!outside.is_empty()).then(|| {
            format!(
                "{}: {} is outside every pool: it is reserved for this Service, but make sure that no other host on \
                 the network uses it",
                by.name(),
                outside.join(", ")
            )
        });
        let addresses = elements.into_iter().map(str::to_owned).collect();
        Decision::Allocate { addresses, patch, note, incomplete: false }
    }

    /// Checks one element of a request: an available address, or none for a DNS name.
    fn check(
        &self,
        key: &ServiceKey,
        sharing: &Sharing,
        text: &str,
        by: Field,
    ) -> Result<Option<IpAddr>, Reason> {
        let field = by.name();
        let Ok(address) = text.parse::<IpAddr>() else {
            let malformed = || Reason::Malformed { field, text: text.to_owned() };
            return (is_name(text) && !is_dhcp_word(text)).then_some(None).ok_or_else(malformed);
        };
        if let Err(refusal) = self.ipam.reserved().check(address) {
            return Err(Reason::Refused { field, address, refusal });
        }
        match self.ipam.conflict(address, key, sharing) {
            Some(holder) => Err(Reason::Taken { field, address, holder: holder.clone() }),
            None => Ok(Some(address)),
        }
    }

    /// Why a Service cannot have an address: another Service, a node or the control plane has it.
    pub(super) fn conflict(
        &self,
        address: IpAddr,
        key: &ServiceKey,
        sharing: &Sharing,
        field: &'static str,
    ) -> Option<Reason> {
        let holder = self.ipam.conflict(address, key, sharing).cloned();
        let taken = holder.map(|holder| Reason::Taken { field, address, holder });
        taken.or_else(|| {
            let refusal = self.ipam.reserved().owner(address)?;
            Some(Reason::Refused { field, address, refusal })
        })
    }

    /// Allocates addresses from the pool. The Service keeps those it had before.
    fn allocate_any(
        &mut self,
        key: &ServiceKey,
        view: &ServiceView,
        sharing: &Sharing,
        before: Vec<IpAddr>,
        mut patch: Patch,
    ) -> Decision {
        let had_none = before.is_empty();
        let before = match had_none {
            true if self.unconfirmed => self.ipam.held(key),
            true => {
                // Its earlier addresses are as free for it as for other Services.
                self.ipam.hold(key, &[], sharing);
                before
            }
            false => before,
        };
        let mut kept: Vec<IpAddr> = Vec::new();
        for address in before {
            let of_new_family = kept.iter().all(|other| Family::of(*other) != Family::of(address));
            if !self.is_lost(view, address) && of_new_family && self.ipam.is_available(address, key, sharing)
            {
                kept.push(address);
            }
        }
        let chosen = self.choose(key, view, sharing, &kept);
        self.write_leases(view, &mut patch);
        let (addresses, incomplete) = match chosen {
            Ok(chosen) => chosen,
            Err(reason) => {
                let mut patch = Patch::of(view);
                self.write_leases(view, &mut patch);
                self.ipam.hold(key, &[], sharing);
                if !had_none {
                    patch.annotate(view, LOAD_BALANCER_IPS, None);
                    patch.annotate(view, ALLOCATED, None);
                    patch.load_balancer_ip(view, None);
                }
                return Decision::Wait { reason, patch };
            }
        };
        self.ipam.hold(key, &addresses, sharing);
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let joined = texts.join(",");
        patch.annotate(view, LOAD_BALANCER_IPS, Some(&joined));
        patch.load_balancer_ip(view, texts.first().map(String::as_str));
        // Allocations of the Go program are taken over without a write.
        if !patch.is_empty() || view.annotations.contains_key(ALLOCATED) {
            patch.annotate(view, ALLOCATED, Some(&joined));
        }
        if addresses != kept && !view.annotations.contains_key(SERVICE_INTERFACE) {
            patch.annotate(view, SERVICE_INTERFACE, self.pools.interface(&key.namespace));
        }
        let note = self.invalid_annotations(key).map(|invalid| format!("{joined}; {invalid}"));
        Decision::Allocate { addresses: texts, patch, note, incomplete }
    }

    /// The families of the addresses that a Service should have.
    fn wanted_families(
        &self,
        key: &ServiceKey,
        view: &ServiceView,
        kept: &[IpAddr],
    ) -> Result<Vec<Family>, Reason> {
        let pool = self.pools.of(&key.namespace);
        let available = |family: Family| {
            kept.iter().any(|address| Family::of(*address) == family)
                || pool.as_ref().is_ok_and(|(_, pool)| pool.addresses.serves(family))
        };
        let first = view.families.first().copied();
        let primary = first.unwrap_or(Family::V4);
        let both = [primary, primary.other()];
        match view.family_policy {
            FamilyPolicy::Single if first.is_none() && !available(Family::V4) => Ok(vec![Family::V6]),
            FamilyPolicy::Single => Ok(vec![primary]),
            FamilyPolicy::PreferDual => Ok(both.into_iter().filter(|family| available(*family)).collect()),
            FamilyPolicy::RequireDual if both.into_iter().all(available) => Ok(both.into()),
            FamilyPolicy::RequireDual => Err(Reason::NotDual(keys(pool?.1))),
        }
    }

    /// The addresses that a Service should have: the kept ones, and new ones for the missing families. The flag is
    /// true if an optional address is missing.
    fn choose(
        &mut self,
        key: &ServiceKey,
        view: &ServiceView,
        sharing: &Sharing,
        kept: &[IpAddr],
    ) -> Result<(Vec<IpAddr>, bool), Reason> {
        let mut found = Vec::new();
        let mut missing = None;
        for family in self.wanted_families(key, view, kept)? {
            if let Some(address) = kept.iter().find(|address| Family::of(**address) == family) {
                found.push(*address);
                continue;
            }
            let (id, pool) = self.pools.of(&key.namespace)?;
            if !pool.addresses.serves(family) {
                return Err(Reason::Family { pool: keys(pool), family });
            }
            let chosen = if pool.addresses.by_dhcp(family) {
                self.leased((key, view), family, sharing)
            } else {
                let free = self.free_address(id, family, sharing);
                free.ok_or_else(|| {
                    let (size, _) = self.ipam.usage(id, family);
                    Reason::exhausted(pool, family, size, prefix(view.family_policy))
                })
            };
            match chosen {
                Ok(address) => found.push(address),
                Err(reason) => missing = missing.or(Some(reason)),
            }
        }
        match missing {
            Some(reason) if found.is_empty() || view.family_policy == FamilyPolicy::RequireDual => {
                Err(reason)
            }
            None if found.is_empty() => {
                let (_, pool) = self.pools.of(&key.namespace)?;
                let family = view.families.first().copied().unwrap_or(Family::V4);
                Err(Reason::Family { pool: keys(pool), family })
            }
            missing => Ok((found, missing.is_some())),
        }
    }

    /// An address of a pool: one that can be shared, else a free one.
    fn free_address(&mut self, pool: PoolId, family: Family, sharing: &Sharing) -> Option<IpAddr> {
        // As in the Go program, `allow-share-*` applies to IPv4, which is scarce; a sharing key applies to both.
        let by_pool = sharing.group.as_ref().is_some_and(|group| group.key == SharingKey::Pool);
        let shared = (family == Family::V4 || !by_pool).then(|| self.ipam.shareable(pool, family, sharing));
        shared.flatten().or_else(|| self.ipam.next_free(pool, family, self.pools.descending))
    }
}

fn keys(pool: &Pool) -> String {
    pool.keys.join(", ")
}

/// How the Go program begins its message about an exhausted pool.
fn prefix(policy: FamilyPolicy) -> &'static str {
    match policy {
        FamilyPolicy::Single => "",
        FamilyPolicy::PreferDual => "could not allocate any IP address for PreferDualStack service: ",
        FamilyPolicy::RequireDual => {
            "could not allocate required IP addresses for RequireDualStack service: "
        }
    }
}

/// Sets the label and finalizer of a managed Service.
fn label(view: &ServiceView, patch: &mut Patch) {
    patch.label(view, IMPLEMENTATION.0, Some(IMPLEMENTATION.1));
    patch.label(view, LEGACY_ADDRESS, None);
    patch.finalizer(view, CLEANUP_FINALIZER, true);
}

/// Removes what the provider has written to a Service that is no LoadBalancer any more, and keeps the user's values.
fn unmanage(view: &ServiceView, mut patch: Patch) -> Decision {
    patch.delegate_upnp(view, false);
    if !is_labelled(view) {
        return if patch.is_empty() { Decision::Ignore } else { Decision::Release(patch) };
    }
    patch.label(view, IMPLEMENTATION.0, None);
    patch.finalizer(view, CLEANUP_FINALIZER, false);
    match request(view) {
        Request::Any(_) => {
            patch.annotate(view, LOAD_BALANCER_IPS, None);
            patch.load_balancer_ip(view, None);
        }
        Request::Fixed { by: Field::Spec, .. } if view.annotations.contains_key(ALLOCATED) => {
            patch.annotate(view, LOAD_BALANCER_IPS, None);
        }
        Request::Fixed { .. } => {}
    }
    patch.annotate(view, ALLOCATED, None);
    Decision::Release(patch)
}
