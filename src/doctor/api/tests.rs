//! Each finding once, and none in a healthy cluster.

use serde_json::json;

use super::*;
use crate::doctor::testing::config;

fn missing(code: u16) -> Response {
    Err(RequestProblem { code: Some(code), why: "no".to_owned() })
}

fn no_credentials(missing: bool) -> Option<Result<String, NoCredentials>> {
    Some(Err(NoCredentials { missing, why: "no kubeconfig".to_owned() }))
}

fn right(resource: &'static str, verb: &'static str) -> Right {
    Right { namespace: None, group: "", resource, name: None, verb }
}

fn kubeadm(endpoint: &str) -> Option<Response> {
    let text = format!("apiVersion: kubeadm.k8s.io/v1beta4\n{endpoint}\nkubernetesVersion: v1.36.3\n");
    Some(Ok(json!({ "data": { "ClusterConfiguration": text } })))
}

fn kube_proxy_of(text: &str) -> Option<Response> {
    Some(Ok(json!({ "data": { "config.conf": text } })))
}

fn healthy() -> ApiFacts {
    let node = json!({
        "metadata": { "name": "node-1" },
        "spec": { "podCIDRs": ["10.244.0.0/24"] },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] },
    });
    ApiFacts {
        credentials: Some(Ok("/etc/kubernetes/admin.conf".to_owned())),
        account: None,
        servers: vec![
            ("https://127.0.0.1:6443".to_owned(), true, None),
            ("https://[::1]:6443".to_owned(), true, Some("connection refused".to_owned())),
        ],
        names: vec![("192.0.2.9".to_owned(), Certificate::Valid)],
        denied: Some(Ok(Vec::new())),
        nodes: Some(Ok(json!({ "items": [node] }))),
        lease: Some(Ok(json!({ "spec": { "holderIdentity": "node-2" } }))),
        kubeadm: kubeadm("controlPlaneEndpoint: 192.0.2.9:6443"),
        kube_proxy: kube_proxy_of("mode: ipvs\nipvs: {strictARP: true}\n"),
        groups: ["apps", "coordination.k8s.io"].map(str::to_owned).into(),
        others: BTreeSet::new(),
        now: None,
        clock_difference: Some(2),
    }
}

fn wrong(checks: Vec<Check>) -> Vec<(&'static str, Severity, String)> {
    let wrong = checks.into_iter().filter(|check| check.severity > Severity::Skipped);
    wrong.map(|check| (check.name, check.severity, check.text)).collect()
}

#[test]
fn a_healthy_cluster_has_no_finding() {
    let facts = healthy();
    assert_eq!(wrong(checks(&config(&[]), &HostReadings::default(), &facts)), []);
    assert_eq!(facts.families(&config(&[]), &HostReadings::default()), [Family::V4].into());
    // Without the right to read what is beside the point.
    let limited = ApiFacts {
        kubeadm: Some(missing(403)),
        kube_proxy: Some(missing(403)),
        nodes: Some(missing(403)),
        ..facts
    };
    assert_eq!(wrong(checks(&config(&[]), &HostReadings::default(), &limited)), []);
}

/// The token of its ServiceAccount is in the pod alone.
#[test]
fn the_manifest_of_a_daemon_set_needs_no_kubeconfig_on_the_host() {
    let account = Some(ServiceAccount { namespace: "kube-system".into(), name: "kube-vip".into() });
    let mut facts = ApiFacts { account, credentials: no_credentials(true), ..healthy() };
    assert_eq!(wrong(checks(&config(&[]), &HostReadings::default(), &facts)), []);
    facts.credentials = healthy().credentials;
    facts.denied = Some(Ok(Vec::new()));
    let text = rights(&facts).unwrap().text;
    assert!(text.contains("the ServiceAccount kube-system/kube-vip may do"), "{text}");
}

#[test]
fn each_fault_has_its_finding() {
    use Severity::{Error, Warning};
    type Fault = fn(&mut ApiFacts);
    let table: [(Fault, &str, Severity, &str); 16] = [
        (|it| it.credentials = no_credentials(true), "credentials", Warning, "before `kubeadm init`"),
        (|it| it.credentials = no_credentials(false), "credentials", Error, "no kubeconfig"),
        (
            |it| {
                it.servers[0].2 = Some("invalid peer certificate: UnknownIssuer".into());
            },
            "api-server",
            Error,
            "the kubeconfig has the CA of another cluster",
        ),
        (
            |it| it.servers[0].2 = Some("refused".into()),
            "api-server",
            Error,
            "check that kube-apiserver runs on this host",
        ),
        (
            |it| {
                it.servers[0].2 = Some("refused".into());
                it.servers.push(("https://192.0.2.2:6443".into(), false, None));
            },
            "api-server",
            Warning,
            "https://127.0.0.1:6443 does not respond (refused)",
        ),
        (
            |it| it.names[0].1 = Certificate::Invalid("it has the names a".into()),
            "certificate",
            Error,
            "certSANs",
        ),
        (
            |it| it.denied = Some(Ok(vec![right("services", "list"), right("nodes", "watch")])),
            "rights",
            Error,
            "may not list services; watch nodes",
        ),
        (
            |it| it.denied = Some(Ok(vec![right("nodes", "watch")])),
            "rights",
            Warning,
            "kube-vip works without",
        ),
        (|it| it.nodes = Some(Ok(json!({ "items": [] }))), "node", Error, "there is no Node node-1"),
        (|it| it.kubeadm = kubeadm(""), "kubeadm-endpoint", Warning, "no controlPlaneEndpoint"),
        (
            |it| it.kubeadm = kubeadm("controlPlaneEndpoint: 192.0.2.1:6443"),
            "kubeadm-endpoint",
            Warning,
            "is 192.0.2.1:6443, not the VIP 192.0.2.9",
        ),
        (|it| it.kube_proxy = kube_proxy_of("mode: ipvs\n"), "kube-proxy", Error, "strictARP"),
        (|it| it.groups.extend(["metallb.io".into()]), "other-load-balancers", Warning, "MetalLB"),
        (|it| it.others.extend(["k3s ServiceLB"]), "other-load-balancers", Warning, "k3s ServiceLB"),
        (|it| it.clock_difference = Some(-90), "clock", Warning, "by -90 s"),
        (|it| it.clock_difference = Some(61), "clock", Warning, "by 61 s"),
    ];
    for (fault, name, severity, part) in table {
        let mut facts = healthy();
        fault(&mut facts);
        let found = wrong(checks(&config(&[]), &HostReadings::default(), &facts));
        let expected = found.iter().any(|it| it.0 == name && it.1 == severity && it.2.contains(part));
        assert!(expected, "{part}: {found:?}");
        // A server that is down has a finding for each of its addresses.
        assert!(found.len() == 1 || name == "api-server", "{part}: {found:?}");
    }
}

#[test]
fn settings_decide_what_matters() {
    let by_class = config(&[("lb_class_only", "true")]);
    let mut facts = healthy();
    facts.groups.insert("metallb.io".to_owned());
    assert_eq!(wrong(checks(&by_class, &HostReadings::default(), &facts)), []);
    // Without Services the Node's name is only the identity in the Lease.
    let control_plane = config(&[("svc_enable", "false")]);
    let facts = ApiFacts {
        nodes: Some(Ok(json!({ "items": [] }))),
        kube_proxy: kube_proxy_of("mode: ipvs\n"),
        ..healthy()
    };
    let found = wrong(checks(&control_plane, &HostReadings::default(), &facts));
    assert!(matches!(found.as_slice(), [("node", Severity::Warning, _)]), "{found:?}");
}

#[test]
fn the_owner_of_the_vip_is_compared_with_the_lease() {
    use Severity::{Error, Ok, Warning};
    let vip: IpAddr = "192.0.2.9".parse().unwrap();
    type Row = (bool, &'static [&'static str], Option<Option<&'static str>>, Severity, &'static str);
    let table: [Row; 11] = [
        (false, &[], Some(None), Ok, "no host has"),
        (false, &[], None, Ok, "no host has"),
        (false, &[], Some(Some("node-2")), Error, "no host replies"),
        (true, &[], Some(Some("node-1")), Ok, "this host has"),
        (true, &[], Some(Some("node-2")), Error, "although node-2 holds"),
        (true, &[], None, Ok, "this host has"),
        (false, &["02:01"], Some(Some("node-2")), Ok, "02:01 has"),
        (false, &["02:01"], Some(Some("node-1")), Error, "although this node holds"),
        (false, &["02:01"], Some(None), Error, "no node holds the Lease"),
        (false, &["02:01"], None, Warning, "cannot be read"),
        (true, &["02:01"], Some(Some("node-1")), Error, "this host and 02:01 have"),
    ];
    for (here, others, holder, severity, part) in table {
        let others = others.iter().map(|text| (*text).to_owned()).collect();
        let (found, text) = owner(vip, here, &others, holder, Some("node-1"));
        assert!(found == severity && text.contains(part), "{part}: {found:?} {text}");
    }
    let two = ["02:01", "02:02"].map(str::to_owned).into();
    let (found, text) = owner(vip, false, &two, Some(Some("node-2")), Some("node-1"));
    assert!(found == Error && text.contains("02:01 and 02:02 have"), "{text}");
}

/// The hostname is often not the name of the Node.
#[test]
fn the_node_of_this_host_is_found_by_its_address() {
    let own = crate::model::ActualAddress {
        interface: crate::model::IfIndex(2),
        vip: crate::model::Vip { address: "192.0.2.1".parse().unwrap(), prefix: 24 },
        tag: Tag::None,
        deprecated: false,
        valid_for: None,
        dad_failed: false,
    };
    let mut host = HostReadings::default();
    host.state.addresses = vec![own];
    let config = config(&[("vip_nodename", "vm")]);
    let found = wrong(checks(&config, &host, &healthy()));
    let [(name, _, text)] = found.as_slice() else { panic!("{found:?}") };
    assert!(*name == "node" && text.contains("set vip_nodename to node-1"), "{text}");
    assert_eq!(healthy().node_name(&config, &host).as_deref(), Some("node-1"));
    // A pod gets the name from Kubernetes.
    host.named_by_pod = true;
    assert_eq!(wrong(checks(&config, &host, &healthy())), []);
    // Without the right to read Nodes its own name is unknown.
    let unknown = ApiFacts { nodes: Some(missing(403)), ..healthy() };
    assert_eq!(unknown.node_name(&config, &host), None);
    let vip = "192.0.2.9".parse().unwrap();
    assert_eq!(owner(vip, true, &BTreeSet::new(), Some(Some("node-1")), None).0, Severity::Ok);
}

#[test]
fn an_expired_lease_has_no_holder() {
    let lease = |renewed: &str| {
        let spec = json!({ "holderIdentity": "node-2", "renewTime": renewed, "leaseDurationSeconds": 5 });
        let now = Some("2026-01-02T00:10:00Z".parse().unwrap());
        ApiFacts { lease: Some(Ok(json!({ "spec": spec }))), now, ..healthy() }
    };
    for (renewed, expected) in [
        ("2026-01-02T00:09:58.000000Z", Some(Some("node-2"))),
        ("2026-01-02T00:08:56.000000Z", Some(Some("node-2"))),
        ("2026-01-02T00:08:50.000000Z", Some(None)),
        ("2026-01-02T01:00:00.000000Z", Some(Some("node-2"))),
    ] {
        assert_eq!(holder(&lease(renewed)), expected, "{renewed}");
    }
    assert_eq!(holder(&ApiFacts { lease: Some(missing(403)), ..healthy() }), None);
    assert_eq!(holder(&ApiFacts { lease: Some(missing(404)), ..healthy() }), Some(None));
}

#[test]
fn endpoints_are_compared_as_addresses() {
    let config = config(&[("address", "192.0.2.9,fd00::9")]);
    for (endpoint, expected) in [
        ("192.0.2.9:6443", Severity::Ok),
        ("\"[FD00:0::9]:6443\"", Severity::Ok),
        ("vip.example:6443", Severity::Ok),
        ("192.0.2.1:6443", Severity::Warning),
    ] {
        let facts = ApiFacts { kubeadm: kubeadm(&format!("controlPlaneEndpoint: {endpoint}")), ..healthy() };
        assert_eq!(kubeadm_endpoint(&config, &facts).unwrap().severity, expected, "{endpoint}");
    }
}
