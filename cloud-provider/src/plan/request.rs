//! What a Service asks for: an address of its own choice, or one of ours.

use std::net::IpAddr;

use kube_vip::model::ServiceView;
use kube_vip::model::annotation::{ALLOCATED, IMPLEMENTATION, LOAD_BALANCER_IPS};

/// Begins the note that an annotation was copied from `spec.loadBalancerIP`; the address follows.
const COPIED: &str = "spec:";

/// What a Service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Any address. These were given to it before.
    Any(Vec<IpAddr>),
    /// What its user typed.
    Fixed {
        /// Addresses or names, separated by commas.
        text: String,
        /// Where it was typed.
        by: Field,
    },
}

/// Where users ask for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `kube-vip.io/loadbalancerIPs`.
    Annotation,
    /// `spec.loadBalancerIP`.
    Spec,
}

impl Field {
    /// Its name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Annotation => LOAD_BALANCER_IPS,
            Self::Spec => "spec.loadBalancerIP",
        }
    }
}

/// A list of addresses; none if an element is something else.
pub fn list(text: &str) -> Option<Vec<IpAddr>> {
    let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
    elements.map(|element| element.parse().ok()).collect()
}

/// The note for an annotation that was copied from `spec.loadBalancerIP`.
pub fn copied(text: &str) -> String {
    format!("{COPIED}{text}")
}

/// What the Service asks for.
///
/// The provider writes its own answers into the same fields in which users ask, so it also writes down what it
/// answered; a field that says something else was edited by hand. Without that note the answer is the Go program's
/// if it left its label and both fields agree, else the user's.
pub fn request(view: &ServiceView) -> Request {
    let annotation = view.annotation(LOAD_BALANCER_IPS);
    let spec = view.load_balancer_ip.as_deref().map(str::trim);
    let fixed = |text: &str, by: Field| Request::Fixed { text: text.to_owned(), by };
    let any = Request::Any(Vec::new());
    match view.annotation(ALLOCATED) {
        Some(note) if note.starts_with(COPIED) => {
            let copy = note.strip_prefix(COPIED);
            match (annotation, spec) {
                (Some(text), _) if Some(text) != copy => fixed(text, Field::Annotation),
                (_, Some(text)) => fixed(text, Field::Spec),
                (_, None) => any,
            }
        }
        Some(note) => {
            let answer = list(note).unwrap_or_default();
            let same = |text: &str| list(text).as_ref() == Some(&answer);
            match (annotation, spec) {
                (Some(text), _) if !same(text) => fixed(text, Field::Annotation),
                (_, Some(text)) if text.parse().ok() != answer.first().copied() => fixed(text, Field::Spec),
                (None, None) => any,
                _ => Request::Any(answer),
            }
        }
        None => match (annotation, spec) {
            (Some(text), Some(first)) => match list(text) {
                Some(answer) if is_labelled(view) && answer.first() == first.parse().ok().as_ref() => {
                    Request::Any(answer)
                }
                _ => fixed(text, Field::Annotation),
            },
            (Some(text), None) => fixed(text, Field::Annotation),
            (None, Some(text)) => fixed(text, Field::Spec),
            (None, None) => any,
        },
    }
}

/// A cloud provider, ours or the Go program, looks after this Service.
pub fn is_labelled(view: &ServiceView) -> bool {
    view.labels.get(IMPLEMENTATION.0).is_some_and(|value| value == IMPLEMENTATION.1)
}

/// Every address that a Service of somebody else has or names: it must not be given to others.
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

    fn seen(annotation: Option<&str>, spec: Option<&str>, note: Option<&str>, labelled: bool) -> Request {
        let mut view = ServiceView { load_balancer_ip: spec.map(str::to_owned), ..ServiceView::default() };
        for (name, value) in [(LOAD_BALANCER_IPS, annotation), (ALLOCATED, note)] {
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
    fn whose_words_they_are() {
        use Field::{Annotation, Spec};
        let (a, b, dual) = (Some("10.0.0.1"), Some("10.0.0.2"), Some("10.0.0.1,fd00::1"));
        let copy = Some("spec:10.0.0.1");
        let table = [
            // Nobody answered yet.
            ((None, None, None, false), any("")),
            ((a, None, None, false), by(Annotation, "10.0.0.1")),
            ((None, a, None, false), by(Spec, "10.0.0.1")),
            ((a, b, None, false), by(Annotation, "10.0.0.1")),
            ((Some(" "), None, None, false), any("")),
            // The Go program answered.
            ((a, a, None, true), any("10.0.0.1")),
            ((dual, a, None, true), any("10.0.0.1,fd00::1")),
            ((a, None, None, true), by(Annotation, "10.0.0.1")),
            ((a, b, None, true), by(Annotation, "10.0.0.1")),
            ((Some("vip.test"), a, None, true), by(Annotation, "vip.test")),
            // We did.
            ((a, a, a, true), any("10.0.0.1")),
            ((dual, a, dual, true), any("10.0.0.1,fd00::1")),
            ((None, a, dual, true), any("10.0.0.1,fd00::1")),
            ((dual, None, dual, true), any("10.0.0.1,fd00::1")),
            ((b, a, a, true), by(Annotation, "10.0.0.2")),
            ((a, b, a, true), by(Spec, "10.0.0.2")),
            ((None, None, a, true), any("")),
            // We copied what was asked for.
            ((a, a, copy, true), by(Spec, "10.0.0.1")),
            ((a, b, copy, true), by(Spec, "10.0.0.2")),
            ((b, a, copy, true), by(Annotation, "10.0.0.2")),
            ((a, None, copy, true), any("")),
            ((None, None, copy, true), any("")),
        ];
        for ((annotation, spec, note, labelled), expected) in table {
            assert_eq!(
                seen(annotation, spec, note, labelled),
                expected,
                "annotation {annotation:?}, spec {spec:?}, note {note:?}"
            );
        }
    }
}
