//! YAML as `sigs.k8s.io/yaml` writes it (`go.yaml.in/yaml/v2`): two spaces, lists not indented under their key, keys in that
//! writer's natural order, strings quoted only where they must be, texts of several lines as literal blocks.

use std::cmp::Ordering;

use serde_json::Value;

use super::resolve::is_text;
use crate::order;

/// The document.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(value, 0, false, &mut out),
        Value::Array(list) if !list.is_empty() => write_list(value, 0, false, &mut out),
        scalar => {
            out += &scalar_text(scalar, 2, 0);
            out.push('\n');
        }
    }
    out
}

/// Entries in the order of their keys.
pub fn in_order<T>(entries: Vec<T>, key: &impl Fn(&T) -> &str) -> Vec<T> {
    order::sorted(entries, &|a, b| key_order(key(a), key(b)).is_lt())
}

/// Order of keys: numbers within them count as numbers, letters come after other characters (`keyList.Less`).
fn key_order(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    for i in 0..a.len().min(b.len()) {
        let (ca, cb) = (a[i], b[i]);
        if ca == cb {
            continue;
        }
        let (la, lb) = (ca.is_alphabetic(), cb.is_alphabetic());
        if la && lb {
            return ca.cmp(&cb);
        }
        if la || lb {
            return if lb { Ordering::Less } else { Ordering::Greater };
        }
        let start = if (ca == '0' || cb == '0') && a[..i].iter().rev().take_while(|c| c.is_numeric()).any(|c| *c != '0') { 1 } else { 0 };
        let number = |text: &[char]| {
            let digits = text[i..].iter().take_while(|c| c.is_ascii_digit());
            digits.fold((start, 0), |(n, length): (i64, usize), c| (n.wrapping_mul(10).wrapping_add(i64::from(u32::from(*c) - 48)), length + 1))
        };
        let ((na, da), (nb, db)) = (number(&a), number(&b));
        return na.cmp(&nb).then(da.cmp(&db)).then(ca.cmp(&cb));
    }
    a.len().cmp(&b.len())
}

fn indent_by(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Longer keys are written as such (go-yaml: `yaml_emitter_check_simple_key`).
const SIMPLE_KEY_MAX: usize = 128;

/// `inline`: the first key stands on a line that has begun (after `- `).
fn write_map(value: &Value, indent: usize, inline: bool, out: &mut String) {
    let entries: Vec<(&String, &Value)> = value.as_object().into_iter().flatten().collect();
    for (i, (key, item)) in in_order(entries, &|(key, _)| key.as_str()).into_iter().enumerate() {
        if i > 0 || !inline {
            indent_by(indent, out);
        }
        let key = key_text(key);
        if key.len() > SIMPLE_KEY_MAX {
            // A key that long is not looked for before a colon.
            out.push_str("? ");
            out.push_str(&key);
            out.push('\n');
            indent_by(indent, out);
        } else {
            out.push_str(&key);
        }
        out.push(':');
        match item {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                write_map(item, indent + 2, false, out);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                write_list(item, indent, false, out);
            }
            scalar => {
                out.push(' ');
                let column = column(out);
                out.push_str(&scalar_text(scalar, indent + 2, column));
                out.push('\n');
            }
        }
    }
}

fn write_list(value: &Value, indent: usize, inline: bool, out: &mut String) {
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        if i > 0 || !inline {
            indent_by(indent, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(item, indent + 2, true, out),
            Value::Array(list) if !list.is_empty() => write_list(item, indent + 2, true, out),
            scalar => {
                let column = column(out);
                out.push_str(&scalar_text(scalar, indent + 2, column));
                out.push('\n');
            }
        }
    }
}

fn scalar_text(value: &Value, indent: usize, column: usize) -> String {
    match value {
        Value::String(s) => string_text(s, indent, column),
        Value::Number(n) if n.is_f64() => {
            let f = n.as_f64().unwrap_or(0.0);
            // Read back from JSON, a whole number is one; others are printed as %g does it.
            if f.fract() == 0.0 && f.abs() < 1e15 { (f as i64).to_string() } else { crate::go::float(f) }
        }
        Value::Array(_) => "[]".into(),
        Value::Object(_) => "{}".into(),
        other => other.to_string(),
    }
}

fn key_text(key: &str) -> String {
    let shape = Shape::of(key);
    if key.contains('\n') {
        return double_quoted(key);
    }
    if !reads_as_itself(key) {
        return double_quoted(key);
    }
    if shape.plain && !key.is_empty() {
        return key.to_owned();
    }
    if shape.single { single_quoted(key) } else { double_quoted(key) }
}

/// How many characters stand on the line that has begun.
fn column(out: &str) -> usize {
    out.rsplit('\n').next().map_or(0, |line| line.chars().count())
}

/// A line that is longer goes on in the next one, where a single space allows it.
const WIDTH: usize = 80;

/// Breaks a scalar that stands in one line so far. `quote` is how many characters its quotes take on each side.
fn fold(text: &str, quote: usize, indent: usize, mut column: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::new();
    let mut after_space = false;
    for (i, c) in chars.iter().enumerate() {
        let inside = i >= quote && (quote == 0 || (i > quote && i + 1 + quote < chars.len()));
        let next_is_space = chars.get(i + 1) == Some(&' ');
        if *c == ' ' && inside && !after_space && column > WIDTH && (!next_is_space || text.starts_with('"')) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
            if next_is_space {
                out.push('\\');
                column += 1;
            }
        } else {
            out.push(*c);
            column += 1;
        }
        after_space = *c == ' ';
    }
    out
}

fn string_text(text: &str, indent: usize, column: usize) -> String {
    let shape = Shape::of(text);
    if text.contains('\n') {
        return if shape.block { block(text, indent) } else { fold(&double_quoted(text), 1, indent, column) };
    }
    match () {
        () if !reads_as_itself(text) => fold(&double_quoted(text), 1, indent, column),
        () if shape.plain => fold(text, 0, indent, column),
        () if shape.single => fold(&single_quoted(text), 1, indent, column),
        () => fold(&double_quoted(text), 1, indent, column),
    }
}

/// Whether a plain scalar of this text would be read as this text.
fn reads_as_itself(text: &str) -> bool {
    text != "<<" && !is_base60(text) && is_text(text)
}

/// `^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$`
fn is_base60(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (text, fraction) = text.split_once('.').map_or((text, None), |(t, f)| (t, Some(f)));
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or_default();
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let rest: Vec<&str> = parts.collect();
    first.starts_with(|c: char| c.is_ascii_digit())
        && digits(first)
        && !rest.is_empty()
        && rest.iter().all(|p| matches!(p.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
        && fraction.is_none_or(digits)
}

/// Which styles can hold a text (`yaml_emitter_analyze_scalar`).
struct Shape {
    plain: bool,
    single: bool,
    block: bool,
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | '\x20'..='\x7e' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

impl Shape {
    fn of(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        if chars.is_empty() {
            return Self { plain: true, single: true, block: false };
        }
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut line_breaks, mut special, mut break_space, mut space_break) = (false, false, false, false);
        let (mut previous_space, mut previous_break, mut blank_before) = (false, false, true);
        for (i, c) in chars.iter().copied().enumerate() {
            let blank_after = chars.get(i + 1).is_none_or(|n| *n == ' ' || *n == '\t');
            indicators |= match c {
                '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' if i == 0 => true,
                '?' | ':' | '-' if i == 0 => blank_after,
                ':' => blank_after,
                '#' => blank_before,
                _ => false,
            };
            special |= !is_printable(c);
            if c == ' ' {
                break_space |= previous_break;
                (previous_space, previous_break) = (true, false);
            } else if is_break(c) {
                line_breaks = true;
                space_break |= previous_space;
                (previous_space, previous_break) = (false, true);
            } else {
                (previous_space, previous_break) = (false, false);
            }
            blank_before = c == ' ' || c == '\t' || is_break(c);
        }
        let (first, last) = (chars[0], chars[chars.len() - 1]);
        let edges = [first, last].iter().any(|c| *c == ' ' || is_break(*c));
        Self {
            plain: !(edges || break_space || space_break || special || line_breaks || indicators),
            single: !(break_space || space_break || special),
            block: !(last == ' ' || space_break || special),
        }
    }
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if is_printable(c) && !is_break(c) && c != '"' && c != '\\' {
            out.push(c);
            continue;
        }
        match c {
            '\0' => out += "\\0",
            '\x07' => out += "\\a",
            '\x08' => out += "\\b",
            '\t' => out += "\\t",
            '\n' => out += "\\n",
            '\x0b' => out += "\\v",
            '\x0c' => out += "\\f",
            '\r' => out += "\\r",
            '\x1b' => out += "\\e",
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\u{85}' => out += "\\N",
            '\u{a0}' => out += "\\_",
            '\u{2028}' => out += "\\L",
            '\u{2029}' => out += "\\P",
            c if u32::from(c) <= 0xff => out += &format!("\\x{:02X}", u32::from(c)),
            c if u32::from(c) <= 0xffff => out += &format!("\\u{:04X}", u32::from(c)),
            c => out += &format!("\\U{:08X}", u32::from(c)),
        }
    }
    out.push('"');
    out
}

/// A literal block, with the signs that say how it begins and ends.
fn block(text: &str, indent: usize) -> String {
    let hint = if text.starts_with(|c| c == ' ' || is_break(c)) { "2" } else { "" };
    let mut backwards = text.chars().rev();
    let chomp = match (backwards.next(), backwards.next()) {
        (Some(last), _) if !is_break(last) => "-",
        (Some(_), None) => "+",
        (Some(_), Some(before)) if is_break(before) => "+",
        _ => "",
    };
    let pad = " ".repeat(indent.max(2));
    let body = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<String> = body.split('\n').map(|l| if l.is_empty() { String::new() } else { format!("{pad}{l}") }).collect();
    format!("|{hint}{chomp}\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;
    use serde_json::json;

    #[test]
    fn objects_are_laid_out_as_kubectl_does_it() {
        let value =
            json!({"a": {"b": [{"c": 1, "d": "yes"}, {"e": []}], "f": {}}, "g": "x: y", "h": "a\nb\n", "i": null, "j": "1", "k": ["x"], "l": [["m", "o"]]});
        let wanted = "a:\n  b:\n  - c: 1\n    d: \"yes\"\n  - e: []\n  f: {}\ng: 'x: y'\nh: |\n  a\n  b\ni: null\nj: \"1\"\nk:\n- x\nl:\n- - m\n  - o\n";
        assert_eq!(to_string(&value), wanted);
    }

    #[test]
    fn strings_are_quoted_where_they_must_be() {
        for (text, wanted) in [
            ("", "\"\""),
            ("plain", "plain"),
            ("-v=2", "-v=2"),
            ("- x", "'- x'"),
            ("a #b", "'a #b'"),
            ("a:b", "a:b"),
            ("a:", "'a:'"),
            ("*", "'*'"),
            ("'x'", "'''x'''"),
            ("\"x\"", "'\"x\"'"),
            (" x", "' x'"),
            ("tab\there", "\"tab\\there\""),
            ("true", "\"true\""),
            ("1e3", "\"1e3\""),
            ("0x1f", "\"0x1f\""),
            ("~", "\"~\""),
            ("12:30", "\"12:30\""),
            ("2026-01-02T03:04:05Z", "\"2026-01-02T03:04:05Z\""),
            ("2026-01-02", "\"2026-01-02\""),
            ("10.0.0.1", "10.0.0.1"),
            ("<<", "\"<<\""),
            ("é", "é"),
            ("=", "="),
            ("{}", "'{}'"),
        ] {
            assert_eq!(string_text(text, 2, 0), wanted, "{text:?}");
        }
    }

    #[test]
    fn long_lines_go_on_in_the_next() {
        let words = "word ".repeat(20);
        let value = json!({"a": words.trim(), "b": format!("x: {}", words.trim())});
        let line = |lead: &str, n: usize| format!("{lead}{}", vec!["word"; n].join(" "));
        assert_eq!(to_string(&value), format!("{}\n{}\n{}\n{}'\n", line("a: ", 16), line("  ", 4), line("b: 'x: ", 15), line("  ", 5)));
    }

    #[test]
    fn keys_are_in_natural_order() {
        let keys = vec!["b", "a10", "a2", "a/x", "a.b", "A", "1", "10", "2"];
        assert_eq!(in_order(keys, &|key| key), ["1", "2", "10", "A", "a.b", "a/x", "a2", "a10", "b"]);
    }

    /// A fuzzer found these.
    #[test]
    fn keys_that_have_no_order_are_written_all_the_same() {
        assert!([("77", "7u"), ("7u", "8"), ("8", "77")].iter().all(|(a, b)| key_order(a, b).is_lt()));
        let keys = "nam: a nu nm u c e Z na m es 8 namesp7u n p nam8 namesp7758 namek namesp8 ne v namesp namesp7 namesp77 7 77 7u u7 n8".split(' ');
        let map: serde_json::Map<String, Value> = keys.map(|key| (key.to_owned(), Value::Null)).collect();
        let value = Value::Object(map);
        assert_eq!(parse(&to_string(&value)), Ok(value));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for value in [
            json!({"a": {"k".repeat(2000): {"b": [1, {"c".repeat(300): "d"}]}}}),
            json!({"a": "0644"}),
            json!({"a": "- b"}),
            json!({"a": ""}),
            json!({"a": "2026-01-02T03:04:05Z"}),
            json!({"a": ["b\nc", "d\n\n", "  e\nf"]}),
            json!({"a": "~"}),
            json!({"x": "-1", "a": {"y": "\ttab", "n": [[1, [2]], {"q": {"r": "s"}}]}}),
        ] {
            assert_eq!(parse(&to_string(&value)), Ok(value));
        }
    }
}
