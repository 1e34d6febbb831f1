//! `pods/eviction`: a delete that asks the disruption budget first (upstream: `registry/core/pod/storage/eviction.go`).

use knarr_core::{
    GroupResource, GroupVersionKind, Reason, Result, Status, Value, ValueExt, json,
    selector::LabelSelector,
    status::{Cause, Details},
    time,
};
use knarr_schema::codec;
use knarr_store::{Error, Item, ObjectKey, ResourceKey};

use super::{binding::set_condition, created};
use crate::{
    admission::Operation,
    call::{Exchange, Input, Outcome},
    read::store_error,
    request::{DeleteOptions, delete_options_from_value},
    write::{Writer, decode, remove},
};

/// How often a conflict is tried again (upstream: `EvictionsRetry`, 20 steps).
const ATTEMPTS_MAX: usize = 20;
/// Most evictions that the disruption controller has not confirmed yet.
const DISRUPTED_PODS_MAX: usize = 2000;
const CAUSE: &str = "DisruptionBudget";

/// Evicts a pod.
///
/// # Errors
/// 429 when the budget does not allow it now.
pub async fn create(ex: &Exchange<'_>) -> Result<Outcome> {
    let name = ex.name()?;
    let eviction = decode::other(ex, &GroupVersionKind::new("policy", version(ex), "Eviction"))?;
    if eviction.str_at(&["metadata", "name"]) != Some(name) {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = delete_options_from_value(eviction.at(&["deleteOptions"]).unwrap_or(&json!({})))?;
    options.dry_run |= ex.dry_run();
    let writer = Writer::new(ex);
    let eviction = writer.mutate_other(Operation::Create, eviction, None).await?;
    writer.admit(Operation::Create, Some(eviction), None).await?;
    for _ in 0..ATTEMPTS_MAX {
        match attempt(&writer, name, &options).await {
            // Another pod than the one that is meant does not become it.
            Err(e) if e.is_conflict() && options.preconditions.resource_version.is_none() && options.preconditions.uid.is_none() => {}
            result => return result.map(|()| created()),
        }
    }
    Err(Status::timeout("couldn't update PodDisruptionBudget due to conflicts", 10))
}

/// Evictions are taken in the old version, too, though nothing else of it is served.
fn version(ex: &Exchange<'_>) -> &'static str {
    let old = |body: &[u8]| serde_json::from_slice::<Value>(body).is_ok_and(|v| v.str_at(&["apiVersion"]) == Some("policy/v1beta1"));
    match &ex.call.input {
        Input::Encoded { bytes, .. } if old(bytes) => "v1beta1",
        _ => "v1",
    }
}

async fn attempt(writer: &Writer<'_>, name: &str, options: &DeleteOptions) -> Result<()> {
    let item = writer.current(name).ok_or_else(|| writer.not_found(name))?;
    let pod = codec::to_value(&item.object())?;
    let mut options = options.clone();
    let uid = pod.str_at(&["metadata", "uid"]).unwrap_or_default();
    if let Some(wanted) = options.preconditions.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why =
            format!("the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated");
        return Err(Status::conflict(&GroupResource::new("", "Pod"), name, why));
    }
    let pin = |options: &mut DeleteOptions| {
        options.preconditions.resource_version.get_or_insert_with(|| item.revision().to_string());
    };
    let phase = pod.str_at(&["status", "phase"]).unwrap_or_default();
    let is_over = matches!(phase, "Succeeded" | "Failed") || pod.at(&["metadata", "deletionTimestamp"]).is_some();
    if is_over || phase == "Pending" {
        if !is_over {
            pin(&mut options);
        }
        return mark_and_remove(writer, name, &pod, &options).await;
    }
    match budget(writer, &pod)? {
        None => {}
        Some((_, budget)) if !is_ready(&pod) && spares_unhealthy(&budget) => pin(&mut options),
        Some((at, budget)) => take_from(writer, name, &at, budget, options.dry_run).await?,
    }
    mark_and_remove(writer, name, &pod, &options).await
}

fn is_ready(pod: &Value) -> bool {
    pod.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == Some("Ready") && c.str_at(&["status"]) == Some("True"))
}

/// Whether an unhealthy pod may go without counting.
fn spares_unhealthy(budget: &Value) -> bool {
    let number = |field: &str| budget.i64_at(&["status", field]).unwrap_or(0);
    budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == Some("AlwaysAllow")
        || number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0
}

type Placed = (std::sync::Arc<Item>, Value);

/// The one budget over the pod, if there is one.
fn budget(writer: &Writer<'_>, pod: &Value) -> Result<Option<Placed>> {
    let namespace = writer.ex.namespace();
    let snapshot = writer.ex.server.storage.snapshot(&budgets());
    let mut found = None;
    for item in snapshot.iter(Some(namespace), None) {
        let budget = codec::to_value(&item.object())?;
        let selector = LabelSelector::from_value(budget.at(&["spec", "selector"])).unwrap_or_else(|_| LabelSelector::nothing());
        if selector.matches(pod.at(&["metadata", "labels"])) && found.replace((item.clone(), budget)).is_some() {
            let text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, Reason::Unknown, text));
        }
    }
    Ok(found)
}

fn budgets() -> ResourceKey {
    ResourceKey::new("policy", "poddisruptionbudgets")
}

/// Takes one disruption from the budget (upstream: `checkAndDecrement`).
async fn take_from(writer: &Writer<'_>, pod: &str, at: &Item, mut budget: Value, dry_run: bool) -> Result<()> {
    check_budget(&budget)?;
    let left = budget.i64_at(&["status", "disruptionsAllowed"]).unwrap_or(0) - 1;
    let now = writer.ex.server.env.now();
    budget.set(&["status", "disruptionsAllowed"], left);
    if left == 0 {
        forbid_disruptions(&mut budget, now);
    }
    if dry_run {
        return Ok(());
    }
    budget.set(&["status", "disruptedPods", pod], time::format(now));
    let served = writer.ex.catalog.need("policy", "poddisruptionbudgets")?;
    let bytes = codec::encode_stored(&served.resource, &budget)?;
    let written = writer.ex.server.storage.update(&budgets(), &ObjectKey::new(at.namespace(), at.name()), bytes, at.revision(), None).await;
    match written {
        Ok(_) => Ok(()),
        Err(e @ Error::Conflict(_)) => Err(store_error(&e, &served.group_resource, at.name())),
        Err(e) => Err(store_error(&e, &served.group_resource, at.name())),
    }
}

fn check_budget(budget: &Value) -> Result<()> {
    let name = budget.str_at(&["metadata", "name"]).unwrap_or_default();
    let number = |path: &[&str]| budget.i64_at(path).unwrap_or(0);
    if number(&["status", "observedGeneration"]) < number(&["metadata", "generation"]) {
        return Err(too_many(10, format!("The disruption budget {name} is still being processed by the server.")));
    }
    let allowed = number(&["status", "disruptionsAllowed"]);
    let resource = GroupResource::new("policy", "poddisruptionbudget");
    if allowed < 0 {
        let cause = format!("The disruption budget {name} does not allow evicting pods currently: pdb disruptions allowed is negative");
        return Err(with_cause(Status::forbidden(&resource, name, "pdb disruptions allowed is negative"), cause));
    }
    if budget.at(&["status", "disruptedPods"]).and_then(Value::as_object).is_some_and(|m| m.len() > DISRUPTED_PODS_MAX) {
        let cause = format!("The disruption budget {name} does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller");
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(with_cause(Status::forbidden(&resource, name, why), cause));
    }
    if allowed == 0 { Err(too_many(0, why_not(budget, name))) } else { Ok(()) }
}

fn why_not(budget: &Value, name: &str) -> String {
    let condition = budget.list_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == Some("DisruptionAllowed"));
    let refused = condition.filter(|c| c.str_at(&["status"]) == Some("False"));
    let text = |field: &str| refused.and_then(|c| c.str_at(&[field])).unwrap_or_default();
    let (reason, message) = (text("reason"), text("message"));
    let number = |field: &str| budget.i64_at(&["status", field]).unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    match () {
        () if reason == "SyncFailed" && !message.is_empty() => {
            format!("The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}")
        }
        () if current <= desired => format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently"),
        () if !message.is_empty() => format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"),
        () => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

fn too_many(retry_after_seconds: i32, cause: String) -> Status {
    with_cause(Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", retry_after_seconds), cause)
}

fn with_cause(mut status: Status, message: String) -> Status {
    let details = status.details.get_or_insert_with(|| Box::new(Details::default()));
    details.causes.push(Cause { reason: CAUSE.into(), message, field: String::new() });
    status
}

/// The condition of a used-up budget (upstream: `pdbhelper.UpdateDisruptionAllowedCondition`).
fn forbid_disruptions(budget: &mut Value, now: jiff::Timestamp) {
    let generation = budget.i64_at(&["status", "observedGeneration"]).unwrap_or(0);
    let condition = json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": generation, "lastTransitionTime": time::format(now),
    });
    let mut conditions = budget.list_at(&["status", "conditions"]).to_vec();
    conditions.retain(|c| c.str_at(&["type"]) != Some("DisruptionAllowed"));
    conditions.push(condition);
    budget.set(&["status", "conditions"], conditions);
}

/// Tells in the pod's status why it goes, and deletes it.
async fn mark_and_remove(writer: &Writer<'_>, name: &str, pod: &Value, options: &DeleteOptions) -> Result<()> {
    let mut options = options.clone();
    if !options.dry_run {
        let found = |field: &str| pod.str_at(&["metadata", field]).unwrap_or_default();
        for (wanted, field) in [(&options.preconditions.uid, "uid"), (&options.preconditions.resource_version, "resourceVersion")] {
            if wanted.as_deref().is_some_and(|w| !w.is_empty() && w != found(field)) {
                return Err(Status::modified(&writer.ex.served.group_resource, name));
            }
        }
        let mut marked = pod.clone();
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"});
        set_condition(&mut marked, condition, writer.ex.server.env.now());
        let expected = found("resourceVersion").parse().unwrap_or(0);
        let storage = &writer.ex.server.storage;
        let object = storage
            .update(&writer.ex.served.key, &writer.key(name), writer.encode(&marked)?, expected, None)
            .await
            .map_err(|e| store_error(&e, &writer.ex.served.group_resource, name))?;
        if let Some(version) = &mut options.preconditions.resource_version {
            *version = object.resource_version.to_string();
        }
    }
    remove(writer, name, &options).await.map(|_| ())
}
