//! Small pieces of JSON as Go writes it, and its pretty form.

/// Appends a string with Go's escapes (`<`, `>`, `&`, U+2028 and U+2029 among them).
pub fn put_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut start = 0;
    for (i, &b) in bytes.iter().enumerate() {
        let escape: &[u8] = match b {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0x08 => b"\\b",
            0x0c => b"\\f",
            b'<' => b"\\u003c",
            b'>' => b"\\u003e",
            b'&' => b"\\u0026",
            0x00..=0x1f => {
                out.extend_from_slice(&bytes[start..i]);
                out.extend_from_slice(format!("\\u{b:04x}").as_bytes());
                start = i + 1;
                continue;
            }
            0xe2 if bytes[i..].starts_with(&[0xe2, 0x80, 0xa8]) => b"\\u2028",
            0xe2 if bytes[i..].starts_with(&[0xe2, 0x80, 0xa9]) => b"\\u2029",
            _ => continue,
        };
        out.extend_from_slice(&bytes[start..i]);
        out.extend_from_slice(escape);
        start = if b == 0xe2 { i + 3 } else { i + 1 };
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

/// Appends a number.
pub fn put_number(out: &mut Vec<u8>, n: impl std::fmt::Display) {
    use std::io::Write;
    // Writing to a Vec cannot fail.
    write!(out, "{n}").unwrap_or_default();
}

/// Appends a value; keys of objects are sorted.
pub fn put_value(out: &mut Vec<u8>, value: &serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(s) => put_string(out, s),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put_value(out, item);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                put_string(out, key);
                out.push(b':');
                put_value(out, item);
            }
            out.push(b'}');
        }
        other => put_number(out, other),
    }
}

/// The same JSON with two spaces of indentation (Go: `json.Indent`).
pub fn pretty(compact: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(compact.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    for (i, &b) in compact.iter().enumerate() {
        if in_string {
            out.push(b);
            in_string = escaped || b != b'"';
            escaped = !escaped && b == b'\\';
            continue;
        }
        match b {
            b'"' => {
                in_string = true;
                out.push(b);
            }
            b'{' | b'[' => {
                out.push(b);
                if !matches!(compact.get(i + 1), Some(b'}' | b']')) {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(compact.get(i.wrapping_sub(1)), Some(b'{' | b'[')) {
                    depth = usize::saturating_sub(depth, 1);
                    newline(&mut out, depth);
                }
                out.push(b);
            }
            b',' => {
                out.push(b);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_go_indents_it() {
        let got = pretty(br#"{"a":[],"b":{"c":"x:{\"y\"}","d":[1,2]},"e":{}}"#);
        let wanted = "{\n  \"a\": [],\n  \"b\": {\n    \"c\": \"x:{\\\"y\\\"}\",\n    \"d\": [\n      1,\n      2\n    ]\n  },\n  \"e\": {}\n}";
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
    }

    #[test]
    fn strings_carry_gos_escapes() {
        let mut out = Vec::new();
        put_string(&mut out, "a<b>&\"\\\n\u{1}\u{2028}é");
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\\u003cb\\u003e\\u0026\\\"\\\\\\n\\u0001\\u2028é\"");
    }
}
