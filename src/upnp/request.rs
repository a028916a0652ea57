//! A search for gateways, and a request to one of them, as a future that owns all that it needs.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;

use super::gateway::{Gateway, GatewayError, search};
use super::metrics::Metrics;
use super::table::{Input, Output};
use crate::model::{Family, IfIndex, PerFamily};

/// Limit of listing a gateway's mappings.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(20);

pub(super) enum Completed {
    /// Gateways, each with its external address.
    Search(Vec<(Gateway, Option<IpAddr>)>),
    /// The response, or why there is none, and the external address if it was queried.
    Request(Box<Gateway>, Result<Input, String>, Option<IpAddr>),
}

/// The gateways of an interface.
pub(super) async fn find(own: PerFamily<Option<IpAddr>>, index: IfIndex) -> Completed {
    let found = search(own, index).await.into_iter().map(|gateway| async move {
        let external = gateway.external_address().await;
        (gateway, external)
    });
    Completed::Search(join_all(found).await)
}

/// Sends a request.
pub(super) async fn send(
    mut gateway: Gateway,
    request: Output,
    list_limit: Duration,
    metrics: Metrics,
) -> Completed {
    let mut external = None;
    let response = match request {
        Output::List => {
            let listed = gateway.list(list_limit).await;
            if listed.is_ok() {
                external = gateway.external_address().await;
            }
            listed.map(Input::Listed)
        }
        Output::Open(mapping) => gateway.open(&mapping).await.map(|lease| {
            metrics.opened.inc();
            Input::Opened(lease)
        }),
        Output::Close(key) => {
            let (address, port, family) = (key.address, key.external, Family::of(key.address));
            let closed = gateway.close(&key).await;
            match &closed {
                Ok(()) => {
                    metrics.closed.inc();
                    tracing::info!(%address, port, %family, "closed a port mapping of the gateway");
                }
                Err(error) => {
                    tracing::warn!(%address, port, "cannot close a port mapping of the gateway: {error}");
                }
            }
            closed.map(|()| Input::Closed)
        }
    };
    let response = response.or_else(|error| {
        metrics.errors.inc();
        match error {
            GatewayError::Away(why) => Err(why),
            GatewayError::Refused(_) => Ok(Input::Refused(error.to_string())),
        }
    });
    Completed::Request(Box::new(gateway), response, external)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_list_that_takes_too_long_counts_as_refused() {
        // It accepts connections and never responds.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = Gateway::example(listener.local_addr().unwrap());
        let sent = send(gateway, Output::List, Duration::from_millis(1), Metrics::default()).await;
        let Completed::Request(_, response, _) = sent else { panic!("a search was completed") };
        assert!(matches!(&response, Ok(Input::Refused(why)) if why.contains("takes longer")), "{response:?}");
    }
}
