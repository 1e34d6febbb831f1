//! Service account tokens for pods: asked for once, used until four fifths of their life are over (upstream:
//! `pkg/kubelet/token/token_manager.go`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use knarr_client::Client;
use knarr_core::clock::Env;
use parking_lot::Mutex;

use crate::pod::spec::PodExt;

/// A token is renewed at this age, however long it would still live.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Renewals are spread over this time, so that pods of one moment do not ask at one moment.
const JITTER_SECONDS_MAX: u64 = 10;
/// A failed renewal of a token that is still good is tried again after this time.
const RETRY: Duration = Duration::from_secs(60);
const DEFAULT_LIFE_SECONDS: i64 = 3600;

#[derive(Clone)]
struct Token {
    text: String,
    expires: Timestamp,
    renew_at: Timestamp,
}

/// Pod uid, audience, seconds of life.
type Key = (String, String, i64);

pub struct Tokens {
    client: Client,
    env: Env,
    held: Mutex<BTreeMap<Key, Token>>,
}

impl Tokens {
    pub fn new(client: Client, env: Env) -> Self {
        Self { client, env, held: Mutex::default() }
    }

    /// A good token, and when it should be asked for again.
    ///
    /// # Errors
    /// There is no good token and the API gave none.
    pub async fn get(&self, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<(String, Timestamp), String> {
        let life = wanted.expiration_seconds.unwrap_or(DEFAULT_LIFE_SECONDS);
        let audience = wanted.audience.clone().unwrap_or_default();
        let key = (pod.uid().to_owned(), audience.clone(), life);
        let held = self.held.lock().get(&key).cloned();
        let now = self.env.now();
        if let Some(token) = held.as_ref().filter(|t| now < t.renew_at) {
            return Ok((token.text.clone(), token.renew_at));
        }
        match (self.request(pod, audience, life).await, held) {
            (Ok(token), _) => {
                self.held.lock().insert(key, token.clone());
                Ok((token.text, token.renew_at))
            }
            (Err(error), Some(old)) if now < old.expires => {
                tracing::warn!(pod = pod.described(), %error, "a token could not be renewed; the old one is still good");
                Ok((old.text, now + RETRY))
            }
            (Err(error), _) => Err(format!("failed to fetch token: {error}")),
        }
    }

    async fn request(&self, pod: &Pod, audience: String, life: i64) -> Result<Token, knarr_core::Status> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: (!audience.is_empty()).then(|| vec![audience]),
                expiration_seconds: Some(life),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.name().into()),
                    uid: Some(pod.uid().into()),
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let account = pod.spec().service_account_name.as_deref().unwrap_or("default");
        let reply = self.client.create_token(pod.namespace(), account, &request).await?;
        let life = reply.spec.and_then(|s| s.expiration_seconds).unwrap_or(life);
        let status = reply.status.unwrap_or_default();
        let now = self.env.now();
        let expires = status.expiration_timestamp.map_or(now + SignedDuration::from_secs(life), |t| t.0);
        Ok(Token { text: status.token.unwrap_or_default(), expires, renew_at: self.renew_at(expires, life) })
    }

    fn renew_at(&self, expires: Timestamp, life: i64) -> Timestamp {
        let jitter = SignedDuration::from_secs(i64::try_from(self.env.below(JITTER_SECONDS_MAX)).unwrap_or_default());
        let issued = expires - SignedDuration::from_secs(life);
        (expires - SignedDuration::from_secs(life / 5)).min(issued + AGE_MAX) - jitter
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.held.lock().retain(|(uid, ..), _| uid != pod_uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod_of;
    use knarr_client::fake::FakeApi;
    use knarr_core::json;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_asked_for_again_after_four_fifths_of_its_life() {
        let env = Env::simulated(1, Timestamp::from_second(1000).unwrap());
        let api = FakeApi::new(env.clone());
        let tokens = Tokens::new(api.client(), env);
        let pod = pod_of(json!({"containers": []}));
        let wanted = ServiceAccountTokenProjection { expiration_seconds: Some(1000), path: "token".into(), ..Default::default() };
        let (text, renew_at) = tokens.get(&pod, &wanted).await.unwrap();
        assert_eq!(text, "a-token");
        assert!((1790..=1800).contains(&renew_at.as_second()), "{renew_at}");
        tokens.get(&pod, &wanted).await.unwrap();
        assert_eq!(api.log().len(), 1);
        tokio::time::sleep(Duration::from_secs(801)).await;
        tokens.get(&pod, &wanted).await.unwrap();
        assert_eq!(api.log().len(), 2);
    }
}
