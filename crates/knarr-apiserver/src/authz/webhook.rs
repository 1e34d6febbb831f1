//! Somebody else decides: a SubjectAccessReview is sent to a webhook, unless its match conditions say that it has nothing to say
//! (upstream: `apiserver/plugin/pkg/authorizer/webhook`).

use std::time::Duration;

use futures::FutureExt;
use knarr_cel::authorization::Conditions;
use knarr_core::{
    Value, ValueExt, json,
    selector::{FieldSelector, LabelSelector, Operator},
};

use super::{Attributes, Authorizer, Decision, Opinion, Rules, Verdict};
use crate::{authn::User, cached::Cached, outside::ReviewHook};

/// Answers that are remembered (upstream: 8,192).
const ANSWERS_MAX: usize = 8192;
/// What the client chose of a question may be this long for its answer to be remembered.
const CHOSEN_BYTES_MAX: usize = 10_000;

/// How one webhook is asked.
pub struct Settings {
    pub name: String,
    /// `v1` or `v1beta1`.
    pub version: &'static str,
    /// What counts when it cannot be asked: no opinion, or a denial.
    pub on_error: Decision,
    pub conditions: Conditions,
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
}

pub struct Webhook {
    settings: Settings,
    hook: ReviewHook,
    cached: Cached<String, Result<Verdict, String>>,
}

impl Webhook {
    pub fn new(settings: Settings, hook: ReviewHook) -> Self {
        Self { settings, hook, cached: Cached::new(ANSWERS_MAX) }
    }

    fn failed(&self, why: String) -> Verdict {
        Verdict { decision: self.settings.on_error, reason: String::new(), error: Some(why) }
    }

    async fn ask(&self, attributes: &Attributes, spec: Value) -> Verdict {
        let spec = wire(spec, self.settings.version);
        let key = spec.to_string();
        let known = self
            .cached
            .get(&key, async || {
                let version = format!("authorization.k8s.io/{}", self.settings.version);
                let review = json!({"kind": "SubjectAccessReview", "apiVersion": version, "metadata": {}, "spec": spec, "status": {"allowed": false}});
                let verdict = self.hook.review(&review).await.map(|answer| told(answer.at(&["status"]).unwrap_or(&Value::Null)));
                let time = self.time(attributes, &verdict);
                (verdict, time)
            })
            .await;
        known.unwrap_or_else(|why| {
            tracing::error!(webhook = self.settings.name, why, "an authorization webhook gave no answer");
            self.failed(why)
        })
    }

    /// How long an answer holds.
    fn time(&self, a: &Attributes, verdict: &Result<Verdict, String>) -> Duration {
        let chosen: usize = [&a.namespace, &a.verb, &a.group, &a.version, &a.resource, &a.subresource, &a.name, &a.path].iter().map(|t| t.len()).sum();
        match verdict {
            Err(_) => Duration::ZERO,
            Ok(_) if chosen >= CHOSEN_BYTES_MAX => Duration::ZERO,
            Ok(verdict) if verdict.is_allowed() => self.settings.authorized_ttl,
            Ok(_) => self.settings.unauthorized_ttl,
        }
    }
}

impl Authorizer for Webhook {
    fn name(&self) -> &str {
        &self.settings.name
    }

    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Opinion<'a> {
        let spec = spec(attributes);
        match self.settings.conditions.hold_for(&spec) {
            Ok(true) => Opinion::Pending(self.ask(attributes, spec).boxed()),
            Ok(false) => Opinion::Formed(Verdict::default()),
            Err(why) => Opinion::Formed(self.failed(why)),
        }
    }

    fn may_wait(&self) -> bool {
        true
    }

    fn rules(&self, _: &User, _: &str) -> Rules {
        Rules { incomplete: true, error: "webhook authorizer does not support user rule resolution".into(), ..Rules::default() }
    }
}

/// The spec of a SubjectAccessReview with all its fields, empty ones too, as expressions see it.
fn spec(a: &Attributes) -> Value {
    let mut spec = json!({"user": a.user.name, "uid": a.user.uid, "groups": a.user.groups, "extra": a.user.extra});
    if !a.is_resource_request {
        spec.set(&["nonResourceAttributes"], json!({"path": a.path, "verb": a.verb}));
        return spec;
    }
    let mut resource = json!({
        "namespace": a.namespace, "verb": a.verb, "group": a.group, "version": a.version, "resource": a.resource,
        "subresource": a.subresource, "name": a.name,
    });
    for (key, requirements) in [("fieldSelector", fields(a.field_selector.as_deref())), ("labelSelector", labels(a.label_selector.as_deref()))] {
        if !requirements.is_empty() {
            resource.set(&[key], json!({"requirements": requirements}));
        }
    }
    spec.set(&["resourceAttributes"], resource);
    spec
}

/// What can be read of a selector: what cannot only makes the question broader.
fn fields(selector: Option<&str>) -> Vec<Value> {
    let terms = selector.and_then(|text| FieldSelector::parse(text).ok()).unwrap_or_default().terms;
    terms.iter().map(|t| json!({"key": t.field, "operator": if t.negated { "NotIn" } else { "In" }, "values": [t.value]})).collect()
}

fn labels(selector: Option<&str>) -> Vec<Value> {
    let all = selector.and_then(|text| LabelSelector::parse(text).ok()).unwrap_or_default().requirements;
    let one = |key: &str, operator: &str, values: &[String]| {
        let mut shown = json!({"key": key, "operator": operator});
        if !values.is_empty() {
            shown.set(&["values"], values.to_vec());
        }
        Some(shown)
    };
    let shown = all.iter().filter_map(|r| match r.operator {
        Operator::In => one(&r.key, "In", &r.values),
        Operator::NotIn => one(&r.key, "NotIn", &r.values),
        Operator::Exists => one(&r.key, "Exists", &[]),
        Operator::DoesNotExist => one(&r.key, "DoesNotExist", &[]),
        // The API has no words for these.
        Operator::GreaterThan | Operator::LessThan => None,
    });
    shown.collect()
}

/// The spec as it is sent: without what is empty, and in the words of the version.
fn wire(mut spec: Value, version: &str) -> Value {
    let is_empty = |v: &Value| match v {
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    for place in ["resourceAttributes", "nonResourceAttributes"] {
        if let Some(Value::Object(attributes)) = spec.get_mut(place) {
            attributes.retain(|_, v| !is_empty(v));
        }
    }
    if let Value::Object(all) = &mut spec {
        all.retain(|key, v| key.ends_with("Attributes") || !is_empty(v));
        if let Some(groups) = all.remove("groups") {
            all.insert(if version == "v1beta1" { "group" } else { "groups" }.into(), groups);
        }
    }
    spec
}

/// What a status says.
fn told(status: &Value) -> Verdict {
    let is = |key: &str| status.at(&[key]) == Some(&Value::Bool(true));
    let both = is("denied") && is("allowed");
    let decision = match (is("denied"), is("allowed")) {
        (true, _) => Decision::Deny,
        (false, true) => Decision::Allow,
        (false, false) => Decision::NoOpinion,
    };
    let error = both.then(|| "webhook subject access review returned both allow and deny response".to_owned());
    Verdict { decision, reason: status.str_at(&["reason"]).unwrap_or_default().to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_a_review() {
        let user = User { name: "jane".into(), groups: vec!["dev".into()], ..User::default() };
        let attributes = Attributes {
            user,
            verb: "list".into(),
            namespace: "a".into(),
            version: "v1".into(),
            resource: "pods".into(),
            is_resource_request: true,
            label_selector: Some("x in (a,b),!y".into()),
            field_selector: Some("spec.nodeName!=n1".into()),
            ..Attributes::default()
        };
        let full = spec(&attributes);
        assert_eq!(full["resourceAttributes"]["group"], json!(""));
        let sent = wire(full, "v1beta1");
        let wanted = json!({"user": "jane", "group": ["dev"], "resourceAttributes": {
            "namespace": "a", "verb": "list", "version": "v1", "resource": "pods",
            "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "NotIn", "values": ["n1"]}]},
            "labelSelector": {"requirements": [{"key": "x", "operator": "In", "values": ["a", "b"]}, {"key": "y", "operator": "DoesNotExist"}]},
        }});
        assert_eq!(sent, wanted);
        let path = spec(&Attributes { verb: "get".into(), path: "/livez".into(), ..Attributes::default() });
        assert_eq!(wire(path, "v1"), json!({"nonResourceAttributes": {"path": "/livez", "verb": "get"}}));
    }

    #[test]
    fn an_answer_allows_denies_or_leaves_it_to_others() {
        let decision = |status: Value| told(&status).decision;
        assert_eq!(decision(json!({"allowed": true})), Decision::Allow);
        assert_eq!(decision(json!({"allowed": false})), Decision::NoOpinion);
        assert_eq!(decision(json!({"allowed": false, "denied": true})), Decision::Deny);
        assert!(told(&json!({"allowed": true, "denied": true})).error.is_some());
        assert_eq!(decision(json!(null)), Decision::NoOpinion);
    }
}
