//! The four patches (upstream: `endpoints/handlers/patch.go`). Each is a [`Change`] that is made anew from the stored object
//! when the swap was lost.

use knarr_core::{
    GroupVersionKind, Result, Status, Value, ValueExt,
    api::PatchType,
    field::{self, Path},
    yaml,
};
use knarr_schema::{
    apply,
    codec::{self, FieldValidation},
    patch as patches,
};

use super::{Writer, decode, meta, replace, update::Change};
use crate::{
    call::{Exchange, Input, Outcome},
    http,
    request::validate_write_options,
};

/// Patches an object.
///
/// # Errors
/// 415 for a kind of patch that the resource does not take; whatever refuses the result.
pub async fn patch(ex: &Exchange<'_>) -> Result<Outcome> {
    let patch_type = ex.call.patch.ok_or_else(unsupported)?;
    if patch_type == PatchType::StrategicMerge && ex.served.resource.custom.is_some() {
        return Err(unsupported());
    }
    let name = ex.name()?;
    validate_write_options(&ex.call.options, "PatchOptions", patch_type == PatchType::Apply)?;
    let body = read(ex, patch_type)?;
    if let Some(record) = &ex.call.record {
        record.request_patch(|| match &ex.call.input {
            Input::Encoded { bytes, .. } if patch_type != PatchType::Apply => bytes.clone(),
            _ => codec::encode_json(&body).into(),
        });
    }
    replace(&Writer::new(ex), name, &Patch { patch_type, body }).await
}

/// 415 of a patch that the resource does not take.
pub fn unsupported() -> Status {
    http::unsupported_patch()
}

/// The patch itself as a tree.
///
/// # Errors
/// `BadRequest` for what is no patch of its type.
pub fn read(ex: &Exchange<'_>, patch_type: PatchType) -> Result<Value> {
    let bytes = match &ex.call.input {
        Input::Tree(tree) => return Ok(tree.clone()),
        Input::None => &[][..],
        Input::Encoded { bytes, .. } => bytes,
    };
    if patch_type != PatchType::Apply {
        let patch = codec::parse_json(bytes).map_err(|_| Status::bad_request("invalid JSON patch"))?;
        return match (patch_type, &patch) {
            (PatchType::Json, Value::Array(_)) | (PatchType::Merge | PatchType::StrategicMerge, Value::Object(_)) => Ok(patch),
            (PatchType::Json, _) => Err(not_a(&patch, "[]handlers.jsonPatchOp")),
            _ => Err(not_a(&patch, "map[string]interface {}")),
        };
    }
    let bad = |why: String| Status::bad_request(format!("error decoding patch: {why}"));
    // Most appliers send JSON, which is read faster as such.
    if let Ok(value @ Value::Object(_)) = codec::parse_json(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| bad(e.to_string()))?;
    let document = yaml::parse_document(text).map_err(|e| Status::bad_request(format!("error encoding patch: {}", without_line(&e))))?;
    if !document.value.is_object() {
        return Err(bad("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal into Go value of type map[string]interface {}".into()));
    }
    for duplicate in document.duplicates {
        let text = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {duplicate}");
        match decode::field_validation(ex) {
            FieldValidation::Strict => return Err(Status::bad_request(format!("error strict decoding patch: {text}"))),
            FieldValidation::Warn => ex.warn(text),
            FieldValidation::Ignore => {}
        }
    }
    Ok(document.value)
}

/// What upstream's reader says of a document of the wrong type.
fn not_a(value: &Value, go_type: &str) -> Status {
    let what = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    Status::bad_request(format!("error decoding patch: json: cannot unmarshal {what} into Go value of type {go_type}"))
}

/// Trouble on the first line is told without the line.
fn without_line(why: &str) -> String {
    why.replacen("yaml: line 1: ", "yaml: ", 1)
}

/// A patch, ready to be applied as often as it takes.
pub struct Patch {
    pub patch_type: PatchType,
    pub body: Value,
}

impl Change for Patch {
    fn apply(&self, writer: &Writer<'_>, live: Option<&Value>) -> Result<Value> {
        let ex = writer.ex;
        let mut new = match (self.patch_type, live) {
            (PatchType::Apply, live) => self.server_side(writer, live)?,
            (_, None) => return Err(writer.not_found(&ex.call.info.name)),
            (_, Some(live)) => {
                let mut new = checked(ex, &self.client_side(ex, live)?, || self.shown(live))?;
                writer.track(Some(live), &mut new);
                new
            }
        };
        meta::ensure_namespace(&mut new, if ex.served.is("", "namespaces") { "" } else { ex.namespace() })?;
        meta::ensure_name(&mut new, &ex.call.info.name)?;
        meta::dedup_owners(ex, &mut new, false);
        if live.is_none()
            && let Some(uid) = new.str_at(&["metadata", "uid"]).filter(|u| !u.is_empty())
        {
            let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Status::conflict(&ex.served.group_resource, &ex.call.info.name, why));
        }
        Ok(new)
    }

    fn may_create(&self) -> bool {
        self.patch_type == PatchType::Apply
    }
}

impl Patch {
    fn client_side(&self, ex: &Exchange<'_>, live: &Value) -> Result<Value> {
        match (self.patch_type, ex.served.resource.type_id) {
            (PatchType::Json, _) => patches::json_patch(live, &self.body),
            (PatchType::StrategicMerge, Some(type_id)) => patches::strategic_merge(type_id, live, &self.body),
            _ => Ok(patches::merge_patch(live, &self.body)),
        }
    }

    /// The patched object as errors show it.
    fn shown(&self, live: &Value) -> Option<Vec<u8>> {
        (self.patch_type == PatchType::Merge).then(|| patches::merge_patch_text(&codec::encode_json(live), &self.body))
    }

    /// Apply fills in what the schema declares first, so that map keys with defaults are found.
    fn server_side(&self, writer: &Writer<'_>, live: Option<&Value>) -> Result<Value> {
        let ex = writer.ex;
        let force = ex.call.options.force.unwrap_or(false);
        let mut new = apply::apply(&ex.served.resource, live, &self.body, writer.manager(), force)?;
        new.set(&["kind"], ex.served.gvk.kind.as_str());
        new.set(&["apiVersion"], ex.served.gvk.api_version());
        decode::conform_applied(ex, &mut new)?;
        decode::defaults(ex, &mut new);
        Ok(new)
    }
}

/// Reads the patched object as if it had been sent: unknown fields go, types are checked.
fn checked(ex: &Exchange<'_>, patched: &Value, shown: impl FnOnce() -> Option<Vec<u8>>) -> Result<Value> {
    let decoded = codec::decode_value(&ex.served.resource, patched, decode::field_validation(ex))
        .map_err(|e| unreadable(&e, &shown().unwrap_or_else(|| codec::encode_json(patched))))?;
    ex.warn_all(decoded.warnings);
    let mut value = decoded.value;
    decode::conform(ex, &mut value)?;
    decode::defaults(ex, &mut value);
    Ok(value)
}

/// A patch makes something that cannot be read.
pub fn unreadable(why: &Status, shown: &[u8]) -> Status {
    let shown = String::from_utf8_lossy(shown).into_owned();
    let why = why.message.split_once(": ").map_or(why.message.as_str(), |(_, why)| why).to_owned();
    Status::invalid(&GroupVersionKind::new("", "", ""), "", &[field::Error::invalid(&Path::new("patch"), shown, why)])
}
