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

/// The parser's trouble, as goyaml tells it (`parser.fail` in decode.go). `last_line` is the text's last one, from 0, where one was added.
pub(super) fn in_goyamls_words(error: &libyaml_safer::Error, last_line: Option<u64>) -> String {
    let scanner = error.kind() == libyaml_safer::ErrorKind::Scanner;
    // For the parser the end of a text is a line of its own.
    let last_line = last_line.filter(|_| scanner).unwrap_or(u64::MAX);
    let line = |mark: Option<libyaml_safer::Mark>| mark.map_or(0, |m| m.line).min(last_line);
    match (line(error.problem_mark()), line(error.context_mark())) {
        (0, line) => at(line, 0, error.problem()),
        (line, _) => at(line, u64::from(scanner), error.problem()),
    }
}

/// A sentence with its line, from 0: goyaml leaves out the first. Its scanner adds one to others, its parser does not.
pub(super) fn at(line: u64, scanner: u64, why: &str) -> String {
    if line == 0 { format!("yaml: {why}") } else { format!("yaml: line {}: {why}", line + scanner) }
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
