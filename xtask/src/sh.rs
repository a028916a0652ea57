//! Running commands, and saying which.

use std::path::PathBuf;
use std::process::Command;

/// What went wrong, in words.
pub(crate) type Outcome = Result<(), String>;

/// The root of the project.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// Run a command in the project's root, with its output passed on.
pub(crate) fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Outcome {
    println!("\n$ {program} {}", args.join(" "));
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied()).current_dir(root());
    // What cargo set for this very program is not meant for the next one.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    let status = command.status().map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{program} {}` failed: {status}", args.join(" "))) }
}

/// Whether a program can be found.
pub(crate) fn have(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).any(|path| path.is_file())
}

/// A program of ours, built with a profile, wherever cargo put it: the configuration names a target.
pub(crate) fn built(profile: &str, name: &str) -> Result<String, String> {
    let target = root().join("target");
    let below = std::fs::read_dir(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    let programs = below.filter_map(|entry| Some(entry.ok()?.path().join(profile).join(name)));
    let found = programs
        .filter(|path| path.is_file())
        .max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok());
    found
        .map(|path| path.to_string_lossy().into_owned())
        .ok_or_else(|| format!("the {profile} build of {name} is not there"))
}
