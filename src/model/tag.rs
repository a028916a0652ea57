//! Marks by which processes recognize their addresses (`IFA_PROTO`, Linux 5.18).

use super::hash::fnv1a;

/// Whose mark an address carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tag {
    /// No mark of kube-vip.
    #[default]
    None,
    Ours,
    /// That of another kube-vip on this host.
    Another,
}

/// The marks of this process. Two processes of one host, one with the control plane and one with Services, have different ones,
/// as have instances with different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    control_plane: u8,
    services: u8,
    has_control_plane: bool,
    has_services: bool,
}

/// Without `instance_name`. The Go program marks its routes with the first number, and its addresses not at all.
const CONTROL_PLANE: u8 = 248;
/// The first of the marks of named instances, two for each; all marks up to [`CONTROL_PLANE`] + 1 are kube-vip's.
const NAMED: u8 = 200;

impl Tags {
    /// The marks of an instance that announces the control plane's VIPs, Services, or both.
    pub fn new(instance: Option<&str>, has_control_plane: bool, has_services: bool) -> Self {
        let pairs = u64::from((CONTROL_PLANE - NAMED) / 2);
        let named = |name: &str| NAMED + 2 * u8::try_from(fnv1a(name.as_bytes()) % pairs).unwrap_or(0);
        let first = instance.map_or(CONTROL_PLANE, named);
        Self { control_plane: first, services: first + 1, has_control_plane, has_services }
    }

    /// The mark for an address.
    pub fn of(&self, control_plane: bool) -> u8 {
        if control_plane { self.control_plane } else { self.services }
    }

    /// Whose a mark is.
    pub fn owner(&self, mark: u8) -> Tag {
        let ours = (self.has_control_plane && mark == self.control_plane)
            || (self.has_services && mark == self.services);
        match mark {
            _ if ours => Tag::Ours,
            NAMED..=249 => Tag::Another,
            _ => Tag::None,
        }
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self::new(None, true, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_host_leave_each_others_addresses_alone() {
        let (both, control_plane) = (Tags::default(), Tags::new(None, true, false));
        let (services, named) = (Tags::new(None, false, true), Tags::new(Some("blue"), true, true));
        assert_eq!((both.of(true), both.of(false)), (248, 249));
        for (tags, expected) in [
            (both, [Tag::Ours, Tag::Ours, Tag::Another]),
            (control_plane, [Tag::Ours, Tag::Another, Tag::Another]),
            (services, [Tag::Another, Tag::Ours, Tag::Another]),
            (named, [Tag::Another, Tag::Another, Tag::Ours]),
        ] {
            assert_eq!([248, 249, named.of(true)].map(|mark| tags.owner(mark)), expected);
            // The kernel's own.
            assert_eq!([0, 1, 2, 3].map(|mark| tags.owner(mark)), [Tag::None; 4]);
        }
        for name in 0..1000 {
            let tags = Tags::new(Some(&name.to_string()), true, true);
            assert!((200..248).contains(&tags.of(true)) && (200..248).contains(&tags.of(false)));
        }
    }
}
