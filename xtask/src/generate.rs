//! Files that are written by the program itself.

use kube_vip::manifest::{chart, samples};
use kube_vip::planner::policy::admission;
use kube_vip_cloud_provider as provider;
use kube_vip_lab::charts;

use crate::sh::{Outcome, root};

/// manifests/, from the samples and the policies that the program knows, the schemas and the alerting rules of the charts, and what
/// Helm makes of them.
pub(crate) fn manifests() -> Outcome {
    let folder = root().join("manifests");
    for sample in samples::all() {
        let text = samples::render(&sample)?;
        write(&folder.join(sample.file), &text)?;
    }
    for (name, text) in admission::files()? {
        write(&folder.join("policy").join(name), &text)?;
    }
    write(&folder.join("cloud-provider.yaml"), &provider::manifest::sample()?)?;
    // Helm reads no file outside of a chart.
    let rules = std::fs::read_to_string(root().join("monitoring/rules.yaml"));
    let rules = rules.map_err(|error| format!("monitoring/rules.yaml: {error}"))?;
    write(&root().join("charts/kube-vip/files/rules.yaml"), &rules)?;
    for (name, schema) in
        [("kube-vip", chart::schema()), ("kube-vip-cloud-provider", provider::chart::schema())]
    {
        write(&root().join("charts").join(name).join("values.schema.json"), &format!("{schema:#}\n"))?;
    }
    for set in charts::value_sets(&root()).map_err(|error| error.to_string())? {
        write(&set.expected(&root()), &set.render(&root()).map_err(|error| error.to_string())?)?;
    }
    Ok(())
}

/// The references of all settings, annotations and keys.
pub(crate) fn reference() -> Outcome {
    write(&root().join("docs/configuration.md"), &kube_vip::config::show::reference())?;
    write(&root().join("docs/services-reference.md"), &provider::reference::page())
}

fn write(path: &std::path::Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
