//! The ServiceAccount and its permissions: the verbs that the program uses with these settings.
//!
//! The ClusterRole and its binding have the Go program's names. Rights in one namespace are in a Role there, of the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Value, json};

use super::namespace;
use crate::config::election::elects_control_plane;
use crate::config::services::elects_alone;
use crate::config::{Values, bgp};
use crate::model::LeaseName;

const ROLE: &str = "system:kube-vip-role";
const BINDING: &str = "system:kube-vip-binding";
/// Names of both with `--role` and `--rolebinding`.
const CONFINED: &str = "kube-vip";

/// API group and plural.
type Resource = (&'static str, &'static str);

const SERVICES: Resource = ("", "services");
const SERVICE_STATUS: Resource = ("", "services/status");
const ENDPOINTS: Resource = ("", "endpoints");
const NODES: Resource = ("", "nodes");
const EVENTS: Resource = ("", "events");
const SECRETS: Resource = ("", "secrets");
const CONFIG_MAPS: Resource = ("", "configmaps");
const LEASES: Resource = ("coordination.k8s.io", "leases");
const SLICES: Resource = ("discovery.k8s.io", "endpointslices");
const CIDRS: Resource = ("networking.k8s.io", "servicecidrs");
/// Resources without a namespace.
const CLUSTER_WIDE: [Resource; 2] = [NODES, CIDRS];

/// Verbs for a resource, or for its objects of one name.
type Rights = BTreeMap<(Resource, Option<String>), BTreeSet<&'static str>>;

#[derive(Default)]
struct Grants {
    wide: Rights,
    by_namespace: BTreeMap<String, Rights>,
}

impl Grants {
    /// In all namespaces, and for objects without one.
    fn everywhere(&mut self, resource: Resource, verbs: &[&'static str]) {
        self.wide.entry((resource, None)).or_default().extend(verbs);
    }

    /// In one namespace, optionally for the object of this name alone.
    fn within(&mut self, namespace: &str, resource: Resource, name: Option<&str>, verbs: &[&'static str]) {
        let rights = self.by_namespace.entry(namespace.to_owned()).or_default();
        rights.entry((resource, name.map(str::to_owned))).or_default().extend(verbs);
    }

    /// Everything that the program requests with these settings, in a pod of this namespace. Without a mode it suffices for each of
    /// them.
    fn of(values: &Values, own: &str) -> Self {
        let any = !values.control_plane && !values.services;
        let mut grants = Self::default();
        // The API servers of other nodes, and Events on the Node.
        grants.within("default", SLICES, Some("kubernetes"), &["watch"]);
        grants.within("default", EVENTS, None, &["create", "patch"]);
        if any || elects_control_plane(values) {
            let lease = lease(own, &values.lease_name);
            grants.within(&lease.namespace, LEASES, None, &["create"]);
            grants.within(&lease.namespace, LEASES, Some(&lease.name), &["get", "update", "watch"]);
        }
        if any || values.services {
            grants.add_services(values, own, any);
        }
        if values.node_labeling {
            grants.everywhere(NODES, &["get", "patch"]);
        }
        grants.add_peers(values);
        grants
    }

    fn add_services(&mut self, values: &Values, own: &str, any: bool) {
        const READ: &[&str] = &["list", "watch"];
        self.everywhere(SERVICES, READ);
        if any || values.enable_endpoints {
            self.everywhere(ENDPOINTS, READ);
        }
        if any || !values.enable_endpoints {
            self.everywhere(SLICES, READ);
        }
        self.everywhere(NODES, READ);
        self.everywhere(CIDRS, READ);
        self.everywhere(EVENTS, &["create", "patch"]);
        if !values.disable_service_updates {
            self.everywhere(SERVICE_STATUS, &["patch"]);
        }
        // The control plane's VIPs, which no Service may have.
        self.within("kube-public", CONFIG_MAPS, Some("cluster-info"), READ);
        let control_plane = lease(own, &values.lease_name);
        self.within(&control_plane.namespace, LEASES, Some(&control_plane.name), READ);
        if any || elects_alone(values) {
            self.everywhere(LEASES, &["create", "get", "list", "update", "watch"]);
        } else {
            let common = lease(own, &values.services_lease_name);
            self.within(&common.namespace, LEASES, None, &["create", "list", "watch"]);
            self.within(&common.namespace, LEASES, Some(&common.name), &["get", "update"]);
        }
    }

    /// Node annotations and labels that define peers, and Secrets with their passwords.
    fn add_peers(&mut self, values: &Values) {
        if depends_on_node(values) {
            self.everywhere(NODES, &["list", "watch"]);
        }
        for secret in peers(values).iter().filter_map(|peer| peer.password_secret.as_ref()) {
            self.within(&secret.namespace, SECRETS, Some(&secret.name), &["get"]);
        }
    }

    /// Without rights that others include. `confined` is the namespace that the wide rights are confined to.
    fn simplified(mut self, confined: Option<&str>) -> Self {
        if let Some(own) = confined.and_then(|own| self.by_namespace.remove(own)) {
            for (right, verbs) in own {
                self.wide.entry(right).or_default().extend(verbs);
            }
        }
        let wider = if confined.is_some() { Rights::new() } else { self.wide.clone() };
        let simplified =
            self.by_namespace.into_iter().map(|(namespace, rights)| (namespace, reduce(rights, &wider)));
        let by_namespace = simplified.filter(|(_, rights)| !rights.is_empty()).collect();
        Self { wide: reduce(self.wide, &Rights::new()), by_namespace }
    }
}

pub(super) fn peers(values: &Values) -> Vec<bgp::Peer> {
    bgp::peers(&values.bgp_peers, &mut Vec::new()).0
}

/// Whether annotations or labels of the Node define BGP peers.
fn depends_on_node(values: &Values) -> bool {
    values.bgp_annotations.is_some() || peers(values).iter().any(|peer| !peer.node_selector.is_empty())
}

/// Takes out what rights for all objects of the resource include, here or in `wider`.
fn reduce(rights: Rights, wider: &Rights) -> Rights {
    let all = rights.clone();
    let reduced = rights.into_iter().map(|((resource, name), mut verbs)| {
        let here = all.get(&(resource, None)).filter(|_| name.is_some());
        for included in here.into_iter().chain(wider.get(&(resource, None))) {
            verbs.retain(|verb| !included.contains(verb));
        }
        ((resource, name), verbs)
    });
    reduced.filter(|(_, verbs)| !verbs.is_empty()).collect()
}

/// A Lease; pods are in the namespace of the ServiceAccount.
fn lease(own: &str, given: &str) -> LeaseName {
    LeaseName::parse(own, given)
        .unwrap_or_else(|| LeaseName { namespace: own.to_owned(), name: given.to_owned() })
}

fn rules(rights: &Rights) -> Vec<Value> {
    let rule = |(((group, resource), name), verbs): (&(Resource, Option<String>), &BTreeSet<&str>)| {
        let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
        if let (Some(name), Some(rule)) = (name, rule.as_object_mut()) {
            rule.insert("resourceNames".into(), json!([name]));
        }
        rule
    };
    rights.iter().map(rule).collect()
}

/// The subject of a binding: the ServiceAccount, or a group.
fn subject(own: &str, group: Option<&str>) -> Value {
    match group {
        None => json!({ "kind": "ServiceAccount", "name": "kube-vip", "namespace": own }),
        Some(name) => json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name }),
    }
}

/// One verb for a resource, or for its object of one name; without a namespace in all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    pub namespace: Option<String>,
    pub group: &'static str,
    /// With the subresource, such as `services/status`.
    pub resource: &'static str,
    pub name: Option<String>,
    pub verb: &'static str,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, resource, name, verb, .. } = self;
        write!(f, "{verb} {resource}")?;
        name.iter().try_for_each(|name| write!(f, " {name}"))?;
        namespace.iter().try_for_each(|namespace| write!(f, " in {namespace}"))
    }
}

impl Right {
    /// Without it the program does not work; without others it lacks something.
    pub fn is_required(&self) -> bool {
        let watched =
            ["services", "endpoints", "endpointslices"].contains(&self.resource) && self.name.is_none();
        watched || ["leases", "secrets"].contains(&self.resource)
    }
}

/// What the program requests with these settings, in a pod of this namespace.
pub fn rights(values: &Values, own: Option<&str>) -> Vec<Right> {
    let grants = Grants::of(values, own.unwrap_or(&values.namespace));
    let grants = grants.simplified(values.service_namespace.as_deref());
    let one = |namespace: Option<&String>, rights: &Rights| -> Vec<Right> {
        let of = |((resource, name), verbs): (&(Resource, Option<String>), &BTreeSet<&'static str>)| {
            let cluster_wide = CLUSTER_WIDE.contains(resource);
            let right = |verb: &&'static str| Right {
                namespace: namespace.filter(|_| !cluster_wide).cloned(),
                group: resource.0,
                resource: resource.1,
                name: name.clone(),
                verb,
            };
            verbs.iter().map(right).collect::<Vec<_>>()
        };
        rights.iter().flat_map(of).collect()
    };
    let within = grants.by_namespace.iter().flat_map(|(namespace, rights)| one(Some(namespace), rights));
    one(values.service_namespace.as_ref(), &grants.wide).into_iter().chain(within).collect()
}

/// What the roles of `--role` and `--rolebinding` lack.
pub(super) fn left_out(values: &Values, role: bool, role_binding: bool) -> Vec<String> {
    let flag = match (role, role_binding) {
        (true, _) => "--role",
        (false, true) => "--rolebinding",
        (false, false) => return Vec::new(),
    };
    // Without a mode the role suffices for each of them.
    let services = values.services || !values.control_plane;
    let wide = Grants::of(values, namespace(values)).wide;
    let cluster = wide.iter().filter(|((resource, _), _)| CLUSTER_WIDE.contains(resource));
    let lacking: Vec<String> = cluster
        .map(|(((_, plural), _), verbs)| {
            format!("{plural} ({})", verbs.iter().copied().collect::<Vec<_>>().join(", "))
        })
        .collect();
    let lacks = |resource, verb| wide.get(&(resource, None)).is_some_and(|verbs| verbs.contains(verb));
    let consequences = [
        (
            services && lacks(NODES, "list"),
            "addresses of nodes are not refused to Services, which are announced up to ten seconds later",
        ),
        (lacks(CIDRS, "list"), "addresses of ServiceCIDRs are not refused to Services"),
        (lacks(NODES, "patch"), "nodes get no labels"),
        (depends_on_node(values), "BGP peers that depend on the Node are not used"),
    ];
    let consequences = consequences.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text);
    let mut notes = Vec::new();
    if !lacking.is_empty() {
        notes.push(format!(
            "flag {flag} leaves out rights for {}, which belong to no namespace: {}; omit the flag for a ClusterRole with them",
            lacking.join(" and "),
            consequences.collect::<Vec<_>>().join("; ")
        ));
    }
    if services && values.service_namespace.is_none() {
        notes.push(format!(
            "flag {flag} gives rights on Services of namespace {} alone: set svc_namespace to the namespace of the \
             Services, here and for the agents",
            namespace(values)
        ));
    }
    notes
}

/// ServiceAccount, roles and bindings. With a group, the roles and bindings are those of the group alone, and named after it: they
/// replace none of a DaemonSet.
pub(super) fn documents(values: &Values, role: bool, role_binding: bool, group: Option<&str>) -> Vec<Value> {
    let own = namespace(values);
    // A certificate belongs to a pod without a service account, whose Leases are in cp_namespace.
    let of_pod = group.map_or(own, |_| &values.namespace);
    let mut grants = Grants::of(values, of_pod).simplified((role || role_binding).then_some(own));
    if role {
        // A Role gives no rights for objects without a namespace.
        grants.wide.retain(|(resource, _), _| !CLUSTER_WIDE.contains(resource));
    }
    let in_namespace = |name: &str, namespace: &str| json!({ "name": name, "namespace": namespace });
    // The prefix keeps the names of other roles free, such as `admin`.
    let named = group.map(|group| format!("kube-vip:group:{group}"));
    let (role_of_all, binding_of_all, confined) =
        named.as_deref().map_or((ROLE, BINDING, CONFINED), |name| (name, name, name));
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": in_namespace("kube-vip", own) });
    let object = |kind: &str, metadata: Value| json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata });
    let with_rules = |kind: &str, metadata: Value, rights: &Rights| {
        let mut object = object(kind, metadata);
        super::set(&mut object, "rules", json!(rules(rights)));
        object
    };
    let binding = |kind: &str, metadata: Value, role_kind: &str, role_name: &str| {
        let mut object = object(kind, metadata);
        let reference =
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role_name });
        super::set(&mut object, "roleRef", reference);
        super::set(&mut object, "subjects", json!([subject(own, group)]));
        object
    };
    let (role_kind, role_name) = if role { ("Role", confined) } else { ("ClusterRole", role_of_all) };
    let role_meta = if role { in_namespace(role_name, own) } else { json!({ "name": role_name }) };
    let (binding_kind, binding_meta) = match role_binding {
        true => ("RoleBinding", in_namespace(confined, own)),
        false => ("ClusterRoleBinding", json!({ "name": binding_of_all })),
    };
    let main = [
        with_rules(role_kind, role_meta, &grants.wide),
        binding(binding_kind, binding_meta, role_kind, role_name),
    ];
    let others = grants.by_namespace.iter().flat_map(|(namespace, rights)| {
        [
            with_rules("Role", in_namespace(role_of_all, namespace), rights),
            binding("RoleBinding", in_namespace(binding_of_all, namespace), "Role", role_of_all),
        ]
    });
    let account = Some(account).filter(|_| group.is_none());
    account.into_iter().chain(main).chain(others).collect()
}
