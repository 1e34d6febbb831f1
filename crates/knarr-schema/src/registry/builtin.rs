//! The built-in resources, read from what `build.rs` joined out of the tables.

use std::sync::Arc;

use knarr_core::GroupVersion;
use serde::Deserialize;

use super::{Column, Deprecation, Resource, Subresource};
use crate::types;

#[derive(Deserialize)]
struct Entry {
    group: String,
    version: String,
    plural: String,
    singular: String,
    kind: String,
    list_kind: String,
    namespaced: bool,
    verbs: Vec<String>,
    short_names: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<Sub>,
    columns: Vec<Cells>,
    selectable_fields: Vec<String>,
    storage: String,
    deprecated: Option<Deprecation>,
    lenient: bool,
}

#[derive(Deserialize)]
struct Sub {
    name: String,
    kind: String,
    verbs: Vec<String>,
    response: Option<String>,
    columns: Vec<Cells>,
}

/// Name, type, format, priority and description of a column.
type Cells = (String, String, String, i32, String);

/// All of them, those that are not served by default included.
pub(super) fn resources() -> Vec<Arc<Resource>> {
    let entries: Vec<Entry> = serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/resources.json"))).expect("written by build.rs");
    entries.into_iter().map(|e| Arc::new(e.into())).collect()
}

fn group_version(text: &str) -> (String, String) {
    let parsed = GroupVersion::parse(text).expect("the table names group versions");
    (parsed.group, parsed.version)
}

impl From<Entry> for Resource {
    fn from(e: Entry) -> Self {
        Self {
            type_id: types::of_kind(&e.group, &e.version, &e.kind),
            group: e.group,
            version: e.version,
            plural: e.plural,
            singular: e.singular,
            kind: e.kind,
            list_kind: e.list_kind,
            namespaced: e.namespaced,
            verbs: e.verbs,
            short_names: e.short_names,
            categories: e.categories,
            subresources: e.subresources.into_iter().map(Subresource::from).collect(),
            columns: e.columns.into_iter().map(Column::from).collect(),
            selectable_fields: e.selectable_fields,
            storage: group_version(&e.storage),
            deprecated: e.deprecated,
            lenient: e.lenient,
            custom: None,
        }
    }
}

impl From<Sub> for Subresource {
    fn from(s: Sub) -> Self {
        Self {
            name: s.name,
            kind: s.kind,
            verbs: s.verbs,
            response: s.response.as_deref().map(group_version),
            columns: s.columns.into_iter().map(Column::from).collect(),
        }
    }
}

impl From<Cells> for Column {
    fn from((name, column_type, format, priority, description): Cells) -> Self {
        Self { name, column_type, format, priority, description, json_path: None }
    }
}
