//! RFC 7386 (`evanphx/json-patch`): applied and created.

use std::collections::BTreeMap;

use knarr_core::{Map, Value};

use crate::codec::{self, skim};

pub fn apply(target: &Value, patch: &Value) -> Value {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else { return without_nulls(patch) };
    // Each part is copied once, however deep the patch goes.
    let kept = target.iter().filter(|(key, _)| !patch.contains_key(*key)).map(|(key, there)| (key.clone(), there.clone()));
    let given = patch.iter().filter(|(_, value)| !value.is_null());
    let merged = given.map(|(key, value)| (key.clone(), target.get(key).map_or_else(|| without_nulls(value), |there| apply(there, value))));
    Value::Object(kept.chain(merged).collect())
}

/// How deep [`text`] keeps the order that was written: each level is put together of what lies below it.
const TEXT_LEVELS_MAX: usize = 64;

/// The JSON of what [`apply`] makes of an object, as upstream's library writes it: objects that the patch goes into have sorted
/// keys, all else stays as it was written.
pub fn text(target: &[u8], patch: &Value) -> Vec<u8> {
    text_above(TEXT_LEVELS_MAX, target, patch)
}

fn text_above(levels: usize, target: &[u8], patch: &Value) -> Vec<u8> {
    if levels == 0 {
        return codec::encode_untyped(&apply(&codec::parse_at_rest(target).unwrap_or_default(), patch));
    }
    let Value::Object(patch) = patch else { return codec::encode_untyped(patch) };
    let mut members: BTreeMap<Vec<u8>, Vec<u8>> = skim::members(target, 0).map(|m| (m.key.to_vec(), m.value(target).to_vec())).collect();
    for (key, value) in patch {
        let quoted = codec::encode_untyped(&key.as_str().into());
        let key = quoted[1..quoted.len() - 1].to_vec();
        if value.is_null() {
            members.remove(&key);
            continue;
        }
        let merged = match members.get(&key) {
            Some(there) if there.starts_with(b"{") && value.is_object() => text_above(levels - 1, there, value),
            _ => codec::encode_untyped(&without_nulls(value)),
        };
        members.insert(key, merged);
    }
    let members: Vec<Vec<u8>> = members.into_iter().map(|(key, value)| [b"\"", &key[..], b"\":", &value[..]].concat()).collect();
    [b"{", &members.join(&b',')[..], b"}"].concat()
}

/// A value that is new as a whole: null says "absent" in objects, also in those inside lists.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

pub fn create(original: &Value, modified: &Value) -> Value {
    let (Value::Object(original), Value::Object(modified)) = (original, modified) else { return modified.clone() };
    let mut patch = Map::new();
    for (key, wanted) in modified {
        match original.get(key) {
            Some(there) if there == wanted => {}
            Some(there @ Value::Object(_)) if wanted.is_object() => drop(patch.insert(key.clone(), create(there, wanted))),
            _ => drop(patch.insert(key.clone(), wanted.clone())),
        }
    }
    patch.extend(original.keys().filter(|key| !modified.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    Value::Object(patch)
}

pub fn create_three_way(original: &Value, modified: &Value, current: &Value) -> Value {
    let additions = keep(create(current, modified), &|v| !v.is_null());
    let deletions = keep(create(original, modified), &Value::is_null);
    apply_keeping_nulls(deletions, additions)
}

/// Only the leaves that `wanted` picks.
fn keep(value: Value, wanted: &impl Fn(&Value) -> bool) -> Value {
    let Value::Object(map) = value else { return value };
    let kept = map.into_iter().filter_map(|(key, value)| match value {
        Value::Object(_) => {
            let kept = keep(value, wanted);
            kept.as_object().is_some_and(|m| !m.is_empty()).then_some((key, kept))
        }
        leaf => wanted(&leaf).then_some((key, leaf)),
    });
    kept.collect()
}

/// Lays one patch over another: nulls are part of both.
fn apply_keeping_nulls(below: Value, above: Value) -> Value {
    match (below, above) {
        (Value::Object(mut below), Value::Object(above)) => {
            for (key, value) in above {
                let merged = match below.remove(&key) {
                    Some(there) => apply_keeping_nulls(there, value),
                    None => value,
                };
                below.insert(key, merged);
            }
            Value::Object(below)
        }
        (_, above) => above,
    }
}
