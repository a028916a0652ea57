//! Asks a provider for this node's peers, again and again.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::bgp::{Provider, Token};
use crate::net::https::{ClientError, client};

/// How often a provider that answers is asked.
const PERIOD: Duration = Duration::from_secs(60);
/// How soon one that does not is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may be, in bytes.
const LONGEST: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("bgp_provider_token_file: {path}: {source}")]
    Token { path: String, source: std::io::Error },
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Silence,
    #[error("{}", told(.0))]
    Request(#[from] reqwest::Error),
    #[error("it answers {0}: is the token right (bgp_provider_token)?")]
    Refused(reqwest::StatusCode),
    #[error("it answers {0}")]
    Status(reqwest::StatusCode),
    #[error("its answer is longer than {LONGEST} bytes")]
    Long,
    #[error("its answer is not JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// The innermost reason: the others repeat the URL.
fn told(error: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Something that asks a provider.
#[derive(Debug)]
pub struct Lookup {
    provider: Provider,
    client: reqwest::Client,
}

impl Lookup {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// If the CA file cannot be used.
    pub fn new(provider: Provider) -> Result<Self, ClientError> {
        let client = client(provider.ca.as_deref())?;
        Ok(Self { provider, client })
    }

    /// Ask until nobody is interested any more. An answer that does not come leaves the last one standing.
    pub async fn run(self, answers: watch::Sender<Option<Value>>) {
        let mut told = String::new();
        while !answers.is_closed() {
            let answer = timeout(PATIENCE, self.ask()).await.unwrap_or(Err(LookupError::Silence));
            let pause = match answer {
                Ok(answer) => {
                    told.clear();
                    answers.send_if_modified(|before| {
                        let changed = before.as_ref() != Some(&answer);
                        *before = Some(answer);
                        changed
                    });
                    PERIOD
                }
                Err(error) => {
                    let text = error.to_string();
                    if told != text {
                        tracing::warn!(
                            "BGP: the provider at {} (bgp_provider_url): {text}",
                            self.provider.url
                        );
                    }
                    told = text;
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    async fn ask(&self) -> Result<Value, LookupError> {
        let mut request = self.client.get(&self.provider.url);
        if let Some(token) = self.token()? {
            let bearer = self.provider.header.eq_ignore_ascii_case("authorization");
            let value = if bearer { format!("Bearer {token}") } else { token };
            request = request.header(&self.provider.header, value);
        }
        let mut response = request.send().await?;
        match response.status() {
            status if status.is_success() => {}
            status if matches!(status.as_u16(), 401 | 403) => return Err(LookupError::Refused(status)),
            status => return Err(LookupError::Status(status)),
        }
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > LONGEST {
                return Err(LookupError::Long);
            }
        }
        Ok(serde_json::from_slice(&text)?)
    }

    /// The token. A file is read each time: tokens are replaced.
    fn token(&self) -> Result<Option<String>, LookupError> {
        let token = match &self.provider.token {
            None => None,
            Some(Token::Given(token)) => Some(token.clone()),
            Some(Token::File(path)) => {
                let text = std::fs::read_to_string(path);
                Some(text.map_err(|source| LookupError::Token { path: path.clone(), source })?)
            }
        };
        Ok(token.map(|token| token.trim().to_owned()))
    }
}
