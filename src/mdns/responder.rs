//! Registers a host record with the responder, wholly or not at all.

use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{Error, ServiceDaemon, ServiceInfo};
use tokio::time::timeout;

use super::goodbye::{self, GoodbyeInterface};
use super::records::HostRecord;
use crate::model::Backoff;

/// Pauses while the responder's queue of commands is full, about two seconds together.
const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(100);
const ATTEMPTS: u32 = 25;

/// The responder, or a stand-in for it.
pub(super) trait Responder: Sync {
    async fn register(&self, info: ServiceInfo) -> mdns_sd::Result<()>;
    /// Returns once the daemon no longer answers for the name.
    async fn unregister(&self, full_name: &str) -> mdns_sd::Result<()>;
    /// Withdraws addresses of a host whose services are unregistered.
    fn say_goodbye(&self, host: &str, addresses: &[IpAddr]);
}

/// The library's daemon, and the interface that it uses, if that is there.
pub(super) struct InterfaceResponder {
    pub daemon: ServiceDaemon,
    pub interface: Option<GoodbyeInterface>,
}

impl Responder for InterfaceResponder {
    async fn register(&self, info: ServiceInfo) -> mdns_sd::Result<()> {
        enqueue(|| self.daemon.register(info.clone())).await
    }

    async fn unregister(&self, full_name: &str) -> mdns_sd::Result<()> {
        let done = enqueue(|| self.daemon.unregister(full_name)).await?;
        // Without a response in time, peers keep the addresses until their time to live ends.
        timeout(RESPONSE_TIMEOUT, done.recv_async()).await.ok();
        Ok(())
    }

    fn say_goodbye(&self, host: &str, addresses: &[IpAddr]) {
        if let Some(interface) = &self.interface
            && let Err(error) = goodbye::send(interface, host, addresses)
        {
            tracing::warn!(host, "cannot withdraw the addresses of a name: {error}");
        }
    }
}

/// Limit for the library's thread to respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the library keeps of other hosts: each record that arrives, until it expires, although nothing asks for it, and two timers
/// each time. None if its thread has no time to respond.
pub(super) async fn cached(daemon: &ServiceDaemon) -> Option<i64> {
    let metrics = daemon.get_metrics().ok()?;
    let metrics = timeout(RESPONSE_TIMEOUT, metrics.recv_async()).await.ok()?.unwrap_or_default();
    let of_others = metrics.iter().filter(|(name, _)| name.starts_with("cached-") || *name == "timer");
    Some(of_others.map(|(_, count)| count).sum())
}

/// Registers all services of a record. Returns the full names that withdraw it.
pub(super) async fn register(
    responder: &impl Responder,
    record: &HostRecord,
    probe: bool,
) -> mdns_sd::Result<Vec<String>> {
    let mut full_names = Vec::new();
    for (kind, port) in &record.services {
        let registered = match service_info(record, kind, *port, probe) {
            Ok(info) => {
                let full_name = info.get_fullname().to_owned();
                responder.register(info).await.map(|()| full_name)
            }
            Err(error) => Err(error),
        };
        match registered {
            Ok(full_name) => full_names.push(full_name),
            Err(error) => {
                withdraw(responder, &full_names).await;
                return Err(error);
            }
        }
    }
    Ok(full_names)
}

pub(super) async fn withdraw(responder: &impl Responder, full_names: &[String]) {
    for full_name in full_names {
        if let Err(error) = responder.unregister(full_name).await {
            tracing::warn!(full_name, "cannot withdraw a name: {error}");
        }
    }
}

fn service_info(record: &HostRecord, kind: &str, port: u16, probe: bool) -> mdns_sd::Result<ServiceInfo> {
    let none: [(&str, &str); 0] = [];
    let addresses: Vec<_> = record.addresses.iter().copied().collect();
    let (kind, host) = (format!("{kind}.local."), format!("{}.local.", record.host));
    let mut info = ServiceInfo::new(&kind, &record.host, &host, &addresses[..], port, &none[..])?;
    info.set_requires_probe(probe);
    Ok(info)
}

/// Sends a command, and waits while the queue is full.
async fn enqueue<T>(mut command: impl FnMut() -> mdns_sd::Result<T>) -> mdns_sd::Result<T> {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        match command() {
            Err(Error::Again) if backoff.attempts() < ATTEMPTS => {
                tokio::time::sleep(backoff.next_pause()).await
            }
            result => return result,
        }
    }
}
