//! Making strategic merge patches (`strategicpatch.CreateTwoWayMergePatch`, `CreateThreeWayMergePatch`).

use knarr_core::{Map, Value};

use super::meta::{DELETE_FROM_LIST, DIRECTIVE, FieldMeta, ItemKind, Meta, PatchError, RETAIN_KEYS, Result, SET_ORDER, Strategy, item_kind, print};
use super::order::{as_map, merge_value, sort_by};
use super::strategic::{Options, merge};
use crate::types::TypeId;

/// Which differences are wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    changes: bool,
    deletions: bool,
    /// The map's fields have to be listed: those not listed are cleared.
    retain_keys: bool,
}

pub fn two_way(type_id: TypeId, original: &Value, modified: &Value) -> knarr_core::Result<Value> {
    let wanted = Wanted { changes: true, deletions: true, retain_keys: false };
    Ok(Value::Object(maps(&object(original), &object(modified), Meta::of(type_id), wanted)?))
}

/// What is there is brought to what is wanted, without deletions; what was applied before and is wanted no more is deleted.
pub fn three_way(type_id: TypeId, original: &Value, modified: &Value, current: &Value) -> knarr_core::Result<Value> {
    let (meta, modified) = (Meta::of(type_id), object(modified));
    let delta = maps(&object(current), &modified, meta, Wanted { changes: true, deletions: false, retain_keys: false })?;
    let deletions = maps(&object(original), &modified, meta, Wanted { changes: false, deletions: true, retain_keys: false })?;
    Ok(Value::Object(merge(deletions, delta, meta, Options { to_object: false })?))
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn maps(original: &Map<String, Value>, modified: &Map<String, Value>, meta: Meta, wanted: Wanted) -> Result<Map<String, Value>> {
    let mut patch = Map::new();
    for (key, new) in modified {
        match original.get(key) {
            Some(Value::Object(old)) if new.is_object() => map_field(&mut patch, key, old, &object(new), meta, wanted)?,
            Some(Value::Array(old)) if new.is_array() => list_field(&mut patch, key, old, new.as_array().map_or(&[], Vec::as_slice), meta, wanted)?,
            Some(old) if key == DIRECTIVE => {
                if !old.is_string() || !new.is_string() {
                    return Err(PatchError::Plain(format!("invalid value for special key: {DIRECTIVE}")));
                }
                if old != new {
                    patch.insert(key.clone(), new.clone());
                }
            }
            old if wanted.changes && old != Some(new) => drop(patch.insert(key.clone(), new.clone())),
            _ => {}
        }
    }
    if wanted.deletions {
        patch.extend(original.keys().filter(|key| !modified.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    }
    let retained: Vec<Value> = modified.iter().filter(|(_, v)| wanted.retain_keys && !v.is_null()).map(|(k, _)| k.as_str().into()).collect();
    let clears = original.keys().any(|key| !modified.contains_key(key));
    if !retained.is_empty() && (!patch.is_empty() || clears) {
        patch.insert(RETAIN_KEYS.into(), Value::Array(retained));
    }
    Ok(patch)
}

fn map_field(patch: &mut Map<String, Value>, key: &str, old: &Map<String, Value>, new: &Map<String, Value>, meta: Meta, wanted: Wanted) -> Result<()> {
    let field = match meta.field(key) {
        Ok(field) => field,
        // What is equal needs no patch, whatever it is.
        Err(_) if old == new => return Ok(()),
        Err(error) => return Err(error),
    };
    if field.strategy == Strategy::Replace {
        if wanted.changes {
            patch.insert(key.to_owned(), Value::Object(new.clone()));
        }
        return Ok(());
    }
    let difference = maps(old, new, field.below, Wanted { retain_keys: field.retains_keys, ..wanted })?;
    if !difference.is_empty() {
        patch.insert(key.to_owned(), Value::Object(difference));
    }
    Ok(())
}

fn list_field(patch: &mut Map<String, Value>, key: &str, old: &[Value], new: &[Value], meta: Meta, wanted: Wanted) -> Result<()> {
    let field = match meta.list(key) {
        Ok(field) => field,
        Err(_) if old == new => return Ok(()),
        Err(error) => return Err(error),
    };
    if field.strategy != Strategy::Merge {
        if wanted.changes && old != new {
            patch.insert(key.to_owned(), Value::Array(new.to_vec()));
        }
        return Ok(());
    }
    let lists = Lists::of(old, new, &field, Wanted { retain_keys: field.retains_keys, ..wanted })?;
    for (name, list) in [(key.to_owned(), lists.additions), (format!("{DELETE_FROM_LIST}/{key}"), lists.deletions), (format!("{SET_ORDER}/{key}"), lists.order)]
    {
        if !list.is_empty() {
            patch.insert(name, Value::Array(list));
        }
    }
    Ok(())
}

/// What a merged list contributes to a patch.
#[derive(Default)]
struct Lists {
    additions: Vec<Value>,
    deletions: Vec<Value>,
    order: Vec<Value>,
}

impl Lists {
    fn of(old: &[Value], new: &[Value], field: &FieldMeta, wanted: Wanted) -> Result<Self> {
        if old.is_empty() {
            let additions = if wanted.changes { new.to_vec() } else { Vec::new() };
            return Ok(Self { additions, ..Self::default() });
        }
        match item_kind(&[old, new])? {
            ItemKind::Map => Self::of_maps(old, new, field, wanted),
            ItemKind::Scalar => Self::of_scalars(old, new, wanted),
        }
    }

    fn of_maps(old: &[Value], new: &[Value], field: &FieldMeta, wanted: Wanted) -> Result<Self> {
        let key = field.merge_key;
        let (changed, deleted) = items(old, new, field, wanted)?;
        let mut additions = sort_by(changed, new, key, ItemKind::Map)?;
        let same_order = old.len() == new.len() && all_equal(old, new, key)?;
        additions.extend(deleted);
        let is_ordered = wanted.changes && (!additions.is_empty() || !same_order) || wanted.deletions && !additions.is_empty();
        let only_key = |item: &Value| Ok(Value::Object(Map::from_iter([(key.to_owned(), merge_value(as_map(item)?, key)?.clone())])));
        let order = if is_ordered { new.iter().map(only_key).collect::<Result<_>>()? } else { Vec::new() };
        Ok(Self { additions, deletions: Vec::new(), order })
    }

    fn of_scalars(old: &[Value], new: &[Value], wanted: Wanted) -> Result<Self> {
        let (old_sorted, new_sorted) = (sorted(old, print), sorted(new, print));
        let mut lists = Self::default();
        walk(
            &old_sorted,
            &new_sorted,
            |item| print(item),
            |old, new| {
                match (old, new) {
                    (Some(gone), None) if wanted.deletions && !lists.deletions.contains(gone) => lists.deletions.push((*gone).clone()),
                    (None, Some(added)) if wanted.changes => lists.additions.push((*added).clone()),
                    _ => {}
                }
                Ok(())
            },
        )?;
        lists.additions = sort_by(lists.additions, new, "", ItemKind::Scalar)?;
        // Upstream has sorted the old list by now, so that a list which is not sorted always gets its order.
        let is_reordered = !old_sorted.iter().copied().eq(new);
        if wanted.deletions && !lists.deletions.is_empty() || wanted.changes && is_reordered {
            lists.order = new.to_vec();
        }
        Ok(lists)
    }
}

fn all_equal(old: &[Value], new: &[Value], key: &str) -> Result<bool> {
    for (old, new) in old.iter().zip(new) {
        if merge_value(as_map(old)?, key)? != merge_value(as_map(new)?, key)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn sorted<'v>(list: &'v [Value], by: impl Fn(&Value) -> String) -> Vec<&'v Value> {
    let mut sorted: Vec<&Value> = list.iter().collect();
    sorted.sort_by_cached_key(|item| by(item));
    sorted
}

/// The items of a list of maps that differ, and directives that delete those that are gone.
fn items(old: &[Value], new: &[Value], field: &FieldMeta, wanted: Wanted) -> Result<(Vec<Value>, Vec<Value>)> {
    let key = field.merge_key;
    old.iter().chain(new).try_for_each(|item| merge_value(as_map(item)?, key).map(drop))?;
    let text = |item: &Value| item.get(key).map(print).unwrap_or_default();
    let (mut changed, mut deleted) = (Vec::new(), Vec::new());
    walk(
        &sorted(old, text),
        &sorted(new, text),
        |item| text(item),
        |old, new| {
            match (old, new) {
                (Some(old), Some(new)) => {
                    let mut difference = maps(as_map(old)?, as_map(new)?, field.below, wanted)?;
                    if !difference.is_empty() {
                        difference.insert(key.to_owned(), merge_value(as_map(new)?, key)?.clone());
                        changed.push(Value::Object(difference));
                    }
                }
                (None, Some(added)) if wanted.changes => changed.push((*added).clone()),
                (Some(gone), None) if wanted.deletions => {
                    let gone = merge_value(as_map(gone)?, key)?.clone();
                    deleted.push(Value::Object(Map::from_iter([(key.to_owned(), gone), (DIRECTIVE.to_owned(), "delete".into())])));
                }
                _ => {}
            }
            Ok(())
        },
    )?;
    Ok((changed, deleted))
}

/// Walks two sorted lists side by side.
fn walk<'v>(
    old: &[&'v Value],
    new: &[&'v Value],
    text: impl Fn(&Value) -> String,
    mut visit: impl FnMut(Option<&'v Value>, Option<&'v Value>) -> Result<()>,
) -> Result<()> {
    let (mut i, mut j) = (0, 0);
    loop {
        let order = match (old.get(i), new.get(j)) {
            (None, None) => return Ok(()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => text(old).cmp(&text(new)),
        };
        let (takes_old, takes_new) = (order.is_le(), order.is_ge());
        visit(old.get(i).copied().filter(|_| takes_old), new.get(j).copied().filter(|_| takes_new))?;
        i += usize::from(takes_old);
        j += usize::from(takes_new);
    }
}
