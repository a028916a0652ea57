//! The settings given by flags, environment and file, merged, with the origin of every value.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::bgp::{split_peers, to_text};
use super::file;
use super::problem::{Problem, nearest};
use super::settings::{Key, Kind, SETTINGS};
use crate::model::go;

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        path: String,
        /// Counted from 1.
        line: u64,
        /// The key, with dots.
        key: String,
    },
    /// A flag, without dashes.
    Flag(String),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, key } => write!(f, "{path}, line {line}, key `{key}`"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
        }
    }
}

/// The given settings as text in normal form. Precedence: environment over flag over file over default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Raw {
    values: BTreeMap<Key, (String, Origin)>,
    /// BGP peers of the configuration file.
    file_peers: Vec<Value>,
}

/// Reads a file by its path.
pub type ReadFile<'a> = dyn Fn(&str) -> std::io::Result<String> + 'a;

/// Everything that [`Raw`] is made from; the caller reads the process's environment and files.
#[derive(Default)]
pub struct Sources<'a> {
    /// Flags by name, without dashes.
    pub flags: Vec<(String, String)>,
    pub env: Vec<(String, String)>,
    /// Flags that precede all others and the environment: those beside a manifest with both.
    pub overrides: Vec<(String, String)>,
    /// Reads the configuration file once its path is known.
    pub read_file: Option<&'a ReadFile<'a>>,
}

impl Raw {
    /// Merges all sources. Returns errors as problems, and warnings as notes.
    pub fn collect(sources: &Sources<'_>) -> (Self, Vec<Problem>, Vec<String>) {
        let mut problems = Vec::new();
        let flags = |given: &[(String, String)]| -> Vec<_> {
            given.iter().filter_map(|(name, value)| by_flag(name, value)).collect()
        };
        let overrides = flags(&sources.overrides);
        let free = |found: &(Key, String, Origin)| overrides.iter().all(|(key, ..)| *key != found.0);
        let mut from_flags = flags(&sources.flags);
        from_flags.retain(free);
        let variables = sources.env.iter().filter_map(|(name, value)| by_variable(name, value));
        let from_env: Vec<_> = variables.filter(free).collect();
        from_flags.extend(overrides);
        let given = |key| {
            let found = from_env.iter().chain(&from_flags).find(|(candidate, ..)| *candidate == key);
            found.map(|(_, value, _)| value.clone()).filter(|value| !value.is_empty())
        };
        let (mut from_file, mut file_peers) = (Vec::new(), Vec::new());
        if let (Some(path), Some(read)) = (given(Key::ConfigFile), sources.read_file) {
            match read(&path) {
                Ok(text) => {
                    let (found, peers, more) = file::parse(&path, &text);
                    (from_file, file_peers) = (found, peers);
                    problems.extend(more);
                }
                Err(error) => problems.push(Problem::File { file: path, why: error.to_string() }),
            }
        }
        let mut raw = Self { file_peers, ..Self::default() };
        for (key, value, origin) in from_file.into_iter().chain(from_flags).chain(from_env) {
            match normal(key.setting().kind, &value) {
                Some(value) => {
                    raw.values.insert(key, (value, origin));
                }
                None => problems.push(Problem::value(key, origin, &value)),
            }
        }
        (raw, problems, unknown_variables(&sources.env))
    }

    /// The value as text; the default of a setting that is not given.
    pub fn text(&self, key: Key) -> &str {
        self.values.get(&key).map_or(key.setting().default, |(value, _)| value)
    }

    pub fn origin(&self, key: Key) -> Origin {
        self.values.get(&key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// Name and origin of a setting, for messages.
    pub(crate) fn describe(&self, key: Key) -> String {
        format!("{} by {}", key.name(), self.origin(key))
    }

    /// A value that is well-formed but not acceptable.
    pub(super) fn unacceptable(&self, key: Key, allowed: impl Into<String>) -> Problem {
        Problem::unacceptable(self.origin(key), self.text(key), allowed)
    }

    /// What `read` makes of a value; none for an empty value, and, with a problem, for one that is not acceptable.
    pub(super) fn accept<T>(
        &self,
        key: Key,
        allowed: &str,
        problems: &mut Vec<Problem>,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = Some(self.text(key)).filter(|text| !text.is_empty())?;
        let found = read(text);
        if found.is_none() {
            problems.push(self.unacceptable(key, allowed));
        }
        found
    }

    /// The given BGP peers: strings, or maps.
    pub(super) fn peers(&self) -> Vec<Result<Value, String>> {
        let text = self.text(Key::BgpPeers);
        if !self.file_peers.is_empty() && to_text(&self.file_peers) == text {
            return self.file_peers.iter().cloned().map(Ok).collect();
        }
        split_peers(text)
    }

    pub(super) fn exclusive(&self, one: Key, other: Key) -> Problem {
        let [one, other] = [one, other].map(|key| format!("{} ({})", key.name(), self.origin(key)));
        Problem::Combination(format!("{one} and {other} exclude each other: keep one"))
    }

    pub fn is_set(&self, key: Key) -> bool {
        self.values.contains_key(&key)
    }
}

fn by_flag(name: &str, value: &str) -> Option<(Key, String, Origin)> {
    SETTINGS.iter().find_map(|setting| {
        let flag = setting.flags.iter().find(|flag| flag.trim_start_matches('!') == name)?;
        let value = match go::parse_bool(value) {
            Some(value) if flag.starts_with('!') => (!value).to_string(),
            _ => value.to_owned(),
        };
        Some((setting.key, value, Origin::Flag(name.to_owned())))
    })
}

fn by_variable(name: &str, value: &str) -> Option<(Key, String, Origin)> {
    let setting = SETTINGS.iter().find(|setting| setting.env.contains(&name))?;
    // An empty variable counts as unset, unless the empty text is a value of its own.
    let counts = !value.is_empty() || setting.kind == Kind::TextOrNothing;
    counts.then(|| (setting.key, value.to_owned(), Origin::Variable(name.to_owned())))
}

/// The normal form of a value; none if the kind does not accept it.
fn normal(kind: Kind, value: &str) -> Option<String> {
    let trimmed = value.trim();
    match kind {
        Kind::Text | Kind::TextOrNothing => Some(trimmed.to_owned()),
        Kind::Secret | Kind::SecretList | Kind::List => Some(value.to_owned()),
        Kind::Bool => go::parse_bool(trimmed).map(|value| value.to_string()),
        Kind::Int(low, high) => {
            let number: i64 = trimmed.parse().ok()?;
            (low..=high).contains(&number).then(|| number.to_string())
        }
        Kind::OneOf(words) => {
            words.iter().find(|word| word.eq_ignore_ascii_case(trimmed)).map(|word| (*word).to_owned())
        }
        Kind::Duration => go::parse_duration(trimmed).map(|_| trimmed.to_owned()),
        Kind::Url => {
            if trimmed.is_empty() {
                return Some(String::new());
            }
            let uri: http::Uri = trimmed.parse().ok()?;
            let known = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
            known.then(|| trimmed.to_owned())
        }
        Kind::JsonMap => {
            if trimmed.is_empty() {
                return Some(String::new());
            }
            let map: BTreeMap<String, String> = serde_json::from_str(trimmed).ok()?;
            serde_json::to_string(&map).ok()
        }
    }
}

/// Warnings about variables with a prefix of ours and an unknown name.
fn unknown_variables(env: &[(String, String)]) -> Vec<String> {
    const PREFIXES: [&str; 14] = [
        "vip_",
        "bgp_",
        "svc_",
        "cp_",
        "lb_",
        "egress_",
        "dhcp_",
        "upnp_",
        "enable_",
        "disable_",
        "health_",
        "prometheus_",
        "control_plane_",
        "mpbgp_",
    ];
    let known = || SETTINGS.iter().flat_map(|setting| setting.env.iter().copied());
    env.iter()
        .filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|(name, _)| !known().any(|known| known == name))
        .map(|(name, _)| format!("variable {name} is not known and has no effect{}", nearest(name, known())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Values;

    fn values(raw: Raw) -> Values {
        Values::read(raw).unwrap()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn collect(
        flags: &[(&str, &str)],
        env: &[(&str, &str)],
        file: &'static str,
    ) -> (Raw, Vec<String>, Vec<String>) {
        let read = |_: &str| Ok(file.to_owned());
        let sources =
            Sources { flags: pairs(flags), env: pairs(env), read_file: Some(&read), ..Sources::default() };
        let (raw, problems, notes) = Raw::collect(&sources);
        (raw, problems.iter().map(ToString::to_string).collect(), notes)
    }

    #[test]
    fn environment_overrides_flag_overrides_file_overrides_default() {
        let file = "port: 3\nlbPort: 3\nleaseDuration: 3\n";
        let flags = [("config-file", "c.yaml"), ("port", "2"), ("lbPort", "2")];
        let (raw, problems, _) = collect(&flags, &[("port", "1")], file);
        assert_eq!(problems, [""; 0]);
        let value = |key| (raw.text(key), raw.origin(key).to_string());
        assert_eq!(value(Key::Port), ("1", "variable port".into()));
        assert_eq!(value(Key::LoadBalancerPort), ("2", "flag --lbPort".into()));
        assert_eq!(value(Key::LeaseDuration), ("3", "c.yaml, line 3, key `leaseDuration`".into()));
        assert_eq!(value(Key::RetryPeriod), ("2", "default".into()));
    }

    #[test]
    fn the_environment_can_name_the_file() {
        let (raw, _, _) = collect(&[], &[("config_file", "c.yaml")], "port: 7\n");
        assert_eq!(values(raw).port, 7);
    }

    #[test]
    fn an_empty_variable_counts_as_unset_except_for_text_or_nothing() {
        let (raw, _, _) =
            collect(&[("port", "2")], &[("port", ""), ("prometheus_server", ""), ("lb_class_name", "")], "");
        assert_eq!(raw.text(Key::Port), "2");
        assert_eq!(raw.text(Key::MetricsAddress), "");
        assert_eq!(raw.text(Key::ClassName), "");
    }

    #[test]
    fn booleans_are_read_in_the_notation_of_go() {
        for (text, value) in [("T", true), ("1", true), ("FALSE", false)] {
            assert_eq!(values(collect(&[], &[("vip_arp", text)], "").0).arp, value);
        }
        let (_, problems, _) = collect(&[], &[("vip_arp", "yes")], "");
        assert_eq!(problems, ["variable vip_arp: `yes` is not true or false"]);
    }

    #[test]
    fn a_flag_can_have_the_opposite_sense() {
        let endpoints =
            |slices| values(collect(&[("enableEndpointSlices", slices)], &[], "").0).enable_endpoints;
        assert!(endpoints("false") && !endpoints("true"));
    }

    #[test]
    fn all_problems_are_reported_together() {
        let (_, problems, _) = collect(&[("port", "99999")], &[("dns_mode", "ipv5"), ("vip_arp", "x")], "");
        assert_eq!(
            problems,
            [
                "flag --port: `99999` is not a whole number from 1 to 65535",
                "variable dns_mode: `ipv5` is not one of first, ipv4, ipv6, dual; did you mean `ipv4`?",
                "variable vip_arp: `x` is not true or false",
            ]
        );
    }

    #[test]
    fn an_unknown_variable_is_a_warning() {
        let (_, problems, notes) =
            collect(&[], &[("vip_adress", "x"), ("upnp_prots", "80"), ("PATH", "y")], "");
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            notes,
            [
                "variable vip_adress is not known and has no effect; did you mean `vip_address`?",
                "variable upnp_prots is not known and has no effect; did you mean `upnp_ports`?",
            ]
        );
    }

    /// Under whichever of its names a setting is given.
    #[test]
    fn overrides_precede_flags_and_variables_of_the_same_setting() {
        let pair = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let sources = Sources {
            flags: pair("arp", "true"),
            env: [pair("vip_arp", "nonsense"), pair("address", "192.0.2.9")].concat(),
            overrides: pair("enableARP", "false"),
            read_file: None,
        };
        let (raw, problems, _) = Raw::collect(&sources);
        assert_eq!((problems, raw.text(Key::Arp)), (Vec::new(), "false"));
        assert_eq!(raw.text(Key::Address), "192.0.2.9");
    }
}
