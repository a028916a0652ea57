//! kube-vip
pub mod arp;
pub mod config;
pub mod desired;
pub mod leader;
pub mod model;
pub mod ndp;
pub mod net;
pub mod reconcile;
