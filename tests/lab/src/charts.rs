//! The Helm charts, and the documented sets of values in examples/helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{LabError, Result, binaries};

/// The charts, by their folders.
pub const CHARTS: [&str; 2] = ["kube-vip", "kube-vip-cloud-provider"];

/// A chart with documented values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueSet {
    /// A name of [`CHARTS`].
    pub chart: &'static str,
    /// The file's name without its extension; `default` for the chart's own values.
    pub name: String,
    /// None for the chart's own values.
    pub file: Option<PathBuf>,
}

impl ValueSet {
    /// The objects that Helm makes of it.
    pub fn render(&self, root: &Path) -> Result<String> {
        let mut command = Command::new(binaries::find("helm")?);
        command
            .args(["template", self.chart, "--namespace", "kube-system"])
            .arg(root.join("charts").join(self.chart));
        command.args(self.file.iter().flat_map(|file| ["--values".as_ref(), file.as_os_str()]));
        let output = command.output().map_err(|source| LabError::Io { what: "helm".to_owned(), source })?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(LabError::Command { command: format!("{command:?}"), output: text });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The file with what [`Self::render`] is expected to return.
    #[must_use]
    pub fn expected(&self, root: &Path) -> PathBuf {
        root.join("tests/charts").join(self.chart).join(format!("{}.yaml", self.name))
    }
}

/// Every set, in the order of its name.
pub fn value_sets(root: &Path) -> Result<Vec<ValueSet>> {
    let mut sets = Vec::new();
    for chart in CHARTS {
        sets.push(ValueSet { chart, name: "default".to_owned(), file: None });
        let folder = root.join("examples/helm").join(chart);
        let entries = std::fs::read_dir(&folder);
        let entries =
            entries.map_err(|source| LabError::Io { what: folder.display().to_string(), source })?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            sets.push(ValueSet { chart, name, file: Some(file) });
        }
    }
    Ok(sets)
}
