//! The images of a cluster of kubeadm, out of programs of this machine: no registry can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use kube_vip_lab::{LabError, Result, binaries, run};
use serde_json::json;

use crate::image;
use crate::image::oci::{Blobs, Content};
use crate::image::target::Architecture;
use crate::pack;

/// An image with a web server, for Deployments.
pub(super) const WEB: &str = "localhost/web:v1";

/// Writes an archive of each image that these versions of kubeadm list, of the web server, and of both programs of the project.
/// Each program has one version, whatever its tags say.
pub(super) fn write(
    kubeadm: &[String],
    version: &str,
    folder: &Path,
) -> std::result::Result<Vec<PathBuf>, String> {
    let architecture = Architecture::here()?;
    image::run(&image::Options::parse(&[])?)?;
    let mut archives = image::names().map(|name| image::archive(name, architecture)).to_vec();
    let version = format!("--kubernetes-version={version}");
    let mut references = BTreeSet::from([WEB.to_owned()]);
    for kubeadm in kubeadm {
        let listed = run(&[kubeadm, "config", "images", "list", &version]);
        references.extend(listed.map_err(|error| error.to_string())?.lines().map(str::to_owned));
    }
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for reference in &references {
        let Some((files, entrypoint)) = content(reference).map_err(|error| error.to_string())? else {
            continue;
        };
        let name = reference.rsplit('/').next().unwrap_or(reference).replace(':', "-");
        let path = folder.join(format!("{name}.tar"));
        let bytes = archive(reference, architecture, &files, &entrypoint);
        let written = bytes.and_then(|bytes| std::fs::write(&path, bytes));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
        archives.push(path);
    }
    Ok(archives)
}

/// Files of an image, by their paths.
type Files = BTreeMap<String, Vec<u8>>;

/// The files of an image, and its entrypoint. None for what the lab does without, which is a server for names.
fn content(reference: &str) -> Result<Option<(Files, Vec<&'static str>)>> {
    let name = reference.rsplit('/').next().and_then(|rest| rest.split(':').next()).unwrap_or_default();
    let busybox = || with_libraries("busybox", "usr/bin/busybox");
    Ok(match name {
        "coredns" => None,
        "pause" => Some((busybox()?, vec!["/usr/bin/busybox", "sleep", "2147483647"])),
        "web" => Some((busybox()?, vec!["/usr/bin/busybox"])),
        _ => {
            let mut files = Files::from([(format!("usr/local/bin/{name}"), read(&binaries::find(name)?)?)]);
            if name == "kube-proxy" {
                files.extend(with_libraries("nft", "usr/sbin/nft")?);
            }
            Some((files, Vec::new()))
        }
    })
}

/// A program of this machine, at a path, with the libraries that it needs.
fn with_libraries(program: &str, path: &str) -> Result<Files> {
    let found = run(&["sh", "-c", &format!("command -v {program}")])?;
    let mut files = Files::from([(path.to_owned(), read(found.trim())?)]);
    // Fails for a static program.
    let libraries =
        Command::new("ldd").arg(found.trim()).output().map(|output| output.stdout).unwrap_or_default();
    let libraries = String::from_utf8_lossy(&libraries).into_owned();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        files.insert(library.trim_start_matches('/').to_owned(), read(library)?);
    }
    Ok(files)
}

fn read(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| LabError::Io { what: path.to_owned(), source })
}

fn archive(
    reference: &str,
    architecture: Architecture,
    files: &Files,
    entrypoint: &[&str],
) -> std::io::Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let content = Content {
        files,
        texts: &Files::new(),
        architecture: architecture.name(),
        config: &json!({ "Entrypoint": entrypoint }),
        labels: &json!({}),
        created: "1970-01-01T00:00:00Z",
        compression: Compression::none(),
    };
    let manifest = blobs.add_image(&content)?;
    pack::tar_of_files(&blobs.layout(&manifest.descriptor, reference))
}
