//! `kubectl explain`: fields and what they mean, out of the server's OpenAPI v3 (`kubectl/pkg/explain/v2`).

use std::collections::BTreeSet;

use knarr_core::{Value, ValueExt};

use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, switch, text};
use crate::kubectl::print::go;
use crate::kubectl::print::out;
use crate::kubectl::resources::{Meant, find};

const FLAGS: &[Flag] = &[
    switch("recursive", "Print the names of the fields of the fields, too").short('R'),
    int("max-depth", "0", "Deepest level of --recursive; 0 is without limit"),
    text("api-version", "", "Use the given api-version (group/version) of the resource"),
    text("output", "plaintext", "Format in which to render the schema. Valid values are: (plaintext)").short('o'),
];

pub static VERB: Verb = Verb {
    name: "explain",
    usage: "TYPE [--recursive=FALSE|TRUE] [--api-version=api-version-group] [flags]",
    about: "Get documentation for a resource",
    flags: &[FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let [word] = cx.words() else {
        return Err(if cx.words().is_empty() {
            "You must specify the type of resource to explain. Use \"kubectl api-resources\" for a complete list of supported resources.\n".into()
        } else {
            "We accept only this format: explain RESOURCE\n".into()
        });
    };
    if flags.int("max-depth") > 0 && !flags.on("recursive") {
        return Err("--max-depth requires --recursive".into());
    }
    if flags.int("max-depth") < 0 {
        return Err("--max-depth must be non-negative".into());
    }
    if flags.text("output") != "plaintext" && flags.text("output") != "plaintext-openapiv2" {
        return Err(format!("unrecognized format: {}", flags.text("output")).into());
    }
    let session = cx.session()?;
    let (mut meant, path) = resource_and_path(cx, word).await?;
    if let Some((group, version)) = flags.some("api-version").map(|v| v.rsplit_once('/').unwrap_or(("", v))) {
        meant.resource.group = group.to_owned();
        meant.resource.version = version.to_owned();
    }
    let r = &meant.resource;
    let place = if r.group.is_empty() { format!("/openapi/v3/api/{}", r.version) } else { format!("/openapi/v3/apis/{}/{}", r.group, r.version) };
    let document = session.get(&place).await.map_err(|e| match e {
        Failure::Server(s) if s.is_not_found() => Failure::Other(format!("couldn't find resource for \"{}/{}, Resource={}\"", r.group, r.version, r.resource)),
        other => other,
    })?;
    let page =
        Explainer { document: &document, recursive: flags.on("recursive"), depth: usize::try_from(flags.int("max-depth")).unwrap_or(0) }.page(&meant, &path)?;
    out(&page)
}

/// `pods.spec.containers`: the longest beginning that names a resource, and the fields after it.
async fn resource_and_path(cx: &Context, word: &str) -> Result<(Meant, Vec<String>)> {
    let parts: Vec<&str> = word.split('.').collect();
    let session = cx.session()?;
    for count in (1..=parts.len()).rev() {
        if let Some(meant) = crate::kubectl::resources::builtin(&parts[..count].join(".")) {
            let path = parts[count..].iter().map(|p| (*p).to_owned()).filter(|p| !p.is_empty()).collect();
            return Ok((meant, path));
        }
    }
    for count in (1..=parts.len()).rev() {
        if let Ok(meant) = find(session, &parts[..count].join(".")).await {
            return Ok((meant, parts[count..].iter().map(|p| (*p).to_owned()).collect()));
        }
    }
    find(session, parts[0]).await.map(|m| (m, Vec::new())).map_err(|e| Failure::Plain(e.message()))
}

struct Explainer<'a> {
    document: &'a Value,
    recursive: bool,
    depth: usize,
}

impl<'a> Explainer<'a> {
    fn page(&self, meant: &Meant, path: &[String]) -> Result<String> {
        let r = &meant.resource;
        let is_kind = |gvk: &Value| {
            gvk.str_at(&["group"]).unwrap_or_default() == r.group && gvk.str_at(&["version"]) == Some(&r.version) && gvk.str_at(&["kind"]) == Some(&meant.kind)
        };
        let schemas = self.document.at(&["components", "schemas"]).and_then(Value::as_object);
        let schema = schemas.into_iter().flatten().map(|(_, s)| s).find(|s| s.list_at(&["x-kubernetes-group-version-kind"]).iter().any(is_kind));
        let Some(schema) = schema else {
            return Err(format!("GVR ({}/{}, Resource={}) not found in OpenAPI schema", r.group, r.version, r.resource).into());
        };
        let mut page = if r.group.is_empty() { String::new() } else { format!("GROUP:      {}\n", r.group) };
        page += &format!("KIND:       {}\nVERSION:    {}\n\n", meant.kind, r.version);
        let body = self.output(schema, path, &BTreeSet::new());
        let Some(body) = body.filter(|b| !b.is_empty()) else {
            out(&page)?;
            return Err(format!("field \"{}\" does not exist", path.last().cloned().unwrap_or_default()).into());
        };
        Ok(page + &body + "\n")
    }

    fn reference(schema: &Value) -> &str {
        schema.str_at(&["$ref"]).unwrap_or_default()
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let name = Self::reference(schema).rsplit('/').next().unwrap_or_default();
        self.document.at(&["components", "schemas", name]).filter(|_| !name.is_empty()).unwrap_or(schema)
    }

    /// The rest of the page, once the fields have been followed.
    fn output(&self, schema: &'a Value, path: &[String], history: &BTreeSet<&'a str>) -> Option<String> {
        let reference = Self::reference(schema);
        let mut seen = history.clone();
        seen.insert(reference);
        let resolved = self.resolve(schema);
        let Some((first, rest)) = path.split_first() else {
            let description = self.description(resolved);
            let description = if description.is_empty() { "<empty>".to_owned() } else { description };
            let mut text = format!("DESCRIPTION:\n{}\n", indent(4, &wrap(&description, 76)));
            let fields = self.fields(resolved, 1, &BTreeSet::new());
            if !fields.is_empty() {
                text += &format!("FIELDS:\n{fields}");
            }
            return Some(text);
        };
        if !reference.is_empty() && history.contains(reference) {
            return None;
        }
        if let Some(field) = resolved.at(&["properties", first]) {
            let mut text = String::new();
            if rest.is_empty() {
                text += &format!("FIELD: {first} <{}>\n{}\n\n", self.type_of(field), enumeration(field, None));
            }
            return self.output(field, rest, &BTreeSet::new()).map(|o| text + &o);
        }
        if let Some(items) = resolved.at(&["items"]) {
            return self.output(items, path, &seen);
        }
        if let Some(values) = resolved.at(&["additionalProperties"]).filter(|v| v.is_object()) {
            return self.output(values, path, &seen);
        }
        resolved.list_at(&["allOf"]).iter().find_map(|s| self.output(s, path, &seen).filter(|o| !o.is_empty()))
    }

    fn description(&self, schema: &'a Value) -> String {
        let schema = self.resolve(schema);
        let mut text = schema.str_at(&["description"]).filter(|d| !d.is_empty()).map(|d| format!("{d}\n")).unwrap_or_default();
        text.extend(schema.list_at(&["allOf"]).iter().map(|s| self.description(s)));
        text.extend(schema.at(&["items"]).map(|s| self.description(s)));
        text.extend(schema.at(&["additionalProperties"]).filter(|v| v.is_object()).map(|s| self.description(s)));
        text
    }

    fn fields(&self, schema: &'a Value, level: usize, history: &BTreeSet<&'a str>) -> String {
        let reference = Self::reference(schema);
        if !reference.is_empty() && history.contains(reference) {
            return String::new();
        }
        let mut seen = history.clone();
        seen.insert(reference);
        let resolved = self.resolve(schema);
        let mut text = String::new();
        for (name, field) in resolved.at(&["properties"]).and_then(Value::as_object).into_iter().flatten() {
            text += &self.field(resolved, name, field, level);
            if self.recursive && (self.depth == 0 || level < self.depth) {
                text += &self.fields(field, level + 1, &seen);
            }
        }
        text.extend(resolved.list_at(&["allOf"]).iter().map(|s| self.fields(s, level, &seen)));
        text.extend(resolved.at(&["items"]).map(|s| self.fields(s, level, &seen)));
        text.extend(resolved.at(&["additionalProperties"]).filter(|v| v.is_object()).map(|s| self.fields(s, level, &seen)));
        text
    }

    fn field(&self, schema: &Value, name: &str, field: &'a Value, level: usize) -> String {
        let width = level * 2;
        let required = if schema.list_at(&["required"]).iter().any(|r| r == name) { " -required-" } else { "" };
        let mut text = format!("{}\t<{}>{required}{}\n", indent(width, name), self.type_of(field), enumeration(field, Some(width)));
        if !self.recursive {
            let description = field.str_at(&["description"]).filter(|d| !d.is_empty()).unwrap_or("<no description>");
            text += &format!("{}\n\n", indent(width + 2, &wrap(description, 78 - width)));
        }
        text
    }

    fn type_of(&self, schema: &'a Value) -> String {
        if let Some(items) = schema.at(&["items"]) {
            return format!("[]{}", self.type_of(items));
        }
        if let Some(values) = schema.at(&["additionalProperties"]).filter(|v| v.is_object()) {
            return format!("map[string]{}", self.type_of(values));
        }
        if let ([one], None) = (schema.list_at(&["allOf"]), schema.at(&["properties"])) {
            return self.type_of(one);
        }
        let reference = Self::reference(schema);
        if !reference.is_empty() {
            let target = self.resolve(schema);
            return match target.str_at(&["type"]) {
                Some(kind) if kind != "object" => kind.to_owned(),
                _ => reference.rsplit(['/', '.']).next().unwrap_or("Object").to_owned(),
            };
        }
        match schema.str_at(&["type"]) {
            None | Some("object" | "") => "Object".into(),
            Some(kind) => kind.to_owned(),
        }
    }
}

/// The values that a field may have: in one line under it, or one a line.
fn enumeration(field: &Value, short: Option<usize>) -> String {
    let values: Vec<String> = field.list_at(&["enum"]).iter().map(|v| if v == "" { "\"\"".into() } else { go::sprint(v) }).collect();
    if values.is_empty() {
        return String::new();
    }
    match short {
        None => format!("ENUM:{}", values.iter().map(|v| format!("\n    {v}")).collect::<String>()),
        Some(width) => {
            let more = if values.len() > 4 { ", ...." } else { "" };
            format!("\n{}enum: {}{more}", " ".repeat(width), values[..values.len().min(4)].join(", "))
        }
    }
}

fn indent(width: usize, text: &str) -> String {
    let pad = " ".repeat(width);
    format!("{pad}{}", text.replace('\n', &format!("\n{pad}")))
}

/// Breaks lines at spaces so that none is longer, where that can be (`mitchellh/go-wordwrap`).
fn wrap(text: &str, limit: usize) -> String {
    let (mut out, mut word, mut space) = (String::new(), String::new(), String::new());
    let (mut current, mut word_length, mut space_length) = (0, 0, 0);
    for c in text.chars() {
        if c == '\n' {
            if word_length == 0 {
                if current + space_length > limit {
                    current = 0;
                } else {
                    current += space_length;
                    out += &space;
                }
            } else {
                current += space_length + word_length;
                out += &space;
                out += &word;
            }
            space.clear();
            word.clear();
            (space_length, word_length) = (0, 0);
            let _ = current;
            out.push(c);
            current = 0;
        } else if c.is_whitespace() && c != '\u{a0}' {
            if space_length == 0 || word_length > 0 {
                current += space_length + word_length;
                out += &space;
                out += &word;
                space.clear();
                word.clear();
                (space_length, word_length) = (0, 0);
            }
            space.push(c);
            space_length += 1;
        } else {
            word.push(c);
            word_length += 1;
            if current + word_length + space_length > limit && word_length < limit {
                out.push('\n');
                current = 0;
                space.clear();
                space_length = 0;
            }
        }
    }
    if word_length == 0 {
        if current + space_length <= limit {
            out += &space;
        }
    } else {
        out += &space;
        out += &word;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn fields_are_followed_through_references() {
        let document = json!({"components": {"schemas": {
            "io.A": {"type": "object", "description": "An A.", "required": ["spec"], "properties": {"spec": {"description": "The spec.", "allOf": [{"$ref": "#/components/schemas/io.Spec"}]}},
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "A"}]},
            "io.Spec": {"type": "object", "description": "Spec it is.", "properties": {"names": {"type": "array", "items": {"type": "string"}, "description": "Names."}, "mode": {"type": "string", "enum": ["", "On"]}}}
        }}});
        let explainer = |recursive| Explainer { document: &document, recursive, depth: 0 };
        let meant = Meant::new("", "v1", "as", "A", true);
        let page = |recursive, path: &[&str]| {
            explainer(recursive).page(&meant, &path.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).unwrap_or_else(|e| e.to_string())
        };
        assert_eq!(page(false, &[]), "KIND:       A\nVERSION:    v1\n\nDESCRIPTION:\n    An A.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    The spec.\n\n\n");
        assert_eq!(
            page(true, &[]),
            "KIND:       A\nVERSION:    v1\n\nDESCRIPTION:\n    An A.\n    \nFIELDS:\n  spec\t<Spec> -required-\n    mode\t<string>\n    enum: \"\", On\n    names\t<[]string>\n\n"
        );
        assert_eq!(page(false, &["spec", "names"]), "KIND:       A\nVERSION:    v1\n\nFIELD: names <[]string>\n\n\nDESCRIPTION:\n    Names.\n    \n\n");
        assert_eq!(page(false, &["spec", "none"]), "error: field \"none\" does not exist");
    }

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrap("aaa bbb ccc", 7), "aaa bbb\nccc");
        assert_eq!(wrap("a\n\nb", 7), "a\n\nb");
    }
}
