//! The writes of the fake API.

use std::sync::Arc;

use knarr_core::api::{PatchType, Reply, Request, Verb};
use knarr_core::{GroupResource, Result, Status, Value, ValueExt, json};
use knarr_schema::{patch, types};

use super::{Entry, FakeApi, Filter, address, at_rest, scale_of};
use crate::read::Key;

impl FakeApi {
    pub(super) fn write(&self, request: &Request) -> Result<Reply> {
        self.note(request);
        match (request.verb, request.subresource.as_deref()) {
            (Verb::Create, None) => self.create(request),
            (Verb::Create, Some("binding")) => self.bind(request),
            (Verb::Create, Some("eviction")) => self.delete(request),
            (Verb::Create, Some("token")) => Ok(Reply::Value(with(request.body.clone().unwrap_or_default(), &["status", "token"], "a-token"))),
            (Verb::Update, _) => self.update(request),
            (Verb::Patch(kind), _) => self.patch(request, kind),
            (Verb::Delete, _) => self.delete(request),
            (Verb::DeleteCollection, _) => self.delete_collection(request),
            (verb, subresource) => Err(Status::method_not_supported(&request.resource.group_resource(), &format!("{} {subresource:?}", verb.as_str()))),
        }
    }

    fn note(&self, request: &Request) {
        let (resource, key) = address(request);
        let subresource = request.subresource.as_deref().map(|s| format!("/{s}")).unwrap_or_default();
        self.shared.state.lock().log.push(format!("{} {resource}{subresource} {key}", request.verb.as_str()));
    }

    fn create(&self, request: &Request) -> Result<Reply> {
        let resource = request.resource.group_resource();
        let mut object = request.body.clone().ok_or_else(|| Status::bad_request("a create needs a body"))?;
        if let Some(namespace) = &request.namespace {
            object.set(&["metadata", "namespace"], namespace.as_str());
        }
        if object.str_at(&["metadata", "name"]).is_none() {
            let prefix = object.str_at(&["metadata", "generateName"]).unwrap_or_default().to_owned();
            object.set(&["metadata", "name"], format!("{prefix}{}", self.env.suffix(5)));
        }
        for (field, value) in [("uid", self.env.uuid()), ("creationTimestamp", knarr_core::time::format(self.env.now()))] {
            if object.at(&["metadata", field]).is_none() {
                object.set(&["metadata", field], value);
            }
        }
        if object.get("spec").is_some() && object.at(&["metadata", "generation"]).is_none() {
            object.set(&["metadata", "generation"], 1);
        }
        let key = key_of(&object);
        if self.current(&resource, &key).is_ok() {
            return Err(Status::already_exists(&resource, key.name()));
        }
        Ok(self.put_as_is(&resource, object))
    }

    fn current(&self, resource: &GroupResource, key: &Key) -> Result<Arc<Value>> {
        let state = self.shared.state.lock();
        state.objects.get(resource).and_then(|all| all.get(key)).cloned().ok_or_else(|| Status::not_found(resource, key.name()))
    }

    /// Stores a state under the next resource version, or nothing when nothing changed.
    pub(super) fn put_as_is(&self, resource: &GroupResource, mut object: Value) -> Reply {
        let key = key_of(&object);
        let mut state = self.shared.state.lock();
        let old = state.objects.get(resource).and_then(|all| all.get(&key)).cloned();
        if let Some(old) = &old {
            object.set(&["metadata", "resourceVersion"], old["metadata"]["resourceVersion"].clone());
            if **old == object {
                return Reply::Object(at_rest(&object));
            }
        }
        state.version += 1;
        let version = state.version;
        object.set(&["metadata", "resourceVersion"], version.to_string());
        let new = Arc::new(object);
        state.objects.entry(resource.clone()).or_default().insert(key, new.clone());
        state.history.push(Entry { resource: resource.clone(), version, old, new: Some(new.clone()) });
        drop(state);
        self.shared.changed.send_replace(version);
        Reply::Object(at_rest(&new))
    }

    fn remove(&self, resource: &GroupResource, key: &Key) -> Reply {
        let mut state = self.shared.state.lock();
        let old = state.objects.get_mut(resource).and_then(|all| all.remove(key));
        state.version += 1;
        let version = state.version;
        state.history.push(Entry { resource: resource.clone(), version, old, new: None });
        drop(state);
        self.shared.changed.send_replace(version);
        Reply::Value(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }

    fn update(&self, request: &Request) -> Result<Reply> {
        let (resource, key) = address(request);
        let old = self.current(&resource, &key)?;
        let body = request.body.clone().ok_or_else(|| Status::bad_request("an update needs a body"))?;
        let asked = body.str_at(&["metadata", "resourceVersion"]);
        if asked.is_some_and(|v| old.str_at(&["metadata", "resourceVersion"]) != Some(v)) {
            return Err(Status::modified(&resource, key.name()));
        }
        if body.str_at(&["metadata", "uid"]).is_some_and(|uid| old.str_at(&["metadata", "uid"]) != Some(uid)) {
            return Err(Status::conflict(&resource, key.name(), "the UID in the precondition does not match"));
        }
        Ok(self.replace(request, &resource, &old, body))
    }

    /// Stores what the subresource lets through of `wanted`.
    fn replace(&self, request: &Request, resource: &GroupResource, old: &Value, wanted: Value) -> Reply {
        let mut new = match request.subresource.as_deref() {
            // As upstream: the status of some kinds brings annotations along (the revision of a Deployment).
            Some("status") => {
                with(with(old.clone(), &["status"], wanted["status"].clone()), &["metadata", "annotations"], wanted["metadata"]["annotations"].clone())
            }
            Some("finalize") => with(old.clone(), &["spec", "finalizers"], wanted["spec"]["finalizers"].clone()),
            Some("scale") => with(old.clone(), &["spec", "replicas"], wanted["spec"]["replicas"].clone()),
            _ => keep_system_fields(old, wanted),
        };
        if new.get("spec") != old.get("spec") && resource.resource != "namespaces" {
            new.set(&["metadata", "generation"], old.i64_at(&["metadata", "generation"]).unwrap_or(1) + 1);
        }
        let scale = (request.subresource.as_deref() == Some("scale")).then(|| Reply::Value(scale_of(&new)));
        let reply = if is_finished(resource, &new) {
            // The last finalizer is gone: the answer is the object as it was when it went.
            self.remove(resource, &key_of(&new));
            Reply::Object(at_rest(&new))
        } else {
            self.put_as_is(resource, new)
        };
        scale.unwrap_or(reply)
    }

    fn patch(&self, request: &Request, kind: PatchType) -> Result<Reply> {
        let (resource, key) = address(request);
        let body = request.body.clone().unwrap_or_default();
        let old = match self.current(&resource, &key) {
            Err(e) if e.is_not_found() && kind == PatchType::Apply => return self.create(&Request { verb: Verb::Create, ..request.clone() }),
            other => other?,
        };
        let asked = body.str_at(&["metadata", "resourceVersion"]);
        if asked.is_some_and(|v| old.str_at(&["metadata", "resourceVersion"]) != Some(v)) {
            return Err(Status::modified(&resource, key.name()));
        }
        if body.str_at(&["metadata", "uid"]).is_some_and(|uid| old.str_at(&["metadata", "uid"]) != Some(uid)) {
            return Err(Status::conflict(&resource, key.name(), "the UID in the precondition does not match"));
        }
        let new = patched(request, kind, &old, &body)?;
        Ok(self.replace(request, &resource, &old, new))
    }

    fn bind(&self, request: &Request) -> Result<Reply> {
        let (resource, key) = address(request);
        let pod = self.current(&resource, &key)?;
        if pod.str_at(&["spec", "nodeName"]).is_some_and(|n| !n.is_empty()) {
            return Err(Status::conflict(&resource, key.name(), "pod is already assigned to a node"));
        }
        let node = request.body.as_ref().and_then(|b| b.at(&["target", "name"]).cloned()).unwrap_or_default();
        self.put_as_is(&resource, with((*pod).clone(), &["spec", "nodeName"], node));
        Ok(Reply::Value(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})))
    }

    fn delete(&self, request: &Request) -> Result<Reply> {
        let (resource, key) = address(request);
        let old = self.current(&resource, &key)?;
        let body = request.body.clone().unwrap_or_default();
        let options = body.at(&["deleteOptions"]).unwrap_or(&body);
        for field in ["uid", "resourceVersion"] {
            let wanted = options.str_at(&["preconditions", field]);
            if wanted.is_some_and(|w| old.str_at(&["metadata", field]) != Some(w)) {
                return Err(Status::conflict(&resource, key.name(), format!("the {field} in the precondition does not match")));
            }
        }
        let new = self.marked_for_deletion(&resource, &old, options);
        Ok(if is_finished(&resource, &new) { self.remove(&resource, &key) } else { self.put_as_is(&resource, new) })
    }

    fn marked_for_deletion(&self, resource: &GroupResource, old: &Value, options: &Value) -> Value {
        let mut new = old.clone();
        let finalizer = match options.str_at(&["propagationPolicy"]) {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        let mut finalizers = new.list_at(&["metadata", "finalizers"]).to_vec();
        if let Some(finalizer) = finalizer.filter(|f| !finalizers.iter().any(|x| x == f)) {
            finalizers.push(finalizer.into());
            new.set(&["metadata", "finalizers"], finalizers);
        }
        let is_pod = resource.resource == "pods" && resource.group.is_empty();
        let bound = new.str_at(&["spec", "nodeName"]).is_some_and(|n| !n.is_empty());
        let over = matches!(new.str_at(&["status", "phase"]), Some("Succeeded" | "Failed"));
        let default_grace = if is_pod && bound && !over { new.i64_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(30) } else { 0 };
        let grace = options.i64_at(&["gracePeriodSeconds"]).unwrap_or(default_grace).min(default_grace);
        if new.at(&["metadata", "deletionTimestamp"]).is_none() {
            let at = self.env.now() + std::time::Duration::from_secs(grace.unsigned_abs());
            new.set(&["metadata", "deletionTimestamp"], knarr_core::time::format(at));
        }
        new.set(&["metadata", "deletionGracePeriodSeconds"], grace);
        if resource.resource == "namespaces" {
            new.set(&["status", "phase"], "Terminating");
        }
        new
    }

    fn delete_collection(&self, request: &Request) -> Result<Reply> {
        let filter = Filter::of(request)?;
        let all: Vec<String> = {
            let state = self.shared.state.lock();
            let all = state.objects.get(&filter.resource).into_iter().flat_map(|m| m.values());
            all.filter(|v| filter.accepts(v)).filter_map(|v| v.str_at(&["metadata", "name"]).map(str::to_owned)).collect()
        };
        for name in all {
            self.delete(&Request { name: Some(name), ..request.clone() })?;
        }
        Ok(Reply::Value(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})))
    }
}

/// Being deleted, with nothing left to wait for.
fn is_finished(resource: &GroupResource, object: &Value) -> bool {
    object.at(&["metadata", "deletionTimestamp"]).is_some()
        && object.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default() == 0
        && object.list_at(&["metadata", "finalizers"]).is_empty()
        && (resource.resource != "namespaces" || object.list_at(&["spec", "finalizers"]).is_empty())
}

/// The object after a patch. Apply is taken for a merge: enough for configurations without lists.
fn patched(request: &Request, kind: PatchType, old: &Value, body: &Value) -> Result<Value> {
    let type_id = old.str_at(&["kind"]).and_then(|kind| types::of_kind(&request.resource.group, &request.resource.version, kind));
    Ok(match (kind, type_id) {
        (PatchType::Json, _) => patch::json_patch(old, body)?,
        (PatchType::StrategicMerge, Some(id)) => patch::strategic_merge(id, old, body)?,
        _ => patch::merge_patch(old, body),
    })
}

/// What an update of the object itself cannot change.
fn keep_system_fields(old: &Value, mut wanted: Value) -> Value {
    for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        match old.at(&["metadata", field]) {
            Some(value) => wanted.set(&["metadata", field], value.clone()),
            None => drop(wanted.remove(&["metadata", field])),
        }
    }
    if let Some(status) = old.get("status").filter(|_| old.get("spec").is_some()) {
        wanted.set(&["status"], status.clone());
    }
    wanted
}

fn key_of(object: &Value) -> Key {
    Key::new(object.str_at(&["metadata", "namespace"]).unwrap_or_default(), object.str_at(&["metadata", "name"]).unwrap_or_default())
}

fn with(mut object: Value, path: &[&str], value: impl Into<Value>) -> Value {
    object.set(path, value);
    object
}
