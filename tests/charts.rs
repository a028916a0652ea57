//! The Helm charts, by Helm.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube_vip::config::{Raw, Sources, check};
use kube_vip::manifest::chart;
use kube_vip_lab::charts::{CHARTS, value_sets};
use serde_json::Value;

const AGENT: &str = "charts/kube-vip";
const PROVIDER: &str = "charts/kube-vip-cloud-provider";

/// The objects that a chart makes of these values, or Helm's error.
fn render(chart: &str, values: &[&str]) -> Result<Vec<Value>, String> {
    let helm = kube_vip_lab::binaries::find("helm").unwrap();
    let mut command = Command::new(helm);
    command.args(["template", "release", chart, "--namespace", "kube-system"]);
    for value in values {
        let is_json = value.contains("={") || value.contains("=[{") || value.ends_with("=null");
        command.args([if is_json { "--set-json" } else { "--set-string" }, value]);
    }
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8(output.stderr).unwrap());
    }
    Ok(objects(&String::from_utf8(output.stdout).unwrap()))
}

/// The objects of a stream of YAML.
fn objects(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| document.contains("kind: "));
    documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn of_kind<T: serde::de::DeserializeOwned>(objects: &[Value], kind: &str) -> Vec<T> {
    let found = objects.iter().filter(|object| object["kind"] == kind);
    found.map(|object| serde_json::from_value(object.clone()).unwrap()).collect()
}

/// Names and values of the variables of a DaemonSet.
fn variables(daemon_set: &DaemonSet) -> BTreeMap<String, Option<String>> {
    let pod = daemon_set.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let all = pod.containers[0].env.iter().flatten();
    all.map(|variable| (variable.name.clone(), variable.value.clone())).collect()
}

#[test]
fn helm_finds_no_fault() {
    let helm = kube_vip_lab::binaries::find("helm").unwrap();
    for chart in [AGENT, PROVIDER] {
        let mut command = Command::new(&helm);
        let output =
            command.args(["lint", "--strict", chart]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_schema_of_the_values_is_up_to_date() {
    let path = format!("{}/{AGENT}/values.schema.json", env!("CARGO_MANIFEST_DIR"));
    let found = std::fs::read_to_string(path).unwrap();
    assert_eq!(found, format!("{:#}\n", chart::schema()), "run `cargo xtask manifests`");
}

#[test]
fn documented_values_become_the_objects_of_tests_charts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sets = value_sets(root).unwrap();
    let mut differ = Vec::new();
    for set in &sets {
        let path = set.expected(root);
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        if set.render(root).unwrap() != expected {
            differ.push(path.display().to_string());
        }
    }
    assert!(differ.is_empty(), "run `cargo xtask manifests` and read the difference of {differ:#?}");
    let files = CHARTS.map(|chart| std::fs::read_dir(root.join("tests/charts").join(chart)).unwrap().count());
    assert_eq!(files.iter().sum::<usize>(), sets.len(), "tests/charts has files without values");
    for chart in CHARTS {
        let page = std::fs::read_to_string(root.join("charts").join(chart).join("README.md")).unwrap();
        for set in sets.iter().filter(|set| set.chart == chart && set.file.is_some()) {
            assert!(page.contains(&format!("/{}.yaml)", set.name)), "{} is not described", set.name);
        }
    }
}

/// With the variables of each DaemonSet `manager` starts.
#[test]
fn settings_of_documented_values_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for set in value_sets(root).unwrap().iter().filter(|set| set.chart == "kube-vip") {
        for agent in of_kind::<DaemonSet>(&objects(&set.render(root).unwrap()), "DaemonSet") {
            let given = variables(&agent).into_iter().filter_map(|(name, value)| Some((name, value?)));
            let peers = ("bgp_peers".to_owned(), "192.0.2.1:65000".to_owned());
            let secret = variables(&agent).contains_key("bgp_peers").then_some(peers);
            let env = given.chain(secret).collect();
            let (raw, problems, notes) = Raw::collect(&Sources { env, ..Sources::default() });
            assert_eq!((problems, notes), (Vec::new(), Vec::new()), "{set:?}");
            assert_eq!(check(raw, None).unwrap().notes, [""; 0], "{set:?}");
        }
    }
}

#[test]
fn the_schema_and_the_program_agree_on_these_values() {
    let text = |value: &str| match serde_json::from_str(value).unwrap() {
        Value::String(text) => text,
        other => other.to_string(),
    };
    for (variable, good, bad) in [
        (
            "vip_arp",
            &[r#""""#, "true", r#""T""#, r#""FALSE""#, "0", r#"" true ""#][..],
            &[r#""yes""#, "2", r#""tRUE""#][..],
        ),
        (
            "vip_leaseduration",
            &["5", r#""+5""#, r#""15""#],
            &[r#""5s""#, "4000", r#""five""#, "1.5", r#""-5""#, r#""99999""#, r#""{{ 5 }}""#],
        ),
        ("dns_mode", &[r#""ipv4""#, r#""DUAL""#], &[r#""ipv5""#, "4"]),
        ("debounce_time", &[r#""1m30s""#, r#""0.5s""#, "0"], &["5", r#""5""#, r#""1d""#]),
        (
            "control_plane_health_check_address",
            &[r#""https://localhost:6443/livez""#],
            &[r#""localhost:6443""#],
        ),
    ] {
        let schema_says =
            |value: &str| render(AGENT, &[&format!(r#"env={{"{variable}": {value}}}"#)]).is_ok();
        let program_says = |value: &str| {
            let env = vec![(variable.to_owned(), text(value))];
            Raw::collect(&Sources { env, ..Sources::default() }).1.is_empty()
        };
        for value in good {
            assert!(schema_says(value) && program_says(value), "{variable}: {value}");
        }
        for value in bad {
            assert!(!schema_says(value) && !program_says(value), "{variable}: {value}");
        }
    }
}

#[test]
fn the_alerting_rules_of_the_chart_are_those_of_monitoring() {
    let read =
        |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let rules = read("monitoring/rules.yaml");
    assert!(rules == read(&format!("{AGENT}/files/rules.yaml")), "run `cargo xtask manifests`");
    let objects =
        render(AGENT, &[r#"prometheusRule={"enabled": true, "labels": {"release": "prometheus"}}"#]).unwrap();
    let found = objects.iter().find(|object| object["kind"] == "PrometheusRule").unwrap();
    assert_eq!(found["spec"], serde_saphyr::from_str::<Value>(&rules).unwrap());
    assert_eq!(found["metadata"]["labels"]["release"], "prometheus");
    let without = render(AGENT, &["prometheusRule=null"]).unwrap();
    assert!(without.iter().all(|object| object["kind"] != "PrometheusRule"));
}

#[test]
fn a_typo_in_a_value_is_an_error() {
    for (value, part) in [
        ("env.vip_adress=10.0.0.1", "vip_adress"),
        ("extraArgs.interfase=eth0", "interfase"),
        ("image.repo=x", "repo"),
        ("tolerates=x", "tolerates"),
    ] {
        let error = render(AGENT, &[value]).unwrap_err();
        assert!(error.contains(part) && error.contains("additional"), "{error}");
    }
    // Of a type that the API server rejects, or another tag than was meant.
    for (value, part) in [
        (r#"annotations={"a": 1}"#, "/annotations/a"),
        (r#"nodeSelector={"a": true}"#, "/nodeSelector/a"),
        ("image.pullPolicy=Alway", "/image/pullPolicy"),
        (r#"image={"tag": 0.10}"#, "/image/tag"),
    ] {
        for chart in [AGENT, PROVIDER] {
            let error = render(chart, &[value]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
    for (value, part) in [
        (r#"cm={"data": {"rnage-global": "10.0.0.1"}}"#, "rnage-global"),
        (r#"cm={"data": {"range-": "10.0.0.1"}}"#, "range-"),
        (r#"cm={"data": {"range-GLOBAL": "10.0.0.1"}}"#, "range-GLOBAL"),
        ("extraArgs.upnnp=true", "upnnp"),
        ("replicas=2", "replicas"),
    ] {
        let error = render(PROVIDER, &[value]).unwrap_err();
        assert!(error.contains(part) && error.contains("additional"), "{error}");
    }
    let keys =
        r#"cm={"data": {"range-a-b": "10.0.0.1", "allow-share-global": true, "search-order": "desc"}}"#;
    render(PROVIDER, &[keys, "extraArgs.upnp=true", "extraArgs.leader-elect=false"]).unwrap();
    let error = render(AGENT, &["env.cp_enable=true"]).unwrap_err();
    assert!(error.contains("config.address is the control plane's VIP: set it"), "{error}");
}

/// `helm upgrade` cannot change these of a release of the Go program's chart.
#[test]
fn names_and_selectors_are_those_of_the_go_programs_charts() {
    let labels = |name: &str| {
        let pairs = [("app.kubernetes.io/instance", "release"), ("app.kubernetes.io/name", name)];
        Some(BTreeMap::from(pairs.map(|(key, value)| (key.to_owned(), value.to_owned()))))
    };
    let agents: Vec<DaemonSet> = of_kind(&render(AGENT, &[]).unwrap(), "DaemonSet");
    assert_eq!(agents[0].metadata.name.as_deref(), Some("kube-vip"));
    assert_eq!(agents[0].spec.as_ref().unwrap().selector.match_labels, labels("kube-vip"));
    let providers: Vec<Deployment> = of_kind(&render(PROVIDER, &[]).unwrap(), "Deployment");
    let name = "kube-vip-cloud-provider";
    assert_eq!(providers[0].metadata.name.as_deref(), Some(name));
    assert_eq!(providers[0].spec.as_ref().unwrap().selector.match_labels, labels(name));
}

#[test]
fn variables_of_the_go_programs_chart_reach_the_agent() {
    let values = [
        "config.address=192.0.2.1",
        "env.cp_enable=true",
        "env.lb_enable=true",
        "env.lb_port=6443",
        "env.vip_subnet=32",
        "env.vip_interface=",
        "env.svc_election=false",
    ];
    let agents: Vec<DaemonSet> = of_kind(&render(AGENT, &values).unwrap(), "DaemonSet");
    let found = variables(&agents[0]);
    let value = |name: &str| found.get(name).and_then(|value| value.as_deref());
    assert_eq!((value("address"), value("vip_subnet")), (Some("192.0.2.1"), Some("32")));
    assert_eq!(value("svc_election"), Some("false"));
    // This version refuses to balance connections of the control plane.
    assert!(!found.contains_key("lb_enable") && found.contains_key("vip_nodename"), "{found:?}");
    let env = found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let (raw, problems, _) = Raw::collect(&Sources { env, ..Sources::default() });
    assert_eq!(problems, []);
    assert!(check(raw, None).is_ok());
}

#[test]
fn a_secret_is_a_reference_and_two_processes_have_a_port_each() {
    let values = [
        "config.address=192.0.2.1",
        "env.cp_enable=true",
        "extraArgs.controlplane=true",
        "extraArgs.healthCheckPort=2200",
        r#"separate={"enabled": true}"#,
        r#"envValueFrom={"bgp_peers": {"secretKeyRef": {"name": "peers", "key": "list"}}}"#,
    ];
    let agents: Vec<DaemonSet> = of_kind(&render(AGENT, &values).unwrap(), "DaemonSet");
    let [first, second] = &agents[..] else { panic!("{agents:?}") };
    let of = |daemon_set: &DaemonSet, name: &str| variables(daemon_set).get(name).cloned();
    let text = |value: &str| Some(Some(value.to_owned()));
    assert_eq!((of(first, "cp_enable"), of(first, "svc_enable")), (text("true"), text("false")));
    // Variables precede flags, which both have.
    assert_eq!((of(second, "cp_enable"), of(second, "svc_enable")), (text("false"), text("true")));
    assert_eq!((of(first, "health_check_port"), of(second, "health_check_port")), (text("2200"), text("0")));
    let probes = |daemon_set: &DaemonSet| {
        daemon_set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0]
            .liveness_probe
            .is_some()
    };
    assert_eq!((probes(first), probes(second)), (true, false));
    assert_eq!((of(first, "address"), of(second, "address")), (text("192.0.2.1"), None));
    assert_eq!(
        (of(first, "prometheus_server"), of(second, "prometheus_server")),
        (text(":2112"), text(":2114"))
    );
    assert_eq!(of(first, "bgp_peers"), Some(None));
    let source = r#"envValueFrom={"health_check_port": {"configMapKeyRef": {"name": "own", "key": "port"}}}"#;
    let from: Vec<DaemonSet> =
        of_kind(&render(AGENT, &[&values[..], &[source]].concat()).unwrap(), "DaemonSet");
    let ports = from.iter().map(|it| of(it, "health_check_port"));
    assert_eq!(ports.collect::<Vec<_>>(), [Some(None), text("0")], "those of two processes on one host");
    let selector = |daemon_set: &DaemonSet| daemon_set.spec.as_ref().unwrap().selector.match_labels.clone();
    assert_ne!(selector(first), selector(second));
    let error = render(AGENT, &[r#"separate={"enabled": true}"#]).unwrap_err();
    assert!(
        error.contains("separate.enabled is for a control plane and Services: set env.cp_enable"),
        "{error}"
    );
    let affinity = |daemon_set: &DaemonSet| {
        daemon_set.spec.as_ref().unwrap().template.spec.as_ref().unwrap().affinity.is_some()
    };
    assert_eq!((affinity(first), affinity(second)), (true, false));
}

/// Every right as `namespace group/resource=name verb`; `*` stands for a ClusterRole.
fn rights(objects: &[Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    for object in objects.iter().filter(|object| object["rules"].is_array()) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("*");
        for rule in object["rules"].as_array().unwrap() {
            let names = list(&rule["resourceNames"]);
            let names = if names.is_empty() { vec!["*".to_owned()] } else { names };
            for (group, resource) in list(&rule["apiGroups"])
                .into_iter()
                .flat_map(|group| list(&rule["resources"]).into_iter().map(move |it| (group.clone(), it)))
            {
                for (name, verb) in names
                    .iter()
                    .flat_map(|name| list(&rule["verbs"]).into_iter().map(move |verb| (name, verb)))
                {
                    found.insert(format!("{namespace} {group}/{resource}={name} {verb}"));
                }
            }
        }
    }
    // What a right for all namespaces, or for all names, includes.
    let all = found.clone();
    found.retain(|right| {
        let (namespace, rest) = right.split_once(' ').unwrap();
        let (object, verb) = rest.rsplit_once(' ').unwrap();
        let (resource, name) = object.split_once('=').unwrap();
        let wider = [
            (name != "*").then(|| format!("{namespace} {resource}=* {verb}")),
            (namespace != "*").then(|| format!("* {resource}={name} {verb}")),
            (namespace != "*" && name != "*").then(|| format!("* {resource}=* {verb}")),
        ];
        !wider.into_iter().flatten().any(|wider| all.contains(&wider))
    });
    found
}

#[test]
fn the_agents_rights_are_those_of_its_manifest() {
    let secret = r#"[{"address": "192.0.2.9", "as": 65001, "passwordSecret": "bgp/peer", "nodeSelector": {"a": "b"}}]"#;
    let mixed =
        r#"["192.0.2.10:65001", {"address": "192.0.2.9", "as": 65001, "passwordSecret": "bgp/peer"}]"#;
    for env in [
        &[("svc_enable", "true"), ("vip_arp", "true")][..],
        &[("svc_enable", "true"), ("vip_arp", "true"), ("svc_election", "true")],
        &[("svc_enable", "true"), ("vip_arp", "true"), ("svc_election_groups", "16")],
        &[
            ("svc_enable", "true"),
            ("vip_arp", "true"),
            ("svc_local_election", "true"),
            ("enable_endpoints", "true"),
        ],
        &[("cp_enable", "true"), ("svc_enable", "false"), ("vip_arp", "true"), ("vip_leasename", "own/cp")],
        &[("cp_enable", "true"), ("svc_enable", "true"), ("vip_arp", "true"), ("svc_leasename", "svcs")],
        &[("cp_enable", "true"), ("svc_enable", "true"), ("vip_arp", "false"), ("vip_routingtable", "true")],
        &[
            ("svc_enable", "true"),
            ("vip_arp", "true"),
            ("disable_service_updates", "true"),
            ("enable_node_labeling", "true"),
        ],
        &[
            ("cp_enable", "true"),
            ("svc_enable", "true"),
            ("vip_arp", "false"),
            ("vip_routingtable", "true"),
            ("vip_leaderelection", "true"),
        ],
        &[("svc_enable", "true"), ("vip_arp", "false"), ("bgp_enable", "true"), ("bgp_peers", secret)],
        &[("svc_enable", "true"), ("vip_arp", "false"), ("bgp_enable", "true"), ("bgp_peers", mixed)],
        &[("svc_enable", "true"), ("vip_arp", "false"), ("bgp_enable", "true"), ("annotations", "bgp")],
        &[
            ("cp_enable", "true"),
            ("svc_enable", "false"),
            ("vip_arp", "false"),
            ("bgp_enable", "true"),
            ("vip_leaderelection", "true"),
            ("bgp_peers", "192.0.2.9:65001"),
            ("annotation", "bgp"),
        ],
    ] {
        let json: serde_json::Map<String, Value> =
            env.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        let values = [format!("env={}", Value::Object(json)), "config.address=192.0.2.1".to_owned()];
        let of_chart = rights(&render(AGENT, &values.each_ref().map(String::as_str)).unwrap());
        let mut program = Command::new(env!("CARGO_BIN_EXE_kube-vip"));
        program.args(["manifest", "rbac"]).env_clear().envs(env.iter().copied());
        let output = program.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let documents = text.split("---\n").filter(|document| document.contains("kind: "));
        let objects: Vec<Value> =
            documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect();
        let of_manifest = rights(&objects);
        let differ: Vec<&String> = of_chart.symmetric_difference(&of_manifest).collect();
        assert!(differ.is_empty() && !of_chart.is_empty(), "{env:?}: {differ:#?}");
    }
}

#[test]
fn the_providers_rights_are_those_of_its_manifest() {
    let file =
        std::fs::read_to_string(format!("{}/manifests/cloud-provider.yaml", env!("CARGO_MANIFEST_DIR")));
    let text = file.unwrap();
    let documents = text.split("---\n").filter(|document| document.contains("kind: "));
    let objects: Vec<Value> = documents.map(|document| serde_saphyr::from_str(document).unwrap()).collect();
    let values = ["configMapName=kubevip", "fullnameOverride=kube-vip-cloud-controller"];
    assert_eq!(rights(&render(PROVIDER, &values).unwrap()), rights(&objects));
}

#[test]
fn values_are_written_as_they_were_meant() {
    let values = [
        // Dropped, as in Helm.
        r#"env={"lb_enable": null, "vip_subnet": null, "bgp_as": 4200000001, "bgp_enable": true, "KUBERNETES_SERVICE_HOST": "h"}"#,
        "env.bgp_peers=[fd00::1]:65001::false",
        r#"securityContext={"privileged": true}"#,
    ];
    let agents: Vec<DaemonSet> = of_kind(&render(AGENT, &values).unwrap(), "DaemonSet");
    let found = variables(&agents[0]);
    let text = |value: &str| Some(Some(value.to_owned()));
    assert_eq!((found.get("lb_enable"), found.get("vip_subnet")), (None, None));
    assert_eq!(found.get("bgp_as").cloned(), text("4200000001"));
    assert_eq!(found.get("bgp_peers").cloned(), text("[fd00::1]:65001::false"));
    assert_eq!(found.get("KUBERNETES_SERVICE_HOST").cloned(), text("h"));
    let pod = agents[0].spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let context = pod.containers[0].security_context.as_ref().unwrap();
    // The API server rejects both together.
    assert_eq!((context.privileged, context.allow_privilege_escalation), (Some(true), None));
}

/// A pod may have a variable once.
#[test]
fn a_variable_has_the_source_that_precedes() {
    let agent = |values: &[&str]| {
        let agents: Vec<DaemonSet> = of_kind(&render(AGENT, values).unwrap(), "DaemonSet");
        variables(&agents[0])
    };
    let text = |value: &str| Some(Some(value.to_owned()));
    let source = r#"envValueFrom={"prometheus_server": {"secretKeyRef": {"name": "own", "key": "a"}}}"#;
    assert_eq!(agent(&[source]).get("prometheus_server"), Some(&None));
    let flags = [r#"extraArgs={"prometheusHTTPServer": ":9112", "services": false, "controlplane": null}"#];
    let found = agent(&[&flags[..], &["config.address=192.0.2.1"]].concat());
    let of = |name: &str| found.get(name).cloned();
    assert_eq!((of("prometheus_server"), of("svc_enable")), (text(":9112"), text("false")));
    assert_eq!((of("cp_enable"), of("address")), (text("true"), text("192.0.2.1")));
    let elsewhere = agent(&[
        r#"envValueFrom={"address": {"configMapKeyRef": {"name": "a", "key": "b"}}}"#,
        "env.cp_enable=true",
    ]);
    assert_eq!(elsewhere.get("address"), Some(&None));
    // Of older charts of the Go program.
    let former = chart::FORMER.map(|name| format!("env.{name}=a"));
    assert_eq!(agent(&former.each_ref().map(String::as_str)), agent(&[]));
}

#[test]
fn what_prometheus_finds_follows_the_release() {
    let monitor = r#"podMonitor={"enabled": true}"#;
    for (address, port) in [(":2112", 2112), ("0.0.0.0:2113", 2113), ("2114", 2114), ("", 2112)] {
        let objects = render(AGENT, &[monitor, &format!("env.prometheus_server={address}")]).unwrap();
        let agents: Vec<DaemonSet> = of_kind(&objects, "DaemonSet");
        let pod = agents[0].spec.as_ref().unwrap().template.spec.as_ref().unwrap();
        assert_eq!(pod.containers[0].ports.as_ref().unwrap()[0].container_port, port, "{address}");
    }
    let error = render(AGENT, &[monitor, "env.prometheus_server=127.0.0.1:2112"]).unwrap_err();
    assert!(error.contains("an address outside of loopback"), "{error}");
    let values = [r#"prometheusRule={"enabled": true}"#, "nameOverride=lb", "env.vip_leasename=own/my-lease"];
    let objects = render(AGENT, &values).unwrap();
    let rules = objects.iter().find(|object| object["kind"] == "PrometheusRule").unwrap().to_string();
    assert!(rules.contains(r#"(.+/)?lb(-services)?"#) && rules.contains(".+/my-lease"), "{rules}");
    assert!(!rules.contains("plndr-cp-lock") && !rules.contains("(.+/)?kube-vip(-services)?"), "{rules}");
}

/// Helm replaces the roles at once, and the pods one after the other.
#[test]
fn agents_of_the_go_program_may_keep_their_rights_until_they_are_replaced() {
    for chart in [AGENT, PROVIDER] {
        let go = rights(&render(chart, &[r#"rbac={"goProgram": true}"#]).unwrap());
        let own = rights(&render(chart, &[]).unwrap());
        assert!(go.contains("* /services=* update") && !own.contains("* /services=* update"), "{go:?}");
    }
    let more = r#"rbac={"extraRules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}"#;
    assert!(rights(&render(AGENT, &[more]).unwrap()).contains("* /pods=* get"));
}

#[test]
fn two_processes_have_the_rights_of_both() {
    let separate =
        r#"separate={"enabled": true, "env": {"svc_election": true, "enable_node_labeling": false}}"#;
    let values = [
        "config.address=192.0.2.1",
        "env.cp_enable=true",
        "env.enable_node_labeling=true",
        "env.vip_leasename=own/cp",
        separate,
    ];
    let found = rights(&render(AGENT, &values).unwrap());
    for right in ["coordination.k8s.io/leases=* create", "/nodes=* patch"] {
        assert!(found.contains(&format!("* {right}")), "{right}: {found:#?}");
    }
}

/// The values of a release of the Go program's chart, kept by `helm upgrade --reuse-values`.
#[test]
fn the_image_of_the_go_program_is_refused_unless_it_is_meant() {
    for (chart, image) in [
        (AGENT, "ghcr.io/kube-vip/kube-vip"),
        (AGENT, "plndr/kube-vip"),
        (PROVIDER, "kubevip/kube-vip-cloud-provider"),
        (PROVIDER, "ghcr.io/kube-vip/kube-vip-cloud-provider"),
    ] {
        let values = [format!("image.repository={image}"), r#"rbac={"goProgram": true}"#.to_owned()];
        let error = render(chart, &[&values[0]]).unwrap_err();
        assert!(error.contains("the image of the Go program: set it to localhost/"), "{error}");
        assert!(render(chart, &values.each_ref().map(String::as_str)).is_ok());
    }
    let tagged = render(AGENT, &[r#"image={"tag": 20261127}"#]).unwrap();
    let agents: Vec<DaemonSet> = of_kind(&tagged, "DaemonSet");
    let pod = agents[0].spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    assert_eq!(pod.containers[0].image.as_deref(), Some("localhost/kube-vip:20261127"));
}

#[test]
fn pods_keep_their_account_while_they_are_replaced() {
    let values = ["serviceAccount.name=own", r#"rbac={"goProgram": true}"#];
    let accounts = |values: &[&str]| -> Vec<String> {
        let objects = render(AGENT, values).unwrap();
        let all = objects.iter().filter(|object| object["kind"] == "ServiceAccount");
        all.map(|account| account["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(accounts(&values), ["own", "kube-vip"]);
    assert_eq!(accounts(&values[..1]), ["own"]);
    let error = render(AGENT, &[r#"serviceAccount={"create": false}"#]).unwrap_err();
    assert!(error.contains("set serviceAccount.name"), "{error}");
}

#[test]
fn flags_of_the_provider_have_their_consequences() {
    let deployment = |values: &[&str]| {
        let objects = render(PROVIDER, values).unwrap();
        of_kind::<Deployment>(&objects, "Deployment").remove(0).spec.unwrap()
    };
    let alone = deployment(&[r#"extraArgs={"leader-elect": false}"#]);
    assert_eq!((alone.replicas, alone.strategy.unwrap().type_.as_deref()), (Some(1), Some("Recreate")));
    let silent = deployment(&[r#"extraArgs={"http-port": 0}"#]).template.spec.unwrap();
    assert!(silent.containers[0].ports.is_none() && silent.containers[0].liveness_probe.is_none());
    let local = deployment(&["extraArgs.bind-address=127.0.0.1"]).template.spec.unwrap();
    assert!(local.containers[0].liveness_probe.is_none() && local.containers[0].readiness_probe.is_none());
    let leases =
        |values: &[&str]| rights(&render(PROVIDER, values).unwrap()).iter().any(|it| it.contains("leases"));
    assert!(leases(&[]) && !leases(&[r#"extraArgs={"leader-elect": false}"#]));
    let named = deployment(&[r#"extraArgs={"leader-elect-resource-name": "{{ .Release.Name }}-lock"}"#]);
    let args = named.template.spec.unwrap().containers[0].args.clone().unwrap();
    assert_eq!(args[0], "--leader-elect-resource-name=release-lock");
    let lease =
        [r#"extraArgs={"leader-elect-resource-name": "own", "leader-elect-resource-namespace": "other"}"#];
    let args = deployment(&lease).template.spec.unwrap().containers[0].args.clone().unwrap();
    assert_eq!(args, ["--leader-elect-resource-name=own", "--leader-elect-resource-namespace=other"]);
    assert!(
        rights(&render(PROVIDER, &lease).unwrap()).contains("other coordination.k8s.io/leases=own update")
    );
}

/// `helm upgrade --reuse-values` on a release of the Go program's chart leaves out the defaults of what is new here.
#[test]
fn values_without_what_is_new_suffice() {
    let agents = render(
        AGENT,
        &["separate=null", "rbac=null", "podMonitor=null", "serviceAccount=null", "config=null"],
    );
    let agents = agents.unwrap();
    assert_eq!(of_kind::<DaemonSet>(&agents, "DaemonSet").len(), 1);
    let providers = render(PROVIDER, &["rbac=null", "cm=null"]).unwrap();
    assert!(!rights(&agents).is_empty() && !rights(&providers).is_empty());
}

#[test]
fn pools_and_flags_reach_the_provider() {
    let values = [
        r#"cm={"data": {"range-global": "192.0.2.1-192.0.2.9", "cidr-old": null}}"#,
        "extraArgs.dhcp-interface=eth0",
        "extraArgs.http-port=8080",
    ];
    let objects = render(PROVIDER, &values).unwrap();
    let pools = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    assert_eq!(pools["data"], serde_json::json!({ "range-global": "192.0.2.1-192.0.2.9" }));
    assert_eq!(pools["metadata"]["name"], "kube-vip-cloud-provider");
    let deployments: Vec<Deployment> = of_kind(&objects, "Deployment");
    let pod = deployments[0].spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    assert_eq!((pod.host_network, pod.security_context.as_ref().unwrap().run_as_user), (Some(true), Some(0)));
    let container = &pod.containers[0];
    assert_eq!(container.ports.as_ref().unwrap()[0].container_port, 8080);
    let args = container.args.as_ref().unwrap();
    assert!(args.contains(&"--dhcp-interface=eth0".to_owned()), "{args:?}");
    let own = container.env.iter().flatten().find(|variable| variable.name == "KUBEVIP_CONFIG_MAP").unwrap();
    assert_eq!(own.value.as_deref(), Some("kube-vip-cloud-provider"));
}
