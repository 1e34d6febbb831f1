//! YAML as Go's writer lays it out: two spaces, lists not indented under their key, strings quoted where they would be read as
//! something else.

use knarr_core::{Value, yaml};

/// The document.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(value, 0, &mut out),
        Value::Array(list) if !list.is_empty() => write_list(value, 0, &mut out),
        scalar => {
            out += &scalar_text(scalar, 0);
            out.push('\n');
        }
    }
    out
}

fn write_map(value: &Value, indent: usize, out: &mut String) {
    for (i, (key, item)) in value.as_object().into_iter().flatten().enumerate() {
        if i > 0 || !out.ends_with("- ") {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        out.push_str(&string_text(key, 0));
        out.push(':');
        write_item(item, indent, out);
    }
}

fn write_item(item: &Value, indent: usize, out: &mut String) {
    match item {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            write_map(item, indent + 2, out);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            write_list(item, indent, out);
        }
        scalar => {
            out.push(' ');
            out.push_str(&scalar_text(scalar, indent + 2));
            out.push('\n');
        }
    }
}

fn write_list(value: &Value, indent: usize, out: &mut String) {
    for item in value.as_array().into_iter().flatten() {
        out.extend(std::iter::repeat_n(' ', indent));
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(item, indent + 2, out),
            Value::Array(list) if !list.is_empty() => {
                let mut inner = String::new();
                write_list(item, indent + 2, &mut inner);
                out.push_str(inner.trim_start());
            }
            scalar => {
                out.push_str(&scalar_text(scalar, indent + 2));
                out.push('\n');
            }
        }
    }
}

fn scalar_text(value: &Value, indent: usize) -> String {
    match value {
        Value::String(s) => string_text(s, indent),
        other => other.to_string(),
    }
}

fn string_text(text: &str, indent: usize) -> String {
    if text.contains('\n') && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') && !text.starts_with([' ', '\n']) {
        return block(text, indent);
    }
    if needs_quotes(text) { serde_json::to_string(text).unwrap_or_default() } else { text.to_owned() }
}

/// A literal block, with the sign that says how many newlines end it.
fn block(text: &str, indent: usize) -> String {
    let sign = match (text.ends_with("\n\n"), text.ends_with('\n')) {
        (true, _) => "|+",
        (_, true) => "|",
        _ => "|-",
    };
    let pad: String = std::iter::repeat_n(' ', indent).collect();
    let body = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<String> = body.split('\n').map(|l| if l.is_empty() { String::new() } else { format!("{pad}{l}") }).collect();
    format!("{sign}\n{}", lines.join("\n"))
}

/// Whether a plain scalar would be read as something other than this string.
fn needs_quotes(text: &str) -> bool {
    let first = text.chars().next();
    first.is_none_or(|c| "!&*-?:,[]{}#|>@`\"'%~= ".contains(c) && !(c == '-' && text.len() > 1 && !text.starts_with("- ") && !text.starts_with("--")))
        || text.ends_with([' ', ':'])
        || text.contains(": ")
        || text.contains(" #")
        || text.chars().any(char::is_control)
        || !matches!(yaml::parse(text), Ok(Value::String(s)) if s == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn objects_are_laid_out_as_kubectl_does_it() {
        let value = json!({"a": {"b": [{"c": 1, "d": "yes"}, {"e": []}], "f": {}}, "g": "x: y", "h": "a\nb\n", "i": null, "j": "1", "k": ["x"]});
        let wanted = "a:\n  b:\n  - c: 1\n    d: \"yes\"\n  - e: []\n  f: {}\ng: \"x: y\"\nh: |\n  a\n  b\ni: null\nj: \"1\"\nk:\n- x\n";
        assert_eq!(to_string(&value), wanted);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [
            json!({"a": "0644"}),
            json!({"a": "- b"}),
            json!({"a": ""}),
            json!({"a": "2026-01-02T03:04:05Z"}),
            json!({"a": ["b\nc", "d\n\n"]}),
            json!({"a": "~"}),
            json!({"x": "-1"}),
        ] {
            assert_eq!(yaml::parse(&to_string(&value)), Ok(value));
        }
    }
}
