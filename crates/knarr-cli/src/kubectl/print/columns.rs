//! `-o custom-columns=NAME:.metadata.name,…` and its file form (`kubectl/pkg/cmd/get/customcolumn.go`).

use knarr_core::{Value, ValueExt};

use super::jsonpath::{JsonPath, relaxed};
use super::{go, tabs};
use crate::kubectl::failure::Result;

/// The columns, and whether their headings have been printed.
pub struct Columns {
    columns: Vec<(String, JsonPath)>,
    headings: bool,
}

impl Columns {
    /// The printer, if the format is one of these.
    pub fn of(format: &str, argument: &str, has_argument: bool, no_headers: bool) -> Option<Result<Self>> {
        let spec = match format {
            "custom-columns" if !has_argument || argument.is_empty() => Err("custom-columns format specified but no custom columns given".into()),
            "custom-columns-file" if !has_argument || argument.is_empty() => Err("custom-columns format specified but no custom columns given".into()),
            "custom-columns" => return Some(Self::parse(argument, no_headers)),
            "custom-columns-file" => std::fs::read_to_string(argument)
                .map_err(|e| format!("error reading template {argument}, open {argument}: {}\n", crate::kubectl::failure::go_io(&e)).into()),
            _ => return None,
        };
        Some(spec.and_then(|text: String| Self::parse_file(&text, no_headers)))
    }

    fn parse(spec: &str, no_headers: bool) -> Result<Self> {
        let mut columns = Vec::new();
        for part in spec.split(',') {
            let Some((header, path)) = part.split_once(':') else {
                return Err(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>").into());
            };
            let path = relaxed(path)?;
            columns.push((header.to_owned(), JsonPath::parse(&path)?));
        }
        Ok(Self { columns, headings: !no_headers })
    }

    /// Two lines: headings, and the paths under them.
    fn parse_file(text: &str, no_headers: bool) -> Result<Self> {
        let mut lines = text.lines();
        let (Some(headers), Some(paths)) = (lines.next(), lines.next()) else {
            return Err(
                "invalid template, missing spec line. Expect format is one line of space separated column headers, one line of space separated column specs."
                    .into(),
            );
        };
        let (headers, paths): (Vec<&str>, Vec<&str>) = (headers.split_whitespace().collect(), paths.split_whitespace().collect());
        if headers.len() != paths.len() {
            return Err(format!("number of headers ({}) and field specifications ({}) don't match", headers.len(), paths.len()).into());
        }
        let columns: Result<Vec<_>> = headers.iter().zip(paths).map(|(h, p)| Ok(((*h).to_owned(), JsonPath::parse(&relaxed(p)?)?))).collect();
        Ok(Self { columns: columns?, headings: !no_headers })
    }

    /// One object, or the items of a list.
    pub fn print(&mut self, object: &Value) -> Result<String> {
        let mut lines = String::new();
        if std::mem::take(&mut self.headings) {
            lines += &self.columns.iter().map(|(h, _)| h.as_str()).collect::<Vec<_>>().join("\t");
            lines.push('\n');
        }
        let is_list = object.str_at(&["kind"]).is_some_and(|k| k.ends_with("List")) && object.get("items").is_some();
        let items = if is_list { object.list_at(&["items"]) } else { std::slice::from_ref(object) };
        for item in items {
            lines += &self.row(item)?;
        }
        Ok(tabs::layout(&lines, 6, 3))
    }

    fn row(&self, object: &Value) -> Result<String> {
        let mut cells = Vec::new();
        for (_, path) in &self.columns {
            let found = path.find(object)?;
            let mut texts: Vec<String> = found.iter().flatten().map(|v| go::escape_terminal(&go::sprint(v))).collect();
            if found.first().is_none_or(Vec::is_empty) {
                texts.insert(0, "<none>".into());
            }
            cells.push(texts.join(","));
        }
        Ok(cells.join("\t") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn columns_are_filled_by_their_paths() {
        let list = json!({"kind": "List", "items": [{"metadata": {"name": "a", "labels": {"x": "y"}}, "n": [1, 2]}, {"metadata": {"name": "long-name"}}]});
        let mut columns = Columns::parse("NAME:.metadata.name,L:metadata.labels,N:{.n[*]}", false).unwrap();
        assert_eq!(columns.print(&list).unwrap(), "NAME        L          N\na           map[x:y]   1,2\nlong-name   <none>     <none>\n");
        assert!(Columns::parse("NAME", false).is_err());
    }
}
