//! `cargo xtask dist`: the files of a release, in target/dist. Two runs on one commit write the same bytes.

mod man;
mod sbom;

use std::collections::BTreeMap;
use std::path::Path;

use clap_complete::{Shell, generate};
use flate2::Compression;
use kube_vip::VERSION;

use crate::crates::{self, Crates};
use crate::image::{self, Build, Options};
use crate::sh::{Outcome, root};
use crate::{licences, pack};

/// Contents by path.
type Files = BTreeMap<String, Vec<u8>>;

const PROGRAMS: [&str; 2] = ["kube-vip", "kube-vip-cloud-provider"];

/// For this machine, with images by the default name.
pub(crate) fn of_this_machine() -> Outcome {
    run(&Options::parse(&[])?)
}

pub(crate) fn run(options: &Options) -> Outcome {
    let builds = image::run(options)?;
    let mut files = Files::new();
    for build in &builds {
        files.extend(of_build(build)?);
    }
    for program in PROGRAMS {
        files.extend([chart(program)?]);
    }
    for folder in ["manifests", "monitoring"] {
        let content = below(folder, folder)?;
        files.insert(format!("{folder}-{VERSION}.tar.gz"), compressed(&content)?);
    }
    let sums: String =
        files.iter().map(|(name, bytes)| format!("{}  {name}\n", pack::sha256(bytes))).collect();
    files.insert("SHA256SUMS".to_owned(), sums.into_bytes());
    let output = root().join("target/dist");
    std::fs::remove_dir_all(&output).ok();
    for (name, bytes) in &files {
        write(&output.join(name), bytes)?;
    }
    println!("\nthe release {VERSION}: {} files in {}", files.len(), output.display());
    Ok(())
}

/// What depends on the architecture: programs, images, and bills of materials.
fn of_build(build: &Build) -> Result<Files, String> {
    let architecture = build.architecture;
    let crates = crates::of_release(architecture.target())?;
    let mut files = Files::new();
    for program in PROGRAMS {
        let image = image::archive_name(program, architecture);
        files.insert(image.clone(), read(&root().join(image::FOLDER).join(&image))?);
        let document = sbom::document(program, &crates::below(&crates, program), &image::created());
        let name = format!("{program}-{VERSION}-linux-{architecture}.cdx.json");
        files.insert(name, format!("{document:#}\n").into_bytes());
    }
    let name = format!("kube-vip-{VERSION}-linux-{architecture}");
    files.insert(format!("{name}.tar.gz"), archive(&name, &build.folder, &crates)?);
    Ok(files)
}

/// An archive with the programs and what a host needs beside them.
fn archive(name: &str, built: &Path, crates: &Crates) -> Result<Vec<u8>, String> {
    let mut files = below("examples/systemd", "systemd")?;
    files.extend(licences::files(crates)?);
    for (page, content) in [("kube-vip.8", man::agent()), ("kube-vip-cloud-provider.8", man::provider())] {
        files.insert(format!("man/{page}"), content.map_err(|error| format!("{page}: {error}"))?);
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        for mut command in [kube_vip::cli::command(), kube_vip_cloud_provider::cli::command()] {
            let program = command.get_name().to_owned();
            let mut script = Vec::new();
            generate(shell, &mut command, &program, &mut script);
            files.insert(format!("completions/{program}.{shell}"), script);
        }
    }
    let programs = PROGRAMS.map(|program| (program, read(&built.join(program))));
    let mut entries: Vec<(String, u32, Vec<u8>)> =
        files.into_iter().map(|(path, bytes)| (format!("{name}/{path}"), 0o644, bytes)).collect();
    for (program, bytes) in programs {
        entries.push((format!("{name}/{program}"), 0o755, bytes?));
    }
    let entries = entries.iter().map(|(path, mode, bytes)| (path.as_str(), *mode, bytes.as_slice()));
    pack::tar(entries)
        .and_then(|tar| pack::gzip(&tar, Compression::best()))
        .map_err(|error| format!("{name}: {error}"))
}

/// A package as `helm package` makes it, whose name Helm derives from Chart.yaml.
fn chart(name: &str) -> Result<(String, Vec<u8>), String> {
    let files = below(&format!("charts/{name}"), name)?;
    let about =
        files.get(&format!("{name}/Chart.yaml")).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let about = about.unwrap_or_default();
    let version = about.lines().find_map(|line| line.strip_prefix("version: "));
    let version = version.ok_or_else(|| format!("charts/{name}/Chart.yaml has no version"))?;
    Ok((format!("{name}-{version}.tgz"), compressed(&files)?))
}

fn compressed(files: &Files) -> Result<Vec<u8>, String> {
    pack::tar_of_files(files)
        .and_then(|tar| pack::gzip(&tar, Compression::best()))
        .map_err(|error| error.to_string())
}

/// The files below a folder of the project, by paths that begin with `name`.
fn below(folder: &str, name: &str) -> Result<Files, String> {
    let path = root().join(folder);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut files = Files::new();
    for entry in std::fs::read_dir(&path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let (inner, name) = (format!("{folder}/{file}"), format!("{name}/{file}"));
        if entry.file_type().map_err(failed)?.is_dir() {
            files.extend(below(&inner, &name)?);
        } else {
            files.insert(name, read(&entry.path())?);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
    std::fs::write(path, bytes).map_err(failed)
}
