//! The four patches (upstream: `endpoints/handlers/patch.go`). Each is a [`Change`] that is made anew from the stored object
//! when the swap was lost.

use knarr_core::{
    GroupVersionKind, Map, Reason, Result, Status, Value, ValueExt,
    api::PatchType,
    field::{self, Path},
    yaml,
};
use knarr_schema::{
    apply,
    codec::{self, Decoded, FieldValidation},
    patch as patches,
};

use super::{Writer, decode, meta, replace, update::Change};
use crate::{
    call::{Exchange, Input, Outcome},
    http::{self, Media},
    request::validate_write_options,
};

/// Patches an object.
///
/// # Errors
/// 415 for a kind of patch that the resource does not take; whatever refuses the result.
pub async fn patch(ex: &Exchange<'_>) -> Result<Outcome> {
    let patch_type = ex.call.patch.ok_or_else(|| unsupported(ex))?;
    if patch_type == PatchType::StrategicMerge && ex.served.resource.custom.is_some() {
        return Err(unsupported(ex));
    }
    let name = ex.name()?;
    validate_write_options(&ex.call.options, "PatchOptions", patch_type == PatchType::Apply)?;
    let sent = read(ex, patch_type)?;
    if let Some(record) = &ex.call.record {
        record.request_patch(|| match &ex.call.input {
            Input::Encoded { bytes, .. } if patch_type != PatchType::Apply => bytes.clone(),
            _ => sent.body().map(codec::encode_json).unwrap_or_default().into(),
        });
    }
    replace(&Writer::new(ex), name, &Patch { patch_type, sent }).await
}

/// The types of patches that custom resources take.
const CUSTOM_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// 415 of a patch that the resource does not take.
fn unsupported(ex: &Exchange<'_>) -> Status {
    match (ex.served.resource.custom.is_some(), ex.server.config.codecs.cbor) {
        (true, true) => http::unsupported(&format!("{CUSTOM_TYPES}, application/apply-patch+cbor")),
        (true, false) => http::unsupported(CUSTOM_TYPES),
        (false, _) => http::unsupported_patch(),
    }
}

/// A patch as the client sent it. What is wrong with it, as long as it is JSON at all, is told only where it is to be applied: who
/// patches what is not there learns that.
pub struct Sent {
    body: Result<Value>,
    /// What a strict decoder says of it.
    complaints: Vec<String>,
}

impl Sent {
    /// # Errors
    /// `BadRequest` for what is no patch of its type.
    pub fn body(&self) -> Result<&Value> {
        self.body.as_ref().map_err(Clone::clone)
    }
}

/// Reads the patch.
///
/// # Errors
/// `BadRequest` for what is neither JSON nor, of an apply, YAML.
pub fn read(ex: &Exchange<'_>, patch_type: PatchType) -> Result<Sent> {
    let bytes = match &ex.call.input {
        Input::Tree(tree) => return Ok(Sent { body: Ok(tree.clone()), complaints: Vec::new() }),
        Input::None => &[][..],
        Input::Encoded { media: Media::Cbor, bytes } => return read_apply_cbor(bytes),
        Input::Encoded { bytes, .. } => bytes,
    };
    let mut sent = if patch_type == PatchType::Apply { read_apply(bytes)? } else { read_json(bytes, patch_type)? };
    if decode::field_validation(ex) == FieldValidation::Ignore {
        sent.complaints.clear();
    }
    Ok(sent)
}

fn read_json(bytes: &[u8], patch_type: PatchType) -> Result<Sent> {
    if !codec::is_json(bytes) {
        return Err(Status::bad_request("invalid JSON patch"));
    }
    let undecodable = |why: &str| {
        let context = if patch_type == PatchType::StrategicMerge { "" } else { "error decoding patch: " };
        Status::bad_request(format!("{context}{why}"))
    };
    let Decoded { value, warnings: mut complaints } = match codec::parse_json_strict(bytes) {
        Ok(decoded) => decoded,
        Err(why) => return Ok(Sent { body: Err(undecodable(&why)), complaints: Vec::new() }),
    };
    let body = match (patch_type, value) {
        (PatchType::Json, patch @ Value::Array(_)) | (PatchType::Merge | PatchType::StrategicMerge, patch @ Value::Object(_)) => Ok(patch),
        // Go makes nothing of null, and only the merge of JSON minds.
        (PatchType::Json, Value::Null) => Ok(Value::Array(Vec::new())),
        (PatchType::StrategicMerge, Value::Null) => Ok(Value::Object(Map::new())),
        (_, Value::Null) => Err(Status::bad_request("Invalid JSON Patch")),
        (PatchType::Json, other) => Err(undecodable(&not_a(&other, "[]handlers.jsonPatchOp"))),
        (_, other) => Err(undecodable(&not_a(&other, MAP))),
    };
    if patch_type == PatchType::Json {
        complaints.iter_mut().for_each(|c| c.insert_str(0, "json patch "));
    }
    Ok(Sent { body, complaints })
}

const MAP: &str = "map[string]interface {}";

/// Most appliers send JSON, which is read faster as such, unless YAML's reader has something to say of it. Upstream turns what is
/// no JSON into it before anything else, and reads what is as YAML in the end.
fn read_apply(bytes: &[u8]) -> Result<Sent> {
    let text = String::from_utf8_lossy(bytes);
    let has_surrogates = yaml::has_surrogates(&text);
    if let Ok(Decoded { value: value @ Value::Object(_), warnings }) = codec::parse_json_strict(bytes)
        && warnings.is_empty()
        && !has_surrogates
    {
        return Ok(Sent { body: Ok(value), complaints: Vec::new() });
    }
    let as_json = text.trim_start().starts_with('{');
    let document = match yaml::parse_document(&text) {
        Ok(_) if as_json && has_surrogates => Err("yaml: found invalid Unicode character escape code".to_owned()),
        read => read,
    };
    let bad = |why: &str| Status::bad_request(format!("error decoding patch: {why}"));
    let yaml::Document { value, duplicates } = match document {
        Ok(document) => document,
        Err(why) if as_json => {
            let body = Err(bad(&format!("error converting YAML to JSON: {why}")));
            return Ok(Sent { body, complaints: Vec::new() });
        }
        Err(why) => return Err(Status::bad_request(format!("error encoding patch: {why}"))),
    };
    let body = match value {
        Value::Object(_) => Ok(value),
        Value::Null => Ok(Value::Object(Map::new())),
        other => Err(bad(&format!("error unmarshaling JSON: while decoding JSON: {}", not_a(&other, MAP)))),
    };
    Ok(Sent { body, complaints: duplicates })
}

fn read_apply_cbor(bytes: &[u8]) -> Result<Sent> {
    let bad = |why: String| Status::bad_request(format!("error decoding patch: {why}"));
    match codec::decode_cbor(bytes).map_err(bad)? {
        value @ Value::Object(_) => Ok(Sent { body: Ok(value), complaints: Vec::new() }),
        Value::Null => Ok(Sent { body: Ok(Value::Object(Map::new())), complaints: Vec::new() }),
        other => Err(bad(format!("cbor: cannot unmarshal {} into Go value of type {MAP}", kind_of(&other)))),
    }
}

/// What CBOR calls a value.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null | Value::Bool(_) => "primitives",
        Value::Number(n) if n.is_f64() => "primitives",
        Value::Number(n) if n.is_i64() && n.as_i64() < Some(0) => "negative integer",
        Value::Number(_) => "positive integer",
        Value::String(_) => "byte string",
        Value::Array(_) => "array",
        Value::Object(_) => "map",
    }
}

/// What upstream's reader says of a document of the wrong type.
fn not_a(value: &Value, go_type: &str) -> String {
    let what = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    format!("json: cannot unmarshal {what} into Go value of type {go_type}")
}

/// A patch, ready to be applied as often as it takes.
struct Patch {
    patch_type: PatchType,
    sent: Sent,
}

impl Change for Patch {
    fn apply(&self, writer: &Writer<'_>, live: Option<&Value>) -> Result<Value> {
        let ex = writer.ex;
        let mut new = match (self.patch_type, live) {
            (PatchType::Apply, live) => self.server_side(writer, live)?,
            (_, None) => return Err(writer.not_found(&ex.call.info.name)),
            (_, Some(live)) => {
                let body = self.sent.body()?;
                let mut new = self.checked(ex, &self.client_side(ex, live, body)?, || self.shown(live, body))?;
                writer.track(Some(live), &mut new);
                new
            }
        };
        meta::require_name(&new, &ex.call.info.name)?;
        meta::ensure_name(&mut new, &ex.call.info.name)?;
        meta::ensure_namespace(&mut new, if ex.served.is("", "namespaces") { "" } else { ex.namespace() })?;
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
    fn client_side(&self, ex: &Exchange<'_>, live: &Value, body: &Value) -> Result<Value> {
        match (self.patch_type, ex.served.resource.type_id) {
            (PatchType::Json, _) => patches::json_patch(live, body),
            (PatchType::StrategicMerge, Some(type_id)) => patches::strategic_merge(type_id, live, body),
            _ => Ok(patches::merge_patch(live, body)),
        }
    }

    /// The patched object as errors show it.
    fn shown(&self, live: &Value, body: &Value) -> Option<Vec<u8>> {
        (self.patch_type == PatchType::Merge).then(|| patches::merge_patch_text(&codec::encode_json(live), body))
    }

    /// Reads the patched object as if it had been sent: unknown fields go, types are checked. What a strict decoder said of the patch is
    /// told with what it says of the object.
    fn checked(&self, ex: &Exchange<'_>, patched: &Value, shown: impl Fn() -> Option<Vec<u8>>) -> Result<Value> {
        let shown = || shown().unwrap_or_else(|| codec::encode_json(patched));
        let complaints = &self.sent.complaints;
        let validation = decode::field_validation(ex);
        let refused = validation == FieldValidation::Strict && !complaints.is_empty();
        let decoded = codec::decode_value(&ex.served.resource, patched, if refused { FieldValidation::Warn } else { validation });
        let decoded = decoded.map_err(|e| unreadable(&e, &shown()))?;
        let told: Vec<String> = complaints.iter().cloned().chain(decoded.warnings).collect();
        if refused {
            return Err(invalid_patch(&format!("strict decoding error: {}", told.join(", ")), &shown()));
        }
        ex.warn_all(told);
        let mut value = decoded.value;
        decode::conform(ex, &mut value)?;
        ex.served.strategy.readable(&value).map_err(|why| match self.patch_type {
            // Upstream lets it through as it is.
            PatchType::StrategicMerge => Status::new(500, Reason::Unknown, why),
            _ => invalid_patch(&why, &shown()),
        })?;
        decode::defaults(ex, &mut value);
        Ok(value)
    }

    /// Apply fills in what the schema declares first, so that map keys with defaults are found.
    fn server_side(&self, writer: &Writer<'_>, live: Option<&Value>) -> Result<Value> {
        let ex = writer.ex;
        let force = ex.call.options.force.unwrap_or(false);
        let mut new = apply::apply(&ex.served.resource, live, self.sent.body()?, writer.manager(), force)?;
        let complaints = &self.sent.complaints;
        if decode::field_validation(ex) == FieldValidation::Strict && !complaints.is_empty() {
            let why = complaints.join("\n  ");
            return Err(Status::bad_request(format!("error strict decoding patch: error converting YAML to JSON: yaml: unmarshal errors:\n  {why}")));
        }
        ex.warn_all(complaints.clone());
        new.set(&["kind"], ex.served.gvk.kind.as_str());
        new.set(&["apiVersion"], ex.served.gvk.api_version());
        decode::conform_applied(ex, &mut new)?;
        decode::readable_applied(ex, &new, self.sent.body()?)?;
        decode::defaults(ex, &mut new);
        Ok(new)
    }
}

/// A patch makes something that cannot be read.
pub fn unreadable(why: &Status, shown: &[u8]) -> Status {
    invalid_patch(why.message.split_once(": ").map_or(why.message.as_str(), |(_, why)| why), shown)
}

fn invalid_patch(why: &str, shown: &[u8]) -> Status {
    let shown = String::from_utf8_lossy(shown).into_owned();
    Status::invalid(&GroupVersionKind::new("", "", ""), "", &[field::Error::invalid(&Path::new("patch"), shown, why)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str, patch_type: PatchType) -> String {
        let sent = if patch_type == PatchType::Apply { read_apply(body.as_bytes()) } else { read_json(body.as_bytes(), patch_type) };
        match sent.map(|s| (s.body.map(|b| b.to_string()), s.complaints)) {
            Err(at_once) => format!("at once: {}", at_once.message),
            Ok((Err(later), _)) => format!("later: {}", later.message),
            Ok((Ok(body), complaints)) => format!("{body} {}", complaints.join(", ")).trim_end().to_owned(),
        }
    }

    #[test]
    fn a_patch_in_json_is_read_as_go_reads_each_type() {
        use PatchType::{Json, Merge, StrategicMerge};
        for (body, patch_type, wanted) in [
            ("{", Merge, "at once: invalid JSON patch"),
            ("null", Json, "[]"),
            ("null", StrategicMerge, "{}"),
            ("null", Merge, "later: Invalid JSON Patch"),
            ("[]", Merge, "later: error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"),
            ("[]", StrategicMerge, "later: json: cannot unmarshal array into Go value of type map[string]interface {}"),
            ("{}", Json, "later: error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
            (r#"{"a":1e400}"#, Merge, "later: error decoding patch: json: cannot unmarshal number 1e400 into Go value of type float64"),
            (r#"{"a":1,"a":2}"#, Merge, r#"{"a":2} duplicate field "a""#),
        ] {
            assert_eq!(told(body, patch_type), wanted, "{body}");
        }
    }

    #[test]
    fn an_apply_is_read_as_yaml_whatever_it_is() {
        for (body, wanted) in [
            ("", "{}"),
            ("null", "{}"),
            (r#"{"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2} line 1: key "a" already set in map"#),
            (r#"{"a":"\ud83d\ude00"}"#, "later: error decoding patch: error converting YAML to JSON: yaml: found invalid Unicode character escape code"),
            ("{", "later: error decoding patch: error converting YAML to JSON: yaml: line 1: did not find expected node content"),
            ("x: [", "at once: error encoding patch: yaml: line 1: did not find expected node content"),
            (
                "text",
                "later: error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go value of type map[string]interface {}",
            ),
        ] {
            assert_eq!(told(body, PatchType::Apply), wanted, "{body}");
        }
    }
}
