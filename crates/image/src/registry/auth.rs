//! Authorization: basic, or tokens from the service that the registry names.
//!
//! Per host, credentials and scope there is one token; while it is being fetched, everyone else who needs it waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::error::TokenServiceFault;
use super::exchange::{read_bounded, response_trouble, send};
use super::transport::Clients;
use super::{Access, RegistryError, Subject, Trouble, Violation};

/// The longest token service's answer.
const MAX_TOKEN: u64 = 256 * 1024;
/// How long a token lives that does not say: the specification's word.
const TOKEN_LIFE: Duration = Duration::from_mins(1);

/// What a request needs permission for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Permission {
    /// The registry.
    pub(super) origin: String,
    /// As the token specification writes it; several with blanks between them.
    pub(super) scope: String,
    /// Whose.
    pub(super) access: Access,
}

/// Tokens by what they are for.
#[derive(Debug, Default)]
pub(super) struct Authenticator {
    slots: Mutex<HashMap<Permission, Arc<AsyncMutex<Slot>>>>,
}

/// What is known about getting one permission.
#[derive(Default)]
struct Slot {
    challenge: Option<Challenge>,
    token: Option<Token>,
}

struct Token {
    header: String,
    expires: Instant,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("challenge", &self.challenge).finish_non_exhaustive()
    }
}

/// Where and for what a token is asked.
pub(super) struct Asking<'a> {
    pub(super) clients: &'a Clients,
    pub(super) registry: &'a Url,
    pub(super) subject: &'a Subject,
    pub(super) permission: &'a Permission,
}

impl Authenticator {
    /// The `Authorization` header to try, as far as is known by now.
    pub(super) async fn header(&self, asking: &Asking<'_>) -> Result<Option<String>, RegistryError> {
        let slot = self.slot(asking.permission);
        let mut slot = slot.lock().await;
        slot.header(asking).await
    }

    /// The header to try after the registry refused `used` with this challenge. Nothing: there is no other.
    pub(super) async fn answer(
        &self,
        asking: &Asking<'_>,
        challenge: Challenge,
        used: Option<&str>,
    ) -> Result<Option<String>, RegistryError> {
        let slot = self.slot(asking.permission);
        let mut slot = slot.lock().await;
        if slot.challenge.as_ref() != Some(&challenge) {
            *slot = Slot { challenge: Some(challenge), token: None };
        } else if slot.token.as_ref().is_some_and(|token| Some(token.header.as_str()) == used) {
            slot.token = None;
        }
        // Meanwhile somebody else may have got a new one.
        let header = slot.header(asking).await?;
        Ok(header.filter(|header| Some(header.as_str()) != used))
    }

    fn slot(&self, permission: &Permission) -> Arc<AsyncMutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(permission.clone()).or_default())
    }
}

impl Slot {
    async fn header(&mut self, asking: &Asking<'_>) -> Result<Option<String>, RegistryError> {
        let (realm, service) = match &self.challenge {
            None => return Ok(None),
            Some(Challenge::Basic) => return Ok(asking.permission.access.as_ref().map(|own| own.basic())),
            Some(Challenge::Bearer { realm, service }) => (realm, service.as_deref()),
        };
        if let Some(token) = self.token.as_ref().filter(|token| token.expires > Instant::now()) {
            return Ok(Some(token.header.clone()));
        }
        let token = fetch(asking, realm, service).await?;
        Ok(Some(self.token.insert(token).header.clone()))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

async fn fetch(asking: &Asking<'_>, realm: &str, service: Option<&str>) -> Result<Token, RegistryError> {
    let subject = asking.subject;
    let fault = |fault| RegistryError::invalid(subject, Violation::TokenService(fault));
    let url = token_url(asking, realm, service).ok_or_else(|| fault(TokenServiceFault::Address))?;
    let mut request = asking.clients.for_url(&url, asking.registry).get(url);
    if let Some(credential) = &asking.permission.access {
        request = request.header("Authorization", credential.basic());
    }
    let response = send(request, subject).await?;
    match response.status().as_u16() {
        200 => {}
        400 | 401 | 403 | 404 => {
            // Whatever the service calls it: with these credentials there is no token.
            return Err(RegistryError::Denied { subject: subject.clone(), status: 401, message: None });
        }
        _ => return Err(response_trouble(response, subject).await),
    }
    let bytes = read_bounded(response, MAX_TOKEN, subject).await?;
    let answer: TokenAnswer =
        serde_json::from_slice(&bytes).map_err(|_| fault(TokenServiceFault::NoToken))?;
    let token = answer.token.or(answer.access_token).filter(|token| is_header_value(token));
    let token = token.ok_or_else(|| fault(TokenServiceFault::NoToken))?;
    let life = answer.expires_in.map_or(TOKEN_LIFE, Duration::from_secs).min(Duration::from_hours(1));
    // Some of its life goes by on the way.
    Ok(Token { header: format!("Bearer {token}"), expires: Instant::now() + life * 4 / 5 })
}

/// Credentials go to https addresses only, unless the registry itself is reached without.
fn token_url(asking: &Asking<'_>, realm: &str, service: Option<&str>) -> Option<Url> {
    let mut url = Url::parse(realm).ok()?;
    let safe = url.scheme() == "https" || (url.scheme() == "http" && asking.registry.scheme() == "http");
    if !safe || !url.username().is_empty() || url.password().is_some() || url.host().is_none() {
        return None;
    }
    if let Some(service) = service {
        url.query_pairs_mut().append_pair("service", service);
    }
    for scope in asking.permission.scope.split(' ') {
        url.query_pairs_mut().append_pair("scope", scope);
    }
    Some(url)
}

fn is_header_value(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A deadline that passed while waiting for others counts like one that passed while asking.
pub(super) fn late(subject: &Subject, allowed: Duration) -> RegistryError {
    RegistryError::unreachable(subject, Trouble::Deadline(allowed))
}
