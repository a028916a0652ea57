//! Generated files are up to date.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

use std::collections::BTreeMap;

use kube_vip_cloud_provider::cli::{self, Command};
use kube_vip_cloud_provider::{chart, manifest, reference};

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_sample_manifest_is_up_to_date() {
    assert_eq!(
        file("manifests/cloud-provider.yaml"),
        manifest::sample().unwrap(),
        "run `cargo xtask manifests`"
    );
}

#[test]
fn the_schema_of_the_chart_is_up_to_date() {
    let schema = file("charts/kube-vip-cloud-provider/values.schema.json");
    assert_eq!(schema, format!("{:#}\n", chart::schema()), "run `cargo xtask manifests`");
}

#[test]
fn the_reference_is_up_to_date() {
    assert!(file("docs/services-reference.md") == reference::page(), "run `cargo xtask docs`");
}

/// The manifest of a command line, or what is wrong with it.
fn printed(flags: &[&str], env: &[(&str, &str)]) -> Result<String, String> {
    let args = ["kube-vip-cloud-provider", "manifest"].iter().chain(flags).map(Into::into);
    let env: BTreeMap<String, String> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let cli = cli::parse(args, &env).map_err(|error| format!("{error:?}"))?;
    let Command::Manifest { image } = &cli.command else { panic!("{:?}", cli.command) };
    let rendered = manifest::render(image.as_deref(), None, &cli.options, &cli.given);
    rendered.map(|(text, _)| text).map_err(|problem| problem.to_string())
}

#[test]
fn the_role_has_no_broad_rights() {
    let text = printed(&["--image", "ghcr.io/kube-vip/kube-vip-cloud-provider:v1"], &[]).unwrap();
    for right in ["secrets", "delete", "\"*\""] {
        assert!(!text.contains(right), "{right}");
    }
    // The permission for port mappings, which is taken back without `--upnp`, too.
    assert!(text.contains("  - services/status\n  verbs:\n  - patch\n- apiGroups"));
}

#[test]
fn what_is_given_is_in_the_manifest() {
    // Flags, variables, and what the manifest contains.
    type Row = (&'static [&'static str], &'static [(&'static str, &'static str)], &'static [&'static str]);
    let table: [Row; 11] = [
        (
            &["--upnp"],
            &[],
            &["        - --leader-elect-resource-name=kube-vip-cloud-controller\n        - --upnp=true\n"],
        ),
        (
            &["--concurrent-service-syncs", "4", "-v=2"],
            &[],
            &["- --concurrent-service-syncs=4\n", "- --v=2\n"],
        ),
        (
            &["--leader-elect-lease-duration=5s", "--leader-elect-renew-deadline=3s"],
            &[],
            &["lease-duration=5s", "deadline=3s"],
        ),
        (
            &["--leader-elect-resource-name=own"],
            &[],
            &["- --leader-elect-resource-name=own\n", "  resourceNames:\n  - own\n"],
        ),
        (
            &["--leader-elect-resource-namespace=pools"],
            &[],
            &["- --leader-elect-resource-namespace=pools", "  namespace: pools\n"],
        ),
        (&["--http-port=9000"], &[], &["- --http-port=9000\n", "containerPort: 9000"]),
        (&["--leader-elect=false"], &[], &["- --leader-elect=false\n", "replicas: 1\n", "type: Recreate"]),
        (
            &["--dhcp-interface=eth0", "--dhcp-hardware-addresses"],
            &[],
            &[
                "- --dhcp-hardware-addresses=true\n",
                "hostNetwork: true",
                "- NET_RAW",
                "runAsUser: 0",
                "maxSurge: 0",
            ],
        ),
        (
            &[],
            &[("KUBEVIP_CONFIG_MAP", "own"), ("KUBEVIP_NAMESPACE", "pools")],
            &[
                "name: KUBEVIP_CONFIG_MAP",
                "value: own",
                "  namespace: pools\n",
                "  resourceNames:\n  - own\n",
            ],
        ),
        (&[], &[("KUBEVIP_ENABLE_LOADBALANCERCLASS", "true")], &["name: KUBEVIP_ENABLE_LOADBALANCERCLASS"]),
        (&["--master=https://192.0.2.1:6443"], &[], &["- --master=https://192.0.2.1:6443\n"]),
    ];
    for (flags, env, parts) in table {
        let text = printed(flags, env).unwrap();
        for part in parts {
            assert!(text.contains(part), "{flags:?} {env:?}: {part} is not in\n{text}");
        }
    }
    assert!(!printed(&["--http-port=0"], &[]).unwrap().contains("Probe"));
    assert!(!printed(&["--leader-elect=false"], &[]).unwrap().contains("leases"));
    for (flag, part) in [
        ("--kubeconfig=/k", "flag --kubeconfig: the pods of the manifest have a service account"),
        ("--OutSideCluster", "flag --OutSideCluster: the pods"),
        ("--replicas=3", "unexpected argument '--replicas'"),
    ] {
        let wrong = printed(&[flag], &[]).unwrap_err();
        assert!(wrong.contains(part), "{wrong}");
    }
}
