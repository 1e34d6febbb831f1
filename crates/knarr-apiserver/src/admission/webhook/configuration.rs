//! Webhook configurations, parsed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use knarr_cel::{
    admission::{Declarations, Evaluator, Input, MatchConditions, Matched},
    authz::Authorizer,
};
use knarr_core::{GroupResource, Result, Status, Value, ValueExt};

use crate::{
    admission::{
        Objects, Review,
        matching::{self, Asked, Criteria, Invocation},
    },
    hook::Hook,
};

/// One entry of `webhooks`.
pub struct Webhook {
    /// Tells it from all others: configuration, name, and the number among those of the same name.
    pub id: String,
    pub configuration: String,
    pub name: String,
    pub hook: Hook,
    pub criteria: Criteria,
    pub match_conditions: MatchConditions,
    pub ignores_failures: bool,
    pub timeout: Duration,
    pub may_be_reinvoked: bool,
    pub is_free_of_side_effects: bool,
    /// The version of `AdmissionReview` that it speaks, absent when it speaks none of ours.
    pub review_version: Option<&'static str>,
}

/// Versions of `AdmissionReview` that we speak.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

impl Webhook {
    fn new(configuration: &str, webhook: &Value, id: String) -> Self {
        let text = |key: &str| webhook.str_at(&[key]).unwrap_or_default();
        let seconds = webhook.i64_at(&["timeoutSeconds"]).and_then(|s| u64::try_from(s).ok()).unwrap_or(10);
        Self {
            id,
            configuration: configuration.to_owned(),
            name: text("name").to_owned(),
            hook: Hook::new(webhook.at(&["clientConfig"]).unwrap_or(&Value::Null)),
            criteria: Criteria::of_webhook(webhook),
            match_conditions: MatchConditions::new(webhook.list_at(&["matchConditions"]), Declarations { authorizer: true, ..Declarations::default() }),
            ignores_failures: text("failurePolicy") == "Ignore",
            timeout: Duration::from_secs(seconds),
            may_be_reinvoked: text("reinvocationPolicy") == "IfNeeded",
            is_free_of_side_effects: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
            review_version: webhook.list_at(&["admissionReviewVersions"]).iter().find_map(|v| REVIEW_VERSIONS.into_iter().find(|ours| v == ours)),
        }
    }
}

/// The webhooks of one configuration.
pub fn webhooks(configuration: &Value) -> Vec<Arc<Webhook>> {
    let name = configuration.str_at(&["metadata", "name"]).unwrap_or_default();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let one = |webhook| {
        let own = ValueExt::str_at(webhook, &["name"]).unwrap_or_default();
        let count = seen.entry(own).or_default();
        let id = format!("{name}/{own}/{count}");
        *count += 1;
        Arc::new(Webhook::new(name, webhook, id))
    };
    configuration.list_at(&["webhooks"]).iter().map(one).collect()
}

/// How a webhook is to be asked; `None` when it is not.
///
/// # Errors
/// When it is meant by its rules, but its selectors or conditions cannot be evaluated.
pub fn invocation(objects: &dyn Objects, review: &Review<'_>, hook: &Webhook) -> Result<Option<Invocation>> {
    let Some(invocation) = hook.criteria.matches(objects, review)? else { return Ok(None) };
    if !hook.match_conditions.is_empty() && !conditions_hold(review, hook, &invocation)? {
        return Ok(None);
    }
    Ok(Some(invocation))
}

/// What cannot be evaluated is refused, or passed over when failures are ignored.
fn conditions_hold(review: &Review<'_>, hook: &Webhook, invocation: &Invocation) -> Result<bool> {
    let (object, old_object) = matching::shown(review, &invocation.kind)?;
    let request = matching::request(review, invocation, "").unwrap_or_default();
    let authorizer = review.request.as_ref().map(|r| Asked { server: r.server, user: &review.attributes.user });
    let input = Input {
        object: &object,
        old_object: &old_object,
        decl: None,
        params: None,
        request: &request,
        namespace: &Value::Null,
        authorizer: authorizer.as_ref().map(|a| a as &dyn Authorizer),
    };
    match hook.match_conditions.matches(&Evaluator::new(&input, None)) {
        Ok(matched) => Ok(matched == Matched::Yes),
        Err(why) if hook.ignores_failures => {
            tracing::warn!(webhook = hook.name, why, "match conditions cannot be evaluated; the webhook is passed over");
            Ok(false)
        }
        Err(why) => {
            let a = review.attributes;
            Err(Status::forbidden(&GroupResource::new(&a.group, &a.resource), review.name(), why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn webhooks_of_one_name_are_told_apart() {
        let all = webhooks(&json!({"metadata": {"name": "c"}, "webhooks": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}));
        assert_eq!(all.iter().map(|w| w.id.as_str()).collect::<Vec<_>>(), ["c/a/0", "c/b/0", "c/a/1"]);
    }
}
