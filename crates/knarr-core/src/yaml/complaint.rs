//! What is wrong with a YAML text, as goyaml tells it, and what of JSON it would not read. Upstream shows these texts to clients.

/// What the scanner finds wrong at a line, which is counted from 0: the first is not told.
pub(super) fn of_scanner(line: usize, why: &str) -> String {
    if line == 0 { format!("yaml: {why}") } else { format!("yaml: line {}: {why}", line + 1) }
}

/// What the parser finds wrong at a line: it tells the one before.
pub(super) fn of_parser(line: usize, why: &str) -> String {
    if line == 0 { format!("yaml: {why}") } else { format!("yaml: line {line}: {why}") }
}

/// Whether a text in JSON escapes a half of a surrogate pair. goyaml refuses each half, also where both stand together.
pub fn has_surrogates(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escape = rest.as_bytes().get(at + 1..).unwrap_or_default();
        if let [b'u', b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..] = escape {
            return true;
        }
        // Behind the escaped byte, which may be a backslash itself.
        let mut next = (at + 2).min(rest.len());
        while !rest.is_char_boundary(next) {
            next += 1;
        }
        rest = &rest[next..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn trouble_is_told_as_goyaml_tells_it() {
        for (text, wanted) in [
            ("{", "yaml: line 1: did not find expected node content"),
            ("a: [\n", "yaml: line 1: did not find expected node content"),
            ("a:\n- [b,\n", "yaml: line 2: did not find expected node content"),
            (r#"{"a":1"#, "yaml: line 1: did not find expected ',' or '}'"),
            ("[1", "yaml: line 1: did not find expected ',' or ']'"),
            ("}", "yaml: did not find expected node content"),
            ("%YAML 1.2\n--- a\n", "yaml: found incompatible YAML document"),
            (r#""a\/b""#, "yaml: found unknown escape character"),
            ("a:\n- \"b\\\\\\/c\"\n", "yaml: line 2: found unknown escape character"),
            ("\"a", "yaml: found unexpected end of stream"),
            ("- [a?string]\n- [b ? string]\n", "yaml: did not find expected ',' or ']'"),
            (r#"{"a":"b"#, "yaml: found unexpected end of stream"),
            (r#"{"a":"\x"}"#, "yaml: did not find expected hexdecimal number"),
            ("a\0", "yaml: control characters are not allowed"),
            (&"[".repeat(20_000), "yaml: exceeded max depth of 10000"),
        ] {
            assert_eq!(parse(text).unwrap_err(), wanted, "{text:.40}");
        }
    }

    #[test]
    fn halves_of_surrogate_pairs_are_seen_where_they_are_escaped() {
        assert!(has_surrogates(r#"{"a":"\ud800"}"#) && has_surrogates(r#""\\\ud83d\ude00""#));
        assert!(!has_surrogates(r#""\\ud800""#) && !has_surrogates(r#""\u00e9\""#) && !has_surrogates("\\ä\\"));
    }
}
