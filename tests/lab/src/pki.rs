//! Certificates and kubeconfigs as kubeadm makes them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::{LabError, Result, io};

/// A certificate authority with a folder for what it signs.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    folder: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

fn wrong(error: impl std::fmt::Display) -> LabError {
    LabError::Certificate(error.to_string())
}

impl Pki {
    /// A new authority.
    pub fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(io(folder.to_string_lossy()))?;
        let key = KeyPair::generate().map_err(wrong)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let ca_pem = params.self_signed(&key).map_err(wrong)?.pem();
        let pki = Self { issuer: Issuer::new(params, key), ca_pem, folder: folder.to_owned() };
        pki.write("ca.crt", &pki.ca_pem)?;
        pki.write("ca.key", &pki.issuer.key().serialize_pem())?;
        let signer = KeyPair::generate().map_err(wrong)?;
        pki.write("sa.key", &signer.serialize_pem())?;
        pki.write("sa.pub", &signer.public_key_pem())?;
        Ok(pki)
    }

    /// The path of a file that the authority wrote.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// The authority's own certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(io(path.to_string_lossy()))?;
        Ok(path)
    }

    /// A serving certificate for an API server; its common name is `name`, by which a client identifies the server.
    pub fn server(&self, name: &str, addresses: &[IpAddr]) -> Result<Files> {
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let mut params = CertificateParams::new(names.map(str::to_owned)).map_err(wrong)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        self.sign(&format!("{name}-server"), params)
    }

    /// A certificate for a client's request, as kube-controller-manager signs it. It is 100 days old, and valid for so many
    /// days more.
    pub fn sign_request(&self, pem: &str, days: u32) -> Result<String> {
        const DAY: Duration = Duration::from_secs(86_400);
        let mut request = CertificateSigningRequestParams::from_pem(pem).map_err(wrong)?;
        let now = SystemTime::UNIX_EPOCH.elapsed().map_err(wrong)?;
        let now = rcgen::date_time_ymd(1970, 1, 1) + now;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params.not_before = now - 100 * DAY;
        request.params.not_after = now + days * DAY;
        Ok(request.signed_by(&self.issuer).map_err(wrong)?.pem())
    }

    fn client(&self, name: &str, group: &str) -> Result<Files> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, params)
    }

    fn sign(&self, file: &str, params: CertificateParams) -> Result<Files> {
        let key = KeyPair::generate().map_err(wrong)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        Ok(Files {
            certificate: self.write(&format!("{file}.crt"), &certificate.pem())?,
            key: self.write(&format!("{file}.key"), &key.serialize_pem())?,
        })
    }

    /// A kubeconfig with everything inside, for a user of this name and group.
    pub fn kubeconfig(&self, user: &str, group: &str, server: &str) -> Result<String> {
        let files = self.client(user, group)?;
        let read = |path: &Path| std::fs::read(path).map_err(io(path.to_string_lossy()));
        let data = |bytes: Vec<u8>| base64(&bytes);
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "lab", "cluster": {
                "server": server, "certificate-authority-data": base64(self.ca_pem.as_bytes()),
            }}],
            "users": [{ "name": user, "user": {
                "client-certificate-data": data(read(&files.certificate)?),
                "client-key-data": data(read(&files.key)?),
            }}],
            "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": user } }],
            "current-context": "lab",
        });
        Ok(config.to_string())
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u32| DIGITS.get((value & 63) as usize).map_or('=', |digit| char::from(*digit));
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
            let word = byte(0) << 16 | byte(1) << 8 | byte(2);
            let padded =
                |index: usize, shift: u32| if index <= chunk.len() { digit(word >> shift) } else { '=' };
            [digit(word >> 18), digit(word >> 12), padded(2, 6), padded(3, 0)]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_rfc_4648_has_it() {
        let table = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (text, encoded) in table {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }
}
