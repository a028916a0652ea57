//! The keys of the ConfigMap.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kube_vip::config::problem::nearest;
use kube_vip::model::Family;
use kube_vip::model::go::parse_bool;

use super::lint;
use super::value::Addresses;

/// The namespace part of keys that apply to all namespaces.
const GLOBAL: &str = "global";
/// The part of a key before its namespace.
const PREFIXES: [&str; 5] = ["cidr", "range", "exclude", "allow-share", "interface"];
const SEARCH_ORDER: &str = "search-order";
const SKIP_ENDS: &str = "skip-end-ips-in-cidr";
const COMPAT: &str = "compat-precedence";
const WHOLE_KEYS: [&str; 3] = [SEARCH_ORDER, SKIP_ENDS, COMPAT];

/// Every key with its values and meaning: the source of docs/services-reference.md.
pub const KEYS: [(&str, &str, &str); 11] = [
    (
        "cidr-<namespace>, range-<namespace>",
        "networks, ranges and addresses",
        "The pool of a namespace: the union of both keys.",
    ),
    (
        "cidr-global, range-global",
        "networks, ranges and addresses",
        "The pool for all namespaces without one of their own.",
    ),
    ("exclude-<namespace>", "networks, ranges and addresses", "Excluded from the namespace's pool."),
    ("exclude-global", "networks, ranges and addresses", "Excluded from every pool."),
    (
        "allow-share-<namespace>",
        "true or false",
        "Services of the namespace share IPv4 addresses if their ports differ.",
    ),
    ("allow-share-global", "true or false", "The same for namespaces without a key of their own."),
    (
        "interface-<namespace>",
        "an interface's name",
        "Written to new Services as `kube-vip.io/serviceInterface`, unless they have one; an empty value overrides the global one. kube-vip on the nodes has to permit it: `svc_interfaces`.",
    ),
    ("interface-global", "an interface's name", "The same for namespaces without a key of their own."),
    (SEARCH_ORDER, "asc or desc", "Allocate the lowest free address, or the highest."),
    (SKIP_ENDS, "true or false", "Never allocate the first and last address of an IPv4 network."),
    (
        COMPAT,
        "true or false",
        "The Go program's order of keys, in which `cidr-global` overrides a namespace's `range-`.",
    ),
];

/// An invalid or suspicious key of the ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub key: String,
    pub text: String,
    /// The key's value is invalid and no earlier one is in force.
    pub fatal: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// Index of a pool in [`Pools::pools`].
pub type PoolId = usize;

/// Addresses for the Services of one namespace, or of all namespaces without a pool of their own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pool {
    /// The namespace, or `global`.
    pub name: String,
    pub keys: Vec<String>,
    /// The values of its keys.
    pub text: String,
    /// Without exclusions.
    pub addresses: Addresses,
    /// A key is invalid, and there is no earlier valid value.
    pub broken: bool,
}

impl Pool {
    /// `cidr` or `range`, as in the Go program's messages.
    pub fn kind(&self) -> &'static str {
        if self.text.contains('/') { "cidr" } else { "range" }
    }

    /// Whether all its keys have an empty value.
    pub fn is_unspecified(&self) -> bool {
        self.text.trim().is_empty() && !self.broken
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error(
        "no address pools could be found for namespace {0}: add cidr-{0}, range-{0}, cidr-global or range-global \
         to the ConfigMap"
    )]
    NoPool(String),
    #[error("could not discover address: pool is not specified: give {0} a value in the ConfigMap")]
    Unspecified(String),
    #[error("the value of {0} in the ConfigMap is invalid: see the Events of the ConfigMap")]
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pools {
    /// Pools of namespaces before the global one.
    pub pools: Vec<Pool>,
    /// The highest free address is allocated rather than the lowest.
    pub descending: bool,
    by_namespace: BTreeMap<String, PoolId>,
    fallback: Option<PoolId>,
    share: BTreeMap<String, bool>,
    interfaces: BTreeMap<String, String>,
    /// The keys of each namespace.
    keys: BTreeMap<String, Vec<String>>,
    /// The last valid value of each key, as text and parsed.
    valid: BTreeMap<String, (String, Addresses)>,
}

struct Reader<'a> {
    data: &'a BTreeMap<String, String>,
    before: &'a Pools,
    skip_ends: bool,
    valid: BTreeMap<String, (String, Addresses)>,
    problems: Vec<Problem>,
}

impl Pools {
    /// Parses all keys. An invalid value affects only its own pool, and not even that if `before` has a valid value
    /// for the same key.
    pub fn parse(data: &BTreeMap<String, String>, before: &Self) -> (Self, Vec<Problem>) {
        let mut reader =
            Reader { data, before, skip_ends: false, valid: BTreeMap::new(), problems: Vec::new() };
        reader.skip_ends = reader.bool(SKIP_ENDS, false);
        let compat = reader.bool(COMPAT, false);
        let mut pools = Self { descending: reader.descending(), ..Self::default() };
        reader.unknown_keys();
        let everywhere = reader.exclusions(GLOBAL);
        for namespace in reader.namespaces() {
            if let Some(mut pool) = reader.pool(&namespace, compat) {
                pool.addresses.exclude(&everywhere);
                pool.addresses.exclude(&reader.exclusions(&namespace));
                let id = pools.pools.len();
                pools.pools.push(pool);
                match namespace.as_str() {
                    GLOBAL => pools.fallback = Some(id),
                    _ => drop(pools.by_namespace.insert(namespace, id)),
                }
            }
        }
        for (namespace, key) in data.keys().filter_map(|key| Some((namespace_of(key)?, key))) {
            if namespace != GLOBAL {
                pools.keys.entry(namespace.to_owned()).or_default().push(key.clone());
            }
        }
        for key in data.keys() {
            match key.split_once("allow-share-") {
                Some(("", namespace)) => {
                    let before = before.share.get(namespace).copied().unwrap_or(false);
                    let shares = reader.bool(key, before);
                    pools.share.insert(namespace.to_owned(), shares);
                }
                _ => {
                    if let Some(("", namespace)) = key.split_once("interface-")
                        && let Some(value) = data.get(key)
                    {
                        pools.interfaces.insert(namespace.to_owned(), value.trim().to_owned());
                    }
                }
            }
        }
        reader.overlaps(&pools);
        pools.valid = reader.valid;
        reader.problems.sort();
        // With compat-precedence a global key is read once for every namespace.
        reader.problems.dedup();
        (pools, reader.problems)
    }

    /// The pool for Services of a namespace: its own, else the global one. A namespace's own pool never overflows into
    /// the global one.
    ///
    /// # Errors
    /// If there is no valid pool.
    pub fn of(&self, namespace: &str) -> Result<(PoolId, &Pool), Unavailable> {
        let id = self.by_namespace.get(namespace).copied().or(self.fallback);
        let found = id.and_then(|id| Some((id, self.pools.get(id)?)));
        let (id, pool) = found.ok_or_else(|| Unavailable::NoPool(namespace.to_owned()))?;
        if pool.broken {
            return Err(Unavailable::Broken(pool.keys.join(", ")));
        }
        if pool.is_unspecified() {
            return Err(Unavailable::Unspecified(pool.keys.join(", ")));
        }
        Ok((id, pool))
    }

    /// Whether Services of a namespace share addresses: by its own key, else the global one.
    pub fn shares(&self, namespace: &str) -> bool {
        self.share.get(namespace).or_else(|| self.share.get(GLOBAL)).copied().unwrap_or(false)
    }

    /// The interface for Services of a namespace. As in the Go program, an empty value overrides the global one.
    pub fn interface(&self, namespace: &str) -> Option<&str> {
        let found = self.interfaces.get(namespace).or_else(|| self.interfaces.get(GLOBAL));
        found.map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Keys of namespaces that do not exist: misspelled, or not created yet. Without a list of namespaces these are the ones
    /// that resemble `global`.
    pub fn without_namespace(&self, existing: Option<&BTreeSet<String>>) -> Vec<Problem> {
        let problem = |(namespace, keys): (&String, &Vec<String>)| {
            let text = match existing {
                Some(existing) if existing.contains(namespace) => return None,
                Some(existing) => {
                    let hint = nearest(namespace, existing.iter().map(String::as_str).chain([GLOBAL]));
                    format!("there is no namespace {namespace}{hint}")
                }
                None => {
                    let hint = nearest(namespace, [GLOBAL]);
                    hint.0.is_some().then(|| format!("concerns a namespace {namespace} alone{hint}"))?
                }
            };
            Some(Problem { key: keys.join(", "), text, fatal: false })
        };
        self.keys.iter().filter_map(problem).collect()
    }

    pub fn contains(&self, family: Family, number: u128) -> bool {
        self.pools.iter().any(|pool| pool.addresses.set(family).contains(number))
    }
}

impl Reader<'_> {
    fn problem(&mut self, key: &str, text: impl fmt::Display, fatal: bool) {
        self.problems.push(Problem { key: key.to_owned(), text: text.to_string(), fatal });
    }

    /// As in Go, in any case.
    fn bool(&mut self, key: &str, before: bool) -> bool {
        let text = self.data.get(key).map(|text| text.trim().to_ascii_lowercase()).unwrap_or_default();
        if text.is_empty() {
            return false;
        }
        parse_bool(&text).unwrap_or_else(|| {
            self.problem(key, format!("`{text}` is neither true nor false; {before} is used"), false);
            before
        })
    }

    fn descending(&mut self) -> bool {
        match self.data.get(SEARCH_ORDER).map(|text| text.trim().to_ascii_lowercase()).as_deref() {
            Some("desc") => true,
            None | Some("" | "asc") => false,
            Some(other) => {
                self.problem(SEARCH_ORDER, format!("`{other}` is neither asc nor desc; asc is used"), false);
                false
            }
        }
    }

    fn unknown_keys(&mut self) {
        let unknown: Vec<&String> = self.data.keys().filter(|key| !is_known(key)).collect();
        for key in unknown {
            let hint = suggestion(key);
            self.problem(key, format!("unknown key{hint}"), false);
        }
    }

    /// Every namespace with a pool key, `global` last.
    fn namespaces(&self) -> Vec<String> {
        let pools = self.data.keys().filter_map(|key| {
            key.strip_prefix("cidr-").or_else(|| key.strip_prefix("range-")).filter(|name| !name.is_empty())
        });
        let names: BTreeSet<&str> = pools.collect();
        let own = names.iter().filter(|name| **name != GLOBAL);
        own.chain(names.get(GLOBAL)).map(|name| (*name).to_owned()).collect()
    }

    /// The valid value of a key, now or before.
    fn value(&mut self, key: &str) -> Option<Result<(String, Addresses), ()>> {
        let text = self.data.get(key)?;
        match Addresses::parse(text, self.skip_ends) {
            Ok(addresses) => {
                for warning in lint::warnings(text, key.starts_with("exclude-")) {
                    self.problem(key, warning, false);
                }
                self.valid.insert(key.to_owned(), (text.clone(), addresses.clone()));
                Some(Ok((text.clone(), addresses)))
            }
            Err(errors) => {
                let before = self.before.valid.get(key).cloned();
                let note = match &before {
                    Some((text, _)) => format!("; {text} stays in force"),
                    None => String::new(),
                };
                for error in errors {
                    self.problem(key, format!("{error}{note}"), before.is_none());
                }
                if let Some(before) = &before {
                    self.valid.insert(key.to_owned(), before.clone());
                }
                Some(before.ok_or(()))
            }
        }
    }

    fn exclusions(&mut self, namespace: &str) -> Addresses {
        match self.value(&format!("exclude-{namespace}")) {
            Some(Ok((_, addresses))) => addresses,
            // An invalid exclusion is reported, and excludes nothing.
            _ => Addresses::default(),
        }
    }

    /// The pool of a namespace from the keys that apply to it.
    fn pool(&mut self, namespace: &str, compat: bool) -> Option<Pool> {
        let (cidr, range) = (format!("cidr-{namespace}"), format!("range-{namespace}"));
        let present = |key: &String| self.data.contains_key(key);
        let keys: Vec<String> = if compat {
            // The Go program's order, in which a global CIDR overrides a namespace's range: the first present key wins.
            let order = [cidr, "cidr-global".to_owned(), range, "range-global".to_owned()];
            order.into_iter().find(present).into_iter().collect()
        } else {
            [cidr, range].into_iter().filter(present).collect()
        };
        let mut pool = Pool { name: namespace.to_owned(), ..Pool::default() };
        let mut texts = Vec::new();
        for key in &keys {
            match self.value(key)? {
                Ok((text, addresses)) => {
                    if let Some((family, first, last)) = pool.addresses.overlap(&addresses) {
                        let common = span(family, first, last);
                        self.problem(
                            key,
                            format!("has {common} in common with cidr-{namespace}: they count once"),
                            false,
                        );
                    }
                    pool.addresses.add(&addresses);
                    texts.push(text);
                }
                Err(()) => pool.broken = true,
            }
        }
        texts.retain(|text| !text.trim().is_empty());
        pool.text = texts.join(",");
        // The valid keys of a pool are used even if another one is invalid.
        pool.broken &= pool.text.is_empty();
        pool.keys = keys;
        Some(pool)
    }

    /// Reports pools with addresses in common: no address is allocated twice, but one pool may exhaust the other.
    fn overlaps(&mut self, pools: &Pools) {
        for family in Family::BOTH {
            let mut ranges: Vec<(u128, u128, &Pool)> = Vec::new();
            for pool in &pools.pools {
                ranges.extend(pool.addresses.set(family).ranges().map(|(first, last)| (first, last, pool)));
            }
            ranges.sort_by_key(|(first, last, _)| (*first, *last));
            let mut reported = BTreeSet::new();
            let mut furthest: Option<(u128, &Pool)> = None;
            for (first, last, pool) in ranges {
                if let Some((end, other)) = furthest
                    && first <= end
                    && other.name != pool.name
                    && other.keys != pool.keys
                    && reported.insert((other.name.clone(), pool.name.clone()))
                {
                    let text = format!(
                        "has {} in common with {}: no address is allocated twice, but each pool takes from the other",
                        span(family, first, last.min(end)),
                        other.keys.join(", ")
                    );
                    self.problem(&pool.keys.join(", "), text, false);
                }
                if furthest.is_none_or(|(end, _)| last > end) {
                    furthest = Some((last, pool));
                }
            }
        }
    }
}

/// A range as in the ConfigMap.
pub fn span(family: Family, first: u128, last: u128) -> String {
    match (family.address(first), family.address(last)) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    }
}

fn is_known(key: &str) -> bool {
    WHOLE_KEYS.contains(&key) || namespace_of(key).is_some()
}

/// A regular expression for every key with the name of a namespace (RFC 1123).
#[must_use]
pub fn key_pattern() -> String {
    format!("^(({})-[a-z0-9]([-a-z0-9]*[a-z0-9])?|{})$", PREFIXES.join("|"), WHOLE_KEYS.join("|"))
}

/// The namespace of a key, or `global`; none for keys without one.
fn namespace_of(key: &str) -> Option<&str> {
    let rest = |prefix: &&str| key.strip_prefix(*prefix)?.strip_prefix('-').filter(|name| !name.is_empty());
    PREFIXES.iter().find_map(rest)
}

/// `: did you mean …?` for the nearest known key.
fn suggestion(key: &str) -> String {
    let mut known: Vec<String> = WHOLE_KEYS.iter().map(|key| (*key).to_owned()).collect();
    for (position, _) in key.match_indices(['-', '_', '.']) {
        let namespace = key.get(position + 1..).unwrap_or_default();
        known.extend(PREFIXES.iter().map(|prefix| format!("{prefix}-{namespace}")));
    }
    nearest(key, known.iter().map(String::as_str)).to_string()
}
