//! A text, character by character, with the place of each: what goyaml's reader is to its scanner.
//!
//! goyaml reads windows of 512 bytes, each when a character of it is wanted for the first time, and looks then whether its characters are
//! allowed. So a character that is not may stand unnoticed behind a document's end or a mistake, which is why [`Reader::need`] is called
//! with as many characters as goyaml would look ahead.

use super::complaint;

/// As much of a text as is looked at in one go.
const WINDOW_BYTES: usize = 512;
const BYTE_ORDER_MARK: &str = "\u{feff}";
/// As many characters as whatever takes a run looks ahead behind each of them.
const RUN_MARGIN: usize = 4;

pub(super) struct Reader<'a> {
    text: &'a str,
    /// Where the next character begins. Behind the text there are zeros, as many as anybody asks for.
    at: usize,
    /// How many characters stand before it, and how many before its line.
    index: usize,
    line_start: usize,
    line: usize,
    /// How many characters have been looked at.
    seen: usize,
    /// Where the next window begins, and its first byte that is of the text: a byte order mark is not.
    window: usize,
    unseen: usize,
    /// Where the next character began when a window was wanted last: where goyaml's buffer begins.
    held: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let at = if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        // Until something is wanted nothing is held, and nothing begins behind the text.
        Self { text, at, index: 0, line_start: 0, line: 0, seen: 0, window: 0, unseen: at, held: text.len() }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn column(&self) -> usize {
        self.index - self.line_start
    }

    /// From 0.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// A mistake at this line.
    pub(super) fn fail<T>(&self, why: &str) -> Result<T, String> {
        Err(complaint::of_scanner(self.line, why))
    }

    /// Looks at as many characters, or up to the end.
    ///
    /// # Errors
    /// When one of them, or another in their windows, is not allowed.
    pub(super) fn need(&mut self, characters: usize) -> Result<(), String> {
        if self.index + characters <= self.seen { Ok(()) } else { self.look_at_windows(characters) }
    }

    #[cold]
    fn look_at_windows(&mut self, characters: usize) -> Result<(), String> {
        self.held = self.at;
        while self.seen < self.index + characters {
            if self.unseen >= self.text.len() {
                // The end counts as a character each time that it is met.
                self.seen += 1;
                break;
            }
            let end = self.text.floor_char_boundary(self.window + WINDOW_BYTES);
            self.seen += count_allowed(self.text.get(self.unseen..end).unwrap_or_default())?;
            (self.window, self.unseen) = (end, end);
        }
        Ok(())
    }

    /// The byte that stands so many behind the next character's first; 0 behind the text.
    pub(super) fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    pub(super) fn is_end(&self) -> bool {
        self.byte(0) == 0
    }

    pub(super) fn is_blank(&self, ahead: usize) -> bool {
        matches!(self.byte(ahead), b' ' | b'\t')
    }

    pub(super) fn is_break(&self, ahead: usize) -> bool {
        match self.byte(ahead) {
            b'\n' | b'\r' => true,
            0xc2 => self.byte(ahead + 1) == 0x85,
            0xe2 => self.byte(ahead + 1) == 0x80 && matches!(self.byte(ahead + 2), 0xa8 | 0xa9),
            _ => false,
        }
    }

    pub(super) fn is_break_or_end(&self, ahead: usize) -> bool {
        self.byte(ahead) == 0 || self.is_break(ahead)
    }

    pub(super) fn is_blank_or_end(&self, ahead: usize) -> bool {
        self.is_blank(ahead) || self.is_break_or_end(ahead)
    }

    /// `---` or `...`, alone at the beginning of a line.
    pub(super) fn document_indicator(&self) -> Option<u8> {
        let sign = self.byte(0);
        let found = self.column() == 0 && matches!(sign, b'-' | b'.') && self.byte(1) == sign && self.byte(2) == sign && self.is_blank_or_end(3);
        found.then_some(sign)
    }

    /// goyaml looks for a byte order mark at a line's beginning, but where its buffer begins instead of where it is.
    pub(super) fn seems_byte_order_mark(&self) -> bool {
        self.column() == 0 && self.text.as_bytes().get(self.held..).is_some_and(|held| held.starts_with(BYTE_ORDER_MARK.as_bytes()))
    }

    /// Goes behind the next character, whatever it is.
    pub(super) fn skip(&mut self) {
        self.at += width(self.byte(0));
        self.index += 1;
    }

    pub(super) fn skip_blanks(&mut self) -> Result<(), String> {
        self.need(1)?;
        while self.is_blank(0) {
            self.skip();
            self.need(1)?;
        }
        Ok(())
    }

    /// Passes over blanks and a comment, behind which nothing else may stand in the line, and over its break.
    pub(super) fn rest_of_line(&mut self) -> Result<(), String> {
        self.skip_blanks()?;
        self.skip_comment()?;
        if !self.is_break_or_end(0) {
            return self.fail("did not find expected comment or line break");
        }
        if self.is_break(0) {
            self.need(2)?;
            self.line_break();
        }
        Ok(())
    }

    /// A comment up to the end of its line, if here is one.
    pub(super) fn skip_comment(&mut self) -> Result<(), String> {
        if self.byte(0) != b'#' {
            return Ok(());
        }
        while !self.is_break_or_end(0) {
            if self.run(|b| matches!(b, b'\n' | b'\r')).is_empty() {
                self.skip();
                self.need(1)?;
            }
        }
        Ok(())
    }

    /// Goes behind a line break and tells what it means; `None` when here is none.
    pub(super) fn line_break(&mut self) -> Option<char> {
        let (bytes, characters, meaning) = match (self.byte(0), self.byte(1)) {
            (b'\r', b'\n') => (2, 2, '\n'),
            (b'\r' | b'\n', _) => (1, 1, '\n'),
            (0xc2, 0x85) => (2, 1, '\n'),
            (0xe2, 0x80) if self.byte(2) == 0xa8 => (3, 1, '\u{2028}'),
            (0xe2, 0x80) if self.byte(2) == 0xa9 => (3, 1, '\u{2029}'),
            _ => return None,
        };
        self.at += bytes;
        self.index += characters;
        self.next_line();
        Some(meaning)
    }

    /// The end of a text that does not end with a break is on a line of its own.
    pub(super) fn next_line(&mut self) {
        self.line += 1;
        self.line_start = self.index;
    }

    /// Goes behind the next character and adds it to a text.
    pub(super) fn take(&mut self, to: &mut String) {
        let start = self.at;
        self.skip();
        to.push_str(self.since(start));
    }

    /// Goes behind ASCII characters up to one that `stops`, or a little before the end of those that were looked at: what follows is
    /// taken one by one.
    pub(super) fn run(&mut self, stops: impl Fn(u8) -> bool) -> &'a str {
        let most = self.seen.saturating_sub(self.index + RUN_MARGIN);
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let length = rest.iter().take(most).take_while(|&&b| b.is_ascii() && !stops(b)).count();
        let start = self.at;
        self.at += length;
        self.index += length;
        self.since(start)
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What was read since the reader was there.
    pub(super) fn since(&self, at: usize) -> &'a str {
        self.text.get(at..self.at).unwrap_or_default()
    }

    /// Letters, digits, `_` and `-`, as names are made of them.
    pub(super) fn name(&mut self) -> Result<&'a str, String> {
        let start = self.at;
        self.need(1)?;
        while is_name(self.byte(0)) {
            self.skip();
            self.need(1)?;
        }
        Ok(self.since(start))
    }
}

pub(super) fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// How many bytes a character has that begins so.
pub(super) fn width(first: u8) -> usize {
    match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

fn count_allowed(window: &str) -> Result<usize, String> {
    if window.bytes().all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n' | b'\r')) {
        return Ok(window.len());
    }
    if window.chars().all(is_allowed) { Ok(window.chars().count()) } else { Err("yaml: control characters are not allowed".into()) }
}

fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use serde_json::json;

    #[test]
    fn each_character_has_its_place() {
        let mut reader = Reader::new("\u{feff}a\u{e9}\r\n\u{85}\u{2028}b");
        let mut places = Vec::new();
        while reader.need(3).is_ok() && !reader.is_end() {
            places.push((reader.line(), reader.column(), reader.index()));
            if reader.line_break().is_none() {
                reader.skip();
            }
        }
        assert_eq!(places, [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 4), (2, 0, 5), (3, 0, 6)]);
    }

    #[test]
    fn a_character_that_is_not_allowed_is_seen_with_its_window() {
        let refused = "yaml: control characters are not allowed";
        for (text, wanted) in [
            ("a\0".to_owned(), Err(refused.to_owned())),
            ("a: b\n--- \0".to_owned(), Err(refused.to_owned())),
            (format!("a: b\n---\n{}\0", " ".repeat(600)), Ok(json!({"a": "b"}))),
            (format!("}}{}\0", " ".repeat(600)), Err("yaml: did not find expected node content".to_owned())),
            (format!("{}\u{e9}a\u{7f}", "a".repeat(511)), Err(refused.to_owned())),
            ("\u{feff}a: \u{feff}b".to_owned(), Ok(json!({"a": "\u{feff}b"}))),
        ] {
            assert_eq!(parse(&text), wanted, "{text:?}");
        }
    }
}
