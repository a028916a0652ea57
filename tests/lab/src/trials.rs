//! Runs end-to-end trials, several at once, with the command line and the output of Rust's own test harness.
//!
//! Trials mostly wait, so a machine runs more of them at once than it has cores. A trial whose bounds on time need the
//! machine for itself is marked with [`Trial::alone`]; those run last, one after the other.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libtest_mimic::Arguments;
pub use libtest_mimic::Failed;

use crate::rights::{self, Exceptions};
use crate::{now, pool};

/// How a trial ends.
pub type Outcome = Result<(), Failed>;

/// Trials at once beyond one for each core.
const MORE_THAN_CORES: usize = 1;
/// How many of the slowest trials are listed at the end.
const SLOWEST: usize = 15;

/// A test with a name.
#[derive(Debug)]
pub struct Trial {
    name: &'static str,
    test: fn() -> Outcome,
    alone: bool,
}

/// A trial that may run beside others.
pub fn trial(name: &'static str, test: fn() -> Outcome) -> Trial {
    Trial { name, test, alone: false }
}

impl Trial {
    /// The same trial with the machine for itself.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
}

/// Trials that share labs.
#[derive(Debug)]
pub struct Group {
    trials: VecDeque<Trial>,
    at_once: usize,
    tear_down: fn(),
    running: usize,
}

impl Group {
    /// `at_once` limits how many of these trials run at the same time; `tear_down` ends the labs they share, whenever
    /// no more of them are to come.
    pub fn new(trials: impl IntoIterator<Item = Trial>, at_once: usize, tear_down: fn()) -> Self {
        Self { trials: trials.into_iter().collect(), at_once, tear_down, running: 0 }
    }
}

/// Run what the command line selects.
pub fn run(mut groups: Vec<Group>, exceptions: Exceptions) -> ExitCode {
    rights::compare_with(exceptions);
    let arguments = Arguments::from_args();
    let all = groups.iter().map(|group| group.trials.len()).sum::<usize>();
    for group in &mut groups {
        group.trials.retain(|trial| selected(&arguments, trial.name));
    }
    let count = groups.iter().map(|group| group.trials.len()).sum::<usize>();
    if arguments.list {
        let trials = groups.iter().flat_map(|group| &group.trials);
        trials.for_each(|trial| println!("{}: test", trial.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {count} tests");
    let began = now();
    let report = Mutex::new(Report::default());
    run_groups(&mut groups, threads(&arguments), &report);
    if count == all && lock(&report).failures.is_empty() {
        perform(&trial("every_right_of_the_manifests_roles_is_used", rights::conclude_run), &report);
    }
    let report = lock(&report);
    report.print(all - count, now().since(began));
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn selected(arguments: &Arguments, name: &str) -> bool {
    let matches = |filter: &String| if arguments.exact { name == filter } else { name.contains(filter) };
    !arguments.ignored && arguments.filter.iter().all(matches) && !arguments.skip.iter().any(matches)
}

fn threads(arguments: &Arguments) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    arguments.test_threads.unwrap_or(cores + MORE_THAN_CORES).max(1)
}

fn run_groups(groups: &mut [Group], threads: usize, report: &Mutex<Report>) {
    let alone = groups.iter_mut().flat_map(take_alone).collect::<Vec<_>>();
    let tear_downs = groups.iter().map(|group| group.tear_down).collect::<Vec<_>>();
    let queue = Queue::new(groups);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((index, trial)) = queue.next() {
                    perform(&trial, report);
                    if let Some(tear_down) = queue.done(index) {
                        tear_down();
                    }
                }
            });
        }
    });
    alone.iter().for_each(|trial| perform(trial, report));
    tear_downs.iter().for_each(|tear_down| tear_down());
}

fn lock(report: &Mutex<Report>) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_alone(group: &mut Group) -> VecDeque<Trial> {
    let (alone, together) = std::mem::take(&mut group.trials).into_iter().partition(|trial| trial.alone);
    group.trials = together;
    alone
}

/// What is left to be run.
struct Queue<'a> {
    groups: Mutex<&'a mut [Group]>,
    changed: Condvar,
}

impl<'a> Queue<'a> {
    fn new(groups: &'a mut [Group]) -> Self {
        Self { groups: Mutex::new(groups), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, &'a mut [Group]> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next trial, and the index of its group. Waits while every group that has more is at its limit.
    fn next(&self) -> Option<(usize, Trial)> {
        let mut groups = self.lock();
        loop {
            for (index, group) in groups.iter_mut().enumerate() {
                if group.running < group.at_once
                    && let Some(trial) = group.trials.pop_front()
                {
                    group.running += 1;
                    return Some((index, trial));
                }
            }
            if groups.iter().all(|group| group.trials.is_empty()) {
                return None;
            }
            groups = self.changed.wait(groups).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A trial of a group has ended. The last one's labs are to be torn down.
    fn done(&self, index: usize) -> Option<fn()> {
        let mut groups = self.lock();
        let group = groups.get_mut(index)?;
        group.running -= 1;
        self.changed.notify_all();
        (group.running == 0 && group.trials.is_empty()).then_some(group.tear_down)
    }
}

thread_local! {
    /// What the trial on this thread reports besides its outcome; none if there is no trial.
    static NOTES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Report a figure. It is printed below the outcome of the trial that runs on this thread; at once if there is none.
pub fn note(text: String) {
    NOTES.with_borrow_mut(|notes| match notes {
        Some(notes) => notes.push(text),
        None => println!("  {text}"),
    });
}

/// Like `println!`, by way of [`note`].
#[macro_export]
macro_rules! note {
    ($($part:tt)*) => { $crate::trials::note(format!($($part)*)) };
}

fn perform(trial: &Trial, report: &Mutex<Report>) {
    let began = now();
    NOTES.set(Some(Vec::new()));
    let outcome = catch_unwind(AssertUnwindSafe(trial.test)).unwrap_or_else(|panic| Err(message(&*panic)));
    let outcome = outcome.and(rights::conclude_trial());
    pool::end_trial(outcome.is_ok());
    let notes = NOTES.take().unwrap_or_default();
    let lines = notes.iter().map(|note| format!("\n  {note}")).collect::<String>();
    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("test {} ... {word}{lines}", trial.name);
    let mut report = lock(report);
    report.durations.push((now().since(began), trial.name));
    if let Err(failed) = outcome {
        report.failures.push((trial.name, failed));
    }
}

fn message(panic: &(dyn Any + Send)) -> Failed {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.map_or_else(|| "panicked".into(), |text| format!("panicked: {text}").into())
}

#[derive(Debug, Default)]
struct Report {
    durations: Vec<(Duration, &'static str)>,
    failures: Vec<(&'static str, Failed)>,
}

impl Report {
    fn print(&self, filtered_out: usize, took: Duration) {
        if !self.failures.is_empty() {
            println!("\nfailures:\n");
            for (name, failed) in &self.failures {
                println!("---- {name} ----\n{}\n", failed.message().unwrap_or_default());
            }
            println!("\nfailures:");
            self.failures.iter().for_each(|(name, _)| println!("    {name}"));
        }
        let word = if self.failures.is_empty() { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {} passed; {} failed; 0 ignored; 0 measured; {filtered_out} filtered out; \
             finished in {:.2}s\n",
            self.durations.len() - self.failures.len(),
            self.failures.len(),
            took.as_secs_f64()
        );
        let mut slowest = self.durations.clone();
        slowest.sort_unstable_by(|a, b| b.cmp(a));
        println!(
            "{:.0} s of trials; the slowest:",
            slowest.iter().map(|(took, _)| took.as_secs_f64()).sum::<f64>()
        );
        for (took, name) in slowest.iter().take(SLOWEST) {
            println!("{:>8.1} s  {name}", took.as_secs_f64());
        }
    }
}
