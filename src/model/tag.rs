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
/// as have 23 of 24 pairs of instances with different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    control_plane: u8,
    services: u8,
    has_control_plane: bool,
    has_services: bool,
    /// The kernel stores marks.
    stored: bool,
}

/// The first kernel that stores marks.
const STORED_SINCE: (u32, u32) = (5, 18);
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
        Self { control_plane: first, services: first + 1, has_control_plane, has_services, stored: true }
    }

    /// The same on a kernel of this release, such as `5.15.0-91-generic`.
    #[must_use]
    pub fn on_kernel(self, release: &str) -> Self {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let stored = match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= STORED_SINCE,
            _ => true,
        };
        Self { stored, ..self }
    }

    /// The mark for an address.
    pub fn of(&self, control_plane: bool) -> u8 {
        if control_plane { self.control_plane } else { self.services }
    }

    /// Whose an address is. Where the kernel stores no marks, a deprecated address is ours.
    pub fn owner(&self, mark: Option<u8>, deprecated: bool) -> Tag {
        let Some(mark) = mark else {
            return if deprecated && !self.stored { Tag::Ours } else { Tag::None };
        };
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
            assert_eq!([248, 249, named.of(true)].map(|mark| tags.owner(Some(mark), true)), expected);
            // The kernel's own.
            assert_eq!([0, 1, 2, 3].map(|mark| tags.owner(Some(mark), true)), [Tag::None; 4]);
        }
        for name in 0..1000 {
            let tags = Tags::new(Some(&name.to_string()), true, true);
            assert!((200..248).contains(&tags.of(true)) && (200..248).contains(&tags.of(false)));
        }
    }

    #[test]
    fn without_stored_marks_a_deprecated_address_is_ours() {
        for (release, expected) in [
            ("4.18.0-553.el8_10.x86_64", Tag::Ours),
            ("5.15.0-91-generic", Tag::Ours),
            ("5.18", Tag::None),
            ("6.1.0-18-amd64\n", Tag::None),
            ("", Tag::None),
        ] {
            let tags = Tags::default().on_kernel(release);
            assert_eq!([true, false].map(|deprecated| tags.owner(None, deprecated)), [expected, Tag::None]);
            assert_eq!(tags.owner(Some(248), false), Tag::Ours, "a distribution may have backported them");
        }
    }
}
