//! From what the cluster says to what this host may hold: groups of addresses, and its part in their elections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::addresses::{Refusal, Reserved, Wanted, wanted};
use super::balance;
use super::endpoints::Endpoints;
use super::leases::{self, Asking};
use super::places::{macvlan, place, vlan_of};
use super::routes::{RouteRules, path, routes};
use super::select::Rules;
use crate::desired::{LinkChoice, Place, PrefixLength};
use crate::dhcp::wish::{Held, LeaseKey, Wish};
use crate::leader::{Candidacy, Holder};
use crate::model::annotation::{LEASE_NAME, NOT_YET, SERVICE_VLAN, VIP_HOST, WITHOUT_ENDPOINTS};
use crate::model::family::number;
use crate::model::hash::fnv1a;
use crate::model::legal::is_name;
use crate::model::link::MadeLink;
use crate::model::service::TrafficPolicy;
use crate::model::{Family, LeaseName, Path, Prefix, Routes, ServiceKey, ServiceView};

/// How much later each further candidate of a group takes what is free.
const HEAD_START: Duration = Duration::from_millis(200);
/// The same where Services are elected alone: long enough for the first one's write to be seen, as a rule.
const STEP: Duration = Duration::from_millis(30);
/// Whoever comes later still goes along with the last of these.
const STEPS: usize = 3;

/// What does not change while the process runs.
#[derive(Debug, Clone)]
pub struct World {
    /// This node.
    pub me: String,
    /// Which Services are looked after.
    pub rules: Rules,
    /// How they are elected.
    pub mode: Mode,
    /// The control plane's Lease, where this process takes part in its election.
    pub control_plane: Option<LeaseName>,
    /// Where addresses go that say nothing.
    pub link: LinkChoice,
    /// The link that `auto` falls back to.
    pub main_link: String,
    /// Prefix length for IPv4.
    pub v4: PrefixLength,
    /// Prefix length for IPv6.
    pub v6: PrefixLength,
    /// How routers are told of Services, where they are.
    pub routes: Option<RouteRules>,
}

/// How Services are elected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One election for all.
    Global(LeaseName),
    /// One for each Service.
    PerService,
    /// None: every node has all that it can serve. This group has them.
    EveryNode(LeaseName),
    /// A fixed number, Services spread over them by address.
    Groups {
        /// Their Leases are this one's name with a number.
        base: LeaseName,
        /// How many.
        count: usize,
        /// Candidates for each.
        most: usize,
    },
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// All Services.
    pub services: BTreeMap<ServiceKey, ServiceView>,
    /// What stands behind them.
    pub endpoints: Endpoints,
    /// Addresses that are not for Services.
    pub reserved: Reserved,
    /// The control plane's addresses that this process takes part in holding.
    pub vips: BTreeSet<IpAddr>,
    /// What names were resolved to.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Whom each Lease names that is not expired.
    pub holders: BTreeMap<LeaseName, Holder>,
    /// Addresses of ours that were on this host when the process began.
    pub left_over: BTreeSet<IpAddr>,
    /// The cluster's own networks for Services.
    pub service_cidrs: BTreeSet<Prefix>,
    /// What came of asking DHCP servers.
    pub leases: BTreeMap<LeaseKey, Held>,
}

impl Seen {
    /// A Service came or changed. News that is older than what is known is no news.
    pub fn apply(&mut self, key: ServiceKey, view: ServiceView) {
        if !self.services.get(&key).is_some_and(|known| view.is_older_than(known)) {
            self.services.insert(key, view);
        }
    }

    /// A write had this result. By then the Service may have changed again, or be gone.
    pub fn written(&mut self, key: ServiceKey, view: ServiceView) {
        if self.services.contains_key(&key) {
            self.apply(key, view);
        }
    }

    /// Whether this host still has all of these from an earlier process.
    fn has_all(&self, places: &BTreeSet<Place>) -> bool {
        !places.is_empty() && places.iter().all(|place| self.left_over.contains(&place.address))
    }
}

/// What is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every election, this host's part in it, and the addresses that go with it here.
    pub groups: BTreeMap<LeaseName, (Candidacy, BTreeSet<Place>)>,
    /// What routers are told, by the group that it goes with.
    pub routes: BTreeMap<LeaseName, Routes>,
    /// Every Service that is looked after.
    pub services: BTreeMap<ServiceKey, Handled>,
    /// Names to look up.
    pub names: BTreeSet<String>,
    /// Addresses that nobody was ever seen to announce: a station outside the cluster may have them.
    pub fresh: BTreeSet<IpAddr>,
    /// What is asked of DHCP servers, by the node that has the election.
    pub leases: BTreeMap<LeaseKey, Wish>,
    /// Links that are needed for that, by the election that they go with.
    pub links: BTreeMap<LeaseName, BTreeSet<MadeLink>>,
}

/// How a Service that is looked after stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handled {
    /// Its addresses that can be announced.
    pub addresses: Vec<IpAddr>,
    /// The election that they go with, once there are any.
    pub lease: Option<LeaseName>,
    /// What routers are to be told of its addresses, where it says so.
    pub path: Option<Arc<Path>>,
    /// What it asks of DHCP servers.
    pub asking: Option<Asking>,
    /// Whether this host could serve it.
    pub servable: bool,
    /// Whether any host could.
    pub alive: bool,
    /// What its user should know.
    pub remarks: Vec<Remark>,
}

/// What a Service's user should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remark {
    /// An address is not announced.
    Refused(Refusal),
    /// An annotation cannot be followed.
    Annotation(String),
    /// There is no address from a DHCP server.
    Lease(String),
    /// A port of the network's gateway does not lead here.
    Gateway(String),
    /// The host that is to announce an address cannot.
    Obstacle(String),
    /// A station outside the cluster announces an address too.
    Conflict(String),
}

impl World {
    /// The group of what every node announces.
    pub fn every_node(&self) -> Option<&LeaseName> {
        self.routes.as_ref().map(|rules| &rules.every_node)
    }
}

impl Mode {
    /// The Lease of a group.
    fn lease_of(base: &LeaseName, number: usize) -> LeaseName {
        LeaseName { namespace: base.namespace.clone(), name: format!("{}-{number}", base.name) }
    }

    /// The Lease by which a node says that it is there.
    fn member_of(base: &LeaseName, node: &str) -> LeaseName {
        LeaseName { namespace: base.namespace.clone(), name: format!("{}{node}", Self::member_prefix(base)) }
    }

    fn member_prefix(base: &LeaseName) -> String {
        format!("{}-member-", base.name)
    }
}

/// Services that share an address or a Lease move together.
#[derive(Debug, Default)]
struct Component {
    services: Vec<ServiceKey>,
}

/// Compute everything.
pub fn plan(world: &World, seen: &Seen) -> Plan {
    let mut plan = Plan::default();
    let mut elected = Vec::new();
    for (key, view) in &seen.services {
        if !world.rules.covers(key, view) {
            continue;
        }
        let handled = look_at(world, seen, key, view, &mut plan.names);
        let rides_along = !handled.addresses.is_empty()
            && world.control_plane.is_some()
            && handled.addresses.iter().all(|address| seen.vips.contains(address));
        // Sharing the control plane's address, it goes where that goes.
        if !rides_along && (!handled.addresses.is_empty() || handled.asking.is_some()) {
            elected.push(key.clone());
        }
        let lease = rides_along.then(|| world.control_plane.clone()).flatten();
        plan.services.insert(key.clone(), Handled { lease, ..handled });
    }
    let elects_alone =
        |component: &Component| component.services.iter().any(|key| elects_alone(world, seen, key));
    let (alone, by_mode): (Vec<_>, Vec<_>) =
        components(seen, &plan, &elected).into_iter().partition(elects_alone);
    let by_mode: Vec<ServiceKey> = by_mode.into_iter().flat_map(|component| component.services).collect();
    place_alone(world, seen, &mut plan, &alone);
    match &world.mode {
        Mode::PerService => {}
        Mode::EveryNode(lease) => {
            let places = places_of(world, seen, &plan, &by_mode, SERVABLE);
            assign_lease(&mut plan, &by_mode, |_| lease.clone());
            plan.groups.insert(lease.clone(), (Candidacy::default(), places));
        }
        Mode::Global(lease) => {
            let places = places_of(world, seen, &plan, &by_mode, SERVABLE);
            assign_lease(&mut plan, &by_mode, |_| lease.clone());
            if world.control_plane.as_ref() == Some(lease) {
                plan.groups.entry(lease.clone()).or_default().1.extend(places);
            } else {
                let resuming = seen.has_all(&places);
                let candidacy = Candidacy { eligible: true, resuming, ..Candidacy::default() };
                plan.groups.insert(lease.clone(), (candidacy, places));
            }
        }
        Mode::Groups { base, count, most } => {
            place_in_groups(world, seen, &mut plan, &by_mode, (base, *count, *most))
        }
    }
    if let Some(rules) = &world.routes {
        plan.routes = routes(rules, &world.me, seen, &plan);
        if !rules.attach {
            plan.groups.values_mut().for_each(|(_, places)| places.clear());
        }
    }
    plan.fresh = fresh(seen, &plan);
    plan.leases = wishes(world, seen, &plan);
    plan.links = links(world, seen, &plan);
    plan
}

/// Links that DHCP is spoken on: they are needed before there is an address.
fn links(world: &World, seen: &Seen, plan: &Plan) -> BTreeMap<LeaseName, BTreeSet<MadeLink>> {
    let mut links: BTreeMap<LeaseName, BTreeSet<MadeLink>> = BTreeMap::new();
    for (key, handled) in plan.services.iter().filter(|(_, handled)| handled.asking.is_some()) {
        let (Some(view), Some(lease)) = (seen.services.get(key), &handled.lease) else { continue };
        let link = place(world, view, Family::V4.address(0)).link;
        links.entry(lease.clone()).or_default().extend(link.made().cloned());
    }
    links
}

/// What is asked of DHCP servers, if this host turns out to be the one who asks.
fn wishes(world: &World, seen: &Seen, plan: &Plan) -> BTreeMap<LeaseKey, Wish> {
    let asking = plan
        .services
        .iter()
        .filter_map(|(key, handled)| Some((seen.services.get(key)?, handled.asking.as_ref()?)));
    let on_link = |(view, asking): (&ServiceView, &Asking)| {
        let link = place(world, view, Family::V4.address(0)).link.name();
        asking.wishes(view, &link)
    };
    asking.flat_map(on_link).collect()
}

/// Whoever announces an address says so in the status and the annotation of its Service, and asked before it did.
fn fresh(seen: &Seen, plan: &Plan) -> BTreeSet<IpAddr> {
    let announced = |view: &&ServiceView| view.annotation(VIP_HOST).is_some();
    let known = seen.services.values().filter(announced).flat_map(|view| &view.status);
    let known: BTreeSet<IpAddr> = known.filter_map(|ingress| ingress.ip).collect();
    let places = plan.groups.values().flat_map(|(_, places)| places);
    places.map(|place| place.address).filter(|address| !known.contains(address)).collect()
}

/// Whether a Service needs an election of its own, and so does everything that shares an address with it: an address
/// belongs to one election.
fn elects_alone(world: &World, seen: &Seen, key: &ServiceKey) -> bool {
    let Some(view) = seen.services.get(key) else { return false };
    match &world.mode {
        Mode::PerService => true,
        Mode::Global(_) => world.rules.elects_alone(view),
        // A DHCP server gives an address to one host, and somebody has to be the one who asks.
        Mode::EveryNode(_) => world.rules.elects_alone(view) || Asking::of(view).is_some(),
        // What only some nodes can serve cannot go with the rest.
        Mode::Groups { .. } => world.rules.elects_alone(view) || view.traffic_policy == TrafficPolicy::Local,
    }
}

/// A Service's addresses, and whether they can be served.
fn look_at(
    world: &World,
    seen: &Seen,
    key: &ServiceKey,
    view: &ServiceView,
    names: &mut BTreeSet<String>,
) -> Handled {
    let mut handled = Handled { asking: Asking::of(view), ..Handled::default() };
    if let Some(asking) = &handled.asking {
        let wrong = asking.wrong.iter().cloned().map(Remark::Annotation);
        handled.remarks.extend(wrong);
        for family in &asking.families {
            let Some(held) = seen.leases.get(&leases::key(view, *family)) else { continue };
            handled.remarks.extend(held.trouble.clone().map(Remark::Lease));
            handled.addresses.extend(held.address);
        }
    }
    for wanted in wanted(view) {
        let found = match wanted {
            Wanted::Ip(address) if address.is_unspecified() => continue,
            // Its address comes from a DHCP server.
            Wanted::Name(_) if handled.asking.is_some() => continue,
            Wanted::Ip(address) => vec![address],
            Wanted::Name(name) if is_name(&name) => {
                names.insert(name.clone());
                seen.names.get(&name).cloned().unwrap_or_default()
            }
            Wanted::Name(name) => {
                handled.remarks.push(Remark::Refused(Refusal::Malformed(name)));
                continue;
            }
        };
        for address in found {
            // What this process itself holds for the control plane is shared on purpose.
            let own = seen.vips.contains(&address);
            match seen.reserved.check(address) {
                Err(refusal) if !own => handled.remarks.push(Remark::Refused(refusal)),
                _ if handled.addresses.contains(&address) => {}
                _ => handled.addresses.push(address),
            }
        }
    }
    let forced = view.annotation(WITHOUT_ENDPOINTS).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let any = seen.endpoints.any(key);
    (handled.alive, handled.servable) = match view.traffic_policy {
        TrafficPolicy::Cluster => (any || forced, any || forced),
        TrafficPolicy::Local => (any, seen.endpoints.on(key, &world.me)),
    };
    let not_yet =
        NOT_YET.iter().filter(|(name, _)| view.annotation(name).is_some_and(|value| value != "false"));
    handled.remarks.extend(not_yet.map(|(name, what)| {
        Remark::Annotation(format!(
            "{name}: {what} is not available in this version yet; the Service is announced without"
        ))
    }));
    if world.routes.is_some() {
        let (path, wrong) = path(view);
        handled.path = path;
        handled.remarks.extend(wrong.into_iter().map(Remark::Annotation));
    }
    if let Some(Err(wrong)) = macvlan(view, &world.main_link) {
        handled.remarks.push(Remark::Annotation(wrong));
    }
    if let Some(vlan) = view.annotation(SERVICE_VLAN).filter(|vlan| vlan_of(vlan).is_none()) {
        handled.remarks.push(Remark::Annotation(format!(
            "{SERVICE_VLAN}: `{vlan}` is not a link with a VLAN's number, such as eth0.200, from 1 to 4094"
        )));
    }
    if view.annotation(LEASE_NAME).is_some() && view.traffic_policy == TrafficPolicy::Local {
        handled.remarks.push(Remark::Annotation(format!(
            "{LEASE_NAME}: Services with externalTrafficPolicy Local are elected alone, since only some nodes can \
             serve them; remove the annotation, or set the policy to Cluster"
        )));
    }
    handled
}

/// The addresses of those Services among these that are `wanted`.
fn places_of(
    world: &World,
    seen: &Seen,
    plan: &Plan,
    keys: &[ServiceKey],
    wanted: fn(&Handled) -> bool,
) -> BTreeSet<Place> {
    let mut places: BTreeMap<IpAddr, Place> = BTreeMap::new();
    for key in keys {
        let (Some(handled), Some(view)) = (plan.services.get(key), seen.services.get(key)) else { continue };
        if wanted(handled) {
            // Of Services that share an address the first by name says where it goes.
            for address in handled.addresses.iter().filter(|address| !seen.vips.contains(address)) {
                places.entry(*address).or_insert_with(|| place(world, view, *address));
            }
        }
    }
    places.into_values().collect()
}

const SERVABLE: fn(&Handled) -> bool = |handled| handled.servable;
const ALIVE: fn(&Handled) -> bool = |handled| handled.alive;

fn assign_lease(plan: &mut Plan, keys: &[ServiceKey], lease: impl Fn(&Handled) -> LeaseName) {
    for key in keys {
        if let Some(handled) = plan.services.get_mut(key) {
            handled.lease = Some(lease(handled));
        }
    }
}

/// The Lease of a Service that is elected alone.
fn lease_of(key: &ServiceKey, view: &ServiceView) -> LeaseName {
    let own = || LeaseName { namespace: key.namespace.clone(), name: format!("kubevip-{}", key.name) };
    match view.annotation(LEASE_NAME).filter(|_| view.traffic_policy == TrafficPolicy::Cluster) {
        None => own(),
        Some(text) => match text.split_once('/') {
            Some((namespace, name)) => LeaseName { namespace: namespace.to_owned(), name: name.to_owned() },
            None => LeaseName { namespace: key.namespace.clone(), name: text.to_owned() },
        },
    }
}

/// Services that share an address or a Lease, together; oldest first in each.
fn components(seen: &Seen, plan: &Plan, keys: &[ServiceKey]) -> Vec<Component> {
    let mut keys: Vec<&ServiceKey> = keys.iter().collect();
    let age = |key: &ServiceKey| seen.services.get(key).map_or(0, |view| view.created);
    keys.sort_by(|a, b| (age(a), a).cmp(&(age(b), b)));
    let mut components: Vec<Component> = Vec::new();
    let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut by_lease: BTreeMap<LeaseName, usize> = BTreeMap::new();
    for key in keys {
        let (Some(handled), Some(view)) = (plan.services.get(key), seen.services.get(key)) else { continue };
        let lease = lease_of(key, view);
        let linked = handled.addresses.iter().filter_map(|address| by_address.get(address));
        let linked: BTreeSet<usize> = linked.chain(by_lease.get(&lease)).copied().collect();
        let home = linked.first().copied().unwrap_or(components.len());
        if home == components.len() {
            components.push(Component::default());
        }
        for other in linked.into_iter().filter(|other| *other != home) {
            let moved = components.get_mut(other).map(std::mem::take).unwrap_or_default();
            if let Some(component) = components.get_mut(home) {
                component.services.extend(moved.services);
            }
            by_address.values_mut().chain(by_lease.values_mut()).for_each(|index| {
                if *index == other {
                    *index = home;
                }
            });
        }
        if let Some(component) = components.get_mut(home) {
            component.services.push(key.clone());
        }
        by_address.extend(handled.addresses.iter().map(|address| (*address, home)));
        by_lease.insert(lease, home);
    }
    components.retain(|component| !component.services.is_empty());
    components
}

/// Elections for Services that go together: on the Lease of the oldest.
fn place_alone(world: &World, seen: &Seen, plan: &mut Plan, components: &[Component]) {
    let age = |key: &&ServiceKey| (seen.services.get(*key).map_or(0, |view| view.created), (*key).clone());
    let lease = |component: &Component| {
        let oldest = component.services.iter().min_by_key(age)?;
        Some(lease_of(oldest, seen.services.get(oldest)?))
    };
    let leases: Vec<Option<LeaseName>> = components.iter().map(lease).collect();
    let holders = leases.iter().flatten().filter_map(|lease| seen.holders.get(lease));
    let present: BTreeSet<&str> =
        holders.filter(|holder| holder.prompt).map(|holder| holder.identity.as_str()).collect();
    for (component, lease) in components.iter().zip(leases) {
        let Some(lease) = lease else { continue };
        let handled = || component.services.iter().filter_map(|key| plan.services.get(key));
        let servable = handled().any(|handled| handled.servable);
        let leased = handled().any(|handled| handled.asking.is_some());
        // Somebody has to renew a lease of a DHCP server, though nobody can serve the Service.
        let asleep = leased && handled().all(|handled| !handled.alive);
        let eligible = servable || asleep;
        let mut views = component.services.iter().filter_map(|key| seen.services.get(key));
        let announced = views.any(|view| view.annotation(VIP_HOST).is_some());
        let places = match eligible {
            true => places_of(world, seen, plan, &component.services, SERVABLE),
            // While it was asleep it had none.
            false if leased && !announced => BTreeSet::new(),
            // Whoever cannot serve them any more keeps the addresses, silently, until a host that can has them.
            false => places_of(world, seen, plan, &component.services, ALIVE),
        };
        // Not everybody writes at once to a Lease that is free: one of them would win, and all pay.
        let able = present.iter().copied().filter(|node| asleep || can_serve(seen, component, node));
        let rank = balance::rank(&world.me, able, &lease).min(STEPS);
        let delay = STEP * u32::try_from(rank).unwrap_or(0);
        let candidacy = Candidacy { eligible, delay, resuming: seen.has_all(&places), herald: false };
        assign_lease(plan, &component.services, |_| lease.clone());
        plan.groups.insert(lease, (candidacy, places));
    }
}

/// Whether a node can serve any of these.
fn can_serve(seen: &Seen, component: &Component, node: &str) -> bool {
    component.services.iter().any(|key| match seen.services.get(key).map(|view| view.traffic_policy) {
        Some(TrafficPolicy::Local) => seen.endpoints.on(key, node),
        Some(TrafficPolicy::Cluster) => true,
        None => false,
    })
}

/// Services spread over a fixed number of elections.
fn place_in_groups(
    world: &World,
    seen: &Seen,
    plan: &mut Plan,
    keys: &[ServiceKey],
    (base, count, most): (&LeaseName, usize, usize),
) {
    let prefix = Mode::member_prefix(base);
    let here = seen.holders.iter().filter(|(lease, _)| lease.namespace == base.namespace);
    // Whoever is late with its renewal is given nothing more, and what it leaves is shared out before it is free.
    let there = here.filter(|(lease, holder)| holder.prompt && lease.name.starts_with(&prefix));
    let mut members: BTreeSet<String> = there.map(|(_, holder)| holder.identity.clone()).collect();
    members.insert(world.me.clone());
    let holder = |group| seen.holders.get(&Mode::lease_of(base, group));
    let holders: BTreeMap<usize, String> =
        (0..count).filter_map(|group| Some((group, holder(group)?.identity.clone()))).collect();
    let mut by_group: BTreeMap<usize, Vec<ServiceKey>> = BTreeMap::new();
    for component in components(seen, plan, keys) {
        let group = group_of(plan, &component, count);
        by_group.entry(group).or_default().extend(component.services);
    }
    for (group, list) in balance::candidates(count, &members, &holders, most).into_iter().enumerate() {
        let lease = Mode::lease_of(base, group);
        let keys = by_group.remove(&group).unwrap_or_default();
        let places = places_of(world, seen, plan, &keys, SERVABLE);
        assign_lease(plan, &keys, |_| lease.clone());
        let rank = list.iter().position(|node| *node == world.me);
        let mine = holders.get(&group) == Some(&world.me);
        // Whoever holds more than its share hands over to whoever has less.
        let eligible = rank.is_some_and(|rank| rank == 0 || !mine);
        let delay = HEAD_START * u32::try_from(rank.unwrap_or(0)).unwrap_or(0);
        let resuming = seen.has_all(&places);
        plan.groups.insert(lease, (Candidacy { eligible, delay, resuming, herald: false }, places));
    }
    let member = Candidacy { eligible: true, delay: Duration::ZERO, resuming: true, herald: true };
    plan.groups.insert(Mode::member_of(base, &world.me), (member, BTreeSet::new()));
}

/// The group of Services that go together, by their lowest address: pools are given away in order, so that
/// neighbours fall into different groups. Where an address comes from a DHCP server the group is there before it.
fn group_of(plan: &Plan, component: &Component, count: usize) -> usize {
    let asks = |key: &&ServiceKey| plan.services.get(*key).is_some_and(|handled| handled.asking.is_some());
    if let Some(key) = component.services.iter().find(asks) {
        let spread = usize::try_from(fnv1a(key.to_string().as_bytes()) >> 1);
        return spread.unwrap_or(0) % count.max(1);
    }
    let addresses = component.services.iter().filter_map(|key| plan.services.get(key));
    let lowest = addresses.flat_map(|handled| &handled.addresses).min();
    let count = u128::try_from(count.max(1)).unwrap_or(1);
    let folded = lowest.map_or(0, |address| {
        let number = number(*address);
        number ^ (number >> 64)
    });
    usize::try_from(folded % count).unwrap_or(0)
}
