//! What the programs of this workspace have in common: how they begin, and how they say what went wrong.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// What went wrong, one line each, and the exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One sentence each.
    pub lines: Vec<String>,
    /// 1, or 2 where the command line itself is wrong.
    pub code: u8,
}

impl Failure {
    /// One thing went wrong.
    pub fn one(error: impl Display) -> Self {
        Self { lines: vec![error.to_string()], code: 1 }
    }

    /// Several things are wrong.
    pub fn all(problems: &[impl Display]) -> Self {
        Self { lines: problems.iter().map(ToString::to_string).collect(), code: 1 }
    }
}

/// Do what a program does, and say how it went, in its name.
pub fn conclude(name: &str, work: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    // Two TLS providers in one process panic at the first connection: choose before anything connects.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("{name}: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.lines {
                eprintln!("{name}: {line}");
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The environment; what is no text is left out.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Write to stdout; a reader that went away is no error.
///
/// # Errors
/// What the system says.
pub fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::one(error)),
        _ => Ok(()),
    }
}

/// What asynchronous work runs on: one thread, since all of it waits most of the time.
///
/// # Errors
/// What the system says.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::one)
}
