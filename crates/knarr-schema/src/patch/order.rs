//! In which order the items of a merged list stand: those of the patch in its order, those that only the object has in
//! theirs, woven together by the object's order.

use knarr_core::{Map, Value};

use super::meta::{DIRECTIVE, ItemKind, MAP, PatchError, Result};

/// What identifies an item: its merge key's value, or itself.
fn identity<'v>(item: &'v Value, key: &str, kind: ItemKind) -> Option<&'v Value> {
    match kind {
        ItemKind::Map => item.get(key),
        ItemKind::Scalar => Some(item),
    }
}

fn index(list: &[Value], item: &Value, key: &str, kind: ItemKind) -> Option<usize> {
    let wanted = identity(item, key, kind);
    list.iter().position(|other| identity(other, key, kind) == wanted)
}

pub fn as_map(item: &Value) -> Result<&Map<String, Value>> {
    item.as_object().ok_or_else(|| PatchError::bad_type(MAP, item))
}

/// The value of an item's merge key.
pub fn merge_value<'v>(item: &'v Map<String, Value>, key: &str) -> Result<&'v Value> {
    item.get(key).ok_or_else(|| PatchError::no_merge_key(item, key))
}

pub fn is_deletion(item: &Value) -> bool {
    item.get(DIRECTIVE).and_then(Value::as_str) == Some("delete")
}

/// Sorts a list as another one is ordered; deletions go to the end.
pub fn sort_by(mut list: Vec<Value>, order: &[Value], key: &str, kind: ItemKind) -> Result<Vec<Value>> {
    let mut deletions = Vec::new();
    if kind == ItemKind::Map {
        list.iter().chain(order).try_for_each(|item| merge_value(as_map(item)?, key).map(drop))?;
        deletions = list.extract_if(.., |item| is_deletion(item)).collect();
    }
    let mut placed: Vec<(Option<usize>, Value)> = list.into_iter().map(|item| (index(order, &item, key, kind), item)).collect();
    if placed.iter().all(|(place, _)| place.is_some()) {
        placed.sort_by_key(|(place, _)| *place);
    } else {
        sort_with_strangers(&mut placed);
    }
    let mut list: Vec<Value> = placed.into_iter().map(|(_, item)| item).collect();
    list.extend(deletions);
    Ok(list)
}

/// Items that have no place go before all that came before them: what upstream's comparison, which calls them less than
/// anything, makes of Go's insertion sort.
fn sort_with_strangers(list: &mut [(Option<usize>, Value)]) {
    for end in 1..list.len() {
        let mut at = end;
        while at > 0 && matches!((list[at].0, list[at - 1].0), (None, _) | (_, None)) | (list[at].0 < list[at - 1].0) {
            list.swap(at, at - 1);
            at -= 1;
        }
    }
}

/// Parts a list into the items that are in `by`, and those that are not.
pub fn part(list: Vec<Value>, by: &[Value], key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    if key.is_empty() {
        return Ok(list.into_iter().partition(|item| by.contains(item)));
    }
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for item in list {
        let value = merge_value(as_map(&item)?, key)?;
        let is_inside = find(by, key, value)?.is_some();
        if is_inside { inside.push(item) } else { outside.push(item) }
    }
    Ok((inside, outside))
}

/// Where the item with this value of the merge key is.
pub fn find(list: &[Value], key: &str, value: &Value) -> Result<Option<usize>> {
    for (i, item) in list.iter().enumerate() {
        let map = item.as_object().ok_or_else(|| PatchError::Plain(format!("value for key {i} is not a map")))?;
        if map.get(key) == Some(value) {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// Orders the items of the patch and the others each, then weaves them together (`normalizeElementOrder`).
pub fn weave(patch: Vec<Value>, others: Vec<Value>, patch_order: &[Value], server_order: &[Value], key: &str, kind: ItemKind) -> Result<Vec<Value>> {
    let mut patch = sort_by(patch, patch_order, key, kind)?.into_iter().peekable();
    let mut others = sort_by(others, server_order, key, kind)?.into_iter().peekable();
    let mut out = Vec::new();
    loop {
        let other_first = match (others.peek(), patch.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(item)) => {
                let place = |item| index(server_order, item, key, kind);
                matches!((place(other), place(item)), (Some(a), Some(b)) if a < b)
            }
        };
        out.extend(if other_first { others.next() } else { patch.next() });
    }
}
