//! Process entry shared by the programs of this workspace: TLS, runtime, output and exit codes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};

use crate::mdns;
use crate::model::text::printable;
use crate::net::raise_descriptor_limit;
use crate::telemetry::output::{STDERR, STDOUT};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// One sentence each, for stderr.
    pub lines: Vec<String>,
    /// 1, or 2 where the command line itself is wrong.
    pub code: u8,
}

impl Failure {
    pub fn one(error: impl Display) -> Self {
        Self { lines: vec![error.to_string()], code: 1 }
    }

    pub fn all(problems: &[impl Display]) -> Self {
        Self { lines: problems.iter().map(ToString::to_string).collect(), code: 1 }
    }
}

/// Runs a program and prints its errors, prefixed with its name.
pub fn run_main(name: &'static str, work: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    abort_on_panic(name);
    // Without a process-wide default, rustls panics at the first connection if several providers are compiled in.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("{name}: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let (lines, code) = match work() {
        Ok(()) => (Vec::new(), ExitCode::SUCCESS),
        Err(failure) => (failure.lines, ExitCode::from(failure.code)),
    };
    lines.iter().for_each(|line| STDERR.push(format!("{name}: {line}\n").as_bytes()));
    STDOUT.flush();
    STDERR.flush();
    code
}

/// A panic ends the process, whichever thread or task it is in: the kernel's lifetimes remove the addresses. A thread of a
/// library that parses packets of other hosts ends alone, and its driver starts another: no host on the link can stop this
/// one.
fn abort_on_panic(name: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let what = panic.to_string();
        STDERR.push(format!("{name}: thread `{thread}` {}\n", printable(&what)).as_bytes());
        if !outlives_panic_of(thread) {
            STDERR.flush();
            std::process::abort();
        }
    }));
}

fn outlives_panic_of(thread: &str) -> bool {
    thread == mdns::THREAD
}

/// The environment, without variables that are not UTF-8.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Writes to stdout; a closed pipe is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::one(error)),
        _ => Ok(()),
    }
}

/// Writes a value to stdout as indented JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::one)?;
    print(&format!("{text}\n"))
}

/// A runtime with one thread, since all work waits most of the time.
pub fn runtime() -> Result<Runtime, Failure> {
    // With the usual soft limit of 1,024, other clients of a port could leave no descriptor for a connection to the API
    // server. Without the right to raise it the process still runs.
    raise_descriptor_limit().ok();
    Builder::new_current_thread().enable_all().build().map_err(Failure::one)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test cannot show is the end of the process: the hook would end the tests.
    #[test]
    fn only_the_panic_of_a_library_is_survived() {
        for (thread, outlives) in [("main", false), ("bfd", false), ("", false), ("mDNS_daemon", true)] {
            assert_eq!(outlives_panic_of(thread), outlives, "{thread}");
        }
    }
}
