//! A front proxy's word for who asks: headers of a connection whose certificate the front proxy's CA has signed
//! (upstream: `authentication/request/headerrequest`).

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName};
use knarr_core::Result;

use super::x509::{SignedBy, common_name};
use super::{Authenticator, Credentials, User};
use crate::request::percent_decode;

/// Headers by which proxies tell the user. They are taken off every request, whoever has sent them.
const STANDARD: [&str; 4] = ["x-remote-user", "x-remote-uid", "x-remote-group", "x-remote-extra-"];

/// A front proxy: whose certificate it has, and what is read of it (`--requestheader-*`).
#[derive(Clone, Debug, Default)]
pub struct FrontProxy {
    /// PEM of its authority.
    pub ca: String,
    /// Common names that may speak for others; none: every certificate of the CA.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl FrontProxy {
    /// With the headers that kubeadm's clusters have.
    pub fn standard(ca: String, allowed_names: Vec<String>) -> Self {
        let one = |name: &str| vec![name.to_owned()];
        let [user, uid, group, extra] = STANDARD;
        Self { ca, allowed_names, username_headers: one(user), uid_headers: one(uid), group_headers: one(group), extra_prefixes: one(extra) }
    }

    /// All of its headers, in lower case.
    pub fn headers(&self) -> impl Iterator<Item = String> {
        let all = [&self.username_headers, &self.uid_headers, &self.group_headers, &self.extra_prefixes];
        all.into_iter().flatten().map(|name| name.to_ascii_lowercase())
    }
}

/// Believes a front proxy.
pub struct RequestHeaders {
    signed_by: Arc<SignedBy>,
    proxy: FrontProxy,
}

impl RequestHeaders {
    /// `signed_by` tells who has a certificate of the proxy's CA.
    pub fn new(signed_by: Arc<SignedBy>, proxy: FrontProxy) -> Self {
        Self { signed_by, proxy }
    }

    fn may_speak(&self, certificates: &[Vec<u8>]) -> bool {
        let allowed = &self.proxy.allowed_names;
        let named = || certificates.first().and_then(|leaf| common_name(leaf)).is_some_and(|name| allowed.contains(&name));
        self.signed_by.has_signed(certificates) && (allowed.is_empty() || named())
    }
}

#[async_trait]
impl Authenticator for RequestHeaders {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        let Some(user) = told(&self.proxy, credentials.headers) else { return Ok(None) };
        Ok(self.may_speak(credentials.peer_certificates).then_some(user))
    }
}

/// The user that headers name; none without a name.
fn told(proxy: &FrontProxy, headers: &HeaderMap) -> Option<User> {
    let texts = |name: &str| headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let first = |names: &[String]| names.iter().find_map(|n| headers.get(n).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty())).map(str::to_owned);
    let mut user = User { name: first(&proxy.username_headers)?, uid: first(&proxy.uid_headers).unwrap_or_default(), ..User::default() };
    user.groups = proxy.group_headers.iter().flat_map(|name| texts(name)).collect();
    for prefix in proxy.extra_prefixes.iter().map(|p| p.to_ascii_lowercase()) {
        for (name, value) in headers {
            if let Some(key) = name.as_str().strip_prefix(&prefix) {
                let value = value.to_str().unwrap_or_default().to_owned();
                user.extra.entry(percent_decode(key, false).into_owned()).or_default().push(value);
            }
        }
    }
    Some(user)
}

/// Takes off what only authentication may see, so that nobody behind it takes a client's word for a proxy's.
///
/// `others` are headers of the server's own configuration, prefixes with a dash at their end.
pub fn clear(headers: &mut HeaderMap, others: &[String]) {
    headers.remove(http::header::AUTHORIZATION);
    let is = |name: &str, known: &str| if known.ends_with('-') { name.starts_with(known) } else { name == known };
    let theirs = |name: &&HeaderName| STANDARD.into_iter().chain(others.iter().map(String::as_str)).any(|known| is(name.as_str(), known));
    let theirs: Vec<HeaderName> = headers.keys().filter(theirs).cloned().collect();
    theirs.iter().for_each(|name| drop(headers.remove(name)));
}

#[cfg(test)]
mod tests {
    use super::super::x509::tests::chain_of;
    use super::*;
    use crate::pki::Pki;
    use knarr_core::clock::Env;

    fn headers() -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in
            [("x-remote-user", "jane"), ("x-remote-uid", "7"), ("x-remote-group", "a"), ("x-remote-group", "b"), ("x-remote-extra-example.com%2fscope", "x")]
        {
            all.append(name, value.parse().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_proxy_is_believed_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let pki = Pki::load_or_create(folder.path(), env.now()).unwrap();
        let signed_by = Arc::new(SignedBy::new(&pki.front_proxy_ca.certificate, env.clone()).unwrap());
        let ask = async |allowed: &[&str], chain: &[Vec<u8>]| {
            let proxy = FrontProxy::standard(String::new(), allowed.iter().map(|n| (*n).to_owned()).collect());
            let proxy = RequestHeaders::new(signed_by.clone(), proxy);
            let headers = headers();
            proxy.authenticate(&Credentials { headers: &headers, peer_certificates: chain, path: "/" }).await.unwrap()
        };
        let proxy = chain_of(&pki.front_proxy_ca, "front-proxy-client", &env);
        let user = ask(&["front-proxy-client"], &proxy).await.unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str(), user.groups, &user.extra["example.com/scope"][..]),
            ("jane", "7", vec!["a".to_owned(), "b".into()], &["x".to_owned()][..])
        );
        assert!(ask(&[], &proxy).await.is_some());
        assert_eq!(ask(&["other"], &proxy).await, None);
        assert_eq!(ask(&[], &chain_of(&pki.ca, "front-proxy-client", &env)).await, None);
        assert_eq!(ask(&[], &[]).await, None);
    }

    #[test]
    fn what_proxies_say_is_taken_off() {
        let mut all = headers();
        all.insert("authorization", "Bearer x".parse().unwrap());
        all.insert("x-remote-users", "kept".parse().unwrap());
        all.insert("x-our-user", "x".parse().unwrap());
        clear(&mut all, &["x-our-user".to_owned()]);
        assert_eq!(all.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-remote-users"]);
    }
}
