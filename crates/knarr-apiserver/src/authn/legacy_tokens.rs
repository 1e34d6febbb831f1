//! Tokens out of Secrets of type `kubernetes.io/service-account-token`: without an end, good while the Secret holds them. Whoever
//! uses one leaves a date at the Secret, so that those which nobody needs can be found
//! (`k8s.io/kubernetes/pkg/serviceaccount/legacy.go`, KEP-2799).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use knarr_core::api::{PatchType, Request, Transport, Verb};
use knarr_core::{GroupVersionResource, Result, Value, ValueExt, json};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::service_account::Found;

/// Issuer of these tokens, whatever the cluster's own is.
pub const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Where it stands since when uses are counted.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// Uses that wait for being written down. One that finds no place is told by the next request.
const WAITING_MAX: usize = 64;

/// What such a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    pub iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
    pub sub: String,
}

impl LegacyClaims {
    /// The token of an account in the Secret of that name (upstream: `LegacyClaims`).
    pub fn new(namespace: &str, account: &str, uid: &str, secret: &str) -> Self {
        Self {
            iss: ISSUER.into(),
            namespace: namespace.into(),
            secret: secret.into(),
            account: account.into(),
            uid: uid.into(),
            sub: subject(namespace, account),
        }
    }

    /// Whether all is there and its parts agree.
    pub fn are_complete(&self) -> bool {
        let all_there = [&self.namespace, &self.secret, &self.account, &self.uid].iter().all(|text| !text.is_empty());
        all_there && self.sub == subject(&self.namespace, &self.account)
    }

    /// Whether the Secret still holds the token and the account is the one that it is for (upstream: `legacyValidator`).
    pub fn holds(&self, token: &str, secret: &Value, account: &Found) -> bool {
        let stored = secret.str_at(&["data", "token"]).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
        self.are_complete()
            && secret.at(&["metadata", "deletionTimestamp"]).is_none()
            && equal(&stored, token.as_bytes())
            && account.deleted.is_none()
            && account.uid == self.uid
    }
}

fn subject(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

/// In a time that tells nothing of where they differ: only their hashes are compared.
pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    let hash = |text| ring::digest::digest(&ring::digest::SHA256, text);
    hash(a).as_ref() == hash(b).as_ref()
}

/// Since when the token counts as abandoned, if it does.
pub fn invalid_since(secret: &Value) -> Option<&str> {
    secret.str_at(&["metadata", "labels", INVALID_SINCE]).filter(|since| !since.is_empty())
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// A use of the token in a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The day, as `2026-01-31`.
    pub day: String,
}

/// Takes word of uses. The default one forgets them.
#[derive(Clone, Default)]
pub struct Uses(Option<mpsc::Sender<Use>>);

impl Uses {
    /// One that is listened to.
    pub fn channel() -> (Self, mpsc::Receiver<Use>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(Some(sender)), receiver)
    }

    /// Tells of a use, unless the Secret knows already that it was used on this day.
    pub fn tell(&self, secret: &Value, now: Timestamp) {
        let Some(sender) = &self.0 else { return };
        if let Some(used) = new_use(secret, now)
            && let Err(error) = sender.try_send(used)
        {
            tracing::debug!(%error, "the use of a token is told later");
        }
    }
}

/// Tomorrow counts as today: another server's clock may be ahead.
fn new_use(secret: &Value, now: Timestamp) -> Option<Use> {
    let text = |field: &str| secret.str_at(&["metadata", field]).unwrap_or_default().to_owned();
    let known = secret.str_at(&["metadata", "labels", LAST_USED]);
    let (today, tomorrow) = (date(now), date(now + SignedDuration::from_hours(24)));
    let told = known == Some(&today) || known == Some(&tomorrow);
    (!told).then(|| Use { namespace: text("namespace"), name: text("name"), uid: text("uid"), day: today })
}

/// Writes the uses down, until nobody can tell of any more.
pub async fn write_down(mut uses: mpsc::Receiver<Use>, transport: Arc<dyn Transport>) {
    while let Some(used) = uses.recv().await {
        let mut patch = Request::new(Verb::Patch(PatchType::Merge), GroupVersionResource::new("", "v1", "secrets"));
        patch.body = Some(json!({"metadata": {"uid": used.uid, "labels": {LAST_USED: used.day}}}));
        (patch.namespace, patch.name) = (Some(used.namespace), Some(used.name));
        if let Err(error) = transport.call(patch).await {
            tracing::warn!(%error, "a token's day of use could not be written down");
        }
    }
}

/// Says since when uses are written down, where the cleaner of unused tokens looks for it.
///
/// # Errors
/// What the pipeline says.
pub async fn say_since(transport: &Arc<dyn Transport>, now: Timestamp) -> Result<()> {
    let maps = GroupVersionResource::new("", "v1", "configmaps");
    let mut create = Request::new(Verb::Create, maps);
    create.namespace = Some("kube-system".into());
    create.body =
        Some(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING, "namespace": "kube-system"}, "data": {"since": date(now)}}));
    match transport.call(create).await {
        Err(error) if error.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_told_once_a_day() {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let used = |day: &str| new_use(&json!({"metadata": {"name": "s", "labels": {LAST_USED: day}}}), now).map(|u| u.day);
        assert_eq!(used("2026-01-30").as_deref(), Some("2026-01-31"));
        assert_eq!((used("2026-01-31"), used("2026-02-01")), (None, None));
        assert_eq!(new_use(&json!({"metadata": {"name": "s"}}), now).map(|u| u.name).as_deref(), Some("s"));
    }
}
