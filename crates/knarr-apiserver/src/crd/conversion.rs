//! Custom resources from one version to another: by the name of the version alone, or by asking a webhook
//! (upstream: `apiextensions-apiserver/pkg/apiserver/conversion`).

use std::{future::Future, sync::Arc};

use knarr_core::{GroupVersionKind, Result, Status, Value, ValueExt, field, json};
use tokio::runtime::Handle;

use crate::{admission::Objects, hook::Hook};

/// How objects of one definition are converted.
pub struct Converter {
    strategy: Strategy,
    objects: Arc<dyn Objects>,
}

enum Strategy {
    /// Versions differ in their names alone.
    None,
    Webhook {
        hook: Hook,
        /// The version of the review that it speaks, absent when it speaks none of ours.
        version: Option<&'static str>,
    },
}

/// Versions of `ConversionReview` that we speak.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

impl Converter {
    /// Reads `spec.conversion` of a definition.
    pub fn new(definition: &Value, objects: Arc<dyn Objects>) -> Self {
        let strategy = match definition.at(&["spec", "conversion", "webhook"]) {
            Some(webhook) if definition.str_at(&["spec", "conversion", "strategy"]) == Some("Webhook") => Strategy::Webhook {
                hook: Hook::new(webhook.at(&["clientConfig"]).unwrap_or(&Value::Null)),
                version: webhook.list_at(&["conversionReviewVersions"]).iter().find_map(|v| REVIEW_VERSIONS.into_iter().find(|ours| v == ours)),
            },
            _ => Strategy::None,
        };
        Self { strategy, objects }
    }

    pub fn asks_a_webhook(&self) -> bool {
        matches!(self.strategy, Strategy::Webhook { .. })
    }

    /// Brings objects of any versions into one. Those that are of it already stay as they are.
    ///
    /// # Errors
    /// `InternalError`, when the webhook does not answer or answers wrongly.
    pub async fn convert(&self, mut objects: Vec<Value>, to: &GroupVersionKind) -> Result<Vec<Value>> {
        let wanted = to.api_version();
        let others: Vec<usize> = (0..objects.len()).filter(|i| objects[*i].str_at(&["apiVersion"]) != Some(&wanted)).collect();
        match &self.strategy {
            _ if others.is_empty() => {}
            Strategy::None => others.iter().for_each(|i| objects[*i].set(&["apiVersion"], wanted.as_str())),
            Strategy::Webhook { hook, version } => {
                let originals: Vec<&Value> = others.iter().map(|i| &objects[*i]).collect();
                let converted = self.ask(hook, *version, &originals, &wanted).await.map_err(Status::internal)?;
                others.into_iter().zip(converted).for_each(|(i, object)| objects[i] = object);
            }
        }
        Ok(objects)
    }

    /// The same for one object, for callers that cannot wait otherwise: the thread does, and hands its other work on.
    ///
    /// # Errors
    /// As [`Self::convert`].
    pub fn convert_one(&self, value: Value, to: &GroupVersionKind) -> Result<Value> {
        let work = self.convert(vec![value], to);
        let mut all = if self.asks_a_webhook() { wait(work) } else { now(work) }?;
        all.pop().ok_or_else(|| Status::internal("a conversion gave no object"))
    }

    async fn ask(&self, hook: &Hook, version: Option<&str>, originals: &[&Value], wanted: &str) -> Result<Vec<Value>, String> {
        let version = version.ok_or("no supported conversion review versions")?;
        let kind = shown_kind(originals[0]);
        let uid = uuid::Uuid::new_v4().to_string();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": originals},
        });
        let failed = |why: String| format!("conversion webhook for {kind} failed: {why}");
        let answer = hook.post(&*self.objects, &review, None).await.map_err(failed)?;
        let converted = answered(&answer, version, &uid).map_err(failed)?;
        if converted.len() != originals.len() {
            return Err(format!("conversion webhook for {kind} returned {} objects, expected {}", converted.len(), originals.len()));
        }
        let checked = converted.iter().zip(originals).enumerate().map(|(i, (new, old))| {
            restored(old, new.clone(), wanted).map_err(|why| format!("conversion webhook for {kind} returned invalid converted object at index {i}: {why}"))
        });
        checked.collect()
    }
}

/// Waits for a future within code that is not asynchronous. Needs a runtime of several threads.
fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| Handle::current().block_on(work))
}

/// The result of a future that waits for nothing.
fn now<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    futures::FutureExt::now_or_never(work).unwrap_or_else(|| Err(Status::internal("a conversion that asks nobody waited")))
}

/// `stable.example.com/v1, Kind=CronTab`, as Go prints it.
fn shown_kind(object: &Value) -> String {
    let text = |key: &str| object.str_at(&[key]).unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// The objects of a good answer.
fn answered<'a>(answer: &'a Value, version: &str, uid: &str) -> Result<&'a [Value], String> {
    let response = answer.at(&["response"]).ok_or("no response provided")?;
    if version == "v1" {
        if (answer.str_at(&["apiVersion"]), answer.str_at(&["kind"])) != (Some("apiextensions.k8s.io/v1"), Some("ConversionReview")) {
            return Err(format!("expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {}", shown_kind(answer)));
        }
        let found = response.str_at(&["uid"]).unwrap_or_default();
        if found != uid {
            return Err(format!("expected response.uid={}, got {}", field::go_quote(uid), field::go_quote(found)));
        }
    }
    let text = |key: &str| response.str_at(&["result", key]).unwrap_or_default();
    match (text("status"), text("message")) {
        ("Success", _) => Ok(response.list_at(&["convertedObjects"])),
        (status, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => Err(message.to_owned()),
    }
}

/// The converted object with the metadata of the original: labels and annotations alone may change.
fn restored(old: &Value, mut new: Value, wanted: &str) -> Result<Value, String> {
    let text = |object: &Value, path: &[&str]| object.str_at(path).unwrap_or_default().to_owned();
    let version = text(&new, &["apiVersion"]);
    if version != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {version})"));
    }
    if text(&new, &["kind"]) != text(old, &["kind"]) {
        return Err(format!("invalid kind (expected {}, received {})", text(old, &["kind"]), text(&new, &["kind"])));
    }
    for (path, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (before, after) = (text(old, &["metadata", path]), text(&new, &["metadata", path]));
        if before != after {
            return Err(format!("must have the same {shown}: {before} != {after}"));
        }
    }
    let changed = new.remove(&["metadata"]).ok_or("missing metadata in converted object")?;
    let mut metadata = old.at(&["metadata"]).cloned().unwrap_or_else(|| json!({}));
    for part in ["labels", "annotations"] {
        metadata.remove(&[part]);
        if let Some(map) = changed.at(&[part]) {
            let map = map.as_object().filter(|m| m.values().all(Value::is_string)).ok_or_else(|| format!("invalid {part} in converted object"))?;
            metadata.set(&[part], map.clone());
        }
    }
    new.set(&["metadata"], metadata);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_and_annotations_may_change_on_the_way() {
        let old = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "1", "generation": 3, "labels": {"x": "1"}}, "spec": 1});
        let new = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "1", "generation": 9, "annotations": {"y": "2"}}, "spec": 2});
        let wanted = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "1", "generation": 3, "annotations": {"y": "2"}}, "spec": 2});
        assert_eq!(restored(&old, new.clone(), "g/v2"), Ok(wanted));
        let mut other = new.clone();
        other.set(&["metadata", "uid"], "2");
        assert_eq!(restored(&old, other, "g/v2"), Err("must have the same UID: 1 != 2".into()));
        assert_eq!(restored(&old, new, "g/v3"), Err("invalid groupVersion (expected g/v3, received g/v2)".into()));
    }

    #[test]
    fn an_answer_must_be_to_our_question() {
        let answer = |uid: &str, result: Value| json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": {"uid": uid, "result": result, "convertedObjects": [1]}});
        assert_eq!(answered(&answer("u", json!({"status": "Success"})), "v1", "u").map(<[Value]>::len), Ok(1));
        assert_eq!(answered(&answer("w", json!({"status": "Success"})), "v1", "u"), Err("expected response.uid=\"u\", got \"w\"".into()));
        assert_eq!(answered(&answer("u", json!({"status": "Failed", "message": "no"})), "v1", "u"), Err("no".into()));
        assert_eq!(answered(&answer("u", json!({})), "v1", "u"), Err("response.result.status was '', not 'Success'".into()));
    }
}
