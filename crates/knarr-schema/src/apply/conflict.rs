//! How a conflict is told.

use knarr_core::field::go_quote;
use knarr_core::status::{Cause, Details};
use knarr_core::{Reason, Status, json};

use super::fields::{print, print_order};
use super::managed::Entry;
use super::set::{Element, Set};

/// The fields that one manager owns and another wants to change.
#[derive(Debug)]
pub struct Conflict<'a> {
    pub entry: Entry<'a>,
    pub set: Set<'a>,
}

/// The text by which upstream knows a manager: its entry as JSON, without fields and time.
pub fn identifier(entry: &Entry<'_>) -> String {
    let mut parts = Vec::with_capacity(4);
    let mut part = |key: &str, value: &str| {
        if !value.is_empty() {
            parts.push(format!("{}:{}", json!(key), json!(value)));
        }
    };
    part("manager", &entry.manager);
    part("operation", if entry.applies { "Apply" } else { "Update" });
    part("apiVersion", if entry.applies { "" } else { &entry.api_version });
    part("subresource", &entry.subresource);
    format!("{{{}}}", parts.join(","))
}

/// `"kubectl-client-side-apply" using apps/v1`.
fn print_manager(entry: &Entry<'_>) -> String {
    let mut text = go_quote(&entry.manager);
    if !entry.subresource.is_empty() {
        text += &format!(" with subresource {}", go_quote(&entry.subresource));
    }
    if !entry.applies {
        text += &format!(" using {}", entry.api_version);
    }
    text
}

/// The paths of a set in the order of upstream's messages.
fn paths(set: &Set<'_>) -> Vec<String> {
    let mut found: Vec<Vec<Element<'_>>> = Vec::new();
    set.each(&mut Vec::new(), &mut |path| found.push(path.iter().map(|e| (*e).clone()).collect()));
    // Members of a node come before those below it, so only neighbours of equal length are compared.
    for same in found.chunk_by_mut(|a, b| a.len() == b.len()) {
        same.sort_by(|a, b| print_order(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>()));
    }
    found.iter().map(|path| print(&path.iter().collect::<Vec<_>>())).collect()
}

/// 409 with a cause for each field.
pub fn status(mut conflicts: Vec<Conflict<'_>>) -> Status {
    conflicts.sort_by_cached_key(|c| identifier(&c.entry));
    let all: Vec<(String, Vec<String>)> = conflicts.iter().map(|c| (print_manager(&c.entry), paths(&c.set))).collect();
    let cause = |manager: &str, field: &str| Cause { reason: "FieldManagerConflict".into(), message: format!("conflict with {manager}"), field: field.into() };
    let causes: Vec<Cause> = all.iter().flat_map(|(manager, fields)| fields.iter().map(|field| cause(manager, field))).collect();
    let message = match causes.as_slice() {
        [only] => format!("Apply failed with 1 conflict: {}: {}", only.message, only.field),
        many => {
            let each = all
                .iter()
                .map(|(manager, fields)| format!("conflicts with {manager}:\n{}", fields.iter().map(|f| format!("- {f}")).collect::<Vec<_>>().join("\n")));
            format!("Apply failed with {} conflicts: {}", many.len(), each.collect::<Vec<_>>().join("\n"))
        }
    };
    Status::new(409, Reason::Conflict, message).with_details(Details { causes, ..Details::default() })
}
