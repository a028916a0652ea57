//! The objects that are sent, and the kubeconfig that results. Pure.

use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

use super::{Identity, KubeconfigError};
use crate::cluster::certificate::ClientCertificate;
use crate::manifest;

const SECONDS_OF_DAY: i32 = 86_400;

/// The request for a certificate that a client can log in with. Its name is completed by the API server.
pub(super) fn request(
    identity: &Identity,
    key: &KeyPair,
    days: u16,
) -> Result<CertificateSigningRequest, KubeconfigError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, &identity.group);
    params.distinguished_name.push(DnType::CommonName, identity.user());
    let pem = params.serialize_request(key)?.pem()?;
    let mut request = CertificateSigningRequest::default();
    request.metadata.generate_name = Some(format!("kube-vip-{}-", identity.node));
    request.spec.request = ByteString(pem.into_bytes());
    request.spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned();
    request.spec.usages = Some(vec!["client auth".to_owned(), "digital signature".to_owned()]);
    request.spec.expiration_seconds = Some(i32::from(days) * SECONDS_OF_DAY);
    Ok(request)
}

/// The change that approves it.
pub(super) fn approval() -> Value {
    let condition = json!({
        "type": "Approved",
        "status": "True",
        "reason": "KubeVipKubeconfig",
        "message": "approved by an administrator who ran `kube-vip kubeconfig`",
    });
    json!({ "status": { "conditions": [condition] } })
}

/// The certificate, or why there will be none. Nothing while the signer has not written either.
pub(super) fn outcome(request: &CertificateSigningRequest) -> Option<Result<String, KubeconfigError>> {
    let status = request.status.as_ref()?;
    let name = || request.metadata.name.clone().unwrap_or_default();
    let refused = |condition: &&CertificateSigningRequestCondition| {
        matches!(condition.type_.as_str(), "Denied" | "Failed")
    };
    if let Some(condition) = status.conditions.iter().flatten().find(refused) {
        let why = condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default();
        return Some(Err(KubeconfigError::Refused {
            name: name(),
            condition: condition.type_.to_lowercase(),
            why,
        }));
    }
    let pem = status.certificate.as_ref().filter(|certificate| !certificate.0.is_empty())?;
    Some(Ok(String::from_utf8_lossy(&pem.0).into_owned()))
}

/// Asks whether the group has roles: those of every mode permit this.
pub(super) fn review(identity: &Identity) -> SubjectAccessReview {
    let watched = ResourceAttributes {
        group: Some("discovery.k8s.io".to_owned()),
        resource: Some("endpointslices".to_owned()),
        namespace: Some("default".to_owned()),
        name: Some("kubernetes".to_owned()),
        verb: Some("watch".to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(identity.user()),
        groups: Some(vec![identity.group.clone(), "system:authenticated".to_owned()]),
        resource_attributes: Some(watched),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

/// Whether a certificate is one for this identity.
pub(super) fn is_of(certificate: &ClientCertificate, identity: &Identity) -> bool {
    certificate.user == identity.user() && certificate.groups == [identity.group.clone()]
}

/// The kubeconfig. `cluster` is that of the source, with its CA as data.
pub(super) fn kubeconfig(
    cluster: &Value,
    identity: &Identity,
    certificate: &str,
    key: &str,
) -> Result<String, KubeconfigError> {
    let (name, user) = ("kubernetes", identity.user());
    let data = |pem: &str| ByteString(pem.as_bytes().to_vec());
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": cluster }],
        "users": [{ "name": user, "user": {
            "client-certificate-data": data(certificate),
            "client-key-data": data(key),
        } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": user } }],
        "current-context": name,
    });
    manifest::yaml(&[document]).map_err(|error| KubeconfigError::Document(error.to_string()))
}

#[cfg(test)]
mod tests {
    use kube::config::Kubeconfig;
    use rcgen::{CertificateSigningRequestParams, Issuer};

    use super::*;

    fn identity() -> Identity {
        Identity { node: "node-1".into(), group: "kube-vip:nodes".into() }
    }

    /// The certificate that a signer makes of the request.
    fn sign(request: &CertificateSigningRequest) -> String {
        let pem = String::from_utf8(request.spec.request.0.clone()).unwrap();
        let issuer = Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap());
        CertificateSigningRequestParams::from_pem(&pem).unwrap().signed_by(&issuer).unwrap().pem()
    }

    #[test]
    fn the_request_is_for_a_client_of_this_name_and_group() {
        let key = KeyPair::generate().unwrap();
        let request = request(&identity(), &key, 365).unwrap();
        let spec = &request.spec;
        assert_eq!(spec.expiration_seconds, Some(31_536_000));
        assert_eq!(spec.signer_name, "kubernetes.io/kube-apiserver-client");
        assert_eq!(spec.usages.as_deref().unwrap(), ["client auth", "digital signature"]);
        assert_eq!(request.metadata.generate_name.as_deref(), Some("kube-vip-node-1-"));
        let certificate = ClientCertificate::read(&sign(&request)).unwrap();
        assert_eq!(certificate.public_key, key.public_key_raw());
        assert!(is_of(&certificate, &identity()));
        for (node, group) in [("node-2", "kube-vip:nodes"), ("node-1", "other")] {
            assert!(!is_of(&certificate, &Identity { node: node.into(), group: group.into() }));
        }
    }

    #[test]
    fn the_outcome_is_a_certificate_or_a_reason() {
        let condition = |kind: &str| json!([{ "type": kind, "status": "True", "message": "why" }]);
        let (approved, pem) = (condition("Approved"), ByteString(b"PEM".to_vec()));
        let table = [
            (json!({}), None),
            (json!({ "conditions": &approved }), None),
            (json!({ "conditions": &approved, "certificate": "" }), None),
            (json!({ "conditions": &approved, "certificate": pem }), Some("PEM")),
            (
                json!({ "conditions": condition("Denied") }),
                Some("the CertificateSigningRequest r is denied: why"),
            ),
            (
                json!({ "conditions": condition("Failed") }),
                Some("the CertificateSigningRequest r is failed: why"),
            ),
        ];
        for (status, expected) in table {
            let mut request = CertificateSigningRequest::default();
            request.metadata.name = Some("r".into());
            request.status = Some(serde_json::from_value(status.clone()).unwrap());
            let found = outcome(&request).map(|outcome| outcome.unwrap_or_else(|error| error.to_string()));
            assert_eq!(found.as_deref(), expected, "{status}");
        }
        assert!(outcome(&CertificateSigningRequest::default()).is_none());
    }

    #[test]
    fn a_kubeconfig_has_the_cluster_of_the_source_and_the_new_credentials() {
        let cluster = json!({ "server": "https://192.0.2.1:6443", "certificate-authority-data": "Q0E=" });
        let long = "certificate ".repeat(200);
        let text = kubeconfig(&cluster, &identity(), &long, "key").unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(serde_json::to_value(&kubeconfig.clusters[0].cluster).unwrap(), cluster);
        assert_eq!(kubeconfig.auth_infos[0].name, "kube-vip:node-1");
        let user = serde_json::to_value(&kubeconfig.auth_infos[0].auth_info).unwrap();
        for (field, pem) in [("client-certificate-data", long.as_str()), ("client-key-data", "key")] {
            assert_eq!(user[field], json!(ByteString(pem.as_bytes().to_vec())), "{field}");
        }
    }
}
