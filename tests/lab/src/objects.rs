//! Kubernetes objects, as an administrator would handle them.

use std::error::Error;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Event, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1 as rbac;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use crate::rights::{Right, Role};
use crate::{Lab, LabError, Namespace, Result, audit, rights, wait_for};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Objects of a cluster, seen through the API server of one host.
#[derive(Clone, Copy)]
pub struct Objects<'a> {
    client: &'a Client,
    namespace: &'a Namespace,
}

/// A client, and the namespace it has to be used in.
pub struct Administrator {
    client: Client,
    host: usize,
}

impl Administrator {
    /// An administrator on one host.
    pub fn new(lab: &Lab, host: usize) -> Result<Self> {
        Ok(Self { client: lab.client(host)?, host })
    }

    /// Another user on one host, with the rights of a group.
    pub fn user(lab: &Lab, host: usize, user: &str, group: &str) -> Result<Self> {
        Ok(Self { client: lab.client_as(host, user, group)?, host })
    }

    /// The objects of the cluster.
    pub fn objects<'a>(&'a self, lab: &'a Lab) -> Objects<'a> {
        Objects { client: &self.client, namespace: &lab.host(self.host).namespace }
    }
}

/// With all causes: the outermost error alone does not name the reason.
fn wrong(error: kube::Error) -> LabError {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    LabError::Api(causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}")))
}

/// One request with its limit of time.
async fn limited<T>(call: impl Future<Output = std::result::Result<T, kube::Error>>) -> Result<T> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(wrong),
        Err(_) => Err(LabError::Timeout { what: "an API call".into(), seconds: REQUEST_TIMEOUT.as_secs() }),
    }
}

/// `namespace/name`, or a name alone: `default` for what has a namespace.
fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("default", name))
}

/// Of a group to the role of its name.
fn binding(group: &str, in_namespace: bool) -> Value {
    let kind = if in_namespace { "Role" } else { "ClusterRole" };
    json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": group },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group }],
    })
}

impl<'a> Objects<'a> {
    /// Seen by a client, inside the namespace.
    pub(crate) fn new(client: &'a Client, namespace: &'a Namespace) -> Self {
        Self { client, namespace }
    }

    fn api<K: Resource<DynamicType = ()>>(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        match K::plural(&()).as_ref() {
            "nodes"
            | "namespaces"
            | "clusterroles"
            | "clusterrolebindings"
            | "certificatesigningrequests"
            | "customresourcedefinitions"
            | "validatingadmissionpolicies"
            | "validatingadmissionpolicybindings" => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), namespace, &resource),
        }
    }

    fn block_on<T: Send + 'static>(
        &self,
        call: impl Future<Output = std::result::Result<T, kube::Error>> + Send + 'static,
    ) -> Result<T> {
        self.namespace.block_on(limited(call))
    }

    /// Create an object. That it is there already is no error; `metadata.name` is filled in.
    pub fn create<K: Resource<DynamicType = ()>>(&self, name: &str, object: Value) -> Result<()> {
        let (namespace, name) = split(name);
        let api = self.api::<K>(namespace);
        let mut object: DynamicObject =
            serde_json::from_value(object).map_err(|error| LabError::Api(error.to_string()))?;
        object.metadata.name = Some(name.to_owned());
        self.block_on(async move {
            match api.create(&PostParams::default(), &object).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                result => result.map(drop),
            }
        })
    }

    /// Give a group the rights of all roles in a manifest, and wait until they are in effect. `settings` describes whose
    /// roles they are.
    pub fn grant(&self, group: &str, settings: &str, manifest: &str) -> Result<()> {
        let roles = rights::roles(manifest)?;
        rights::register(group, settings, &roles);
        for Role { namespace, rules } in &roles {
            let (rules, binding) = (json!({ "rules": rules }), binding(group, namespace.is_some()));
            match namespace {
                None => {
                    self.create::<rbac::ClusterRole>(group, rules)?;
                    self.create::<rbac::ClusterRoleBinding>(group, binding)?;
                }
                Some(namespace) => {
                    let name = format!("{namespace}/{group}");
                    self.create::<rbac::Role>(&name, rules)?;
                    self.create::<rbac::RoleBinding>(&name, binding)?;
                }
            }
        }
        // An API server learns of roles and bindings by watches of its own. One right of each role shows that it has both.
        let mut one_each = roles.iter().filter_map(|role| role.rights().pop_last());
        one_each.try_for_each(|right| self.wait_until_permitted(group, &right))
    }

    /// Take these rights away. The roles stay, for the next `grant`.
    pub fn revoke(&self, group: &str, manifest: &str) -> Result<()> {
        rights::roles(manifest)?.iter().try_for_each(|role| match &role.namespace {
            None => self.delete::<rbac::ClusterRoleBinding>(group),
            Some(namespace) => self.delete::<rbac::RoleBinding>(&format!("{namespace}/{group}")),
        })
    }

    fn wait_until_permitted(&self, group: &str, right: &Right) -> Result<()> {
        let (resource, subresource) = right.resource.split_once('/').unwrap_or((&right.resource, ""));
        let review: SubjectAccessReview = serde_json::from_value(json!({ "spec": {
            "user": audit::USER,
            "groups": [group],
            "resourceAttributes": {
                "namespace": right.namespace, "group": right.group, "resource": resource, "subresource": subresource,
                "name": right.name, "verb": right.verb,
            },
        }}))
        .map_err(|error| LabError::Api(error.to_string()))?;
        wait_for(&format!("the right `{right}` to be in effect"), 30, || {
            let (api, review) = (Api::<SubjectAccessReview>::all(self.client.clone()), review.clone());
            let reviewed = self.block_on(async move { api.create(&PostParams::default(), &review).await });
            reviewed.ok()?.status.filter(|status| status.allowed).map(drop)
        })
    }

    /// Merge a change into an object.
    pub fn patch<K: Resource<DynamicType = ()>>(&self, name: &str, change: Value) -> Result<()> {
        self.merge::<K>(name, change, false)
    }

    /// Merge a change into an object's status.
    pub fn patch_status<K: Resource<DynamicType = ()>>(&self, name: &str, change: Value) -> Result<()> {
        self.merge::<K>(name, change, true)
    }

    fn merge<K: Resource<DynamicType = ()>>(&self, name: &str, change: Value, status: bool) -> Result<()> {
        let (namespace, name) = split(name);
        let (api, name) = (self.api::<K>(namespace), name.to_owned());
        self.block_on(async move {
            let (params, change) = (PatchParams::default(), Patch::Merge(change));
            let changed = if status {
                api.patch_status(&name, &params, &change).await
            } else {
                api.patch(&name, &params, &change).await
            };
            changed.map(drop)
        })
    }

    /// Delete an object. That there is none is no error.
    pub fn delete<K: Resource<DynamicType = ()>>(&self, name: &str) -> Result<()> {
        let (namespace, name) = split(name);
        let (api, name) = (self.api::<K>(namespace), name.to_owned());
        self.block_on(async move {
            match api.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                result => result.map(drop),
            }
        })
    }

    /// Delete all Events of `default`.
    pub fn delete_events(&self) -> Result<()> {
        let api = Api::<Event>::namespaced(self.client.clone(), "default");
        self.block_on(async move {
            api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.map(drop)
        })
    }

    /// An object, if there is one.
    pub fn get<K>(&self, name: &str) -> Result<Option<K>>
    where
        K: Resource<DynamicType = ()> + serde::de::DeserializeOwned,
    {
        let (namespace, name) = split(name);
        let (api, name) = (self.api::<K>(namespace), name.to_owned());
        let found = self.block_on(async move { api.get_opt(&name).await })?;
        let typed = found.map(|object| object.try_parse::<K>());
        typed.transpose().map_err(|error| LabError::Api(error.to_string()))
    }

    /// All Services of a namespace.
    pub fn services(&self, namespace: &str) -> Result<Vec<Service>> {
        let api = Api::<Service>::namespaced(self.client.clone(), namespace);
        self.block_on(async move { api.list(&ListParams::default()).await.map(|list| list.items) })
    }

    /// The Leases of `default`, and those of kube-vip in `kube-system`.
    pub fn leases(&self) -> Result<Vec<String>> {
        use k8s_openapi::api::coordination::v1::Lease;
        let api = Api::<Lease>::all(self.client.clone());
        let all =
            self.block_on(async move { api.list(&ListParams::default()).await.map(|list| list.items) })?;
        let names = all.into_iter().filter_map(|lease| {
            let (namespace, name) = (lease.metadata.namespace?, lease.metadata.name?);
            let ours = namespace == "default" || name.starts_with("plndr-");
            ours.then(|| format!("{namespace}/{name}"))
        });
        Ok(names.collect())
    }

    /// The Events of an object that kube-vip and its provider wrote: reasons and messages, oldest first.
    /// (The API server writes some as well, such as `ClusterIPNotAllocated`.)
    pub fn events(&self, name: &str) -> Result<Vec<(String, String)>> {
        let (namespace, name) = split(name);
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let mut events = self.block_on(async move { api.list(&params).await.map(|list| list.items) })?;
        let component = |event: &Event| event.source.as_ref().and_then(|source| source.component.clone());
        let ours = |name: String| ["kube-vip", "service-controller"].contains(&name.as_str());
        events.retain(|event| component(event).is_some_and(ours));
        events.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        let parts = |event: Event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        Ok(events.into_iter().map(parts).collect())
    }

    /// A token of a ServiceAccount, as its pods have.
    pub fn token(&self, namespace: &str, name: &str) -> Result<String> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let name = name.to_owned();
        let request = TokenRequest::default();
        let answer = self.block_on(async move {
            accounts.create_token_request(&name, &PostParams::default(), &request).await
        })?;
        answer.status.map(|status| status.token).ok_or_else(|| LabError::Api("there is no token".to_owned()))
    }

    /// The answer to a GET of any path.
    pub fn raw(&self, path: &str) -> Result<String> {
        let client = self.client.clone();
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|error| LabError::Api(error.to_string()))?;
        self.block_on(async move { client.request_text(request).await })
    }

    /// Create many Services of type LoadBalancer at once: `name-0`, `name-1`, … in `default`.
    pub fn create_services(&self, name: &str, count: usize, spec: &Value) -> Result<()> {
        let one = |number| json!({ "metadata": { "name": format!("{name}-{number}") }, "spec": spec });
        self.create_all::<Service>((0..count).map(one).collect())
    }

    /// Create many objects at once, in `default`.
    pub fn create_all<K: Resource<DynamicType = ()>>(&self, objects: Vec<Value>) -> Result<()> {
        use futures::StreamExt;
        let api = self.api::<K>("default");
        let objects: std::result::Result<Vec<DynamicObject>, _> =
            objects.into_iter().map(serde_json::from_value).collect();
        let objects = objects.map_err(|error| LabError::Api(error.to_string()))?;
        self.namespace.block_on(async move {
            let params = PostParams::default();
            let creation = |object: DynamicObject| {
                let (api, params) = (&api, &params);
                limited(async move { api.create(params, &object).await })
            };
            let created: Vec<_> =
                futures::stream::iter(objects).map(creation).buffer_unordered(16).collect().await;
            created.into_iter().try_for_each(|result| result.map(drop))
        })
    }
}

/// The spec of a Service of type LoadBalancer with one port and no node ports.
pub fn load_balancer(port: u16) -> Value {
    json!({
        "type": "LoadBalancer",
        "allocateLoadBalancerNodePorts": false,
        "selector": { "app": "web" },
        "ports": [{ "port": port, "protocol": "TCP" }],
    })
}

/// An annotation of a Service.
pub fn annotation(service: &Service, name: &str) -> String {
    let annotations = service.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(name)).cloned().unwrap_or_default()
}
