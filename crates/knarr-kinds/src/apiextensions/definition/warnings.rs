//! What works in a definition, but not as its author may think.

use knarr_core::{Value, ValueExt, field::go_quote};

use super::{has, schemas};
use crate::apiextensions::custom::is_known_format;

/// Warnings of a definition; on an update only those that are new (upstream: `WarningsOnCreate`, `WarningsOnUpdate`).
pub fn warnings(definition: &Value, old: Option<&Value>) -> Vec<String> {
    let known = |found: fn(&Value) -> Vec<String>| old.map(found).unwrap_or_default();
    let fresh = |found: fn(&Value) -> Vec<String>| {
        let before = known(found);
        found(definition).into_iter().filter(move |w| !before.contains(w))
    };
    fresh(formats).chain(fresh(compound_sets)).collect()
}

fn collect(definition: &Value, found: impl Fn(&Value) -> Option<String>) -> Vec<String> {
    let all = std::cell::RefCell::new(Vec::new());
    for schema in schemas(definition) {
        has(schema, &|s| {
            all.borrow_mut().extend(found(s));
            false
        });
    }
    all.into_inner()
}

fn formats(definition: &Value) -> Vec<String> {
    collect(definition, |schema| {
        let format = schema.str_at(&["format"]).filter(|f| !f.is_empty())?;
        (!is_known_format(format, schema.str_at(&["type"]).unwrap_or_default())).then(|| format!("unrecognized format {}", go_quote(format)))
    })
}

fn compound_sets(definition: &Value) -> Vec<String> {
    let mut found = collect(definition, |schema| {
        let of = schema.str_at(&["items", "type"]).filter(|t| matches!(*t, "object" | "array"))?;
        let is_set = schema.str_at(&["x-kubernetes-list-type"]) == Some("set");
        is_set.then(|| format!("x-kubernetes-list-type: set for items of type {} is not supported by server-side apply or CEL validation rules", go_quote(of)))
    });
    found.sort();
    found.dedup();
    found
}
