//! Port mappings on the network's gateway.

use super::{Key, Values};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upnp {
    pub policy: UpnpPolicy,
    /// Publish the gateway's external address in the status of Services with a port mapping.
    pub status: bool,
}

/// Which Services get the port mappings that they request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UpnpPolicy {
    Never,
    /// Those that the cloud provider permits.
    #[default]
    Delegated,
    Always,
}

pub(super) fn read(values: &Values) -> Upnp {
    let policy = match values.upnp {
        true => UpnpPolicy::Always,
        false if values.raw.is_set(Key::Upnp) => UpnpPolicy::Never,
        false => UpnpPolicy::Delegated,
    };
    Upnp { policy, status: values.upnp_status }
}
