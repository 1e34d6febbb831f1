//! What is wrong with a YAML text, in the words and with the lines of goyaml (libyaml's scanner and parser), as far as ours is wrong at the
//! same place. Upstream shows these texts to clients.

/// What the reader does not let through.
///
/// # Errors
/// The text of goyaml's reader.
pub(super) fn check_characters(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    if rest.chars().all(is_printable) { Ok(()) } else { Err("yaml: control characters are not allowed".into()) }
}

fn is_printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..) && c != '\u{feff}'
}

/// Whether a text in JSON escapes a half of a surrogate pair. goyaml refuses each half, also where both stand together.
pub fn has_surrogates(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escape = rest[at + 1..].as_bytes();
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

/// The parser's trouble at a line (from 1), as goyaml tells it. It counts lines from 0 and leaves out the first, but its scanner counts from 1.
pub(super) fn in_goyamls_words(text: &str, line: usize, why: &str) -> String {
    let at = |line: usize, why: &str| if line == 0 { format!("yaml: {why}") } else { format!("yaml: line {line}: {why}") };
    let scanned = |line: usize| if line > 1 { line } else { 0 };
    match why {
        "unclosed bracket '{'" => at(last_line(text), missing(text, "did not find expected ',' or '}'")),
        "unclosed bracket '['" => at(last_line(text), missing(text, "did not find expected ',' or ']'")),
        "misplaced bracket" => at(line - 1, "did not find expected node content"),
        "unclosed quote" => at(scanned(text.matches('\n').count() + 1), "found unexpected end of stream"),
        "recursion limit exceeded" => at(scanned(line), "exceeded max depth of 10000"),
        why if why.contains("surrogate") => at(scanned(line), "found invalid Unicode character escape code"),
        why if why.contains("expected hexadecimal number") => at(scanned(line), "did not find expected hexdecimal number"),
        why => at(scanned(line), why),
    }
}

/// The end of a text is a line of its own.
fn last_line(text: &str) -> usize {
    text.matches('\n').count() + usize::from(!text.ends_with('\n'))
}

/// What is missed where a text ends within brackets.
fn missing<'a>(text: &str, separator: &'a str) -> &'a str {
    if text.trim_end().ends_with(['{', '[', ',', ':']) { "did not find expected node content" } else { separator }
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
