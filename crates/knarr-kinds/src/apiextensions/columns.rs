//! Table cells of custom resources: what `additionalPrinterColumns` find (upstream:
//! `k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor`).

use jiff::Timestamp;
use knarr_core::{Value, time};
use knarr_schema::registry::Column;

use crate::cells::name;
use crate::jsonpath::JsonPath;

/// Cells of a custom resource: those of columns with a JSONPath by their path, the first one without by the name.
pub fn custom_cells(columns: &[Column], object: &Value, now: Timestamp) -> Vec<Value> {
    let cell = |column: &Column| match &column.json_path {
        Some(path) => {
            let path = JsonPath::parse(path).ok();
            let found = path.as_ref().and_then(|p| p.find(object).first().copied());
            found.map_or(Value::Null, |value| shown(column, value, now))
        }
        None => name(object),
    };
    columns.iter().map(cell).collect()
}

fn shown(column: &Column, value: &Value, now: Timestamp) -> Value {
    match (column.column_type.as_str(), value) {
        (_, Value::Null) => Value::Null,
        ("string", value) => text(value).into(),
        ("integer", Value::Number(n)) => n.as_i64().or(n.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from),
        ("number", Value::Number(n)) => n.as_f64().map_or(Value::Null, Value::from),
        ("boolean", Value::Bool(b)) => (*b).into(),
        ("date", Value::String(s)) if time::parse(s).is_none() => "<invalid>".into(),
        ("date", Value::String(s)) => time::age(Some(s), now).into(),
        _ => Value::Null,
    }
}

/// A value as Go prints it.
fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn columns_print_what_their_path_finds() {
        let column = |kind: &str, path: Option<&str>| Column {
            name: "c".into(),
            column_type: kind.into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            json_path: path.map(str::to_owned),
        };
        let object = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"i": 3, "l": [1, 2], "s": "x", "b": true}});
        let columns = [
            column("string", None),
            column("integer", Some(".spec.i")),
            column("string", Some(".spec.i")),
            column("string", Some(".spec.l")),
            column("integer", Some(".spec.s")),
            column("boolean", Some(".spec.b")),
            column("string", Some(".spec.none")),
            column("date", Some(".metadata.creationTimestamp")),
        ];
        let cells = custom_cells(&columns, &object, time::parse("2026-01-01T00:05:00Z").unwrap());
        assert_eq!(json!(cells), json!(["n", 3, "3", "[1,2]", null, true, null, "5m"]));
    }
}
