//! Who is asking: client certificates, bearer tokens, the request header of a front proxy, anonymous.

use async_trait::async_trait;
use knarr_core::Result;
use std::collections::BTreeMap;

/// An authenticated user (`user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What an authenticator may look at.
pub struct Credentials<'a> {
    pub headers: &'a http::HeaderMap,
    /// DER of the peer's certificate chain, leaf first, when TLS asked for one and it was verified against the client CA.
    pub peer_certificates: &'a [Vec<u8>],
}

#[async_trait]
pub trait Authenticator: Send + Sync {
    /// `None` when the request carries nothing that this authenticator knows.
    ///
    /// # Errors
    /// `Unauthorized` when it carries a credential of its kind that is bad.
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>>;
}
