//! The channels between the elections and the rest of the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::LeaseMetadata;
use super::elections::Input;
use super::elector::SegmentRequest;
use crate::model::{BootTime, GroupId, Holder, LeaseName, Roles, VipPlan};

/// Capacity of the queue of inputs.
const INPUTS: usize = 1024;

/// Channels of the elections.
pub struct Channels {
    /// Groups and candidacies.
    pub plan: watch::Receiver<Arc<VipPlan>>,
    pub inputs: mpsc::Receiver<Input>,
    pub roles: watch::Sender<Roles>,
    pub segment: mpsc::Sender<(GroupId, SegmentRequest)>,
    /// Unexpired holders of the watched Leases.
    pub holders: watch::Sender<BTreeMap<LeaseName, Holder>>,
    /// Metadata of the control plane's Lease.
    pub lease: watch::Sender<LeaseMetadata>,
    /// Whether the local API server has to be probed.
    pub probe_health: watch::Sender<bool>,
    /// Since when the main interface is down.
    pub interface_down: watch::Receiver<Option<BootTime>>,
    /// An operator drains this node.
    pub drained: watch::Receiver<bool>,
    pub stopping: watch::Receiver<bool>,
}

/// The other ends of [`Channels`].
pub struct Handles {
    pub inputs: mpsc::Sender<Input>,
    pub roles: watch::Receiver<Roles>,
    pub segment: mpsc::Receiver<(GroupId, SegmentRequest)>,
    pub holders: watch::Receiver<BTreeMap<LeaseName, Holder>>,
    pub lease: watch::Receiver<LeaseMetadata>,
    pub probe_health: watch::Receiver<bool>,
    pub interface_down: watch::Sender<Option<BootTime>>,
}

/// The channels of elections for `plan`.
pub fn channels(
    plan: watch::Receiver<Arc<VipPlan>>,
    drained: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
) -> (Channels, Handles) {
    let (inputs_in, inputs) = mpsc::channel(INPUTS);
    let (roles, roles_out) = watch::channel(Roles::new());
    let (segment, segment_out) = mpsc::channel(INPUTS);
    let (holders, holders_out) = watch::channel(BTreeMap::new());
    let (lease, lease_out) = watch::channel(LeaseMetadata::default());
    let (probe_health, probe_health_out) = watch::channel(true);
    let (interface_down_in, interface_down) = watch::channel(None);
    let channels = Channels {
        plan,
        inputs,
        roles,
        segment,
        holders,
        lease,
        probe_health,
        interface_down,
        drained,
        stopping,
    };
    let handles = Handles {
        inputs: inputs_in,
        roles: roles_out,
        segment: segment_out,
        holders: holders_out,
        lease: lease_out,
        probe_health: probe_health_out,
        interface_down: interface_down_in,
    };
    (channels, handles)
}
