//! How a metric comes into a registry.

use prometheus_client::registry::{Metric, Registry};

/// Add one more to a registry: how it is written, and what it says.
pub fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}
