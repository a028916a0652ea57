//! Announces addresses on a layer 2 segment: `schedule` decides when (pure), `layer2` sends on one interface.

pub mod layer2;
pub mod schedule;
