//! JSON Web Tokens of other issuers: structured authentication and the `--oidc-*` flags (upstream:
//! `apiserver/plugin/pkg/authenticator/token/oidc`, KEP-3331).
//!
//! ```text
//!  token ─ jws ─▶ whose? ─ provider (discovery, keys) ─▶ signed ─ times, audience ─▶ claims ─▶ user
//! ```
//!
//! The configuration can be changed while tokens are checked: [`JwtAuthenticators::reload`].

mod claims;
pub mod config;
mod jws;
mod provider;

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use knarr_core::{Result, Status, Value, ValueExt, clock::Env, field::go_quote};
use parking_lot::Mutex;

use super::{Authenticator, User, common_audiences, extra::aggregate};
use claims::Mapping;
use config::{AnonymousConfig, Configuration, JwtAuthenticator};
use provider::Provider;

pub use jws::ALGORITHMS;
pub(super) use jws::{Jwk, Jws};

/// How far an issuer's clock may be ahead for `nbf` (upstream: go-oidc).
const NOT_BEFORE_LEEWAY_SECONDS: i64 = 60;
/// Most other issuers of distributed claims that are remembered.
const OTHERS_MAX: usize = 32;
/// How often, and for how long, new issuers are waited for before a configuration takes effect (upstream: 10 s, up to 3 min).
const READY_PAUSE: Duration = Duration::from_secs(10);
const READY_TRIES: u32 = 18;

/// One issuer.
struct Issuer {
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    mapping: Mapping,
    provider: Provider,
    /// Issuers to which this one's tokens refer for claims.
    others: Mutex<HashMap<String, Arc<Provider>>>,
    env: Env,
}

impl Issuer {
    fn new(config: &JwtAuthenticator, mapping: Mapping, algorithms: &[String], env: &Env) -> Self {
        let issuer = &config.issuer;
        Self {
            url: issuer.url.clone(),
            audiences: issuer.audiences.clone(),
            algorithms: algorithms.to_vec(),
            mapping,
            provider: Provider::new(&issuer.url, &issuer.discovery_url, &issuer.certificate_authority),
            others: Mutex::default(),
            env: env.clone(),
        }
    }

    /// The claims of a token whose signature, times and audience are good.
    async fn verified(&self, token: &Jws<'_>, issuer: &str, provider: &Provider) -> std::result::Result<Value, String> {
        if !self.algorithms.contains(&token.algorithm) {
            let known: Vec<String> = self.algorithms.iter().map(|a| go_quote(a)).collect();
            return Err(format!("oidc: id token signed with unsupported algorithm, expected [{}] got {}", known.join(" "), go_quote(&token.algorithm)));
        }
        provider.verify(token).await?;
        if token.issuer() != issuer {
            return Err(format!("oidc: id token issued by a different provider, expected {} got {}", go_quote(issuer), go_quote(token.issuer())));
        }
        check_audience(&token.claims, &self.audiences)?;
        check_times(&token.claims, self.env.now().as_second())?;
        Ok(token.claims.clone())
    }

    /// The user of a token that claims to be of this issuer.
    async fn user(&self, token: &Jws<'_>) -> std::result::Result<User, String> {
        let mut claims = self.verified(token, &self.url, &self.provider).await.map_err(|why| format!("oidc: verify token: {why}"))?;
        self.expand(&mut claims).await.map_err(|why| format!("oidc: could not expand distributed claims: {why}"))?;
        self.mapping.user(&claims)
    }

    /// Fetches the groups claim where the token says that it is somewhere else (OpenID Connect Core 5.6.2).
    async fn expand(&self, claims: &mut Value) -> std::result::Result<(), String> {
        let Some(claim) = self.mapping.groups_claim().filter(|claim| claims.get(*claim).is_none()) else { return Ok(()) };
        let Some(source) = elsewhere(claims, claim)? else { return Ok(()) };
        let text = |key: &str| source.str_at(&[key]).unwrap_or_default();
        let failed = |why: String| format!("while getting distributed claim {}: {why}", go_quote(claim));
        let token = self.provider.claims_elsewhere(text("endpoint"), text("access_token")).await.map_err(failed)?;
        let token = Jws::parse(token.trim()).ok_or_else(|| failed("malformed token".into()))?;
        let issuer = token.issuer().to_owned();
        let provider = self.other(&issuer);
        let theirs = self.verified(&token, &issuer, &provider).await.map_err(|why| format!("verify distributed claim token: {why}"))?;
        let value = theirs
            .get(claim)
            .ok_or_else(|| format!("jwt returned by distributed claim endpoint {} did not contain claim: {claim}", go_quote(text("endpoint"))))?;
        claims[claim] = value.clone();
        Ok(())
    }

    fn other(&self, issuer: &str) -> Arc<Provider> {
        let mut others = self.others.lock();
        if others.len() >= OTHERS_MAX && !others.contains_key(issuer) {
            others.clear();
        }
        others.entry(issuer.to_owned()).or_insert_with(|| Arc::new(self.provider.other(issuer))).clone()
    }
}

/// Where a claim is, if the token says that it is elsewhere.
fn elsewhere<'c>(claims: &'c Value, claim: &str) -> std::result::Result<Option<&'c Value>, String> {
    let Some(names) = claims.get("_claim_names") else { return Ok(None) };
    let names = names.as_object().ok_or("oidc: error parsing distributed claim names")?;
    let sources = claims.get("_claim_sources").ok_or("oidc: no claim sources")?;
    let Some(name) = names.get(claim).and_then(Value::as_str) else { return Ok(None) };
    let source = sources.get(name).ok_or_else(|| format!("id token _claim_names contained a source {name} missing in _claims_sources"))?;
    Ok(source.str_at(&["endpoint"]).is_some_and(|e| !e.is_empty()).then_some(source))
}

fn check_audience(claims: &Value, wanted: &[String]) -> std::result::Result<(), String> {
    let found: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if wanted.iter().any(|w| found.contains(&w.as_str())) {
        return Ok(());
    }
    let quoted = |all: Vec<String>| format!("[{}]", all.iter().map(|a| go_quote(a)).collect::<Vec<_>>().join(" "));
    let wanted = match wanted {
        [one] => go_quote(one),
        several => format!("in {}", quoted(several.to_vec())),
    };
    Err(format!("oidc: expected audience {wanted} got {}", quoted(found.into_iter().map(str::to_owned).collect())))
}

fn check_times(claims: &Value, now: i64) -> std::result::Result<(), String> {
    let seconds = |key: &str| claims.get(key).and_then(Value::as_f64).map(|s| s as i64);
    if seconds("exp").is_none_or(|end| end < now) {
        return Err("oidc: token is expired".into());
    }
    match seconds("nbf") {
        Some(begin) if now + NOT_BEFORE_LEEWAY_SECONDS < begin => Err("oidc: current time is before the nbf (not before) time".into()),
        _ => Ok(()),
    }
}

/// All issuers of a configuration. Which they are may change.
pub struct JwtAuthenticators {
    issuers: ArcSwap<Vec<Issuer>>,
    settings: Settings,
    /// What the configuration said of anonymous users when the server started: that does not change while it runs.
    anonymous: Option<AnonymousConfig>,
}

/// What is beside the configuration.
#[derive(Clone)]
pub struct Settings {
    /// Audiences of the API server, which TokenReviews ask for.
    pub audiences: Vec<String>,
    /// Issuers of service account tokens.
    pub own_issuers: Vec<String>,
    /// Algorithms that tokens may be signed with.
    pub algorithms: Vec<String>,
    pub env: Env,
}

impl Settings {
    fn issuers(&self, config: &Configuration) -> std::result::Result<Vec<Issuer>, String> {
        if let Some(unknown) = self.algorithms.iter().find(|a| !ALGORITHMS.contains(&a.as_str())) {
            return Err(format!("oidc: unsupported signing alg: {}", go_quote(unknown)));
        }
        let (mappings, errors) = config.compile(&self.own_issuers);
        if !errors.is_empty() {
            return Err(format!("invalid authentication configuration: {}", aggregate(&errors)));
        }
        Ok(config.jwt.iter().zip(mappings).map(|(jwt, mapping)| Issuer::new(jwt, mapping, &self.algorithms, &self.env)).collect())
    }
}

impl JwtAuthenticators {
    /// Starts with a configuration. Issuers need not be there yet: they are asked when a token of theirs comes.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: &Configuration, settings: Settings) -> std::result::Result<Self, String> {
        Ok(Self { issuers: ArcSwap::from_pointee(settings.issuers(config)?), settings, anonymous: config.anonymous.clone() })
    }

    /// Takes another configuration, when its issuers are there.
    ///
    /// # Errors
    /// What is wrong with it, or with an issuer: the one before goes on to count.
    pub async fn reload(&self, text: &str) -> std::result::Result<(), String> {
        let config = Configuration::parse(text)?;
        if config.anonymous != self.anonymous {
            return Err("anonymous: Forbidden: changed from initial configuration file".into());
        }
        let issuers = self.settings.issuers(&config)?;
        for issuer in &issuers {
            let mut tries = 1;
            while let Err(why) = issuer.provider.ready().await {
                if tries == READY_TRIES {
                    return Err(format!("oidc: authenticator for issuer {} is not healthy: {why}", go_quote(&issuer.url)));
                }
                tries += 1;
                tokio::time::sleep(READY_PAUSE).await;
            }
        }
        self.issuers.store(Arc::new(issuers));
        Ok(())
    }
}

#[async_trait]
impl Authenticator for JwtAuthenticators {
    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        let Some(parsed) = Jws::parse(token) else { return Ok(None) };
        let issuers = self.issuers.load_full();
        let Some(issuer) = issuers.iter().find(|i| i.url == parsed.issuer()) else { return Ok(None) };
        let common = common_audiences(&self.settings.audiences, audiences);
        if common.is_empty() && !self.settings.audiences.is_empty() {
            return Ok(None);
        }
        issuer.user(&parsed).await.map(|user| Some((user, common))).map_err(Status::unauthorized)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn audiences_and_times_are_checked() {
        let wanted = ["x".to_owned(), "y".to_owned()];
        assert_eq!(check_audience(&json!({"aud": "x"}), &wanted), Ok(()));
        assert_eq!(check_audience(&json!({"aud": ["z", "y"]}), &wanted), Ok(()));
        assert_eq!(check_audience(&json!({"aud": ["z"]}), &wanted), Err("oidc: expected audience in [\"x\" \"y\"] got [\"z\"]".into()));
        assert_eq!(check_audience(&json!({}), &wanted[..1]), Err("oidc: expected audience \"x\" got []".into()));
        assert_eq!(check_times(&json!({"exp": 100}), 100), Ok(()));
        assert!(check_times(&json!({"exp": 99}), 100).is_err() && check_times(&json!({}), 100).is_err());
        assert_eq!(check_times(&json!({"exp": 1000, "nbf": 160.0}), 100), Ok(()));
        assert!(check_times(&json!({"exp": 1000, "nbf": 161}), 100).is_err());
    }

    #[test]
    fn a_token_tells_where_its_claims_are() {
        let at = |claims: Value| elsewhere(&claims, "groups").map(|s| s.cloned());
        let source = json!({"endpoint": "https://b.example/groups", "access_token": "t"});
        assert_eq!(at(json!({"_claim_names": {"groups": "s"}, "_claim_sources": {"s": source}})), Ok(Some(source.clone())));
        assert_eq!(at(json!({})), Ok(None));
        assert_eq!(at(json!({"_claim_names": {"other": "s"}, "_claim_sources": {}})), Ok(None));
        assert!(at(json!({"_claim_names": {"groups": "s"}})).is_err());
        assert_eq!(at(json!({"_claim_names": {"groups": "s"}, "_claim_sources": {"s": {"JWT": "x"}}})), Ok(None));
    }
}
