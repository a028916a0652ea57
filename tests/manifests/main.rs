//! Generated manifests: their content, the round trip through the environment, and how YAML parsers read them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod rbac;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube_vip::config::{Kind, SETTINGS, show};
use kube_vip::manifest::samples;
use kube_vip::planner::policy::admission;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-vip");
/// The image that the program runs from.
const IMAGE: &str = "registry.example/kube-vip:v1";

struct Printed {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

fn kube_vip(args: &[&str], env: &[(&str, &str)]) -> Printed {
    let mut program = Command::new(PROGRAM);
    let program = program.args(args).env_clear().env("KUBE_VIP_IMAGE", IMAGE).envs(env.iter().copied());
    let output = program.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Printed { stdout: text(output.stdout), stderr: text(output.stderr), code: output.status.code() }
}

fn pod(args: &[&str], env: &[(&str, &str)]) -> String {
    let printed = kube_vip(&[&["manifest", "pod"], args].concat(), env);
    let warned = printed.stderr.lines().all(|line| line.starts_with("kube-vip: warning: "));
    assert!(printed.code == Some(0) && warned, "{args:?} {env:?}: {}", printed.stderr);
    printed.stdout
}

fn spec(yaml: &str) -> PodSpec {
    serde_saphyr::from_str::<Pod>(yaml).unwrap().spec.unwrap()
}

/// Names and values of the container's environment, in order.
fn env_list(spec: &PodSpec) -> Vec<(String, String)> {
    let list = spec.containers[0].env.clone().unwrap_or_default();
    list.into_iter().map(|env| (env.name, env.value.unwrap_or_default())).collect()
}

const ARP: &[&str] = &[
    "--interface",
    "eth0",
    "--address",
    "192.168.0.40",
    "--controlplane",
    "--services",
    "--arp",
    "--leaderElection",
];

#[test]
fn the_environment_has_the_go_programs_order() {
    let names: Vec<String> = env_list(&spec(&pod(ARP, &[]))).into_iter().map(|(name, _)| name).collect();
    let expected = "vip_arp port vip_nodename vip_interface vip_subnet dns_mode dhcp_mode cp_enable cp_namespace \
                    svc_enable svc_leasename vip_leaderelection vip_leasename vip_leaseduration vip_renewdeadline \
                    vip_retryperiod address prometheus_server";
    assert_eq!(names.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    let bgp = "--interface lo --address 192.168.0.40 --controlplane --services --bgp --localAS 65000 --bgpRouterID 192.168.0.2 --bgppeers 192.168.0.10:65000::false,192.168.0.11:65000::false";
    let list = env_list(&spec(&pod(&bgp.split_whitespace().collect::<Vec<_>>(), &[])));
    let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
    let expected = "vip_arp port vip_nodename vip_interface vip_subnet dns_mode dhcp_mode cp_enable cp_namespace \
                    svc_enable svc_leasename bgp_enable bgp_routerid bgp_as bgp_peeraddress bgp_peerpass bgp_peeras \
                    bgp_peers address prometheus_server";
    assert_eq!(names.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    let dhcp = "--services --inCluster --arp --servicesElection --interface eth0";
    let list = env_list(&spec(&pod(&dhcp.split_whitespace().collect::<Vec<_>>(), &[])));
    let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).collect();
    let expected = "vip_arp port vip_nodename vip_interface dns_mode dhcp_mode svc_enable svc_leasename svc_election \
                    vip_address prometheus_server";
    assert_eq!(names.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
}

/// Port 179 is below 1024.
#[test]
fn a_pod_that_listens_for_bgp_peers_may_bind_their_port() {
    let peers = r#"[{"address": "192.0.2.9", "as": 65001, "passive": true}]"#;
    let added = |port: &str| {
        let env =
            [("bgp_enable", "true"), ("bgp_peers", peers), ("bgp_listen_port", port), ("svc_enable", "true")];
        let context = spec(&pod(&[], &env)).containers[0].security_context.clone().unwrap();
        context.capabilities.unwrap().add.unwrap()
    };
    assert_eq!(added("179"), ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]);
    assert_eq!(added("1790"), ["NET_ADMIN", "NET_RAW"]);
}

#[test]
fn the_pod_has_the_fields_that_kubeadm_needs() {
    let spec = spec(&pod(ARP, &[]));
    let container = &spec.containers[0];
    assert_eq!(container.args.as_deref(), Some(&["manager".to_owned()][..]));
    assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(container.image.as_deref(), Some(IMAGE));
    assert_eq!(
        (spec.host_network, spec.priority_class_name.as_deref()),
        (Some(true), Some("system-node-critical"))
    );
    let capabilities = container.security_context.as_ref().unwrap().capabilities.clone().unwrap();
    assert_eq!(capabilities.add.unwrap(), ["NET_ADMIN", "NET_RAW"]);
    assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
    assert_eq!(
        spec.host_aliases.as_ref().unwrap()[0].hostnames.as_deref(),
        Some(&["kubernetes".to_owned()][..])
    );
    assert_eq!(container.volume_mounts.as_ref().unwrap()[0].mount_path, "/etc/kubernetes/admin.conf");
    let yaml = pod(&[ARP, &["--healthCheckPort", "2113"]].concat(), &[]);
    assert!(self::spec(&yaml).containers[0].liveness_probe.is_some());
}

#[test]
fn lose_leadership_emits_its_timeout_variable() {
    let list = env_list(&spec(&pod(
        &[ARP, &["--loseLeadership", "--loseLeadershiptTimeoutSeconds", "7"]].concat(),
        &[],
    )));
    let value = |name: &str| list.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(value("vip_loseleadership"), Some("true"));
    assert_eq!(value("vip_loseleadership_timeout_seconds"), Some("7"));
}

/// A value for each setting that differs from its default and is compatible with the others.
fn unusual(kind: Kind, name: &str) -> Option<String> {
    Some(match (kind, name) {
        (
            _,
            "config_file"
            | "vip_nodename"
            | "vip_configmap"
            | "vip_wireguard"
            | "vip_routingtable"
            | "bgp_enable"
            | "vip_ddns"
            | "lb_enable"
            | "enable_service_security"
            | "mirror_dest_interface"
            | "vip_leaderelectiontype",
        ) => {
            return None;
        }
        (_, "vip_address" | "bgp_sourceip" | "cp_enable" | "svc_enable") => return None,
        (_, "vip_leaseduration") => "30".into(),
        (_, "vip_renewdeadline") => "12".into(),
        (_, "vip_retryperiod") => "4".into(),
        (_, "health_check_port") => "2113".into(),
        (_, "vip_subnet") => "24".into(),
        (_, "lb_class_legacy_handling" | "egress_withnftables" | "upnp_status") => "false".into(),
        (_, "prometheus_server") => ":9999".into(),
        (_, "svc_vlans") => "eth0.7".into(),
        (_, "svc_lease_names") => "infra/shared".into(),
        (Kind::Bool, _) => "true".into(),
        (Kind::Int(low, high), _) => (low + 1).max(7).min(high).to_string(),
        (Kind::OneOf(words), _) => (*words.last()?).to_owned(),
        (Kind::Duration, _) => "300ms".into(),
        (Kind::Url, _) => "https://127.0.0.1:6443/livez".into(),
        (Kind::JsonMap, _) => r#"{"a":"on"}"#.into(),
        (_, "address") => "192.0.2.1".into(),
        (_, "svc_allowed_addresses") => "192.0.2.0/24".into(),
        (_, "upnp_ports") => "8080".into(),
        (_, "instance_name") => "on".into(),
        _ => "yes".into(),
    })
}

#[test]
fn an_explicit_upnp_false_is_emitted_although_it_is_the_default() {
    let base = [("vip_arp", "true"), ("cp_enable", "true"), ("address", "192.0.2.9")];
    let emitted = |env: &[(&str, &str)]| {
        let list = env_list(&spec(&pod(&[], &[&base, env].concat())));
        list.into_iter().find(|(name, _)| name == "enable_upnp").map(|(_, value)| value)
    };
    assert_eq!(emitted(&[]), None);
    assert_eq!(emitted(&[("enable_upnp", "false")]).as_deref(), Some("false"));
}

#[test]
fn a_manifest_read_back_as_environment_gives_the_same_manifest() {
    let mut cases: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for setting in SETTINGS {
        let Some(name) = setting.env.first() else { continue };
        if let Some(value) = unusual(setting.kind, name) {
            cases.push(vec![((*name).to_owned(), value)]);
        }
    }
    // All of them at once.
    let all = cases.iter().flatten().cloned().collect();
    cases.push(all);
    let base = [("vip_arp", "true"), ("cp_enable", "true"), ("svc_enable", "true"), ("address", "192.0.2.9")];
    for case in cases {
        let mut env: BTreeMap<&str, &str> = base.into();
        env.extend(case.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let env: Vec<(&str, &str)> = env.into_iter().collect();
        let first = pod(&[], &env);
        let list = env_list(&spec(&first));
        let back: Vec<(&str, &str)> =
            list.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pod(&[], &back), first, "{case:?}");
        for (name, value) in &case {
            // Every value is emitted under the preferred name.
            let shown = list.iter().any(|(known, shown)| known == name && shown == value);
            assert!(shown, "{name}={value} is lost: {list:?}");
        }
    }
}

#[test]
fn kubernetes_reads_every_value_as_a_string() {
    const TRICKY: &[&str] = &[
        "on",
        "off",
        "yes",
        "no",
        "y",
        "n",
        "Y",
        "true",
        "~",
        "null",
        "1_000",
        "0x1f",
        "0o17",
        "017",
        "1e3",
        ".5",
        "1.0",
        "12:30",
        "=",
        "<<",
        "- a",
        "a: b",
        "a #b",
        "'",
        "\"",
        "é",
        "2001-01-01",
        ".inf",
        ".nan",
        "@a",
        "%a",
        "!a",
        "&a",
        "*a",
        "[a",
        "{a",
        "a]",
        "|",
        ">",
        "?",
        "1__2",
        "+1",
        "-1",
        "0b11",
        "1_0.5",
    ];
    if !Command::new("/usr/bin/python3")
        .args(["-c", "import yaml"])
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("skipped: /usr/bin/python3 has no module yaml (cargo xtask setup installs it)");
        return;
    }
    for value in TRICKY {
        let yaml = pod(ARP, &[("k8s_config_file", value)]);
        let script = "import yaml,json,sys; print(json.dumps(yaml.safe_load(sys.stdin)['spec']['containers'][0]['env']))";
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        python.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        let list: Vec<BTreeMap<String, serde_json::Value>> = serde_json::from_slice(&output.stdout).unwrap();
        for entry in &list {
            let read = entry.get("value");
            assert!(read.is_none_or(serde_json::Value::is_string), "{value}: {entry:?}");
            if entry["name"] == "k8s_config_file" {
                assert_eq!(read.and_then(|read| read.as_str()), Some(*value));
            }
        }
    }
}

#[test]
fn the_selector_of_a_daemon_set_matches_its_template() {
    let printed = kube_vip(&["manifest", "daemonset", "--inCluster", "--taint", "--arp", "--services"], &[]);
    let set: DaemonSet = serde_saphyr::from_str(&printed.stdout).unwrap();
    let spec = set.spec.unwrap();
    let selector = spec.selector.match_labels.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    assert!(selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.service_account_name.as_deref(), Some("kube-vip"));
    assert_eq!(pod.tolerations.unwrap().len(), 2);
}

#[test]
fn a_role_needs_no_address_and_masquerading_no_privileges_without_the_load_balancer() {
    let printed = kube_vip(&["manifest", "rbac", "--controlplane", "--arp"], &[]);
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    let yaml = pod(&[ARP, &["--lbForwardingMethod", "masquerade"]].concat(), &[]);
    let context = spec(&yaml).containers[0].security_context.clone().unwrap();
    assert_eq!(context.privileged, None);
}

#[test]
fn a_secret_as_plain_text_is_a_warning_that_names_the_other_form() {
    let args = "manifest daemonset --services --bgp --bgpRouterID 192.0.2.9 --bgppeers 192.0.2.1:65001:hunter2:false";
    let printed = kube_vip(&args.split_whitespace().collect::<Vec<_>>(), &[]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    let secret = "bgp_peers is a secret, and the manifest contains it as plain text: use a peer of bgp_peers with `passwordSecret`";
    assert!(printed.stderr.contains(secret) && !printed.stderr.contains("hunter2"), "{}", printed.stderr);
}

#[test]
fn the_manifests_of_the_project_are_up_to_date() {
    for sample in samples::all() {
        let path = format!("{}/manifests/{}", env!("CARGO_MANIFEST_DIR"), sample.file);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(samples::render(&sample).unwrap(), found, "run `cargo xtask manifests`");
    }
}

#[test]
fn the_policies_of_the_project_are_up_to_date() {
    for (name, text) in admission::files().unwrap() {
        let path = format!("{}/manifests/policy/{name}", env!("CARGO_MANIFEST_DIR"));
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(text, found, "run `cargo xtask manifests`");
    }
}

#[test]
fn the_reference_of_the_project_is_up_to_date() {
    let path = format!("{}/docs/configuration.md", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(
        show::reference(),
        std::fs::read_to_string(path).unwrap_or_default(),
        "run `cargo xtask docs`"
    );
}

#[test]
fn invalid_input_prints_one_line_per_problem_and_nothing_else() {
    let table: [(&[&str], i32, &[&str]); 12] = [
        (
            &["manifest", "pod", "--controlplane", "--arp"],
            1,
            &["no address is specified for kube-vip to expose services on"],
        ),
        (&["manifest", "pod", "--arp", "--table", "--services"], 1, &["multiple kube-vip modes detected"]),
        (
            &["manifest", "pod", "--arp", "--services", "--image", "a b"],
            1,
            &["`a b` is not an image reference"],
        ),
        // As `manager` reports them, all together.
        (
            &["manifest", "pod", "--arp", "--controlplane", "--address", "192.0.2.300", "--vipSubnet", "300"],
            1,
            &["flag --vipSubnet: `300`", "flag --address: `192.0.2.300` is not an IP address or a DNS name"],
        ),
        (
            &["manifest", "rbac", "--controlplane", "--arp", "--namespace", "Bad_NS"],
            1,
            &["flag --namespace: `Bad_NS` is not the name of a namespace"],
        ),
        (
            &["manifest", "pod", "--port", "0", "--dnsMode", "ipv5"],
            1,
            &["flag --port: `0`", "flag --dnsMode: `ipv5`"],
        ),
        (
            &["manifest", "pod", "--adress", "x"],
            2,
            &["unexpected argument '--adress' found; did you mean `--address`?"],
        ),
        (
            &["manifest", "pod", "--cidr", "32"],
            2,
            &["unexpected argument '--cidr' found; did you mean `--vipSubnet`?"],
        ),
        // A word that is not near is no hint.
        (&["manifest", "pod", "--cidrs", "32"], 2, &["unexpected argument '--cidrs' found\n"]),
        (
            &[
                "manifest",
                "rbac",
                "--services",
                "--bgp",
                "--servicesLeaseName",
                "A_b",
                "--bgppeers",
                "192.0.2.1:x",
            ],
            1,
            &[
                "flag --servicesLeaseName: `A_b` is not the name of a Lease",
                "flag --bgppeers: peer 1, field 2 (AS): `x`",
            ],
        ),
        (&["manifest", "rbac", "--arp", "--bgp"], 1, &["multiple kube-vip modes detected"]),
        (&["manifest", "prod"], 2, &["unrecognized subcommand 'prod'; did you mean `pod`?"]),
    ];
    for (args, code, expected) in table {
        let printed = kube_vip(args, &[]);
        assert_eq!((printed.code, printed.stdout.as_str()), (Some(code), ""), "{args:?}");
        let lines: Vec<&str> = printed.stderr.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{args:?}: {lines:?}");
        for (line, part) in lines.iter().zip(expected) {
            let line = format!("{line}\n");
            assert!(line.starts_with("kube-vip: ") && line.contains(part), "{line}");
        }
    }
}

#[test]
fn commands_print_what_the_go_program_prints() {
    let version = kube_vip(&["version"], &[]).stdout;
    let lines: Vec<&str> = version.lines().collect();
    assert_eq!(lines[0], "Kube-VIP Release Information");
    assert!(lines[1].starts_with("Version:  v") && lines[2].starts_with("Build:    "));
    for args in [&[][..], &["sample"], &["kubeadm"], &["manifest"]] {
        let printed = kube_vip(args, &[]);
        assert!(printed.code == Some(0) && printed.stdout.contains("Usage:"), "{args:?}");
    }
    let init = &["--interface", "eth0", "--address", "192.0.2.1", "--arp", "--controlplane"];
    let kubeadm = kube_vip(&[&["kubeadm", "init"], &init[..]].concat(), &[]).stdout;
    assert_eq!(kubeadm, pod(init, &[]));
    let join = kube_vip(&[&["kubeadm", "join", "--config", "/nowhere"], &init[..]].concat(), &[]);
    assert!(join.code == Some(1) && join.stderr.contains("/nowhere does not exist"), "{}", join.stderr);
    for shell in ["bash", "zsh", "fish", "powershell"] {
        assert!(kube_vip(&["completion", shell], &[]).stdout.len() > 1000, "{shell}");
    }
}
