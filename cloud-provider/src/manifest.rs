//! The objects that run the provider in a cluster: pure.
//!
//! Names are those of the Go program, so that applying these objects replaces it. New are two replicas with an
//! election, probes, resources, a security context, and the least privileges.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use kube_vip::VERSION;
use kube_vip::config::Problem;
use kube_vip::manifest::{image, yaml};
use serde_json::{Value, json};

use crate::cli::{self, Command, Given, Options};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-vip-cloud-provider";
const ACCOUNT: &str = "kube-vip-cloud-controller";
const ROLE: &str = "system:kube-vip-cloud-controller-role";
const BINDING: &str = "system:kube-vip-cloud-controller-binding";
const LEASES: &str = "coordination.k8s.io";
/// JSON pointers into the Deployment.
const POD: &str = "/spec/template/spec";
const CONTAINER: &str = "/spec/template/spec/containers/0";
const LEASE_FLAG: &str = "leader-elect-resource-name";
/// Flags about credentials. Pods have a service account.
const CREDENTIALS: [&str; 2] = ["kubeconfig", "OutSideCluster"];

/// All objects as YAML, for pods with these options, and a warning about the image. `own_image` is that of the program, if it runs
/// from one.
///
/// # Errors
/// If the image reference is invalid, or a flag is of no use to a pod.
pub fn render(
    image: Option<&str>,
    own_image: Option<&str>,
    options: &Options,
    given: &Given,
) -> Result<(String, Option<String>), Problem> {
    let (image, unnamed) = image::choose(NAME, image, own_image, VERSION)?;
    if let Some((name, _)) = given.flags.iter().find(|(name, _)| CREDENTIALS.contains(&name.as_str())) {
        let text = format!("flag --{name}: the pods of the manifest have a service account: remove the flag");
        return Err(Problem::Combination(text));
    }
    let text = yaml(&documents(&image, options, given))
        .map_err(|error| Problem::Combination(format!("cannot serialize the manifest: {error}")))?;
    Ok((text, unnamed))
}

/// The file in manifests/: the objects with a comment at the top.
///
/// # Errors
/// What is wrong: a bug in this file.
pub fn sample() -> Result<String, String> {
    let cli = cli::parse([NAME, "manifest"].map(Into::into), &BTreeMap::new());
    let cli = cli.map_err(|error| format!("{error:?}"))?;
    let Command::Manifest { image } = &cli.command else { return Err("no manifest".to_owned()) };
    let rendered = render(image.as_deref(), None, &cli.options, &cli.given);
    let (text, _) = rendered.map_err(|problem| problem.to_string())?;
    Ok(format!(
        "# The cloud provider: two replicas, one of which allocates addresses. Then apply a ConfigMap kube-system/kubevip.\n\
         # kube-vip-cloud-provider manifest\n{text}"
    ))
}

fn documents(image: &str, options: &Options, given: &Given) -> Vec<Value> {
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
    let (namespace, name) = &options.config_map;
    let mut confined =
        vec![(namespace.as_str(), vec![named("", "configmaps", name, &["get", "list", "watch"])])];
    if let Some(election) = &options.election {
        let lease = named(LEASES, "leases", &election.lease.name, &["get", "update", "watch"]);
        grant(&mut confined, &election.lease.namespace, vec![rule(LEASES, &["leases"], &["create"]), lease]);
    }
    grant(&mut confined, "kube-public", vec![named("", "configmaps", "cluster-info", &["list", "watch"])]);
    let in_namespaces = confined.iter().map(|(namespace, rules)| role(Some(*namespace), &json!(rules)));
    let roles = [role(None, &everywhere)].into_iter().chain(in_namespaces);
    let deployment = deployment(image, options, given);
    [account].into_iter().chain(roles.flatten()).chain([deployment]).collect()
}

/// Adds rules for a namespace.
fn grant<'a>(confined: &mut Vec<(&'a str, Vec<Value>)>, namespace: &'a str, rules: Vec<Value>) {
    match confined.iter_mut().find(|(of, _)| *of == namespace) {
        Some((_, all)) => all.extend(rules),
        None => confined.push((namespace, rules)),
    }
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

/// The arguments of the container: what was given, and the Lease in any case.
fn arguments(options: &Options, given: &Given) -> Vec<String> {
    let lease = options.election.as_ref().map(|election| format!("--{LEASE_FLAG}={}", election.lease.name));
    let others = given.flags.iter().filter(|(name, _)| lease.is_none() || name != LEASE_FLAG);
    let others = others.map(|(name, value)| format!("--{name}={value}"));
    lease.clone().into_iter().chain(others).collect()
}

fn deployment(image: &str, options: &Options, given: &Given) -> Value {
    let mut deployment = plain_deployment(image);
    let mut set = |path: &str, key: &str, value: Value| {
        if let Some(object) = deployment.pointer_mut(path).and_then(Value::as_object_mut) {
            object.insert(key.to_owned(), value);
        }
    };
    set(CONTAINER, "args", json!(arguments(options, given)));
    if !given.variables.is_empty() {
        let variable = |(name, value): &(&str, String)| json!({ "name": name, "value": value });
        set(CONTAINER, "env", given.variables.iter().map(variable).collect());
    }
    if options.election.is_none() {
        // Without an election two processes would allocate the same addresses.
        set("/spec", "replicas", json!(1));
        set("/spec", "strategy", json!({ "type": "Recreate" }));
    }
    // The kubelet's probes come from outside.
    let address: Option<SocketAddr> = options.http.as_ref().and_then(|address| address.parse().ok());
    if let Some(port) = address.filter(|it| !it.ip().is_loopback()).map(|it| it.port()) {
        let probe = |path: &str| json!({ "httpGet": { "path": path, "port": "http" }, "periodSeconds": 10, "timeoutSeconds": 5 });
        set(CONTAINER, "livenessProbe", probe("/healthz"));
        set(CONTAINER, "ports", json!([{ "containerPort": port, "name": "http" }]));
        set(CONTAINER, "readinessProbe", probe("/readyz"));
    }
    if options.dhcp_interface.is_some() {
        // DHCP clients use a packet socket on an interface of the host, with a capability that only root has in a container.
        set(POD, "hostNetwork", json!(true));
        if options.election.is_some() {
            // The port is one of the host: there may be no room for a third pod.
            set("/spec", "strategy", json!({ "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 } }));
        }
        set(
            POD,
            "securityContext",
            json!({ "runAsUser": 0, "seccompProfile": { "type": "RuntimeDefault" } }),
        );
        let capabilities = format!("{CONTAINER}/securityContext/capabilities");
        set(&capabilities, "add", json!(["NET_RAW"]));
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
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "name": NAME,
                        "resources": {
                            "limits": { "memory": "512Mi" },
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
