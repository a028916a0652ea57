//! Which interface carries addresses for which none is configured.

use super::HostState;
use crate::config::Config;
use crate::model::{IfIndex, Interface};

/// The main interface: the configured one, else the default route's.
pub fn main_interface<'a>(
    config: &Config,
    host: &'a HostState,
    default_route: Option<IfIndex>,
) -> Option<&'a Interface> {
    let for_services = || {
        let services = config.services.as_ref()?.interface.clone();
        services.filter(|name| config.targets.is_empty() && name != "auto")
    };
    match config.interface.clone().or_else(for_services) {
        Some(name) => host.interface(&name),
        None => host.interfaces.iter().find(|interface| Some(interface.index) == default_route),
    }
}
