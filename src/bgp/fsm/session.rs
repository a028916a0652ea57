//! Capability negotiation (RFC 5492).

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Settings;
use crate::bgp::packet::{Capability, GracefulRestart, Negotiated, Notification, Open, RestartFamily};
use crate::model::Family;

/// Negotiated parameters of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// AS of the peer.
    pub asn: u32,
    /// BGP identifier of the peer.
    pub identifier: Ipv4Addr,
    pub negotiated: Negotiated,
    /// Families that both ends support.
    pub families: Vec<Family>,
    /// IPv4 routes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Enhanced Route Refresh (RFC 7313).
    pub enhanced_refresh: bool,
    /// Hold time; None for no limit.
    pub hold: Option<Duration>,
    /// KEEPALIVE interval before jitter.
    pub keepalive: Option<Duration>,
    /// The peer's Graceful Restart capability, if both ends have it (RFC 4724).
    pub restart: Option<GracefulRestart>,
}

impl Settings {
    /// The OPEN to send. `restarted`: no session since this process started. `no_capabilities`: the peer rejected
    /// capabilities (RFC 5492 §3).
    pub(super) fn open(&self, restarted: bool, no_capabilities: bool) -> Open {
        let mut capabilities = Vec::new();
        if !no_capabilities {
            capabilities.extend(self.families.iter().copied().map(Capability::Family));
            capabilities.push(Capability::Refresh);
            if self.extended_next_hop {
                capabilities.push(Capability::ExtendedNextHop);
            }
            if let Some(restart) = self.restart {
                let family =
                    |family: &Family| RestartFamily { family: *family, forwarding: restart.forwarding };
                capabilities.push(Capability::GracefulRestart(GracefulRestart {
                    restarting: restarted,
                    seconds: restart.seconds,
                    families: self.families.iter().map(family).collect(),
                }));
            }
            capabilities.push(Capability::FourOctets(self.local_as));
            capabilities.push(Capability::EnhancedRefresh);
        }
        Open { asn: self.local_as, hold_time: self.hold_time, identifier: self.identifier, capabilities }
    }

    /// Combines the peer's OPEN with these settings, or returns the NOTIFICATION to send.
    pub(super) fn negotiate(&self, theirs: &Open, no_capabilities: bool) -> Result<Session, Notification> {
        if self.peer_as.is_some_and(|asn| asn != theirs.asn) {
            return Err(Notification::BAD_PEER_AS);
        }
        let internal = theirs.asn == self.local_as;
        // Within an AS the BGP identifier must be unique (RFC 6286 §2.1).
        if internal && theirs.identifier == self.identifier {
            return Err(Notification::BAD_IDENTIFIER);
        }
        let ours = self.open(false, no_capabilities);
        let common = |family: &Family| ours.families().contains(family);
        let families: Vec<Family> = theirs.families().into_iter().filter(common).collect();
        if families.is_empty() {
            return Err(Notification::unsupported_capability(&self.families));
        }
        let both = |capability: Capability| {
            ours.capabilities.contains(&capability) && theirs.capabilities.contains(&capability)
        };
        let four_octets = !no_capabilities
            && theirs.capabilities.iter().any(|one| matches!(one, Capability::FourOctets(_)));
        let restart = theirs.capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart.clone()),
            _ => None,
        });
        let hold = self.hold_time.min(theirs.hold_time);
        let hold = (hold > 0).then(|| Duration::from_secs(hold.into()));
        Ok(Session {
            asn: theirs.asn,
            identifier: theirs.identifier,
            negotiated: Negotiated { four_octets, internal },
            extended_next_hop: both(Capability::ExtendedNextHop),
            enhanced_refresh: both(Capability::EnhancedRefresh),
            keepalive: hold.map(|hold| self.keepalive.min(hold / 3)),
            hold,
            restart: restart.filter(|_| self.restart.is_some()),
            families,
        })
    }
}
