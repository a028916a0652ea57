//! HTTPS clients that trust one more CA than the system does, and go where they are told to: by no proxy.

/// Why there is no such client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CA file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// It holds no certificate.
    #[error("{path} holds no certificate in PEM form")]
    Empty {
        /// The file.
        path: String,
    },
    /// The client cannot be made from it.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// A client that trusts the CAs of this file, too. It follows no redirect: what it sends may be meant for one server.
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
