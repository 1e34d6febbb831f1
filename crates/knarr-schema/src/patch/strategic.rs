//! Applying a strategic merge patch, and laying one patch over another (`strategicpatch.mergeMap`).

use knarr_core::{Map, Value};

use super::meta::{
    DELETE_FROM_LIST, DIRECTIVE, FieldMeta, ItemKind, LIST, Meta, PatchError, RETAIN_KEYS, Result, SET_ORDER, Strategy, go_type, item_kind, print,
};
use super::order::{as_map, find, is_deletion, merge_value, part, weave};
use crate::types::TypeId;

/// How two maps are merged.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The first map is an object: directives are carried out. Else it is a patch, and directives stay.
    pub to_object: bool,
}

pub fn apply(type_id: TypeId, target: &Value, patch: &Value) -> knarr_core::Result<Value> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::BadRequest("invalid JSON document".into()).into());
    };
    let target = target.as_object().cloned().unwrap_or_default();
    Ok(Value::Object(merge(target, patch.clone(), Meta::of(type_id), Options { to_object: true })?))
}

/// Merges a patch into a map.
pub fn merge(mut original: Map<String, Value>, mut patch: Map<String, Value>, meta: Meta, options: Options) -> Result<Map<String, Value>> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(PatchError::bad_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch, options)?;
    merge_ordered_lists(&mut original, &mut patch, meta, options)?;
    for (key, value) in patch {
        merge_field(&mut original, key, value, meta, options)?;
    }
    Ok(original)
}

fn merge_field(original: &mut Map<String, Value>, mut key: String, value: Value, meta: Meta, options: Options) -> Result<()> {
    let deletes_items = key.starts_with(DELETE_FROM_LIST);
    if deletes_items {
        if !options.to_object {
            original.insert(key, value);
            return Ok(());
        }
        key = name_after(&key, DELETE_FROM_LIST).ok_or_else(PatchError::bad_primitive_list)?;
    }
    if value.is_null() {
        original.remove(&key);
        if options.to_object {
            return Ok(());
        }
    }
    let merged = match (original.remove(&key), value) {
        (Some(Value::Object(there)), Value::Object(value)) => {
            let field = meta.field(&key)?;
            Some(Value::Object(if field.strategy == Strategy::Replace { value } else { merge(there, value, field.below, options)? }))
        }
        (Some(Value::Array(there)), Value::Array(value)) => {
            let field = meta.list(&key)?;
            Some(Value::Array(merge_list(there, value, &field, deletes_items, options)?))
        }
        // A list of deletions has nothing to do where there is no list.
        (there, _) if deletes_items => there,
        (Some(there), value) if go_type(&there) == go_type(&value) => Some(value),
        (_, value) => without_directives(if options.to_object { without_nulls(value) } else { value }),
    };
    if let Some(merged) = merged {
        original.insert(key, merged);
    }
    Ok(())
}

/// The field's name in `$setElementOrder/name`.
fn name_after(key: &str, prefix: &str) -> Option<String> {
    let (found, name) = key.split_once('/')?;
    (found == prefix).then(|| name.to_owned())
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// The value without what only a patch may say. Nothing for a map that is a directive itself.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(map.into_iter().filter_map(|(k, v)| Some((k, without_directives(v)?))).collect()),
        Value::Array(items) => Some(items.into_iter().filter_map(without_directives).collect()),
        other => Some(other),
    }
}

/// Carries out `$retainKeys`: the fields that are not in the list go.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, options: Options) -> Result<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    if !options.to_object {
        match original.get(RETAIN_KEYS) {
            Some(there) if *there != keys => {
                let (a, b) = (print(there), print(&keys));
                return Err(PatchError::Plain(format!("{a} and {b} are not deep equal: this may happen when calculating the 3-way diff patch")));
            }
            Some(_) => {}
            None => drop(original.insert(RETAIN_KEYS.into(), keys)),
        }
        return Ok(());
    }
    let keys = keys.as_array().ok_or_else(PatchError::bad_retain_keys)?;
    let retains = |key: &str| keys.iter().any(|k| k.as_str() == Some(key));
    let is_listed = |(key, value): (&String, &Value)| value.is_null() || key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER) || retains(key);
    if !patch.iter().all(is_listed) {
        return Err(PatchError::bad_retain_keys());
    }
    original.retain(|key, _| retains(key));
    Ok(())
}

/// Merges the lists that come with `$setElementOrder`, and orders them by it.
fn merge_ordered_lists(original: &mut Map<String, Value>, patch: &mut Map<String, Value>, meta: Meta, options: Options) -> Result<()> {
    let keys: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
    for key in keys {
        let Some(order) = patch.remove(&key) else { continue };
        if !options.to_object {
            match original.get(&key) {
                Some(there) if *there != order => return Err(PatchError::bad_set_order()),
                _ => drop(original.insert(key.clone(), order.clone())),
            }
        }
        let Value::Array(order) = order else { return Err(PatchError::bad_type(LIST, &order)) };
        let name = name_after(&key, SET_ORDER).ok_or_else(PatchError::bad_set_order)?;
        merge_ordered_list(original, patch, &name, &order, meta, options)?;
    }
    Ok(())
}

fn merge_ordered_list(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    name: &str,
    order: &[Value],
    meta: Meta,
    options: Options,
) -> Result<()> {
    let there = list_of(original.get(name))?;
    let given = list_of(patch.get(name))?;
    let field = meta.list(name)?;
    let key = field.merge_key;
    check_order(given.as_deref().unwrap_or_default(), order, key)?;
    let server_order = there.clone().unwrap_or_default();
    let patch_list = given.clone().unwrap_or_default();
    let merged = match (there, given) {
        (None, None) => return Ok(()),
        (Some(there), None) => there,
        (None, Some(given)) => given.into_iter().filter_map(without_directives).collect(),
        (Some(there), Some(given)) => merge_list(there, given, &field, false, options)?,
    };
    let (inside, outside) = part(merged, order, key)?;
    let kind = item_kind(&[&server_order, &patch_list])?;
    let woven = weave(inside, outside, order, &server_order, key, kind)?;
    original.insert(name.to_owned(), Value::Array(woven));
    patch.remove(name);
    Ok(())
}

fn list_of(value: Option<&Value>) -> Result<Option<Vec<Value>>> {
    match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(other) => Err(PatchError::bad_type(LIST, other)),
    }
}

/// The items of the patch must stand in the order that the patch itself asks for.
fn check_order(list: &[Value], order: &[Value], key: &str) -> Result<()> {
    if list.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in list {
        if !key.is_empty() && is_deletion(item) {
            continue;
        }
        if item.get(DIRECTIVE).is_some() {
            continue;
        }
        let mut is_there = false;
        for other in rest.by_ref() {
            is_there = if key.is_empty() { item == other } else { merge_value(as_map(item)?, key)? == merge_value(as_map(other)?, key)? };
            if is_there {
                break;
            }
        }
        if !is_there {
            let (list, order) = (print(&Value::Array(list.to_vec())), print(&Value::Array(order.to_vec())));
            return Err(PatchError::Plain(format!("The order in patch list:\n{list}\n doesn't match {SET_ORDER} list:\n{order}\n")));
        }
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, field: &FieldMeta, deletes_items: bool, options: Options) -> Result<Vec<Value>> {
    if field.strategy != Strategy::Merge && !deletes_items {
        return Ok(patch);
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let kind = item_kind(&[&original, &patch])?;
    if kind == ItemKind::Scalar && deletes_items && options.to_object {
        return Ok(original.into_iter().filter(|item| !patch.contains(item)).collect());
    }
    let key = field.merge_key;
    let (merged, original, patch) = match kind {
        ItemKind::Scalar => {
            let mut merged = original.clone();
            for item in &patch {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            (deduplicated(merged), original, patch)
        }
        ItemKind::Map if key.is_empty() => return Err(PatchError::Plain(format!("cannot merge lists without merge key for {}", field.below.kind_name()))),
        ItemKind::Map => {
            let (original, patch) = carry_out_directives(original, patch, key)?;
            (merge_items(original.clone(), &patch, key, field.below, options)?, original, patch)
        }
    };
    let (inside, outside) = part(merged, &patch, key)?;
    weave(inside, outside, &patch, &original, key, kind)
}

fn deduplicated(list: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(list.len());
    for item in list {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

/// Deletes and replaces as items of the patch say; gives the list and the other items of the patch.
fn carry_out_directives(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut rest = Vec::with_capacity(patch.len());
    let mut replaces = false;
    for item in patch {
        let map = as_map(&item)?;
        match map.get(DIRECTIVE) {
            None => {
                rest.push(item);
                continue;
            }
            Some(Value::String(s)) if s == "delete" => {
                let gone = merge_value(map, key)?;
                while let Some(at) = find(&original, key, gone)? {
                    original.remove(at);
                }
            }
            Some(Value::String(s)) if s == "replace" => replaces = true,
            Some(Value::String(s)) if s == "merge" => return Err(PatchError::Plain("merging lists cannot yet be specified in the patch".into())),
            Some(other) => return Err(PatchError::bad_directive(other, map)),
        }
    }
    Ok(if replaces { (rest, Vec::new()) } else { (original, rest) })
}

fn merge_items(mut original: Vec<Value>, patch: &[Value], key: &str, meta: Meta, options: Options) -> Result<Vec<Value>> {
    for item in patch {
        let map = as_map(item)?;
        match find(&original, key, merge_value(map, key)?)? {
            Some(at) => {
                let there = original[at].as_object().cloned().unwrap_or_default();
                original[at] = Value::Object(merge(there, map.clone(), meta, options)?);
            }
            None => original.push(item.clone()),
        }
    }
    Ok(original)
}
