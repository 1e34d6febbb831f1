//! Tables: the server fills the cells (`meta.k8s.io/v1 Table`), the client lays them out (`printers/tableprinter.go`).

use std::cmp::Ordering;

use knarr_core::{Value, ValueExt, order};

use super::jsonpath::{JsonPath, relaxed};
use super::{go, tabs};
use crate::kubectl::failure::Result;

/// Width that a column has at least, and what stands between columns (`printers.GetNewTabWriter`).
const MINIMUM: usize = 6;
const PADDING: usize = 3;

/// What the flags of `get` change.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub wide: bool,
    pub no_headers: bool,
    pub show_labels: bool,
    /// `-L`
    pub label_columns: Vec<String>,
    pub with_namespace: bool,
    /// `deployment.apps`, put before names when several kinds are shown.
    pub kind: Option<String>,
    /// The kind of a watch's event stands in the first column.
    pub with_event: bool,
}

/// Rows of cells, the headings first.
pub fn rows(table: &Value, options: &Options, event: Option<&str>) -> Vec<Vec<String>> {
    let columns: Vec<(usize, &Value)> =
        table.list_at(&["columnDefinitions"]).iter().enumerate().filter(|(_, c)| options.wide || c.i64_at(&["priority"]).unwrap_or(0) == 0).collect();
    let mut rows = Vec::new();
    if !options.no_headers {
        let mut head: Vec<String> = options.with_event.then(|| "EVENT".to_owned()).into_iter().collect();
        head.extend(options.with_namespace.then(|| "NAMESPACE".to_owned()));
        head.extend(columns.iter().map(|(_, c)| c.str_at(&["name"]).unwrap_or_default().to_uppercase()));
        head.extend(options.label_columns.iter().map(|l| l.rsplit('/').next().unwrap_or(l).to_uppercase()));
        head.extend(options.show_labels.then(|| "LABELS".to_owned()));
        rows.push(head);
    }
    for row in table.list_at(&["rows"]) {
        let mut line: Vec<String> = options.with_event.then(|| event.unwrap_or_default().to_owned()).into_iter().collect();
        line.extend(cells(row, &columns, options));
        rows.push(line);
    }
    rows
}

fn cells(row: &Value, columns: &[(usize, &Value)], options: &Options) -> Vec<String> {
    let meta = |key: &str| row.at(&["object", "metadata", key]);
    let mut line: Vec<String> = options.with_namespace.then(|| meta("namespace").and_then(Value::as_str).unwrap_or_default().to_owned()).into_iter().collect();
    for (at, column) in columns {
        let mut text = row.list_at(&["cells"]).get(*at).map(cell).unwrap_or_default();
        if let Some(kind) = options.kind.as_ref().filter(|_| column.str_at(&["format"]) == Some("name") && column.str_at(&["type"]) == Some("string")) {
            text = format!("{kind}/{text}");
        }
        line.push(text);
    }
    let labels = meta("labels").and_then(Value::as_object);
    line.extend(options.label_columns.iter().map(|l| labels.and_then(|m| m.get(l)).and_then(Value::as_str).unwrap_or_default().to_owned()));
    if options.show_labels {
        let all: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        line.push(if all.is_empty() { "<none>".into() } else { all.join(",") });
    }
    line
}

/// A cell; what follows a line break is cut off.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => match s.find(['\u{c}', '\n', '\r']) {
            Some(at) => go::escape_terminal(&s[..at]) + "...",
            None => go::escape_terminal(s),
        },
        other => go::sprint(other),
    }
}

/// Lays rows out.
pub fn layout(rows: &[Vec<String>]) -> String {
    let text: String = rows.iter().map(|r| r.join("\t") + "\n").collect();
    tabs::layout(&text, MINIMUM, PADDING)
}

/// Lays rows out that come one after another: columns never get narrower than they were.
#[derive(Default)]
pub struct Growing(Vec<usize>);

impl Growing {
    pub fn layout(&mut self, rows: &[Vec<String>]) -> String {
        let mut out = String::new();
        for row in rows {
            for (i, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                if self.0.len() <= i {
                    self.0.push(MINIMUM);
                }
                self.0[i] = self.0[i].max(cell.chars().count() + PADDING);
            }
        }
        for row in rows {
            for (i, cell) in row.iter().enumerate() {
                out.push_str(cell);
                if i + 1 < row.len() {
                    out.extend(std::iter::repeat_n(' ', self.0[i] - cell.chars().count()));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// Sorts objects (or a table's rows with their objects) by a field, as `--sort-by` names it. Those without it come first.
pub fn sort<T>(items: &mut [T], field: &str, object: impl Fn(&T) -> &Value) -> Result<()> {
    let path = relaxed(field).unwrap_or_else(|_| field.to_owned());
    let parsed = JsonPath::parse(&path)?;
    let mut keys = Vec::new();
    for item in items.iter() {
        keys.push(parsed.find(object(item))?.into_iter().next().and_then(|v| v.into_iter().next()));
    }
    if !items.is_empty() && keys.iter().all(Option::is_none) {
        return Err(format!("couldn't find any field with path {} in the list of objects", knarr_core::field::go_quote(&path)).into());
    }
    let order = order::sorted((0..items.len()).collect(), &|a: &usize, b| compare(keys[*a].as_ref(), keys[*b].as_ref()).is_lt());
    permute(items, order);
    Ok(())
}

fn permute<T>(items: &mut [T], mut order: Vec<usize>) {
    for i in 0..items.len() {
        let mut from = order[i];
        while from < i {
            from = order[from];
        }
        items.swap(i, from);
        order[i] = from;
    }
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Less,
        (_, None) => Ordering::Greater,
        (Some(Value::String(a)), Some(Value::String(b))) => match (a.parse::<knarr_core::quantity::Quantity>(), b.parse::<knarr_core::quantity::Quantity>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            _ => a.cmp(b),
        },
        (Some(Value::Number(a)), Some(Value::Number(b))) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
        },
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn columns_are_three_spaces_apart() {
        let table = json!({"columnDefinitions": [{"name": "Name", "priority": 0, "type": "string", "format": "name"}, {"name": "Up", "priority": 0}, {"name": "Node", "priority": 1}],
            "rows": [{"cells": ["a", 1, "n"], "object": {"metadata": {"namespace": "d", "labels": {"app": "x"}}}}, {"cells": ["long", "x\ny", null], "object": {"metadata": {"namespace": "d"}}}]});
        assert_eq!(layout(&rows(&table, &Options::default(), None)), "NAME   UP\na      1\nlong   x...\n");
        let options = Options { wide: true, with_namespace: true, show_labels: true, kind: Some("pod".into()), ..Options::default() };
        assert_eq!(
            layout(&rows(&table, &options, None)),
            "NAMESPACE   NAME       UP     NODE   LABELS\nd           pod/a      1      n      app=x\nd           pod/long   x...          <none>\n"
        );
    }

    #[test]
    fn a_column_that_grew_stays_wide() {
        let mut growing = Growing::default();
        let row = |a: &str| vec![vec![a.to_owned(), "x".to_owned()]];
        assert_eq!(growing.layout(&row("longer")), "longer   x\n");
        assert_eq!(growing.layout(&row("a")), "a        x\n");
    }

    #[test]
    fn objects_are_sorted_by_a_field() {
        let mut items = vec![json!({"n": "b", "c": "2"}), json!({"n": "a", "c": "100m"}), json!({"n": "c"})];
        let names = |items: &[Value]| items.iter().map(|i| i["n"].as_str().unwrap().to_owned()).collect::<String>();
        sort(&mut items, ".n", |i| i).unwrap();
        assert_eq!(names(&items), "abc");
        sort(&mut items, "{.c}", |i| i).unwrap();
        assert_eq!(names(&items), "cab");
        assert!(sort(&mut items, ".none", |i| i).is_err());
    }

    /// What reads as quantities is compared as such, and else as text: `9` before `10`, that before `5x`, and that before `9`.
    #[test]
    fn values_that_have_no_order_are_sorted_all_the_same() {
        let mut rows: Vec<Value> = ["9", "10", "5x"].iter().cycle().take(60).map(|value| json!({"a": value})).collect();
        sort(&mut rows, ".a", |row| row).unwrap();
        assert_eq!(rows.iter().filter(|row| row["a"] == "5x").count(), 20);
    }
}
