//! A text as a stream of events, as goyaml (`yaml/v2`) would see it: libyaml's, and what goyaml and libyaml do not have in common.

use std::borrow::Cow;
use std::io::BufReader;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libyaml_safer::{Encoding, Event, EventData, Parser, ScalarStyle};

use super::complaint;

/// As much of a text as goyaml looks at in one go.
const WINDOW_BYTES: usize = 512;
const BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// A text that ends with a line break: the scanner does not expect another end within a block or an escape.
pub(super) struct Source<'a> {
    text: Cow<'a, str>,
    /// Of a text that ended otherwise, its last line, and the number of that line from 0.
    unfinished: Option<(&'a str, u64)>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.is_empty() || text.ends_with(BREAKS) {
            return Self { text: Cow::Borrowed(text), unfinished: None };
        }
        let last = text.rsplit(BREAKS).next().unwrap_or(text);
        let breaks = text.matches(BREAKS).count() - text.matches("\r\n").count();
        Self { text: Cow::Owned(format!("{text}\n")), unfinished: Some((last, breaks as u64)) }
    }

    /// Events until the stream's end or the first error, which is a sentence of goyaml's.
    pub(super) fn events(&self) -> impl Iterator<Item = Result<Event, String>> {
        let mut parser = Parser::new();
        // Said, so that it does not guess from the first bytes.
        parser.set_encoding(Encoding::Utf8);
        parser.set_input(BufReader::with_capacity(WINDOW_BYTES, self.text.as_bytes()));
        let mut over = false;
        std::iter::from_fn(move || {
            if over {
                return None;
            }
            // It panics at a comma behind a tag in brackets (`[!!str, a]`), which libyaml refuses and goyaml takes for a part of the tag.
            let event = match catch_unwind(AssertUnwindSafe(|| parser.parse())) {
                Ok(Ok(event)) => self.as_goyaml(event),
                Ok(Err(error)) => Err(complaint::in_goyamls_words(&error, self.unfinished.map(|(_, line)| line))),
                Err(_) => Err("yaml: did not find expected whitespace or line break".to_owned()),
            };
            over = event.is_err() || matches!(&event, Ok(Event { data: EventData::StreamEnd, .. }));
            Some(event)
        })
    }

    /// What goyaml makes of it, or why it would not have come so far.
    fn as_goyaml(&self, mut event: Event) -> Result<Event, String> {
        match &mut event.data {
            EventData::DocumentStart { version_directive: Some(version), .. } if (version.major, version.minor) != (1, 1) => {
                return Err(complaint::at(event.start_mark.line, 0, "found incompatible YAML document"));
            }
            EventData::Scalar { style: ScalarStyle::DoubleQuoted, .. } => {
                let written = self.text.get(event.start_mark.index as usize..event.end_mark.index as usize).unwrap_or_default();
                if let Some(at) = escaped_slash(written) {
                    let line = event.start_mark.line + written[..at].matches('\n').count() as u64;
                    return Err(complaint::at(line, 1, "found unknown escape character"));
                }
            }
            EventData::Scalar { style: ScalarStyle::Literal | ScalarStyle::Folded, value, .. } => {
                if self.unfinished.is_some_and(|(last, line)| event.end_mark.line > line && self.has_added_break(last, event.start_mark.index, value)) {
                    value.pop();
                }
            }
            _ => {}
        }
        Ok(event)
    }

    /// Whether the break that was added is one of the value's: it ends a line of the block, or the block keeps (`+`) all that follow it.
    fn has_added_break(&self, last: &str, start: u64, value: &str) -> bool {
        let header = self.text.get(start as usize..).and_then(|t| t.lines().next()).unwrap_or_default();
        let keeps = header.split('#').next().is_some_and(|h| h.contains('+'));
        value.strip_suffix('\n').is_some_and(|rest| !last.trim().is_empty() || keeps || rest.ends_with([' ', '\t']))
    }
}

/// Where `\/` stands, which JSON has and YAML 1.1 has not.
fn escaped_slash(quoted: &str) -> Option<usize> {
    let bytes = quoted.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes.get(at..)?.iter().position(|&b| b == b'\\') {
        at += found;
        if bytes.get(at + 1) == Some(&b'/') {
            return Some(at);
        }
        at += 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use serde_json::json;

    #[test]
    fn a_text_may_end_without_a_line_break() {
        for (text, wanted) in [
            ("a: |\n  x", json!({"a": "x"})),
            ("a: |\n  x\n  y", json!({"a": "x\ny"})),
            ("a: |\n  x\n", json!({"a": "x\n"})),
            ("a: |\n  x\n  ", json!({"a": "x\n"})),
            ("a: |\n  x\n   ", json!({"a": "x\n "})),
            ("a: >+\n  x", json!({"a": "x"})),
            ("- |+\n   ", json!([""])),
            ("a: |\n  x\nb: 1", json!({"a": "x\n", "b": 1})),
            ("\u{feff}a: b", json!({"a": "b"})),
            ("\u{ff41}: b", json!({"\u{ff41}": "b"})),
        ] {
            assert_eq!(parse(text).unwrap(), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_goyaml_does_not_take_is_refused_as_it_refuses_it() {
        for (text, wanted) in [
            ("%YAML 1.2\n--- a\n", "yaml: found incompatible YAML document"),
            (r#""a\/b""#, "yaml: found unknown escape character"),
            ("a:\n- \"b\\\\\\/c\"\n", "yaml: line 2: found unknown escape character"),
            ("[!!str, a]", "yaml: did not find expected whitespace or line break"),
            ("\"a", "yaml: found unexpected end of stream"),
        ] {
            assert_eq!(parse(text).unwrap_err(), wanted, "{text:?}");
        }
        assert_eq!(parse(r#""a\\/b""#).unwrap(), json!("a\\/b"));
    }
}
