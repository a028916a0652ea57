//! Generated files are up to date.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use kube_vip_cloud_provider::{manifest, reference};

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn the_sample_manifest_is_up_to_date() {
    let text = manifest::render("ghcr.io/kube-vip/kube-vip-cloud-provider", None, false).unwrap();
    assert_eq!(file("manifests/cloud-provider.yaml"), manifest::sample(&text), "run `cargo xtask manifests`");
}

#[test]
fn the_reference_is_up_to_date() {
    assert!(file("docs/services-reference.md") == reference::page(), "run `cargo xtask docs`");
}

#[test]
fn the_role_has_no_broad_rights() {
    let text = manifest::render("ghcr.io/kube-vip/kube-vip-cloud-provider:v1", None, false).unwrap();
    for right in ["secrets", "delete", "\"*\""] {
        assert!(!text.contains(right), "{right}");
    }
    // The permission for port mappings, which is taken back without `--upnp`, too.
    assert!(text.contains("  - services/status\n  verbs:\n  - patch\n- apiGroups"));
}
