//! An issuer's public keys: found by OpenID discovery when they are first needed, and fetched anew when a token is signed by one
//! that is not known yet (upstream: go-oidc's `NewProvider` and `RemoteKeySet`).

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use knarr_core::{Value, ValueExt, field::go_quote};
use tokio::time::Instant;

use super::jws::{Jwk, Jws};
use crate::outside;

const WELL_KNOWN: &str = "/.well-known/openid-configuration";
/// Shortest time between two fetches, so that bad tokens are no way to keep an issuer busy.
const FETCH_PAUSE: Duration = Duration::from_secs(1);

type Keys = Arc<Vec<Jwk>>;

/// What is known of an issuer's server.
struct State {
    /// Where the keys are, once discovery has told.
    jwks_uri: Option<String>,
    fetched_at: Option<Instant>,
    /// What the last fetch came to.
    outcome: Result<(), String>,
}

pub struct Provider {
    issuer: String,
    discovery_url: String,
    ca_pem: String,
    keys: ArcSwap<Vec<Jwk>>,
    /// One fetch at a time; the others wait for it.
    state: tokio::sync::Mutex<State>,
}

impl Provider {
    /// An empty `discovery_url` is the well-known one below the issuer.
    pub fn new(issuer: &str, discovery_url: &str, ca_pem: &str) -> Self {
        let discovery_url = if discovery_url.is_empty() { format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')) } else { discovery_url.to_owned() };
        Self {
            issuer: issuer.to_owned(),
            discovery_url,
            ca_pem: ca_pem.to_owned(),
            keys: ArcSwap::default(),
            state: tokio::sync::Mutex::new(State { jwks_uri: None, fetched_at: None, outcome: Ok(()) }),
        }
    }

    /// Whether one of the issuer's keys has signed the token.
    ///
    /// # Errors
    /// None has, or the keys cannot be had.
    pub async fn verify(&self, token: &Jws<'_>) -> Result<(), String> {
        let known = self.keys.load_full();
        if known.iter().any(|key| key.has_signed(token)) {
            return Ok(());
        }
        self.fetch(&known).await?;
        let signed = self.keys.load().iter().any(|key| key.has_signed(token));
        if signed { Ok(()) } else { Err("failed to verify signature: failed to verify id token signature".into()) }
    }

    /// Fetches the keys, if nobody has since `seen` was read. With no keys seen this is a way to find out whether the issuer is
    /// there at all.
    ///
    /// # Errors
    /// Why they cannot be had.
    async fn fetch(&self, seen: &Keys) -> Result<(), String> {
        let mut state = self.state.lock().await;
        if !Arc::ptr_eq(&self.keys.load_full(), seen) || state.fetched_at.is_some_and(|at| at.elapsed() < FETCH_PAUSE) {
            return state.outcome.clone();
        }
        let fetched = self.fetch_now(state.jwks_uri.clone()).await;
        state.fetched_at = Some(Instant::now());
        state.outcome = fetched.map(|(uri, keys)| {
            state.jwks_uri = Some(uri);
            self.keys.store(Arc::new(keys));
        });
        if let Err(why) = &state.outcome {
            tracing::warn!(issuer = self.issuer, why, "the keys of an issuer cannot be fetched");
        }
        state.outcome.clone()
    }

    async fn fetch_now(&self, jwks_uri: Option<String>) -> Result<(String, Vec<Jwk>), String> {
        let uri = match jwks_uri {
            Some(uri) => uri,
            None => discovered(&self.issuer, &self.document(&self.discovery_url).await?)?,
        };
        let document = self.document(&uri).await?;
        let keys = document.at(&["keys"]).and_then(Value::as_array).ok_or_else(|| format!("oidc: failed to decode keys: {} has none", go_quote(&uri)))?;
        Ok((uri, keys.iter().filter_map(Jwk::from_value).collect()))
    }

    async fn document(&self, url: &str) -> Result<Value, String> {
        let body = outside::get(url, &self.ca_pem, "").await?;
        serde_json::from_slice(&body).map_err(|e| format!("oidc: failed to decode {}: {e}", go_quote(url)))
    }

    /// Makes sure that there are keys.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn ready(&self) -> Result<(), String> {
        let known = self.keys.load_full();
        if known.is_empty() { self.fetch(&known).await } else { Ok(()) }
    }

    /// A provider of another issuer, as one whose claims stand elsewhere names it.
    pub fn other(&self, issuer: &str) -> Self {
        Self::new(issuer, "", &self.ca_pem)
    }

    /// Fetches a token that holds some claims.
    ///
    /// # Errors
    /// As [`outside::get`].
    pub async fn claims_elsewhere(&self, url: &str, access_token: &str) -> Result<String, String> {
        let body = outside::get(url, &self.ca_pem, access_token).await?;
        String::from_utf8(body.to_vec()).map_err(|_| "could not decode distributed claim response".into())
    }
}

/// Where the keys are, by a discovery document that must be the issuer's own.
fn discovered(issuer: &str, document: &Value) -> Result<String, String> {
    let text = |key: &str| document.str_at(&[key]).unwrap_or_default();
    if text("issuer") != issuer {
        return Err(format!("oidc: issuer did not match the issuer returned by provider, expected {} got {}", go_quote(issuer), go_quote(text("issuer"))));
    }
    match text("jwks_uri") {
        "" => Err("provider did not return JWKS URL".into()),
        uri => Ok(uri.to_owned()),
    }
}
