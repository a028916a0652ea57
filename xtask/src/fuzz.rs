//! Fuzz targets, built with coverage on the stable toolchain.
//!
//! `fuzz/seeds` has a small corpus for each target; `fuzz/corpus` grows on each machine.

use crate::sh::{Outcome, root, run};

/// Coverage that libFuzzer reads.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Run every target for so many seconds, with a limit on memory.
pub(crate) fn all(seconds: u32) -> Outcome {
    let manifest = root().join("fuzz/Cargo.toml");
    let manifest = manifest.to_string_lossy();
    run(
        "cargo",
        &["build", "--release", "--locked", "--manifest-path", &manifest],
        &[("RUSTFLAGS", COVERAGE)],
    )?;
    let folder = root().join("fuzz");
    let mut targets: Vec<String> = std::fs::read_dir(folder.join("fuzz_targets"))
        .map_err(|error| format!("fuzz_targets: {error}"))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    targets.sort();
    for target in targets {
        let program = find(&target)?;
        let corpus = folder.join("corpus").join(&target);
        std::fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
        // libFuzzer adds inputs to the first folder; the second is in the repository.
        let seeds = folder.join("seeds").join(&target);
        std::fs::create_dir_all(&seeds).map_err(|error| format!("{}: {error}", seeds.display()))?;
        let time = format!("-max_total_time={seconds}");
        let limits = ["-rss_limit_mb=1024", "-timeout=5", "-print_final_stats=0", "-verbosity=0"];
        run(
            &program,
            &[&[time.as_str(), &corpus.to_string_lossy(), &seeds.to_string_lossy()], &limits[..]].concat(),
            &[],
        )?;
    }
    Ok(())
}

/// Cargo puts the programs below the target's own name, since the configuration names a target.
fn find(target: &str) -> Result<String, String> {
    let built = root().join("fuzz/target");
    let below = std::fs::read_dir(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    let folders = below.filter_map(|entry| Some(entry.ok()?.path())).chain([built.clone()]);
    let found = folders.map(|folder| folder.join("release").join(target)).find(|path| path.is_file());
    found
        .map(|path| path.to_string_lossy().into_owned())
        .ok_or_else(|| format!("fuzz target {target} was not built"))
}
