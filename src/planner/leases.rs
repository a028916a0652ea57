//! The DHCP request of a Service, and the annotations with its leases.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::addresses::{Wanted, wanted};
use crate::dhcp::identity::{Identity, Name, parse_mac};
use crate::dhcp::saved_lease::SavedLease;
use crate::dhcp::spec::{ClientSpec, ClientStatus, LeaseKey};
use crate::model::annotation::{
    DDNS, DHCP_BROADCAST, DHCP_LEASE, HARDWARE_ADDRESS, HOSTNAME, LOAD_BALANCER_IPS, REQUESTED_IP,
};
use crate::model::go::parse_bool;
use crate::model::interface::hardware_text;
use crate::model::text::quoted;
use crate::model::{Family, InterfaceSelector, ServiceKey, ServiceView};

/// Elements of a list of preferred addresses that are read.
const MAX_REQUESTED: usize = 8;

/// Which records of leases in annotations are continued. The author of a Service can write a record of any lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// Those with an address in the status, which only controllers write.
    Announced,
    /// All: the cloud provider writes no status.
    All,
}

/// The DHCP request of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpSpec {
    pub families: Vec<Family>,
    pub identity: Identity,
    /// Preferred addresses, at most one of each family.
    pub requested: Vec<IpAddr>,
    /// Messages about invalid annotations.
    pub wrong: Vec<String>,
}

impl DhcpSpec {
    /// The request in a Service's annotations and status; None if there is none.
    pub fn of(view: &ServiceView) -> Option<Self> {
        let dns = by_name(view);
        let wanted = wanted(view);
        let placeholders = wanted.iter().filter_map(|wanted| match wanted {
            Wanted::Ip(address) if address.is_unspecified() => Some(Family::of(*address)),
            _ => None,
        });
        let mut families: Vec<Family> = placeholders.collect();
        let name = wanted.iter().find_map(|wanted| match wanted {
            Wanted::Name(name) => Some(name.as_str()),
            Wanted::Ip(_) => None,
        });
        if dns && name.is_some() && families.is_empty() {
            families = if view.families.is_empty() { vec![Family::V4] } else { view.families.clone() };
        }
        families.sort_unstable();
        families.dedup();
        (!families.is_empty()).then(|| Self::for_families(view, families, name.filter(|_| dns)))
    }

    /// The request of a Service for which the cloud provider has decided on these families.
    pub fn for_families(view: &ServiceView, families: Vec<Family>, name: Option<&str>) -> Self {
        let mut wrong = Vec::new();
        let own = Identity::mac_of(&view.uid);
        let address = view.annotation(HARDWARE_ADDRESS).map(|text| {
            parse_mac(text).unwrap_or_else(|| {
                wrong.push(format!(
                    "{HARDWARE_ADDRESS}: {} is no hardware address of an interface, such as 00:00:6c:01:02:03; \
                     {} is used",
                    quoted(text),
                    hardware_text(&own)
                ));
                own
            })
        });
        let dns = by_name(view);
        let hostname = view.annotation(HOSTNAME).map(|text| (HOSTNAME, text));
        let hostname = hostname.or(name.map(|name| (LOAD_BALANCER_IPS, name))).and_then(|(key, text)| {
            let name = Name::new(text, dns);
            if name.is_none() {
                wrong.push(format!(
                    "{key}: {} is no host name; DHCP requests are sent without one",
                    quoted(text)
                ));
            }
            name
        });
        let mut requested: Vec<IpAddr> = Vec::new();
        for text in
            view.annotation(REQUESTED_IP).unwrap_or_default().split(',').take(MAX_REQUESTED).map(str::trim)
        {
            match text.parse::<IpAddr>() {
                Ok(address) if requested.iter().all(|other| Family::of(*other) != Family::of(address)) => {
                    requested.push(address);
                }
                _ if text.is_empty() => {}
                _ => wrong.push(format!(
                    "{REQUESTED_IP}: {} is ignored: use at most one IPv4 and one IPv6 address",
                    quoted(text)
                )),
            }
        }
        if let Some(text) = view.annotation(DDNS).filter(|text| parse_bool(text).is_none()) {
            wrong.push(format!(
                "{DDNS}: {} is neither \"true\" nor \"false\"; \"false\" is used",
                quoted(text)
            ));
        }
        let identity = Identity {
            mac: address.unwrap_or(own),
            hostname,
            by_mac: false,
            broadcast: view.annotation(DHCP_BROADCAST) != Some("false"),
        };
        Self { families, identity, requested, wrong }
    }

    /// The leases to request, on this interface. A server is asked for the address of a record that is not continued.
    pub fn client_specs(
        &self,
        view: &ServiceView,
        interface: &InterfaceSelector,
        records: Records,
    ) -> BTreeMap<LeaseKey, ClientSpec> {
        let text = view.annotation(DHCP_LEASE).unwrap_or_default();
        let spec = |family: &Family| {
            let record = SavedLease::find(text, *family);
            let address = record.as_ref().map(|record| record.address);
            let announced = view.status.iter().any(|entry| entry.ip.is_some() && entry.ip == address);
            let continued = announced || records == Records::All;
            let requested = self.requested.iter().copied().find(|it| Family::of(*it) == *family);
            ClientSpec {
                interface: interface.name(),
                managed: interface.managed().is_some(),
                identity: self.identity.clone(),
                requested: requested.or(address),
                active: false,
                saved: record.filter(|_| continued),
            }
        };
        self.families.iter().map(|family| (key(view, *family), spec(family))).collect()
    }
}

/// Makes DHCP client identifiers unique. Of the Services with the same name one uses it as its identifier: the one with
/// a lease by that name, else the oldest. The others would get the same address, which is intended only for Services
/// with the same hardware address.
pub fn disambiguate_client_ids<'a>(
    specs: impl IntoIterator<Item = (&'a ServiceKey, &'a ServiceView, &'a mut DhcpSpec)>,
) {
    let by_name = |view: &ServiceView| {
        let text = view.annotation(DHCP_LEASE).unwrap_or_default();
        let mut records = Family::BOTH.into_iter().filter_map(|family| SavedLease::find(text, family));
        records.next().map(|record| !record.by_mac)
    };
    let mut all: Vec<_> =
        specs.into_iter().map(|(key, view, spec)| (by_name(view), view.created, key, spec)).collect();
    all.sort_by_key(|(by_name, created, key, _)| (*by_name != Some(true), *created, *key));
    let mut known: BTreeMap<String, (&ServiceKey, [u8; 6])> = BTreeMap::new();
    for (by_name, _, key, spec) in all {
        let Some(name) = spec.identity.client_name().map(str::to_owned) else { continue };
        let hardware = spec.identity.mac;
        let other = known.get(&name);
        if other.is_some_and(|(_, same)| *same == hardware) {
            continue;
        }
        spec.identity.by_mac = other.is_some() || by_name == Some(false);
        match other {
            Some((other, _)) => spec.wrong.push(format!(
                "{HOSTNAME}: Service {other} has the name `{name}`, too; this Service uses its hardware address as DHCP \
                 client identifier"
            )),
            None if spec.identity.by_mac => {}
            None => drop(known.insert(name, (key, hardware))),
        }
    }
}

pub fn key(view: &ServiceView, family: Family) -> LeaseKey {
    LeaseKey { owner: view.uid.clone(), family }
}

fn by_name(view: &ServiceView) -> bool {
    view.annotation(DDNS).and_then(parse_bool) == Some(true)
}

/// The annotations with a Service's leases: what another process needs to renew them, and, as in the Go program,
/// hardware address and addresses. Without a valid lease the record is removed.
pub fn annotations<'a>(
    spec: &DhcpSpec,
    leases: impl IntoIterator<Item = &'a ClientStatus>,
) -> BTreeMap<&'static str, Option<String>> {
    let mut records: Vec<SavedLease> = leases
        .into_iter()
        .filter(|held| held.address.is_some())
        .filter_map(|held| held.saved.clone())
        .collect();
    records.sort_by_key(|record| record.address);
    if records.is_empty() {
        return [(DHCP_LEASE, None)].into();
    }
    let texts: Vec<String> = records.iter().map(SavedLease::to_string).collect();
    let addresses: Vec<String> = records.iter().map(|record| record.address.to_string()).collect();
    [
        (DHCP_LEASE, Some(texts.join("; "))),
        (HARDWARE_ADDRESS, Some(hardware_text(&spec.identity.mac))),
        (REQUESTED_IP, Some(addresses.join(","))),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::fsm::ClientState;
    use crate::model::service::Ingress;

    fn view(annotations: &[(&str, &str)]) -> ServiceView {
        let annotations = annotations.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        ServiceView { uid: "u".into(), annotations: annotations.collect(), ..ServiceView::default() }
    }

    fn eth0() -> InterfaceSelector {
        InterfaceSelector::Named("eth0".into())
    }

    #[test]
    fn families_follow_from_placeholders_and_names() {
        use Family::{V4, V6};
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<&'a [Family]>);
        let table: [Row<'_>; 7] = [
            (&[(LOAD_BALANCER_IPS, "0.0.0.0")], Some(&[V4])),
            (&[(LOAD_BALANCER_IPS, "::")], Some(&[V6])),
            (&[(LOAD_BALANCER_IPS, "::, 0.0.0.0,0.0.0.0")], Some(&[V4, V6])),
            (&[(LOAD_BALANCER_IPS, "192.0.2.1")], None),
            (&[(LOAD_BALANCER_IPS, "web.example.com")], None),
            (&[(LOAD_BALANCER_IPS, "web.example.com"), (DDNS, "true")], Some(&[V4])),
            (&[(LOAD_BALANCER_IPS, "web.example.com"), (DDNS, "yes")], None),
        ];
        for (annotations, families) in table {
            let spec = DhcpSpec::of(&view(annotations));
            assert_eq!(spec.as_ref().map(|spec| spec.families.as_slice()), families, "{annotations:?}");
        }
        let dual = ServiceView {
            families: vec![V6, V4],
            ..view(&[(LOAD_BALANCER_IPS, "web.example.com"), (DDNS, "1")])
        };
        let spec = DhcpSpec::of(&dual).unwrap();
        assert_eq!(spec.families, [V4, V6]);
        assert_eq!(spec.identity.hostname, Name::new("web.example.com", true));
    }

    #[test]
    fn annotations_set_identity_and_preferences() {
        let spec = DhcpSpec::of(&view(&[
            (LOAD_BALANCER_IPS, "0.0.0.0"),
            (HOSTNAME, "web"),
            (HARDWARE_ADDRESS, "00:00:6c:01:02:03"),
            (REQUESTED_IP, "192.0.2.9, fd00::9"),
            (DHCP_BROADCAST, "false"),
        ]))
        .unwrap();
        assert_eq!(spec.identity.hostname, Name::new("web", false));
        assert_eq!(spec.identity.mac, [0, 0, 0x6c, 1, 2, 3]);
        assert!(!spec.identity.broadcast);
        assert_eq!(spec.wrong, [""; 0]);
        let client_specs = spec.client_specs(&view(&[]), &eth0(), Records::Announced);
        assert_eq!(client_specs.values().next().unwrap().requested, "192.0.2.9".parse().ok());
    }

    #[test]
    fn services_of_one_name_have_different_client_ids() {
        let leased = |end: &str| format!("192.0.2.9 from 192.0.2.1 at 2026-11-22T05:00:00Z{end}");
        let (by_name, by_mac) = (leased(""), leased(" by hardware"));
        // By age: name, lease, and whether the name is the client identifier.
        type Row<'a> = &'a [(&'a str, &'a str, bool)];
        let table: [Row<'_>; 5] = [
            &[("web", "", true), ("web.example.com", "", false), ("shop", "", true)],
            &[("web", "", false), ("web", &by_name, true)],
            // The identifier is kept after the other Service is deleted.
            &[("web", &by_mac, false)],
            &[("web", &by_mac, false), ("web", "", true), ("web", "", false)],
            // Services with the same hardware address share a lease.
            &[("twin", "", true), ("twin", "", true)],
        ];
        for row in table {
            let services: Vec<(ServiceKey, ServiceView)> = (0..)
                .zip(row)
                .map(|(created, (name, lease, _))| {
                    let hardware = match *name {
                        "twin" => "02:00:00:00:00:01".to_owned(),
                        _ => format!("02:00:00:00:01:{created:02x}"),
                    };
                    let annotations = [
                        (LOAD_BALANCER_IPS, "0.0.0.0"),
                        (HOSTNAME, *name),
                        (HARDWARE_ADDRESS, &hardware),
                        (DHCP_LEASE, *lease),
                    ];
                    let key = ServiceKey { namespace: format!("n{created}"), name: "web".into() };
                    (key, ServiceView { created, ..view(&annotations) })
                })
                .collect();
            let mut specs: Vec<DhcpSpec> =
                services.iter().map(|(_, view)| DhcpSpec::of(view).unwrap()).collect();
            let all = services.iter().zip(&mut specs);
            disambiguate_client_ids(all.map(|((key, view), spec)| (key, view, spec)));
            let known: Vec<bool> = specs.iter().map(|spec| spec.identity.client_name().is_some()).collect();
            assert_eq!(known, row.iter().map(|(.., known)| *known).collect::<Vec<_>>(), "{row:?}");
        }
    }

    #[test]
    fn all_invalid_annotations_are_reported() {
        let spec = DhcpSpec::of(&view(&[
            (LOAD_BALANCER_IPS, "0.0.0.0"),
            (HOSTNAME, "w e b"),
            (HARDWARE_ADDRESS, "01:00:5e:00:00:01"),
            (REQUESTED_IP, "192.0.2.9,192.0.2.10,x"),
            (DDNS, "maybe"),
        ]))
        .unwrap();
        assert_eq!(spec.wrong.len(), 5, "{:?}", spec.wrong);
        assert_eq!(spec.identity.mac, Identity::mac_of("u"));
        assert_eq!(spec.requested, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn written_annotations_restore_the_lease() {
        let spec = DhcpSpec::of(&view(&[(LOAD_BALANCER_IPS, "0.0.0.0")])).unwrap();
        let record: SavedLease =
            "192.0.2.9 from 192.0.2.1 at 2026-11-22T05:00:00Z for 60 renew 30 rebind 52".parse().unwrap();
        let held = ClientStatus {
            address: Some(record.address),
            saved: Some(record.clone()),
            state: ClientState::Bound,
            probed: false,
            last_error: None,
        };
        let written = annotations(&spec, [&held]);
        let text = |name| written.get(name).cloned().flatten().unwrap();
        assert_eq!(text(REQUESTED_IP), "192.0.2.9");
        let mut again = view(&[(DHCP_LEASE, &text(DHCP_LEASE)), (HARDWARE_ADDRESS, &text(HARDWARE_ADDRESS))]);
        let continued = |view: &ServiceView| {
            let spec =
                spec.client_specs(view, &eth0(), Records::Announced).remove(&key(view, Family::V4)).unwrap();
            (spec.saved, spec.requested)
        };
        // Its author may have written it: nothing is used or released without a server's consent.
        assert_eq!(continued(&again), (None, Some(record.address)));
        again.status = vec![Ingress { ip: Some(record.address), ..Ingress::default() }];
        assert_eq!(continued(&again).0, Some(record));
        again.status = vec![Ingress { ip: "192.0.2.8".parse().ok(), ..Ingress::default() }];
        assert_eq!(continued(&again).0, None);
        let lost = ClientStatus { address: None, ..held };
        assert_eq!(annotations(&spec, [&lost]), [(DHCP_LEASE, None)].into());
    }
}
