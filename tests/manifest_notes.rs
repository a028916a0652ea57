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
    let output = program.args(args).env_clear().envs(env.iter().copied()).output().unwrap();
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
    let vip = [("vip_arp", "true"), ("cp_enable", "true"), ("address", "192.0.2.1"), ("vip_interface", "lo")];
    let plan = |more: &[(&str, &str)]| kube_vip(&["manager", "--dry-run"], &[&vip[..], more].concat()).stdout;
    assert!(!plan(&[]).contains("Note:"), "{}", plan(&[]));
    let same_port = plan(&[("health_check_port", "2112"), ("prometheus_server", ":2112")]);
    assert!(same_port.contains("Note: port 2112 is that of prometheus_server by variable"), "{same_port}");
}
