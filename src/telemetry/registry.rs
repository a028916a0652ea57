//! The registry of the agent's metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    build: &'static str,
    node: String,
}

/// A registry with `kube_vip_build_info`.
pub fn new(node: &str) -> Registry {
    let mut registry = Registry::with_prefix("kube_vip");
    let build = Family::<Build, Gauge>::default();
    let labels = Build { version: crate::VERSION, build: crate::BUILD, node: node.to_owned() };
    build.get_or_create(&labels).set(1);
    registry.register("build_info", "Version and build of this process; always 1", build);
    registry
}

/// All metrics in Prometheus' text format.
pub fn encode(registry: &Registry) -> String {
    let mut metrics = String::new();
    match text::encode(&mut metrics, registry) {
        Ok(()) => metrics,
        Err(error) => format!("# cannot encode the metrics: {error}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_the_build() {
        let text = encode(&new("node-a"));
        assert!(text.contains("kube_vip_build_info{version=\"v"), "{text}");
    }
}
