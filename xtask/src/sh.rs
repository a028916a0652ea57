//! Runs and prints commands.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// The error is a message.
pub(crate) type Outcome = Result<(), String>;

/// The root of the project.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

thread_local! {
    static BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

/// Commands that `step` runs have the lowest priority, and their output is printed only if they fail.
pub(crate) fn in_the_background(step: impl FnOnce() -> Outcome) -> Outcome {
    BACKGROUND.set(true);
    let outcome = step();
    BACKGROUND.set(false);
    outcome
}

/// Run a command in the project's root.
pub(crate) fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Outcome {
    let line = format!("{program} {}", args.join(" "));
    let background = BACKGROUND.get();
    let mut command = Command::new(if background { "nice" } else { program });
    if background {
        command.args(["-n", "19", program]);
    }
    command.args(args).env("PATH", search_path()).envs(env.iter().copied()).current_dir(root());
    // These describe xtask itself.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let status = if background {
        println!("\n$ {line} &");
        let output = command.output().map_err(failed)?;
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            println!("\n$ {line}\n{}", String::from_utf8_lossy(&text));
        }
        output.status
    } else {
        println!("\n$ {line}");
        command.status().map_err(failed)?
    };
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed: {status}")) }
}

/// Whether a program can be found.
pub(crate) fn have(program: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| folder.join(program).is_file())
}

/// PATH, and the folders of system programs, which that of a user may lack.
fn search_path() -> OsString {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&paths).filter(|folder| !folder.as_os_str().is_empty());
    std::env::join_paths(folders.chain(["/usr/sbin", "/sbin"].map(PathBuf::from))).unwrap_or(paths)
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
