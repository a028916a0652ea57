//! From what the cluster says to what is to be written: pure, and the only place where addresses are chosen.
//!
//! `request` reads what a Service asks for, `decide` says what is to be done about one Service, `patch` is what is
//! to be written to it, `reason` is why it waits. The [`Planner`] keeps all Services and knows which of them are to
//! be looked at again.

pub mod decide;
pub mod patch;
pub mod reason;
pub mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_vip::dhcp::wish::{Held, LeaseKey, Wish};
use kube_vip::model::{Family, ServiceKey, ServiceView};
use kube_vip::planner::leases::{self, DhcpSpec};
use kube_vip::planner::reserved::Reserved;

use crate::ipam::{Ipam, Tenancy};
use crate::pools::Pools;
pub use decide::{Class, Decision, Dhcp};
use decide::{World, tenancy};
pub use patch::Patch;
pub use reason::Reason;
use request::{Request, mentioned, request};

/// How a Service stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum State {
    /// Not looked at yet, or none of ours.
    #[default]
    Other,
    /// It has these addresses or names.
    Served(Vec<String>),
    /// It waits.
    Waiting(Reason),
}

/// What is to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write this, then say how it went by [`Planner::written`].
    Write {
        /// The Service.
        key: ServiceKey,
        /// What to write.
        patch: Patch,
    },
    /// Tell the Service's user.
    Tell {
        /// The Service.
        key: ServiceKey,
        /// Its UID.
        uid: String,
        /// What about.
        news: News,
    },
}

/// What users are told of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It got these addresses.
    Ensured(Vec<String>),
    /// It waits.
    Failed(Reason),
    /// It has what it asked for, but.
    Remark(String),
    /// It is not looked after any more.
    Released,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was done; this is the Service now.
    Done(Box<ServiceView>),
    /// It was refused or got lost: the Service is looked at again.
    Failed,
    /// The Service is gone.
    Gone,
}

#[derive(Debug, Default)]
struct Entry {
    view: ServiceView,
    /// A write is under way.
    writing: Option<News>,
    /// A write may have come about or not; the next version of the Service tells.
    unsure: bool,
    state: State,
    /// What its user was told last.
    told: Option<News>,
    /// For which families a DHCP server is asked.
    asks: BTreeSet<Family>,
}

/// All Services, and what is to be done about them.
#[derive(Debug, Default)]
pub struct Planner {
    class: Class,
    upnp: bool,
    pools: Pools,
    ipam: Ipam,
    services: BTreeMap<ServiceKey, Entry>,
    /// To be looked at, oldest Service first.
    due: BTreeSet<(i64, ServiceKey)>,
    /// To be looked at when an address became free, oldest first.
    waiting: BTreeSet<(i64, ServiceKey)>,
    releases_seen: u64,
    dhcp: Option<Dhcp>,
    contested: Vec<(LeaseKey, String)>,
}

impl Planner {
    /// Nothing is known yet.
    pub fn new(class: Class) -> Self {
        Self { class, ..Self::default() }
    }

    /// From now on ports of the network's gateway are opened for Services that ask for it.
    pub fn open_ports(&mut self) {
        self.upnp = true;
    }

    /// From now on this process asks DHCP servers itself, on this interface.
    pub fn ask_on(&mut self, interface: &str) {
        self.dhcp = Some(Dhcp { interface: interface.to_owned(), ..Dhcp::default() });
    }

    /// How leases stand has changed.
    pub fn set_leases(&mut self, held: BTreeMap<LeaseKey, Held>) {
        let Some(dhcp) = &mut self.dhcp else { return };
        let before = std::mem::replace(&mut dhcp.held, held);
        let changed = |key: &LeaseKey| before.get(key) != dhcp.held.get(key);
        let concerned = self
            .services
            .iter()
            .filter(|(_, entry)| entry.asks.iter().any(|family| changed(&leases::key(&entry.view, *family))));
        self.due.extend(concerned.map(|(key, entry)| (entry.view.created, key.clone())));
    }

    /// What is asked of DHCP servers. A Service that hears by that what is wrong with it is due.
    pub fn wishes(&mut self) -> BTreeMap<LeaseKey, Wish> {
        let Some(dhcp) = &mut self.dhcp else { return BTreeMap::new() };
        let asking = self.services.iter().filter(|(_, entry)| !entry.asks.is_empty());
        let mut all: Vec<(&ServiceKey, &ServiceView, DhcpSpec)> = asking
            .map(|(key, entry)| {
                let families = entry.asks.iter().copied().collect();
                (key, &entry.view, DhcpSpec::for_families(&entry.view, families, None))
            })
            .collect();
        leases::tell_apart(all.iter_mut().map(|(key, view, asking)| (*key, *view, asking)));
        let told = all.iter().filter(|(.., asking)| !asking.wrong.is_empty());
        let wrong = told.map(|(key, _, asking)| ((*key).clone(), asking.wrong.clone())).collect();
        let before = std::mem::replace(&mut dhcp.wrong, wrong);
        let changed = all.iter().filter(|(key, ..)| before.get(key) != dhcp.wrong.get(key));
        self.due.extend(changed.map(|(key, view, _)| (view.created, (*key).clone())));
        let wishes = all.iter().flat_map(|(_, view, asking)| asking.wishes(view, &dhcp.interface));
        wishes.map(|(key, wish)| (key, Wish { active: true, ..wish })).collect()
    }

    /// What DHCP servers gave, and must not give, each with why, since this was asked last.
    pub fn take_contested(&mut self) -> Vec<(LeaseKey, String)> {
        std::mem::take(&mut self.contested)
    }

    /// The ConfigMap changed.
    pub fn set_pools(&mut self, pools: Pools) {
        let sharing_changed =
            self.services.keys().any(|key| self.pools.shares(&key.namespace) != pools.shares(&key.namespace));
        self.pools = pools;
        self.ipam.set_pools(&self.pools);
        if sharing_changed {
            self.look_at_all();
        }
    }

    /// Replaces the addresses that no Service may have.
    pub fn set_reserved(&mut self, reserved: Reserved) {
        self.ipam.set_reserved(reserved);
    }

    /// These are all Services there are.
    ///
    /// Whoever has an address keeps it: all are entered before any is given one. Of two with the same address the
    /// older one keeps it.
    pub fn reset(&mut self, services: impl IntoIterator<Item = (ServiceKey, ServiceView)>) {
        let mut all: BTreeMap<ServiceKey, ServiceView> = services.into_iter().collect();
        let gone: Vec<ServiceKey> =
            self.services.keys().filter(|key| !all.contains_key(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
        let mut order: Vec<(i64, ServiceKey)> =
            all.iter().map(|(key, view)| (view.created, key.clone())).collect();
        order.sort();
        for (_, key) in order {
            if let Some(view) = all.remove(&key) {
                self.apply(key, view);
            }
        }
    }

    /// A Service came or changed. One that is older than what is known is passed over.
    pub fn apply(&mut self, key: ServiceKey, view: ServiceView) {
        let before = self.services.get(&key);
        if before.is_some_and(|entry| entry.view.uid == view.uid && view.is_older_than(&entry.view)) {
            return;
        }
        if before.is_some_and(|entry| entry.view.uid != view.uid) {
            // Deleted and made again between two looks.
            self.remove(&key);
        }
        let known = self.services.contains_key(&key);
        if !known {
            self.enter(&key, &view);
        }
        self.due.insert((view.created, key.clone()));
        let entry = self.services.entry(key).or_default();
        // A write is bound to the version it was decided on: with the next one it came about, or never will.
        entry.unsure &= entry.view.resource_version == view.resource_version;
        entry.view = view;
    }

    /// A Service is gone.
    pub fn remove(&mut self, key: &ServiceKey) {
        if let Some(entry) = self.services.remove(key) {
            self.due.remove(&(entry.view.created, key.clone()));
            self.waiting.remove(&(entry.view.created, key.clone()));
            self.ipam.hold(key, &[], &Tenancy::default());
        }
    }

    /// What it has already is held before anybody is given anything.
    fn enter(&mut self, key: &ServiceKey, view: &ServiceView) {
        if !view.load_balancer {
            return;
        }
        if !self.class.covers(view) {
            self.ipam.hold(key, &mentioned(view), &Tenancy::default());
            return;
        }
        let tenancy = tenancy(&self.pools, key, view);
        let has = match request(view) {
            Request::Any(before) => before,
            Request::Fixed { text, .. } => {
                text.split(',').filter_map(|text| text.trim().parse().ok()).collect()
            }
        };
        let free = |address: &IpAddr| {
            self.ipam.conflict(*address, key, &tenancy).is_none() && self.ipam.reserved(*address).is_none()
        };
        let has: Vec<IpAddr> = has.into_iter().filter(free).collect();
        self.ipam.hold(key, &has, &tenancy);
    }

    /// Look at every Service again.
    pub fn look_at_all(&mut self) {
        self.due.extend(self.services.iter().map(|(key, entry)| (entry.view.created, key.clone())));
    }

    /// Look at one Service again.
    pub fn look_at(&mut self, key: &ServiceKey) {
        if let Some(entry) = self.services.get(key) {
            self.due.insert((entry.view.created, key.clone()));
        }
    }

    /// The next steps, for one Service at most; nothing when all is as it should be.
    pub fn next_steps(&mut self) -> Vec<Step> {
        loop {
            if self.ipam.releases() != self.releases_seen {
                self.releases_seen = self.ipam.releases();
                self.due.append(&mut self.waiting.clone());
            }
            let Some((_, key)) = self.due.pop_first() else { return Vec::new() };
            let steps = self.look(&key);
            if !steps.is_empty() {
                return steps;
            }
        }
    }

    fn look(&mut self, key: &ServiceKey) -> Vec<Step> {
        let Some(entry) = self.services.get_mut(key) else { return Vec::new() };
        if entry.writing.is_some() {
            // Its end brings the Service back here.
            return Vec::new();
        }
        let mut world = World {
            pools: &self.pools,
            ipam: &mut self.ipam,
            class: &self.class,
            upnp: self.upnp,
            unsure: entry.unsure,
            dhcp: self.dhcp.as_ref(),
            asks: BTreeSet::new(),
            contested: Vec::new(),
        };
        let decision = world.decide(key, &entry.view);
        self.contested.extend(world.contested);
        entry.asks = world.asks;
        let slot = (entry.view.created, key.clone());
        let waits = match &decision {
            Decision::Wait { .. } => true,
            Decision::Serve { incomplete, .. } => *incomplete,
            Decision::Leave | Decision::Release(_) => false,
        };
        if waits {
            self.waiting.insert(slot);
        } else {
            self.waiting.remove(&slot);
        }
        let (state, news, patch) = match decision {
            Decision::Leave => (State::Other, None, None),
            Decision::Release(patch) => (State::Other, Some(News::Released), Some(patch)),
            Decision::Wait { reason, patch } => {
                (State::Waiting(reason.clone()), Some(News::Failed(reason)), Some(patch))
            }
            Decision::Serve { addresses, patch, remark, .. } => {
                let news = remark.map(News::Remark).unwrap_or_else(|| News::Ensured(addresses.clone()));
                (State::Served(addresses), Some(news), Some(patch))
            }
        };
        let served_before = matches!(&entry.state, State::Served(_) | State::Other);
        entry.state = state;
        let mut steps = Vec::new();
        let patch = patch.filter(|patch| !patch.is_empty());
        let success = matches!(&news, Some(News::Ensured(_) | News::Released));
        if let Some(patch) = patch {
            // Success is told when it is written.
            entry.writing = Some(news.clone().unwrap_or(News::Ensured(Vec::new())));
            steps.push(Step::Write { key: key.clone(), patch });
            if success {
                return steps;
            }
        } else if success && served_before {
            // It was so already.
            entry.told = news;
            return steps;
        }
        if let Some(news) = news
            && entry.told.as_ref() != Some(&news)
        {
            entry.told = Some(news.clone());
            steps.push(Step::Tell { key: key.clone(), uid: entry.view.uid.clone(), news });
        }
        steps
    }

    /// A write came to its end. Says what is to be told.
    pub fn written(&mut self, key: &ServiceKey, outcome: Written) -> Option<Step> {
        let entry = self.services.get_mut(key)?;
        let news = entry.writing.take();
        match outcome {
            Written::Gone => {
                self.remove(key);
                None
            }
            Written::Failed => {
                entry.unsure = true;
                None
            }
            Written::Done(view) => {
                let is_success = |news: &News| match news {
                    News::Ensured(addresses) => !addresses.is_empty(),
                    News::Released => true,
                    News::Failed(_) | News::Remark(_) => false,
                };
                let news = news.filter(|news| is_success(news) && entry.told.as_ref() != Some(news));
                if let Some(news) = &news {
                    entry.told = Some(news.clone());
                }
                let uid = entry.view.uid.clone();
                self.apply(key.clone(), *view);
                // Whatever came in meanwhile is looked at now.
                self.look_at(key);
                news.map(|news| Step::Tell { key: key.clone(), uid, news })
            }
        }
    }

    /// How a Service stands.
    pub fn state(&self, key: &ServiceKey) -> Option<&State> {
        self.services.get(key).map(|entry| &entry.state)
    }

    /// All Services and how they stand.
    pub fn states(&self) -> impl Iterator<Item = (&ServiceKey, &State)> {
        self.services.iter().map(|(key, entry)| (key, &entry.state))
    }

    /// The version of a Service that is known.
    pub fn version(&self, key: &ServiceKey) -> Option<&str> {
        self.services.get(key).map(|entry| entry.view.resource_version.as_str())
    }

    /// The pools.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Who has what.
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }
}
