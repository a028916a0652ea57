//! The admission policies of manifests/policy/ on a real API server.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube_vip::planner::policy::admission;
use kube_vip_lab::objects::load_balancer;
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{Administrator, Lab, LabOptions, Objects, Result, wait_for};
use serde_json::{Value, json};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("admission_policies_reject_what_a_service_may_not_have", policies)]
}

const CONTROLLERS: &str = "system:serviceaccounts:kube-system";

/// Annotations without their prefix.
fn annotations(pairs: &[(&str, &str)]) -> Value {
    pairs.iter().map(|(name, value)| (format!("kube-vip.io/{name}"), json!(value))).collect()
}

fn create(objects: Objects<'_>, service: &str, pairs: &[(&str, &str)]) -> Result<()> {
    let object = json!({ "metadata": { "annotations": annotations(pairs) }, "spec": load_balancer(80) });
    objects.create::<Service>(service, object)
}

fn patch(objects: Objects<'_>, service: &str, annotations: Value) -> Result<()> {
    objects.patch::<Service>(service, json!({ "metadata": { "annotations": annotations } }))
}

fn apply(objects: Objects<'_>) -> Outcome {
    let files = admission::files()?;
    for document in files.iter().flat_map(|(_, text)| text.split("---\n").skip(1)) {
        let object: Value = serde_saphyr::from_str(document)?;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if object["kind"] == "ValidatingAdmissionPolicy" {
            objects.create::<ValidatingAdmissionPolicy>(&name, object)?;
        } else {
            objects.create::<ValidatingAdmissionPolicyBinding>(&name, object)?;
        }
    }
    Ok(())
}

/// Whether a request was rejected because of this annotation.
fn rejected(result: Result<()>, annotation: &str) -> bool {
    result.is_err_and(|error| error.to_string().contains(&format!("kube-vip.io/{annotation}: ")))
}

fn policies() -> Outcome {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
    let admin = Administrator::new(&lab, 0)?;
    let author = Administrator::user(&lab, 0, "author", "authors")?;
    let controller = Administrator::user(&lab, 0, "controller", CONTROLLERS)?;
    let [admin, author, controller] = [&admin, &author, &controller].map(|user| user.objects(&lab));
    // The rules of the role `edit`: without a controller manager it has none itself.
    let subject =
        |name: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name });
    let binding = json!({
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:aggregate-to-edit" },
        "subjects": [subject("authors"), subject(CONTROLLERS)],
    });
    admin.create::<RoleBinding>("authors", binding)?;
    let before = [("vipHost", "node-9"), ("serviceInterface", "eth9"), ("bgp-med", "x"), ("ignore", "yes")];
    create(admin, "old", &before)?;
    apply(admin)?;
    wait_for("the policies to take effect", 30, || {
        let active = |annotation| rejected(create(author, "probe", &[(annotation, "x")]), annotation);
        (active("vipHost") && active("bgp-med")).then_some(())
    })?;

    let addresses = |count| (1..=count).map(|last| format!("192.0.2.{last}")).collect::<Vec<_>>().join(",");
    let (sixteen, seventeen) = (addresses(16), addresses(17));
    // Annotation and value, and whether an author, a controller and an administrator may set it.
    let (all, none, trusted) = ([true; 3], [false; 3], [false, true, true]);
    let table = [
        ("sharing-key", "any text", all),
        ("serviceInterface", "eth1", trusted),
        ("serviceVLAN", "eth0.7", trusted),
        ("macvlanName", "web", trusted),
        ("rp_filter", "1", trusted),
        ("rp_filter", "3", none),
        ("hwaddr", "02:00:00:00:00:01", trusted),
        ("leaseName", "kube-system/plndr-cp-lock", trusted),
        ("vipHost", "node-1", trusted),
        ("dhcp-lease", "x", trusted),
        ("allocated-addresses", "192.0.2.1", trusted),
        ("upnp-external-ip", "192.0.2.1", trusted),
        ("mdns-name", "web.local", trusted),
        ("loadbalancerIPs", "192.0.2.1, fd00::1,web_1.example.com.,dhcp.example.com,", all),
        ("loadbalancerIPs", "192.0.2.1,dhcp", none),
        ("loadbalancerIPs", "0.0.0.0,::", all),
        ("loadbalancerIPs", " ", all),
        ("loadbalancerIPs", "192.0.2.256", none),
        ("loadbalancerIPs", "192.0.2.1;192.0.2.2", none),
        ("loadbalancerIPs", "a..b", none),
        ("loadbalancerIPs", "-a", none),
        ("loadbalancerIPs", "a,b,c,d", all),
        ("loadbalancerIPs", "a,b,c,d,e", none),
        ("loadbalancerIPs", &sixteen, all),
        ("loadbalancerIPs", &seventeen, none),
        ("requestedIP", "192.0.2.1,fd00::1", all),
        ("requestedIP", "192.0.2.1,192.0.2.2", none),
        ("ignore", "true", all),
        ("ignore", "True", none),
        ("allow-reconcile-without-endpoints", "True", all),
        ("ddns", "T", all),
        ("ddns", "yes", none),
        ("bgp-local-pref", "4294967295", all),
        ("bgp-local-pref", "4294967296", none),
        ("bgp-as-path-prepend", "33", none),
        ("bgp-communities", "65000:100, No-Export, 7", all),
        ("bgp-communities", "65536:1", none),
        ("bgp-large-communities", "1:2:4294967295", all),
        ("bgp-large-communities", "1:2", none),
        ("loadbalancerHostname", "web-1", all),
        ("loadbalancerHostname", "192.0.2.1", none),
        ("mdns", "web.local", all),
        ("mdns", "a.b", none),
        ("upnp-lease-duration", "1h30m", all),
        ("upnp-lease-duration", "1.5h", all),
        ("upnp-lease-duration", "30", none),
        ("upnp-external-port", "80=8080, 443 = 8443", all),
        ("upnp-external-port", "8080", all),
        ("upnp-external-port", "80=0", none),
    ];
    for (row, (annotation, value, expected)) in table.into_iter().enumerate() {
        for (user, (objects, accepted)) in [author, controller, admin].into_iter().zip(expected).enumerate() {
            let result = create(objects, &format!("web-{row}-{user}"), &[(annotation, value)]);
            let as_expected = if accepted { result.is_ok() } else { rejected(result, annotation) };
            assert!(as_expected, "{annotation}: {value}, user {user}");
        }
    }

    // What an update leaves as it is does not count, and an author may remove it.
    author.patch::<Service>("old", json!({ "metadata": { "labels": { "a": "b" } } }))?;
    patch(author, "old", annotations(&[("bgp-med", "x"), ("sharing-key", "k")]))?;
    for (annotation, value) in [("vipHost", "node-1"), ("serviceInterface", "lo"), ("bgp-med", "y")] {
        assert!(
            rejected(patch(author, "old", annotations(&[(annotation, value)])), annotation),
            "{annotation}"
        );
    }
    patch(author, "old", annotations(&[("bgp-med", "7")]))?;
    let removed = json!({ "kube-vip.io/vipHost": null, "kube-vip.io/serviceInterface": null, "kube-vip.io/ignore": null });
    patch(author, "old", removed)?;
    Ok(())
}
