//! The crates that a program is built from, as cargo resolves them for the release build.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use crate::sh::root;

/// Name and version.
pub(crate) type Id = (String, String);

#[derive(Debug)]
pub(crate) struct Crate {
    /// As in Cargo.toml: an SPDX expression.
    pub(crate) licence: String,
    pub(crate) repository: Option<String>,
    /// The unpacked sources.
    pub(crate) folder: PathBuf,
    /// SHA-256 of the archive in the registry; none for crates of this project.
    pub(crate) checksum: Option<String>,
    /// Crates that it is built from.
    pub(crate) uses: BTreeSet<Id>,
    /// Part of the program; others run while it is built (build scripts and macros).
    pub(crate) linked: bool,
}

pub(crate) type Crates = BTreeMap<Id, Crate>;

/// The crates of both programs, for a target of Rust.
pub(crate) fn of_release(target: &str) -> Result<Crates, String> {
    let tree = |edges: &str| {
        let args =
            ["tree", "--locked", "-p", "kube-vip", "-p", "kube-vip-cloud-provider", "--target", target];
        cargo(&[&args[..], &["--edges", edges, "--prefix", "depth", "--format", "{p}"]].concat())
    };
    let graph = graph(&tree("normal,build")?);
    let linked: BTreeSet<Id> = self::graph(&tree("normal,no-proc-macro")?).into_keys().collect();
    let metadata = cargo(&["metadata", "--locked", "--format-version", "1"])?;
    let metadata: Metadata =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let mut packages: BTreeMap<Id, Package> =
        metadata.packages.into_iter().map(|package| (package.id(), package)).collect();
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).map_err(|error| error.to_string())?;
    let mut checksums = checksums(&lock);
    let complete = |(id, mut uses): (Id, BTreeSet<Id>)| {
        let package =
            packages.remove(&id).ok_or_else(|| format!("cargo metadata does not know {} {}", id.0, id.1))?;
        uses.retain(|(name, _)| package.is_built_from(name));
        let found = Crate {
            licence: package.license.unwrap_or_default(),
            repository: package.repository,
            folder: package.manifest_path.parent().map(PathBuf::from).unwrap_or_default(),
            checksum: checksums.remove(&id),
            uses,
            linked: linked.contains(&id),
        };
        Ok((id, found))
    };
    graph.into_iter().map(complete).collect()
}

/// A program and what it is built from, directly or not.
pub(crate) fn below<'a>(crates: &'a Crates, program: &str) -> BTreeMap<&'a Id, &'a Crate> {
    let mut found = BTreeMap::new();
    let mut open: Vec<&Id> = crates.keys().filter(|(name, _)| name == program).collect();
    while let Some(id) = open.pop() {
        if let Some((id, one)) = crates.get_key_value(id)
            && found.insert(id, one).is_none()
        {
            open.extend(&one.uses);
        }
    }
    found
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `build` or `dev`; none is a normal one.
    kind: Option<String>,
}

impl Package {
    fn id(&self) -> Id {
        (self.name.clone(), self.version.clone())
    }

    /// Cargo lists dependencies of build scripts of packages that have none (`build = false`), but does not build them.
    fn is_built_from(&self, name: &str) -> bool {
        let has_script =
            self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "custom-build"));
        let mut named = self.dependencies.iter().filter(|dependency| dependency.name == name);
        has_script || named.any(|dependency| dependency.kind.as_deref() != Some("build"))
    }
}

fn cargo(args: &[&str]) -> Result<String, String> {
    let failed = |reason: String| format!("`cargo {}`: {reason}", args.join(" "));
    let output = Command::new("cargo").args(args).current_dir(root()).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    String::from_utf8(output.stdout).map_err(|error| failed(error.to_string()))
}

/// Each crate of `cargo tree --prefix depth`, and what stands below it. Cargo prints what is below a crate only once.
fn graph(tree: &str) -> BTreeMap<Id, BTreeSet<Id>> {
    let mut graph: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
    let mut path: Vec<Id> = Vec::new();
    for line in tree.lines() {
        let name = line.trim_start_matches(|character: char| character.is_ascii_digit());
        let depth: Option<usize> = line.strip_suffix(name).and_then(|digits| digits.parse().ok());
        let mut words = name.split_whitespace();
        let version = |word: &str| word.strip_prefix('v').map(str::to_owned);
        if let (Some(depth), Some(name), Some(version)) =
            (depth, words.next(), words.next().and_then(version))
        {
            let id = (name.to_owned(), version);
            path.truncate(depth);
            if let Some(above) = path.last() {
                graph.entry(above.clone()).or_default().insert(id.clone());
            }
            graph.entry(id.clone()).or_default();
            path.push(id);
        }
    }
    graph
}

/// From Cargo.lock.
fn checksums(lock: &str) -> BTreeMap<Id, String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.map(|text| text.trim_matches('"').to_owned())
    };
    let one =
        |block: &str| Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?));
    lock.split("[[package]]").filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str, version: &str) -> Id {
        (name.to_owned(), version.to_owned())
    }

    #[test]
    fn a_tree_is_read_by_its_depths() {
        let tree = "0agent v0.2.0 (/project)\n1serde v1.0.1\n2derive v1.0.1 (proc-macro)\n1tokio v1.2.3\n\n\
                    0provider v0.2.0 (/project/provider)\n1serde v1.0.1 (*)\n1agent v0.2.0 (/project) (*)\n";
        let graph = graph(tree);
        let serde = id("serde", "1.0.1");
        assert_eq!(graph[&id("agent", "0.2.0")], [serde.clone(), id("tokio", "1.2.3")].into());
        assert_eq!(graph[&id("provider", "0.2.0")], [id("agent", "0.2.0"), serde.clone()].into());
        assert_eq!(graph[&serde], [id("derive", "1.0.1")].into());
        assert_eq!(graph.len(), 5);
    }

    #[test]
    fn without_a_build_script_its_dependencies_are_not_built() {
        let package = |kind: &str| {
            let text = format!(
                r#"{{"name": "a", "version": "1.0.0", "license": null, "repository": null, "manifest_path": "/a/Cargo.toml",
                "targets": [{{"kind": ["lib"]}}, {{"kind": ["{kind}"]}}],
                "dependencies": [{{"name": "both", "kind": "build"}}, {{"name": "both", "kind": null}},
                    {{"name": "script", "kind": "build"}}]}}"#
            );
            serde_json::from_str::<Package>(&text).unwrap()
        };
        let without = package("test");
        assert!(without.is_built_from("both") && !without.is_built_from("script"));
        assert!(package("custom-build").is_built_from("script"));
    }

    #[test]
    fn a_checksum_belongs_to_one_version() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"12\"\n\n\
                    [[package]]\nname = \"a\"\nversion = \"2.0.0\"\nchecksum = \"34\"\n\n\
                    [[package]]\nname = \"own\"\nversion = \"0.2.0\"\n";
        let expected = [(id("a", "1.0.0"), "12".to_owned()), (id("a", "2.0.0"), "34".to_owned())];
        assert_eq!(checksums(lock), expected.into());
    }
}
