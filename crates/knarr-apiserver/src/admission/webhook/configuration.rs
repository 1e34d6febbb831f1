//! Webhook configurations, parsed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use knarr_cel::admission::{Declarations, MatchConditions};
use knarr_core::{Object, Value, ValueExt, selector::LabelSelector};
use parking_lot::Mutex;

use crate::{
    admission::{Objects, Operation},
    hook::Hook,
};

pub const GROUP: &str = "admissionregistration.k8s.io";

/// One line of `rules`.
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
}

/// One entry of `webhooks`.
pub struct Webhook {
    /// Tells it from all others: configuration, name, and the number among those of the same name.
    pub id: String,
    pub configuration: String,
    pub name: String,
    pub hook: Hook,
    pub rules: Vec<Rule>,
    pub matches_equivalent: bool,
    /// Absent where the selector cannot be read; the sentence that says so.
    pub namespace_selector: Result<LabelSelector, String>,
    pub object_selector: Result<LabelSelector, String>,
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

fn texts(value: &Value, key: &str) -> Vec<String> {
    value.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Rule {
    pub fn new(rule: &Value) -> Self {
        let split = |r: String| r.split_once('/').map_or((r.clone(), String::new()), |(r, s)| (r.to_owned(), s.to_owned()));
        Self {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: texts(rule, "resources").into_iter().map(split).collect(),
            scope: rule.str_at(&["scope"]).unwrap_or("*").to_owned(),
        }
    }

    /// Whether a request is meant (upstream: `rules.Matcher`).
    pub fn matches(&self, operation: Operation, resource: &knarr_core::GroupVersionResource, subresource: &str, namespace: &str) -> bool {
        let among = |list: &[String], wanted: &str| list.iter().any(|x| x == "*" || x == wanted);
        let is_namespace = resource.group.is_empty() && resource.version == "v1" && resource.resource == "namespaces";
        let in_scope = match self.scope.as_str() {
            "*" => true,
            "Namespaced" => !is_namespace && !namespace.is_empty(),
            "Cluster" => is_namespace || namespace.is_empty(),
            _ => false,
        };
        in_scope
            && among(&self.operations, operation.as_str())
            && among(&self.groups, &resource.group)
            && among(&self.versions, &resource.version)
            && self.resources.iter().any(|(r, s)| (r == "*" || *r == resource.resource) && (s == "*" || s == subresource))
    }
}

impl Webhook {
    fn new(configuration: &str, webhook: &Value, id: String) -> Self {
        let text = |key: &str| webhook.str_at(&[key]).unwrap_or_default();
        // An empty selector matches everything, an absent one as well: it is defaulted.
        let selector = |key: &str| webhook.at(&[key]).map_or_else(|| Ok(LabelSelector::everything()), |s| LabelSelector::from_value(Some(s)));
        let seconds = webhook.i64_at(&["timeoutSeconds"]).and_then(|s| u64::try_from(s).ok()).unwrap_or(10);
        Self {
            id,
            configuration: configuration.to_owned(),
            name: text("name").to_owned(),
            hook: Hook::new(webhook.at(&["clientConfig"]).unwrap_or(&Value::Null)),
            rules: webhook.list_at(&["rules"]).iter().map(Rule::new).collect(),
            matches_equivalent: text("matchPolicy") != "Exact",
            namespace_selector: selector("namespaceSelector"),
            object_selector: selector("objectSelector"),
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
fn webhooks(configuration: &Value) -> Vec<Arc<Webhook>> {
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

/// All webhooks of one kind of configuration, parsed anew when one of them changes.
pub struct Configurations {
    resource: &'static str,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By revision, which no two objects share.
    by_revision: HashMap<u64, Vec<Arc<Webhook>>>,
    all: Arc<Vec<Arc<Webhook>>>,
}

impl Configurations {
    pub fn new(resource: &'static str) -> Self {
        Self { resource, known: Mutex::default() }
    }

    /// The webhooks as they are configured now, by name of their configuration and in its order.
    pub fn current(&self, objects: &dyn Objects) -> Arc<Vec<Arc<Webhook>>> {
        let stored = objects.list(GROUP, self.resource, None);
        let mut known = self.known.lock();
        let is_known = stored.len() == known.by_revision.len() && stored.iter().all(|o| known.by_revision.contains_key(&o.resource_version));
        if !is_known {
            let mut old = std::mem::take(&mut known.by_revision);
            known.by_revision = stored.iter().map(|o| (o.resource_version, old.remove(&o.resource_version).unwrap_or_else(|| parse(o)))).collect();
            // The snapshot is in the order of names.
            known.all = Arc::new(stored.iter().flat_map(|o| known.by_revision.get(&o.resource_version).cloned().unwrap_or_default()).collect());
        }
        known.all.clone()
    }
}

fn parse(object: &Object) -> Vec<Arc<Webhook>> {
    match knarr_schema::codec::to_value(object) {
        Ok(configuration) => webhooks(&configuration),
        Err(error) => {
            tracing::error!(%error, "a webhook configuration cannot be read");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{GroupVersionResource, json};

    #[test]
    fn rules_name_operations_resources_and_scopes() {
        let rule = |scope: &str, resources: Value| {
            Rule::new(&json!({"operations": ["CREATE"], "apiGroups": ["", "apps"], "apiVersions": ["*"], "resources": resources, "scope": scope}))
        };
        let pods = GroupVersionResource::new("", "v1", "pods");
        let namespaces = GroupVersionResource::new("", "v1", "namespaces");
        let matches = |r: &Rule, gvr: &GroupVersionResource, sub: &str, namespace: &str| r.matches(Operation::Create, gvr, sub, namespace);
        assert!(matches(&rule("*", json!(["pods"])), &pods, "", "n"));
        assert!(!rule("*", json!(["pods"])).matches(Operation::Delete, &pods, "", "n"));
        assert!(!matches(&rule("*", json!(["pods"])), &pods, "status", "n"));
        assert!(matches(&rule("*", json!(["pods/*"])), &pods, "status", "n") && matches(&rule("*", json!(["pods/*"])), &pods, "", "n"));
        assert!(matches(&rule("*", json!(["*/status"])), &pods, "status", "n"));
        assert!(matches(&rule("*", json!(["*"])), &pods, "", "n") && !matches(&rule("*", json!(["*"])), &pods, "status", "n"));
        assert!(matches(&rule("Cluster", json!(["*"])), &namespaces, "", "n") && !matches(&rule("Namespaced", json!(["*"])), &namespaces, "", "n"));
        assert!(!matches(&rule("Cluster", json!(["*"])), &pods, "", "n"));
        assert!(!matches(&rule("*", json!(["*"])), &GroupVersionResource::new("batch", "v1", "jobs"), "", "n"));
    }

    #[test]
    fn webhooks_of_one_name_are_told_apart() {
        let all = webhooks(&json!({"metadata": {"name": "c"}, "webhooks": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}));
        assert_eq!(all.iter().map(|w| w.id.as_str()).collect::<Vec<_>>(), ["c/a/0", "c/b/0", "c/a/1"]);
    }
}
