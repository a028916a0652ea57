//! Resolves the DNS names among VIPs and Services' addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::lookups::{Lookups, Resolution};
use crate::config::DnsMode;
use crate::net::clock;

const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Resolves names while there are any, those of the control plane first, and reports each whose addresses change. A name that is no longer wanted has none.
pub(super) async fn look_up<M>(
    mut names: watch::Receiver<BTreeSet<String>>,
    (mode, control_plane): (DnsMode, BTreeSet<String>),
    wrap: impl Fn(String, Vec<IpAddr>) -> M,
    observed: mpsc::Sender<M>,
) {
    let mut lookups = Lookups::new(mode, control_plane);
    let mut in_flight = FuturesUnordered::new();
    names.mark_changed();
    loop {
        in_flight.extend(lookups.start(clock::now()).into_iter().map(query));
        let deadline = lookups.poll_timeout();
        let pause = async {
            match deadline {
                Some(deadline) => sleep(deadline.since(clock::now())).await,
                None => std::future::pending().await,
            }
        };
        let mut changes = Vec::new();
        tokio::select! {
            changed = names.changed() => {
                if changed.is_err() {
                    return;
                }
                let wanted = names.borrow_and_update().clone();
                changes.extend(lookups.set(clock::now(), wanted).into_iter().map(|name| (name, Vec::new())));
            }
            Some((name, answers)) = in_flight.next() => {
                match lookups.finish(clock::now(), &name, &answers) {
                    Resolution::Unchanged => {}
                    Resolution::Failed => tracing::warn!(name, "cannot resolve the name; retrying"),
                    Resolution::Changed(addresses) => {
                        tracing::info!(name, ?addresses, "resolved the name");
                        changes.push((name, addresses));
                    }
                }
            }
            () = pause => {}
        }
        for (name, addresses) in changes {
            if observed.send(wrap(name, addresses)).await.is_err() {
                return;
            }
        }
    }
}

/// The addresses of a name; none without an answer.
async fn query(name: String) -> (String, Vec<IpAddr>) {
    let answers = match timeout(QUERY_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0))).await {
        Ok(Ok(answers)) => answers.map(|answer| answer.ip()).collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "cannot resolve the name");
            Vec::new()
        }
        Err(_elapsed) => Vec::new(),
    };
    (name, answers)
}
