//! Service account tokens: JSON Web Tokens, bound to an account and often to a pod, a secret or a node.
//!
//! A token is good while its signature, issuer, audience and times are, and while everything it is bound to still exists with
//! the same uid: a deleted account's or pod's token is dead at once. Claims: `k8s.io/kubernetes/pkg/serviceaccount/claims.go`.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use knarr_core::clock::Env;
use knarr_core::{Result, Status};
use serde::{Deserialize, Serialize};

use super::jwt::Jws;
use super::keys::{PrivateKey, PublicKey};
use super::legacy_tokens::{self, LegacyClaims, Uses};
use super::{Authenticator, User};

/// Clocks of token holders may differ by this much.
const LEEWAY_SECONDS: i64 = 60;

/// Something a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundObject {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<BoundObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<BoundObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<BoundObject>,
    pub serviceaccount: BoundObject,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Kubernetes,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

/// What a token is wanted for.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    pub namespace: String,
    pub account: BoundObject,
    pub audiences: Vec<String>,
    /// How long it is to live.
    pub seconds: i64,
    /// How long it does live, where that is longer: it says itself when it should have been exchanged.
    pub seconds_extended: Option<i64>,
    pub pod: Option<BoundObject>,
    pub secret: Option<BoundObject>,
    pub node: Option<BoundObject>,
}

/// The key that signs tokens, those that check them, and for whom they are.
pub struct ServiceAccountKey {
    signer: PrivateKey,
    /// Told to everybody in this order. More than one while a key gives way to another.
    keys: Vec<PublicKey>,
    /// Who is said to have issued a token.
    pub issuer: String,
    /// Who else may be: by what name the issuer was known before.
    pub former_issuers: Vec<String>,
    /// For whom a token is that names nobody.
    pub audiences: Vec<String>,
    /// Where clients find the public keys; empty: below the issuer.
    pub jwks_uri: String,
    pub lifetimes: Lifetimes,
}

/// How long tokens live, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// At most so many seconds, but for those that are extended.
    pub seconds_max: Option<i64>,
    /// A pod's own token lives for a year if the pod does, since old programs read it once (upstream:
    /// `--service-account-extend-token-expiration`).
    pub extends: bool,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { seconds_max: None, extends: true }
    }
}

impl ServiceAccountKey {
    /// Reads a private key in PEM: an RSA key, or one of P-256 or P-384. Its public half checks tokens, and the issuer is their audience.
    ///
    /// # Errors
    /// Text that is no such key.
    pub fn from_pem(pem: &str, issuer: &str) -> std::result::Result<Self, String> {
        let signer = PrivateKey::from_pem(pem).map_err(|e| format!("service account key: {e}"))?;
        let keys = vec![signer.public.clone()];
        Ok(Self {
            signer,
            keys,
            issuer: issuer.into(),
            former_issuers: Vec::new(),
            audiences: vec![issuer.into()],
            jwks_uri: String::new(),
            lifetimes: Lifetimes::default(),
        })
    }

    /// These keys check tokens, and that which signs does.
    #[must_use]
    pub fn checked_by(mut self, mut keys: Vec<PublicKey>) -> Self {
        let own = &self.signer.public;
        if keys.iter().all(|key| key.id != own.id) {
            keys.insert(0, own.clone());
        }
        self.keys = keys;
        self
    }

    fn is_issuer(&self, name: &str) -> bool {
        name == self.issuer || self.former_issuers.iter().any(|former| former == name)
    }

    /// Signs a token. Gives it with the time by which it should be exchanged.
    pub fn issue(&self, request: &TokenRequest, env: &Env) -> Result<(String, jiff::Timestamp)> {
        let now = env.now().as_second();
        let claims = Claims {
            aud: if request.audiences.is_empty() { self.audiences.clone() } else { request.audiences.clone() },
            exp: now + request.seconds_extended.unwrap_or(request.seconds),
            iat: now,
            nbf: now,
            iss: self.issuer.clone(),
            jti: env.uuid(),
            sub: format!("system:serviceaccount:{}:{}", request.namespace, request.account.name),
            kubernetes: Kubernetes {
                namespace: request.namespace.clone(),
                node: request.node.clone(),
                pod: request.pod.clone(),
                secret: request.secret.clone(),
                serviceaccount: request.account.clone(),
                warnafter: request.seconds_extended.map(|_| now + request.seconds),
            },
        };
        let end = jiff::Timestamp::from_second(now + request.seconds).map_err(Status::internal)?;
        Ok((self.sign(&claims)?, end))
    }

    /// Signs a token that lives as long as its Secret.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue_legacy(&self, claims: &LegacyClaims) -> Result<String> {
        self.sign(claims)
    }

    fn sign(&self, claims: &impl Serialize) -> Result<String> {
        let header = serde_json::json!({"alg": self.signer.public.algorithm, "kid": self.signer.public.id});
        let text = format!("{}.{}", segment(&header)?, segment(claims)?);
        let signature = self.signer.sign(&text)?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token with a signature of ours says; `None` for anything else. The key that it names is asked; one that names none, or names
    /// it as we did before keys of every kind had names, may be of any.
    fn payload(&self, token: &str) -> Option<serde_json::Value> {
        let token = Jws::parse(token)?;
        let named = |key: &&PublicKey| key.id == token.key_id;
        let is_named = self.keys.iter().any(|key| named(&key));
        let is_ours = self.keys.iter().filter(|key| !is_named || named(key)).any(|key| key.has_signed(&token));
        is_ours.then_some(token.claims)
    }

    /// `/openid/v1/jwks`
    pub fn jwks(&self) -> String {
        let keys: Vec<&str> = self.keys.iter().map(|key| key.shown.as_str()).collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(","))
    }

    /// `/.well-known/openid-configuration`, with its fields in upstream's order.
    pub fn discovery(&self, jwks_uri: &str) -> String {
        let text = |value: &str| serde_json::Value::from(value).to_string();
        let algorithms: BTreeSet<&str> = self.keys.iter().map(|key| key.algorithm).collect();
        format!(
            r#"{{"issuer":{},"jwks_uri":{},"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":{}}}"#,
            text(&self.issuer),
            text(jwks_uri),
            serde_json::json!(algorithms)
        )
    }
}

fn segment(value: &impl Serialize) -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).map_err(Status::internal)?))
}

/// An object that a token is bound to, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub uid: String,
    /// When it was deleted, in seconds since 1970, if it only waits for its end.
    pub deleted: Option<i64>,
}

/// Finds what tokens are bound to.
pub trait ObjectLookup: Send + Sync {
    /// `None` when there is no such object.
    fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Found>;

    /// The Secret that holds a legacy token.
    fn secret(&self, namespace: &str, name: &str) -> Option<serde_json::Value>;
}

/// Takes tokens that the cluster has issued.
pub struct ServiceAccountAuthenticator {
    pub key: Arc<ServiceAccountKey>,
    pub objects: Arc<dyn ObjectLookup>,
    /// The API server's own audiences.
    pub audiences: Vec<String>,
    pub env: Env,
    /// Is told which Secrets' tokens are used.
    pub uses: Uses,
    /// Whether the token of a Secret is dead once the Secret or its account is (`--service-account-lookup`). Other tokens are dead then in any
    /// case.
    pub lookup: bool,
}

impl ServiceAccountAuthenticator {
    /// The user of a good token and those of `audiences` that it is for.
    fn check(&self, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
        let payload = self.key.payload(token)?;
        match payload.get("iss")?.as_str()? {
            iss if self.key.is_issuer(iss) => self.check_bound(&serde_json::from_value(payload).ok()?, audiences),
            legacy_tokens::ISSUER => self.check_legacy(token, &serde_json::from_value(payload).ok()?, audiences),
            _ => None,
        }
    }

    /// A token out of a Secret, which is for the API server alone.
    fn check_legacy(&self, token: &str, claims: &LegacyClaims, audiences: &[String]) -> Option<(User, Vec<String>)> {
        let common: Vec<String> = audiences.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        if common.is_empty() || !claims.are_complete() {
            return None;
        }
        let mut user = User::service_account(&claims.namespace, &claims.account);
        user.uid.clone_from(&claims.uid);
        if !self.lookup {
            return Some((user, common));
        }
        let secret = self.objects.secret(&claims.namespace, &claims.secret)?;
        let account = self.objects.find("serviceaccounts", &claims.namespace, &claims.account)?;
        if !claims.holds(token, &secret, &account) {
            return None;
        }
        self.uses.tell(&secret, self.env.now());
        if let Some(since) = legacy_tokens::invalid_since(&secret) {
            tracing::warn!(namespace = claims.namespace, secret = claims.secret, since, "a token was used that has been marked invalid");
            return None;
        }
        Some((user, common))
    }

    fn check_bound(&self, claims: &Claims, audiences: &[String]) -> Option<(User, Vec<String>)> {
        let now = self.env.now().as_second();
        if claims.exp + LEEWAY_SECONDS <= now || claims.nbf > now + LEEWAY_SECONDS {
            return None;
        }
        let common: Vec<String> = audiences.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if common.is_empty() || !self.all_bound_exist(&claims.kubernetes, now) {
            return None;
        }
        Some((user(claims), common))
    }

    /// What was deleted a moment ago still counts: a pod may have to say goodbye.
    fn all_bound_exist(&self, bound: &Kubernetes, now: i64) -> bool {
        let same = |resource: &str, namespace: &str, object: &BoundObject| {
            let found = self.objects.find(resource, namespace, &object.name);
            found.is_some_and(|f| (object.uid.is_empty() || f.uid == object.uid) && f.deleted.is_none_or(|at| at >= now - LEEWAY_SECONDS))
        };
        let namespace = bound.namespace.as_str();
        same("serviceaccounts", namespace, &bound.serviceaccount)
            && bound.pod.as_ref().is_none_or(|o| same("pods", namespace, o))
            && bound.secret.as_ref().is_none_or(|o| same("secrets", namespace, o))
            && (bound.pod.is_some() || bound.node.as_ref().is_none_or(|o| same("nodes", "", o)))
    }
}

fn user(claims: &Claims) -> User {
    let bound = &claims.kubernetes;
    let mut user = User::service_account(&bound.namespace, &bound.serviceaccount.name);
    user.uid.clone_from(&bound.serviceaccount.uid);
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    add("credential-id", &if claims.jti.is_empty() { String::new() } else { format!("JTI={}", claims.jti) });
    for (object, name) in [(&bound.pod, "pod"), (&bound.node, "node")] {
        if let Some(object) = object {
            add(&format!("{name}-name"), &object.name);
            add(&format!("{name}-uid"), &object.uid);
        }
    }
    user
}

#[async_trait]
impl Authenticator for ServiceAccountAuthenticator {
    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        let audiences = if audiences.is_empty() { &self.audiences } else { audiences };
        Ok(self.check(token, audiences))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_its_fields_in_upstreams_order() {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = ServiceAccountKey::from_pem(&pem, "https://a").unwrap();
        let wanted = r#"{"issuer":"https://a","jwks_uri":"https://b/\"keys","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}"#;
        assert_eq!(key.discovery("https://b/\"keys"), wanted);
    }

    struct Objects(Vec<(&'static str, &'static str, &'static str)>);

    impl ObjectLookup for Objects {
        fn find(&self, resource: &str, _: &str, name: &str) -> Option<Found> {
            let found = self.0.iter().find(|o| (o.0, o.1) == (resource, name))?;
            let (uid, deleted) = found.2.split_once('-').unwrap_or((found.2, ""));
            Some(Found { uid: uid.to_owned(), deleted: deleted.parse().ok() })
        }

        fn secret(&self, _: &str, name: &str) -> Option<serde_json::Value> {
            self.0.iter().find(|o| (o.0, o.1) == ("secrets", name)).map(|o| serde_json::from_str(o.2).unwrap())
        }
    }

    fn authenticator(objects: Vec<(&'static str, &'static str, &'static str)>) -> ServiceAccountAuthenticator {
        let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = Arc::new(ServiceAccountKey::from_pem(&pem, "https://kubernetes.default.svc").unwrap());
        let audiences = vec!["https://kubernetes.default.svc".into()];
        ServiceAccountAuthenticator { key, objects: Arc::new(Objects(objects)), audiences, env: Env::system(), uses: Uses::default(), lookup: true }
    }

    fn request() -> TokenRequest {
        TokenRequest {
            namespace: "default".into(),
            account: BoundObject { name: "web".into(), uid: "u1".into() },
            seconds: 600,
            pod: Some(BoundObject { name: "p".into(), uid: "u2".into() }),
            ..TokenRequest::default()
        }
    }

    #[test]
    fn a_token_names_its_account_and_its_pod() {
        let a = authenticator(vec![("serviceaccounts", "web", "u1"), ("pods", "p", "u2")]);
        let (token, _) = a.key.issue(&request(), &a.env).unwrap();
        let (user, _) = a.check(&token, &a.audiences).unwrap();
        assert_eq!(user.name, "system:serviceaccount:default:web");
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    }

    #[test]
    fn a_token_dies_with_what_it_is_bound_to() {
        let long_ago = ("pods", "p", "u2-1000");
        for gone in [
            vec![("serviceaccounts", "web", "u1"), long_ago],
            vec![("serviceaccounts", "web", "u1")],
            vec![("serviceaccounts", "web", "other"), ("pods", "p", "u2")],
            vec![("pods", "p", "u2")],
        ] {
            let a = authenticator(gone);
            let (token, _) = a.key.issue(&request(), &a.env).unwrap();
            assert!(a.check(&token, &a.audiences).is_none());
        }
    }

    #[test]
    fn a_token_out_of_a_secret_lives_as_long_as_the_secret_and_its_account() {
        let accounts = [("serviceaccounts", "web", "u1")];
        let a = authenticator(accounts.to_vec());
        let claims = LegacyClaims::new("default", "web", "u1", "s");
        let token = a.key.issue_legacy(&claims).unwrap();
        let secret = |token: &str, labels: &str| -> &'static str {
            let token = base64::engine::general_purpose::STANDARD.encode(token);
            format!(r#"{{"metadata": {{"name": "s", "namespace": "default", "labels": {{{labels}}}}}, "data": {{"token": "{token}"}}}}"#).leak()
        };
        let ask = |account: &'static str, secret: &'static str| {
            let objects = Arc::new(Objects(vec![("serviceaccounts", "web", account), ("secrets", "s", secret)]));
            let a = ServiceAccountAuthenticator {
                key: a.key.clone(),
                objects,
                audiences: a.audiences.clone(),
                env: a.env.clone(),
                uses: Uses::default(),
                lookup: true,
            };
            a.check(&token, &a.audiences).map(|(user, _)| (user.name, user.uid))
        };
        assert_eq!(ask("u1", secret(&token, "")), Some(("system:serviceaccount:default:web".into(), "u1".into())));
        assert_eq!(ask("u9", secret(&token, "")), None);
        assert_eq!(ask("u1-1000", secret(&token, "")), None);
        assert_eq!(ask("u1", secret("another", "")), None);
        assert_eq!(ask("u1", secret(&token, r#""kubernetes.io/legacy-token-invalid-since": "2026-01-01""#)), None);
        assert!(a.check(&token, &a.audiences).is_none(), "the secret is gone");
        let careless = ServiceAccountAuthenticator { lookup: false, ..authenticator(vec![]) };
        let token = careless.key.issue_legacy(&claims).unwrap();
        assert!(careless.check(&token, &careless.audiences).is_some(), "nobody looks");
        let foreign = LegacyClaims { sub: "system:serviceaccount:default:other".into(), ..claims };
        assert!(careless.check(&careless.key.issue_legacy(&foreign).unwrap(), &careless.audiences).is_none(), "it contradicts itself");
        let (bound, _) = careless.key.issue(&request(), &careless.env).unwrap();
        assert!(careless.check(&bound, &careless.audiences).is_none(), "what is bound is looked for in any case");
    }

    #[test]
    fn a_token_for_others_an_old_one_and_a_forged_one_are_refused() {
        let a = authenticator(vec![("serviceaccounts", "web", "u1"), ("pods", "p", "u2")]);
        let foreign = TokenRequest { audiences: vec!["vault".into()], ..request() };
        assert!(a.check(&a.key.issue(&foreign, &a.env).unwrap().0, &a.audiences).is_none());
        let old = TokenRequest { seconds: -LEEWAY_SECONDS - 1, ..request() };
        assert!(a.check(&a.key.issue(&old, &a.env).unwrap().0, &a.audiences).is_none());
        let other = authenticator(vec![("serviceaccounts", "web", "u1"), ("pods", "p", "u2")]);
        assert!(a.check(&other.key.issue(&request(), &a.env).unwrap().0, &a.audiences).is_none());
        assert!(a.check("a.b.c", &a.audiences).is_none());
    }

    #[test]
    fn keys_and_issuers_give_way_to_others() {
        let before = authenticator(vec![("serviceaccounts", "web", "u1"), ("pods", "p", "u2")]);
        let (token, _) = before.key.issue(&request(), &before.env).unwrap();
        let rsa = include_str!("testdata/rsa.pem");
        let with = |key: ServiceAccountKey| ServiceAccountAuthenticator {
            audiences: vec![key.issuer.clone(), before.key.issuer.clone()],
            key: Arc::new(key),
            objects: before.objects.clone(),
            env: before.env.clone(),
            uses: Uses::default(),
            lookup: true,
        };
        let new = || ServiceAccountKey::from_pem(rsa, "https://new").unwrap();
        let old_keys = || before.key.keys.clone();
        let mut both = new().checked_by(old_keys());
        both.former_issuers.push(before.key.issuer.clone());
        let after = with(both);
        assert!(after.check(&token, &after.audiences).is_some(), "of the key and the issuer before");
        assert!(after.check(&after.key.issue(&request(), &after.env).unwrap().0, &after.audiences).is_some());
        assert!(with(new().checked_by(old_keys())).check(&token, &after.audiences).is_none(), "the issuer is forgotten");
        let mut other_key = new();
        other_key.former_issuers.push(before.key.issuer.clone());
        assert!(with(other_key).check(&token, &after.audiences).is_none(), "the key is forgotten");
        let jwks: serde_json::Value = serde_json::from_str(&after.key.jwks()).unwrap();
        let kinds: Vec<&str> = jwks["keys"].as_array().unwrap().iter().map(|key| key["kty"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["RSA", "EC"]);
        assert!(after.key.discovery("").contains(r#""id_token_signing_alg_values_supported":["ES256","RS256"]"#));
    }
}
