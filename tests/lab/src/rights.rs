//! Rights of programs under test: those of the roles in their own manifests, and no others.
//!
//! The API servers' authorizer rejects a request that the roles do not permit. Many programs survive that without a
//! trial failing, and no authorizer reports what is never used. So the requests in the audit logs are compared with the roles,
//! both ways: a request beyond them fails its trial, a right that no trial of a whole run uses fails the run.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

use crate::audit::AuditEvent;
use crate::trials::Outcome;
use crate::{Lab, LabError, Result};

/// A Role or ClusterRole of a manifest.
pub(crate) struct Role {
    /// None: a ClusterRole.
    pub(crate) namespace: Option<String>,
    pub(crate) rules: Value,
}

fn documents(manifest: &str) -> Result<Vec<Value>> {
    let texts = manifest.split("---\n").filter(|document| !document.trim().is_empty());
    texts.map(|text| serde_saphyr::from_str(text).map_err(|error| LabError::Api(error.to_string()))).collect()
}

fn namespace(object: &Value) -> Option<String> {
    object.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned)
}

/// The roles in a manifest.
pub(crate) fn roles(manifest: &str) -> Result<Vec<Role>> {
    let documents = documents(manifest)?;
    let role = |object: &Value| {
        let rules = object.get("rules")?.clone();
        Some(Role { namespace: namespace(object), rules })
    };
    Ok(documents.iter().filter_map(role).collect())
}

/// The namespace of the ServiceAccount in a manifest.
pub(crate) fn account_namespace(manifest: &str) -> Result<String> {
    let documents = documents(manifest)?;
    let account =
        documents.iter().find(|object| object.get("kind").is_some_and(|kind| kind == "ServiceAccount"));
    account.and_then(namespace).ok_or_else(|| LabError::Api("the manifest has no ServiceAccount".into()))
}

/// One verb for one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    /// None: in all namespaces, and for objects without one.
    pub(crate) namespace: Option<String>,
    pub(crate) group: String,
    /// With its subresource.
    pub(crate) resource: String,
    /// None: objects of all names.
    pub(crate) name: Option<String>,
    pub(crate) verb: String,
}

impl Role {
    pub(crate) fn rights(&self) -> BTreeSet<Right> {
        fn texts<'a>(rule: &'a Value, key: &str) -> Vec<&'a str> {
            rule.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
        }
        let mut rights = BTreeSet::new();
        for rule in self.rules.as_array().into_iter().flatten() {
            let names = match texts(rule, "resourceNames") {
                names if names.is_empty() => vec![None],
                names => names.into_iter().map(Some).collect(),
            };
            for group in texts(rule, "apiGroups") {
                for resource in texts(rule, "resources") {
                    for name in &names {
                        rights.extend(texts(rule, "verbs").into_iter().map(|verb| Right {
                            namespace: self.namespace.clone(),
                            group: group.to_owned(),
                            resource: resource.to_owned(),
                            name: name.map(str::to_owned),
                            verb: verb.to_owned(),
                        }));
                    }
                }
            }
        }
        rights
    }
}

/// A request for a resource, as an API server authorizes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) verb: String,
    pub(crate) group: String,
    /// With its subresource.
    pub(crate) resource: String,
    /// Empty for all namespaces, and for objects without one.
    pub(crate) namespace: String,
    /// Empty for all objects. A watch of one object has its name.
    pub(crate) name: String,
}

impl Right {
    /// Whether RBAC authorizes a request by this right.
    fn permits(&self, request: &Request) -> bool {
        // The name of an object that is created is in the body, which authorization does not read.
        let named = |name: &String| request.verb != "create" && *name == request.name;
        (&self.verb, &self.group, &self.resource) == (&request.verb, &request.group, &request.resource)
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace)
            && self.name.as_ref().is_none_or(named)
    }
}

/// As the tables of exceptions have it: `kube-system leases.coordination.k8s.io=plndr-cp-lock: update`.
impl Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_deref().unwrap_or("*");
        write!(f, "{namespace} {}", qualified(&self.resource, &self.group))?;
        self.name.iter().try_for_each(|name| write!(f, "={name}"))?;
        write!(f, ": {}", self.verb)
    }
}

impl Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resource = qualified(&self.resource, &self.group);
        write!(f, "{} {resource} `{}/{}`", self.verb, self.namespace, self.name)
    }
}

fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// Differences that have a reason.
#[derive(Debug, Clone, Copy)]
pub struct Exceptions {
    /// Verb and resource of requests that no role permits, and why a program sends them.
    pub not_permitted: &'static [(&'static str, &'static str)],
    /// Rights that no trial uses, and why a role has them.
    pub unused: &'static [(&'static str, &'static str)],
}

impl Exceptions {
    fn permit(&self, request: &Request) -> bool {
        let kind = format!("{} {}", request.verb, qualified(&request.resource, &request.group));
        self.not_permitted.iter().any(|(excepted, _)| *excepted == kind)
    }

    fn excuse(&self, right: &Right) -> bool {
        let right = right.to_string();
        self.unused.iter().any(|(excepted, _)| *excepted == right)
    }
}

/// What groups of users may do by their roles, and what they have done.
struct Comparison {
    granted: BTreeMap<String, Granted>,
    /// By any group. A trial of one mode need not do everything that the mode can: an Event of each kind is patched when it
    /// is repeated, a Lease is created by the first of several agents.
    used: BTreeSet<Right>,
}

struct Granted {
    /// Of the first program with these roles, for messages.
    settings: String,
    rights: BTreeSet<Right>,
}

impl Comparison {
    const fn new() -> Self {
        Self { granted: BTreeMap::new(), used: BTreeSet::new() }
    }

    fn register(&mut self, group: &str, settings: &str, roles: &[Role]) {
        self.granted.entry(group.to_owned()).or_insert_with(|| Granted {
            settings: settings.to_owned(),
            rights: roles.iter().flat_map(Role::rights).collect(),
        });
    }

    /// Notes a request of a user in these groups. An error if their roles do not permit it. Groups without roles of a
    /// manifest are not compared.
    fn record(&mut self, groups: &[String], request: &Request) -> std::result::Result<(), String> {
        let Some(granted) = groups.iter().find_map(|group| self.granted.get(group)) else { return Ok(()) };
        let mut permitting = granted.rights.iter().filter(|right| right.permits(request)).peekable();
        if permitting.peek().is_none() {
            return Err(format!("{request}, with {}", granted.settings));
        }
        self.used.extend(permitting.cloned());
        Ok(())
    }

    /// Rights that were not used, each with settings whose role has it.
    fn unused(&self) -> BTreeMap<&Right, &str> {
        let all = self
            .granted
            .values()
            .flat_map(|granted| granted.rights.iter().map(|right| (right, granted.settings.as_str())));
        all.filter(|(right, _)| !self.used.contains(*right)).collect()
    }
}

/// Those of this process. Without them nothing is compared.
static EXCEPTIONS: OnceLock<Exceptions> = OnceLock::new();
/// Over all labs of this process.
static COMPARISON: Mutex<Comparison> = Mutex::new(Comparison::new());

thread_local! {
    /// Requests of the trial on this thread that no role permits.
    static NOT_PERMITTED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

fn comparison() -> MutexGuard<'static, Comparison> {
    COMPARISON.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compare from now on.
pub(crate) fn compare_with(exceptions: Exceptions) {
    EXCEPTIONS.get_or_init(|| exceptions);
}

/// Whether requests are compared: then API servers write audit logs.
pub(crate) fn are_compared() -> bool {
    EXCEPTIONS.get().is_some()
}

/// A group of users has these roles, in some lab.
pub(crate) fn register(group: &str, settings: &str, roles: &[Role]) {
    comparison().register(group, settings, roles);
}

/// Compare what the audit logs of a lab contain since the last call. The trial on this thread has used the lab.
pub(crate) fn compare(lab: &Lab) {
    let Some(exceptions) = EXCEPTIONS.get() else { return };
    let mut comparison = comparison();
    for AuditEvent { groups, request } in lab.hosts.iter().flat_map(|host| host.audit.read()) {
        if let Err(text) = comparison.record(&groups, &request)
            && !exceptions.permit(&request)
        {
            NOT_PERMITTED.with_borrow_mut(|all| all.insert(text));
        }
    }
}

fn list(what: &str, lines: impl Iterator<Item = String>) -> Outcome {
    let lines: String = lines.map(|line| format!("\n  {line}")).collect();
    if lines.is_empty() { Ok(()) } else { Err(format!("{what}:{lines}").into()) }
}

/// Fails if the trial on this thread had a request that no role permits.
pub(crate) fn conclude_trial() -> Outcome {
    let requests = NOT_PERMITTED.take();
    list("requests that the roles of the program's own manifest do not permit", requests.into_iter())
}

/// Fails if a right was used by no trial. Only a run of all trials shows that.
pub(crate) fn conclude_run() -> Outcome {
    let Some(exceptions) = EXCEPTIONS.get() else { return Ok(()) };
    let comparison = comparison();
    let unused = comparison.unused().into_iter().filter(|(right, _)| !exceptions.excuse(right));
    let lines = unused.map(|(right, settings)| format!("{right}, with {settings}"));
    list("rights that the roles of a manifest have, and no trial uses", lines)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As in an audit log: verb, resource with subresource and group, namespace, name.
    fn request(text: &str) -> Request {
        let words: Vec<&str> = text.split(' ').collect();
        let [verb, qualified, namespace, name] = words[..] else { panic!("{text}") };
        let (resource, group) = qualified.split_once('.').unwrap_or((qualified, ""));
        let [verb, group, resource] = [verb, group, resource].map(str::to_owned);
        let [namespace, name] = [namespace, name].map(|word| word.trim_matches('-').to_owned());
        Request { verb, group, resource, namespace, name }
    }

    const MANIFEST: &str = r#"# A comment.
---
kind: ServiceAccount
metadata: { name: kube-vip, namespace: kube-system }
---
kind: ClusterRole
metadata: { name: wide }
rules:
- { apiGroups: [""], resources: [services, nodes], verbs: [list, watch] }
- { apiGroups: [""], resources: [services/status], verbs: [patch] }
---
kind: Role
metadata: { name: narrow, namespace: kube-system }
rules:
- { apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create] }
- { apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [lock, lock-2], verbs: [update, watch] }
"#;

    #[test]
    fn a_request_is_permitted_by_verb_resource_namespace_and_name() {
        let table = [
            ("list services - -", true),
            ("list services default -", true),
            ("list nodes - -", true),
            ("patch services/status default web", true),
            ("create leases.coordination.k8s.io kube-system -", true),
            // An audit log has the name from the body.
            ("create leases.coordination.k8s.io kube-system other", true),
            ("update leases.coordination.k8s.io kube-system lock-2", true),
            ("watch leases.coordination.k8s.io kube-system lock", true),
            // Verb, resource, subresource, group, namespace and name.
            ("get services default web", false),
            ("list endpoints - -", false),
            ("patch services default web", false),
            ("create leases kube-system -", false),
            ("create leases.coordination.k8s.io default -", false),
            ("watch leases.coordination.k8s.io - -", false),
            ("watch leases.coordination.k8s.io kube-system -", false),
            ("update leases.coordination.k8s.io kube-system other", false),
        ];
        for (text, permitted) in table {
            let mut comparison = Comparison::new();
            comparison.register("agents", "settings", &roles(MANIFEST).unwrap());
            let groups = ["system:authenticated", "agents"].map(str::to_owned);
            assert_eq!(comparison.record(&groups, &request(text)).is_ok(), permitted, "{text}");
            assert_eq!(comparison.record(&groups[..1], &request(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_right_is_unused_until_a_group_that_has_it_sends_a_request() {
        let all = [
            "* nodes: list",
            "* nodes: watch",
            "* services/status: patch",
            "* services: list",
            "* services: watch",
            "kube-system leases.coordination.k8s.io: create",
            "kube-system leases.coordination.k8s.io=lock: update",
            "kube-system leases.coordination.k8s.io=lock: watch",
            "kube-system leases.coordination.k8s.io=lock-2: update",
            "kube-system leases.coordination.k8s.io=lock-2: watch",
        ];
        let unused = |comparison: &Comparison| -> BTreeSet<String> {
            comparison.unused().into_keys().map(Right::to_string).collect()
        };
        let mut comparison = Comparison::new();
        for group in ["first", "second"] {
            comparison.register(group, "a=b", &roles(MANIFEST).unwrap());
        }
        comparison.record(&["third".into()], &request("list nodes - -")).unwrap();
        assert_eq!(unused(&comparison), all.map(str::to_owned).into());
        for text in ["list services - -", "watch leases.coordination.k8s.io kube-system lock"] {
            comparison.record(&["first".into()], &request(text)).unwrap();
        }
        // Registered again by another trial: what was used stays used.
        comparison.register("first", "a=b", &roles(MANIFEST).unwrap());
        let left = all.into_iter().enumerate().filter(|(index, _)| ![3, 7].contains(index));
        assert_eq!(unused(&comparison), left.map(|(_, right)| right.to_owned()).collect());
    }

    #[test]
    fn exceptions_are_for_one_kind_of_request_and_for_one_right() {
        let exceptions = Exceptions {
            not_permitted: &[("get leases.coordination.k8s.io", "a reason")],
            unused: &[("* nodes: list", "a reason")],
        };
        assert!(exceptions.permit(&request("get leases.coordination.k8s.io kube-system lock")));
        assert!(!exceptions.permit(&request("get leases kube-system lock")));
        let wide = Role {
            namespace: None,
            rules: json!([{ "apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"] }]),
        };
        let excused: Vec<bool> = wide.rights().iter().map(|right| exceptions.excuse(right)).collect();
        assert_eq!(excused, [true, false]);
    }
}
