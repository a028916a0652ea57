//! Requests the certificate with the rights of an administrator, and waits for it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use rcgen::KeyPair;
use tokio::time::timeout;

use super::document::{self, is_of, outcome};
use super::{Identity, KubeconfigError, SIGNATURE_TIMEOUT, file};
use crate::cluster::certificate::ClientCertificate;
use crate::cluster::{Endpoint, Environment, RequestProblem, Source, within};
use crate::config;
use crate::model::text::with_causes;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A kubeconfig, and what is to be known of it.
#[derive(Debug, Clone)]
pub struct Issued {
    /// As YAML, with the key.
    pub kubeconfig: String,
    pub expires: Timestamp,
    /// The group has roles.
    pub authorized: bool,
}

/// Creates a key, and has its certificate signed for so many days.
///
/// # Errors
/// If the kubeconfig that `settings` name, a server, or the signer does not permit it.
pub async fn issue(
    settings: &config::Api,
    identity: &Identity,
    days: u16,
) -> Result<Issued, KubeconfigError> {
    let path = &settings.kubeconfig;
    let administrator = file::read(path)?;
    let expired = administrator.certificate.map(|certificate| certificate.not_after);
    if let Some(expired) = expired.filter(|expired| *expired < Timestamp::now()) {
        return Err(KubeconfigError::Expired { path: path.clone(), expired });
    }
    let key = KeyPair::generate()?;
    let request = document::request(identity, &key, days)?;
    let (server, authorized) = Server::find(settings, identity).await?;
    let name = server.create(&request).await?;
    server.approve(&name).await?;
    let pem = server.wait(&name).await?;
    let certificate = ClientCertificate::read(&pem)
        .map_err(|why| KubeconfigError::Certificate { name: name.clone(), why })?;
    if !is_of(&certificate, identity) || certificate.public_key != key.public_key_raw() {
        return Err(KubeconfigError::Foreign(name));
    }
    let kubeconfig = document::kubeconfig(&administrator.cluster, identity, &pem, &key.serialize_pem())?;
    Ok(Issued { kubeconfig, expires: certificate.not_after, authorized })
}

/// The server that responded first, with the rights of the administrator.
struct Server<'a> {
    client: Client,
    url: String,
    /// The kubeconfig of the administrator.
    path: &'a str,
}

impl<'a> Server<'a> {
    /// The server on this host comes first, as for the agent: the one in `admin.conf` is the VIP, which may be down because
    /// a certificate expired. The review is the first request.
    async fn find(settings: &'a config::Api, identity: &Identity) -> Result<(Self, bool), KubeconfigError> {
        let path = &settings.kubeconfig;
        let unusable = |why: String| KubeconfigError::Unusable { path: path.clone(), why };
        let environment = Environment { control_plane: true, ..Environment::default() };
        let Source { base, mut endpoints, .. } =
            Source::load(settings, &environment).await.map_err(|error| unusable(error.to_string()))?;
        let url = base.cluster_url.to_string().trim_end_matches('/').to_owned();
        if endpoints.iter().all(|endpoint| endpoint.url != url) {
            let tls_name = base.tls_server_name.clone();
            endpoints.push(Endpoint { url, tls_name, local: false, given: true });
        }
        let review = document::review(identity);
        let mut problems = Vec::new();
        for endpoint in endpoints {
            let client = endpoint.connect(&base).map_err(|error| unusable(error.to_string()))?;
            let server = Self { client, url: endpoint.url, path };
            match server.review(&review).await {
                Err(KubeconfigError::Interrupted { server, why, .. }) => {
                    problems.push(format!("{server}: {why}"))
                }
                result => return result.map(|authorized| (server, authorized)),
            }
        }
        Err(KubeconfigError::NoResponse(problems))
    }

    /// One request with its limit of time.
    async fn send<T>(
        &self,
        request: &'static str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, KubeconfigError> {
        within(REQUEST_TIMEOUT, call).await.map_err(|RequestProblem { code, why }| {
            let (server, path) = (self.url.clone(), self.path.to_owned());
            match code {
                Some(401 | 403) => KubeconfigError::Forbidden { server, request, why, path },
                Some(_) => KubeconfigError::Rejected { server, request, why },
                None => KubeconfigError::Interrupted { server, request, why },
            }
        })
    }

    async fn review(&self, review: &SubjectAccessReview) -> Result<bool, KubeconfigError> {
        let (reviews, params) = (Api::<SubjectAccessReview>::all(self.client.clone()), PostParams::default());
        let reviewed = self.send("create a SubjectAccessReview", reviews.create(&params, review)).await?;
        Ok(reviewed.status.is_some_and(|status| status.allowed))
    }

    fn requests(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }

    /// The name of the created request.
    async fn create(&self, request: &CertificateSigningRequest) -> Result<String, KubeconfigError> {
        let (requests, params) = (self.requests(), PostParams::default());
        let created =
            self.send("create a CertificateSigningRequest", requests.create(&params, request)).await?;
        Ok(created.metadata.name.unwrap_or_default())
    }

    async fn approve(&self, name: &str) -> Result<(), KubeconfigError> {
        let (requests, params) = (self.requests(), PatchParams::default());
        let approval = Patch::Merge(document::approval());
        let approved = requests.patch_approval(name, &params, &approval);
        self.send("approve the CertificateSigningRequest", approved).await.map(drop)
    }

    /// The certificate of an approved request.
    async fn wait(&self, name: &str) -> Result<String, KubeconfigError> {
        let signed = |request: Option<&CertificateSigningRequest>| request.and_then(outcome).is_some();
        let why = match timeout(SIGNATURE_TIMEOUT, await_condition(self.requests(), name, signed)).await {
            Ok(Ok(request)) => match request.as_ref().and_then(outcome) {
                Some(outcome) => return outcome,
                None => "the watch ended".to_owned(),
            },
            Ok(Err(error)) => with_causes(&error),
            Err(_elapsed) => return Err(KubeconfigError::NotSigned { name: name.to_owned() }),
        };
        let request = "watch the CertificateSigningRequest";
        Err(KubeconfigError::Interrupted { server: self.url.clone(), request, why })
    }
}
