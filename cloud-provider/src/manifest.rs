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
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    let read = ["get", "list", "watch"];
    vec![
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": { "name": ACCOUNT, "namespace": NAMESPACE },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": ROLE },
            "rules": [
                rule(&["coordination.k8s.io"], &["leases"], &["create", "get", "list", "update", "watch"]),
                rule(&[""], &["services"], &["get", "list", "patch", "watch"]),
                rule(&[""], &["services/status"], &["patch"]),
                rule(&[""], &["configmaps", "namespaces", "nodes"], &read),
                rule(&[""], &["events"], &["create", "patch"]),
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": BINDING },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE },
            "subjects": [{ "kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE }],
        }),
        deployment(image, dhcp_interface, upnp),
    ]
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
                        "args": ["--leader-elect-resource-name=kube-vip-cloud-controller"],
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
