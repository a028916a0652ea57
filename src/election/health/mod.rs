//! How the API server on this host does.
//!
//! `tracker` evaluates answers, and is pure; `driver` asks.

pub mod driver;
pub mod tracker;
