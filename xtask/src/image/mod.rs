//! `cargo xtask image`: container images of both programs, without a container runtime.

mod debian;
pub(crate) mod emulate;
pub(crate) mod oci;
pub(crate) mod target;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use kube_vip::VERSION;
use kube_vip::manifest::image;
use serde_json::{Value, json};

use self::oci::{Blobs, Content};
use self::target::Architecture;
use crate::sh::{Outcome, root};
use crate::{crates, licences, pack};

/// A program, and the user it runs as: the agent needs capabilities, which only root has in a pod that does not set them.
struct Program {
    name: &'static str,
    title: &'static str,
    user: u32,
}

const PROGRAMS: [Program; 2] = [
    Program {
        name: "kube-vip",
        title: "Virtual IPs and Services of type LoadBalancer for Kubernetes",
        user: 0,
    },
    Program {
        name: "kube-vip-cloud-provider",
        title: "Addresses for Kubernetes Services of type LoadBalancer",
        user: 65532,
    },
];

/// Images with this part of a name are on a node only if they were imported there.
const REGISTRY: &str = "localhost";

#[derive(Debug)]
pub(crate) struct Options {
    /// The repository of the images without the name of the program, such as `registry.example/team`.
    registry: String,
    architectures: Vec<Architecture>,
}

impl Options {
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self { registry: REGISTRY.to_owned(), architectures: vec![Architecture::here()?] };
        let mut arguments = arguments.iter();
        while let Some(word) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{word} needs a value"))?;
            match *word {
                "--name" => options.registry = value.trim_end_matches('/').to_owned(),
                "--arch" => {
                    options.architectures = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("`{word}` is not an option of `cargo xtask image`")),
            }
        }
        for program in &PROGRAMS {
            let reference = reference(&options.registry, program);
            image::choose(program.name, Some(&reference), None, VERSION)
                .map_err(|problem| problem.to_string())?;
        }
        Ok(options)
    }
}

fn reference(registry: &str, program: &Program) -> String {
    format!("{registry}/{}:{VERSION}", program.name)
}

/// Both programs, built for an architecture.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) architecture: Architecture,
    pub(crate) folder: PathBuf,
    /// Its licences, by their paths in images.
    texts: BTreeMap<String, Vec<u8>>,
}

/// Where images are written, below the root of the project.
pub(crate) const FOLDER: &str = "target/image";

/// The image of a program that is imported on each node.
pub(crate) fn local(program: &str) -> String {
    format!("{REGISTRY}/{program}:{VERSION}")
}

/// The names of the programs.
pub(crate) fn names() -> [&'static str; 2] {
    PROGRAMS.map(|program| program.name)
}

/// The archive of an image for one architecture.
pub(crate) fn archive(program: &str, architecture: Architecture) -> PathBuf {
    root().join(FOLDER).join(archive_name(program, architecture))
}

/// The name of the archive of an image for one architecture.
pub(crate) fn archive_name(program: &str, architecture: Architecture) -> String {
    format!("{program}-{VERSION}-{architecture}.tar")
}

/// Builds the programs, and writes an OCI layout for each, and an archive for each architecture.
pub(crate) fn run(options: &Options) -> Result<Vec<Build>, String> {
    let build = |architecture: &Architecture| {
        let folder = architecture.build()?;
        let files = licences::files(&crates::of_release(architecture.target())?)?;
        let texts = files.map(|(name, text)| (format!("licenses/{name}"), text)).into();
        Ok(Build { architecture: *architecture, folder, texts })
    };
    let builds: Vec<Build> = options.architectures.iter().map(build).collect::<Result<_, String>>()?;
    let output = root().join(FOLDER);
    for program in &PROGRAMS {
        write(program, &reference(&options.registry, program), &builds, &output)?;
    }
    Ok(builds)
}

fn write(program: &Program, reference: &str, builds: &[Build], output: &Path) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", program.name);
    let (labels, created) = (labels(program), created());
    let config = json!({
        "User": program.user.to_string(),
        "Entrypoint": [format!("/{}", program.name)],
        "Env": [format!("{}={reference}", image::OWN_IMAGE)],
        "WorkingDir": "/",
        "Labels": labels,
    });
    let mut all = Blobs::default();
    let mut manifests = Vec::new();
    for Build { architecture, folder, texts } in builds {
        let binary = std::fs::read(folder.join(program.name)).map_err(failed)?;
        let content = Content {
            files: &[(program.name.to_owned(), binary)].into(),
            texts,
            architecture: architecture.name(),
            config: &config,
            labels: &labels,
            created: &created,
            compression: Compression::best(),
        };
        let mut one = Blobs::default();
        let manifest = one.add_image(&content).map_err(failed)?;
        let mut files = one.layout(&manifest.descriptor, reference);
        files.extend([manifest.for_docker(reference)]);
        let path = output.join(archive_name(program.name, *architecture));
        std::fs::create_dir_all(output).map_err(failed)?;
        let bytes = pack::tar_of_files(&files).map_err(failed)?;
        std::fs::write(&path, &bytes).map_err(failed)?;
        println!(
            "{reference} for {architecture}: {} ({:.1} MB), {}",
            path.display(),
            bytes.len() as f64 / 1e6,
            manifest.descriptor.digest
        );
        manifests.push(all.add_image(&content).map_err(failed)?);
    }
    let index = all.add_index(&manifests.iter().collect::<Vec<_>>(), &labels);
    let layout = output.join(program.name);
    std::fs::remove_dir_all(&layout).ok();
    for (path, bytes) in all.layout(&index, reference) {
        let path = layout.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        std::fs::write(&path, bytes).map_err(failed)?;
    }
    println!("{reference}, all architectures: {} (OCI layout), {}", layout.display(), index.digest);
    Ok(())
}

/// Annotations of the OCI image specification.
fn labels(program: &Program) -> Value {
    json!({
        "org.opencontainers.image.title": program.name,
        "org.opencontainers.image.description": program.title,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.version": VERSION,
        "org.opencontainers.image.revision": revision(),
        "org.opencontainers.image.created": created(),
    })
}

/// The commit, and whether there are changes on top of it.
fn revision() -> String {
    let changed = git(&["status", "--porcelain"]).is_some();
    let commit = git(&["log", "-1", "--format=%H"]).unwrap_or_else(|| "unknown".to_owned());
    format!("{commit}{}", if changed { "-dirty" } else { "" })
}

/// The time of the commit: the same for each build of it.
pub(crate) fn created() -> String {
    let time = ["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"];
    git(&time).unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// What git prints; none if that is nothing.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).env("TZ", "UTC").current_dir(root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Some(text).filter(|text| output.status.success() && !text.is_empty())
}
