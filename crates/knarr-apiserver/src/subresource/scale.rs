//! `scale`: the number of replicas of whatever has some (upstream: `ScaleREST` of each workload, and of custom resources).

use knarr_core::{
    GroupVersionKind, Result, Status, Value, ValueExt,
    api::PatchType,
    field::{self, Path},
    json,
    selector::LabelSelector,
};
use knarr_schema::{apply, codec, patch as patches, registry::Resource, types};

use crate::{
    call::{Exchange, Outcome},
    read,
    write::{self, Writer, decode, meta, patch},
};

/// Serves all verbs of the subresource.
///
/// # Errors
/// As those of the object itself.
pub async fn serve(ex: &Exchange<'_>) -> Result<Outcome> {
    let paths = Paths::of(&ex.served.resource);
    if ex.call.info.verb == "get" {
        let item = read::item(ex, ex.name()?).await?;
        let object = ex.served.read(&item.object())?;
        return Ok(Outcome::Scale { served: ex.served.clone(), scale: paths.scale_of(&object), code: 200 });
    }
    let wish = match ex.call.patch {
        None => Wish::Put(decode::other(ex, &GroupVersionKind::new("autoscaling", "v1", "Scale"))?),
        Some(patch_type) => Wish::Patch(patch_type, patch::read(ex, patch_type)?),
    };
    if let Wish::Put(scale) = &wish {
        meta::require_name(scale, ex.name()?)?;
    }
    let change = Rescale { paths, wish };
    match write::replace(&Writer::new(ex), ex.name()?, &change).await? {
        Outcome::Object { object, code, .. } => {
            let object = ex.served.read(&object)?;
            Ok(Outcome::Scale { served: ex.served.clone(), scale: change.paths.scale_of(&object), code })
        }
        other => Ok(other),
    }
}

/// Where an object keeps what a scale shows.
struct Paths {
    replicas: Vec<String>,
    status_replicas: Vec<String>,
    selector: Selector,
}

enum Selector {
    /// `metav1.LabelSelector`.
    Labels(&'static [&'static str]),
    /// A plain map of labels.
    Map(&'static [&'static str]),
    /// A string in a custom resource.
    Text(Vec<String>),
}

/// `.spec.replicas` as steps.
fn steps(path: &str) -> Vec<String> {
    path.split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |v, key| v.get(key)).filter(|v| !v.is_null())
}

impl Paths {
    fn of(resource: &Resource) -> Self {
        if let Some((replicas, status_replicas, selector)) = resource.custom.as_ref().and_then(|c| c.scale.clone()) {
            let selector = Selector::Text(selector.as_deref().map(steps).unwrap_or_default());
            return Self { replicas: steps(&replicas), status_replicas: steps(&status_replicas), selector };
        }
        let selector = &["spec", "selector"];
        let selector = if resource.plural == "replicationcontrollers" { Selector::Map(selector) } else { Selector::Labels(selector) };
        Self { replicas: steps("spec.replicas"), status_replicas: steps("status.replicas"), selector }
    }

    fn selector_text(&self, object: &Value) -> String {
        match &self.selector {
            Selector::Labels(path) => LabelSelector::from_value(object.at(path)).map(|s| s.to_string()).unwrap_or_default(),
            Selector::Map(path) => LabelSelector::from_map(object.at(path)).to_string(),
            Selector::Text(path) if path.is_empty() => String::new(),
            Selector::Text(path) => at(object, path).and_then(Value::as_str).unwrap_or_default().to_owned(),
        }
    }

    fn scale_of(&self, object: &Value) -> Value {
        let mut metadata = json!({});
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object.at(&["metadata", field]) {
                metadata.set(&[field], value.clone());
            }
        }
        let number = |path: &[String]| at(object, path).and_then(Value::as_i64).unwrap_or(0);
        let mut scale = json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {}, "status": {"replicas": number(&self.status_replicas)},
        });
        let replicas = number(&self.replicas);
        if replicas != 0 {
            scale.set(&["spec", "replicas"], replicas);
        }
        let selector = self.selector_text(object);
        if !selector.is_empty() {
            scale.set(&["status", "selector"], selector);
        }
        scale
    }
}

/// The scale of an object, as admission sees it.
pub fn view(resource: &Resource, object: &Value) -> Value {
    Paths::of(resource).scale_of(object)
}

/// Puts the wish of a scale into the object.
pub fn put(resource: &Resource, object: &mut Value, scale: &Value) {
    let paths = Paths::of(resource);
    let path: Vec<&str> = paths.replicas.iter().map(String::as_str).collect();
    object.set(&path, scale.i64_at(&["spec", "replicas"]).unwrap_or(0));
}

enum Wish {
    Put(Value),
    Patch(PatchType, patch::Sent),
}

struct Rescale {
    paths: Paths,
    wish: Wish,
}

impl Rescale {
    fn is_apply(&self) -> bool {
        matches!(self.wish, Wish::Patch(PatchType::Apply, _))
    }

    fn wanted(&self, ex: &Exchange<'_>, old: &Value) -> Result<Value> {
        let (patch_type, body) = match &self.wish {
            Wish::Put(scale) => return Ok(scale.clone()),
            Wish::Patch(patch_type, sent) => (*patch_type, sent.body()?),
        };
        let patched = match (patch_type, types::of_kind("autoscaling", "v1", "Scale")) {
            (PatchType::Apply, _) => return Ok(patches::merge_patch(old, body)),
            (PatchType::Json, _) => patches::json_patch(old, body)?,
            (PatchType::StrategicMerge, Some(type_id)) => patches::strategic_merge(type_id, old, body)?,
            _ => patches::merge_patch(old, body),
        };
        let json = serde_json::to_vec(&patched).map_err(Status::internal)?;
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        let shown = || match patch_type {
            PatchType::Merge => patches::merge_patch_text(&codec::encode_json(old), body),
            _ => codec::encode_json(&patched),
        };
        let decoded = codec::decode_json_kind(&kind, &json, decode::field_validation(ex)).map_err(|e| patch::unreadable(&e, &shown()))?;
        ex.warn_all(decoded.warnings);
        Ok(decoded.value)
    }
}

impl write::Change for Rescale {
    fn apply(&self, writer: &Writer<'_>, live: Option<&Value>) -> Result<Value> {
        let name = writer.ex.name()?;
        let Some(live) = live else { return Err(writer.not_found(name)) };
        let mut old = self.paths.scale_of(live);
        owned(&mut old, live, &self.paths.replicas);
        let mut scale = self.wanted(writer.ex, &old)?;
        meta::ensure_name(&mut scale, name)?;
        meta::ensure_namespace(&mut scale, writer.ex.namespace())?;
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        let replicas = match scale.at(&["spec", "replicas"]) {
            None => 0,
            Some(value) => value.as_i64().ok_or_else(|| {
                Status::bad_request("Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal string into Go struct field ScaleSpec.spec.replicas of type int32")
            })?,
        };
        if replicas < 0 {
            let error = field::Error::invalid(&Path::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
            return Err(Status::invalid(&kind, name, &[error]));
        }
        let path: Vec<&str> = self.paths.replicas.iter().map(String::as_str).collect();
        let mut new = live.clone();
        if self.is_apply() {
            new = applied(writer, live, &path, replicas)?;
        } else {
            new.set(&path, replicas);
        }
        let version = scale.str_at(&["metadata", "resourceVersion"]).unwrap_or_default();
        new.set(&["metadata", "resourceVersion"], version);
        let wanted = scale.str_at(&["metadata", "uid"]).unwrap_or_default();
        if !wanted.is_empty() && Some(wanted) != live.str_at(&["metadata", "uid"]) {
            return Err(Status::modified(&writer.ex.served.group_resource, name));
        }
        if !self.is_apply() {
            writer.track(Some(live), &mut new);
        }
        Ok(new)
    }
}

/// Tells in a scale who owns its replicas, as far as the object tells (upstream: `ScaleHandler.ToSubresource`).
fn owned(scale: &mut Value, live: &Value, replicas: &[String]) {
    let place: Vec<String> = std::iter::once("fieldsV1".to_owned()).chain(replicas.iter().map(|step| format!("f:{step}"))).collect();
    let own = |entry: &&Value| at(entry, &place).is_some();
    let entries = live.list_at(&["metadata", "managedFields"]).iter().filter(own).map(|entry| {
        let mut entry = entry.clone();
        entry.set(&["apiVersion"], "autoscaling/v1");
        entry.set(&["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
        entry
    });
    let entries: Vec<Value> = entries.collect();
    if !entries.is_empty() {
        scale.set(&["metadata", "managedFields"], entries);
    }
}

/// Replicas that are applied belong to who applies them.
fn applied(writer: &Writer<'_>, live: &Value, path: &[&str], replicas: i64) -> Result<Value> {
    let ex = writer.ex;
    let mut config = json!({"kind": ex.served.gvk.kind, "apiVersion": ex.served.gvk.api_version(), "metadata": {"name": ex.name()?}});
    if ex.served.resource.namespaced {
        config.set(&["metadata", "namespace"], ex.namespace());
    }
    config.set(path, replicas);
    apply::apply(&ex.served.resource, Some(live), &config, writer.manager(), ex.call.options.force.unwrap_or(false))
}
