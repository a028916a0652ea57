//! `kube-vip kubeconfig`: a client certificate with few rights in place of `admin.conf`.
//!
//! `document` makes the request and the kubeconfig, `driver` sends the one, `file` writes the other.

pub mod document;
pub mod driver;
pub mod file;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::cluster::certificate::{CertificateError, USER_PREFIX};

/// The user of a node's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub node: String,
    pub group: String,
}

impl Identity {
    pub fn user(&self) -> String {
        format!("{USER_PREFIX}{}", self.node)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} of group {}", self.user(), self.group)
    }
}

/// kube-controller-manager signs within a second.
const SIGNATURE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error(
        "kubeconfig {path} cannot be used: {why}; run this on a control-plane node, or name the kubeconfig of an \
         administrator (--k8sConfigPath)"
    )]
    Unusable { path: String, why: String },
    #[error(
        "the client certificate in {path} expired ({expired}): renew it (`kubeadm certs renew admin.conf`), and run this again"
    )]
    Expired { path: String, expired: Timestamp },
    #[error(
        "{path} cannot be written, since its folder does not exist: create the folder, or name another file (--output)"
    )]
    NoFolder { path: String },
    #[error("no API server responds: {}; check that one runs, and run this again", .0.join("; "))]
    NoResponse(Vec<String>),
    #[error(
        "cannot {request} at {server}: {why}; the user of {path} needs the rights of a cluster administrator \
         (--k8sConfigPath)"
    )]
    Forbidden { server: String, request: &'static str, why: String, path: String },
    #[error("cannot {request} at {server}: {why}")]
    Rejected { server: String, request: &'static str, why: String },
    #[error("cannot {request}, since {server} does not respond: {why}; run this again")]
    Interrupted { server: String, request: &'static str, why: String },
    #[error(
        "the CertificateSigningRequest {name} is approved, but has no certificate after {timeout} s: kube-controller-manager signs it; \
         check that it runs (`kubectl -n kube-system get pods -l component=kube-controller-manager`) and has \
         --cluster-signing-cert-file and --cluster-signing-key-file, and run this again",
        timeout = SIGNATURE_TIMEOUT.as_secs()
    )]
    NotSigned { name: String },
    #[error("the CertificateSigningRequest {name} is {condition}: {why}")]
    Refused { name: String, condition: String, why: String },
    #[error("cannot create a key or a request for a certificate: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the CertificateSigningRequest {name} has a certificate that cannot be used: {why}")]
    Certificate { name: String, why: CertificateError },
    #[error(
        "the CertificateSigningRequest {0} has a certificate for another key or user: it was changed by another client"
    )]
    Foreign(String),
    #[error("the kubeconfig cannot be written as YAML: {0}")]
    Document(String),
    #[error(
        "{path} exists, and is not the kubeconfig of {identity}: delete it, or write another file (--output)"
    )]
    Exists { path: String, identity: Identity },
    #[error("cannot write {path}: {why}")]
    Write { path: String, why: std::io::Error },
}
