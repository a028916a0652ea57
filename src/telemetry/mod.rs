//! What operators and monitoring see: log lines, HTTP endpoints and the socket of `kube-vip status`.
//!
//! Components register their own metrics and publish their own status; this folder serves both.

mod connections;
pub mod endpoints;
pub mod http;
pub mod logging;
pub mod output;
pub(crate) mod peer;
pub mod registry;
pub mod socket;
