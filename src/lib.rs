//! kube-vip
pub mod desired;
pub mod leader;
pub mod model;
pub mod reconcile;
