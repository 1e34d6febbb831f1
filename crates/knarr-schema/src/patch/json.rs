//! RFC 6902, with the habits of upstream's library (`evanphx/json-patch` v4): negative indices count from the end, an absent
//! value is null.

use knarr_core::deep::{self, DEPTH_MAX};
use knarr_core::{Map, Reason, Result, Status, Value, ValueExt as _};

/// As in kube-apiserver.
const OPERATIONS_MAX: usize = 10_000;
/// What all copies of one patch may add up to, in bytes of JSON (CVE-2019-1002100).
const COPY_BYTES_MAX: usize = 3 << 20;

pub fn apply(target: &Value, patch: &Value) -> Result<Value> {
    let Value::Array(operations) = patch else { return Err(not_a(patch, "jsonpatch.Patch")) };
    if let Some(bad) = operations.iter().find(|o| !o.is_object()) {
        return Err(not_a(bad, "jsonpatch.Operation"));
    }
    if operations.len() > OPERATIONS_MAX {
        let message = format!("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}", operations.len());
        return Err(Status::too_large(message));
    }
    let mut work = Work { document: target.clone(), copied: 0, levels: deep::depth(target).max(deep::depth(patch)) };
    for operation in operations {
        work.run(operation).ok_or_else(unappliable)?;
    }
    Ok(work.document)
}

fn not_a(value: &Value, go_type: &str) -> Status {
    let what = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    Status::bad_request(format!("json: cannot unmarshal {what} into Go value of type {go_type}"))
}

fn unappliable() -> Status {
    Status::new(422, Reason::Invalid, "the server rejected our request due to an error in our request").with_details(Default::default())
}

/// A patch under way.
struct Work {
    document: Value,
    /// Bytes that were copied so far.
    copied: usize,
    /// Neither the document nor a value of the patch is nested deeper.
    levels: usize,
}

impl Work {
    /// One operation; `None` when it does not apply.
    fn run(&mut self, operation: &Value) -> Option<()> {
        let path = operation.str_at(&["path"])?;
        let value = || operation.get("value").cloned().unwrap_or_default();
        match operation.str_at(&["op"])? {
            "add" => self.add(path, value()),
            "remove" => remove(&mut self.document, path).map(drop),
            "replace" => {
                let value = value();
                self.make_room(path, &value)?;
                *find(&mut self.document, path)? = value;
                Some(())
            }
            "move" => {
                let moved = remove(&mut self.document, operation.str_at(&["from"])?)?;
                self.add(path, moved)
            }
            "copy" => {
                let value = find(&mut self.document, operation.str_at(&["from"])?)?.clone();
                self.copied += value.to_string().len();
                if self.copied > COPY_BYTES_MAX {
                    return None;
                }
                self.add(path, value)
            }
            "test" => {
                let wanted = value();
                let there = find(&mut self.document, path).map(|v| &*v);
                (there.unwrap_or(&Value::Null) == &wanted).then_some(())
            }
            _ => None,
        }
    }

    fn add(&mut self, path: &str, value: Value) -> Option<()> {
        self.make_room(path, &value)?;
        add(&mut self.document, path, value)
    }

    /// `None` when the document would be nested deeper with the value there than any may be: copies into copies double the depth.
    fn make_room(&mut self, path: &str, value: &Value) -> Option<()> {
        let above = path.matches('/').count();
        // What is moved for the first time is not walked through.
        let levels = if above + self.levels <= DEPTH_MAX { above + self.levels } else { above + deep::depth(value) };
        self.levels = self.levels.max(levels);
        (levels <= DEPTH_MAX).then_some(())
    }
}

/// The parent of a place, and the last step to it.
fn parent<'d>(document: &'d mut Value, path: &str) -> Option<(&'d mut Value, String)> {
    let (parents, last) = path.rsplit_once('/')?;
    Some((find(document, parents)?, unescape(last)))
}

fn find<'d>(document: &'d mut Value, path: &str) -> Option<&'d mut Value> {
    if path.is_empty() {
        return Some(document);
    }
    path.strip_prefix('/')?.split('/').try_fold(document, |value, step| match value {
        Value::Object(map) => map.get_mut(&unescape(step)),
        Value::Array(items) => {
            let at = index(step, items.len())?;
            items.get_mut(at)
        }
        _ => None,
    })
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

/// An index into a list of this length; negative ones count from the end.
fn index(step: &str, len: usize) -> Option<usize> {
    let index: i64 = step.parse().ok()?;
    let index = if index < 0 { index + i64::try_from(len).ok()? } else { index };
    usize::try_from(index).ok()
}

fn add(document: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *document = value;
        return Some(());
    }
    match parent(document, path)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(items), key) if key == "-" => items.push(value),
        (Value::Array(items), key) => {
            // After an addition the list is one longer, and negative indices count from there.
            let at = index(&key, items.len() + usize::from(key.starts_with('-'))).filter(|at| *at <= items.len())?;
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &str) -> Option<Value> {
    match parent(document, path)? {
        (Value::Object(map), key) => Map::remove(map, &key),
        (Value::Array(items), key) => {
            let at = index(&key, items.len()).filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}
