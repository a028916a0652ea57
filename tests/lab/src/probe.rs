//! A client that opens TLS connections to the VIP, and records the certificates of the servers.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube_vip::model::BootTime;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::lab::Lab;
use crate::{LabError, Namespace, Result, now};

/// Time between two attempts.
pub const INTERVAL: Duration = Duration::from_millis(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A successful connection.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was begun.
    pub begun: BootTime,
    /// When the handshake was complete.
    pub done: BootTime,
    /// Which certificate the server showed: the hosts have different ones.
    pub certificate: Vec<u8>,
}

/// Probes one address until it is dropped.
#[derive(Debug)]
pub struct Prober {
    answers: Arc<Mutex<Vec<Answer>>>,
    task: JoinHandle<()>,
}

impl Prober {
    /// Probe port 6443 of `address` from `from`.
    pub fn start(lab: &Lab, from: &Namespace, address: IpAddr) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(lab.pki.ca_pem().as_bytes());
        let ca = ca.map_err(|error| LabError::Certificate(error.to_string()))?;
        roots.add(ca).map_err(|error| LabError::Certificate(error.to_string()))?;
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let mut config = config;
        // A resumed session would not show the certificate.
        config.resumption = rustls::client::Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(config));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let sink = answers.clone();
        let task = from.spawn(async move {
            let mut tick = tokio::time::interval(INTERVAL);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                tick.tick().await;
                let (connector, sink) = (connector.clone(), sink.clone());
                tokio::spawn(async move {
                    let begun = now();
                    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, connect(&connector, address));
                    if let Ok(Ok(certificate)) = attempt.await {
                        let answer = Answer { begun, done: now(), certificate };
                        sink.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                    }
                });
            }
        });
        Ok(Self { answers, task })
    }

    /// Everything so far, by the time it was begun.
    pub fn answers(&self) -> Vec<Answer> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        answers.sort_by_key(|answer| answer.begun);
        answers
    }

    /// What was done since `start`, by the time it was begun.
    fn since(&self, start: BootTime) -> Vec<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers: Vec<Answer> =
            answers.iter().filter(|answer| answer.done >= start).cloned().collect();
        answers.sort_by_key(|answer| answer.begun);
        answers
    }

    /// The longest time without an answer since `start`, less the time between two attempts.
    pub fn outage(&self, start: BootTime) -> Duration {
        let mut last = start;
        let mut longest = Duration::ZERO;
        for answer in self.since(start) {
            longest = longest.max(answer.done.since(last));
            last = last.max(answer.done);
        }
        longest.max(now().since(last)).saturating_sub(INTERVAL)
    }

    /// Wait for an answer to an attempt begun after `start`.
    pub fn wait_for_answer(&self, start: BootTime, seconds: u64) -> Result<Answer> {
        crate::wait_for("an answer from the VIP", seconds, || {
            self.since(start).into_iter().find(|answer| answer.begun >= start)
        })
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(connector: &TlsConnector, address: IpAddr) -> std::io::Result<Vec<u8>> {
    let stream = TcpStream::connect(SocketAddr::new(address, 6443)).await?;
    let mut stream = connector.connect(ServerName::IpAddress(address.into()), stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|der| der.to_vec());
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.ok();
    Ok(certificate.unwrap_or_default())
}
