//! The election's part of `kube-vip status`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{BootTime, ClaimSource, Health, Role};

/// The kind of a [`Role`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RoleName {
    #[default]
    Starting,
    Follower,
    Leader,
    /// Leader without a Lease.
    ProvisionalLeader,
    HandingOver,
}

impl From<&Role> for RoleName {
    fn from(role: &Role) -> Self {
        match role {
            Role::Starting => Self::Starting,
            Role::Follower { .. } => Self::Follower,
            Role::Leader(claim) if claim.source == ClaimSource::Provisional => Self::ProvisionalLeader,
            Role::Leader(_) => Self::Leader,
            Role::HandingOver { .. } => Self::HandingOver,
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Follower => "follower",
            Self::Leader => "leader",
            Self::ProvisionalLeader => "provisional leader",
            Self::HandingOver => "handing over",
        })
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Serving => "serving",
            Self::Refusing => "refusing",
            Self::Failing => "failing",
        })
    }
}

/// The state of the control plane's election.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ElectionStatus {
    pub node: String,
    /// It is the control plane's; otherwise that of all Services.
    #[serde(default)]
    pub control_plane: bool,
    /// `namespace/name`; empty without one election for all.
    pub lease: String,
    /// The identity in the Lease.
    pub holder: Option<String>,
    pub transitions: i32,
    pub role: RoleName,
    /// Time since the role changed.
    pub for_seconds: f64,
    /// Time until the claim expires without another renewal.
    pub claim_remaining_seconds: Option<f64>,
    /// Health of the API server on this host.
    pub api_server: Health,
    /// Why a configured server is not used, or not first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server_warning: Option<String>,
    /// Nodes that elect Services by another scheme keep this one from taking Services over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme_problem: Option<String>,
    /// The last request for the Lease failed: why.
    pub last_error: Option<String>,
    #[serde(skip)]
    pub(super) since: BootTime,
    #[serde(skip)]
    pub(super) valid_until: Option<BootTime>,
}

impl ElectionStatus {
    pub(super) fn set_role(&mut self, role: &Role, now: BootTime) {
        let name = RoleName::from(role);
        if self.role != name {
            self.role = name;
            self.since = now;
        }
        self.valid_until = role.claim(now).map(|claim| claim.valid_until);
    }

    #[must_use]
    pub fn at(&self, now: BootTime) -> Self {
        Self {
            for_seconds: now.since(self.since).as_secs_f64(),
            claim_remaining_seconds: self.valid_until.map(|until| until.since(now).as_secs_f64()),
            ..self.clone()
        }
    }

    pub fn is_elected(&self) -> bool {
        !self.lease.is_empty()
    }

    /// Why this node does not hold the VIP; none while it does.
    pub fn blocked_by(&self) -> Option<String> {
        let text = match (self.role, self.is_elected(), &self.holder) {
            (RoleName::Follower, false, _) if self.control_plane => {
                "the API server on this host does not respond, or the node is drained".to_owned()
            }
            (_, false, _) => return None,
            (RoleName::Follower, true, Some(holder)) if *holder == self.node => {
                "this node's claim expired, or another host has its name".to_owned()
            }
            (RoleName::Follower, true, Some(holder)) => format!("{holder} holds the Lease"),
            (RoleName::Follower, true, None) => {
                "no node holds the Lease; waiting for the API server".to_owned()
            }
            (RoleName::Starting, true, _) => "the Lease has not been read yet".to_owned(),
            _ => return None,
        };
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_camel_case_keys_and_no_internal_times() {
        let status = ElectionStatus { node: "a".into(), lease: "ns/l".into(), ..ElectionStatus::default() };
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["role"], &json["apiServer"]), (&"starting".into(), &"unknown".into()));
        assert!(json["lastError"].is_null() && json.get("since").is_none());
        assert_eq!(serde_json::from_value::<ElectionStatus>(json).unwrap(), status);
    }

    #[test]
    fn a_follower_names_what_blocks_it() {
        let status = |role, lease: &str, holder: Option<&str>| {
            let (lease, holder) = (lease.to_owned(), holder.map(str::to_owned));
            let control_plane = true;
            let status =
                ElectionStatus { node: "a".into(), lease, holder, role, control_plane, ..Default::default() };
            status.blocked_by()
        };
        let blocked = |role, holder| status(role, "ns/l", holder).unwrap_or_default();
        assert_eq!(blocked(RoleName::Follower, Some("b")), "b holds the Lease");
        assert_eq!(
            blocked(RoleName::Follower, Some("a")),
            "this node's claim expired, or another host has its name"
        );
        assert_eq!(blocked(RoleName::Follower, None), "no node holds the Lease; waiting for the API server");
        assert_eq!(blocked(RoleName::Starting, None), "the Lease has not been read yet");
        assert_eq!(blocked(RoleName::Leader, Some("a")), "");
        assert_eq!(status(RoleName::Starting, "", None), None);
        assert!(status(RoleName::Follower, "", None).is_some());
    }
}
