//! ValidatingAdmissionPolicy status: tells which expressions of a policy do not fit the kinds that it matches. A policy works
//! all the same; who wrote it should look again. Upstream: `pkg/controller/validatingadmissionpolicystatus` and
//! `apiserver/pkg/admission/plugin/policy/validating/typechecking.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use knarr_cel::admission::{Composition, Declarations, Schemas, environment};
use knarr_cel::schema::{Decl, Types};
use knarr_client::{Client, Key, Meta, Outcome, Patch, client::gvr, read};
use knarr_core::api::Options;
use knarr_core::{GroupVersionKind, Result, Value, ValueExt, json};
use knarr_schema::openapi;

use crate::context::{ControllerContext, enqueue_all};
use crate::resources::Resources;

const NAME: &str = "validatingadmissionpolicy-status";
/// An expression is checked against no more kinds of one rule than these.
const KINDS_MAX: usize = 10;
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Keys are names of policies.
pub fn start(context: &ControllerContext, resources: &Resources) {
    let client = context.client("validatingadmissionpolicy-status-controller");
    let policies = context.informer::<ValidatingAdmissionPolicy, Meta>();
    let queue = context.queue("validatingadmissionpolicy-status");
    enqueue_all(&policies, &queue);
    let resources = resources.clone();
    context.run("validatingadmissionpolicy-status-controller", queue, move |key: Key| {
        let (client, policies, resources) = (client.clone(), policies.clone(), resources.clone());
        async move {
            let Some(policy) = policies.store().get(&key) else { return Ok(Outcome::Done) };
            let policy = read::value(&policy.object)?;
            let generation = policy.i64_at(&["metadata", "generation"]).unwrap_or(0);
            if generation <= policy.i64_at(&["status", "observedGeneration"]).unwrap_or(0) {
                return Ok(Outcome::Done);
            }
            let warnings = warnings(&policy, &Kinds(&resources));
            report(&client, key.name(), generation, warnings).await.map(|()| Outcome::Done)
        }
    });
}

async fn report(client: &Client, name: &str, generation: i64, warnings: Vec<Value>) -> Result<()> {
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let applied = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "status": {"observedGeneration": generation, "typeChecking": checked}});
    let options = Options { field_manager: Some(NAME.into()), force: Some(true), ..Options::default() };
    let policies = client.dynamic(gvr::<ValidatingAdmissionPolicy>(), None);
    match policies.patch_with(name, Patch::apply(applied), Some("status"), &options).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Finds what kinds look like.
struct Kinds<'r>(&'r Resources);

impl Kinds<'_> {
    /// All schemas of a version of a group, by name.
    fn document(&self, group: &str, version: &str) -> Option<serde_json::Map<String, Value>> {
        let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let document = openapi::v3(self.0.registry(), &path)?;
        document.at(&["components", "schemas"]).and_then(Value::as_object).cloned()
    }

    fn declared(&self, kind: &GroupVersionKind) -> Option<Decl> {
        if self.0.registry().by_kind(&kind.group, &kind.version, &kind.kind).is_some() {
            let all = self.document(&kind.group, &kind.version)?;
            let is_it = |own: &Value| own["group"] == *kind.group && own["version"] == *kind.version && own["kind"] == *kind.kind;
            let schema = all.values().find(|s| s.list_at(&["x-kubernetes-group-version-kind"]).iter().any(is_it))?;
            return Some(declaration(schema, &all, &kind.kind));
        }
        let mut schema = self.0.custom_schema(kind)?;
        let properties = schema.ensure(&["properties"]);
        for (name, property) in [
            ("apiVersion", json!({"type": "string"})),
            ("kind", json!({"type": "string"})),
            ("metadata", json!({"$ref": format!("#/components/schemas/{OBJECT_META}")})),
        ] {
            properties.set(&[name], property);
        }
        Some(declaration(&schema, &self.document("", "v1")?, &kind.kind))
    }
}

/// Reads a schema whose references lead into `all`.
fn declaration(schema: &Value, all: &serde_json::Map<String, Value>, name: &str) -> Decl {
    Decl::build_with(schema, true, name, &|reference| all.get(reference.rsplit('/').next().unwrap_or_default()))
}

/// Every expression that does not fit, as `status.typeChecking` tells it.
fn warnings(policy: &Value, known: &Kinds<'_>) -> Vec<Value> {
    let kinds: Vec<(GroupVersionKind, Decl)> = matched(policy, known).into_iter().filter_map(|k| known.declared(&k).map(|d| (k, d))).collect();
    let params = params_kind(policy);
    let params_decl = params.as_ref().and_then(|kind| known.declared(kind));
    let declared = Declarations { params: params.is_some(), authorizer: true, patch_types: false, composed: true };
    let checks: Vec<Check> = kinds.iter().map(|(kind, decl)| Check::new(policy, kind, decl, params_decl.as_ref(), declared)).collect();
    let mut found = Vec::new();
    for (i, validation) in policy.list_at(&["spec", "validations"]).iter().enumerate() {
        for key in ["expression", "messageExpression"] {
            let text = validation.str_at(&[key]).unwrap_or_default();
            let issues: Vec<String> = checks.iter().filter(|_| !text.is_empty()).filter_map(|check| check.issue(text)).collect();
            if !issues.is_empty() {
                found.push(json!({"fieldRef": format!("spec.validations[{i}].{key}"), "warning": issues.join("\n")}));
            }
        }
    }
    found
}

/// What expressions are checked with for one kind.
struct Check<'k> {
    kind: &'k GroupVersionKind,
    env: knarr_cel::Env,
}

impl<'k> Check<'k> {
    fn new(policy: &Value, kind: &'k GroupVersionKind, object: &Decl, params: Option<&Decl>, declared: Declarations) -> Self {
        let types = Types::of([object].into_iter().chain(params));
        let schemas = Schemas { object: object.ty.clone(), params: params.and_then(|p| p.ty.clone()), types: Some(Arc::new(types)) };
        let composition = Composition::new(policy.list_at(&["spec", "variables"]), declared, &schemas);
        Self { kind, env: environment(declared, &composition.types, &schemas) }
    }

    fn issue(&self, expression: &str) -> Option<String> {
        let why = knarr_cel::compile(expression, &self.env).err()?;
        let GroupVersionKind { group, version, kind } = self.kind;
        Some(format!("{group}/{version}, Kind={kind}: {why}\n"))
    }
}

fn params_kind(policy: &Value) -> Option<GroupVersionKind> {
    let kind = policy.at(&["spec", "paramKind"])?;
    let api_version = kind.str_at(&["apiVersion"]).unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Some(GroupVersionKind::new(group, version, kind.str_at(&["kind"]).unwrap_or_default()))
}

/// The kinds that the rules of a policy name, sorted. Wildcards name none.
fn matched(policy: &Value, known: &Kinds<'_>) -> Vec<GroupVersionKind> {
    let mut kinds: BTreeMap<(String, String, String), GroupVersionKind> = BTreeMap::new();
    for rule in policy.list_at(&["spec", "matchConstraints", "resourceRules"]) {
        let names = |key: &str| -> BTreeSet<&str> { rule.list_at(&[key]).iter().filter_map(Value::as_str).collect() };
        let (groups, versions) = (names("apiGroups"), names("apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for resource in names("resources").into_iter().filter(|r| !r.contains(['*', '/'])) {
                    for kind in known.0.kinds_of(group, version, resource) {
                        kinds.insert((kind.group.clone(), kind.version.clone(), kind.kind.clone()), kind);
                        count += 1;
                        if count == KINDS_MAX {
                            return kinds.into_values().collect();
                        }
                    }
                }
            }
        }
    }
    kinds.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::testing::Harness;

    fn policy(resources: &[&str], spec: &Value) -> Value {
        let mut policy = json!({"metadata": {"name": "p", "generation": 1}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": resources}]}}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            policy.set(&["spec", key], value.clone());
        }
        policy
    }

    fn checked(resources: &[&str], spec: &Value) -> Vec<Value> {
        let harness = Harness::new();
        warnings(&policy(resources, spec), &Kinds(&Resources::new(&harness.context)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_a_kind_is_told_for_each() {
        let found = checked(
            &["deployments", "deployments/status", "statefulsets"],
            &json!({
                "variables": [{"name": "wanted", "expression": "object.spec.replicas"}, {"name": "broken", "expression": "object.spec.nope"}],
                "validations": [
                    {"expression": "object.spec.replicas > '1'"},
                    {"expression": "variables.wanted < 5 && variables.broken == 'x' && object.metadata.labels['a'] == 'b' && request.operation == 'CREATE'"},
                    {"expression": "object.spec.strategy.type == 'Recreate'", "messageExpression": "object.spec.foo"},
                ],
            }),
        );
        let issue = |kind: &str, at: usize, why: &str, line: &str, dots: usize| {
            format!("apps/v1, Kind={kind}: ERROR: <input>:1:{at}: {why}\n | {line}\n | {}^\n", ".".repeat(dots))
        };
        let wrong = |kind: &str| issue(kind, 22, "found no matching overload for '_>_' applied to '(int, string)'", "object.spec.replicas > '1'", 21);
        let foo = |kind: &str| issue(kind, 12, "undefined field 'foo'", "object.spec.foo", 11);
        assert_eq!(
            found,
            [
                json!({"fieldRef": "spec.validations[0].expression", "warning": format!("{}\n{}", wrong("Deployment"), wrong("StatefulSet"))}),
                json!({"fieldRef": "spec.validations[2].expression", "warning": issue("StatefulSet", 12, "undefined field 'strategy'", "object.spec.strategy.type == 'Recreate'", 11)}),
                json!({"fieldRef": "spec.validations[2].messageExpression", "warning": format!("{}\n{}", foo("Deployment"), foo("StatefulSet"))}),
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn parameters_have_a_type_and_wildcards_none() {
        let spec = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "validations": [{"expression": "params.data['a'] == 'b'"}, {"expression": "params.nope"}]});
        let found = checked(&["deployments"], &spec);
        assert_eq!((found.len(), found[0]["fieldRef"].as_str()), (1, Some("spec.validations[1].expression")));
        assert_eq!(checked(&["*"], &spec), [Value::Null; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn custom_kinds_are_known_by_their_definition() {
        let harness = Harness::new();
        let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "cars.x.io"},
            "spec": {"group": "x.io", "scope": "Cluster", "names": {"plural": "cars", "kind": "Car"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"doors": {"type": "integer"}}}}}}}]},
            "status": {"conditions": [{"type": "Established", "status": "True"}], "acceptedNames": {"plural": "cars", "kind": "Car"}, "storedVersions": ["v1"]}});
        harness
            .api
            .client()
            .dynamic(knarr_core::GroupVersionResource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"), None)
            .create(definition)
            .await
            .unwrap();
        let resources = Resources::new(&harness.context);
        harness.settle().await;
        let mut policy = policy(
            &["cars"],
            &json!({"validations": [{"expression": "object.spec.doors > 2 && object.metadata.labels['a'] == 'b'"}, {"expression": "object.spec.wings == 2"}]}),
        );
        policy["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] = json!(["x.io"]);
        let found = warnings(&policy, &Kinds(&resources));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0]["warning"].as_str().is_some_and(|w| w.starts_with("x.io/v1, Kind=Car: ERROR: <input>:1:12: undefined field 'wings'")));
    }
}
