//! Remembers which problems were reported, so that a lasting one is logged once.

use std::collections::BTreeSet;

/// The problems that hold now, and were reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOnChange {
    reported: BTreeSet<String>,
}

impl LogOnChange {
    /// One problem holds and no other. True if it was not reported yet.
    #[must_use]
    pub fn set(&mut self, problem: impl Into<String>) -> bool {
        !self.replace([problem.into()]).is_empty()
    }

    /// Exactly these problems hold. Returns those that were not reported yet, in their order.
    #[must_use]
    pub fn replace(&mut self, problems: impl IntoIterator<Item = String>) -> Vec<String> {
        let before = std::mem::take(&mut self.reported);
        let mut new = Vec::new();
        for problem in problems {
            if !before.contains(&problem) && !self.reported.contains(&problem) {
                new.push(problem.clone());
            }
            self.reported.insert(problem);
        }
        new
    }

    /// The problems that hold.
    pub fn current(&self) -> impl Iterator<Item = &str> {
        self.reported.iter().map(String::as_str)
    }

    /// No problem holds any more. True if one did.
    pub fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.reported).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_problem_is_reported_once_and_again_after_it_was_gone() {
        let mut log = LogOnChange::default();
        assert!(log.set("no route"));
        assert!(!log.set("no route"));
        assert!(log.set("no carrier"));
        assert!(log.clear());
        assert!(!log.clear());
        assert!(log.set("no carrier"));
    }

    #[test]
    fn of_several_problems_only_the_new_ones_are_reported() {
        let mut log = LogOnChange::default();
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(log.replace(texts(&["a", "b", "a"])), ["a", "b"]);
        assert_eq!(log.replace(texts(&["b", "c"])), ["c"]);
        assert_eq!(log.replace(texts(&["a"])), ["a"]);
    }
}
