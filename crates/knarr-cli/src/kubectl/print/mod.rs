//! Printers: what `-o` asks for (`k8s.io/cli-runtime/pkg/genericclioptions/print_flags.go`).

pub mod columns;
pub use knarr_core::go;
pub mod jsonpath;
pub mod table;
pub mod tabs;
pub mod template;
pub use knarr_core::yaml;

use knarr_core::{Value, ValueExt};

use self::columns::Columns;
use self::jsonpath::JsonPath;
use self::template::Template;
use super::failure::Result;
use super::flags::{Flag, Flags, switch, switch_on, text};

/// Flags of every verb that prints objects.
pub const FLAGS: &[Flag] = &[
    text("output", "", "Output format").short('o'),
    text("template", "", "Template string or path to template file to use when -o=go-template, -o=go-template-file"),
    switch_on("allow-missing-template-keys", "Ignore any errors in templates when a field or map key is missing"),
    switch("show-managed-fields", "Keep the managedFields when printing objects in JSON or YAML format"),
];

/// One way to print an object.
pub enum Printer {
    /// `kind.group/name`, and what was done to it.
    Name {
        operation: String,
    },
    Yaml {
        managed_fields: bool,
        printed: usize,
    },
    /// The flow style that is YAML, with everything quoted.
    Kyaml {
        managed_fields: bool,
        printed: usize,
    },
    Json {
        managed_fields: bool,
    },
    JsonPath(JsonPath, bool),
    Columns(Columns),
    Template(Template),
}

const TEMPLATES: &[&str] = &["go-template", "go-template-file", "jsonpath", "jsonpath-as-json", "jsonpath-file", "template", "templatefile"];

impl Printer {
    /// The printer that the flags name; without any, the one that says what was done.
    pub fn of(flags: &Flags, operation: &str) -> Result<Self> {
        Self::named(
            flags,
            operation,
            &["go-template", "go-template-file", "json", "jsonpath", "jsonpath-as-json", "jsonpath-file", "kyaml", "name", "template", "templatefile", "yaml"],
        )
    }

    /// The same among these formats only.
    pub fn named(flags: &Flags, operation: &str, allowed: &[&str]) -> Result<Self> {
        let output = flags.text("output");
        let managed_fields = flags.on("show-managed-fields");
        let refused = || format!("unable to match a printer suitable for the output format \"{output}\", allowed formats are: {}", allowed.join(","));
        let (format, argument) = output.split_once('=').map_or((output, ""), |(f, a)| (f, a));
        if output.is_empty() && !flags.text("template").is_empty() {
            return Ok(Self::Template(Template::parse(flags.text("template"), flags.on("allow-missing-template-keys"))?));
        }
        match output {
            "" => return Ok(Self::Name { operation: operation.to_owned() }),
            "name" if allowed.contains(&"name") => return Ok(Self::Name { operation: String::new() }),
            "yaml" if allowed.contains(&"yaml") => return Ok(Self::Yaml { managed_fields, printed: 0 }),
            "kyaml" if allowed.contains(&"kyaml") => return Ok(Self::Kyaml { managed_fields, printed: 0 }),
            "json" if allowed.contains(&"json") => return Ok(Self::Json { managed_fields }),
            _ => {}
        }
        if !allowed.contains(&format) {
            return Err(refused().into());
        }
        if let Some(columns) = Columns::of(format, argument, output.contains('='), flags.on("no-headers")) {
            return Ok(Self::Columns(columns?));
        }
        if TEMPLATES.contains(&format) { template_printer(format, argument, flags) } else { Err(refused().into()) }
    }

    /// The text of one object.
    pub fn print(&mut self, object: &Value) -> Result<String> {
        Ok(match self {
            Self::Name { operation } => name_line(object, operation),
            Self::Yaml { managed_fields, printed } => {
                *printed += 1;
                let separator = if *printed > 1 { "---\n" } else { "" };
                format!("{separator}{}", yaml::to_string(&shown(object, *managed_fields)))
            }
            Self::Kyaml { managed_fields, .. } => format!("---\n{}", kyaml(&shown(object, *managed_fields))),
            Self::Json { managed_fields } => go::json_indent(&shown(object, *managed_fields)) + "\n",
            Self::JsonPath(path, as_json) => path.render(object, *as_json)?,
            Self::Columns(columns) => columns.print(object)?,
            Self::Template(template) => template.render(object)?,
        })
    }
}

fn template_printer(format: &str, argument: &str, flags: &Flags) -> Result<Printer> {
    let argument = if argument.is_empty() { flags.text("template") } else { argument };
    if argument.is_empty() {
        return Err("template format specified but no template given".into());
    }
    let text = if format.ends_with("file") {
        std::fs::read_to_string(argument).map_err(|e| format!("error reading --template {argument}, open {argument}: {}\n", super::failure::go_io(&e)))?
    } else {
        argument.to_owned()
    };
    if format.starts_with("jsonpath") {
        let path = JsonPath::parse(&text).map_err(|e| format!("error parsing jsonpath {text}, {e}\n"))?;
        return Ok(Printer::JsonPath(path, format == "jsonpath-as-json"));
    }
    Ok(Printer::Template(Template::parse(&text, flags.on("allow-missing-template-keys"))?))
}

/// `deployment.apps` of an object.
pub fn kind_title(object: &Value) -> String {
    let kind = object.str_at(&["kind"]).unwrap_or_default().to_lowercase();
    match object.str_at(&["apiVersion"]).and_then(|v| v.split_once('/')) {
        Some((group, _)) => format!("{kind}.{group}"),
        None => kind,
    }
}

fn name_line(object: &Value, operation: &str) -> String {
    if let Some(items) = object.at(&["items"]).and_then(Value::as_array).filter(|_| object.str_at(&["kind"]).is_some_and(|k| k.ends_with("List"))) {
        return items.iter().map(|i| name_line(i, operation)).collect();
    }
    let name = object.str_at(&["metadata", "name"]).filter(|n| !n.is_empty()).unwrap_or("<unknown>");
    let operation = if operation.is_empty() { String::new() } else { format!(" {operation}") };
    format!("{}/{name}{operation}\n", kind_title(object))
}

/// The object as it is shown: without managedFields unless they are asked for.
pub fn shown(object: &Value, managed_fields: bool) -> Value {
    let mut object = object.clone();
    if !managed_fields {
        strip_managed_fields(&mut object);
    }
    object
}

fn strip_managed_fields(object: &mut Value) {
    object.remove(&["metadata", "managedFields"]);
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(strip_managed_fields);
    }
}

/// KYAML: braces, trailing commas, keys bare where they are safe, strings in double quotes.
fn kyaml(value: &Value) -> String {
    let mut out = String::new();
    kyaml_value(value, 0, &mut out);
    out.push('\n');
    out
}

fn kyaml_value(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Array(list) if list.is_empty() => out.push_str("[]"),
        Value::Object(map) => {
            let entries = yaml::in_order(map.iter().collect(), &|(key, _): &(&String, &Value)| key.as_str());
            out.push_str("{\n");
            for (key, item) in entries {
                let bare =
                    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
                let bare = bare && knarr_core::yaml::resolve(key).is_string();
                let key = if bare { key.clone() } else { serde_json::to_string(key).unwrap_or_default() };
                out.push_str(&format!("{pad}  {key}: "));
                kyaml_value(item, indent + 2, out);
                out.push_str(",\n");
            }
            out.push_str(&format!("{pad}}}"));
        }
        Value::Array(list) if list.iter().all(Value::is_object) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                kyaml_value(item, indent, out);
            }
            out.push(']');
        }
        Value::Array(list) => {
            out.push_str("[\n");
            for item in list {
                out.push_str(&format!("{pad}  "));
                kyaml_value(item, indent + 2, out);
                out.push_str(",\n");
            }
            out.push_str(&format!("{pad}]"));
        }
        Value::String(s) => kyaml_text(s, indent, out),
        other => out.push_str(&other.to_string()),
    }
}

/// A text of several lines stands in several lines, each ended with a backslash.
fn kyaml_text(text: &str, indent: usize, out: &mut String) {
    let quoted = |part: &str| {
        let escaped = |text: &str| serde_json::to_string(text).map(|json| json[1..json.len() - 1].to_owned()).unwrap_or_default();
        part.split('\t').map(escaped).collect::<Vec<_>>().join("\t")
    };
    if !text.contains('\n') {
        return out.push_str(&format!("\"{}\"", quoted(text)));
    }
    out.push_str("\"\\\n");
    let lines: Vec<&str> = text.split('\n').collect();
    for (i, line) in lines.iter().enumerate() {
        let last = i + 1 == lines.len();
        if last && line.is_empty() {
            break;
        }
        out.push_str(&format!("{}{}{}\\\n", " ".repeat(indent + 3), quoted(line), if last { "" } else { "\\n" }));
    }
    out.push_str(&format!("{}\"", " ".repeat(indent + 2)));
}

/// Prints what a printer made, with no newline of our own.
pub fn out(text: &str) -> Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn printed(format: &str, object: &Value) -> String {
        let flags = Flags::parse(FLAGS, &["-o".into(), format.into()]).unwrap();
        Printer::of(&flags, "created").and_then(|mut p| p.print(object)).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn an_object_is_printed_in_many_ways() {
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "managedFields": [1]}});
        assert_eq!(printed("", &object), "deployment.apps/web created\n");
        assert_eq!(printed("name", &object), "deployment.apps/web\n");
        assert_eq!(printed("yaml", &object), "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n");
        assert_eq!(
            printed("json", &object),
            "{\n    \"apiVersion\": \"apps/v1\",\n    \"kind\": \"Deployment\",\n    \"metadata\": {\n        \"name\": \"web\"\n    }\n}\n"
        );
        assert_eq!(printed("jsonpath={.metadata.name}", &object), "web");
        assert_eq!(printed("go-template={{.kind}}", &object), "Deployment");
        assert_eq!(
            printed("x", &object),
            "error: unable to match a printer suitable for the output format \"x\", allowed formats are: go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,kyaml,name,template,templatefile,yaml"
        );
    }
}
