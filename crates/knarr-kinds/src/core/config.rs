//! ConfigMaps and Secrets: named data.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use knarr_core::{
    Map, Value, ValueExt,
    field::{Error, ErrorList, Path},
    names,
};

use crate::cells::{Cells, age, name, text};
use crate::metadata::immutable;
use crate::separation::keep;
use crate::strategy::{Context, Strategy, plain_field};
use crate::tree::{default_if_zero, is_zero_at};

/// Upstream: `pkg/registry/core/configmap`.
pub struct ConfigMap;

/// Bytes that all values of one object may have together.
const DATA_BYTES_MAX: usize = 1 << 20;

impl Strategy for ConfigMap {
    fn validate_create(&self, _cx: &Context<'_>, map: &Value) -> ErrorList {
        let mut errors = keys(map, "data", |key| entry(map, "binaryData", key).map(|_| "duplicate of key present in binaryData"));
        errors.extend(keys(map, "binaryData", |_| None));
        let plain: usize = entries(map, "data").filter_map(|(_, v)| v.as_str()).map(str::len).sum();
        if plain + decoded_bytes(map, "binaryData") > DATA_BYTES_MAX {
            errors.push(Error::too_long(&Path::new(""), DATA_BYTES_MAX as i64));
        }
        errors
    }

    fn validate_update(&self, cx: &Context<'_>, map: &Value, old: &Value) -> ErrorList {
        let mut errors = sealed(map, old, &["data", "binaryData"]);
        errors.extend(self.validate_create(cx, map));
        errors
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), (count(object, "data") + count(object, "binaryData")).into(), age(object, now)])
    }
}

/// Upstream: `pkg/registry/core/secret`.
pub struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        default_if_zero(object, "type", "Opaque");
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        if is_zero_at(object, &["type"]) {
            keep(object, old, "type");
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, secret: &Value) -> ErrorList {
        let mut errors = keys(secret, "data", |_| None);
        if decoded_bytes(secret, "data") > DATA_BYTES_MAX {
            errors.push(Error::too_long(&Path::new("data"), DATA_BYTES_MAX as i64));
        }
        errors.extend(content(secret));
        errors
    }

    fn validate_update(&self, cx: &Context<'_>, secret: &Value, old: &Value) -> ErrorList {
        let mut errors = immutable(secret.at(&["type"]), old.at(&["type"]), &Path::new("type"));
        errors.extend(sealed(secret, old, &["data"]));
        errors.extend(self.validate_create(cx, secret));
        errors
    }

    fn field(&self, object: &Value, name: &str) -> String {
        plain_field(object, name)
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), text(object, &["type"]).into(), count(object, "data").into(), age(object, now)])
    }
}

/// What each type of Secret must hold.
fn content(secret: &Value) -> ErrorList {
    let data = Path::new("data");
    let missing = |keys: &[&str]| keys.iter().filter(|k| entry(secret, "data", k).is_none()).map(|k| Error::required(&data.key(k), "")).collect::<ErrorList>();
    match secret.str_at(&["type"]).unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let named = secret.str_at(&["metadata", "annotations", ACCOUNT]).is_some_and(|n| !n.is_empty());
            if named { ErrorList::new() } else { vec![Error::required(&Path::new("metadata").child("annotations").key(ACCOUNT), "")] }
        }
        "kubernetes.io/dockercfg" => docker(secret, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(secret, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" => match missing(&["username", "password"]) {
            both if both.len() == 2 => both,
            _ => ErrorList::new(),
        },
        "kubernetes.io/ssh-auth" => {
            let empty = entry(secret, "data", "ssh-privatekey").is_none_or(|v| v == "");
            if empty { vec![Error::required(&data.key("ssh-privatekey"), "")] } else { ErrorList::new() }
        }
        "kubernetes.io/tls" => missing(&["tls.crt", "tls.key"]),
        _ => ErrorList::new(),
    }
}

fn docker(secret: &Value, key: &str) -> ErrorList {
    let path = Path::new("data").key(key);
    let Some(value) = entry(secret, "data", key) else { return vec![Error::required(&path, "")] };
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
    match serde_json::from_slice::<Option<Map<String, Value>>>(&bytes) {
        Ok(_) => ErrorList::new(),
        Err(why) => vec![Error::invalid(&path, "<secret contents redacted>", go_reason(&bytes, &why))],
    }
}

/// The commonest complaint of Go's JSON reader in its words; the others in our reader's.
fn go_reason(bytes: &[u8], why: &serde_json::Error) -> String {
    if why.is_eof() || bytes.is_empty() { "unexpected end of JSON input".to_owned() } else { why.to_string() }
}

/// An immutable object stays as it is.
fn sealed(new: &Value, old: &Value, fields: &[&str]) -> ErrorList {
    const WHY: &str = "field is immutable when `immutable` is set";
    if old.bool_at(&["immutable"]) != Some(true) {
        return ErrorList::new();
    }
    let mut errors = ErrorList::new();
    if new.bool_at(&["immutable"]) != Some(true) {
        errors.push(Error::forbidden(&Path::new("immutable"), WHY));
    }
    errors.extend(fields.iter().filter(|f| new.at(&[f]) != old.at(&[f])).map(|f| Error::forbidden(&Path::new(f), WHY)));
    errors
}

/// What is wrong with the keys of a map of data, by their own rules and by `also`.
fn keys<'a>(object: &Value, field: &str, also: impl Fn(&str) -> Option<&'a str>) -> ErrorList {
    let path = Path::new(field);
    let problems = entries(object, field).flat_map(|(key, _)| {
        let found = names::is_config_key(key).into_iter().chain(also(key).map(str::to_owned));
        found.map(|problem| Error::invalid(&path.key(key), key.as_str(), problem)).collect::<Vec<_>>()
    });
    problems.collect()
}

fn entries<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.at(&[field]).and_then(Value::as_object).into_iter().flatten()
}

fn entry<'a>(object: &'a Value, field: &str, key: &str) -> Option<&'a Value> {
    object.at(&[field])?.as_object()?.get(key)
}

/// Bytes of all base64 texts of a map, without decoding them.
fn decoded_bytes(object: &Value, field: &str) -> usize {
    let texts = entries(object, field).filter_map(|(_, v)| v.as_str());
    texts.map(|t| (t.len() / 4 * 3).saturating_sub(t.bytes().rev().take_while(|b| *b == b'=').count())).sum()
}

fn count(object: &Value, field: &str) -> usize {
    object.at(&[field]).and_then(Value::as_object).map_or(0, |map| map.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn told(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keys_are_file_names() {
        assert!(keys(&json!({"data": {"a.B_c-1": ""}}), "data", |_| None).is_empty());
        let problem = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        assert_eq!(told(keys(&json!({"data": {"": "x"}}), "data", |_| None)), [format!("data[]: Invalid value: \"\": {problem}")]);
        assert_eq!(told(keys(&json!({"data": {"..a": "x"}}), "data", |_| None)), ["data[..a]: Invalid value: \"..a\": must not start with '..'"]);
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert!(sealed(&old, &old, &["data"]).is_empty());
        let wanted = ["immutable: Forbidden: field is immutable when `immutable` is set", "data: Forbidden: field is immutable when `immutable` is set"];
        assert_eq!(told(sealed(&json!({"data": {}}), &old, &["data"])), wanted);
        assert!(sealed(&json!({"data": {}}), &json!({"data": {"a": "1"}}), &["data"]).is_empty());
    }

    #[test]
    fn secrets_hold_what_their_type_promises() {
        let of = |kind: &str, data: Value| told(content(&json!({"type": kind, "data": data})));
        assert_eq!(of("kubernetes.io/tls", json!({"tls.crt": ""})), ["data[tls.key]: Required value"]);
        assert_eq!(of("kubernetes.io/basic-auth", json!({})), ["data[username]: Required value", "data[password]: Required value"]);
        assert!(of("kubernetes.io/basic-auth", json!({"password": ""})).is_empty());
        assert!(of("kubernetes.io/dockercfg", json!({".dockercfg": "e30="})).is_empty());
        assert_eq!(
            of("kubernetes.io/dockercfg", json!({".dockercfg": "ew=="})),
            ["data[.dockercfg]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input"]
        );
        assert_eq!(decoded_bytes(&json!({"data": {"a": "ew==", "b": "AAAA"}}), "data"), 4);
    }
}
