//! ConfigMaps and Secrets: named data.

use crate::cells::{Cells, age, name, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, ValueExt};

use super::tls;
use crate::at::{self, At};
use crate::rules;
use crate::separation::keep;
use crate::strategy::{Context, Shape, Strategy, plain_field};
use crate::tree::{default_if_zero, entries, is_zero_at};

/// Upstream: `pkg/registry/core/configmap`.
pub struct ConfigMap;

impl Strategy for ConfigMap {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| {
            let (text, binary) = (root.get("data"), root.get("binaryData"));
            for (key, value) in text.entries() {
                e.extend(rules::config_map_key(key).into_iter().map(|p| value.invalid_as(key, p)));
                if binary.key(key).is_set() {
                    e.push(value.invalid_as(key, "duplicate of key present in binaryData"));
                }
            }
            keys(&binary, e);
            let size: usize = entries(object, &["data"]).map(|(_, v)| v.as_str().map_or(0, str::len)).sum();
            if size + decoded_size(object, "binaryData") > DATA_MAX {
                e.push(Error::too_long(&Path::new("[]"), DATA_MAX as i64));
            }
        })
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        let mut e = immutable(object, old, &["data", "binaryData"]);
        e.extend(self.validate_create(cx, object));
        e
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), (count(object, "data") + count(object, "binaryData")).into(), age(object, now)])
    }
}

/// Upstream: `pkg/registry/core/secret`.
pub struct Secret;

impl Strategy for Secret {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    /// `stringData` is for writing only: it ends up in `data`.
    fn default(&self, object: &mut Value) {
        default_if_zero(object, "type", "Opaque");
        let Some(Value::Object(texts)) = object.remove(&["stringData"]) else { return };
        for (key, text) in texts {
            object.set(&["data", &key], STANDARD.encode(text.as_str().unwrap_or_default()));
        }
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        if is_zero_at(object, &["type"]) {
            keep(object, old, "type");
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| {
            let data = root.get("data");
            keys(&data, e);
            if decoded_size(object, "data") > DATA_MAX {
                e.push(data.too_long(DATA_MAX as i64));
            }
            typed_secret(root, &data, e);
        })
    }

    fn validate_update(&self, cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        let mut e = at::check(object, |root, e| root.get("type").immutable(old.at(&["type"]), e));
        e.extend(immutable(object, old, &["data"]));
        e.extend(self.validate_create(cx, object));
        e
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        if object.str_at(&["type"]) != Some("kubernetes.io/tls") {
            return Vec::new();
        }
        let decoded = |key| decode(object.at(&["data", key]));
        tls::problem(&decoded("tls.crt"), &decoded("tls.key")).into_iter().collect()
    }

    fn field(&self, object: &Value, name: &str) -> String {
        plain_field(object, name)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), text(object, &["type"]).into(), count(object, "data").into(), age(object, now)])
    }
}

/// Bytes in all values of one object.
const DATA_MAX: usize = 1024 * 1024;

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

fn keys(data: &At, e: &mut ErrorList) {
    for (key, value) in data.entries() {
        e.extend(rules::config_map_key(key).into_iter().map(|p| value.invalid_as(key, p)));
    }
}

/// How many bytes stand in base64 under a field.
fn decoded_size(object: &Value, field: &str) -> usize {
    let size = |text: &str| text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(2);
    entries(object, &[field]).filter_map(|(_, v)| v.as_str()).filter(|s| s.len() >= 4).map(size).sum()
}

fn decode(value: Option<&Value>) -> Vec<u8> {
    value.and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default()
}

/// What was made immutable stays, and stays so.
fn immutable(object: &Value, old: &Value, fields: &[&str]) -> ErrorList {
    if old.bool_at(&["immutable"]) != Some(true) {
        return ErrorList::new();
    }
    let mut changed: Vec<&str> = if object.bool_at(&["immutable"]) == Some(true) { Vec::new() } else { vec!["immutable"] };
    let filled = |o: &Value, field: &str| o.at(&[field]).filter(|v| !crate::tree::is_zero(v)).cloned();
    changed.extend(fields.iter().filter(|f| filled(object, f) != filled(old, f)));
    changed.into_iter().map(|f| Error::forbidden(&Path::new(f), "field is immutable when `immutable` is set")).collect()
}

/// Secrets of known types hold what their readers look for.
fn typed_secret(root: &At, data: &At, e: &mut ErrorList) {
    let mut require = |key: &'static str| {
        if !data.key(key).is_set() {
            e.push(data.key(key).required(""));
        }
    };
    match root.str_of("type") {
        "kubernetes.io/service-account-token" => {
            let metadata = root.get("metadata");
            let annotations = metadata.get("annotations");
            annotations.key(ACCOUNT_NAME).require(e);
        }
        "kubernetes.io/dockercfg" => json_object(data, ".dockercfg", e),
        "kubernetes.io/dockerconfigjson" => json_object(data, ".dockerconfigjson", e),
        "kubernetes.io/basic-auth" if !data.key("username").is_set() && !data.key("password").is_set() => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" => data.key("ssh-privatekey").require(e),
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

fn json_object(data: &At, key: &'static str, e: &mut ErrorList) {
    let place = data.key(key);
    if !place.is_set() {
        e.push(place.required(""));
        return;
    }
    let problem = match knarr_schema::codec::parse_json(&decode(place.value())) {
        Err(problem) => Some(problem),
        Ok(Value::Object(_) | Value::Null) => None,
        Ok(other) => Some(format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", json_kind(&other))),
    };
    e.extend(problem.map(|p| place.invalid_as("<secret contents redacted>", p)));
}

/// What Go calls a kind of JSON value.
fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn count(object: &Value, field: &str) -> usize {
    object.at(&[field]).and_then(Value::as_object).map_or(0, |map| map.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn text_of_a_secret_becomes_data() {
        let mut secret = json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "y"}});
        Secret.default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
    }
}
