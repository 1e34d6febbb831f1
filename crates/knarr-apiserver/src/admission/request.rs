//! What plugins that reach beyond the object want to know of its request: kinds and versions, equivalent resources, options.
//! Webhooks and policies need it (upstream: the rest of `admission.Attributes`, and `admission.ObjectInterfaces`).

use knarr_core::{GroupVersionKind, GroupVersionResource, Result, Status, Value, ValueExt, json};
use knarr_schema::codec::{self, FieldValidation};

use super::Operation;
use crate::{
    authz::Attributes,
    call::{Call, Input},
    catalog::{Behaviour, Catalog, Served},
    request::Query,
    server::Inner,
    subresource,
};

/// See the module.
#[derive(Clone)]
pub struct Request<'a> {
    pub server: &'a Inner,
    pub catalog: &'a Catalog,
    pub served: &'a Served,
    /// Kind of the object in the version of the request: the resource's, or that of a subresource that has its own.
    pub kind: GroupVersionKind,
    /// Absent for requests that connect.
    pub call: Option<&'a Call>,
}

impl<'a> Request<'a> {
    pub fn new(server: &'a Inner, catalog: &'a Catalog, served: &'a Served, subresource: &str, call: Option<&'a Call>) -> Self {
        Self { server, catalog, served, kind: kind(served, subresource), call }
    }

    pub fn resource(&self) -> GroupVersionResource {
        self.served.resource.gvr()
    }

    /// The same objects under other resources and versions, each with the kind that the subresource has there
    /// (upstream: `EquivalentResourceRegistry`).
    pub fn equivalents(&self, subresource: &str) -> Vec<(GroupVersionResource, GroupVersionKind)> {
        let same = |r: &&std::sync::Arc<knarr_schema::registry::Resource>| r.storage.0 == self.served.key.group && r.plural == self.served.key.resource;
        let others = self.catalog.registry.all().iter().filter(same).filter(|r| r.gvr() != self.resource());
        let served = others.filter_map(|r| self.catalog.find(&r.group, &r.version, &r.plural));
        let has = |s: &&std::sync::Arc<Served>| subresource.is_empty() || s.resource.subresource(subresource).is_some();
        served.filter(has).map(|s| (s.resource.gvr(), kind(s, subresource))).collect()
    }

    fn served_as(&self, wanted: &GroupVersionKind) -> Option<&Served> {
        if *wanted == self.served.gvk {
            return Some(self.served);
        }
        let resource = self.catalog.registry.by_kind(&wanted.group, &wanted.version, &wanted.kind)?;
        let found = self.catalog.find(&resource.group, &resource.version, &resource.plural)?;
        (found.key == self.served.key).then_some(&**found)
    }

    /// An object under review as `wanted`: in another version, or the side of it that the subresource shows.
    ///
    /// # Errors
    /// When the versions cannot be converted.
    pub fn present(&self, object: &Value, wanted: &GroupVersionKind, subresource: &str) -> Result<Value> {
        if subresource == "scale" {
            return Ok(subresource::scale::view(&self.served.resource, object));
        }
        match self.served_as(wanted) {
            Some(served) => served.to_served(object.clone()),
            None => Ok(object.clone()),
        }
    }

    /// The way back of [`Self::present`]; `under` is the object under review as it was.
    ///
    /// # Errors
    /// When the versions cannot be converted.
    pub fn take_back(&self, changed: Value, wanted: &GroupVersionKind, subresource: &str, under: &Value) -> Result<Value> {
        if subresource == "scale" {
            let mut object = under.clone();
            subresource::scale::put(&self.served.resource, &mut object, &changed);
            return Ok(object);
        }
        match self.served_as(wanted) {
            Some(served) => served.convert(changed, &self.served.hub),
            None => Ok(changed),
        }
    }

    /// Reads what a plugin made of an object as if it had been sent, and fills in defaults.
    ///
    /// # Errors
    /// When it is no object of the kind any more.
    pub fn conform(&self, object: Value, wanted: &GroupVersionKind) -> Result<Value> {
        let served = self.served_as(wanted);
        if let Some(served) = served
            && let Behaviour::Custom(strategy) = &served.strategy
        {
            let mut object = object;
            strategy.conform(&mut object, FieldValidation::Ignore)?;
            served.strategy.default(&mut object);
            return Ok(object);
        }
        let bytes = serde_json::to_vec(&object).map_err(Status::internal)?;
        let mut object = codec::decode_json_kind(wanted, &bytes, FieldValidation::Ignore)?.value;
        if let Some(served) = served {
            if let Some(type_id) = served.resource.type_id {
                codec::apply_declared_defaults(type_id, &mut object);
            }
            served.strategy.default(&mut object);
        }
        Ok(object)
    }

    /// `CreateOptions`, `UpdateOptions` or `DeleteOptions` of the request; `null` for one that connects.
    pub fn options(&self, operation: Operation) -> Value {
        let Some(call) = self.call else { return Value::Null };
        let kind = match operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => return delete_options(call),
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if call.options.dry_run {
            options.set(&["dryRun"], json!(["All"]));
        }
        if let Some(manager) = &call.options.field_manager {
            options.set(&["fieldManager"], manager.as_str());
        }
        if let Some(validation) = &call.options.field_validation {
            options.set(&["fieldValidation"], validation.as_str());
        }
        options
    }
}

fn kind(served: &Served, subresource: &str) -> GroupVersionKind {
    match served.resource.subresource(subresource) {
        None => served.gvk.clone(),
        Some(sub) => match &sub.response {
            Some((group, version)) => GroupVersionKind::new(group, version, &sub.kind),
            None => GroupVersionKind::new(&served.resource.group, &served.resource.version, &sub.kind),
        },
    }
}

fn delete_options(call: &Call) -> Value {
    let sent = match &call.input {
        Input::Tree(tree) => tree.clone(),
        Input::Encoded { media: crate::http::Media::Json, bytes } => codec::parse_json(bytes).unwrap_or_default(),
        Input::Encoded { media: crate::http::Media::Protobuf, bytes } => codec::decode_protobuf(bytes).map(|(_, value)| value).unwrap_or_default(),
        Input::Encoded { media: crate::http::Media::Cbor, bytes } => codec::decode_cbor(bytes).unwrap_or_default(),
        _ => Value::Null,
    };
    let mut options = if sent.is_object() { sent } else { json!({}) };
    options.set(&["kind"], "DeleteOptions");
    options.set(&["apiVersion"], "meta.k8s.io/v1");
    if let Some(seconds) = call.query.get("gracePeriodSeconds").and_then(|s| s.parse::<i64>().ok()) {
        options.set(&["gracePeriodSeconds"], seconds);
    }
    if let Some(policy) = call.query.get("propagationPolicy") {
        options.set(&["propagationPolicy"], policy);
    }
    if call.options.dry_run {
        options.set(&["dryRun"], json!(["All"]));
    }
    options
}

/// The options object of a request that connects (`PodExecOptions` and its like), out of its query.
pub fn connect_options(kind: &GroupVersionKind, attributes: &Attributes, query: &str) -> Value {
    let query = Query::parse(query);
    let mut options = json!({"kind": kind.kind, "apiVersion": kind.api_version()});
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if query.get(flag).is_some_and(crate::request::parse_bool) {
            options.set(&[flag], true);
        }
    }
    match attributes.subresource.as_str() {
        "exec" | "attach" => {
            if let Some(container) = query.get("container").filter(|c| !c.is_empty()) {
                options.set(&["container"], container);
            }
            let command: Vec<&str> = query.all("command").collect();
            if !command.is_empty() {
                options.set(&["command"], command);
            }
        }
        "portforward" => {
            let ports: Vec<i64> = query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.trim().parse().ok()).collect();
            if !ports.is_empty() {
                options.set(&["ports"], ports);
            }
        }
        _ => options.set(&["path"], query.get("path").unwrap_or_default()),
    }
    options
}
