//! What the ConfigMap says: which addresses may be given to whom.
//!
//! `set` computes with ranges, `value` reads one value, `config` all keys. Everything here is pure.

pub mod config;
pub mod set;
pub mod value;

pub use config::{KEYS, Pool, PoolId, Pools, Problem, Unavailable};
pub use set::RangeSet;
pub use value::Addresses;
