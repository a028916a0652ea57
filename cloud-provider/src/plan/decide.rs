//! What is to be done about one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_vip::dhcp::record::Record;
use kube_vip::dhcp::wish::{Held, LeaseKey};
use kube_vip::model::annotation::{
    ALLOCATED, CLEANUP_FINALIZER, DHCP_LEASE, IMPLEMENTATION, LEGACY_ADDRESS, LOAD_BALANCER_IPS,
    SERVICE_INTERFACE, SHARING_KEY, UPNP_DELEGATED,
};
use kube_vip::model::family::number;
use kube_vip::model::service::{FamilyPolicy, TrafficPolicy};
use kube_vip::model::validation::is_name;
use kube_vip::model::{Family, ServiceKey, ServiceView};
use kube_vip::planner::leases::{self, DhcpSpec};
use kube_vip::upnp::forward::asks;

use super::patch::Patch;
use super::reason::Reason;
use super::request::{Field, Request, copied, is_labelled, request};
use crate::ipam::{Circle, Group, Ipam, Tenancy};
use crate::pools::{Pool, PoolId, Pools};

/// Which Services are looked after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Class {
    /// Those without a class.
    #[default]
    Unnamed,
    /// Those of this class.
    Named(String),
}

impl Class {
    /// Whether a Service of type LoadBalancer is ours.
    pub fn covers(&self, view: &ServiceView) -> bool {
        match self {
            Self::Unnamed => view.class.is_none(),
            Self::Named(name) => view.class.as_ref() == Some(name),
        }
    }
}

/// What is to be done about a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is none of ours, or it is on its way out and somebody else's finalizer keeps it.
    Leave,
    /// It was ours: take our marks off it.
    Release(Patch),
    /// It has these addresses, or names; the patch is empty when all that is written already.
    Serve {
        /// Addresses and names, as they stand in the annotation.
        addresses: Vec<String>,
        /// What is to be written.
        patch: Patch,
        /// Something its user should know.
        remark: Option<String>,
        /// It would take another address if there were one.
        incomplete: bool,
    },
    /// It gets nothing now. The patch takes away what it must not keep.
    Wait {
        /// Why.
        reason: Reason,
        /// What is to be written.
        patch: Patch,
    },
}

/// What decisions are made from.
#[derive(Debug)]
pub struct World<'a> {
    /// The ConfigMap.
    pub pools: &'a Pools,
    /// Who has what.
    pub ipam: &'a mut Ipam,
    /// Which Services are looked after.
    pub class: &'a Class,
    /// Ports of the network's gateway are opened for Services that ask for it.
    pub upnp: bool,
    /// A write to this Service may still come about: what was decided for it is not given to others.
    pub unsure: bool,
    /// What came of asking DHCP servers, where this process asks them.
    pub dhcp: Option<&'a Dhcp>,
    /// For which families a DHCP server is to be asked.
    pub asks: BTreeSet<Family>,
    /// What DHCP servers gave, and must not give.
    pub contested: Vec<(LeaseKey, String)>,
}

/// What comes from DHCP servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dhcp {
    /// The interface that they are asked on.
    pub interface: String,
    /// How all leases stand.
    pub held: BTreeMap<LeaseKey, Held>,
    /// What cannot be followed of what Services ask for.
    pub wrong: BTreeMap<ServiceKey, Vec<String>>,
}

/// With whom a Service may share an address.
pub fn tenancy(pools: &Pools, key: &ServiceKey, view: &ServiceView) -> Tenancy {
    let group = match view.annotation(SHARING_KEY) {
        Some(word) => Some(Group::Key(word.to_owned())),
        None => pools.shares(&key.namespace).then_some(Group::Pool),
    };
    let selector = match view.traffic_policy {
        TrafficPolicy::Cluster => Default::default(),
        TrafficPolicy::Local => view.selector.clone(),
    };
    let circle = group.map(|group| Circle { group, policy: view.traffic_policy, selector });
    Tenancy { circle, ports: view.ports.clone() }
}

impl World<'_> {
    /// Decide, and hold what is decided at once: whoever is decided on next finds it taken.
    pub fn decide(&mut self, key: &ServiceKey, view: &ServiceView) -> Decision {
        let mut patch = Patch::of(view);
        if view.deleting {
            // The address is free when the object is gone, not before.
            if is_labelled(view) {
                patch.finalizer(view, CLEANUP_FINALIZER, false);
            }
            return if patch.is_empty() { Decision::Leave } else { Decision::Release(patch) };
        }
        if !view.load_balancer {
            self.ipam.hold(key, &[], &Tenancy::default());
            return retire(view, patch);
        }
        if !self.class.covers(view) {
            self.ipam.hold(key, &super::request::mentioned(view), &Tenancy::default());
            return Decision::Leave;
        }
        let tenancy = tenancy(self.pools, key, view);
        mark(view, &mut patch);
        // Gateways open ports for whoever has the address alone: the node that announces it asks them.
        let delegated = self.upnp && asks(view);
        patch.annotate(view, UPNP_DELEGATED, delegated.then_some("true"));
        match request(view) {
            Request::Fixed { text, by } => self.fixed(key, view, &tenancy, &text, by, patch),
            Request::Any(before) => self.any(key, view, &tenancy, before, patch),
        }
    }

    /// The user chose.
    fn fixed(
        &mut self,
        key: &ServiceKey,
        view: &ServiceView,
        tenancy: &Tenancy,
        text: &str,
        by: Field,
        mut patch: Patch,
    ) -> Decision {
        let elements: Vec<&str> =
            text.split(',').map(str::trim).filter(|element| !element.is_empty()).collect();
        let mut addresses = Vec::new();
        for element in &elements {
            match self.check(key, tenancy, element, by) {
                Ok(found) => addresses.extend(found),
                Err(reason) => {
                    self.ipam.hold(key, &[], tenancy);
                    return Decision::Wait { reason, patch: Patch::of(view) };
                }
            }
        }
        self.ipam.hold(key, &addresses, tenancy);
        match by {
            Field::Spec => {
                patch.annotate(view, LOAD_BALANCER_IPS, Some(text));
                patch.annotate(view, ALLOCATED, Some(&copied(text)));
            }
            Field::Annotation => patch.annotate(view, ALLOCATED, None),
        }
        let outside = addresses.iter().filter(|address| !address.is_unspecified());
        let outside =
            outside.filter(|address| !self.pools.contains(Family::of(**address), number(**address)));
        let outside: Vec<String> = outside.map(ToString::to_string).collect();
        let remark = (!outside.is_empty()).then(|| {
            format!(
                "{}: {} is outside every pool: it is reserved for this Service, but make sure that nobody else on \
                 the network has it",
                by.name(),
                outside.join(", ")
            )
        });
        let addresses = elements.into_iter().map(str::to_owned).collect();
        Decision::Serve { addresses, patch, remark, incomplete: false }
    }

    /// One element of what the user typed: an address that can be given, or a name.
    fn check(
        &self,
        key: &ServiceKey,
        tenancy: &Tenancy,
        text: &str,
        by: Field,
    ) -> Result<Option<IpAddr>, Reason> {
        let field = by.name();
        let Ok(address) = text.parse::<IpAddr>() else {
            return if is_name(text) {
                Ok(None)
            } else {
                Err(Reason::Malformed { field, text: text.to_owned() })
            };
        };
        if let Err(refusal) = self.ipam.reserved_addresses().check(address) {
            return Err(Reason::Refused { field, address, refusal });
        }
        match self.ipam.conflict(address, key, tenancy) {
            Some(holder) => Err(Reason::Taken { field, address, holder: holder.clone() }),
            None => Ok(Some(address)),
        }
    }

    /// We choose.
    fn any(
        &mut self,
        key: &ServiceKey,
        view: &ServiceView,
        tenancy: &Tenancy,
        before: Vec<IpAddr>,
        mut patch: Patch,
    ) -> Decision {
        let before = match before.is_empty() {
            true if self.unsure => self.ipam.held(key),
            true => {
                // What it had is as free for it as for others.
                self.ipam.hold(key, &[], tenancy);
                before
            }
            false => before,
        };
        let mut kept: Vec<IpAddr> = Vec::new();
        for address in before {
            if self.is_lost(view, address) {
                continue;
            }
            let once = kept.iter().all(|other| Family::of(*other) != Family::of(address));
            let ours =
                self.ipam.conflict(address, key, tenancy).is_none() && self.ipam.reserved(address).is_none();
            if once && ours {
                kept.push(address);
            }
        }
        let fresh = self.choose(key, view, tenancy, &kept);
        self.write_leases(view, &mut patch);
        let (addresses, incomplete) = match fresh {
            Ok(chosen) => chosen,
            Err(reason) => {
                let mut patch = Patch::of(view);
                self.write_leases(view, &mut patch);
                self.ipam.hold(key, &[], tenancy);
                if !matches!(request(view), Request::Any(before) if before.is_empty()) {
                    patch.annotate(view, LOAD_BALANCER_IPS, None);
                    patch.annotate(view, ALLOCATED, None);
                    patch.load_balancer_ip(view, None);
                }
                return Decision::Wait { reason, patch };
            }
        };
        self.ipam.hold(key, &addresses, tenancy);
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let joined = texts.join(",");
        patch.annotate(view, LOAD_BALANCER_IPS, Some(&joined));
        patch.load_balancer_ip(view, texts.first().map(String::as_str));
        // What the Go program allocated is understood as it is: taking over writes nothing.
        if !patch.is_empty() || view.annotations.contains_key(ALLOCATED) {
            patch.annotate(view, ALLOCATED, Some(&joined));
        }
        let new = addresses != kept;
        if new && !view.annotations.contains_key(SERVICE_INTERFACE) {
            patch.annotate(view, SERVICE_INTERFACE, self.pools.interface(&key.namespace));
        }
        let remark = self.ignored(key).map(|wrong| format!("{joined}; {wrong}"));
        Decision::Serve { addresses: texts, patch, remark, incomplete }
    }

    /// The addresses that a Service should have: of what it has, whatever fits, and what is missing.
    fn choose(
        &mut self,
        key: &ServiceKey,
        view: &ServiceView,
        tenancy: &Tenancy,
        kept: &[IpAddr],
    ) -> Result<(Vec<IpAddr>, bool), Reason> {
        let has = |family: Family| kept.iter().copied().find(|address| Family::of(*address) == family);
        let pool = self.pools.of(&key.namespace);
        let serves = |family: Family| {
            has(family).is_some() || pool.as_ref().is_ok_and(|(_, pool)| pool.addresses.serves(family))
        };
        let first = view.families.first().copied();
        let dual = |first: Option<Family>| {
            let first = first.unwrap_or(Family::V4);
            [first, first.other()]
        };
        let keys = |pool: &Pool| pool.keys.join(", ");
        let wanted: Vec<Family> = match view.family_policy {
            FamilyPolicy::Single => {
                vec![first.unwrap_or(if serves(Family::V4) { Family::V4 } else { Family::V6 })]
            }
            FamilyPolicy::PreferDual => dual(first).into_iter().filter(|family| serves(*family)).collect(),
            FamilyPolicy::RequireDual => {
                if !Family::BOTH.into_iter().all(serves) {
                    return Err(Reason::NotDual(keys(pool?.1)));
                }
                dual(first).into()
            }
        };
        let prefix = match view.family_policy {
            FamilyPolicy::Single => "",
            FamilyPolicy::PreferDual => "could not allocate any IP address for PreferDualStack service: ",
            FamilyPolicy::RequireDual => {
                "could not allocate required IP addresses for RequireDualStack service: "
            }
        };
        let mut found = Vec::new();
        let mut missing = None;
        for family in &wanted {
            let address = match has(*family) {
                Some(address) => Some(address),
                None => {
                    let (id, pool) = self.pools.of(&key.namespace)?;
                    if !pool.addresses.serves(*family) {
                        return Err(Reason::Family { pool: keys(pool), family: *family });
                    }
                    match self.give((key, view), (id, pool), *family, tenancy) {
                        Ok(given) => Some(given),
                        Err(reason) => {
                            let exhausted = || {
                                let (size, _) = self.ipam.fill(id, *family);
                                Reason::exhausted(pool, *family, size, prefix)
                            };
                            missing.get_or_insert_with(|| reason.map_or_else(exhausted, |reason| *reason));
                            None
                        }
                    }
                }
            };
            found.extend(address);
        }
        match missing {
            Some(reason) if found.is_empty() || view.family_policy == FamilyPolicy::RequireDual => {
                Err(reason)
            }
            _ if found.is_empty() => {
                let (_, pool) = self.pools.of(&key.namespace)?;
                Err(Reason::Family { pool: keys(pool), family: first.unwrap_or(Family::V4) })
            }
            missing => Ok((found, missing.is_some())),
        }
    }

    /// An address of a pool; else why there is none, unless all are in use.
    fn give(
        &mut self,
        (key, view): (&ServiceKey, &ServiceView),
        (id, pool): (PoolId, &Pool),
        family: Family,
        tenancy: &Tenancy,
    ) -> Result<IpAddr, Option<Box<Reason>>> {
        if pool.addresses.by_dhcp(family) {
            // Where nobody here asks, the node that announces the Service does.
            let Some(dhcp) = self.dhcp else { return Ok(family.address(0)) };
            self.asks.insert(family);
            let held = dhcp.held.get(&leases::key(view, family));
            let Some(address) = held.and_then(|held| held.address) else {
                let trouble = held.and_then(|held| held.trouble.clone());
                let reason = Reason::Lease { interface: dhcp.interface.clone(), family, trouble };
                return Err(Some(Box::new(reason)));
            };
            let field = "DHCP";
            let holder = self.ipam.conflict(address, key, tenancy).cloned();
            let taken = holder.map(|holder| Reason::Taken { field, address, holder });
            let reserved = || {
                let refusal = self.ipam.reserved(address)?;
                Some(Reason::Refused { field, address, refusal })
            };
            let Some(reason) = taken.or_else(reserved) else { return Ok(address) };
            self.contested.push((leases::key(view, family), reason.to_string()));
            return Err(Some(Box::new(reason)));
        }
        // As in the Go program, the pool's switch is about IPv4, which is scarce; a key is about both.
        let by_pool = tenancy.circle.as_ref().is_some_and(|circle| circle.group == Group::Pool);
        let shared = (family == Family::V4 || !by_pool).then(|| self.ipam.shareable(id, family, tenancy));
        shared.flatten().or_else(|| self.ipam.free(id, family, self.pools.descending)).ok_or(None)
    }

    /// Whether an address that a Service had is not its any more: it came from a DHCP server, and the lease is over; or it
    /// is a placeholder for one that we ask for ourselves.
    fn is_lost(&mut self, view: &ServiceView, address: IpAddr) -> bool {
        let family = Family::of(address);
        let text = view.annotation(DHCP_LEASE).unwrap_or_default();
        let leased = Record::find(text, family).is_some_and(|record| record.address == address);
        match self.dhcp {
            Some(_) if address.is_unspecified() => true,
            Some(dhcp) if leased => {
                self.asks.insert(family);
                // Nothing is known yet at the beginning of a term.
                let held = dhcp.held.get(&leases::key(view, family));
                held.is_some_and(|held| held.address != Some(address))
            }
            // Nobody here renews it: the node that announces the Service goes on with it.
            None if leased => true,
            _ => false,
        }
    }

    /// Annotations about leases that cannot be followed.
    fn ignored(&self, key: &ServiceKey) -> Option<String> {
        let wrong = self.dhcp?.wrong.get(key)?;
        (!self.asks.is_empty()).then(|| wrong.join("; "))
    }

    /// What is asked of DHCP servers for a Service.
    fn asking(&self, view: &ServiceView) -> DhcpSpec {
        DhcpSpec::for_families(view, self.asks.iter().copied().collect(), None)
    }

    /// What another process has to know to go on with the leases.
    fn write_leases(&self, view: &ServiceView, patch: &mut Patch) {
        let Some(dhcp) = self.dhcp else { return };
        let asking = self.asking(view);
        let keys = self.asks.iter().map(|family| leases::key(view, *family));
        let held: Option<Vec<&Held>> = keys.map(|key| dhcp.held.get(&key)).collect();
        // Not before anything is known.
        let Some(held) = held else { return };
        for (name, value) in leases::annotations(&asking, held) {
            patch.annotate(view, name, value.as_deref());
        }
    }
}

/// Label and finalizer of a Service that is looked after.
fn mark(view: &ServiceView, patch: &mut Patch) {
    patch.label(view, IMPLEMENTATION.0, Some(IMPLEMENTATION.1));
    patch.label(view, LEGACY_ADDRESS, None);
    patch.finalizer(view, CLEANUP_FINALIZER, true);
}

/// Its type changed: take off what we put there, and leave what its user typed.
fn retire(view: &ServiceView, mut patch: Patch) -> Decision {
    if !is_labelled(view) {
        return Decision::Leave;
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
    patch.annotate(view, UPNP_DELEGATED, None);
    Decision::Release(patch)
}
