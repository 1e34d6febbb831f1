//! Tokens of JSON, with the errors in the words of Go's scanner (`encoding/json/scanner.go`), which clients see.

use std::borrow::Cow;

use knarr_core::deep::DEPTH_MAX;
use knarr_core::field::go_quote;

/// Bytes that end the plain part of a string: quote, backslash and control characters.
static STOPS: [bool; 256] = {
    let mut stops = [false; 256];
    let mut b = 0;
    while b < 0x20 {
        stops[b] = true;
        b += 1;
    }
    stops[b'"' as usize] = true;
    stops[b'\\' as usize] = true;
    stops
};

/// The text is no JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Syntax(pub String);

type Result<T> = std::result::Result<T, Syntax>;

/// A position in a JSON text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    pub at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// What is wrong at the current byte, or at the end.
    pub fn error<T>(&self, context: &str) -> Result<T> {
        Err(Syntax(match self.text.as_bytes().get(self.at) {
            None => "unexpected end of JSON input".to_owned(),
            Some(b'\'') => format!("invalid character '\\'' {context}"),
            Some(b'"') => format!("invalid character '\"' {context}"),
            Some(&b) => {
                let quoted = go_quote(&char::from(b).to_string());
                format!("invalid character '{}' {context}", &quoted[1..quoted.len() - 1])
            }
        }))
    }

    /// The next byte that is no space, which stays unread; 0 at the end.
    #[inline]
    pub fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(0)
    }

    /// After the last value only space may come.
    pub fn end(&mut self) -> Result<()> {
        self.peek();
        if self.at < self.text.len() { self.error("after top-level value") } else { Ok(()) }
    }

    /// Enters an object or list: its bracket is read.
    pub fn open(&mut self) {
        self.at += 1;
    }

    /// The next key of an object, its colon read; `None` behind the object. `first` tells that none has been read yet.
    #[inline]
    pub fn key(&mut self, first: bool) -> Result<Option<Cow<'a, str>>> {
        match self.peek() {
            b'}' => {
                self.at += 1;
                return Ok(None);
            }
            b',' if !first => {
                self.at += 1;
                if self.peek() != b'"' {
                    return self.error("looking for beginning of object key string");
                }
            }
            b'"' if first => {}
            _ => return self.error(if first { "looking for beginning of object key string" } else { "after object key:value pair" }),
        }
        let key = self.string()?;
        if self.peek() != b':' {
            return self.error("after object key");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether a list has another item, to which it moves; else it moves behind the list.
    #[inline]
    pub fn item(&mut self, first: bool) -> Result<bool> {
        match self.peek() {
            b']' => {
                // `[1,]` ends up here too, where a value was expected; the comma has been read then.
                self.at += 1;
                Ok(false)
            }
            b',' if !first => {
                self.at += 1;
                if self.peek() == b']' { self.error("looking for beginning of value") } else { Ok(true) }
            }
            _ if first => Ok(true),
            _ => self.error("after array element"),
        }
    }

    /// A string, at whose quote it stands.
    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        self.plain_part();
        if self.text.as_bytes().get(self.at) == Some(&b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
        }
        self.escaped_string(start).map(Cow::Owned)
    }

    #[inline]
    fn plain_part(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|b| STOPS[usize::from(*b)]).unwrap_or(rest.len());
    }

    fn escaped_string(&mut self, start: usize) -> Result<String> {
        let mut text = self.text[start..self.at].to_owned();
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => self.escape(&mut text)?,
                _ => return self.error("in string literal"),
            }
            let from = self.at;
            self.plain_part();
            text.push_str(&self.text[from..self.at]);
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<()> {
        self.at += 1;
        let c = match self.text.as_bytes().get(self.at) {
            Some(&c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let c = self.unicode()?;
                text.push(c);
                return Ok(());
            }
            _ => return self.error("in string escape code"),
        };
        self.at += 1;
        text.push(c);
        Ok(())
    }

    /// What `\u` escapes; half of a surrogate pair becomes U+FFFD.
    fn unicode(&mut self) -> Result<char> {
        let high = self.hex4()?;
        if !(0xd800..0xdc00).contains(&high) || !self.text[self.at..].starts_with("\\u") {
            return Ok(char::from_u32(high).unwrap_or('\u{fffd}'));
        }
        let before = self.at;
        self.at += 2;
        let low = self.hex4()?;
        if (0xdc00..0xe000).contains(&low) {
            return Ok(char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)).unwrap_or('\u{fffd}'));
        }
        self.at = before;
        Ok('\u{fffd}')
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut n = 0;
        for _ in 0..4 {
            match self.text.as_bytes().get(self.at).and_then(|b| char::from(*b).to_digit(16)) {
                Some(digit) => n = n * 16 + digit,
                None => return self.error("in \\u hexadecimal character escape"),
            }
            self.at += 1;
        }
        Ok(n)
    }

    /// The literal of a number, at whose first byte it stands.
    pub fn number(&mut self) -> Result<&'a str> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        if byte(self.at) == b'-' {
            self.at += 1;
        }
        match byte(self.at) {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return self.error("in numeric literal"),
        }
        if byte(self.at) == b'.' {
            self.at += 1;
            if !byte(self.at).is_ascii_digit() {
                return self.error("after decimal point in numeric literal");
            }
            self.digits();
        }
        if matches!(byte(self.at), b'e' | b'E') {
            self.at += 1;
            if matches!(byte(self.at), b'+' | b'-') {
                self.at += 1;
            }
            if !byte(self.at).is_ascii_digit() {
                return self.error("in exponent of numeric literal");
            }
            self.digits();
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
    }

    /// `true`, `false` or `null`, at whose first byte it stands.
    pub fn literal(&mut self, word: &'static str) -> Result<()> {
        for expected in word.bytes() {
            if self.text.as_bytes().get(self.at) != Some(&expected) {
                return self.error(&format!("in literal {word} (expecting '{}')", char::from(expected)));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// Reads over a value, however deep, and gives its text.
    pub fn skip(&mut self) -> Result<&'a str> {
        self.skip_below(0)
    }

    /// The same of a value that is this deep in the text already.
    pub fn skip_below(&mut self, depth: usize) -> Result<&'a str> {
        self.peek();
        let start = self.at;
        // Whether each open bracket is an object's.
        let mut open: Vec<bool> = Vec::new();
        let mut first = false;
        loop {
            let fresh = std::mem::take(&mut first);
            match open.last() {
                Some(true) if self.key(fresh)?.is_none() => _ = open.pop(),
                Some(false) if !self.item(fresh)? => _ = open.pop(),
                _ => match self.peek() {
                    bracket @ (b'{' | b'[') => {
                        if depth + open.len() >= DEPTH_MAX {
                            return self.error("exceeded max depth");
                        }
                        self.open();
                        open.push(bracket == b'{');
                        first = true;
                    }
                    b => self.scalar(b)?,
                },
            }
            if open.is_empty() {
                return Ok(&self.text[start..self.at]);
            }
        }
    }

    /// Reads over a value that has no brackets and begins with this byte.
    fn scalar(&mut self, first: u8) -> Result<()> {
        match first {
            b'"' => self.string().map(drop),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            _ => self.error("looking for beginning of value"),
        }
    }
}

/// Whether the whole text is JSON.
pub(super) fn validate(text: &str) -> Result<()> {
    let mut scanner = Scanner::new(text);
    scanner.skip()?;
    scanner.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_errors_read_as_go_writes_them() {
        for (text, wanted) in [
            ("", "unexpected end of JSON input"),
            ("{\"a\":", "unexpected end of JSON input"),
            ("\"ab", "unexpected end of JSON input"),
            ("{a}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("1 1", "invalid character '1' after top-level value"),
            ("tru!", "invalid character '!' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("\"\n\"", "invalid character '\\n' in string literal"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            (&format!("{}1", "[".repeat(10_001)), "invalid character '[' exceeded max depth"),
        ] {
            assert_eq!(validate(text), Err(Syntax(wanted.to_owned())), "{text:.40}");
        }
        for text in ["{}", " [ ] ", "{\"a\":[1,-0.5e+3,{}],\"b\":null}\n", &format!("{}{}", "[".repeat(10_000), "]".repeat(10_000))] {
            assert_eq!(validate(text), Ok(()));
        }
    }

    #[test]
    fn strings_are_unescaped() {
        let read = |text: &str| Scanner::new(text).string().unwrap().into_owned();
        assert_eq!(read(r#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00b""#), "a\"\\/\u{8}\u{c}\n\r\té😀b");
        assert_eq!(read(r#""\ud83dx\ude00\ud800\ud800""#), "\u{fffd}x\u{fffd}\u{fffd}\u{fffd}");
    }
}
