//! docs/services-reference.md, from the tables in the code. Pure.

use std::fmt::Write;

use kube_vip::model::annotation::{Entry, LABELS, SERVICE_ANNOTATIONS};

use crate::pools::KEYS;

/// The page.
pub fn page() -> String {
    let mut text = "# Services: annotations, labels, ConfigMap\n\n\
        <!-- Written by `cargo xtask docs` from src/model/annotation.rs and cloud-provider/src/pools/config.rs; a test fails when it is out of date. -->\n"
        .to_owned();
    let mut table = |title: &str, entries: &[Entry]| {
        let _infallible = write!(text, "\n## {title}\n\n| Name | Used by | Meaning |\n|---|---|---|\n");
        for entry in entries {
            let _infallible = writeln!(text, "| `{}` | {} | {} |", entry.name, entry.used, entry.meaning);
        }
    };
    table("Annotations of a Service", SERVICE_ANNOTATIONS);
    table("Labels", LABELS);
    text.push_str(
        "\n## The ConfigMap of the cloud provider\n\n\
         `KUBEVIP_NAMESPACE`/`KUBEVIP_CONFIG_MAP`, which is `kube-system/kubevip` unless they say otherwise. \
         Networks (`192.0.2.0/24`), ranges (`192.0.2.10-192.0.2.20`) and addresses of both families go together, \
         separated by commas. `0.0.0.0/32`, `::/128` and `dhcp` stand for addresses from a DHCP server, which \
         kube-vip does not ask in this version.\n\n| Key | Value | Meaning |\n|---|---|---|\n",
    );
    for (key, value, meaning) in KEYS {
        let keys = key.split(", ").map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let _infallible = writeln!(text, "| {keys} | {value} | {meaning} |");
    }
    text
}
