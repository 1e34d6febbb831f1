//! Cluster roles with an `aggregationRule` hold the rules of all roles that it selects: `admin`, `edit` and `view` come to theirs
//! this way. Upstream: `pkg/controller/clusterroleaggregation`.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{AggregationRule, ClusterRole, PolicyRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use knarr_client::{Client, Informer, Key, Outcome, Project, client, read};
use knarr_core::selector::LabelSelector;
use knarr_core::{Object, Result, Status, Value, json};
use serde::Deserialize;

use crate::context::ControllerContext;

const NAME: &str = "clusterrole-aggregation-controller";

/// What is kept of each role.
struct Labelled {
    labels: BTreeMap<String, String>,
    aggregates: bool,
}

impl Project for Labelled {
    fn project(object: &Object) -> Result<Self> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Whole {
            metadata: Metadata,
            aggregation_rule: Option<AggregationRule>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Metadata {
            labels: BTreeMap<String, String>,
        }
        knarr_client::partial!(Whole);
        let whole: Whole = read::typed(object)?;
        Ok(Self { labels: whole.metadata.labels, aggregates: whole.aggregation_rule.is_some() })
    }
}

/// Keys are names of roles that aggregate. Whatever changes may belong to each of them.
pub fn start(context: &ControllerContext) {
    let client = context.client(NAME).with_field_manager(NAME);
    let roles = context.informer::<ClusterRole, Labelled>();
    let queue = context.queue("ClusterRoleAggregator");
    let (all, woken) = (roles.clone(), queue.clone());
    roles.on_change(move |change| {
        let own = change.new.iter().filter(|role| role.view.aggregates).cloned();
        all.store().list().into_iter().chain(own).filter(|role| role.view.aggregates).for_each(|role| woken.add(role.key.clone()));
    });
    context.run("clusterrole-aggregation", queue, move |key: Key| {
        let (client, roles) = (client.clone(), roles.clone());
        async move { reconcile(&client, &roles, &key).await.map(|()| Outcome::Done) }
    });
}

async fn reconcile(client: &Client, roles: &Informer<Labelled>, key: &Key) -> Result<()> {
    let Some(item) = roles.store().get(key) else { return Ok(()) };
    let role: ClusterRole = item.typed()?;
    let Some(rule) = &role.aggregation_rule else { return Ok(()) };
    let mut selected = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten() {
        let selector = parse(selector)?;
        let matching = roles.store().list().into_iter().filter(|r| r.key != *key && selector.matches_map(Some(&r.view.labels)));
        for other in matching {
            selected.extend(other.typed::<ClusterRole>()?.rules.unwrap_or_default());
        }
    }
    let rules = union(selected);
    if rules == role.rules.unwrap_or_default() {
        return Ok(());
    }
    let mut wanted = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": key.name()}});
    if !rules.is_empty() {
        wanted["rules"] = Value::Array(rules.iter().map(client::tree).collect::<Result<_>>()?);
    }
    match client.all::<ClusterRole>().apply(key.name(), &wanted, true).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn parse(selector: &Selector) -> Result<LabelSelector> {
    LabelSelector::from_value(Some(&client::tree(selector)?)).map_err(Status::internal)
}

/// Each rule once, in the order in which they come.
fn union(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut all: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        if !all.contains(&rule) {
            all.push(rule);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::testing::Harness;

    fn role(name: &str, label: &str, resources: &[&str]) -> ClusterRole {
        let rules: Vec<Value> = resources.iter().map(|r| json!({"apiGroups": [""], "resources": [r], "verbs": ["get"]})).collect();
        serde_json::from_value(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name, "labels": {"to": label}},
            "rules": rules}))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_gathers_the_rules_of_those_that_it_selects() {
        let harness = Harness::new();
        let mut view = role("view", "view", &[]);
        view.rules = None;
        view.aggregation_rule = serde_json::from_value(json!({"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]})).unwrap();
        harness.api.seed(&role("b", "view", &["pods", "secrets"]));
        harness.api.seed(&view);
        harness.api.seed(&role("a", "view", &["services", "pods"]));
        harness.api.seed(&role("c", "other", &["nodes"]));
        start(&harness.context);
        let resources = || -> Vec<String> {
            let rules = harness.api.read::<ClusterRole>("", "view").unwrap().rules.unwrap_or_default();
            rules.into_iter().flat_map(|r| r.resources.unwrap_or_default()).collect()
        };
        harness.api.until(|_| resources() == ["services", "pods", "secrets"]).await;
        harness.api.change::<ClusterRole>("", "c", |role| role.metadata.labels = Some([("to".to_owned(), "view".to_owned())].into()));
        harness.api.until(|_| resources() == ["services", "pods", "secrets", "nodes"]).await;
    }
}
