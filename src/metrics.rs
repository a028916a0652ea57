//! Registration of metrics. Each component has a `Metrics` of its own and registers it at start-up.

use prometheus_client::registry::{Metric, Registry};

/// Registers a metric and returns it.
pub fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// A count as the value of a gauge.
pub fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}
