//! From the body of a request to a tree of the wanted kind.

use knarr_core::{GroupVersionKind, Reason, Result, Status, Value, ValueExt, yaml};
use knarr_schema::codec::{self, FieldValidation};

use crate::{
    call::{Exchange, Input},
    catalog::Behaviour,
    http::Media,
};

/// How strictly unknown and duplicate fields are taken (`fieldValidation`).
pub fn field_validation(ex: &Exchange<'_>) -> FieldValidation {
    match ex.call.options.field_validation.as_deref() {
        Some("Ignore") => FieldValidation::Ignore,
        Some("Strict") => FieldValidation::Strict,
        _ => FieldValidation::Warn,
    }
}

/// The body as an object of the request's resource: fields checked, declared defaults filled in.
///
/// # Errors
/// `BadRequest` for a body that cannot be read or is of another kind.
pub fn object(ex: &Exchange<'_>) -> Result<Value> {
    let resource = &ex.served.resource;
    let decoded = match &ex.call.input {
        Input::None => codec::decode_json(resource, b"", field_validation(ex))?,
        Input::Tree(tree) => codec::decode_value(resource, tree, field_validation(ex))?,
        Input::Encoded { media: Media::Json, bytes } => codec::decode_json(resource, bytes, field_validation(ex))?,
        Input::Encoded { media: Media::Yaml, bytes } => codec::decode_value(resource, &from_yaml(ex, bytes)?, field_validation(ex))?,
        Input::Encoded { media: Media::Cbor, bytes } => codec::decode_value(resource, &from_cbor(&resource.kind, bytes)?, field_validation(ex))?,
        Input::Encoded { media: Media::Protobuf, bytes } => {
            codec::Decoded { value: codec::decode_protobuf_kind(&resource.gvk(), bytes)?, warnings: Vec::new() }
        }
    };
    ex.warn_all(decoded.warnings);
    let mut value = decoded.value;
    conform(ex, &mut value)?;
    ex.served.strategy.readable(&value).map_err(|why| codec::not_handled(&resource.kind, &resource.version, &resource.kind, &why))?;
    defaults(ex, &mut value);
    ex.record_request(&value);
    Ok(value)
}

/// Brings a custom resource into the form that its definition gives it; built-in kinds have theirs already.
///
/// # Errors
/// `BadRequest` for unknown fields under `Strict`.
pub fn conform(ex: &Exchange<'_>, value: &mut Value) -> Result<()> {
    if let Behaviour::Custom(strategy) = &ex.served.strategy {
        ex.warn_all(strategy.conform(value, field_validation(ex))?);
    }
    Ok(())
}

/// Brings what apply made into the form in which it could have been sent: a built-in kind's quantities and times have one
/// spelling each (upstream: `toVersioned` of `structuredMergeManager`).
///
/// # Errors
/// What is no value of its type; for custom resources as in [`conform`].
pub fn conform_applied(ex: &Exchange<'_>, value: &mut Value) -> Result<()> {
    if let Behaviour::Custom(strategy) = &ex.served.strategy {
        ex.warn_all(strategy.conform_applied(value, field_validation(ex))?);
        return Ok(());
    }
    let read = codec::decode_value(&ex.served.resource, value, FieldValidation::Ignore).map_err(|e| unconvertible(ex, value, &e))?;
    *value = read.value;
    Ok(())
}

/// What the kind cannot read in what apply made of `applied`: 500 without a reason, as upstream answers errors that are no `Status`.
///
/// # Errors
/// See [`Strategy::readable`](knarr_kinds::Strategy::readable).
pub fn readable_applied(ex: &Exchange<'_>, value: &Value, applied: &Value) -> Result<()> {
    let told = |why| Status::new(500, Reason::Unknown, format!("failed to convert to unversioned ({}): {why}", place(ex, applied)));
    ex.served.strategy.readable(value).map_err(told)
}

/// The same for what is no value of its type.
fn unconvertible(ex: &Exchange<'_>, value: &Value, why: &Status) -> Status {
    let (gvk, why) = (&ex.served.gvk, why.message.split_once(": ").map_or(why.message.as_str(), |(_, why)| why));
    let place = place(ex, value);
    let text = format!("failed to convert new object ({place}) to proper version: unable to convert unstructured object to {gvk}: {why}");
    Status::new(500, Reason::Unknown, text)
}

/// An object as errors of conversions name it.
fn place(ex: &Exchange<'_>, value: &Value) -> String {
    let meta = |key: &str| value.str_at(&["metadata", key]).unwrap_or_default();
    format!("{}/{}; {}", meta("namespace"), meta("name"), ex.served.gvk)
}

/// The same for what plugins made of an object, of which the client is told nothing.
///
/// # Errors
/// `BadRequest` for metadata that is none.
pub fn conform_again(ex: &Exchange<'_>, value: &mut Value) -> Result<()> {
    if let Behaviour::Custom(strategy) = &ex.served.strategy {
        strategy.conform_applied(value, FieldValidation::Ignore)?;
    }
    Ok(())
}

/// Declared defaults, then those that the kind's own code knows.
pub fn defaults(ex: &Exchange<'_>, value: &mut Value) {
    if let Some(type_id) = ex.served.resource.type_id {
        codec::apply_declared_defaults(type_id, value);
    }
    let labelled = |value: &Value| value.at(&["metadata", "labels"]).and_then(Value::as_object).is_some_and(|l| !l.is_empty());
    let had_labels = labelled(value);
    ex.served.strategy.default(value);
    if !had_labels && labelled(value) {
        ex.note_default_labels();
    }
    ex.served.strategy.default_times(value, ex.server.env.now());
}

fn from_yaml(ex: &Exchange<'_>, body: &[u8]) -> Result<Value> {
    let kind = &ex.served.resource.kind;
    let bad = |why: String| Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why}"));
    let text = std::str::from_utf8(body).map_err(|e| bad(e.to_string()))?;
    let document = yaml::parse_document(text).map_err(|e| bad(format!("error converting YAML to JSON: {e}")))?;
    for duplicate in document.duplicates {
        match field_validation(ex) {
            FieldValidation::Strict => return Err(bad(format!("strict decoding error: yaml: unmarshal errors:\n  {duplicate}"))),
            FieldValidation::Warn => ex.warn(duplicate),
            FieldValidation::Ignore => {}
        }
    }
    Ok(document.value)
}

/// A key that is there twice makes the whole body unreadable, however strictly fields are taken.
fn from_cbor(kind: &str, body: &[u8]) -> Result<Value> {
    codec::decode_cbor(body).map_err(|why| codec::unrecognized(kind, &format!("unable to determine group/version/kind: {why}"), body))
}

/// A body that is some built-in kind beside the resource's own (a binding, an eviction, a scale, delete options). An empty
/// body is an empty object.
///
/// # Errors
/// `BadRequest` for a body that cannot be read or is of another kind.
pub fn other(ex: &Exchange<'_>, kind: &GroupVersionKind) -> Result<Value> {
    if ex.call.input.is_empty() {
        return Ok(Value::Object(Default::default()));
    }
    let json = match &ex.call.input {
        Input::Encoded { media: Media::Protobuf, bytes } => {
            let value = codec::decode_protobuf_kind(kind, bytes)?;
            ex.record_request(&value);
            return Ok(value);
        }
        Input::Encoded { media: Media::Json, bytes } => bytes.clone(),
        Input::Encoded { media: Media::Yaml, bytes } => serde_json::to_vec(&from_yaml(ex, bytes)?).map_err(Status::internal)?.into(),
        Input::Encoded { media: Media::Cbor, bytes } => serde_json::to_vec(&from_cbor(&kind.kind, bytes)?).map_err(Status::internal)?.into(),
        Input::Tree(tree) => serde_json::to_vec(tree).map_err(Status::internal)?.into(),
        Input::None => bytes::Bytes::new(),
    };
    let decoded = codec::decode_json_kind(kind, &json, field_validation(ex))?;
    ex.warn_all(decoded.warnings);
    ex.record_request(&decoded.value);
    Ok(decoded.value)
}

/// The body of a delete. Unlike [`other`] it is read by a codec that knows options only.
///
/// # Errors
/// `BadRequest` for a body that cannot be read or is of another kind.
pub fn options(ex: &Exchange<'_>, kind: &GroupVersionKind) -> Result<Value> {
    let options = match &ex.call.input {
        Input::Encoded { media: Media::Json, bytes } => codec::decode_options(kind, bytes)?,
        Input::Encoded { media: Media::Protobuf, bytes } if !bytes.is_empty() => codec::decode_protobuf_options(kind, bytes)?,
        _ => return other(ex, kind),
    };
    ex.record_request(&options);
    Ok(options)
}
