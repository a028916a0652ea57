//! The programs that a lab runs.

use std::path::PathBuf;

use crate::{LabError, Result};

/// Where the programs built for the lab are kept: outside the source tree, shared by every checkout.
pub fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    base.join("kube-vip/lab/bin")
}

/// The path of a control-plane program: from `KUBEBUILDER_ASSETS`, else from the lab's cache.
pub fn find(name: &str) -> Result<String> {
    let given = std::env::var_os("KUBEBUILDER_ASSETS").map(|folder| PathBuf::from(folder).join(name));
    let candidates = given.into_iter().chain([cache().join(name)]);
    let found = candidates.into_iter().find(|path| path.is_file());
    found.map(|path| path.to_string_lossy().into_owned()).ok_or_else(|| LabError::Missing(name.to_owned()))
}
