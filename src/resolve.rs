//! The addresses of VIPs that are given as DNS names, looked up again and again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{DnsMode, Prefixes, VipTarget};
use crate::model::Vip;
use crate::watch_ext;

/// As in the Go program.
const PERIOD: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(5);

/// Which of the answers for a name are used. With `Dual` both families are required.
pub fn select(mode: DnsMode, answers: &[IpAddr]) -> Vec<IpAddr> {
    let v4 = answers.iter().find(|address| address.is_ipv4()).copied();
    let v6 = answers.iter().find(|address| address.is_ipv6()).copied();
    match mode {
        DnsMode::First => answers.first().copied().into_iter().collect(),
        DnsMode::Ipv4 => v4.into_iter().collect(),
        DnsMode::Ipv6 => v6.into_iter().collect(),
        DnsMode::Dual => v4.zip(v6).map(|(v4, v6)| vec![v4, v6]).unwrap_or_default(),
    }
}

/// The addresses among the targets, as VIPs; not those that stand for what a DHCP server gives.
pub fn fixed(targets: &[VipTarget], prefixes: Prefixes) -> BTreeSet<Vip> {
    let addresses = targets.iter().filter_map(|target| match target {
        VipTarget::Ip(address) if !address.is_unspecified() => Some(*address),
        VipTarget::Ip(_) | VipTarget::Name(_) => None,
    });
    addresses.map(|address| prefixes.vip(address)).collect()
}

/// The addresses of a name: those it had, as long as they are among the answers, or if there is no answer.
pub async fn lookup(name: &str, mode: DnsMode, known: &[IpAddr]) -> Vec<IpAddr> {
    let answers: Vec<IpAddr> = match timeout(PATIENCE, tokio::net::lookup_host((name, 0))).await {
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

/// Look the names up for ever. A name that cannot be resolved keeps the addresses it had.
pub async fn run(
    targets: Vec<VipTarget>,
    prefixes: Prefixes,
    mode: DnsMode,
    vips: watch::Sender<BTreeSet<Vip>>,
) {
    let names: Vec<&str> = targets.iter().filter_map(VipTarget::name).collect();
    let mut resolved: Vec<Vec<IpAddr>> = vec![Vec::new(); names.len()];
    loop {
        for (name, known) in names.iter().zip(&mut resolved) {
            let found = lookup(name, mode, known).await;
            if found.is_empty() && known.is_empty() {
                tracing::warn!(name, "the VIP's name cannot be resolved yet; trying again");
            } else if !found.is_empty() && *known != found {
                tracing::info!(name, addresses = ?found, "resolved the VIP's name");
                *known = found;
            }
        }
        let mut all = fixed(&targets, prefixes);
        all.extend(resolved.iter().flatten().map(|address| prefixes.vip(*address)));
        watch_ext::set(&vips, all);
        if names.is_empty() {
            return;
        }
        tokio::time::sleep(PERIOD).await;
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
