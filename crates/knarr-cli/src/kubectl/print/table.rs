//! Tables: the server fills the cells (`meta.k8s.io/v1 Table`), the client lays them out: three spaces between columns.

use knarr_core::{Value, ValueExt};

/// What the flags of `get` change.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub wide: bool,
    pub no_headers: bool,
    pub show_labels: bool,
    /// `-L`
    pub label_columns: Vec<String>,
    pub with_namespace: bool,
    /// Prefix of names (`deployment.apps/`), when several kinds are shown.
    pub prefix: Option<String>,
}

/// Rows of text, the headings first.
pub fn rows(table: &Value, options: &Options) -> Vec<Vec<String>> {
    let columns: Vec<(usize, &Value)> =
        table.list_at(&["columnDefinitions"]).iter().enumerate().filter(|(_, c)| options.wide || c.i64_at(&["priority"]).unwrap_or(0) == 0).collect();
    let mut rows = Vec::new();
    if !options.no_headers {
        let mut head: Vec<String> = options.with_namespace.then(|| "NAMESPACE".to_owned()).into_iter().collect();
        head.extend(columns.iter().map(|(_, c)| c.str_at(&["name"]).unwrap_or_default().to_uppercase()));
        head.extend(options.label_columns.iter().map(|l| l.rsplit('/').next().unwrap_or(l).to_uppercase()));
        head.extend(options.show_labels.then(|| "LABELS".to_owned()));
        rows.push(head);
    }
    for row in table.list_at(&["rows"]) {
        rows.push(cells(row, &columns, options));
    }
    rows
}

fn cells(row: &Value, columns: &[(usize, &Value)], options: &Options) -> Vec<String> {
    let meta = |key: &str| row.at(&["object", "metadata", key]);
    let mut line: Vec<String> = options.with_namespace.then(|| meta("namespace").and_then(Value::as_str).unwrap_or_default().to_owned()).into_iter().collect();
    for (at, column) in columns {
        let mut text = row.list_at(&["cells"]).get(*at).map(cell).unwrap_or_default();
        if let Some(prefix) = options.prefix.as_ref().filter(|_| column.str_at(&["format"]) == Some("name") || column.str_at(&["name"]) == Some("Name")) {
            text.insert_str(0, prefix);
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

/// A cell; line breaks become spaces, as kubectl cuts them.
fn cell(value: &Value) -> String {
    match value {
        Value::String(s) => s.replace('\n', "\\n"),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

/// Pads every column but the last to its widest cell.
pub fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if i + 1 < row.len() {
                let pad = widths[i] + 3 - cell.chars().count();
                out.extend(std::iter::repeat_n(' ', pad));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn columns_are_three_spaces_apart() {
        let table = json!({"columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "Node", "priority": 1}],
            "rows": [{"cells": ["a", "1/1", "n"], "object": {"metadata": {"namespace": "d", "labels": {"app": "x"}}}}, {"cells": ["long", "0/1", "n"], "object": {"metadata": {"namespace": "d"}}}]});
        assert_eq!(layout(&rows(&table, &Options::default())), "NAME   READY\na      1/1\nlong   0/1\n");
        let options = Options { wide: true, with_namespace: true, show_labels: true, ..Options::default() };
        assert_eq!(
            layout(&rows(&table, &options)),
            "NAMESPACE   NAME   READY   NODE   LABELS\nd           a      1/1     n      app=x\nd           long   0/1     n      <none>\n"
        );
    }
}
