//! Port mappings on the network's gateway.

use std::ops::RangeInclusive;

use super::{Key, Problem, Values};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upnp {
    pub policy: UpnpPolicy,
    /// Ports of the gateway that Services may open.
    pub ports: Vec<RangeInclusive<u16>>,
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

impl Upnp {
    /// Whether Services may open this port of the gateway.
    pub fn permits(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }
}

pub(super) fn read(values: &Values, problems: &mut Vec<Problem>) -> Upnp {
    let policy = match values.upnp {
        true => UpnpPolicy::Always,
        false if values.raw.is_set(Key::Upnp) => UpnpPolicy::Never,
        false => UpnpPolicy::Delegated,
    };
    let ports = values.upnp_ports.iter().filter_map(|text| {
        let found = range(text);
        if found.is_none() {
            let origin = values.raw.origin(Key::UpnpPorts);
            problems.push(Problem::unacceptable(
                origin,
                text,
                "a port such as 443 or a range such as 1024-65535",
            ));
        }
        found
    });
    Upnp { policy, ports: ports.collect(), status: values.upnp_status }
}

/// A port, or the first and the last one with a dash between them.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| text.trim().parse().ok().filter(|port: &u16| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(port(first)?..=port(last)?).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Raw, Sources};

    fn of(ports: Option<&str>) -> (Upnp, Vec<Problem>) {
        let env = ports.map(|ports| ("upnp_ports".to_owned(), ports.to_owned()));
        let (raw, ..) = Raw::collect(&Sources { env: env.into_iter().collect(), ..Sources::default() });
        let mut problems = Vec::new();
        let upnp = read(&Values::read(raw).unwrap(), &mut problems);
        (upnp, problems)
    }

    #[test]
    fn by_default_a_port_below_1024_is_for_web_servers_only() {
        let (upnp, problems) = of(None);
        assert_eq!(problems, []);
        let permitted = |port: &u16| upnp.permits(*port);
        let low: Vec<u16> = (0..1024).filter(permitted).collect();
        assert_eq!(low, [80, 443]);
        assert!((1024..=65535).all(|port| upnp.permits(port)));
    }

    #[test]
    fn ports_are_numbers_and_ranges() {
        for (text, permitted, refused) in
            [("22", 22, 23), ("8000-8080, 22", 8080, 8081), ("1-65535", 1, 0), ("65535", 65535, 80)]
        {
            let (upnp, problems) = of(Some(text));
            assert_eq!(problems, [], "{text}");
            assert!(upnp.permits(permitted) && !upnp.permits(refused), "{text}");
        }
        for text in ["0", "80-", "90-80", "http", "65536", "0-1"] {
            assert_eq!(of(Some(text)).1.len(), 1, "{text}");
        }
    }
}
