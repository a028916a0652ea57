//! The licences of the crates in the programs, which must accompany them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::crates::{Crate, Crates, Id};
use crate::sh::root;

const HEAD: &str = "\
The programs kube-vip and kube-vip-cloud-provider are under the Apache License 2.0, see LICENSE. They contain the crates
below, Rust's standard library (MIT or Apache-2.0, the text of which is LICENSE), and the GNU C Library, which is linked
statically (LGPL-2.1 or later, at the end): their sources can be built and linked with another version of it.
";
/// Where Debian and its derivatives have it, in the package base-files.
const LGPL: &str = "/usr/share/common-licenses/LGPL-2.1";

/// Those of the programs, by file name.
pub(crate) fn files(crates: &Crates) -> Result<[(String, Vec<u8>); 2], String> {
    let path = root().join("LICENSE");
    let own = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok([("LICENSE".to_owned(), own), ("THIRD-PARTY-LICENSES".to_owned(), text(crates)?.into_bytes())])
}

/// One text, in which each licence stands once, after the crates that have it.
fn text(crates: &Crates) -> Result<String, String> {
    let mut by_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // Crates of this project have no checksum.
    for (id, one) in crates.iter().filter(|(_, one)| one.linked && one.checksum.is_some()) {
        for text in of(id, one)? {
            by_text.entry(text).or_default().push(format!("{} {} ({})", id.0, id.1, one.licence));
        }
    }
    let line = "-".repeat(80);
    let section = |(text, names): (String, Vec<String>)| format!("{line}\n{}\n\n{text}\n", names.join("\n"));
    let lgpl = std::fs::read_to_string(LGPL).map_err(|error| {
        format!("{LGPL}: {error}; the archives need this text: take it from Debian's base-files")
    })?;
    let library = (lgpl.trim_matches('\n').to_owned(), vec!["GNU C Library (LGPL-2.1-or-later)".to_owned()]);
    Ok(format!("{HEAD}\n{}", by_text.into_iter().chain([library]).map(section).collect::<String>()))
}

/// The texts in the sources of a crate.
fn of(id: &Id, one: &Crate) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", one.folder.display());
    let mut files: Vec<_> = std::fs::read_dir(&one.folder)
        .map_err(failed)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && is_licence(path))
        .collect();
    files.sort();
    if files.is_empty() && one.licence != "Apache-2.0" {
        return Err(format!("the crate {} {} ({}) has no file with its licence", id.0, id.1, one.licence));
    }
    if files.is_empty() {
        return Ok(vec!["The text is that of the file LICENSE.".to_owned()]);
    }
    let read = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).map_err(failed)?;
        Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n").trim_matches('\n').to_owned())
    };
    files.iter().map(read).collect()
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"].iter().any(|start| name.starts_with(start))
}
