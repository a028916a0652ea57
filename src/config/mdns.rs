//! Names in the local network.

use super::{Key, Problem, Values};
use crate::model::validation::is_name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdns {
    /// The control plane's name, without `.local`.
    pub control_plane: Option<String>,
    /// Every Service has a name.
    pub services: bool,
}

pub(super) fn mdns(values: &Values) -> Result<Mdns, Problem> {
    let label = |text: &String| text.trim_end_matches('.').trim_end_matches(".local").to_lowercase();
    let control_plane = values.mdns.as_ref().map(label);
    if control_plane.as_ref().is_some_and(|name| name.contains('.') || !is_name(name)) {
        let allowed = "a name in the local network, such as `k8s` or `k8s.local`";
        return Err(values.raw.unacceptable(Key::Mdns, allowed));
    }
    Ok(Mdns { control_plane, services: values.services_mdns })
}
