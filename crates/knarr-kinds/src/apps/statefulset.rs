//! StatefulSets (upstream: `pkg/registry/apps/statefulset`).

use std::collections::BTreeSet;

use crate::cells::{Cells, age, containers, name, number};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json, names};

use super::validation;
use crate::at::{self, At};
use crate::core::persistentvolumeclaim::validation as claims;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, each, with};
use crate::{core, disabled, pod};

pub struct StatefulSet;

impl Strategy for StatefulSet {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, object: &mut Value) {
        let spec = object.ensure(&["spec"]);
        default_if_zero(spec, "podManagementPolicy", "OrderedReady");
        update_strategy(spec.ensure(&["updateStrategy"]));
        let retention = spec.ensure(&["persistentVolumeClaimRetentionPolicy"]);
        default_if_zero(retention, "whenDeleted", "Retain");
        default_if_zero(retention, "whenScaled", "Retain");
        default_to(spec, "replicas", 1);
        default_to(spec, "revisionHistoryLimit", 10);
        pod::defaults::template(spec.ensure(&["template"]));
        each(spec, &["volumeClaimTemplates"], |claim| {
            default_if_zero(claim, "apiVersion", "v1");
            default_if_zero(claim, "kind", "PersistentVolumeClaim");
            core::persistentvolumeclaim::default_claim(claim);
        });
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &["spec", "template"]);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        disabled::drop_template(object, Some(old), &["spec", "template"]);
        separation::update(self.shape(), object, old);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| validate(&root.get("spec"), None, true, e))
    }

    /// A template that was wrong before is not looked at again.
    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        let was_good = at::check(old, |root, e| validate(&root.get("spec"), Some(old), true, e)).is_empty();
        at::check(object, |root, e| {
            validate(&root.get("spec"), Some(old), was_good, e);
            validation::immutable(&root.get("spec"), old, &["selector", "volumeClaimTemplates", "serviceName", "podManagementPolicy"], e);
        })
    }

    fn validate_status_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| {
            let status = root.get("status");
            validation::counts(&status, &COUNTS, e);
            validation::part_of_replicas(&status, &COUNTS[1..5], "status.readyReplicas", e);
            validation::collisions(&status, old, e);
        })
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut out = validation::warn(object, old, false);
        for (i, claim) in object.list_at(&["spec", "volumeClaimTemplates"]).iter().enumerate() {
            let path = format!("spec.volumeClaimTemplates[{i}]{}", if old.is_some() { ".Spec" } else { "" });
            out.extend(claims::spec_warnings(&path, claim.at(&["spec"]).unwrap_or(&Value::Null)));
        }
        if object.i64_at(&["spec", "revisionHistoryLimit"]).is_some_and(|n| n < 0) {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".into());
        }
        out
    }

    /// Pods are called after it.
    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_dns1123_label(name)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let [names, images] = containers(object, &["spec", "template", "spec", "containers"]);
        let ready = format!("{}/{}", number(object, &["status", "readyReplicas"]), number(object, &["spec", "replicas"]));
        Some(vec![name(object), ready.into(), age(object, now), names, images])
    }
}

const COUNTS: [&str; 7] = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration", "collisionCount"];

fn validate(spec: &At, old: Option<&Value>, check_template: bool, e: &mut ErrorList) {
    let management = spec.get("podManagementPolicy");
    match management.str() {
        "" => e.push(management.required("")),
        "OrderedReady" | "Parallel" => {}
        _ => e.push(management.invalid("must be 'OrderedReady' or 'Parallel'")),
    }
    rollout(&spec.get("updateStrategy"), e);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    if retention.is_set() {
        for field in ["whenDeleted", "whenScaled"] {
            retention.get(field).if_set_one_of(e, &["Retain", "Delete"]);
        }
    }
    if old.is_none() {
        for claim in spec.get("volumeClaimTemplates").items() {
            claims::create(&claim, e);
        }
        validation::service_name(spec, e);
    }
    validation::counts(spec, &["replicas", "minReadySeconds"], e);
    let ordinals = spec.get("ordinals");
    let start = spec.shown_as("ordinals.start", ordinals.get("start").value());
    start.nonnegative(e);
    validation::selector(spec, "statefulset", e);
    if let Some(selector) = validation::matcher(spec, "", e) {
        let munged = template_with_claims(spec);
        let template = spec.shown_as("template", Some(&munged));
        validation::matches_template(&selector, &template, e);
        if check_template {
            pod::validation::template(&template, &validation::template_options(old), e);
        }
    }
    validation::runs_forever(&spec.get("template"), "StatefulSet", e);
}

/// The template as its pods will be: claims are volumes, and names are the controller's.
fn template_with_claims(spec: &At) -> Value {
    let mut template = spec.get("template").value().cloned().unwrap_or_else(|| json!({}));
    for field in ["subdomain", "hostname"] {
        template.remove(&["spec", field]);
    }
    let claims = spec.get("volumeClaimTemplates");
    let claims: BTreeSet<String> = claims.items().map(|c| c.get("metadata").str_of("name").to_owned()).collect();
    if claims.is_empty() {
        return template;
    }
    let mut volumes: Vec<Value> = claims.iter().map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}})).collect();
    let others = template.list_at(&["spec", "volumes"]).iter().filter(|v| !claims.contains(v.str_at(&["name"]).unwrap_or_default()));
    volumes.extend(others.cloned());
    template.set(&["spec", "volumes"], volumes);
    template
}

fn rollout(strategy: &At, e: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.str_of("type") {
        "" => e.push(strategy.required("")),
        "OnDelete" if rolling.is_set() => e.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'")),
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").nonnegative(e);
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                validation::int_or_percent(&unavailable, e);
                if validation::int_or_percent_value(&unavailable) == 0 {
                    e.push(unavailable.invalid("cannot be 0"));
                }
                validation::at_most_all(&unavailable, e);
            }
        }
        _ => e.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
}

fn update_strategy(strategy: &mut Value) {
    if crate::tree::is_zero_at(strategy, &["type"]) {
        strategy.set(&["type"], "RollingUpdate");
        crate::tree::object(strategy.ensure(&["rollingUpdate"]));
    }
    if strategy.str_at(&["type"]) == Some("RollingUpdate") {
        with(strategy, &["rollingUpdate"], |rolling| {
            default_to(rolling, "partition", 0);
            default_to(rolling, "maxUnavailable", 1);
        });
    }
}
