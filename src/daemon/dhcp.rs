//! The control plane's addresses from a DHCP server: the holder of the Lease asks, and writes into the Lease what its
//! successor has to know to go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::config::Prefixes;
use crate::config::dhcp::ControlPlaneDhcp;
use crate::dhcp::driver::{Driver, Handles, channels};
use crate::dhcp::fsm::Stage;
use crate::dhcp::identity::{Identity, Name, hardware};
use crate::dhcp::record::Record;
use crate::dhcp::wish::{Held, LeaseKey, Wish};
use crate::election::Role;
use crate::election::driver::Notes;
use crate::election::elector::Input;
use crate::model::annotation::{DHCP_LEASE, HARDWARE_ADDRESS};
use crate::model::interface::hardware_text;
use crate::model::{Family, LeaseName, Vip};
use crate::net::clock;
use crate::telemetry::Telemetry;
use crate::telemetry::dhcp::LeaseStatus;
use crate::watch_ext;

/// What asks for the control plane.
pub(super) struct ControlPlane {
    pub(super) dhcp: ControlPlaneDhcp,
    pub(super) lease: LeaseName,
    pub(super) interface: String,
    pub(super) prefixes: Prefixes,
    pub(super) role: watch::Receiver<Role>,
    pub(super) notes: watch::Receiver<Notes>,
    pub(super) commands: mpsc::Sender<Input>,
    pub(super) vips: watch::Sender<BTreeSet<Vip>>,
    pub(super) telemetry: Arc<Telemetry>,
}

impl ControlPlane {
    /// Ask whenever this host holds the Lease, for ever.
    ///
    /// # Errors
    /// If the kernel does not talk to us.
    pub(super) fn start(self, attempts: u32) -> std::io::Result<()> {
        let (channels, handles) = channels();
        let clients = Driver::start(channels, self.telemetry.metrics.dhcp.clone(), attempts)?;
        tokio::spawn(clients);
        tokio::spawn(self.run(handles));
        Ok(())
    }

    async fn run(mut self, mut handles: Handles) {
        loop {
            self.ask(&handles);
            let held = handles.held.borrow_and_update().clone();
            self.take(&held).await;
            tokio::select! {
                changed = self.role.changed() => if changed.is_err() { return },
                changed = self.notes.changed() => if changed.is_err() { return },
                changed = handles.held.changed() => if changed.is_err() { return },
            }
        }
    }

    fn ask(&mut self, handles: &Handles) {
        let active = self.role.borrow_and_update().claim(clock::now()).is_some();
        let notes = self.notes.borrow_and_update().clone();
        let note = |name: &str| notes.annotations.get(name).map(String::as_str);
        // The Lease tells this cluster from others of its kind; one that was made anew says by which address we are known.
        let own = notes.uid.as_deref().map(Identity::hardware_of);
        let Some(hardware) = note(HARDWARE_ADDRESS).and_then(hardware).or(own) else { return };
        let hostname = self.dhcp.name.as_deref().and_then(|name| Name::new(name, true));
        let identity = Identity { hardware, hostname, by_hardware: false, broadcast: true };
        let text = note(DHCP_LEASE).unwrap_or_default();
        let wish = |family: &Family| {
            let record = Record::find(text, *family);
            let (interface, identity) = (self.interface.clone(), identity.clone());
            let wish = Wish { interface, made: false, identity, wanted: None, active, record };
            (LeaseKey { owner: self.lease.to_string(), family: *family }, wish)
        };
        let wishes: BTreeMap<LeaseKey, Wish> = self.dhcp.families.iter().map(wish).collect();
        watch_ext::set(&handles.wishes, wishes);
    }

    async fn take(&mut self, held: &BTreeMap<LeaseKey, Held>) {
        let addresses: BTreeSet<IpAddr> = held.values().filter_map(|held| held.address).collect();
        let vips: BTreeSet<Vip> =
            addresses.into_iter().map(|address| Vip { address, prefix: self.prefixes.of(address) }).collect();
        watch_ext::set(&self.vips, vips);
        let lines = held.iter().map(|(key, held)| LeaseStatus::of("control plane", key, held));
        self.telemetry.leases("control plane", lines.collect());
        // Whoever does not ask itself knows no more than what is written there.
        if held.is_empty() || held.values().any(|held| held.stage == Stage::Standby) {
            return;
        }
        let records =
            held.values().filter(|held| held.address.is_some()).filter_map(|held| held.record.clone());
        let text = records.map(|record| record.to_string()).collect::<Vec<_>>().join("; ");
        let hardware = self.notes.borrow().uid.as_deref().map(Identity::hardware_of);
        let noted = self.notes.borrow().annotations.contains_key(HARDWARE_ADDRESS);
        let first = hardware.filter(|_| !noted).map(|own| (HARDWARE_ADDRESS, hardware_text(&own)));
        for (name, value) in first.into_iter().chain([(DHCP_LEASE, text)]) {
            // It is written with the next renewal; should the queue be gone, so is the election.
            self.commands.send(Input::Annotate(name, value)).await.ok();
        }
    }
}
