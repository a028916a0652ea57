//! The addresses that a Service requests.

use std::net::IpAddr;

use crate::model::annotation::{LOAD_BALANCER_IPS, UPNP_EXTERNAL_IP};
use crate::model::service::Ingress;
use crate::model::{Family, ServiceView};

/// Elements of a list that are read: more than a Service may have.
const MAX_ELEMENTS: usize = 64;

/// An element of a Service's list of addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    Ip(IpAddr),
    /// A DNS name.
    Name(String),
}

/// The addresses of a Service, in the Go program's order of sources: the annotation; the status, unless
/// `spec.loadBalancerIP` is another address; `spec.loadBalancerIP`.
pub fn wanted(view: &ServiceView) -> Vec<Wanted> {
    let one = |text: &str| match text.parse() {
        Ok(address) => Wanted::Ip(address),
        Err(_) => Wanted::Name(text.to_owned()),
    };
    if let Some(text) = view.annotation(LOAD_BALANCER_IPS) {
        let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
        return elements.take(MAX_ELEMENTS).map(one).collect();
    }
    // The external address of a gateway with port mappings is not an address of the Service.
    let external = view.annotation(UPNP_EXTERNAL_IP).unwrap_or_default();
    let external: Vec<IpAddr> = external.split(',').filter_map(|ip| ip.parse().ok()).collect();
    let own = |ingress: &&Ingress| ingress.ip.is_none_or(|ip| !external.contains(&ip));
    let status: Vec<&Ingress> = view.status.iter().filter(own).collect();
    let spec = view.load_balancer_ip.as_deref().map(|text| one(text.trim()));
    let differs = match &spec {
        Some(Wanted::Ip(address)) => {
            let mut same_family = status.iter().filter_map(|ingress| ingress.ip);
            same_family.any(|ip| Family::of(ip) == Family::of(*address) && ip != *address)
        }
        _ => false,
    };
    if !status.is_empty() && !differs {
        return status
            .iter()
            .filter_map(|ingress| {
                let name = || ingress.hostname.clone().map(Wanted::Name);
                ingress.ip.map(Wanted::Ip).or_else(name)
            })
            .collect();
    }
    spec.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The external address of a gateway.
    const EXTERNAL: &str = "100.200.0.1";

    fn addresses(annotation: Option<&str>, spec: Option<&str>, status: &[&str]) -> Vec<String> {
        let mut view = ServiceView { load_balancer_ip: spec.map(str::to_owned), ..ServiceView::default() };
        if let Some(text) = annotation {
            view.annotations.insert(LOAD_BALANCER_IPS.into(), text.into());
        }
        view.annotations.insert(UPNP_EXTERNAL_IP.into(), EXTERNAL.into());
        view.status = status
            .iter()
            .map(|text| match text.parse() {
                Ok(ip) => Ingress { ip: Some(ip), ..Ingress::default() },
                Err(_) => Ingress { hostname: Some((*text).into()), ..Ingress::default() },
            })
            .collect();
        let text = |wanted| match wanted {
            Wanted::Ip(ip) => ip.to_string(),
            Wanted::Name(name) => name,
        };
        wanted(&view).into_iter().map(text).collect()
    }

    #[test]
    fn a_list_is_read_up_to_a_limit() {
        let list: Vec<String> = (0..=MAX_ELEMENTS).map(|number| format!("{number}.example")).collect();
        assert_eq!(addresses(Some(&list.join(",")), None, &[]), list[..MAX_ELEMENTS]);
    }

    #[test]
    fn the_annotation_precedes_the_status_and_the_spec() {
        let none: [&str; 0] = [];
        assert_eq!(
            addresses(Some("192.0.2.1, fd00::1,"), Some("192.0.2.9"), &["192.0.2.8"]),
            ["192.0.2.1", "fd00::1"]
        );
        assert_eq!(addresses(Some("web.example.com"), None, &[]), ["web.example.com"]);
        assert_eq!(addresses(None, Some("192.0.2.9"), &["192.0.2.8"]), ["192.0.2.9"]);
        assert_eq!(addresses(None, Some("192.0.2.9"), &["192.0.2.9", "fd00::9"]), ["192.0.2.9", "fd00::9"]);
        assert_eq!(addresses(None, Some("192.0.2.9"), &["fd00::9"]), ["fd00::9"]);
        assert_eq!(addresses(None, None, &["192.0.2.8", "name.example"]), ["192.0.2.8", "name.example"]);
        assert_eq!(addresses(None, Some("192.0.2.9"), &[]), ["192.0.2.9"]);
        assert_eq!(addresses(None, None, &[]), none);
        assert_eq!(addresses(None, None, &["192.0.2.8", EXTERNAL]), ["192.0.2.8"]);
        assert_eq!(addresses(None, None, &[EXTERNAL]), none);
        let both = addresses(None, Some("192.0.2.9"), &["192.0.2.9", EXTERNAL, "fd00::9"]);
        assert_eq!(both, ["192.0.2.9", "fd00::9"]);
    }
}
