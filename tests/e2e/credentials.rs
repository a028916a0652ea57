//! A static pod with a certificate of its own in place of `admin.conf`: issued, used, reported and renewed.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::objects::{Administrator, Objects};
use kube_vip_lab::process::Process;
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, Kubeconfig, Lab, LabOptions, wait_for};
use serde_json::{Value, json};

use crate::harness::PROGRAM;

const FILE: &str = "/etc/kubernetes/kube-vip.conf";
const GROUP: &str = "kube-vip:nodes";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("an_agent_with_a_certificate_of_its_own_holds_the_vip_and_takes_over_a_renewed_one", story)]
}

/// A node with kubeadm's `admin.conf`, and the program.
struct Node<'a> {
    lab: &'a Lab,
    root: PathBuf,
}

impl<'a> Node<'a> {
    fn new(lab: &'a Lab) -> Result<Self, Failed> {
        let root = lab.host(0).folder.join("node");
        std::fs::create_dir_all(root.join("etc/kubernetes"))?;
        std::fs::copy(lab.path("admin.conf"), root.join("etc/kubernetes/admin.conf"))?;
        kube_vip_lab::run(&["cp", PROGRAM, &root.join("kube-vip").to_string_lossy()])?;
        Ok(Self { lab, root })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.join(file.trim_start_matches('/'))
    }

    /// Runs `kube-vip kubeconfig` on the node. The log has this name.
    fn start(&self, log: &str, args: &[&str]) -> Result<Process, Failed> {
        let root = self.root.to_string_lossy();
        let command = [&["chroot", &root, "/kube-vip", "kubeconfig"], args].concat();
        let env = [("vip_nodename".to_owned(), "Node-1".to_owned())];
        Ok(Process::start(&self.lab.host(0).namespace, &command, &env, &self.lab.host(0).folder.join(log))?)
    }

    /// The same, with the certificate signed in place of kube-controller-manager. Returns the output.
    fn issue(&self, log: &str, objects: &Objects<'_>, days: u32) -> Result<String, Failed> {
        let mut process = self.start(log, &["--output", FILE])?;
        let (name, request) = wait_for("an approved request", 20, || approved(objects).ok().flatten())?;
        let certificate = self.lab.pki.sign_request(&request, days)?;
        let status = json!({ "status": { "certificate": ByteString(certificate.into_bytes()) } });
        objects.patch_status::<CertificateSigningRequest>(&name, status)?;
        assert!(process.wait(20)?.success(), "{}", process.log());
        Ok(process.log())
    }

    /// The output of a run that fails.
    fn fails(&self, log: &str, args: &[&str]) -> Result<String, Failed> {
        let mut process = self.start(log, args)?;
        assert!(!process.wait(20)?.success(), "{}", process.log());
        Ok(process.log())
    }
}

/// The name and the PEM of a request that is approved and not signed yet.
fn approved(objects: &Objects<'_>) -> Result<Option<(String, String)>, Failed> {
    let text = objects.raw("/apis/certificates.k8s.io/v1/certificatesigningrequests")?;
    let list: k8s_openapi::List<CertificateSigningRequest> = serde_json::from_str(&text)?;
    let waiting = list.items.into_iter().find(|request| {
        let status = request.status.as_ref();
        let approved = |status: &&_| has_condition(status, "Approved");
        status.filter(approved).is_some_and(|status| status.certificate.is_none())
    });
    let parts = |request: CertificateSigningRequest| {
        Some((request.metadata.name?, String::from_utf8(request.spec.request.0).ok()?))
    };
    Ok(waiting.and_then(parts))
}

fn has_condition(
    status: &k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus,
    kind: &str,
) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == kind)
}

/// What `kubectl apply` does with new objects.
pub(crate) fn apply(objects: &Objects<'_>, yaml: &str) -> Outcome {
    for document in yaml.split("---\n").filter(|document| !document.is_empty()) {
        let object: Value = serde_saphyr::from_str(document)?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default();
        let name = text("/metadata/namespace").map_or(name.to_owned(), |own| format!("{own}/{name}"));
        match text("/kind").unwrap_or_default() {
            "ServiceAccount" => objects.create::<ServiceAccount>(&name, object)?,
            "ClusterRole" => objects.create::<ClusterRole>(&name, object)?,
            "ClusterRoleBinding" => objects.create::<ClusterRoleBinding>(&name, object)?,
            "Role" => objects.create::<Role>(&name, object)?,
            "RoleBinding" => objects.create::<RoleBinding>(&name, object)?,
            kind => panic!("{kind}"),
        }
    }
    Ok(())
}

/// The certificate in `kube-vip status`.
fn certificate(lab: &Lab) -> Option<Value> {
    let text = lab.host(0).namespace.run(&[PROGRAM, "status", "-o", "json"]).ok()?;
    let all: Value = serde_json::from_str(&text).ok()?;
    all.pointer("/0/certificate").cloned()
}

fn story() -> Outcome {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
    let administrator = Administrator::new(&lab, 0)?;
    let objects = administrator.objects(&lab);
    let node = Node::new(&lab)?;

    // The VIP in `admin.conf` does not exist yet: the local API server is used.
    let log = node.issue("first.log", &objects, 10)?;
    let expected = "user kube-vip:node-1 of group kube-vip:nodes, valid until ";
    assert!(log.contains(&format!("kube-vip: wrote {FILE}: {expected}")), "{log}");
    assert!(
        log.contains("group kube-vip:nodes has no rights yet: run `kube-vip manifest rbac --group"),
        "{log}"
    );
    let roles = ["manifest", "rbac", "--controlplane", "--arp", "--leaderElection", "--group", GROUP];
    apply(&objects, &kube_vip_lab::run(&[&[PROGRAM], &roles[..]].concat())?)?;

    // As the mount of a single file, a link follows the inode.
    let root = lab.host(0).folder.join("root/etc/kubernetes");
    std::fs::create_dir_all(&root)?;
    std::fs::hard_link(node.path(FILE), root.join("admin.conf"))?;
    let sampler = Sampler::start(&lab)?;
    let options =
        AgentOptions { kubeconfig: Kubeconfig::Missing, confined: true, ..AgentOptions::new(&lab, PROGRAM) };
    let agent = Agent::start(lab.host(0), &options)?;
    sampler.wait_for_holder(10)?;
    agent.wait_for_log("this node now holds the VIP provisional=false", 5)?;
    reported(&lab, &agent, &objects)?;

    // Enough for the VIP, and for nothing else.
    let user = Administrator::user(&lab, 0, "kube-vip:node-1", GROUP)?;
    for path in ["/api/v1/secrets", "/api/v1/namespaces/kube-system/configmaps", "/api/v1/services"] {
        let error = user.objects(&lab).raw(path).unwrap_err().to_string();
        assert!(error.contains("forbidden"), "{path}: {error}");
    }

    let log = node.fails("own.log", &["--k8sConfigPath", FILE])?;
    assert!(log.contains("needs the rights of a cluster administrator"), "{log}");
    let log = node.fails("other.log", &["--output", FILE, "--group", "other"])?;
    assert!(log.contains("is not the kubeconfig of user kube-vip:node-1 of group other"), "{log}");

    let log = node.issue("renewed.log", &objects, 365)?;
    assert!(log.contains(expected) && !log.contains("has no rights"), "{log}");
    agent.wait_for_log("read new credentials", 40)?;
    wait_for("the renewed certificate in the status", 5, || {
        certificate(&lab).filter(|certificate| certificate["problem"].is_null())
    })?;
    Recording::begin(&lab)?.expect(&[])?;
    assert_eq!(sampler.holder()?, 0);
    Ok(())
}

/// The end of the validity is in the status, a log line, an Event and a metric.
fn reported(lab: &Lab, agent: &Agent, objects: &Objects<'_>) -> Outcome {
    let problem = "the client certificate of user kube-vip:node-1 expires in 9 days";
    agent.wait_for_log(problem, 5)?;
    let found = wait_for("the certificate in the status", 5, || certificate(lab))?;
    assert_eq!(found["user"], "kube-vip:node-1");
    assert!(found["problem"].as_str().is_some_and(|found| found.starts_with(problem)), "{found}");
    let metrics = lab.host(0).namespace.http_get(2112, "/metrics")?;
    let series = "kube_vip_client_certificate_expiry_timestamp_seconds{user=\"kube-vip:node-1\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)).ok_or(metrics.clone())?;
    let expires: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time =
        serde_json::from_value(found["expires"].clone())?;
    assert_eq!(value, expires.0.as_second().to_string());
    alerts::expect(alerts::agents(lab), &["KubeVipClientCertificateExpires"])?;
    let mut nine_days_later = Recording::default().later(Duration::from_hours(9 * 24));
    nine_days_later.scrape(alerts::agents(lab));
    nine_days_later.expect(&["KubeVipClientCertificateAlmostExpired", "KubeVipClientCertificateExpires"])?;
    let is_due = |(reason, message): &(String, String)| {
        reason == "ClientCertificateExpires" && message.starts_with(problem)
    };
    wait_for("the Event", 10, || {
        objects.events("node-1").ok().filter(|events| events.iter().any(is_due)).map(drop)
    })?;
    Ok(())
}
