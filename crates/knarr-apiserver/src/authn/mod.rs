//! Who is asking: client certificates, bearer tokens, anonymous. Each way in is one [`Authenticator`]; the server asks them in
//! order, and [`Union`] adds the groups that every user has.

mod service_account;
mod token_file;
mod x509;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use knarr_core::{Result, Status};

pub use service_account::{BoundObject, Claims, ObjectLookup, ServiceAccountAuthenticator, ServiceAccountKey, TokenRequest};
pub use token_file::TokenFile;
pub use x509::{ClientCertificates, expires};

pub const ANONYMOUS: &str = "system:anonymous";
pub const AUTHENTICATED: &str = "system:authenticated";
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do everything, whatever RBAC says.
pub const MASTERS: &str = "system:masters";

/// An authenticated user (`user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A component of the control plane: `system:kube-scheduler`.
    pub fn component(name: &str) -> Self {
        Self { name: name.into(), groups: vec![AUTHENTICATED.into()], ..Self::default() }
    }

    /// A service account, with the groups that all of them have.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}"), AUTHENTICATED.into()],
            ..Self::default()
        }
    }

    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What an authenticator may look at.
pub struct Credentials<'a> {
    pub headers: &'a http::HeaderMap,
    /// DER of the peer's certificate chain, leaf first, when TLS asked for one and it was verified against the client CA.
    pub peer_certificates: &'a [Vec<u8>],
}

impl<'a> Credentials<'a> {
    /// The bearer token, from the header or from the WebSocket subprotocol that browsers use.
    pub fn bearer(&self) -> Option<&'a str> {
        let header = self.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }
}

#[async_trait]
pub trait Authenticator: Send + Sync {
    /// `None` when the request carries nothing that this authenticator knows.
    ///
    /// # Errors
    /// `Unauthorized` when it carries a credential of its kind that is bad.
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>>;

    /// Checks a token alone (`TokenReview`), for these audiences.
    async fn review_token(&self, _token: &str, _audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        Ok(None)
    }
}

/// Asks one after the other. Who carries no credential at all is anonymous; who carries a bad one is nobody.
pub struct Union {
    members: Vec<Arc<dyn Authenticator>>,
    anonymous: bool,
}

impl Union {
    pub fn new(members: Vec<Arc<dyn Authenticator>>, anonymous: bool) -> Self {
        Self { members, anonymous }
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        for member in &self.members {
            if let Some(mut user) = member.authenticate(credentials).await? {
                if !user.is_in(AUTHENTICATED) {
                    user.groups.push(AUTHENTICATED.into());
                }
                return Ok(Some(user));
            }
        }
        if credentials.headers.contains_key(http::header::AUTHORIZATION) || !self.anonymous {
            return Err(Status::unauthorized("Unauthorized"));
        }
        Ok(Some(User::anonymous()))
    }

    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        for member in &self.members {
            if let Some((mut user, audiences)) = member.review_token(token, audiences).await? {
                if !user.is_in(AUTHENTICATED) {
                    user.groups.push(AUTHENTICATED.into());
                }
                return Ok(Some((user, audiences)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_credential_is_anonymous_and_a_bad_one_is_nobody() {
        let union = Union::new(vec![], true);
        let mut headers = http::HeaderMap::new();
        let user = union.authenticate(&Credentials { headers: &headers, peer_certificates: &[] }).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups), (ANONYMOUS, vec![UNAUTHENTICATED.to_owned()]));
        headers.insert(http::header::AUTHORIZATION, "Bearer nonsense".parse().unwrap());
        let refused = union.authenticate(&Credentials { headers: &headers, peer_certificates: &[] }).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (401, "Unauthorized"));
    }
}
