//! The API server's token keys: fetched once, again when a token names an unknown key, and from time to time.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use serde::de::DeserializeOwned;
use tenon_order::NodeName;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::token::{Issuer, Refusal};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/openid/v1/jwks";

/// Between two attempts at least: whoever sends tokens with unknown keys causes no more requests than this.
const PAUSE: Duration = Duration::from_secs(10);
/// Keys that are older are fetched again, so that a withdrawn key is not accepted for ever.
const FRESH: Duration = Duration::from_mins(10);
/// Both documents together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The token is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// We are: the API server's keys could not be fetched yet.
    #[error("the API server's token keys are not known yet")]
    KeysUnknown,
}

/// Verifies tokens of agents, and of pods that take drivers out of images.
pub struct TokenVerifier {
    namespace: String,
    client: Option<Client>,
    issuer: RwLock<Option<Fetched>>,
    /// When the last attempt began. Held while one runs: there is one at a time.
    attempt: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Fetched {
    issuer: Arc<Issuer>,
    at: Instant,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("get {path} from the API server")]
    Get { path: &'static str, source: kube::Error },
    #[error("ask the API server for its token keys: no answer in {} s", PATIENCE.as_secs())]
    Silent,
}

impl TokenVerifier {
    /// Accepts tokens of the agents in `namespace` that the API server behind `client` has issued.
    pub fn new(client: Client, namespace: &str) -> Self {
        TokenVerifier {
            namespace: namespace.to_owned(),
            client: Some(client),
            issuer: RwLock::default(),
            attempt: Mutex::default(),
        }
    }

    /// Accepts tokens of the agents in `namespace` that `issuer` has issued; its keys never change.
    pub fn of_issuer(issuer: Issuer, namespace: &str) -> Self {
        TokenVerifier {
            namespace: namespace.to_owned(),
            client: None,
            issuer: RwLock::new(Some(Fetched { issuer: Arc::new(issuer), at: Instant::now() })),
            attempt: Mutex::default(),
        }
    }

    /// The node whose agent sent this token.
    pub async fn verify(&self, token: &str) -> Result<NodeName, TokenError> {
        self.verified(|issuer, now| issuer.verify(token, &self.namespace, now)).await
    }

    /// The pod, by its identity, that takes a driver out of an image and sent this token.
    pub async fn verify_puller(&self, token: &str) -> Result<String, TokenError> {
        self.verified(|issuer, now| issuer.verify_puller(token, &self.namespace, now)).await
    }

    /// What the API server's keys make of a token.
    async fn verified<T>(
        &self,
        verify: impl Fn(&Issuer, i64) -> Result<T, Refusal>,
    ) -> Result<T, TokenError> {
        let now = Timestamp::now().as_second();
        let known = self.fetched();
        if let Some(known) = &known {
            self.keep_fresh(known).await;
            match verify(&known.issuer, now) {
                Err(Refusal::UnknownKey) => {}
                verdict => return Ok(verdict?),
            }
        }
        self.fetch_since(known.map(|known| known.at)).await;
        let known = self.fetched().ok_or(TokenError::KeysUnknown)?;
        Ok(verify(&known.issuer, now)?)
    }

    fn fetched(&self) -> Option<Fetched> {
        self.issuer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fetches old keys again. Only the request that comes across them waits for it.
    async fn keep_fresh(&self, known: &Fetched) {
        if known.at.elapsed() >= FRESH
            && let Ok(mut attempt) = self.attempt.try_lock()
        {
            self.attempt(&mut attempt).await;
        }
    }

    /// Fetches the keys, unless that has been done since `known` or was just tried.
    async fn fetch_since(&self, known: Option<Instant>) {
        let mut attempt = self.attempt.lock().await;
        if self.fetched().map(|fetched| fetched.at) == known {
            self.attempt(&mut attempt).await;
        }
    }

    async fn attempt(&self, last: &mut Option<Instant>) {
        let Some(client) = &self.client else { return };
        if last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        *last = Some(Instant::now());
        let fetched = tokio::time::timeout(PATIENCE, fetch(client)).await.unwrap_or(Err(FetchError::Silent));
        match fetched {
            Ok(issuer) => {
                debug!("the API server's token keys are fetched");
                let fetched = Fetched { issuer: Arc::new(issuer), at: Instant::now() };
                *self.issuer.write().unwrap_or_else(PoisonError::into_inner) = Some(fetched);
            }
            Err(error) => {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the API server's token keys could not be fetched"
                );
            }
        }
    }
}

impl std::fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenVerifier").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

async fn fetch(client: &Client) -> Result<Issuer, FetchError> {
    Ok(Issuer::new(get(client, DISCOVERY).await?, get(client, KEYS).await?))
}

async fn get<T: DeserializeOwned>(client: &Client, path: &'static str) -> Result<T, FetchError> {
    let error = |source| FetchError::Get { path, source };
    let request = http::Request::get(path).body(Vec::new()).map_err(|e| error(kube::Error::HttpError(e)))?;
    client.request(request).await.map_err(error)
}
