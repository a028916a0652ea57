//! How VIPs are held on an interface.

use std::time::Duration;

use super::Values;
use crate::model::PerFamily;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer2 {
    /// Time between announcements after the first burst; none: 60 s.
    pub announce_every: Option<Duration>,
    /// Do not probe for addresses of these families.
    pub skip_probes: PerFamily<bool>,
    /// Leave the IPv4 address to the kernel's lifetime when the claim expires.
    pub preserve: bool,
    /// Global scope on `lo`.
    pub lo_global: bool,
    /// Hold the VIP while the interface is down.
    pub tolerate_down: bool,
    /// Give up the VIP after the interface has been down for this long.
    pub give_up_when_down_for: Option<Duration>,
}

pub(super) fn read(values: &Values, notes: &mut Vec<String>) -> Layer2 {
    let announce_every = match values.arp_rate {
        0 => None,
        rate @ 1..500 => {
            notes.push(format!("vip_arpRate {rate} is below 500 ms; announcing every 3000 ms"));
            Some(Duration::from_secs(3))
        }
        rate => Some(Duration::from_millis(rate.into())),
    };
    let timeout = Duration::from_secs(values.lose_leadership_timeout.into());
    Layer2 {
        announce_every,
        skip_probes: PerFamily { v4: values.skip_arp_probe, v6: values.skip_dad },
        preserve: values.preserve_vip,
        lo_global: values.lo_global_scope,
        tolerate_down: values.allow_interface_not_up,
        give_up_when_down_for: values.lose_leadership.then_some(timeout),
    }
}
