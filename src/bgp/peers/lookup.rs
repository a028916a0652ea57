//! Queries a provider's API for the peers of this node (`bgp_provider_url`).

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::bgp::{Provider, Token};
use crate::model::LogOnChange;
use crate::net::https::{ClientError, client};
use crate::watch_ext;

/// Pause after a successful query.
const INTERVAL: Duration = Duration::from_secs(60);
/// Pause after a failed one.
const RETRY: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of a reply in bytes.
const MAX_LENGTH: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("bgp_provider_token_file: {path}: {source}")]
    Token { path: String, source: std::io::Error },
    #[error("no reply within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("{}", innermost(.0))]
    Request(#[from] reqwest::Error),
    #[error("status {0}: check the token (bgp_provider_token)")]
    Unauthorized(reqwest::StatusCode),
    #[error("status {0}")]
    Status(reqwest::StatusCode),
    #[error("the reply is longer than {MAX_LENGTH} bytes")]
    TooLong,
    #[error("the reply is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The innermost cause; the outer ones repeat the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[derive(Debug)]
pub(super) struct Lookup {
    provider: Provider,
    client: reqwest::Client,
}

impl Lookup {
    pub(super) fn new(provider: Provider) -> Result<Self, ClientError> {
        let client = client(provider.ca.as_deref())?;
        Ok(Self { provider, client })
    }

    /// Queries until the receiver is dropped. A failed query keeps the last reply.
    pub(super) async fn run(self, replies: watch::Sender<Option<Value>>) {
        let mut logged = LogOnChange::default();
        while !replies.is_closed() {
            let reply = timeout(TIMEOUT, self.query()).await.unwrap_or(Err(LookupError::Timeout));
            let pause = match reply {
                Ok(reply) => {
                    logged.clear();
                    watch_ext::set(&replies, Some(reply));
                    INTERVAL
                }
                Err(error) => {
                    if logged.set(error.to_string()) {
                        let url = &self.provider.url;
                        tracing::warn!("BGP: provider {url} (bgp_provider_url): {error}; retrying");
                    }
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    async fn query(&self) -> Result<Value, LookupError> {
        let mut request = self.client.get(&self.provider.url);
        if let Some(token) = self.token()? {
            let bearer = self.provider.header.eq_ignore_ascii_case("authorization");
            let value = if bearer { format!("Bearer {token}") } else { token };
            request = request.header(&self.provider.header, value);
        }
        let mut response = request.send().await?;
        match response.status() {
            status if status.is_success() => {}
            status if matches!(status.as_u16(), 401 | 403) => return Err(LookupError::Unauthorized(status)),
            status => return Err(LookupError::Status(status)),
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_LENGTH {
                return Err(LookupError::TooLong);
            }
        }
        Ok(serde_json::from_slice(&text)?)
    }

    /// A token file is read for each query: tokens are rotated.
    fn token(&self) -> Result<Option<String>, LookupError> {
        let token = match &self.provider.token {
            None => return Ok(None),
            Some(Token::Given(token)) => token.clone(),
            Some(Token::File(path)) => std::fs::read_to_string(path)
                .map_err(|source| LookupError::Token { path: path.clone(), source })?,
        };
        Ok(Some(token.trim().to_owned()))
    }
}
