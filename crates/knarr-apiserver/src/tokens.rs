//! Who signs service account tokens, and what the world may know of the key.

use jiff::Timestamp;
use knarr_core::{Result, Value, clock::Env};

use crate::authn::{ServiceAccountKey, TokenRequest};

/// Signs tokens and publishes the keys that check them.
pub trait TokenIssuer: Send + Sync {
    /// A token and the time of its end.
    ///
    /// # Errors
    /// When it cannot be signed.
    fn issue(&self, request: &TokenRequest, env: &Env) -> Result<(String, Timestamp)>;

    /// The audience of tokens that name none.
    fn issuer(&self) -> &str;

    /// `/.well-known/openid-configuration`
    fn discovery(&self) -> String;

    /// `/openid/v1/jwks`
    fn jwks(&self) -> Value;
}

impl TokenIssuer for ServiceAccountKey {
    fn issue(&self, request: &TokenRequest, env: &Env) -> Result<(String, Timestamp)> {
        Self::issue(self, request, env)
    }

    fn issuer(&self) -> &str {
        &self.issuer
    }

    fn discovery(&self) -> String {
        let below = || format!("{}/openid/v1/jwks", self.issuer.trim_end_matches('/'));
        Self::discovery(self, &if self.jwks_uri.is_empty() { below() } else { self.jwks_uri.clone() })
    }

    fn jwks(&self) -> Value {
        Self::jwks(self)
    }
}
