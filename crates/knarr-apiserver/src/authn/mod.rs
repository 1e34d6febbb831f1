//! Who is asking: client certificates, bearer tokens, anonymous. Each way in is one [`Authenticator`]; the server asks them in
//! order, and [`Union`] adds the groups that every user has.

mod bootstrap_token;
pub mod extra;
pub mod jwt;
mod keys;
mod legacy_tokens;
pub mod request_header;
mod service_account;
mod token_file;
mod webhook;
pub mod websocket;
mod x509;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use knarr_cel::admission::aggregate;
use knarr_core::{Result, Status};

pub use bootstrap_token::BootstrapTokens;
pub use keys::PublicKey;
pub use legacy_tokens::{LegacyClaims, Use, Uses, say_since, write_down};
pub use request_header::{FrontProxy, RequestHeaders};
pub use service_account::{BoundObject, Claims, Found, Lifetimes, ObjectLookup, ServiceAccountAuthenticator, ServiceAccountKey, TokenRequest};
pub use token_file::TokenFile;
pub use webhook::WebhookTokens;
pub use x509::{ClientCertificates, SignedBy, expires};

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
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    pub headers: &'a http::HeaderMap,
    /// DER of the peer's certificate chain, leaf first, when TLS asked for one and it was verified.
    pub peer_certificates: &'a [Vec<u8>],
    /// Path of the request: some are open to everybody.
    pub path: &'a str,
}

impl<'a> Credentials<'a> {
    /// The bearer token. One that a browser sent as a WebSocket protocol stands in the same header by now
    /// ([`websocket::take_token`]).
    pub fn bearer(&self) -> Option<&'a str> {
        let header = self.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let mut words = header.trim().splitn(3, ' ');
        let scheme = words.next()?;
        words.next().filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
    }
}

#[async_trait]
pub trait Authenticator: Send + Sync {
    /// `None` when the request carries nothing that this authenticator knows. Whoever knows tokens alone leaves it as it is.
    ///
    /// # Errors
    /// Why a credential of its kind is bad; the others are asked all the same.
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        let Some(token) = credentials.bearer() else { return Ok(None) };
        Ok(self.review_token(token, &[]).await?.map(|(user, _)| user))
    }

    /// Checks a token alone (`TokenReview`), for these audiences; none: those of the API server. Gives those of them that the
    /// token is for.
    async fn review_token(&self, _token: &str, _audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        Ok(None)
    }
}

/// Who may come without a credential, and where (`--anonymous-auth`, `anonymous` of an AuthenticationConfiguration).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anonymous {
    pub enabled: bool,
    /// The only paths that they may ask for; none: all.
    pub paths: Vec<String>,
}

impl From<bool> for Anonymous {
    fn from(enabled: bool) -> Self {
        Self { enabled, paths: Vec::new() }
    }
}

impl Anonymous {
    fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|p| p == path))
    }
}

/// Asks one after the other. Who carries no credential at all is anonymous; who carries a bad one is nobody.
pub struct Union {
    members: Vec<Arc<dyn Authenticator>>,
    anonymous: Anonymous,
}

impl Union {
    pub fn new(members: Vec<Arc<dyn Authenticator>>, anonymous: impl Into<Anonymous>) -> Self {
        Self { members, anonymous: anonymous.into() }
    }
}

/// Every user is in one of the two groups (upstream: `NewAuthenticatedGroupAdder`).
fn with_group(mut user: User) -> User {
    if user.name != ANONYMOUS && !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

/// What is wrong with a credential that nobody knows.
fn refused(errors: &[String]) -> Status {
    Status::unauthorized(if errors.is_empty() { "invalid bearer token".to_owned() } else { aggregate(errors) })
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        let mut errors = Vec::new();
        for member in &self.members {
            match member.authenticate(credentials).await {
                Ok(Some(user)) => return Ok(Some(with_group(user))),
                Ok(None) => {}
                Err(error) => errors.push(error.message),
            }
        }
        if credentials.bearer().is_some() || !errors.is_empty() {
            return Err(refused(&errors));
        }
        Ok(self.anonymous.allows(credentials.path).then(User::anonymous))
    }

    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        let mut errors = Vec::new();
        for member in &self.members {
            match member.review_token(token, audiences).await {
                Ok(Some((user, audiences))) => return Ok(Some((with_group(user), audiences))),
                Ok(None) => {}
                Err(error) => errors.push(error.message),
            }
        }
        Err(refused(&errors))
    }
}

/// An authenticator whose tokens know no audiences: they are good for those of the API server and for no other
/// (upstream: `WrapAudienceAgnosticToken`).
pub struct ForOwnAudiences {
    pub audiences: Vec<String>,
    pub inner: Arc<dyn Authenticator>,
}

#[async_trait]
impl Authenticator for ForOwnAudiences {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        self.inner.authenticate(credentials).await
    }

    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        let common = common_audiences(&self.audiences, audiences);
        if common.is_empty() && !self.audiences.is_empty() {
            return Ok(None);
        }
        Ok(self.inner.review_token(token, &[]).await?.map(|(user, _)| (user, common)))
    }
}

/// Those of `own` that are wanted: all when none is.
pub fn common_audiences(own: &[String], wanted: &[String]) -> Vec<String> {
    own.iter().filter(|a| wanted.is_empty() || wanted.contains(a)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials<'a>(headers: &'a http::HeaderMap, path: &'a str) -> Credentials<'a> {
        Credentials { headers, peer_certificates: &[], path }
    }

    fn with_authorization(value: &str) -> http::HeaderMap {
        [(http::header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect()
    }

    /// Knows one token, and complains about another.
    struct One;

    #[async_trait]
    impl Authenticator for One {
        async fn review_token(&self, token: &str, _: &[String]) -> Result<Option<(User, Vec<String>)>> {
            match token {
                "bad" => Err(Status::unauthorized("it is bad")),
                "good" => Ok(Some((User { name: "jane".into(), ..User::default() }, Vec::new()))),
                _ => Ok(None),
            }
        }
    }

    #[tokio::test]
    async fn no_credential_is_anonymous_and_a_bad_one_is_nobody() {
        let union = Union::new(vec![], true);
        let headers = http::HeaderMap::new();
        let user = union.authenticate(&credentials(&headers, "/")).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups), (ANONYMOUS, vec![UNAUTHENTICATED.to_owned()]));
        let refused = union.authenticate(&credentials(&with_authorization("Bearer nonsense"), "/")).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (401, "invalid bearer token"));
        // What is no bearer token is no credential that anybody here knows.
        let user = union.authenticate(&credentials(&with_authorization("Basic abc"), "/")).await.unwrap().unwrap();
        assert_eq!(user.name, ANONYMOUS);
    }

    #[tokio::test]
    async fn who_is_anonymous_may_be_so_on_some_paths_only() {
        let union = Union::new(vec![], Anonymous { enabled: true, paths: vec!["/livez".into()] });
        let headers = http::HeaderMap::new();
        assert!(union.authenticate(&credentials(&headers, "/livez")).await.unwrap().is_some());
        assert!(union.authenticate(&credentials(&headers, "/livez/ping")).await.unwrap().is_none());
        assert!(Union::new(vec![], false).authenticate(&credentials(&headers, "/livez")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn each_is_asked_until_one_knows_the_token() {
        struct Unsure;
        #[async_trait]
        impl Authenticator for Unsure {
            async fn review_token(&self, _: &str, _: &[String]) -> Result<Option<(User, Vec<String>)>> {
                Err(Status::unauthorized("no idea"))
            }
        }
        let union = Union::new(vec![Arc::new(Unsure), Arc::new(One)], true);
        let user = union.authenticate(&credentials(&with_authorization("bearer good"), "/")).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups), ("jane", vec![AUTHENTICATED.to_owned()]));
        assert_eq!(union.review_token("bad", &[]).await.unwrap_err().message, "[no idea, it is bad]");
    }

    #[tokio::test]
    async fn tokens_without_audiences_are_for_the_api_server_alone() {
        let own = ForOwnAudiences { audiences: vec!["api".into()], inner: Arc::new(One) };
        assert_eq!(own.review_token("good", &[]).await.unwrap().unwrap().1, ["api"]);
        assert_eq!(own.review_token("good", &["x".into(), "api".into()]).await.unwrap().unwrap().1, ["api"]);
        assert_eq!(own.review_token("good", &["x".into()]).await.unwrap(), None);
    }
}
