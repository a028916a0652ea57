//! Learns the API servers on other hosts, for when the local one fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{WatchEvent, WatchParams};
use tokio::time::timeout;

use super::{Api, ApiClient};

/// The slice that the API servers write themselves. Others with its label can be those of any author of EndpointSlices; a role
/// may permit this one alone.
const SLICE: &str = "kubernetes";
const WATCH_SECONDS: u32 = 290;
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Watches the endpoints of `default/kubernetes` forever. Every server seen is remembered.
pub async fn watch(api: Arc<Api>) {
    loop {
        // Errors need no report: every other request to the same server reports them.
        let _watched = watch_once(&api).await;
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

async fn watch_once(api: &Api) -> Option<()> {
    let ApiClient { client, server } = api.client().await.ok()?;
    let slices = kube::Api::<EndpointSlice>::namespaced(client, "default");
    let params = WatchParams::default()
        .fields(&format!("metadata.name={SLICE}"))
        .timeout(WATCH_SECONDS)
        .disable_bookmarks();
    let mut stream = timeout(OPEN_TIMEOUT, slices.watch(&params, "")).await.ok()?.ok()?.boxed();
    let remember = async {
        while let Ok(Some(event)) = stream.try_next().await {
            if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event {
                api.remember(&servers_of(&slice));
            }
        }
    };
    tokio::select! {
        () = remember => {}
        () = api.until_failed(&server) => {}
    }
    Some(())
}

/// The servers that a slice of namespace `default` names.
fn servers_of(slice: &EndpointSlice) -> Vec<SocketAddr> {
    if slice.metadata.name.as_deref() != Some(SLICE) {
        return Vec::new();
    }
    let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
    let addresses = || slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    ports
        .flat_map(|port| {
            addresses().filter_map(move |address| Some(SocketAddr::new(address.parse().ok()?, port)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_slice_of_the_api_servers_is_believed() {
        let slice = |name: &str| {
            let slice = json!({
                "metadata": { "name": name, "labels": { "kubernetes.io/service-name": "kubernetes" } },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": ["192.0.2.1"] }, { "addresses": ["192.0.2.2"] }],
                "ports": [{ "name": "https", "port": 6443 }],
            });
            let servers = servers_of(&serde_json::from_value(slice).unwrap());
            servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(slice("kubernetes"), ["192.0.2.1:6443", "192.0.2.2:6443"]);
        assert_eq!(slice("kubernetes-x7z2q"), [""; 0]);
    }
}
