//! The merge itself: what an applied configuration makes of an object (`typed/merge.go`), and taking fields out of one
//! (`typed/remove.go`).

use std::collections::{HashMap, HashSet};

use knarr_core::{Map, Value};

use super::schema::{Kind, List, MapType, Schema};
use super::set::{Element, Set};

/// The object with the configuration laid over it. What the configuration does not name stays.
pub fn merge(schema: Schema<'_>, object: &Value, config: &Value) -> Value {
    both(schema, object, config).unwrap_or_default()
}

/// Paths in a configuration of lists and maps that are set as a whole (upstream: `patch.findAtomics`).
pub fn atomics(schema: Schema<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match (schema.kind(Some(value)), value) {
        (Kind::Map(map), Value::Object(entries)) => {
            if map.is_atomic {
                found.push(path.clone());
            }
            for (name, value) in entries {
                if let Some((schema, _)) = map.field(name) {
                    path.push('.');
                    path.push_str(name);
                    atomics(schema, value, path, found);
                    path.truncate(length);
                }
            }
        }
        (Kind::List(list), Value::Array(items)) => {
            if list.is_atomic() {
                found.push(path.clone());
            }
            for (i, item) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                atomics(list.item, item, path, found);
                path.truncate(length);
            }
        }
        _ => {}
    }
}

/// `None` for a map or list of which nothing is left.
fn both(schema: Schema<'_>, left: &Value, right: &Value) -> Option<Value> {
    let kind = schema.kind(Some(if right.is_null() { left } else { right }));
    match kind {
        Kind::Map(map) if !map.is_atomic && (has_entries(left) || has_entries(right)) => maps(&map, left, right),
        Kind::List(list) if !list.is_atomic() && (has_items(left) || has_items(right)) => lists(&list, left, right),
        _ => Some(right.clone()),
    }
}

fn has_entries(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty())
}

fn has_items(value: &Value) -> bool {
    value.as_array().is_some_and(|items| !items.is_empty())
}

fn maps(map: &MapType<'_>, left: &Value, right: &Value) -> Option<Value> {
    let nothing = Map::new();
    let (left, right) = (left.as_object().unwrap_or(&nothing), right.as_object().unwrap_or(&nothing));
    // Each part is copied once, however deep it lies.
    let kept = left.iter().filter(|(name, _)| !right.contains_key(*name)).map(|(name, value)| (name.clone(), value.clone()));
    let merged = right.iter().filter_map(|(name, value)| {
        let merged = match (left.get(name), map.field(name)) {
            (Some(there), Some((schema, _))) => both(schema, there, value),
            _ => Some(value.clone()),
        };
        merged.map(|merged| (name.clone(), merged))
    });
    let out: Map<String, Value> = kept.chain(merged).collect();
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Items in the order of the object, new ones where the configuration has them; those that both have in the order of the
/// configuration.
fn lists(list: &List<'_>, left: &Value, right: &Value) -> Option<Value> {
    let (left, right) = (Side::of(list, left), Side::of(list, right));
    let mut shared = right.order.iter().map(|(e, _)| e).filter(|e| left.by_element.contains_key(e));
    let mut next_shared = shared.next();
    let mut merged: HashSet<&Element<'_>> = HashSet::new();
    let mut out = Vec::with_capacity(left.order.len().max(right.order.len()));
    let (mut l, mut r) = (0, 0);
    while l < left.order.len() || r < right.order.len() {
        if let (Some((a, _)), Some((b, _))) = (left.order.get(l), right.order.get(r)) {
            if a == b {
                merged.insert(a);
                out.extend(pair(list, left.by_element[a], right.by_element[a]));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.next();
                continue;
            }
            if right.by_element.contains_key(a) && next_shared.is_some_and(|next| next != a) {
                // It will come where the configuration has it.
                l += 1;
                continue;
            }
        }
        if let Some((element, item)) = left.order.get(l) {
            if !right.by_element.contains_key(element) {
                out.push((*item).clone());
                l += 1;
                continue;
            } else if merged.contains(element) {
                l += 1;
            }
        }
        if let Some((element, item)) = right.order.get(r) {
            merged.insert(element);
            out.extend(pair(list, left.by_element.get(element).copied().flatten(), Some(item)));
            r += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

fn pair(list: &List<'_>, left: Option<&Value>, right: Option<&Value>) -> Option<Value> {
    match (left, right) {
        (Some(left), Some(right)) => both(list.item, left, right),
        (left, right) => right.or(left).cloned(),
    }
}

/// The items of one side, in order and by their elements.
struct Side<'v> {
    order: Vec<(Element<'v>, &'v Value)>,
    /// Nothing for an element that occurs more than once: such items are not merged.
    by_element: HashMap<Element<'v>, Option<&'v Value>>,
}

impl<'v> Side<'v> {
    fn of(list: &List<'v>, value: &'v Value) -> Self {
        let items = value.as_array().map_or(&[][..], Vec::as_slice);
        let order: Vec<_> = items.iter().filter_map(|item| Some((list.element(item).ok()?, item))).collect();
        let mut by_element = HashMap::with_capacity(order.len());
        for (element, item) in &order {
            by_element.entry(element.clone()).and_modify(|there| *there = None).or_insert(Some(*item));
        }
        Self { order, by_element }
    }
}

/// Takes the members of a set out of an object. A map or list of which nothing is left becomes null.
pub fn remove(schema: Schema<'_>, value: &Value, gone: &Set<'_>) -> Value {
    match (schema.kind(Some(value)), value) {
        (Kind::Map(map), Value::Object(entries)) if !map.is_atomic => remove_entries(&map, entries, gone),
        (Kind::List(list), Value::Array(items)) if !list.is_atomic() => remove_items(&list, items, gone),
        (Kind::Scalar(_), scalar) => scalar.clone(),
        _ => Value::Null,
    }
}

fn remove_entries(map: &MapType<'_>, entries: &Map<String, Value>, gone: &Set<'_>) -> Value {
    let mut out = Map::new();
    for (name, value) in entries {
        let kept = match gone.child(&Element::Field(name.as_str().into())) {
            None => value.clone(),
            Some(node) if node.member => continue,
            Some(node) => map.field(name).map_or_else(|| value.clone(), |(schema, _)| remove(schema, value, node)),
        };
        out.insert(name.clone(), kept);
    }
    if out.is_empty() { Value::Null } else { Value::Object(out) }
}

fn remove_items(list: &List<'_>, items: &[Value], gone: &Set<'_>) -> Value {
    let mut out = Vec::new();
    for item in items {
        match list.element(item).ok().and_then(|element| gone.child(&element)) {
            None => out.push(item.clone()),
            Some(node) if node.member => {}
            Some(node) => out.push(remove(list.item, item, node)),
        }
    }
    if out.is_empty() { Value::Null } else { Value::Array(out) }
}

/// The set with every declared field a member that has members below it (`EnsureNamedFieldsAreMembers`).
pub fn with_named_fields<'a>(set: Set<'a>, schema: Option<Schema<'_>>) -> Set<'a> {
    let kind = schema.map(|s| s.kind(None));
    set.map_children(|element, child| {
        let (below, is_declared) = match (element, &kind) {
            (Element::Field(name), Some(Kind::Map(map))) => map.field(name).map_or((None, false), |(s, declared)| (Some(s), declared)),
            (Element::Key(_), Some(Kind::List(list))) => (Some(list.item), false),
            _ => (None, false),
        };
        let has_children = !child.children().is_empty();
        let child = with_named_fields(child, below);
        let is_member = child.member || is_declared && has_children;
        child.with_member(is_member)
    })
}

/// The set after fields that it names part by part have become atomic: such a field is then owned as a whole
/// (`typed/reconcile_schema.go`).
pub fn reconcile<'a>(set: Set<'a>, schema: Schema<'_>) -> Set<'a> {
    let kind = schema.kind(None);
    set.map_children(|element, child| {
        let below = match (&kind, element) {
            (Kind::Map(map), _) if map.is_deduced() => None,
            (Kind::Map(map), Element::Field(name)) => map.field(name).map(|(s, _)| s),
            (Kind::List(list), _) => Some(list.item),
            _ => None,
        };
        match below {
            Some(below) if !child.children().is_empty() => {
                let is_atomic = match below.kind(None) {
                    Kind::Map(map) => map.is_atomic,
                    Kind::List(list) => list.is_atomic(),
                    Kind::Scalar(_) => false,
                };
                if is_atomic { Set::leaf() } else { reconcile(child, below) }
            }
            _ => child,
        }
    })
}
