//! Bearer tokens that a webhook knows (`--authentication-token-webhook-config-file`; upstream:
//! `apiserver/plugin/pkg/authenticator/token/webhook`). Answers are kept, good and bad ones alike; failures are not.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use knarr_core::{Result, Status, Value, ValueExt, json};
use ring::hmac;

use super::{Authenticator, User, common_audiences};
use crate::cached::Cached;
use crate::outside::ReviewHook;

/// Tokens that are remembered (upstream: 32 stripes of 1,024).
const TOKENS_MAX: usize = 32 * 1024;

type Known = Option<(User, Vec<String>)>;

pub struct WebhookTokens {
    hook: ReviewHook,
    /// `v1` or `v1beta1`.
    version: &'static str,
    /// Audiences of the API server: tokens of webhooks that know no audiences are for these.
    audiences: Vec<String>,
    cached: Cached<[u8; 32], std::result::Result<Known, String>>,
    time: Duration,
    /// Tokens stand in the memory as what this key makes of them, which nobody can foretell.
    key: hmac::Key,
}

impl WebhookTokens {
    /// # Errors
    /// A version that webhooks do not speak.
    pub fn new(hook: ReviewHook, version: &str, audiences: Vec<String>, cache_ttl: Duration) -> std::result::Result<Self, String> {
        let version = match version {
            "v1" => "v1",
            "v1beta1" => "v1beta1",
            other => return Err(format!("unsupported authentication webhook version {other:?}, supported versions are \"v1\", \"v1beta1\"")),
        };
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).map_err(|e| e.to_string())?;
        Ok(Self { hook, version, audiences, cached: Cached::new(TOKENS_MAX), time: cache_ttl, key })
    }

    fn cache_key(&self, token: &str, audiences: &[String]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for text in std::iter::once(token).chain(audiences.iter().map(String::as_str)) {
            context.update(&(text.len() as u64).to_be_bytes());
            context.update(text.as_bytes());
        }
        let tag = context.sign();
        std::array::from_fn(|i| tag.as_ref()[i])
    }

    async fn ask(&self, token: &str, wanted: &[String]) -> std::result::Result<Known, String> {
        let mut review = json!({"kind": "TokenReview", "apiVersion": format!("authentication.k8s.io/{}", self.version), "metadata": {}, "spec": {"token": token}, "status": {"user": {}}});
        if !wanted.is_empty() {
            review.set(&["spec", "audiences"], wanted.to_vec());
        }
        let answer = self.hook.review(&review).await.inspect_err(|why| tracing::error!(why, "the token webhook gave no answer"))?;
        told(answer.at(&["status"]).unwrap_or(&Value::Null), wanted, &self.audiences)
    }
}

/// What a status says, for these audiences. `own` are meant where it names none.
fn told(status: &Value, wanted: &[String], own: &[String]) -> std::result::Result<Known, String> {
    let texts = |value: &Value, key: &str| value.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let theirs = texts(status, "audiences");
    let audiences = if wanted.is_empty() { Vec::new() } else { common_audiences(wanted, if theirs.is_empty() { own } else { &theirs }) };
    if audiences.is_empty() && !wanted.is_empty() {
        return Ok(None);
    }
    if status.at(&["authenticated"]) != Some(&Value::Bool(true)) {
        return match status.str_at(&["error"]) {
            Some(error) if !error.is_empty() => Err(error.to_owned()),
            _ => Ok(None),
        };
    }
    let user = status.at(&["user"]).cloned().unwrap_or_default();
    let text = |key: &str| user.str_at(&[key]).unwrap_or_default().to_owned();
    let extra: BTreeMap<String, Vec<String>> =
        user.at(&["extra"]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| (k.clone(), texts(&user["extra"], k))).collect();
    Ok(Some((User { name: text("username"), uid: text("uid"), groups: texts(&user, "groups"), extra }, audiences)))
}

#[async_trait]
impl Authenticator for WebhookTokens {
    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let ask = async || {
            let known = self.ask(token, wanted).await;
            let time = if known.is_ok() { self.time } else { Duration::ZERO };
            (known, time)
        };
        self.cached.get(&self.cache_key(token, wanted), ask).await.map_err(Status::unauthorized)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_the_user_and_whom_the_token_is_for() {
        let own = ["api".to_owned()];
        let user = json!({"username": "jane", "uid": "7", "groups": ["a"], "extra": {"k": ["v"]}});
        let good = |more: Value| {
            let mut status = json!({"authenticated": true, "user": user});
            more.as_object().unwrap().iter().for_each(|(k, v)| status.set(&[k], v.clone()));
            status
        };
        let (jane, audiences) = told(&good(json!({})), &own, &own).unwrap().unwrap();
        assert_eq!(
            (jane.name.as_str(), jane.uid.as_str(), jane.groups, &jane.extra["k"][..], audiences),
            ("jane", "7", vec!["a".to_owned()], &["v".to_owned()][..], own.to_vec())
        );
        assert_eq!(told(&good(json!({"audiences": ["x"]})), &own, &own), Ok(None));
        assert_eq!(told(&good(json!({})), &["x".to_owned()], &own), Ok(None));
        assert_eq!(told(&good(json!({"audiences": ["x", "y"]})), &["x".to_owned()], &own).unwrap().unwrap().1, ["x"]);
        assert_eq!(told(&json!({"authenticated": false}), &own, &own), Ok(None));
        assert_eq!(told(&json!({"error": "no such token"}), &own, &own), Err("no such token".into()));
    }
}
