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
    pub interface_down: watch::Receiver<Option<BootTime>>,
    /// When the main loop last read the roles that it applied.
    pub applied: watch::Receiver<BootTime>,
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
    pub applied: watch::Sender<BootTime>,
}

/// The channels of elections for `plan`, which publish `roles`.
pub fn channels(
    plan: watch::Receiver<Arc<VipPlan>>,
    roles: watch::Sender<Roles>,
    drained: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
) -> (Channels, Handles) {
    let (inputs_in, inputs) = mpsc::channel(INPUTS);
    let (segment, segment_out) = mpsc::channel(INPUTS);
    let (interface_down_in, interface_down) = watch::channel(None);
    let (applied_in, applied) = watch::channel(BootTime::default());
    let channels = Channels {
        plan,
        inputs,
        roles,
        segment,
        holders: watch::Sender::default(),
        lease: watch::Sender::default(),
        probe_health: watch::Sender::new(true),
        interface_down,
        applied,
        drained,
        stopping,
    };
    let handles = Handles {
        inputs: inputs_in,
        roles: channels.roles.subscribe(),
        segment: segment_out,
        holders: channels.holders.subscribe(),
        lease: channels.lease.subscribe(),
        probe_health: channels.probe_health.subscribe(),
        interface_down: interface_down_in,
        applied: applied_in,
    };
    (channels, handles)
}
