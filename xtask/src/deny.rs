//! `cargo xtask deny`: licences, sources, versions and advisories of dependencies, as deny.toml allows them.

use crate::sh::{Outcome, have, run};

/// Skips what this machine cannot check, and prints why.
pub(crate) fn check() -> Outcome {
    if !have("cargo-deny") {
        println!("\nskipped `cargo deny`: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
        return Ok(());
    }
    // The graph covers all systems; their crates have to be here before cargo works offline.
    run("cargo", &["fetch", "--locked"], &[])?;
    let offline = ["deny", "--workspace", "--offline", "--locked", "check"];
    run("cargo", &[&offline[..], &["licenses", "sources", "bans"]].concat(), &[])?;
    if let Err(error) = run("cargo", &["deny", "fetch", "db"], &[]) {
        println!("\nskipped advisories: the database cannot be fetched: {error}");
        return Ok(());
    }
    run("cargo", &[&offline[..], &["advisories"]].concat(), &[])
}
