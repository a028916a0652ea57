//! Which addresses a Service has, and which of them can be announced.

use std::net::IpAddr;

use crate::model::annotation::{LOAD_BALANCER_IPS, UPNP_EXTERNAL_IP};
use crate::model::service::Ingress;
use crate::model::{Family, ServiceView};

/// An address as it stands in a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// An address.
    Ip(IpAddr),
    /// A name to look up.
    Name(String),
}

/// The addresses of a Service, in the Go program's order of sources: the annotation; what the status has, unless
/// `spec.loadBalancerIP` says otherwise; `spec.loadBalancerIP`.
pub fn wanted(view: &ServiceView) -> Vec<Wanted> {
    let one = |text: &str| match text.parse() {
        Ok(address) => Wanted::Ip(address),
        Err(_) => Wanted::Name(text.to_owned()),
    };
    if let Some(text) = view.annotation(LOAD_BALANCER_IPS) {
        let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
        return elements.map(one).collect();
    }
    // That of a gateway whose ports lead here is none of the Service's own.
    let outside = view.annotation(UPNP_EXTERNAL_IP).unwrap_or_default();
    let outside: Vec<IpAddr> = outside.split(',').filter_map(|ip| ip.parse().ok()).collect();
    let own = |ingress: &&Ingress| ingress.ip.is_none_or(|ip| !outside.contains(&ip));
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

    /// Behind a gateway with one address outside.
    const OUTSIDE: &str = "100.200.0.1";

    fn seen(annotation: Option<&str>, spec: Option<&str>, status: &[&str]) -> Vec<String> {
        let mut view = ServiceView { load_balancer_ip: spec.map(str::to_owned), ..ServiceView::default() };
        if let Some(text) = annotation {
            view.annotations.insert(LOAD_BALANCER_IPS.into(), text.into());
        }
        view.annotations.insert(UPNP_EXTERNAL_IP.into(), OUTSIDE.into());
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
    fn sources_have_an_order() {
        let none: [&str; 0] = [];
        assert_eq!(
            seen(Some("192.0.2.1, fd00::1,"), Some("192.0.2.9"), &["192.0.2.8"]),
            ["192.0.2.1", "fd00::1"]
        );
        assert_eq!(seen(Some("web.example.com"), None, &[]), ["web.example.com"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &["192.0.2.8"]), ["192.0.2.9"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &["192.0.2.9", "fd00::9"]), ["192.0.2.9", "fd00::9"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &["fd00::9"]), ["fd00::9"]);
        assert_eq!(seen(None, None, &["192.0.2.8", "name.example"]), ["192.0.2.8", "name.example"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &[]), ["192.0.2.9"]);
        assert_eq!(seen(None, None, &[]), none);
        assert_eq!(seen(None, None, &["192.0.2.8", OUTSIDE]), ["192.0.2.8"]);
        assert_eq!(seen(None, None, &[OUTSIDE]), none);
        let both = seen(None, Some("192.0.2.9"), &["192.0.2.9", OUTSIDE, "fd00::9"]);
        assert_eq!(both, ["192.0.2.9", "fd00::9"]);
    }
}
