//! What two speakers agree on.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Settings;
use crate::bgp::packet::{Agreed, Capability, GracefulRestart, Notification, Open, RestartFamily};
use crate::model::Family;

/// What both sides can do, and who the other one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The peer's AS.
    pub asn: u32,
    /// The peer's identifier.
    pub identifier: Ipv4Addr,
    /// What bytes depend on.
    pub agreed: Agreed,
    /// The families that routes are exchanged of.
    pub families: Vec<Family>,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// The peer asks for marks around what it asked for (RFC 7313).
    pub marks: bool,
    /// The session is over after so much silence; none for never.
    pub hold: Option<Duration>,
    /// From one KEEPALIVE to the next.
    pub keepalive: Option<Duration>,
    /// How the peer restarts, where both of us speak of it (RFC 4724).
    pub restart: Option<GracefulRestart>,
}

impl Settings {
    /// What we say of ourselves. `restarted`: there has been no session since this process began. `plain`: without
    /// capabilities, for a peer that refused them (RFC 5492 §3).
    pub(super) fn open(&self, restarted: bool, plain: bool) -> Open {
        let mut capabilities = Vec::new();
        if !plain {
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
                    notification: false,
                    seconds: restart.seconds,
                    families: self.families.iter().map(family).collect(),
                }));
            }
            capabilities.push(Capability::FourOctets(self.local_as));
            capabilities.push(Capability::EnhancedRefresh);
        }
        Open { asn: self.local_as, hold_time: self.hold_time, identifier: self.identifier, capabilities }
    }

    /// What both sides agree on, from what the peer says of itself.
    pub(super) fn negotiate(&self, theirs: &Open, plain: bool) -> Result<Session, Notification> {
        if self.peer_as.is_some_and(|asn| asn != theirs.asn) {
            return Err(Notification::bad_peer_as());
        }
        let internal = theirs.asn == self.local_as;
        // Within an AS two speakers with one identifier cannot be told apart (RFC 6286 §2.1).
        if internal && theirs.identifier == self.identifier {
            return Err(Notification::bad_identifier());
        }
        let ours = self.open(false, plain);
        let common = |family: &Family| ours.families().contains(family);
        let families: Vec<Family> = theirs.families().into_iter().filter(common).collect();
        if families.is_empty() {
            return Err(Notification::unsupported_capability(&self.families));
        }
        let both = |capability: Capability| ours.has(&capability) && theirs.has(&capability);
        let four_octets =
            !plain && theirs.capabilities.iter().any(|one| matches!(one, Capability::FourOctets(_)));
        let restart = theirs.capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart(restart) => Some(restart.clone()),
            _ => None,
        });
        let hold = self.hold_time.min(theirs.hold_time);
        let hold = (hold > 0).then(|| Duration::from_secs(hold.into()));
        Ok(Session {
            asn: theirs.asn,
            identifier: theirs.identifier,
            agreed: Agreed { four_octets, internal },
            extended_next_hop: both(Capability::ExtendedNextHop),
            marks: both(Capability::EnhancedRefresh),
            keepalive: hold.map(|hold| self.keepalive.min(hold / 3)),
            hold,
            restart: restart.filter(|_| self.restart.is_some()),
            families,
        })
    }
}
