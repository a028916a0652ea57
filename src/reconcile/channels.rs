//! Configuration, input and output of the main loop.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::election::elections::Input;
use crate::election::elector::SegmentRequest;
use crate::model::{
    AdvertisedRoutes, BootTime, GroupId, HostStatus, PerFamily, Prefix, Roles, Tags, VipPlan,
};

/// How this host holds addresses.
#[derive(Debug, Clone)]
pub struct Options {
    /// The tags of this process's addresses.
    pub tags: Tags,
    /// The main interface's name: others may be better when it is down.
    pub interface: String,
    /// See [`Inputs::preserve`](super::desired::Inputs).
    pub preserve: bool,
    /// See [`Inputs::adopted_lifetime`](super::desired::Inputs).
    pub adopted_lifetime: Duration,
    /// Do not probe for addresses of these families.
    pub skip_probes: PerFamily<bool>,
    /// Global scope on `lo`.
    pub lo_global: bool,
    /// Time between announcements after the burst.
    pub refresh: Duration,
    /// Addresses are advertised as routes and not announced on their segment.
    pub quiet: bool,
    /// This process announces Services: routes are complete once they are listed.
    pub services: bool,
    /// See [`Inputs::aggregates`](super::desired::Inputs).
    pub aggregates: Vec<Prefix>,
    /// Groups whose addresses are listened for even while other hosts hold them.
    pub control_plane: Vec<GroupId>,
    /// The host is ready once this host's role in these is known.
    pub decisive: Vec<GroupId>,
}

#[derive(Debug)]
pub struct Channels {
    pub plan: watch::Receiver<Arc<VipPlan>>,
    /// The loop ends when the elections do.
    pub roles: watch::Receiver<Roles>,
    /// Interfaces that DHCP clients use, by name: none of them is removed before the release of its lease is sent.
    pub dhcp_links: watch::Receiver<BTreeSet<String>>,
    /// Requests of the elections.
    pub segment: mpsc::Receiver<(GroupId, SegmentRequest)>,
    pub elections: mpsc::Sender<Input>,
    /// Since when the main interface is down, if it is.
    pub interface_down: watch::Sender<Option<BootTime>>,
    /// When the main loop last read the roles that it applied. A claim that this host cannot act on is not renewed.
    pub applied: watch::Sender<BootTime>,
    /// The result of reconciliation.
    pub outcome: watch::Sender<HostStatus>,
    /// Routes to advertise.
    pub announced: watch::Sender<AdvertisedRoutes>,
}
