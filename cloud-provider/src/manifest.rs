//! The objects that run the provider in a cluster: pure.
//!
//! Names are those of the Go program, so that applying these objects replaces it. New are two replicas with an
//! election, probes, resources, a security context, and the least privileges.

use kube_vip::VERSION;
use kube_vip::config::Problem;
use kube_vip::manifest::{image, yaml};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-vip-cloud-provider";
const ACCOUNT: &str = "kube-vip-cloud-controller";
const ROLE: &str = "system:kube-vip-cloud-controller-role";
const BINDING: &str = "system:kube-vip-cloud-controller-binding";
const LEASES: &str = "coordination.k8s.io";
/// The Lease of the election, and the ConfigMap with the pools.
const LEASE: &str = "kube-vip-cloud-controller";
const CONFIG_MAP: &str = "kubevip";
const PORT: u16 = 10258;

/// All objects as YAML, optionally with `--dhcp-interface` and `--upnp`.
///
/// # Errors
/// If the image reference is invalid.
pub fn render(image: &str, dhcp_interface: Option<&str>, upnp: bool) -> Result<String, Problem> {
    let image = image::qualify(image, VERSION)?;
    yaml(&documents(&image, dhcp_interface, upnp))
        .map_err(|error| Problem::Combination(format!("cannot serialize the manifest: {error}")))
}

/// The file in manifests/: the objects with a comment at the top.
pub fn sample(text: &str) -> String {
    format!(
        "# The cloud provider: two replicas, one of which allocates addresses. Then apply a ConfigMap kube-system/kubevip.\n\
         # kube-vip-cloud-provider manifest\n{text}"
    )
}

fn documents(image: &str, dhcp_interface: Option<&str>, upnp: bool) -> Vec<Value> {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs });
    let named = |group: &str, resource: &str, name: &str, verbs: &[&str]| json!({ "apiGroups": [group], "resourceNames": [name], "resources": [resource], "verbs": verbs });
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": ACCOUNT, "namespace": NAMESPACE },
    });
    let everywhere = json!([
        rule("", &["services"], &["list", "patch", "watch"]),
        rule("", &["services/status"], &["patch"]),
        rule("", &["namespaces", "nodes"], &["list", "watch"]),
        rule("", &["events"], &["create", "patch"]),
    ]);
    let pools_and_lease = json!([
        named("", "configmaps", CONFIG_MAP, &["get", "list", "watch"]),
        rule(LEASES, &["leases"], &["create"]),
        named(LEASES, "leases", LEASE, &["get", "update", "watch"]),
    ]);
    let cluster_info = json!([named("", "configmaps", "cluster-info", &["list", "watch"])]);
    let roles = [
        role(None, &everywhere),
        role(Some(NAMESPACE), &pools_and_lease),
        role(Some("kube-public"), &cluster_info),
    ];
    let deployment = deployment(image, dhcp_interface, upnp);
    [account].into_iter().chain(roles.into_iter().flatten()).chain([deployment]).collect()
}

/// A role with these rules and its binding, in one namespace or for all.
fn role(namespace: Option<&str>, rules: &Value) -> [Value; 2] {
    let prefix = if namespace.is_some() { "" } else { "Cluster" };
    let object = |kind: &str, name: &str| {
        let mut metadata = json!({ "name": name });
        if let (Some(namespace), Some(metadata)) = (namespace, metadata.as_object_mut()) {
            metadata.insert("namespace".into(), json!(namespace));
        }
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{prefix}{kind}"), "metadata": metadata })
    };
    let (mut role, mut binding) = (object("Role", ROLE), object("RoleBinding", BINDING));
    if let (Some(role), Some(binding)) = (role.as_object_mut(), binding.as_object_mut()) {
        role.insert("rules".into(), rules.clone());
        let reference =
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": format!("{prefix}Role"), "name": ROLE });
        binding.insert("roleRef".into(), reference);
        let subject = json!({ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE });
        binding.insert("subjects".into(), json!([subject]));
    }
    [role, binding]
}

fn deployment(image: &str, dhcp_interface: Option<&str>, upnp: bool) -> Value {
    let mut deployment = plain_deployment(image);
    let args = deployment.pointer_mut("/spec/template/spec/containers/0/args").and_then(Value::as_array_mut);
    if let Some(args) = args {
        args.extend(upnp.then(|| json!("--upnp")));
    }
    let pod = deployment.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut);
    if let (Some(interface), Some(pod)) = (dhcp_interface, pod) {
        // DHCP clients use a packet socket on an interface of the host.
        pod.insert("hostNetwork".into(), json!(true));
        pod.insert("securityContext".into(), json!({ "seccompProfile": { "type": "RuntimeDefault" } }));
        if let Some(container) = pod.get_mut("containers").and_then(|all| all.get_mut(0)) {
            if let Some(args) = container.pointer_mut("/args").and_then(Value::as_array_mut) {
                args.push(json!(format!("--dhcp-interface={interface}")));
            }
            if let Some(capabilities) =
                container.pointer_mut("/securityContext/capabilities").and_then(Value::as_object_mut)
            {
                capabilities.insert("add".into(), json!(["NET_RAW"]));
            }
        }
    }
    deployment
}

fn plain_deployment(image: &str) -> Value {
    let labels = json!({ "app": "kube-vip", "component": NAME });
    let prefer = |label: &str| {
        json!({
            "preference": { "matchExpressions": [{ "key": label, "operator": "Exists" }] },
            "weight": 10,
        })
    };
    let tolerate = |label: &str| json!({ "effect": "NoSchedule", "key": label, "operator": "Exists" });
    let control_plane = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
    let probe = |path: &str| json!({ "httpGet": { "path": path, "port": "http" }, "periodSeconds": 10, "timeoutSeconds": 5 });
    let apart = json!([{
        "podAffinityTerm": { "labelSelector": { "matchLabels": labels }, "topologyKey": "kubernetes.io/hostname" },
        "weight": 100,
    }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "labels": labels, "name": NAME, "namespace": NAMESPACE },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "affinity": {
                        "nodeAffinity": {
                            "preferredDuringSchedulingIgnoredDuringExecution": control_plane.map(prefer),
                        },
                        "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": apart },
                    },
                    "containers": [{
                        "args": [format!("--leader-elect-resource-name={LEASE}")],
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "livenessProbe": probe("/healthz"),
                        "name": NAME,
                        "ports": [{ "containerPort": PORT, "name": "http" }],
                        "readinessProbe": probe("/readyz"),
                        "resources": {
                            "limits": { "memory": "128Mi" },
                            "requests": { "cpu": "10m", "memory": "32Mi" },
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": { "drop": ["ALL"] },
                            "readOnlyRootFilesystem": true,
                        },
                    }],
                    "priorityClassName": "system-cluster-critical",
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": 65532,
                        "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "serviceAccountName": ACCOUNT,
                    "tolerations": control_plane.map(tolerate),
                },
            },
        },
    })
}
