//! What an election tells others.

use super::Standing;
use super::decide::Seen;
use super::elector::Answer;
use crate::model::BootTime;

/// Who is told how an election goes.
pub trait Observer: Send + Sync {
    /// Where it stands; called after every step.
    fn election(&self, seen: &Seen, standing: &Standing, now: BootTime);
    /// The standing changed its kind.
    fn standing_changed(&self, before: &Standing, after: &Standing, seen: &Seen, now: BootTime);
    /// There is no way to an API server yet.
    fn no_access(&self, why: &str);
    /// A call for the Lease failed.
    fn call_failed(&self, verb: &'static str, server: &str, answer: &Answer, why: &str);
    /// A call for the Lease succeeded.
    fn call_succeeded(&self, verb: &'static str);
}
