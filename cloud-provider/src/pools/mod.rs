//! The pools of the ConfigMap: pure.
//!
//! `set` is a set of address ranges, `value` parses one value, `lint` finds what is suspicious in it, `config` parses all keys.

pub mod config;
mod lint;
pub mod set;
pub mod value;

pub use config::{KEYS, Pool, PoolId, Pools, Problem, Unavailable, key_pattern};
pub use set::RangeSet;
pub use value::Addresses;
