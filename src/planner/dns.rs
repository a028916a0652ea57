//! Resolves the DNS names among VIPs and Services' addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::DnsMode;

/// Interval of queries, as in the Go program.
const DNS_INTERVAL: Duration = Duration::from_secs(3);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

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

/// The addresses of a name: those it had, as long as they are among the answers, or if there is no answer.
async fn lookup(name: &str, mode: DnsMode, known: &[IpAddr]) -> Vec<IpAddr> {
    let answers: Vec<IpAddr> = match timeout(QUERY_TIMEOUT, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(answers)) => answers.map(|answer| answer.ip()).collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "cannot resolve the name");
            Vec::new()
        }
        Err(_elapsed) => Vec::new(),
    };
    let found = select(mode, &answers);
    let still = known.iter().all(|address| answers.contains(address));
    if found.is_empty() || (still && !known.is_empty()) { known.to_vec() } else { found }
}

/// Which of the answers for a name are used. With `Dual` both families are required.
fn select(mode: DnsMode, answers: &[IpAddr]) -> Vec<IpAddr> {
    let v4 = answers.iter().find(|address| address.is_ipv4()).copied();
    let v6 = answers.iter().find(|address| address.is_ipv6()).copied();
    match mode {
        DnsMode::First => answers.first().copied().into_iter().collect(),
        DnsMode::Ipv4 => v4.into_iter().collect(),
        DnsMode::Ipv6 => v6.into_iter().collect(),
        DnsMode::Dual => v4.zip(v6).map(|(v4, v6)| vec![v4, v6]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_takes_its_answers() {
        let answers: Vec<IpAddr> =
            ["2001:db8::1", "192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap()).into();
        let table = [
            (DnsMode::First, &answers[..1]),
            (DnsMode::Ipv4, &answers[1..2]),
            (DnsMode::Ipv6, &answers[..1]),
        ];
        for (mode, expected) in table {
            assert_eq!(select(mode, &answers), expected, "{mode:?}");
        }
        assert_eq!(select(DnsMode::Dual, &answers), [answers[1], answers[0]]);
        assert_eq!(select(DnsMode::Dual, &answers[1..]), Vec::<IpAddr>::new());
    }
}
