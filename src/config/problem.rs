//! What is wrong with a configuration, in one sentence each.

use std::fmt;

use super::origin::Origin;
use super::settings::{Key, Kind};

/// Something wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A value that its setting does not accept.
    #[error("{origin}: `{value}` is not {allowed}{hint}")]
    Value {
        /// Where it came from.
        origin: Origin,
        /// The value, or `…` for a secret.
        value: String,
        /// What would be.
        allowed: String,
        /// A word that may have been meant, as ` (did you mean …?)`.
        hint: Hint,
    },
    /// A key in the file that is none of ours.
    #[error("{file}, line {line}: there is no key `{key}`{hint}")]
    UnknownKey {
        /// The file's path.
        file: String,
        /// Counted from 1.
        line: u64,
        /// As written.
        key: String,
        /// The nearest known one.
        hint: Hint,
    },
    /// The file cannot be read or is not YAML.
    #[error("{file}: {why}")]
    File {
        /// The file's path.
        file: String,
        /// What the system or the parser says.
        why: String,
    },
    /// Settings that do not go together, or one that is missing.
    #[error("{0}")]
    Combination(String),
}

/// A word that may have been meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hint(pub Option<String>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(word) => write!(f, "; did you mean `{word}`?"),
            None => Ok(()),
        }
    }
}

/// The known word nearest to `typed`, if one is near enough to have been meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Hint {
    let lower = typed.to_lowercase();
    let near = known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .min_by_key(|(distance, _)| *distance);
    let limit = 1 + typed.len() / 4;
    Hint(near.filter(|(distance, _)| *distance <= limit).map(|(_, word)| word.to_owned()))
}

impl Problem {
    /// A value that the setting `key` does not accept.
    pub fn value(key: Key, origin: Origin, value: &str) -> Self {
        let kind = key.setting().kind;
        let (allowed, hint) = match kind {
            Kind::Bool => ("true or false".into(), Hint::default()),
            Kind::Int(low, high) => (format!("a whole number from {low} to {high}"), Hint::default()),
            Kind::OneOf(words) => {
                let named: Vec<&str> = words.iter().filter(|word| !word.is_empty()).copied().collect();
                (format!("one of {}", named.join(", ")), nearest(value, named))
            }
            Kind::Duration => ("a duration such as `300ms` or `1m30s`".into(), Hint::default()),
            Kind::Url => ("an http or https URL".into(), Hint::default()),
            Kind::JsonMap => ("a JSON object whose values are strings".into(), Hint::default()),
            _ => ("what is expected here".into(), Hint::default()),
        };
        Self::Value { origin, value: value.to_owned(), allowed, hint }
    }

    /// A value that is well-formed but not acceptable here.
    pub fn unacceptable(origin: Origin, value: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::Value { origin, value: value.into(), allowed: allowed.into(), hint: Hint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_nonsense_does_not() {
        assert_eq!(nearest("vip_adress", ["vip_address", "vip_arp"]), Hint(Some("vip_address".into())));
        assert_eq!(nearest("completely_else", ["vip_address", "vip_arp"]), Hint(None));
    }
}
