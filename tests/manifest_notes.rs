//! Warnings that the program prints beside a manifest or a plan.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::process::Command;

struct Printed {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

fn kube_vip(args: &[&str], env: &[(&str, &str)]) -> Printed {
    let mut program = Command::new(env!("CARGO_BIN_EXE_kube-vip"));
    let program = program.args(args).env_clear().env("KUBE_VIP_IMAGE", "registry.example/kube-vip:v1");
    let output = program.envs(env.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Printed { stdout: text(output.stdout), stderr: text(output.stderr), code: output.status.code() }
}

#[test]
fn a_role_in_one_namespace_states_what_it_leaves_out() {
    for (args, expected) in [
        (
            "--services --bgp --role",
            &[
                "flag --role leaves out rights for nodes (list, watch) and servicecidrs (list, watch)",
                "set svc_namespace",
            ][..],
        ),
        (
            "--services --bgp --rolebinding",
            &["flag --rolebinding leaves out rights for nodes", "set svc_namespace"],
        ),
        ("--services --bgp --role --serviceNamespace lab", &["flag --role leaves out"]),
        (
            "--controlplane --arp --role --enableNodeLabeling",
            &["rights for nodes (get, patch), which belong to no namespace: nodes get no labels; omit"],
        ),
        ("--controlplane --arp --role", &[]),
        ("--services --bgp", &[]),
    ] {
        let args: Vec<&str> = "manifest rbac".split(' ').chain(args.split(' ')).collect();
        let printed = kube_vip(&args, &[]);
        let lines: Vec<&str> = printed.stderr.lines().collect();
        assert_eq!((printed.code, lines.len()), (Some(0), expected.len()), "{args:?}: {lines:?}");
        for (line, part) in lines.iter().zip(expected) {
            assert!(line.starts_with("kube-vip: warning: ") && line.contains(part), "{line}");
        }
    }
}

#[test]
fn the_deprecated_address_has_no_prefix_length_and_a_warning() {
    let of = |flags: &str| {
        let base = "manifest pod --interface eth0 --controlplane --arp";
        let args: Vec<&str> = base.split(' ').chain(flags.split(' ')).collect();
        let printed = kube_vip(&args, &[]);
        let mut lines = printed.stdout.lines().skip_while(|line| line.trim() != "- name: vip_subnet");
        let subnet = lines.nth(1).and_then(|line| Some(line.trim().strip_prefix("value: ")?.to_owned()));
        (subnet, printed.stderr.contains("is deprecated, and without vip_subnet"))
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(of("--address 192.0.2.1"), (text("\"32\""), false));
    assert_eq!(of("--vip 192.0.2.1"), (None, true));
    assert_eq!(of("--vip 192.0.2.1 --vipSubnet 32"), (text("\"32\""), false));
}

#[test]
fn a_plan_has_the_notes_of_a_start() {
    let vip =
        [("vip_arp", "true"), ("cp_enable", "true"), ("address", "198.51.100.7"), ("vip_interface", "lo")];
    let plan = |more: &[(&str, &str)]| kube_vip(&["manager", "--dry-run"], &[&vip[..], more].concat()).stdout;
    assert!(!plan(&[]).contains("Note:"), "{}", plan(&[]));
    let same_port = plan(&[("health_check_port", "2112"), ("prometheus_server", ":2112")]);
    assert!(same_port.contains("Note: port 2112 is that of prometheus_server by variable"), "{same_port}");
}

#[test]
fn a_typo_in_a_variable_is_a_warning_and_manager_lists_the_interfaces() {
    let printed = kube_vip(&["manifest", "pod", "--arp", "--services"], &[("vip_adress", "x")]);
    assert_eq!(printed.code, Some(0));
    assert!(printed.stderr.contains("variable vip_adress is not known"), "{}", printed.stderr);
    let env =
        [("vip_arp", "true"), ("cp_enable", "true"), ("address", "192.0.2.1"), ("vip_interface", "eth9")];
    let printed = kube_vip(&["manager"], &env);
    assert_eq!(printed.code, Some(1));
    assert!(
        printed.stderr.contains("`eth9` is not an interface of this host, which has: lo"),
        "{}",
        printed.stderr
    );
    // No host and no gateway of the machine has it.
    let env =
        [("vip_arp", "true"), ("cp_enable", "true"), ("address", "198.51.100.7"), ("vip_interface", "lo")];
    let printed = kube_vip(&["manager", "--dry-run"], &env);
    assert!(
        printed.stdout.starts_with("The configuration is valid."),
        "{} {}",
        printed.stdout,
        printed.stderr
    );
    assert!(!printed.stdout.contains("Note:"), "{}", printed.stdout);
    let lease = "Control plane: 198.51.100.7 on lo, announced by ARP from the holder of the Lease kube-system/plndr-cp-lock";
    assert!(printed.stdout.contains(lease), "{}", printed.stdout);
    let env = [
        ("bgp_enable", "true"),
        ("svc_enable", "true"),
        ("bgp_routerid", "192.0.2.9"),
        ("bgp_peers", "192.0.2.1:65001,unnumbered:lo"),
    ];
    let printed = kube_vip(&["manager", "--dry-run"], &env);
    let expected = "Services: announced by BGP from every node that can serve them.\n\
                    BGP: AS 65000, peers 192.0.2.1:179, unnumbered:lo.\n";
    assert!(printed.stdout.ends_with(expected), "{} {}", printed.stdout, printed.stderr);
}

#[test]
fn credentials_that_a_pod_may_not_have_are_a_warning() {
    for (args, part) in [
        ("pod", None),
        (
            "pod --inCluster",
            Some("a static pod, of the folder /etc/kubernetes/manifests, has no service account"),
        ),
        ("daemonset --inCluster", None),
        ("daemonset", Some("without --inCluster each pod uses admin.conf of its node")),
    ] {
        let args: Vec<&str> =
            "manifest".split(' ').chain(args.split(' ')).chain(["--services", "--arp"]).collect();
        let printed = kube_vip(&args, &[]);
        assert_eq!(
            printed.stderr.lines().count(),
            usize::from(part.is_some()),
            "{args:?}: {}",
            printed.stderr
        );
        assert!(part.is_none_or(|part| printed.stderr.contains(part)), "{args:?}: {}", printed.stderr);
    }
}

#[test]
fn an_image_that_is_not_named_cannot_be_pulled() {
    for (args, env, image, warned) in [
        ("pod", "", "localhost/kube-vip:v", true),
        ("pod --image a.example/b:1", "", "a.example/b:1", false),
        ("daemonset --inCluster", "a.example/own@sha256:xyz", "", false),
        ("daemonset --inCluster", "a.example/own:1", "a.example/own:1", false),
    ] {
        let args = ["manifest"].into_iter().chain(args.split(' ')).chain(["--services", "--arp"]);
        let printed = kube_vip(&args.collect::<Vec<_>>(), &[("KUBE_VIP_IMAGE", env)]);
        let found = printed.stdout.lines().find_map(|line| line.trim().strip_prefix("image: "));
        assert!(found.unwrap_or_default().starts_with(image), "{env}: {found:?}");
        assert_eq!(printed.code, Some(if image.is_empty() { 1 } else { 0 }), "{}", printed.stderr);
        assert_eq!(
            printed.stderr.contains("no registry has the image localhost/kube-vip"),
            warned,
            "{}",
            printed.stderr
        );
    }
}
