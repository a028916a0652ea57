//! The ServiceAccount and its permissions: those of the Go program, Events, and patches of a Service's status.

use serde_json::{Value, json};

/// ServiceAccount, role and binding. `secrets` are the names of Secrets to read.
pub(super) fn documents(namespace: &str, role: bool, role_binding: bool, secrets: &[String]) -> Vec<Value> {
    let in_namespace = |name: &str| json!({ "name": name, "namespace": namespace });
    let (role_kind, role_meta) = match role {
        true => ("Role", in_namespace("kube-vip")),
        false => ("ClusterRole", json!({ "name": "system:kube-vip-role" })),
    };
    let (binding_kind, binding_meta) = match role_binding {
        true => ("RoleBinding", in_namespace("kube-vip")),
        false => ("ClusterRoleBinding", json!({ "name": "system:kube-vip-binding" })),
    };
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    let mut rules = vec![
        rule(&[""], &["services/status"], &["update", "patch"]),
        rule(&[""], &["services", "endpoints"], &["list", "get", "watch", "update"]),
        rule(&[""], &["nodes"], &["list", "get", "watch", "update", "patch"]),
        rule(&["coordination.k8s.io"], &["leases"], &["list", "get", "watch", "update", "create"]),
        rule(&["discovery.k8s.io"], &["endpointslices"], &["list", "get", "watch", "update"]),
        rule(&[""], &["pods"], &["list"]),
        rule(&[""], &["events"], &["create", "patch"]),
    ];
    if !role {
        rules.push(rule(&["networking.k8s.io"], &["servicecidrs"], &["list", "get", "watch"]));
    }
    if !secrets.is_empty() {
        rules.push(json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": secrets }));
    }
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": in_namespace("kube-vip") });
    let reference =
        json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role_meta.get("name") });
    let role_object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": role_kind,
        "metadata": role_meta,
        "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": binding_kind,
        "metadata": binding_meta,
        "roleRef": reference,
        "subjects": [{ "kind": "ServiceAccount", "name": "kube-vip", "namespace": namespace }],
    });
    vec![account, role_object, binding]
}
