//! kube-vip
pub mod config;
pub mod desired;
pub mod leader;
pub mod model;
pub mod reconcile;
