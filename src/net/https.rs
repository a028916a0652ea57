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

/// A client that also trusts the CAs of this file. It follows no redirect, since requests may carry credentials for one
/// server.
///
/// # Errors
/// If the file cannot be used.
pub fn client(ca: Option<&str>) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    if let Some(path) = ca {
        let pem =
            std::fs::read(path).map_err(|source| ClientError::Read { path: path.to_owned(), source })?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)?;
        if certificates.is_empty() {
            return Err(ClientError::Empty { path: path.to_owned() });
        }
        builder = builder.tls_certs_merge(certificates);
    }
    Ok(builder.build()?)
}
