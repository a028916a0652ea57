//! The settings in a manifest: those of the container that runs kube-vip.

use serde_json::Value;

use crate::config::api::ADMIN_CONF;
use crate::config::file::documents;

/// The ServiceAccount of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    pub namespace: String,
    pub name: String,
}

impl ServiceAccount {
    /// The name that the API server gives its user.
    pub(super) fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    /// The groups of that user.
    pub(super) fn groups(&self) -> Vec<String> {
        let of_namespace = format!("system:serviceaccounts:{}", self.namespace);
        ["system:serviceaccounts", &of_namespace, "system:authenticated"].map(str::to_owned).into()
    }
}

/// What a container would be started with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// Without the program.
    pub arguments: Vec<String>,
    pub env: Vec<(String, String)>,
    /// The file of the host that the pod uses as kubeconfig.
    pub kubeconfig: Option<String>,
    /// That of the pod's ServiceAccount, where it uses one.
    pub namespace: Option<String>,
    pub account: Option<ServiceAccount>,
    /// Kubernetes gives the pod the name of its Node.
    pub named_by_pod: bool,
    /// What is not examined, one sentence each.
    pub notes: Vec<String>,
}

/// The settings in the Pod, DaemonSet or other workload of this text.
///
/// # Errors
/// One sentence, if it is not YAML, or no container in it runs `manager`.
pub fn read(text: &str) -> Result<Given, String> {
    let documents = documents(text)?;
    let pods = documents.iter().filter_map(|document| {
        let pod = document.pointer("/spec/template/spec").or_else(|| document.get("spec"))?;
        Some((document, pod))
    });
    let containers = pods
        .flat_map(|(document, pod)| list(pod, "containers").map(move |container| (document, pod, container)));
    let is_agent = |(_, _, container): &(&Value, &Value, &Value)| {
        words(container).any(|word| word == "manager" || word == "service")
    };
    let mut agents = containers.filter(is_agent);
    let (document, pod, container) = agents.next().ok_or(
        "no container in it has the argument `manager`: give the manifest of a pod or DaemonSet of kube-vip",
    )?;
    if agents.next().is_some() {
        return Err("several containers in it run kube-vip: give the manifest of one of them".to_owned());
    }
    let mut given = Given {
        arguments: words(container).map(str::to_owned).collect(),
        kubeconfig: kubeconfig(pod, container),
        ..Given::default()
    };
    for variable in list(container, "env") {
        let Some(name) = variable.get("name").and_then(Value::as_str) else { continue };
        match (variable.get("value"), variable.get("valueFrom")) {
            (None, Some(from)) if name == "vip_nodename" && field(from) == Some("spec.nodeName") => {
                given.named_by_pod = true;
            }
            (None, Some(_)) => given.notes.push(format!("the value of {name} is not in the manifest")),
            (value, _) => {
                let value = value.and_then(Value::as_str).unwrap_or_default();
                given.env.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    if list(container, "envFrom").next().is_some() {
        given.notes.push("the variables of `envFrom` are not in the manifest".to_owned());
    }
    let account = pod.get("serviceAccountName").and_then(Value::as_str);
    if let Some(account) = account.filter(|_| given.kubeconfig.is_none()) {
        let namespace = document.pointer("/metadata/namespace").and_then(Value::as_str);
        given.namespace = namespace.map(str::to_owned);
        let namespace = namespace.unwrap_or("default").to_owned();
        given.account = Some(ServiceAccount { namespace, name: account.to_owned() });
    }
    Ok(given)
}

/// The field of the pod that a variable is taken from.
fn field(from: &Value) -> Option<&str> {
    from.pointer("/fieldRef/fieldPath")?.as_str()
}

/// The file of the host that is mounted as the kubeconfig.
fn kubeconfig(pod: &Value, container: &Value) -> Option<String> {
    let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
    let mount = list(container, "volumeMounts")
        .find(|mount| text(mount, "mountPath").as_deref() == Some(ADMIN_CONF))?;
    let name = text(mount, "name")?;
    let volume = list(pod, "volumes").find(|volume| text(volume, "name").as_ref() == Some(&name))?;
    volume.get("hostPath").and_then(|path| text(path, "path"))
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// The arguments of a container, without its program.
fn words(container: &Value) -> impl Iterator<Item = &str> {
    list(container, "command").skip(1).chain(list(container, "args")).filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON_SET: &str = "\
apiVersion: v1
kind: ServiceAccount
metadata: {name: kube-vip}
---
apiVersion: apps/v1
kind: DaemonSet
spec:
  template:
    spec:
      containers:
      - name: kube-vip
        args: [manager, --arp]
        env:
        - {name: address, value: \"192.0.2.9\"}
        - {name: vip_nodename, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: bgp_peerpass, valueFrom: {secretKeyRef: {name: bgp, key: password}}}
        envFrom: [{secretRef: {name: more}}]
        volumeMounts: [{name: kubeconfig, mountPath: /etc/kubernetes/admin.conf}]
      serviceAccountName: kube-vip
      volumes: [{name: kubeconfig, hostPath: {path: /etc/kubernetes/kube-vip.conf}}]
";

    #[test]
    fn the_container_of_kube_vip_is_found_among_documents() {
        let given = read(DAEMON_SET).unwrap();
        assert_eq!(given.arguments, ["manager", "--arp"]);
        assert_eq!(given.env, [("address".to_owned(), "192.0.2.9".to_owned())]);
        assert!(given.named_by_pod);
        assert_eq!(given.kubeconfig.as_deref(), Some("/etc/kubernetes/kube-vip.conf"));
        let other = DAEMON_SET.replace(
            "name: vip_nodename, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}",
            "name: vip_nodename, value: node-9",
        );
        assert!(!read(&other).unwrap().named_by_pod);
        let address = DAEMON_SET.replace("name: vip_nodename, ", "name: address, ");
        assert_eq!(read(&address).unwrap().notes[0], "the value of address is not in the manifest");
        let notes = [
            "the value of bgp_peerpass is not in the manifest",
            "the variables of `envFrom` are not in the manifest",
        ];
        assert_eq!(given.notes, notes);
        let without = DAEMON_SET.replace("/etc/kubernetes/admin.conf", "/other");
        let without =
            read(&without.replace("kind: DaemonSet", "kind: DaemonSet\nmetadata: {namespace: kv}")).unwrap();
        assert_eq!(without.account.unwrap().user(), "system:serviceaccount:kv:kube-vip");
        assert_eq!((given.namespace, given.account, without.namespace.as_deref()), (None, None, Some("kv")));
    }

    #[test]
    fn other_manifests_are_refused_with_a_reason() {
        let table =
            [("a: [", ""), ("", "manager"), ("kind: Pod\nspec: {containers: [{args: [sleep]}]}", "manager")];
        for (text, part) in table {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
