//! The client certificate while the process runs: renewed ones are read from the disk, and the end of its validity is
//! reported.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Api;
use super::certificate::{ClientCertificate, Reminder};
use super::event::EventRecorder;
use crate::metrics::add;

/// The files are read this often.
const INTERVAL: Duration = Duration::from_secs(30);

/// The certificate's part of `kube-vip status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    pub user: String,
    /// The kubeconfig, as this process sees it.
    pub kubeconfig: String,
    /// The end of its validity, as in RFC 3339.
    pub expires: String,
    /// What to do, if that is near.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl CertificateStatus {
    /// The line in `kube-vip status`.
    pub fn line(&self) -> String {
        let Self { user, kubeconfig, expires, .. } = self;
        format!("user {user} of {kubeconfig}, valid until {expires}")
    }
}

struct Watcher {
    api: Arc<Api>,
    events: EventRecorder,
    expiry: Family<[(&'static str, String); 1], Gauge>,
    status: watch::Sender<Option<CertificateStatus>>,
    reminder: Reminder,
}

/// Starts the task, and returns the status. There is none without a client certificate.
pub fn start(
    api: Arc<Api>,
    events: EventRecorder,
    r: &mut Registry,
) -> watch::Receiver<Option<CertificateStatus>> {
    let expiry = add(
        r,
        "client_certificate_expiry_timestamp_seconds",
        "End of the validity of the client certificate in the kubeconfig, in seconds since 1970",
    );
    let (status, receiver) = watch::channel(None);
    tokio::spawn(Watcher { api, events, expiry, status, reminder: Reminder::default() }.run());
    receiver
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let found = self.api.client_certificate().await;
            self.report(found, Timestamp::now());
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn report(&mut self, found: Option<(String, String)>, now: Timestamp) {
        // One that cannot be read cannot be used either, which every request reports.
        let read = |(origin, pem): (String, String)| Some((origin, ClientCertificate::read(&pem).ok()?));
        let Some((kubeconfig, certificate)) = found.and_then(read) else {
            self.expiry.clear();
            self.status.send_replace(None);
            return;
        };
        let status = CertificateStatus {
            user: certificate.user.clone(),
            kubeconfig,
            expires: certificate.not_after.to_string(),
            problem: certificate.problem(now),
        };
        if let Some(problem) = self.reminder.problem(&certificate, now) {
            tracing::warn!(kubeconfig = %status.kubeconfig, "{problem}");
            self.events.record_on_node(true, "ClientCertificateExpires", problem);
        }
        if self.status.borrow().as_ref().is_none_or(|before| before.user != status.user) {
            self.expiry.clear();
        }
        self.expiry.get_or_create(&[("user", status.user.clone())]).set(certificate.not_after.as_second());
        self.status.send_replace(Some(status));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::cluster::{Environment, event};
    use crate::config;

    fn pem(user: &str) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ("/etc/kubernetes/admin.conf".to_owned(), certificate.pem())
    }

    #[test]
    fn status_and_metric_have_the_present_certificate_alone() {
        let names = config::api::AGENT;
        let settings =
            config::Api { kubeconfig: String::new(), address: None, detect: false, port: 6443, names };
        let (api, (events, _writer)) =
            (Api::new(settings, Environment::default()), event::recorder("kube-vip", "node-1", 1));
        let mut registry = Registry::default();
        let expiry = add(&mut registry, "expiry", "");
        let (status, reminder) = (watch::Sender::default(), Reminder::default());
        let mut watcher = Watcher { api, events, expiry, status, reminder };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let unreadable = ("x".to_owned(), "x".to_owned());
        for (found, user) in [
            (Some(pem("a")), Some("a")),
            (Some(pem("b")), Some("b")),
            (Some(unreadable), None),
            (Some(pem("b")), Some("b")),
            (None, None),
        ] {
            watcher.report(found, now);
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            let users: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
            assert_eq!(users, user.into_iter().collect::<Vec<_>>(), "{text}");
            let status = watcher.status.borrow().clone();
            assert_eq!(status.map(|status| status.user).as_deref(), user);
        }
    }
}
