//! Files that are written by the program itself.

use kube_vip::manifest::samples;

use crate::sh::{Outcome, root};

/// manifests/, from the samples the program knows.
pub(crate) fn manifests() -> Outcome {
    let folder = root().join("manifests");
    for sample in samples::all() {
        let text = samples::render(&sample)?;
        write(&folder.join(sample.file), &text)?;
    }
    Ok(())
}

/// The reference of all settings.
pub(crate) fn reference() -> Outcome {
    write(&root().join("docs/configuration.md"), &kube_vip::config::show::reference())
}

fn write(path: &std::path::Path, text: &str) -> Outcome {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
