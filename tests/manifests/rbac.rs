//! Roles and bindings.

use super::{ARP, kube_vip, pod, spec};

#[test]
fn rbac_is_the_requested_kinds_and_roles_in_other_namespaces() {
    let kinds = |args: &[&str]| -> Vec<String> {
        let printed = kube_vip(&[&["manifest", "rbac", "--services", "--bgp"], args].concat(), &[]);
        let lines = printed.stdout.lines().filter_map(|line| line.strip_prefix("kind: "));
        lines.map(str::to_owned).collect()
    };
    let others = ["Role", "RoleBinding"];
    for (args, main, namespaces) in [
        (&[][..], ["ClusterRole", "ClusterRoleBinding"], 1),
        (&["--role"], ["Role", "RoleBinding"], 2),
        (&["--rolebinding"], ["ClusterRole", "RoleBinding"], 2),
    ] {
        let expected = [&["ServiceAccount"][..], &main, &others.repeat(namespaces)].concat();
        assert_eq!(kinds(args), expected, "{args:?}");
    }
}

/// Every rule as `namespace resource=name: verbs`; `*` stands for a ClusterRole.
fn rights(args: &str) -> Vec<String> {
    let printed = kube_vip(&args.split_whitespace().collect::<Vec<_>>(), &[]);
    let silent = printed.stderr.is_empty() || args.contains("--role");
    assert!(printed.code == Some(0) && silent, "{args}: {}", printed.stderr);
    let mut found = Vec::new();
    for document in printed.stdout.split("---\n").skip(1) {
        let object: serde_json::Value = serde_saphyr::from_str(document).unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("*");
        for rule in object["rules"].as_array().into_iter().flatten() {
            let name = rule["resourceNames"][0].as_str().map(|name| format!("={name}")).unwrap_or_default();
            let verbs: Vec<&str> =
                rule["verbs"].as_array().unwrap().iter().filter_map(|verb| verb.as_str()).collect();
            let resource = rule["resources"][0].as_str().unwrap();
            found.push(format!("{namespace} {resource}{name}: {}", verbs.join(" ")));
        }
    }
    found
}

const NODE: [&str; 2] = ["default events: create patch", "default endpointslices=kubernetes: watch"];
const ALL_LEASES: &str = "* leases: create get list update watch";
const CLUSTER_INFO: &str = "kube-public configmaps=cluster-info: list watch";

/// What watches of Services need, with these rights for Leases in between.
fn for_services(leases: &[&'static str]) -> Vec<&'static str> {
    let objects = [
        "* events: create patch",
        "* nodes: list watch",
        "* services: list watch",
        "* services/status: patch",
    ];
    let networks = ["* endpointslices: list watch", "* servicecidrs: list watch"];
    [&objects[..], leases, &networks, &[CLUSTER_INFO]].concat()
}

#[test]
fn the_roles_have_the_rights_that_the_mode_needs() {
    let services = for_services(&[]);
    let common = "kube-system leases: create list watch";
    let of_services = "kube-system leases=plndr-svcs-lock: get update";
    let labelled: Vec<&str> = services
        .iter()
        .map(|right| if right.starts_with("* nodes") { "* nodes: get list patch watch" } else { right })
        .collect();
    let peers =
        r#"[{"address":"192.0.2.1","as":65001,"passwordSecret":"bgp/router","nodeSelector":{"rack":"a"}}]"#;
    let peers = format!("--controlplane --bgp --bgppeers {peers}");
    let table = [
        // Every mode.
        ("", [&["* endpoints: list watch"][..], &for_services(&[ALL_LEASES])].concat()),
        (
            "--controlplane --arp",
            [
                &NODE[..],
                &["kube-system leases: create", "kube-system leases=plndr-cp-lock: get update watch"],
            ]
            .concat(),
        ),
        (
            "--controlplane --bgp --leaderElection --leaseName infra/vip",
            [&NODE[..], &["infra leases: create", "infra leases=vip: get update watch"]].concat(),
        ),
        ("--controlplane --bgp", NODE.to_vec()),
        ("--controlplane --table --enableNodeLabeling", [&["* nodes: get patch"][..], &NODE].concat()),
        ("--services --arp", [&services[..], &[common, of_services]].concat()),
        (
            "--controlplane --services --arp --enableNodeLabeling",
            [&labelled[..], &[common, "kube-system leases=plndr-cp-lock: get update", of_services]].concat(),
        ),
        ("--services --arp --servicesElection", for_services(&[ALL_LEASES])),
        ("--services --arp --servicesElectionGroups 8", for_services(&[ALL_LEASES])),
        ("--services --arp --perServiceElectionOnDemand", for_services(&[ALL_LEASES])),
        ("--services --arp --servicesLocalElection", for_services(&[ALL_LEASES])),
        // A Service with a DHCP lease is elected.
        ("--services --bgp", for_services(&[ALL_LEASES])),
        (
            "--services --table --enableEndpoints --disableServiceUpdates",
            vec![
                "* endpoints: list watch",
                "* events: create patch",
                "* nodes: list watch",
                "* services: list watch",
                ALL_LEASES,
                "* servicecidrs: list watch",
                NODE[1],
                CLUSTER_INFO,
            ],
        ),
        (&peers, [&["* nodes: list watch", "bgp secrets=router: get"][..], &NODE].concat()),
        (
            "--services --arp --role",
            vec![
                "kube-system events: create patch",
                "kube-system services: list watch",
                "kube-system services/status: patch",
                common,
                of_services,
                "kube-system endpointslices: list watch",
                NODE[0],
                NODE[1],
                CLUSTER_INFO,
            ],
        ),
    ];
    for (args, expected) in table {
        assert_eq!(rights(&format!("manifest rbac {args}")), expected, "{args}");
    }
}

#[test]
fn a_group_has_roles_of_its_own_and_a_pod_the_kubeconfig_of_its_user() {
    let group = "subjects:\n- apiGroup: rbac.authorization.k8s.io\n  kind: Group\n  name: kube-vip:nodes\n";
    for mode in ["--controlplane --arp", "--services --arp --role"] {
        let args: Vec<&str> = ["manifest", "rbac"].into_iter().chain(mode.split(' ')).collect();
        let printed = kube_vip(&[&args[..], &["--group", "kube-vip:nodes"]].concat(), &[]).stdout;
        let bindings = printed.matches("\nsubjects:\n").count();
        assert_eq!((bindings > 1, printed.matches(group).count()), (true, bindings), "{printed}");
        // It replaces no object of a DaemonSet.
        let of_account = kube_vip(&args, &[]).stdout;
        let is_name = |line: &&str| line.starts_with("  name: ");
        assert!(
            printed.lines().filter(is_name).all(|line| line.starts_with("  name: kube-vip:")),
            "{printed}"
        );
        assert!(!of_account.contains("  name: kube-vip:"), "{of_account}");
        assert_eq!(printed.matches("  verbs:\n").count(), of_account.matches("  verbs:\n").count());
    }
    // The Lease is where the pod of these flags has it.
    let other =
        "manifest rbac --group x --controlplane --arp --namespace kv --serviceNamespace lb".split(' ');
    let printed = kube_vip(&other.collect::<Vec<_>>(), &[]).stdout;
    assert!(printed.contains("  name: kube-vip:group:x\n  namespace: kv\n"), "{printed}");
    let file = "/etc/kubernetes/kube-vip.conf";
    let spec = spec(&pod(&[ARP, &["--k8sConfigPath", file]].concat(), &[]));
    assert_eq!(spec.volumes.unwrap()[0].host_path.as_ref().unwrap().path, file);
    let mounts = spec.containers[0].volume_mounts.as_ref().unwrap();
    assert_eq!(mounts[0].mount_path, "/etc/kubernetes/admin.conf");
}
