//! Who signs service account tokens, and what the world may know of the key.

use jiff::Timestamp;
use knarr_core::{Result, clock::Env};

use crate::authn::{Lifetimes, ServiceAccountKey, TokenRequest};

/// Signs tokens and publishes the keys that check them.
pub trait TokenIssuer: Send + Sync {
    /// A token and the time by which it should be exchanged.
    ///
    /// # Errors
    /// When it cannot be signed.
    fn issue(&self, request: &TokenRequest, env: &Env) -> Result<(String, Timestamp)>;

    /// The audiences of tokens that name none.
    fn audiences(&self) -> &[String];

    /// How long tokens live, whatever is asked for.
    fn lifetimes(&self) -> Lifetimes;

    /// `/.well-known/openid-configuration`
    fn discovery(&self) -> String;

    /// `/openid/v1/jwks`
    fn jwks(&self) -> String;
}

impl TokenIssuer for ServiceAccountKey {
    fn issue(&self, request: &TokenRequest, env: &Env) -> Result<(String, Timestamp)> {
        Self::issue(self, request, env)
    }

    fn audiences(&self) -> &[String] {
        &self.audiences
    }

    fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
    }

    fn discovery(&self) -> String {
        let below = || format!("{}/openid/v1/jwks", self.issuer.trim_end_matches('/'));
        Self::discovery(self, &if self.jwks_uri.is_empty() { below() } else { self.jwks_uri.clone() })
    }

    fn jwks(&self) -> String {
        Self::jwks(self)
    }
}
