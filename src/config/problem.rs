//! What is wrong with a configuration, one sentence each.

use std::fmt;

use super::bgp::asdot;
use super::raw::Origin;
use super::settings::{Key, Kind};
use super::value::named;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A value that its setting does not accept.
    #[error("{origin}: `{value}` is not {allowed}{hint}")]
    Value { origin: Origin, value: String, allowed: String, hint: Hint },
    /// An unknown key in the file.
    #[error("{file}, line {line}: there is no key `{key}`{hint}")]
    UnknownKey {
        file: String,
        /// Counted from 1.
        line: u64,
        key: String,
        hint: Hint,
    },
    /// The file cannot be read or is not YAML.
    #[error("{file}: {why}")]
    File { file: String, why: String },
    /// Settings that exclude each other, or a missing one.
    #[error("{0}")]
    Combination(String),
}

/// A known word that resembles what was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hint(pub Option<Box<str>>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(word) => write!(f, "; did you mean `{word}`?"),
            None => Ok(()),
        }
    }
}

/// The known word nearest to `typed` by edit distance: one edit for each four letters.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Hint {
    let lower = typed.to_lowercase();
    let near = known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(&lower, &word.to_lowercase()), word))
        .min_by_key(|(distance, _)| *distance);
    let limit = (typed.len() / 4).max(1);
    Hint(near.filter(|(distance, _)| *distance <= limit).map(|(_, word)| word.into()))
}

impl Problem {
    /// A value that does not match its setting's kind.
    pub fn value(key: Key, origin: Origin, value: &str) -> Self {
        let mut hint = Hint::default();
        if matches!(key, Key::BgpAs | Key::BgpPeerAs) {
            hint = Hint(asdot(value).map(|asn| asn.to_string().into()));
        }
        let allowed = match key.setting().kind {
            Kind::Bool => "true or false".into(),
            Kind::Int(low, high) => format!("a whole number from {low} to {high}"),
            Kind::OneOf(words) => {
                let words = named(words);
                hint = nearest(value, words.iter().copied());
                format!("one of {}", words.join(", "))
            }
            Kind::Duration => "a duration such as `300ms` or `1m30s`".into(),
            Kind::Url => "an http or https URL".into(),
            Kind::JsonMap => "a JSON object whose values are strings".into(),
            Kind::List | Kind::SecretList => "a list".into(),
            Kind::Text | Kind::TextOrNothing | Kind::Secret => "a text".into(),
        };
        Self::Value { origin, value: value.to_owned(), allowed, hint }
    }

    /// A value that is well-formed but not acceptable.
    pub fn unacceptable(origin: Origin, value: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self::Value { origin, value: value.into(), allowed: allowed.into(), hint: Hint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_gets_a_hint_and_an_unrelated_word_none() {
        assert_eq!(nearest("vip_adress", ["vip_address", "vip_arp"]), Hint(Some("vip_address".into())));
        assert_eq!(nearest("completely_else", ["vip_address", "vip_arp"]), Hint(None));
        for (typed, known, hint) in
            [("globl", "global", true), ("local", "global", false), ("cidr", "etcdCert", false)]
        {
            assert_eq!(nearest(typed, [known]).0.is_some(), hint, "{typed}");
        }
    }

    #[test]
    fn an_as_number_in_asdot_gets_the_plain_one() {
        for (key, hint) in [(Key::BgpAs, Some("65546")), (Key::BgpPeerAs, Some("65546")), (Key::Port, None)] {
            let problem = Problem::value(key, Origin::Default, "1.10").to_string();
            assert_eq!(
                problem.split("did you mean `").nth(1),
                hint.map(|hint| format!("{hint}`?")).as_deref(),
                "{problem}"
            );
        }
    }
}
