//! Resolves the DNS names among VIPs and Services' addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::DnsMode;
use crate::resolve::lookup;

/// Interval of queries, as in the Go program.
const DNS_INTERVAL: Duration = Duration::from_secs(3);

/// Resolves names while there are any. A name that cannot be resolved keeps its addresses.
pub(super) async fn look_up<M>(
    mut names: watch::Receiver<BTreeSet<String>>,
    mode: DnsMode,
    wrap: impl Fn(BTreeMap<String, Vec<IpAddr>>) -> M,
    observed: mpsc::Sender<M>,
) {
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    loop {
        let wanted = names.borrow_and_update().clone();
        let mut found: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        // Side by side: a name without a server does not delay the others.
        let queries = wanted.iter().map(async |name| {
            let before = known.get(name).map(Vec::as_slice).unwrap_or_default();
            (name.clone(), lookup(name, mode, before).await)
        });
        found.extend(futures::future::join_all(queries).await);
        for (name, addresses) in found.iter().filter(|(name, found)| known.get(*name) != Some(found)) {
            match addresses.as_slice() {
                [] => tracing::warn!(name, "cannot resolve the name yet; retrying"),
                _ => tracing::info!(name, ?addresses, "resolved the name"),
            }
        }
        if found != known {
            known = found;
            if observed.send(wrap(known.clone())).await.is_err() {
                return;
            }
        }
        let pause = async {
            if wanted.is_empty() {
                std::future::pending().await
            } else {
                tokio::time::sleep(DNS_INTERVAL).await
            }
        };
        tokio::select! {
            changed = names.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}
