//! Every check of the project: the cheap ones first.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use kube_vip::net::clock::now;

use crate::sh::{self, Outcome, run};
use crate::{deny, dist, fuzz, setup};

/// How long each fuzz target is run among the checks.
const FUZZ_SECONDS: u32 = 5;

const CLIPPY: [&str; 7] = ["clippy", "--all-targets", "--workspace", "--locked", "--", "-D", "warnings"];
const TESTS: [&str; 3] = ["test", "--workspace", "--locked"];
/// The release build.
pub(crate) const RELEASE: [&str; 7] =
    ["build", "--release", "--locked", "-p", "kube-vip", "-p", "kube-vip-cloud-provider"];
const RELEASE_TESTS: [&str; 6] = ["test", "--locked", "--test", "release", "--", "--ignored"];

/// All of them.
pub(crate) fn all() -> Outcome {
    let steps = Steps::default();
    let began = now();
    let outcome = checks(&steps);
    steps.print(now().since(began));
    outcome?;
    println!("\nevery check passed");
    Ok(())
}

fn checks(steps: &Steps) -> Outcome {
    let cargo = |args: &[&str]| run("cargo", args, &[]);
    steps.run("format", || cargo(&["fmt", "--all", "--check"]))?;
    // The fuzz targets are outside the workspace: a lock file that is out of date shows now.
    steps.run("fuzz lock file", || cargo(&["fetch", "--locked", "--manifest-path", "fuzz/Cargo.toml"]))?;
    steps.run("dependencies", deny::check)?;
    std::thread::scope(|scope| {
        let programs = steps.beside(scope, "programs of the lab", setup::all);
        steps.run("clippy", || cargo(&CLIPPY))?;
        steps.run("build of the tests", || cargo(&[&TESTS[..], &["--no-run"]].concat()))?;
        programs.join()
    })?;
    // Trials wait for real time-outs: a busy machine would make them fail, so that they have it to themselves.
    steps.run("tests and trials", || cargo(&TESTS))?;
    steps.run("release build, images and archives", dist::of_this_machine)?;
    steps.run("fuzz targets", || fuzz::all(FUZZ_SECONDS))?;
    steps.run("tests of the release build", || cargo(&RELEASE_TESTS))
}

/// How long each step took.
#[derive(Default)]
struct Steps(Mutex<Vec<Step>>);

struct Step {
    name: &'static str,
    took: Duration,
    beside: bool,
}

impl Steps {
    fn run(&self, name: &'static str, step: impl FnOnce() -> Outcome) -> Outcome {
        self.measure(name, false, step)
    }

    /// Run a step on a thread of its own, at the lowest priority.
    fn beside<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        name: &'static str,
        step: impl FnOnce() -> Outcome + Send + 'scope,
    ) -> Beside<'scope> {
        Beside(scope.spawn(move || self.measure(name, true, || sh::in_the_background(step))))
    }

    fn measure(&self, name: &'static str, beside: bool, step: impl FnOnce() -> Outcome) -> Outcome {
        let began = now();
        let outcome = step();
        self.lock().push(Step { name, took: now().since(began), beside });
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, total: Duration) {
        println!();
        for Step { name, took, beside } in self.lock().iter() {
            let note = if *beside { "  (in the background)" } else { "" };
            println!("{:>7.0} s  {name}{note}", took.as_secs_f64());
        }
        println!("{:>7.0} s  in all", total.as_secs_f64());
    }
}

struct Beside<'scope>(ScopedJoinHandle<'scope, Outcome>);

impl Beside<'_> {
    fn join(self) -> Outcome {
        self.0.join().unwrap_or_else(|_| Err("a step in the background panicked".into()))
    }
}

/// The simulation of the election, with more seeds, or with one and its trace.
pub(crate) fn simulate(variable: &str, value: &str) -> Outcome {
    value.parse::<u64>().map_err(|_| format!("{value} is no number of seeds"))?;
    run("cargo", &["test", "--test", "simulation", "--", "--nocapture"], &[(variable, value)])
}
