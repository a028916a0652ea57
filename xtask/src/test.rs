//! Every check of the project, the cheap ones first.

use crate::sh::{Outcome, run};
use crate::{fuzz, setup};

/// How long each fuzz target is run among the checks.
const FUZZ_SECONDS: u32 = 5;

/// All of them.
pub(crate) fn all() -> Outcome {
    run("cargo", &["fmt", "--all", "--check"], &[])?;
    // The fuzz targets come last, and are outside the workspace: whether their lock file is up to date shows now.
    run("cargo", &["fetch", "--locked", "--manifest-path", "fuzz/Cargo.toml"], &[])?;
    let strict = ["--all-targets", "--workspace", "--locked", "--", "-D", "warnings"];
    run("cargo", &[&["clippy"], &strict[..]].concat(), &[])?;
    setup::all()?;
    run("cargo", &["test", "--workspace", "--locked", "--", "--test-threads=2"], &[])?;
    let programs = ["-p", "kube-vip", "-p", "kube-vip-cloud-provider"];
    run("cargo", &[&["build", "--release", "--locked"][..], &programs].concat(), &[])?;
    run("cargo", &["test", "--locked", "--test", "release", "--", "--ignored"], &[])?;
    fuzz::all(FUZZ_SECONDS)?;
    println!("\nevery check passed");
    Ok(())
}

/// The simulation of the election, with more seeds, or with one that is told.
pub(crate) fn simulate(variable: &str, value: &str) -> Outcome {
    value.parse::<u64>().map_err(|_| format!("{value} is no number of seeds"))?;
    run("cargo", &["test", "--test", "simulation", "--", "--nocapture"], &[(variable, value)])
}
