//! Pods, DaemonSets and RBAC objects for Kubernetes, from a configuration. Pure.
//!
//! The Go program's documents with keys in alphabetical order, and in addition a priority class, no privilege
//! escalation, a read-only root file system, the runtime's seccomp profile and a liveness probe.

pub mod chart;
mod env;
pub mod image;
pub mod rbac;
pub mod samples;
pub mod schema;

use serde_json::{Value, json};

use crate::VERSION;
use crate::cli::{Manifest, ManifestKind};
use crate::config::api::ADMIN_CONF;
use crate::config::value::Forwarding;
use crate::config::{Key, Problem, Raw, Values, check, check_for_roles};

/// The document, as YAML, and warnings. `own_image` is that of the program, if it runs from one.
///
/// # Errors
/// What is wrong with the configuration or the image: everything that the daemon refuses on any host.
pub fn render(
    manifest: &Manifest,
    own_image: Option<&str>,
    raw: &Raw,
) -> Result<(String, Vec<String>), Vec<Problem>> {
    let values = &Values::read(raw.clone())?;
    let (mut notes, mut problems) = (Vec::new(), Vec::new());
    match &manifest.kind {
        ManifestKind::Rbac { role, role_binding, .. } => {
            problems = check_for_roles(values);
            notes = rbac::left_out(values, *role, *role_binding);
        }
        ManifestKind::Pod | ManifestKind::DaemonSet { .. } => match check(raw.clone(), None) {
            Ok(config) => {
                notes = config.notes;
                notes.extend(deprecated_address(values));
                notes.extend(unusual_credentials(manifest, values));
            }
            Err(found) => problems = found,
        },
    }
    let image = image::choose("kube-vip", manifest.image.as_deref(), own_image, VERSION);
    let image = image.map_err(|problem| problems.push(problem));
    let (Ok((image, unnamed)), true) = (image, problems.is_empty()) else { return Err(problems) };
    notes.extend(unnamed.filter(|_| !matches!(manifest.kind, ManifestKind::Rbac { .. })));
    notes.extend(plain_secrets(raw));
    let documents = match &manifest.kind {
        ManifestKind::Pod => vec![pod(values, &image, manifest.in_cluster)],
        ManifestKind::DaemonSet { taint } => vec![daemon_set(values, &image, manifest.in_cluster, *taint)],
        ManifestKind::Rbac { role, role_binding, group } => {
            rbac::documents(values, *role, *role_binding, group.as_deref())
        }
    };
    let text = yaml(&documents)
        .map_err(|error| vec![Problem::Combination(format!("the manifest cannot be written: {error}"))])?;
    Ok((text, notes))
}

fn unusual_credentials(manifest: &Manifest, values: &Values) -> Option<String> {
    match (&manifest.kind, manifest.in_cluster) {
        (ManifestKind::Pod, true) => Some(
            "flag --inCluster is for a pod that kubectl creates: a static pod, of the folder /etc/kubernetes/manifests, has no \
             service account"
                .to_owned(),
        ),
        (ManifestKind::DaemonSet { .. }, false) if values.kubeconfig == ADMIN_CONF => Some(
            "without --inCluster each pod uses admin.conf of its node, which only nodes of the control plane have and which \
             permits everything: add --inCluster, and apply `kube-vip manifest rbac` with the same flags"
                .to_owned(),
        ),
        _ => None,
    }
}

/// The manifest is that of the Go program, which derives the prefix length from `address` alone.
fn deprecated_address(values: &Values) -> Option<String> {
    let deprecated =
        values.address.is_empty() && !values.vip_address.is_empty() && values.vip_subnet.is_empty();
    deprecated.then(|| {
        let given = values.raw.describe(Key::VipAddress);
        format!(
            "{given} is deprecated, and without vip_subnet the Go program does not start with it: use address"
        )
    })
}

/// Secrets that the manifest contains as plain text, each with what to use instead.
fn plain_secrets(raw: &Raw) -> Vec<String> {
    let peers = crate::config::bgp::peers(raw.text(Key::BgpPeers), &mut Vec::new()).0;
    let in_peers = peers.iter().any(|peer| peer.password.is_some());
    let secret = "a peer of bgp_peers with `passwordSecret`, the name of a Secret";
    let table = [
        (!raw.text(Key::BgpPeerPass).is_empty(), Key::BgpPeerPass, secret),
        (in_peers, Key::BgpPeers, secret),
        (!raw.text(Key::BgpProviderToken).is_empty(), Key::BgpProviderToken, "bgp_provider_token_file"),
    ];
    let plain = table.into_iter().filter(|(given, ..)| *given);
    plain
        .map(|(_, key, instead)| {
            format!("{} is a secret, and the manifest contains it as plain text: use {instead}", key.name())
        })
        .collect()
}

/// Documents as YAML; several are preceded by `---` lines.
///
/// # Errors
/// If one cannot be serialized.
pub fn yaml(documents: &[Value]) -> Result<String, serde_saphyr::ser::Error> {
    let separator = if documents.len() > 1 { "---\n" } else { "" };
    let mut text = String::new();
    for document in documents {
        text.push_str(separator);
        text.push_str(serde_saphyr::to_string(document)?.trim_end());
        text.push('\n');
    }
    Ok(text)
}

/// The namespace of the objects; `cp_namespace` is that of Leases.
fn namespace(values: &Values) -> &str {
    values.service_namespace.as_deref().unwrap_or("kube-system")
}

fn pod(values: &Values, image: &str, in_cluster: bool) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "kube-vip", "namespace": namespace(values) },
        "spec": pod_spec(values, image, in_cluster),
        "status": {},
    })
}

fn daemon_set(values: &Values, image: &str, in_cluster: bool, taint: bool) -> Value {
    const NAME: &str = "kube-vip-ds";
    let labels = json!({ "app.kubernetes.io/name": NAME, "app.kubernetes.io/version": VERSION });
    let mut spec = pod_spec(values, image, in_cluster);
    if taint {
        let tolerate = |effect: &str| json!({ "effect": effect, "operator": "Exists" });
        let exists = |key: &str| json!({ "matchExpressions": [{ "key": key, "operator": "Exists" }] });
        let affinity = json!({
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        exists("node-role.kubernetes.io/master"),
                        exists("node-role.kubernetes.io/control-plane"),
                    ],
                },
            },
        });
        set(&mut spec, "affinity", affinity);
        set(&mut spec, "tolerations", json!([tolerate("NoSchedule"), tolerate("NoExecute")]));
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "labels": labels, "name": NAME, "namespace": namespace(values) },
        "spec": {
            "selector": { "matchLabels": { "app.kubernetes.io/name": NAME } },
            "template": { "metadata": { "labels": labels }, "spec": spec },
            "updateStrategy": {},
        },
    })
}

fn pod_spec(values: &Values, image: &str, in_cluster: bool) -> Value {
    let mut container = json!({
        "args": ["manager"],
        "env": env::list(values),
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "name": "kube-vip",
        "resources": {},
        "securityContext": security_context(values),
    });
    let port = values.health_port;
    if port != 0 {
        let probe = json!({
            "httpGet": { "path": "/healthz", "port": port },
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        });
        set(&mut container, "livenessProbe", probe);
    }
    if !in_cluster {
        set(&mut container, "volumeMounts", json!([{ "mountPath": ADMIN_CONF, "name": "kubeconfig" }]));
    }
    let mut spec = json!({
        "containers": [container],
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
    });
    if in_cluster {
        set(&mut spec, "serviceAccountName", json!("kube-vip"));
    } else {
        let volume = json!({ "hostPath": { "path": values.kubeconfig }, "name": "kubeconfig" });
        set(&mut spec, "hostAliases", json!([{ "hostnames": ["kubernetes"], "ip": "127.0.0.1" }]));
        set(&mut spec, "volumes", json!([volume]));
    }
    spec
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

fn security_context(values: &Values) -> Value {
    // Masquerading needs sysctls that only a privileged container may write.
    if values.load_balancer && values.load_balancer_forwarding == Forwarding::Masquerade {
        return json!({ "privileged": true });
    }
    let mut capabilities = vec!["NET_ADMIN", "NET_RAW"];
    let listens = values.bgp && rbac::peers(values).iter().any(|peer| peer.passive);
    if listens && values.bgp_listen_port < 1024 {
        capabilities.push("NET_BIND_SERVICE");
    }
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "add": capabilities, "drop": ["ALL"] },
        "readOnlyRootFilesystem": true,
    })
}
