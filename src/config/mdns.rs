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

pub(super) fn read(values: &Values, problems: &mut Vec<Problem>) -> Mdns {
    let label = |text: &str| {
        let name = text.trim_end_matches('.').trim_end_matches(".local").to_lowercase();
        (is_name(&name) && !name.contains('.')).then_some(name)
    };
    let allowed = "a name in the local network, such as `k8s` or `k8s.local`";
    let control_plane = values.raw.accept(Key::Mdns, allowed, problems, label);
    Mdns { control_plane, services: values.services_mdns }
}
