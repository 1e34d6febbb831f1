//! A text as tokens. A block's beginning and end, which nobody writes, are tokens too: they come from the columns that things stand in.
//!
//! Whether something is a key is known only when the colon behind it is met. So a token that a key may begin with waits in the queue until
//! the colon came, or can come no more: on another line, or more than 1024 characters away. What the colon makes of it is noted at the
//! waiting token ([`Queued`]), so that nothing needs to be put between others.

mod properties;
mod scalars;

use std::collections::VecDeque;

use super::reader::Reader;
use crate::deep::DEPTH_MAX;

/// As far from its beginning as the colon of a key may be.
const KEY_LENGTH_MAX: usize = 1024;

#[derive(Debug, PartialEq)]
pub(super) enum Token<'a> {
    StreamEnd,
    Version(u8, u8),
    TagDirective {
        handle: &'a str,
        prefix: String,
    },
    DocumentStart,
    DocumentEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowSequenceEnd,
    FlowMappingStart,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(&'a str),
    Anchor(&'a str),
    /// The handle as it is written, if there is one.
    Tag {
        handle: &'a str,
        suffix: String,
    },
    Scalar {
        text: String,
        plain: bool,
    },
}

/// A token that waits to be asked for.
struct Queued<'a> {
    token: Token<'a>,
    line: usize,
    /// In how many flow collections the key is that may begin here.
    key_at: Option<usize>,
    /// Whether there is a token of a key before it, and before that one of a block's beginning.
    is_key: bool,
    begins_mapping: bool,
}

/// The key that the innermost collection waits for a colon of.
#[derive(Clone, Copy, Default)]
struct Candidate {
    possible: bool,
    /// Whether nothing but a key can be here.
    required: bool,
    /// How many tokens had been queued before that which it begins with.
    number: usize,
    index: usize,
    line: usize,
    column: usize,
}

pub(super) struct Scanner<'a> {
    reader: Reader<'a>,
    queue: VecDeque<Queued<'a>>,
    /// How many tokens have left the queue.
    taken: usize,
    key: Candidate,
    /// Those of the collections around: as many as there are flow collections.
    outer_keys: Vec<Candidate>,
    /// Whether a key without `?` may begin here.
    key_allowed: bool,
    /// The column of the innermost block, and those around it.
    indent: Option<usize>,
    outer_indents: Vec<Option<usize>>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            reader: Reader::new(text),
            queue: VecDeque::new(),
            taken: 0,
            key: Candidate::default(),
            outer_keys: Vec::new(),
            key_allowed: true,
            indent: None,
            outer_indents: Vec::new(),
        }
    }

    /// The next token with its line, from 0; the stream's end as often as it is asked for.
    ///
    /// # Errors
    /// goyaml's sentence.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), String> {
        self.fill_queue()?;
        let Some(head) = self.queue.front_mut() else { return Ok((self.reader.line(), Token::StreamEnd)) };
        let line = head.line;
        if std::mem::take(&mut head.begins_mapping) {
            return Ok((line, Token::BlockMappingStart));
        }
        if std::mem::take(&mut head.is_key) {
            return Ok((line, Token::Key));
        }
        self.taken += 1;
        Ok((line, self.queue.pop_front().map_or(Token::StreamEnd, |head| head.token)))
    }

    /// Until it is known what the first token is.
    fn fill_queue(&mut self) -> Result<(), String> {
        loop {
            if let Some(head) = self.queue.front() {
                let Some(level) = head.key_at else { return Ok(()) };
                if !self.is_possible(level)? {
                    return Ok(());
                }
            }
            self.fetch()?;
        }
    }

    fn push(&mut self, line: usize, token: Token<'a>) {
        self.queue.push_back(Queued { token, line, key_at: None, is_key: false, begins_mapping: false });
    }

    /// One that a key may begin with, if it is the one that was noted last.
    fn push_first_of_key(&mut self, line: usize, token: Token<'a>) {
        let number = self.taken + self.queue.len();
        self.push(line, token);
        let level = self.outer_keys.len();
        if self.key.possible
            && self.key.number == number
            && let Some(last) = self.queue.back_mut()
        {
            last.key_at = Some(level);
        }
    }

    /// The token that had a number, if it still waits.
    fn queued(&mut self, number: usize) -> Option<&mut Queued<'a>> {
        self.queue.get_mut(number.checked_sub(self.taken)?)
    }

    fn in_flow(&self) -> bool {
        !self.outer_keys.is_empty()
    }

    /// Whether a colon here would make a key of what may be one.
    fn is_possible(&mut self, level: usize) -> Result<bool, String> {
        let key = if level == self.outer_keys.len() { Some(&mut self.key) } else { self.outer_keys.get_mut(level) };
        let Some(key) = key.filter(|key| key.possible) else { return Ok(false) };
        if key.line == self.reader.line() && key.index + KEY_LENGTH_MAX >= self.reader.index() {
            return Ok(true);
        }
        if key.required {
            return self.reader.fail("could not find expected ':'");
        }
        key.possible = false;
        Ok(false)
    }

    /// A key may begin with the next token.
    fn note_key(&mut self) -> Result<(), String> {
        if !self.key_allowed {
            return Ok(());
        }
        self.drop_key()?;
        let (index, line, column) = (self.reader.index(), self.reader.line(), self.reader.column());
        let required = !self.in_flow() && self.indent == Some(column);
        self.key = Candidate { possible: true, required, number: self.taken + self.queue.len(), index, line, column };
        Ok(())
    }

    /// There comes no colon for what may be a key.
    fn drop_key(&mut self) -> Result<(), String> {
        if !self.key.possible {
            return Ok(());
        }
        if self.key.required {
            return self.reader.fail("could not find expected ':'");
        }
        self.key.possible = false;
        self.forget_key();
        Ok(())
    }

    fn forget_key(&mut self) {
        if let Some(first) = self.queued(self.key.number) {
            first.key_at = None;
        }
    }

    /// Whether a block begins in this column.
    fn begin_block(&mut self, column: usize) -> Result<bool, String> {
        if self.in_flow() || self.indent >= Some(column) {
            return Ok(false);
        }
        self.outer_indents.push(self.indent);
        self.indent = Some(column);
        self.check_depth(self.outer_indents.len())?;
        Ok(true)
    }

    fn check_depth(&self, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX { self.reader.fail(&format!("exceeded max depth of {DEPTH_MAX}")) } else { Ok(()) }
    }

    /// Ends the blocks that stand in columns behind this one, or all.
    fn end_blocks(&mut self, column: Option<usize>) {
        while !self.in_flow() && self.indent > column {
            self.push(self.reader.line(), Token::BlockEnd);
            self.indent = self.outer_indents.pop().flatten();
        }
    }

    /// Queues at least one more token.
    fn fetch(&mut self) -> Result<(), String> {
        self.go_to_next_token()?;
        self.end_blocks(Some(self.reader.column()));
        self.reader.need(4)?;
        if self.reader.is_end() {
            return self.stream_end();
        }
        if self.reader.column() == 0 && self.reader.byte(0) == b'%' {
            self.end_document()?;
            let line = self.reader.line();
            let token = properties::directive(&mut self.reader)?;
            self.push(line, token);
            return Ok(());
        }
        match self.reader.document_indicator() {
            Some(b'-') => self.document_indicator(Token::DocumentStart),
            Some(_) => self.document_indicator(Token::DocumentEnd),
            None => self.fetch_content(),
        }
    }

    fn fetch_content(&mut self) -> Result<(), String> {
        let before_blank = self.reader.is_blank_or_end(1);
        let in_flow = self.in_flow();
        match self.reader.byte(0) {
            b'[' => self.begin_flow(Token::FlowSequenceStart),
            b'{' => self.begin_flow(Token::FlowMappingStart),
            b']' => self.end_flow(Token::FlowSequenceEnd),
            b'}' => self.end_flow(Token::FlowMappingEnd),
            b',' => {
                self.drop_key()?;
                self.key_allowed = true;
                self.sign(Token::FlowEntry);
                Ok(())
            }
            b'-' if before_blank => self.block_entry(),
            b'?' if in_flow || before_blank => self.key(),
            b':' if in_flow || before_blank => self.value(),
            b'*' | b'&' => self.begin_key_with(properties::anchor),
            b'!' => self.begin_key_with(properties::tag),
            b'|' | b'>' if !in_flow => self.block_scalar(),
            b'\'' | b'"' => self.begin_key_with(|reader| Ok(Token::Scalar { text: scalars::quoted(reader)?, plain: false })),
            b'-' | b'?' | b':' => self.plain_scalar(),
            b'#' | b'|' | b'>' | b'%' | b'@' | b'`' => self.no_token(),
            _ if self.reader.is_blank(0) => self.no_token(),
            _ => self.plain_scalar(),
        }
    }

    fn no_token(&self) -> Result<(), String> {
        self.reader.fail("found character that cannot start any token")
    }

    /// Goes behind blanks, comments and line breaks.
    fn go_to_next_token(&mut self) -> Result<(), String> {
        loop {
            self.reader.need(1)?;
            if self.reader.seems_byte_order_mark() {
                self.reader.skip();
                self.reader.need(1)?;
            }
            // Where a key may begin, a tab would be taken for indentation.
            while self.reader.byte(0) == b' ' || self.reader.byte(0) == b'\t' && (self.in_flow() || !self.key_allowed) {
                self.reader.skip();
                self.reader.need(1)?;
            }
            self.reader.skip_comment()?;
            if !self.reader.is_break(0) {
                return Ok(());
            }
            self.reader.need(2)?;
            self.reader.line_break();
            self.key_allowed |= !self.in_flow();
        }
    }

    /// A token of one character.
    fn sign(&mut self, token: Token<'a>) {
        self.push(self.reader.line(), token);
        self.reader.skip();
    }

    fn stream_end(&mut self) -> Result<(), String> {
        if self.reader.column() != 0 {
            self.reader.next_line();
        }
        self.end_document()?;
        self.push(self.reader.line(), Token::StreamEnd);
        Ok(())
    }

    fn end_document(&mut self) -> Result<(), String> {
        self.end_blocks(None);
        self.drop_key()?;
        self.key_allowed = false;
        Ok(())
    }

    fn document_indicator(&mut self, token: Token<'a>) -> Result<(), String> {
        self.end_document()?;
        self.push(self.reader.line(), token);
        (0..3).for_each(|_| self.reader.skip());
        Ok(())
    }

    fn begin_flow(&mut self, token: Token<'a>) -> Result<(), String> {
        self.note_key()?;
        let number = self.taken + self.queue.len();
        self.push_first_of_key(self.reader.line(), token);
        self.outer_keys.push(self.key);
        // Until there is another, this number is forgotten when the collection ends: so goyaml knows no key of an empty collection.
        self.key = Candidate { number, ..Candidate::default() };
        self.check_depth(self.outer_keys.len())?;
        self.key_allowed = true;
        self.reader.skip();
        Ok(())
    }

    fn end_flow(&mut self, token: Token<'a>) -> Result<(), String> {
        self.drop_key()?;
        if let Some(outer) = self.outer_keys.pop() {
            self.forget_key();
            self.key = outer;
        }
        self.key_allowed = false;
        self.sign(token);
        Ok(())
    }

    fn block_entry(&mut self) -> Result<(), String> {
        // Within a flow collection it is the parser that complains.
        self.begin_block_at_sign(Token::BlockSequenceStart, "block sequence entries are not allowed in this context")?;
        self.drop_key()?;
        self.key_allowed = true;
        self.sign(Token::BlockEntry);
        Ok(())
    }

    fn begin_block_at_sign(&mut self, start: Token<'a>, otherwise: &str) -> Result<(), String> {
        if !self.in_flow() && !self.key_allowed {
            return self.reader.fail(otherwise);
        }
        if self.begin_block(self.reader.column())? {
            self.push(self.reader.line(), start);
        }
        Ok(())
    }

    fn key(&mut self) -> Result<(), String> {
        self.begin_block_at_sign(Token::BlockMappingStart, "mapping keys are not allowed in this context")?;
        self.drop_key()?;
        self.key_allowed = !self.in_flow();
        self.sign(Token::Key);
        Ok(())
    }

    fn value(&mut self) -> Result<(), String> {
        if self.is_possible(self.outer_keys.len())? {
            self.make_key()?;
            self.key_allowed = false;
        } else {
            self.begin_block_at_sign(Token::BlockMappingStart, "mapping values are not allowed in this context")?;
            self.key_allowed = !self.in_flow();
        }
        self.sign(Token::Value);
        Ok(())
    }

    /// What may be a key is one.
    fn make_key(&mut self) -> Result<(), String> {
        let key = self.key;
        self.key.possible = false;
        let begins_mapping = self.begin_block(key.column)?;
        if let Some(first) = self.queued(key.number) {
            first.key_at = None;
            (first.is_key, first.begins_mapping) = (true, begins_mapping);
            return Ok(());
        }
        // It was an empty flow collection, which did not wait: goyaml's tokens come too late then, and its parser complains.
        self.push(key.line, Token::Key);
        if begins_mapping {
            self.push(key.line, Token::BlockMappingStart);
        }
        Ok(())
    }

    /// A token that a key may begin with, and behind which none may begin.
    fn begin_key_with(&mut self, scan: impl FnOnce(&mut Reader<'a>) -> Result<Token<'a>, String>) -> Result<(), String> {
        self.note_key()?;
        self.key_allowed = false;
        let line = self.reader.line();
        let token = scan(&mut self.reader)?;
        self.push_first_of_key(line, token);
        Ok(())
    }

    fn plain_scalar(&mut self) -> Result<(), String> {
        let (least, in_flow) = (self.indent.map_or(0, |indent| indent + 1), self.in_flow());
        let mut on_new_line = false;
        self.begin_key_with(|reader| {
            let text;
            (text, on_new_line) = scalars::plain(reader, least, in_flow)?;
            Ok(Token::Scalar { text, plain: true })
        })?;
        self.key_allowed |= on_new_line;
        Ok(())
    }

    fn block_scalar(&mut self) -> Result<(), String> {
        self.drop_key()?;
        self.key_allowed = true;
        let line = self.reader.line();
        let text = scalars::block(&mut self.reader, self.indent)?;
        self.push(line, Token::Scalar { text, plain: false });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(token: Token) -> String {
        match token {
            Token::StreamEnd => "$".into(),
            Token::Version(major, minor) => format!("%{major}.{minor}"),
            Token::TagDirective { handle, prefix } => format!("%{handle}={prefix}"),
            Token::DocumentStart => "---".into(),
            Token::DocumentEnd => "...".into(),
            Token::BlockSequenceStart => "-(".into(),
            Token::BlockMappingStart => ":(".into(),
            Token::BlockEnd => ")".into(),
            Token::FlowSequenceStart => "[".into(),
            Token::FlowSequenceEnd => "]".into(),
            Token::FlowMappingStart => "{".into(),
            Token::FlowMappingEnd => "}".into(),
            Token::BlockEntry => "-".into(),
            Token::FlowEntry => ",".into(),
            Token::Key => "?".into(),
            Token::Value => ":".into(),
            Token::Alias(name) => format!("*{name}"),
            Token::Anchor(name) => format!("&{name}"),
            Token::Tag { handle, suffix } => format!("<{handle}{suffix}>"),
            Token::Scalar { text, plain: true } => text,
            Token::Scalar { text, plain: false } => format!("{text:?}"),
        }
    }

    /// The tokens up to the end or the first mistake, which is the last of them.
    fn tokens(text: &str) -> String {
        let mut scanner = Scanner::new(text);
        let mut all = Vec::new();
        loop {
            match scanner.next() {
                Ok((_, Token::StreamEnd)) => break,
                Ok((_, token)) => all.push(shown(token)),
                Err(why) => {
                    all.push(why);
                    break;
                }
            }
        }
        all.join(" ")
    }

    #[test]
    fn blocks_begin_and_end_with_their_columns() {
        for (text, wanted) in [
            ("", ""),
            ("a: b", ":( ? a : b )"),
            ("a: b\nc:\n  d: e\nf: g", ":( ? a : b ? c : :( ? d : e ) ? f : g )"),
            ("- a\n- - b\n  - c\n-", "-( - a - -( - b - c ) - )"),
            ("a:\n- b\n- c", ":( ? a : - b - c )"),
            ("? a\n: b", ":( ? a : b )"),
            ("? - a\n: - b", ":( ? -( - a ) : -( - b ) )"),
            ("- a: b\n  c: d", "-( - :( ? a : b ? c : d ) )"),
            ("a: b\n---\nc\n...\n", ":( ? a : b ) --- c ..."),
            ("# x\na: # y\n # z\n b", ":( ? a : b )"),
        ] {
            assert_eq!(tokens(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_key_is_one_by_the_colon_behind_it() {
        let long = "k".repeat(KEY_LENGTH_MAX);
        for (text, wanted) in [
            ("a : b", ":( ? a : b )".to_owned()),
            ("a:b", "a:b".to_owned()),
            ("{a: b, c, d:e}", "{ ? a : b , c , d:e }".to_owned()),
            ("{\"a\":b}", "{ ? \"a\" : b }".to_owned()),
            ("[a: b]", "[ ? a : b ]".to_owned()),
            ("[a]: b", ":( ? [ a ] : b )".to_owned()),
            ("{a: {b: c}}: d", ":( ? { ? a : { ? b : c } } : d )".to_owned()),
            // An empty collection is no key that goyaml knows of.
            ("[]: a", "[ ] ? :( : a )".to_owned()),
            ("&a b: *c", ":( ? &a b : *c )".to_owned()),
            ("*a : b", ":( ? *a : b )".to_owned()),
            ("[\"a\"\n: b]", "[ \"a\" : b ]".to_owned()),
            ("\"a\n b\": c", "\"a b\" yaml: line 2: mapping values are not allowed in this context".to_owned()),
            ("a\nb: c", "a b yaml: line 2: mapping values are not allowed in this context".to_owned()),
            (&format!("{long}: b"), format!(":( ? {long} : b )")),
            (&format!("{long}k: b"), format!("{long}k yaml: mapping values are not allowed in this context")),
            ("a: b\nc\n", ":( ? a : b yaml: line 3: could not find expected ':'".to_owned()),
            ("a: b: c", ":( ? a : b yaml: mapping values are not allowed in this context".to_owned()),
            ("a: - b", ":( ? a : yaml: block sequence entries are not allowed in this context".to_owned()),
            ("a: ? b", ":( ? a : yaml: mapping keys are not allowed in this context".to_owned()),
        ] {
            assert_eq!(tokens(text), wanted, "{text:.40?}");
        }
    }

    #[test]
    fn scalars_lose_what_only_lays_them_out() {
        for (text, wanted) in [
            ("a b\n c\n\n d", "a b c\nd"),
            ("a #b", "a"),
            ("a#b ", "a#b"),
            ("-a ?b :c", "-a ?b :c"),
            ("a\u{85} b\u{2028} c\u{2029}\n d", "a b\u{2028}c\u{2029}\nd"),
            ("[a?b, c d]", "[ a ? b , c d ]"),
            ("'it''s\n\n  so '", "\"it's\\nso \""),
            ("\"a\\\n  b\\n \\u00e9\\x41\\U0001F600\\'\"", "\"ab\\n éA😀'\""),
            ("|\n a\n  b\n\n", "\"a\\n b\\n\""),
            ("|-\n a\n", "\"a\""),
            ("|+\n a\n\n", "\"a\\n\\n\""),
            ("|2-\n   a", "\" a\""),
            (">\n a\n b\n\n c\n  d\n e\n", "\"a b\\nc\\n d\\ne\\n\""),
            ("- |1\n  a\n- b", "-( - \" a\\n\" - b )"),
        ] {
            assert_eq!(tokens(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn properties_and_directives_are_split_into_their_parts() {
        for (text, wanted) in [
            ("&a-1_b c", "&a-1_b c"),
            ("!a b", "<!a> b"),
            ("!!a b", "<!!a> b"),
            ("!e!a b", "<!e!a> b"),
            ("! b", "<!> b"),
            ("!<x:y> b", "<x:y> b"),
            ("!a%C3%A9 b", "<!aé> b"),
            ("!!a, b", "<!!a,> b"),
            ("%YAML 1.1 # x\n%TAG !e! x:y\n--- a", "%1.1 %!e!=x:y --- a"),
            ("&", "yaml: did not find expected alphabetic or numeric character"),
            ("*a!", "yaml: did not find expected alphabetic or numeric character"),
            ("!! a", "yaml: did not find expected tag URI"),
            ("!<a", "yaml: did not find the expected '>'"),
            ("!a%4", "yaml: did not find URI escaped octet"),
            ("!a%80", "yaml: found an incorrect leading UTF-8 octet"),
            ("!a%C3%41", "yaml: found an incorrect trailing UTF-8 octet"),
            ("!a{", "yaml: did not find expected whitespace or line break"),
            ("%", "yaml: could not find expected directive name"),
            ("%A?", "yaml: found unexpected non-alphabetical character"),
            ("%A", "yaml: found unknown directive name"),
            ("%YAML 1", "yaml: did not find expected digit or '.' character"),
            ("%YAML .1", "yaml: did not find expected version number"),
            ("%YAML 111.1", "yaml: found extremely long version number"),
            ("%YAML 1.1 a", "yaml: did not find expected comment or line break"),
            ("%TAG a", "yaml: did not find expected '!'"),
            ("%TAG !a b", "yaml: did not find expected '!'"),
            ("%TAG !a!", "yaml: did not find expected whitespace"),
            ("%TAG !a! {", "yaml: did not find expected tag URI"),
            ("%TAG !a! b{", "yaml: did not find expected whitespace or line break"),
        ] {
            assert_eq!(tokens(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn mistakes_in_scalars_are_told_with_their_lines() {
        for (text, wanted) in [
            ("'a", "yaml: found unexpected end of stream"),
            ("\n'a\n--- '", "yaml: line 3: found unexpected document indicator"),
            ("\"\\/\"", "yaml: found unknown escape character"),
            ("\n\"\n\\xg\"", "yaml: line 3: did not find expected hexdecimal number"),
            ("\"\\ud800\"", "yaml: found invalid Unicode character escape code"),
            ("a:\n b\n\tc", ":( ? a : yaml: line 3: found a tab character that violates indentation"),
            ("|0\n", "yaml: found an indentation indicator equal to 0"),
            ("|x\n", "yaml: did not find expected comment or line break"),
            ("|\n \n\ta", "yaml: line 3: found a tab character where an indentation space is expected"),
            ("\ta", "yaml: found character that cannot start any token"),
            ("[|", "yaml: found character that cannot start any token"),
        ] {
            assert_eq!(tokens(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn long_and_deep_texts_take_their_length_only() {
        // Nothing is asserted: each of them would take hours if it were read in the square of its length.
        for unit in ["[", "{", "- ", "? ", "a: [", "[a, ", "{{}:,", "&a ", "!a ", "a\n", "\"a\" ", "- a\n", "a: b\n", "a: |\n\n\n", "'\n", "a:\n ", "[]: "] {
            let text = unit.repeat(500_000 / unit.len());
            let mut scanner = Scanner::new(&text);
            while !matches!(scanner.next(), Ok((_, Token::StreamEnd)) | Err(_)) {}
        }
    }
}
