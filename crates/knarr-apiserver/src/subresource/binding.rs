//! `pods/binding`: the scheduler's word (upstream: `registry/core/pod/storage` `BindingREST`).

use knarr_core::{
    GroupResource, GroupVersionKind, Reason, Result, Status, Value, ValueExt,
    field::{self, Path},
    json, time,
};
use knarr_schema::codec;
use knarr_store::{Error, ObjectKey, ResourceKey};

use super::created;
use crate::{
    admission::Operation,
    call::{Exchange, Outcome},
    read::store_error,
    write::{Writer, decode, meta},
};

/// How often a binding that lost the swap is tried again.
const ATTEMPTS_MAX: usize = 64;

/// Binds the pod in the path.
///
/// # Errors
/// `Conflict` when the pod cannot be bound any more.
pub async fn create(ex: &Exchange<'_>) -> Result<Outcome> {
    let binding = decode::other(ex, &GroupVersionKind::new("", "v1", "Binding"))?;
    if binding.str_at(&["metadata", "name"]) != Some(ex.name()?) {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    bind(ex, binding).await
}

/// Binds the pod that the binding names.
///
/// # Errors
/// As [`create`].
pub async fn bind(ex: &Exchange<'_>, binding: Value) -> Result<Outcome> {
    let mut binding = binding;
    meta::ensure_namespace(&mut binding, ex.namespace())?;
    check(&binding)?;
    let writer = Writer::new(ex);
    let binding = writer.mutate_other(Operation::Create, binding, None).await?;
    let binding = writer.admit(Operation::Create, Some(binding), None).await?.unwrap_or_default();
    let name = binding.str_at(&["metadata", "name"]).unwrap_or_default();
    let (resource, key) = (ResourceKey::new("", "pods"), ObjectKey::new(&ex.call.info.namespace, name));
    let pods = GroupResource::new("", "pods");
    for _ in 0..ATTEMPTS_MAX {
        let item = ex.server.storage.get_now(&resource, &key).ok_or_else(|| Status::not_found(&pods, name))?;
        let mut pod = codec::to_value(&item.object())?;
        assign(&mut pod, &binding, name, &key.etcd_key(&resource))?;
        set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}), ex.server.env.now());
        if ex.dry_run() {
            return Ok(created());
        }
        let pod_resource = ex.catalog.need("", "pods")?;
        let bytes = codec::encode_stored(&pod_resource.resource, &pod)?;
        match ex.server.storage.update(&resource, &key, bytes, item.revision(), None).await {
            Ok(_) => return Ok(created()),
            Err(Error::Conflict(_)) => {}
            Err(e) => return Err(store_error(&e, &pods, name)),
        }
    }
    Err(Status::modified(&pods, name))
}

/// Upstream: `ValidatePodBinding`.
fn check(binding: &Value) -> Result<()> {
    let path = Path::new("target");
    let mut errors = Vec::new();
    match binding.str_at(&["target", "kind"]).unwrap_or_default() {
        "" | "Node" => {}
        other => errors.push(field::Error::not_supported(&path.child("kind"), other, &["Node", "<empty>"])),
    }
    if binding.str_at(&["target", "name"]).unwrap_or_default().is_empty() {
        errors.push(field::Error::required(&path.child("name"), ""));
    }
    let name = binding.str_at(&["target", "name"]).unwrap_or_default();
    errors.extend(
        knarr_core::names::is_dns1123_subdomain(name).into_iter().filter(|_| !name.is_empty()).map(|p| field::Error::invalid(&path.child("name"), name, p)),
    );
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => Ok(()),
        // Upstream hands its list on as it is, which the client sees as a failure of the server.
        [one] => Err(Status::new(500, Reason::Unknown, one.clone())),
        many => Err(Status::new(500, Reason::Unknown, format!("[{}]", many.join(", ")))),
    }
}

/// Gives the pod its node, if it may have one.
fn assign(pod: &mut Value, binding: &Value, name: &str, key: &str) -> Result<()> {
    let conflict = |why: String| Err(Status::conflict(&GroupResource::new("", "pods/binding"), name, why));
    for field in ["uid", "resourceVersion"] {
        let (wanted, found) = (binding.str_at(&["metadata", field]).unwrap_or_default(), pod.str_at(&["metadata", field]).unwrap_or_default());
        if !wanted.is_empty() && wanted != found {
            let label = if field == "uid" { "UID" } else { "ResourceVersion" };
            let why = format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
            );
            return Err(Status::conflict(&GroupResource::new("", "pods"), name, why));
        }
    }
    if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod.str_at(&["spec", "nodeName"]).filter(|n| !n.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {}", field::go_quote(node)));
    }
    if !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod.set(&["spec", "nodeName"], binding.str_at(&["target", "name"]).unwrap_or_default());
    pod.remove(&["status", "nominatedNodeName"]);
    for part in ["annotations", "labels"] {
        for (key, value) in binding.at(&["metadata", part]).and_then(Value::as_object).into_iter().flatten() {
            pod.set(&["metadata", part, key], value.clone());
        }
    }
    Ok(())
}

/// Sets a condition of a pod, whose time moves only when its status does (upstream: `podutil.UpdatePodCondition`).
pub fn set_condition(pod: &mut Value, mut condition: Value, now: jiff::Timestamp) {
    condition.set(&["lastProbeTime"], Value::Null);
    condition.set(&["lastTransitionTime"], time::format(now));
    let kind = condition.str_at(&["type"]).unwrap_or_default().to_owned();
    let conditions = pod.ensure(&["status", "conditions"]);
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|c| c.str_at(&["type"]) == Some(&kind)) {
        Some(old) => {
            if old.str_at(&["status"]) == condition.str_at(&["status"]) {
                let since = old.at(&["lastTransitionTime"]).cloned().unwrap_or_default();
                condition.set(&["lastTransitionTime"], since);
            }
            *old = condition;
        }
        None => list.push(condition),
    }
}
