//! A request's body: which kind it is, whether it may come here, and upstream's words when not
//! (`k8s.io/apiserver/pkg/endpoints/handlers.transformDecodeError` and the codec below it).

use std::borrow::Cow;

use knarr_core::field::go_quote;
use knarr_core::{GroupVersion, GroupVersionKind, Result, Status, Value, ValueExt as _, go};

use serde::Deserialize as _;

use super::decode::{self, Read, Stop};
use super::envelope::{Envelope, MAGIC};
use super::read::Scanner;
use super::typed::Node;
use super::{Decoded, FieldValidation, read};
use crate::types;

/// How much of a body is shown in an error.
const SUMMARY_MAX: usize = 30;

/// What the body should be.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub kind: &'a GroupVersionKind,
    pub custom: bool,
}

pub(super) fn decode(wanted: Wanted<'_>, body: &[u8], validation: FieldValidation) -> Result<Decoded> {
    let text = go::utf8(body);
    let strict = validation != FieldValidation::Ignore;
    let id = if wanted.custom { None } else { types::of_kind(&wanted.kind.group, &wanted.kind.version, &wanted.kind.kind) };
    let outcome = match id {
        Some(id) => decode::typed(&text, types::get(id), strict),
        None => decode::untyped(&text, strict, super::DEPTH_MAX),
    };
    match outcome {
        Ok(read) if read.tree.is_object() && has_kind(&read.tree, wanted) => accept(read, wanted, validation),
        outcome => Err(explain(&text, body, wanted, outcome.err())),
    }
}

/// Whether the tree says of itself what was wanted, or nothing. Custom resources must name their kind.
fn has_kind(tree: &Value, wanted: Wanted<'_>) -> bool {
    let (api_version, kind) = (tree.str_at(&["apiVersion"]).unwrap_or_default(), tree.str_at(&["kind"]).unwrap_or_default());
    let same_version = api_version.is_empty() || api_version == wanted.kind.api_version();
    if wanted.custom { !kind.is_empty() && same_version } else { same_version && (kind.is_empty() || kind == wanted.kind.kind) }
}

fn accept(read: Read, wanted: Wanted<'_>, validation: FieldValidation) -> Result<Decoded> {
    let Read { mut tree, strict_errors } = read;
    if validation == FieldValidation::Strict && !strict_errors.is_empty() {
        return Err(refused(wanted.kind, wanted, &strict_text(&strict_errors)));
    }
    for (key, value) in [("kind", wanted.kind.kind.clone()), ("apiVersion", wanted.kind.api_version())] {
        if tree.str_at(&[key]).is_none_or(str::is_empty) {
            tree[key] = value.into();
        }
    }
    Ok(Decoded { value: tree, warnings: if validation == FieldValidation::Warn { strict_errors } else { Vec::new() } })
}

/// `strict decoding error: ` and all that a strict decoder found.
pub(super) fn strict_text(errors: &[String]) -> String {
    format!("strict decoding error: {}", errors.join(", "))
}

fn refused(given: &GroupVersionKind, wanted: Wanted<'_>, why: &str) -> Status {
    not_handled(&given.kind, &given.version, &wanted.kind.kind, why)
}

/// See [`super::not_handled`].
pub(super) fn not_handled(kind: &str, version: &str, wanted: &str, why: &str) -> Status {
    Status::bad_request(format!("{kind} in version {} cannot be handled as a {wanted}: {why}", go_quote(version)))
}

/// See [`super::unrecognized`].
pub(super) fn unrecognized(kind: &str, why: &str, body: &[u8]) -> Status {
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({})", summary(body)))
}

/// Finds out, in upstream's order, what is wrong with a body that cannot be taken.
fn explain(text: &str, body: &[u8], wanted: Wanted<'_>, stop: Option<Stop>) -> Status {
    let unrecognized = |why: String| unrecognized(&wanted.kind.kind, &why, body);
    let given = match interpret(text) {
        Ok(given) => given,
        Err(why) => return unrecognized(why),
    };
    if wanted.custom && given.kind.is_empty() {
        return unrecognized(format!("Object 'Kind' is missing in '{text}'"));
    }
    let given = with_defaults(given, wanted.kind);
    let registered = wanted.custom || types::of_kind(&given.group, &given.version, &given.kind).is_some();
    if !registered {
        return refused(&given, wanted, &unregistered(&given));
    }
    // What is of another kind is read as that kind before it is found to be none of ours.
    let other = (given != *wanted.kind && !wanted.custom).then(|| types::of_kind(&given.group, &given.version, &given.kind)).flatten();
    if let Some(Err(Stop::Syntax(why) | Stop::Value(why))) = other.map(|id| decode::typed(text, types::get(id), false)) {
        return refused(&given, wanted, &why);
    }
    match stop {
        Some(Stop::Syntax(why) | Stop::Value(why)) if given == *wanted.kind || wanted.custom => refused(&given, wanted, &why),
        _ => another(&given, wanted),
    }
}

/// What can be read, but is not what is wanted here.
fn another(given: &GroupVersionKind, wanted: Wanted<'_>) -> Status {
    if given.kind == wanted.kind.kind || wanted.custom {
        let (given, wanted) = (given.api_version(), wanted.kind.api_version());
        return Status::bad_request(format!("the API version in the data ({given}) does not match the expected API version ({wanted})"));
    }
    let internal = if wanted.kind.group.is_empty() { "core" } else { wanted.kind.group.split('.').next().unwrap_or_default() };
    refused(given, wanted, &format!("converting ({}.{}) to ({internal}.{}): unknown conversion", given.version, given.kind, wanted.kind.kind))
}

fn unregistered(given: &GroupVersionKind) -> String {
    format!("no kind {} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"", go_quote(&given.kind), go_quote(&given.api_version()))
}

/// See [`super::decode_protobuf_kind`].
pub(super) fn protobuf(kind: &GroupVersionKind, body: &[u8]) -> Result<Value> {
    let wanted = Wanted { kind, custom: false };
    let (given, message) = opened(body).map_err(|why| unrecognized(&kind.kind, &why, body))?;
    let given = with_defaults(given, kind);
    let id = types::of_kind(&given.group, &given.version, &given.kind).ok_or_else(|| refused(&given, wanted, &unregistered(&given)))?;
    let api_version = given.api_version();
    let value =
        Value::deserialize(Node::input(types::get(id), message, (&given.kind, &api_version))).map_err(|why| refused(&given, wanted, &why.to_string()))?;
    if given == *kind { Ok(value) } else { Err(another(&given, wanted)) }
}

/// What an envelope says of its message, and the message.
fn opened(body: &[u8]) -> std::result::Result<(GroupVersionKind, &[u8]), String> {
    if body == MAGIC {
        return Err("empty body".to_owned());
    }
    let envelope = Envelope::open(body).map_err(|why| why.to_string())?;
    let (group, version) = envelope.group_version();
    Ok((GroupVersionKind::new(group, version, envelope.kind), envelope.message))
}

/// What an envelope says it holds; empty texts for what is none.
pub(super) fn protobuf_kind(body: &[u8]) -> GroupVersionKind {
    opened(body).map_or_else(|_| GroupVersionKind::new("", "", ""), |(kind, _)| kind)
}

/// See [`super::decode_protobuf_options`].
pub(super) fn protobuf_options(kind: &GroupVersionKind, body: &[u8]) -> Result<Value> {
    let (given, message) = opened(body).map_err(Status::bad_request)?;
    if !given.kind.is_empty() && given.kind != kind.kind {
        return Err(Status::bad_request(unregistered(&given)));
    }
    let id = types::of_kind(&kind.group, &kind.version, &kind.kind).ok_or_else(|| Status::internal(format!("no type {}", kind.kind)))?;
    Value::deserialize(Node::input(types::get(id), message, (&kind.kind, &kind.api_version()))).map_err(|why| Status::bad_request(why.to_string()))
}

/// `kind` and `apiVersion` as upstream reads them before all else (`SimpleMetaFactory.Interpret`). What else there is must be JSON.
fn interpret(text: &str) -> std::result::Result<GroupVersionKind, String> {
    let failed = |why: &str| format!("couldn't get version/kind; json parse error: {why}");
    read::validate(text).map_err(|e| failed(&e.0))?;
    let mut scanner = Scanner::new(text);
    let (mut api_version, mut kind) = (String::new(), String::new());
    match scanner.peek() {
        b'{' => scanner.open(),
        b'n' => return Ok(GroupVersionKind::new("", "", "")),
        other => {
            let wanted = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
            return Err(failed(&format!("json: cannot unmarshal {} into Go value of type {wanted}", decode::described(other))));
        }
    }
    let mut first = true;
    while let Some(key) = scanner.key(first).map_err(|e| failed(&e.0))? {
        first = false;
        let value = scanner.skip().map_err(|e| failed(&e.0))?;
        let member = match &*key {
            "apiVersion" => &mut api_version,
            "kind" => &mut kind,
            _ => continue,
        };
        match value.as_bytes().first() {
            Some(b'"') => *member = Scanner::new(value).string().map_err(|e| failed(&e.0))?.into_owned(),
            Some(b'n') | None => {}
            Some(other) => return Err(failed(&format!("json: cannot unmarshal {} into Go struct field .{key} of type string", decode::described(*other)))),
        }
    }
    let gv = match api_version.as_str() {
        "" | "/" => GroupVersion::new("", ""),
        _ => GroupVersion::parse(&api_version).ok_or_else(|| format!("unexpected GroupVersion string: {api_version}"))?,
    };
    Ok(GroupVersionKind::new(gv.group, gv.version, kind))
}

/// See [`super::decode_options`].
pub(super) fn options(kind: &GroupVersionKind, body: &[u8]) -> Result<Value> {
    let text = go::utf8(body);
    let given = interpret(&text).map_err(Status::bad_request)?;
    if !given.kind.is_empty() && given.kind != kind.kind {
        return Err(Status::bad_request(unregistered(&given)));
    }
    let id = types::of_kind(&kind.group, &kind.version, &kind.kind).ok_or_else(|| Status::internal(format!("no type {}", kind.kind)))?;
    match decode::typed(&text, types::get(id), false) {
        Ok(Read { mut tree, .. }) => {
            tree["kind"] = kind.kind.clone().into();
            tree["apiVersion"] = kind.api_version().into();
            Ok(tree)
        }
        Err(Stop::Syntax(why) | Stop::Value(why)) => Err(Status::bad_request(why)),
    }
}

/// `gvkWithDefaults` of upstream's JSON serializer.
fn with_defaults(mut given: GroupVersionKind, wanted: &GroupVersionKind) -> GroupVersionKind {
    if given.kind.is_empty() {
        given.kind.clone_from(&wanted.kind);
    }
    if given.version.is_empty() && (given.group.is_empty() || given.group == wanted.group) {
        given.group.clone_from(&wanted.group);
        given.version.clone_from(&wanted.version);
    }
    given
}

fn summary(body: &[u8]) -> Cow<'static, str> {
    let shown = &body[..body.len().min(SUMMARY_MAX)];
    let more = if body.len() > SUMMARY_MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)).into(),
        Some(_) => (knarr_core::hex::encode(shown) + more).into(),
    }
}
