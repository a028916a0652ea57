//! Ports of the network's gateway that lead to Services, by UPnP (Internet Gateway Device, versions 1 and 2).
//!
//! `forward` says which ports should be open, `ledger` what is to be done at a gateway for that, and both compute.
//! `gateway` is one gateway, by way of `igd-next`; `driver` finds gateways, does what the ledgers say, and tells the
//! `outcome`.

pub mod driver;
pub mod forward;
pub mod gateway;
pub mod ledger;
pub mod outcome;
