//! The API servers on the other hosts, for the day when the one here fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{WatchEvent, WatchParams};
use tokio::time::timeout;

use super::Api;

/// The server ends a watch after this many seconds; it is opened again at once.
const WATCH_SECONDS: u32 = 290;
/// Time to open a watch.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before a broken watch is opened again.
const PAUSE: Duration = Duration::from_secs(1);

/// Follow the endpoints of `default/kubernetes` by watch, for ever. Who was seen once is remembered.
pub async fn follow(api: Arc<Api>) {
    loop {
        let watched = async {
            let chosen = api.client().await.ok()?;
            let slices = kube::Api::<EndpointSlice>::namespaced(chosen.client, "default");
            let params = WatchParams::default()
                .labels("kubernetes.io/service-name=kubernetes")
                .timeout(WATCH_SECONDS)
                .disable_bookmarks();
            let stream = timeout(PATIENCE, slices.watch(&params, "")).await.ok()?.ok()?;
            let mut stream = stream.boxed();
            let remember = async {
                while let Ok(Some(event)) = stream.try_next().await {
                    if let WatchEvent::Added(slice) | WatchEvent::Modified(slice) = event {
                        api.remember(&servers_of(&slice));
                    }
                }
            };
            tokio::select! {
                () = remember => {}
                () = api.until_failed(&chosen.server) => {}
            }
            Some(())
        };
        watched.await;
        tokio::time::sleep(PAUSE).await;
    }
}

fn servers_of(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
    let addresses = || slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    ports
        .flat_map(|port| {
            addresses().filter_map(move |address| Some(SocketAddr::new(address.parse().ok()?, port)))
        })
        .collect()
}
