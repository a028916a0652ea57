//! How the API server on this host does.
//!
//! `fsm` judges answers, and is pure; `driver` asks.

pub mod driver;
pub mod fsm;
