//! What a Service requests: particular addresses, or any from its pool.

use std::net::IpAddr;

use kube_vip::model::ServiceView;
use kube_vip::model::annotation::{ALLOCATED, IMPLEMENTATION, LOAD_BALANCER_IPS};

/// Prefix of the value of [`ALLOCATED`] when the addresses were copied from `spec.loadBalancerIP`; they follow it.
const COPIED: &str = "spec:";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Any address. The provider allocated these before.
    Any(Vec<IpAddr>),
    Fixed {
        /// Addresses or names, separated by commas.
        text: String,
        by: Field,
    },
}

/// The field in which a user requests an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `kube-vip.io/loadbalancerIPs`.
    Annotation,
    /// `spec.loadBalancerIP`.
    Spec,
}

impl Field {
    pub fn name(self) -> &'static str {
        match self {
            Self::Annotation => LOAD_BALANCER_IPS,
            Self::Spec => "spec.loadBalancerIP",
        }
    }
}

/// A list of addresses; None if an element is no address.
pub fn list(text: &str) -> Option<Vec<IpAddr>> {
    let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
    elements.map(|element| element.parse().ok()).collect()
}

/// The value of [`ALLOCATED`] when the addresses were copied from `spec.loadBalancerIP`.
pub fn copied(text: &str) -> String {
    format!("{COPIED}{text}")
}

/// Reads the request of a Service.
///
/// The provider writes its allocation into the fields in which users request addresses, and records it in
/// [`ALLOCATED`]: a field with another value was edited by a user. Without that record the value is an allocation of
/// the Go program if its label is set and both fields agree, else a user's request.
pub fn request(view: &ServiceView) -> Request {
    let annotation = view.annotation(LOAD_BALANCER_IPS);
    let spec = view.load_balancer_ip.as_deref().map(str::trim);
    let fixed = |text: &str, by: Field| Request::Fixed { text: text.to_owned(), by };
    let any = Request::Any(Vec::new());
    match view.annotation(ALLOCATED) {
        Some(record) if record.starts_with(COPIED) => {
            let copy = record.strip_prefix(COPIED);
            match (annotation, spec) {
                (Some(text), _) if Some(text) != copy => fixed(text, Field::Annotation),
                (_, Some(text)) => fixed(text, Field::Spec),
                (_, None) => any,
            }
        }
        Some(record) => {
            let allocated = list(record).unwrap_or_default();
            let same = |text: &str| list(text).as_ref() == Some(&allocated);
            match (annotation, spec) {
                (Some(text), _) if !same(text) => fixed(text, Field::Annotation),
                (_, Some(text)) if text.parse().ok() != allocated.first().copied() => {
                    fixed(text, Field::Spec)
                }
                (None, None) => any,
                _ => Request::Any(allocated),
            }
        }
        None => match (annotation, spec) {
            (Some(text), Some(first)) => match list(text) {
                Some(allocated) if is_labelled(view) && allocated.first() == first.parse().ok().as_ref() => {
                    Request::Any(allocated)
                }
                _ => fixed(text, Field::Annotation),
            },
            (Some(text), None) => fixed(text, Field::Annotation),
            (None, Some(text)) => fixed(text, Field::Spec),
            (None, None) => any,
        },
    }
}

/// Whether this provider or the Go program manages the Service.
pub fn is_labelled(view: &ServiceView) -> bool {
    view.labels.get(IMPLEMENTATION.0).is_some_and(|value| value == IMPLEMENTATION.1)
}

/// All addresses of a Service that another provider manages: none of them may be allocated.
pub fn mentioned(view: &ServiceView) -> Vec<IpAddr> {
    let annotation = view.annotation(LOAD_BALANCER_IPS).unwrap_or_default();
    let spec = view.load_balancer_ip.as_deref().unwrap_or_default();
    let texts = annotation.split(',').chain([spec]);
    texts
        .filter_map(|text| text.trim().parse().ok())
        .chain(view.status.iter().filter_map(|ingress| ingress.ip))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(annotation: Option<&str>, spec: Option<&str>, record: Option<&str>, labelled: bool) -> Request {
        let mut view = ServiceView { load_balancer_ip: spec.map(str::to_owned), ..ServiceView::default() };
        for (name, value) in [(LOAD_BALANCER_IPS, annotation), (ALLOCATED, record)] {
            if let Some(value) = value {
                view.annotations.insert(name.into(), value.into());
            }
        }
        if labelled {
            view.labels.insert(IMPLEMENTATION.0.into(), IMPLEMENTATION.1.into());
        }
        request(&view)
    }

    fn any(text: &str) -> Request {
        Request::Any(list(text).unwrap())
    }

    fn by(field: Field, text: &str) -> Request {
        Request::Fixed { text: text.into(), by: field }
    }

    #[test]
    fn requests_are_told_from_allocations() {
        use Field::{Annotation, Spec};
        let (a, b, dual) = (Some("10.0.0.1"), Some("10.0.0.2"), Some("10.0.0.1,fd00::1"));
        let copy = Some("spec:10.0.0.1");
        let table = [
            // Nothing is allocated yet.
            ((None, None, None, false), any("")),
            ((a, None, None, false), by(Annotation, "10.0.0.1")),
            ((None, a, None, false), by(Spec, "10.0.0.1")),
            ((a, b, None, false), by(Annotation, "10.0.0.1")),
            ((Some(" "), None, None, false), any("")),
            // Allocated by the Go program.
            ((a, a, None, true), any("10.0.0.1")),
            ((dual, a, None, true), any("10.0.0.1,fd00::1")),
            ((a, None, None, true), by(Annotation, "10.0.0.1")),
            ((a, b, None, true), by(Annotation, "10.0.0.1")),
            ((Some("vip.test"), a, None, true), by(Annotation, "vip.test")),
            // Allocated by this provider.
            ((a, a, a, true), any("10.0.0.1")),
            ((dual, a, dual, true), any("10.0.0.1,fd00::1")),
            ((None, a, dual, true), any("10.0.0.1,fd00::1")),
            ((dual, None, dual, true), any("10.0.0.1,fd00::1")),
            ((b, a, a, true), by(Annotation, "10.0.0.2")),
            ((a, b, a, true), by(Spec, "10.0.0.2")),
            ((None, None, a, true), any("")),
            // Copied from the spec.
            ((a, a, copy, true), by(Spec, "10.0.0.1")),
            ((a, b, copy, true), by(Spec, "10.0.0.2")),
            ((b, a, copy, true), by(Annotation, "10.0.0.2")),
            ((a, None, copy, true), any("")),
            ((None, None, copy, true), any("")),
        ];
        for ((annotation, spec, record, labelled), expected) in table {
            assert_eq!(
                parse(annotation, spec, record, labelled),
                expected,
                "annotation {annotation:?}, spec {spec:?}, record {record:?}"
            );
        }
    }
}
