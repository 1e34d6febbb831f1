//! `Table`: what `kubectl get` shows. The columns are data, the cells come from the kind.

use jiff::Timestamp;
use knarr_core::{Object, Result, Status, Value, ValueExt};
use knarr_schema::{codec, registry::Column};

use super::{json, metadata};
use crate::{catalog::Served, request::Query};

/// What a row carries beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// # Errors
    /// `BadRequest` for a value outside the set.
    pub fn from_query(query: &Query) -> Result<Self> {
        match query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => {
                let text = knarr_core::field::go_quote(other);
                Err(Status::bad_request(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {text}: must be 'Metadata', 'Object', 'None', or empty"
                )))
            }
        }
    }
}

/// `metadata` of a list or a table.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    pub resource_version: u64,
    pub continue_token: String,
    pub remaining_item_count: Option<i64>,
}

impl ListMeta {
    pub fn put_json(&self, out: &mut Vec<u8>) {
        // The table of an object that was not stored has no version.
        if self.resource_version == 0 {
            out.extend_from_slice(b"{}");
            return;
        }
        out.push(b'{');
        self.put_version(out);
        if !self.continue_token.is_empty() {
            out.extend_from_slice(b",\"continue\":");
            json::put_string(out, &self.continue_token);
        }
        self.put_remaining(out);
        out.push(b'}');
    }

    /// As a tree has it (upstream: `UnstructuredList`): its keys are sorted, and the token is there though it be empty.
    pub fn put_unstructured_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"continue\":");
        json::put_string(out, &self.continue_token);
        self.put_remaining(out);
        out.push(b',');
        self.put_version(out);
        out.push(b'}');
    }

    fn put_version(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        json::put_number(out, self.resource_version);
        out.push(b'"');
    }

    fn put_remaining(&self, out: &mut Vec<u8>) {
        if let Some(n) = self.remaining_item_count {
            out.extend_from_slice(b",\"remainingItemCount\":");
            json::put_number(out, n);
        }
    }
}

/// How a table is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub version: &'static str,
    pub include: Include,
    /// Later events of a watch carry no columns.
    pub headers: bool,
    pub now: Timestamp,
}

/// Appends a whole table.
///
/// # Errors
/// When an object cannot be read.
pub fn put<'a>(out: &mut Vec<u8>, served: &Served, meta: &ListMeta, objects: impl Iterator<Item = &'a Object>, format: Format) -> Result<()> {
    put_head(out, &served.resource.columns, meta, format);
    let mut objects = objects.peekable();
    // Upstream's plain tables have no rows at all, those with columns of their own an empty list.
    if objects.peek().is_none() && served.resource.custom.is_none() && served.resource.columns.iter().any(|c| c.name == "Created At") {
        out.extend_from_slice(b",\"rows\":null}");
        return Ok(());
    }
    out.extend_from_slice(b",\"rows\":[");
    for (i, object) in objects.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        put_row(out, served, object, format)?;
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

/// Appends the table of a scale, a tree and the same as an object: with the columns of its kind, or of the custom resource that it is of.
pub fn put_scale(out: &mut Vec<u8>, served: &Served, value: &Value, scale: &Object, format: Format) {
    let own = served.resource.subresource("scale").map_or(&[][..], |s| &s.columns);
    let (columns, cells) =
        if own.is_empty() { (&served.resource.columns[..], cells(served, value, format.now)) } else { (own, scale_cells(own, value, format.now)) };
    let resource_version = value.str_at(&["metadata", "resourceVersion"]).and_then(|v| v.parse().ok()).unwrap_or(0);
    put_head(out, columns, &ListMeta { resource_version, ..ListMeta::default() }, format);
    out.extend_from_slice(b",\"rows\":[");
    put_cells(out, &cells, scale, value, format);
    out.extend_from_slice(b"]}");
}

/// Upstream: `printScale`.
fn scale_cells(columns: &[Column], scale: &Value, now: Timestamp) -> Vec<Value> {
    let count = |path: &[&str]| scale.at(path).and_then(Value::as_i64).unwrap_or(0).into();
    let cell = |column: &Column| match column.name.as_str() {
        "Name" => scale.str_at(&["metadata", "name"]).unwrap_or_default().into(),
        "Desired" => count(&["spec", "replicas"]),
        "Available" => count(&["status", "replicas"]),
        _ => knarr_core::time::age(scale.str_at(&["metadata", "creationTimestamp"]), now).into(),
    };
    columns.iter().map(cell).collect()
}

/// Everything before the rows.
fn put_head(out: &mut Vec<u8>, columns: &[Column], meta: &ListMeta, format: Format) {
    out.extend_from_slice(b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(format.version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    meta.put_json(out);
    out.extend_from_slice(b",\"columnDefinitions\":");
    if format.headers { put_columns(out, columns) } else { out.extend_from_slice(b"null") }
}

fn put_columns(out: &mut Vec<u8>, columns: &[Column]) {
    out.push(b'[');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let texts =
            [("{\"name\":", &column.name), (",\"type\":", &column.column_type), (",\"format\":", &column.format), (",\"description\":", &column.description)];
        for (key, text) in texts {
            out.extend_from_slice(key.as_bytes());
            json::put_string(out, text);
        }
        out.extend_from_slice(b",\"priority\":");
        json::put_number(out, column.priority);
        out.push(b'}');
    }
    out.push(b']');
}

fn put_row(out: &mut Vec<u8>, served: &Served, object: &Object, format: Format) -> Result<()> {
    let object = served.present(object)?;
    let value = codec::to_value(&object)?;
    put_cells(out, &cells(served, &value, format.now), &object, &value, format);
    Ok(())
}

fn put_cells(out: &mut Vec<u8>, cells: &[Value], object: &Object, value: &Value, format: Format) {
    out.extend_from_slice(b"{\"cells\":[");
    for (i, cell) in cells.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json::put_value(out, cell);
    }
    out.extend_from_slice(b"],\"object\":");
    let marked = value.at(&["metadata", "annotations", crate::read::INITIAL_EVENTS_END]).is_some();
    match format.include {
        Include::Object => codec::write_json(object, out),
        Include::None if !marked => out.extend_from_slice(b"null"),
        Include::None | Include::Metadata => metadata::put_json(out, object, format.version),
    }
    out.push(b'}');
}

/// One cell a column.
fn cells(served: &Served, value: &Value, now: Timestamp) -> Vec<Value> {
    served.strategy.cells(value, now).unwrap_or_else(|| {
        let created = value.str_at(&["metadata", "creationTimestamp"]);
        let columns = served.resource.columns.iter();
        columns
            .map(|column| match column.name.as_str() {
                "Name" => value.str_at(&["metadata", "name"]).unwrap_or_default().into(),
                "Created At" => created.unwrap_or_default().into(),
                "Age" => knarr_core::time::age(created, now).into(),
                _ => Value::Null,
            })
            .collect()
    })
}
