//! HTTPS clients with an additional CA, and without proxy or redirects.

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot read the CA file {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("the CA file {path} has no certificate in PEM form")]
    Empty { path: String },
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// A client that trusts the CAs of this host and of this file. A host without CAs, such as a container from an empty image, gets
/// those of Mozilla: without any, not even a client for http URLs can be made. It follows no redirect, since requests may carry credentials for one
/// server.
///
/// # Errors
/// If the file cannot be used.
pub fn client(ca: Option<&str>) -> Result<reqwest::Client, ClientError> {
    let builder = || reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let Some(path) = ca else {
        return builder().build().or_else(|_| Ok(builder().tls_certs_only(mozilla()?).build()?));
    };
    let pem = std::fs::read(path).map_err(|source| ClientError::Read { path: path.to_owned(), source })?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)?;
    if certificates.is_empty() {
        return Err(ClientError::Empty { path: path.to_owned() });
    }
    Ok(builder().tls_certs_merge(certificates).build()?)
}

fn mozilla() -> Result<Vec<reqwest::Certificate>, reqwest::Error> {
    webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(|der| reqwest::Certificate::from_der(der)).collect()
}
