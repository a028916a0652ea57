//! Selection of Services.

use crate::config::ClassRule;
use crate::model::annotation::{FORCE_ELECTION, IGNORE};
use crate::model::{ServiceKey, ServiceView};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    pub namespace: Option<String>,
    pub class: ClassRule,
    /// Services may request an election of their own.
    pub on_demand: bool,
    /// With one election for all, Services with `externalTrafficPolicy: Local` have an election of their own.
    pub local_alone: bool,
}

impl Rules {
    /// Whether a Service is selected.
    pub fn covers(&self, key: &ServiceKey, view: &ServiceView) -> bool {
        self.concerns(key, view) && !is_ignored(view)
    }

    /// Whether a Service would be selected without the annotation that excludes it.
    pub fn ignores(&self, key: &ServiceKey, view: &ServiceView) -> bool {
        self.concerns(key, view) && is_ignored(view)
    }

    fn concerns(&self, key: &ServiceKey, view: &ServiceView) -> bool {
        let class = view.class.as_deref();
        let class_fits = match &self.class {
            ClassRule::NamedOrNone(name) => class.is_none_or(|class| class == name),
            ClassRule::Named(name) => class == Some(name.as_str()),
            ClassRule::None => class.is_none(),
        };
        view.load_balancer
            && !view.deleting
            && class_fits
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }

    /// Whether a Service requests an election of its own.
    pub fn elects_alone(&self, view: &ServiceView) -> bool {
        self.on_demand && view.annotation(FORCE_ELECTION) == Some("true")
    }
}

/// Whether a Service is excluded by its annotation.
pub fn is_ignored(view: &ServiceView) -> bool {
    view.annotation(IGNORE) == Some("true")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(class: &ClassRule, of: Option<&str>, change: impl FnOnce(&mut ServiceView)) -> bool {
        let rules = Rules { namespace: Some("shop".into()), class: class.clone(), ..Rules::default() };
        let mut view =
            ServiceView { load_balancer: true, class: of.map(str::to_owned), ..ServiceView::default() };
        change(&mut view);
        rules.covers(&ServiceKey { namespace: "shop".into(), name: "web".into() }, &view)
    }

    #[test]
    fn classes() {
        let ours = || "ours".to_owned();
        let table = [
            (ClassRule::NamedOrNone(ours()), [true, true, false]),
            (ClassRule::Named(ours()), [false, true, false]),
            (ClassRule::None, [true, false, false]),
        ];
        for (rule, expected) in table {
            let found = [None, Some("ours"), Some("theirs")].map(|class| covers(&rule, class, |_| {}));
            assert_eq!(found, expected, "{rule:?}");
        }
    }

    #[test]
    fn unselected_services() {
        let none = ClassRule::None;
        assert!(!covers(&none, None, |view| view.load_balancer = false));
        assert!(!covers(&none, None, |view| view.deleting = true));
        assert!(!covers(&none, None, |view| drop(view.annotations.insert(IGNORE.into(), "true".into()))));
        assert!(covers(&none, None, |view| drop(view.annotations.insert(IGNORE.into(), "false".into()))));
        let elsewhere = Rules { namespace: Some("a".into()), class: none, ..Rules::default() };
        let view = ServiceView { load_balancer: true, ..ServiceView::default() };
        assert!(!elsewhere.covers(&ServiceKey { namespace: "b".into(), name: "web".into() }, &view));
    }
}
