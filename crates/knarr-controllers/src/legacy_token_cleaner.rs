//! Tokens in Secrets that were made for accounts by old releases, and that nobody has used for a year: first they are marked
//! invalid, and after another year they are deleted. Upstream: `pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`.

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use knarr_client::{Client, Deletion, Informer, Item, Outcome, Patch};
use knarr_core::api::Options;
use knarr_core::clock::Env;
use knarr_core::{Result, json};

use crate::context::ControllerContext;
use crate::serviceaccount_tokens::{self, TokenSecret};

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Says since when uses are written down.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
/// Labels count days, so that looking once a day is enough.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// There is one key.
pub fn start(context: &ControllerContext) {
    let cleaner = Arc::new(Cleaner {
        client: context.client("legacy-service-account-token-cleaner"),
        manager: context.manager.clone(),
        secrets: serviceaccount_tokens::informer(context),
        period: SignedDuration::try_from(context.config.unused_token_period).unwrap_or(SignedDuration::MAX),
        env: context.env.clone(),
    });
    let queue = context.queue("legacy_service_account_token_cleaner");
    queue.add(());
    context.run("legacy-service-account-token-cleaner", queue, move |()| {
        let cleaner = cleaner.clone();
        async move { cleaner.look().await.map(|()| Outcome::After(INTERVAL)) }
    });
}

struct Cleaner {
    client: Client,
    /// Reads what the informers of the others do not keep.
    manager: Client,
    secrets: Informer<TokenSecret>,
    period: SignedDuration,
    env: Env,
}

/// What is to become of a token.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Mark,
    Delete,
}

impl Cleaner {
    async fn look(&self) -> Result<()> {
        let now = self.env.now();
        let Some(limit) = now.checked_sub(self.period).ok() else { return Ok(()) };
        if !self.tracked_since(limit).await? {
            return Ok(());
        }
        for item in self.secrets.store().list() {
            let secret: Secret = item.typed()?;
            let verdict = judge(&secret, limit);
            if verdict == Verdict::Keep || !self.made_by_the_cluster(&item).await? || self.mounted(&item).await? {
                continue;
            }
            self.act(&item, &secret, &verdict, now).await?;
        }
        Ok(())
    }

    async fn act(&self, item: &Item<TokenSecret>, secret: &Secret, verdict: &Verdict, now: Timestamp) -> Result<()> {
        let (secrets, name) = (self.client.within::<Secret>(item.key.namespace()), item.key.name());
        let done = if *verdict == Verdict::Mark {
            let patch = json!({"metadata": {"uid": item.view.uid, "labels": {INVALID_SINCE: date(now)}}});
            secrets.dynamic().patch(name, Patch::merge(patch)).await.map(drop)
        } else {
            let unchanged = Deletion { resource_version: secret.metadata.resource_version.clone(), ..Deletion::default() };
            secrets.delete(name, &unchanged).await.map(drop)
        };
        match done {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => other,
        }
    }

    /// Whether uses have been written down since the day before `limit`.
    async fn tracked_since(&self, limit: Timestamp) -> Result<bool> {
        let map = self.client.within::<ConfigMap>("kube-system").find(TRACKING).await?;
        let since = map.and_then(|m| m.data).and_then(|data| data.get("since")?.parse::<Date>().ok());
        let next_day = since.and_then(|day| day.tomorrow().ok()).and_then(|day| day.to_zoned(TimeZone::UTC).ok());
        Ok(next_day.is_some_and(|day| day.timestamp() <= limit))
    }

    /// An account lists the Secrets that the cluster made for it; what a person made is that person's affair.
    async fn made_by_the_cluster(&self, item: &Item<TokenSecret>) -> Result<bool> {
        let account = self.manager.within::<ServiceAccount>(item.key.namespace()).find(&item.view.account).await?;
        Ok(account.is_some_and(|a| {
            item.view.is_of(&item.view.account, a.metadata.uid.as_deref().unwrap_or_default())
                && a.secrets.iter().flatten().any(|s| s.name.as_deref() == Some(item.key.name()))
        }))
    }

    async fn mounted(&self, item: &Item<TokenSecret>) -> Result<bool> {
        let (pods, _) = self.manager.within::<Pod>(item.key.namespace()).list(&Options::default()).await?;
        Ok(pods.iter().any(|pod| mounts(pod, item.key.name())))
    }
}

fn mounts(pod: &Pod, secret: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = spec.volumes.iter().flatten();
    let by_volume = volumes.clone().filter_map(|v| v.secret.as_ref()?.secret_name.as_deref());
    let by_projection = volumes.filter_map(|v| v.projected.as_ref()?.sources.as_ref()).flatten().filter_map(|s| Some(s.secret.as_ref()?.name.as_str()));
    let pulls = spec.image_pull_secrets.iter().flatten().map(|s| s.name.as_str());
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let by_container = containers.flat_map(|c| {
        let variables = c.env.iter().flatten().filter_map(|e| Some(e.value_from.as_ref()?.secret_key_ref.as_ref()?.name.as_str()));
        variables.chain(c.env_from.iter().flatten().filter_map(|e| Some(e.secret_ref.as_ref()?.name.as_str())))
    });
    by_volume.chain(by_projection).chain(pulls).chain(by_container).any(|name| name == secret)
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// Upstream: `evaluateSATokens`, for one Secret. A label that is no date cannot be judged.
fn judge(secret: &Secret, limit: Timestamp) -> Verdict {
    let label = |key: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let is_date = |text: &String| text.parse::<Date>().is_ok();
    let last_day = date(limit);
    let young = secret.metadata.creation_timestamp.as_ref().is_none_or(|at| at.0 >= limit);
    let used = label(LAST_USED).is_some_and(|day| !is_date(day) || *day >= last_day);
    if young || used || secret.metadata.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    match label(INVALID_SINCE).filter(|day| is_date(day)) {
        None => Verdict::Mark,
        Some(day) if *day >= last_day => Verdict::Keep,
        Some(_) => Verdict::Delete,
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::Value;

    use super::*;
    use crate::context::testing::Harness;

    fn secret(created: &str, labels: Value) -> Secret {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Secret", "type": serviceaccount_tokens::TYPE, "metadata": {"name": "s", "namespace": "a",
            "creationTimestamp": created, "labels": labels, "annotations": {"kubernetes.io/service-account.name": "web"}}}))
        .unwrap()
    }

    #[test]
    fn a_token_is_marked_first_and_deleted_later() {
        let limit = "2025-06-01T12:00:00Z".parse().unwrap();
        let judge = |created: &str, labels: Value| super::judge(&secret(created, labels), limit);
        let old = "2020-01-01T00:00:00Z";
        assert_eq!(judge(old, json!({})), Verdict::Mark);
        assert_eq!(judge("2025-07-01T00:00:00Z", json!({})), Verdict::Keep);
        assert_eq!(judge(old, json!({LAST_USED: "2025-06-01"})), Verdict::Keep);
        assert_eq!(judge(old, json!({LAST_USED: "yesterday"})), Verdict::Keep);
        assert_eq!(judge(old, json!({LAST_USED: "2025-05-31", INVALID_SINCE: "soon"})), Verdict::Mark);
        assert_eq!(judge(old, json!({INVALID_SINCE: "2025-06-01"})), Verdict::Keep);
        assert_eq!(judge(old, json!({INVALID_SINCE: "2025-05-31"})), Verdict::Delete);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_cluster_made_and_nobody_uses_is_marked_once_uses_are_known_for_long_enough() {
        let harness = Harness::new();
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "namespace": "a"}, "secrets": [{"name": "s"}]});
        harness.api.seed(&serde_json::from_value::<ServiceAccount>(account).unwrap());
        harness.api.seed(&secret("2020-01-01T00:00:00Z", json!({})));
        let mut own = secret("2020-01-01T00:00:00Z", json!({}));
        own.metadata.name = Some("own".into());
        harness.api.seed(&own);
        let since = date(harness.context.env.now() - SignedDuration::from_hours(364 * 24));
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": TRACKING, "namespace": "kube-system"}, "data": {"since": since}});
        harness.api.seed(&serde_json::from_value::<ConfigMap>(map).unwrap());
        start(&harness.context);
        let marked = |name: &str| harness.api.read::<Secret>("a", name).unwrap().metadata.labels.unwrap_or_default().contains_key(INVALID_SINCE);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!marked("s"));
        tokio::time::sleep(Duration::from_secs(2 * 24 * 3600)).await;
        assert!(marked("s") && !marked("own"));
    }
}
