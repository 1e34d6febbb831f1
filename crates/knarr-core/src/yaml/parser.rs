//! Tokens as events: where documents, collections and nodes begin and end. The stack of what is open is a list, so that a deep text is as
//! good as a flat one.

use std::collections::HashMap;

use super::complaint;
use super::scanner::{Scanner, Token};

/// A longer tag is none that anybody knows, and only its beginning is told: a `%TAG` would let a short text mean a very long one.
const TAG_BYTES_MAX: usize = 128;

#[derive(Debug, PartialEq)]
pub(super) struct Event<'a> {
    /// From 0.
    pub(super) line: usize,
    pub(super) kind: Kind<'a>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind<'a> {
    StreamEnd,
    DocumentStart,
    DocumentEnd,
    Alias(&'a str),
    /// `plain`: what it means is told by its text.
    Scalar {
        text: String,
        properties: Properties<'a>,
        plain: bool,
    },
    SequenceStart(Option<&'a str>),
    SequenceEnd,
    MappingStart(Option<&'a str>),
    MappingEnd,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Properties<'a> {
    pub(super) anchor: Option<&'a str>,
    /// Written out.
    pub(super) tag: Option<String>,
}

/// What is expected next.
#[derive(Clone, Copy)]
enum State {
    FirstDocument,
    Document,
    DocumentContent,
    DocumentEnd,
    Node,
    BlockEntry,
    /// An entry of a sequence that stands in the column of the key it belongs to.
    IndentlessEntry,
    BlockKey,
    BlockValue,
    FlowFirstEntry,
    FlowEntry,
    /// A mapping of one key, which stands in a flow sequence without braces.
    PairKey,
    PairValue,
    PairEnd,
    FlowFirstKey,
    FlowKey,
    FlowValue,
    /// The value of a key behind which no colon stands.
    FlowNoValue,
    End,
}

/// Where a node may stand.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Flow,
    Block,
    /// Behind a key: also a sequence that is not indented.
    BlockOrIndentless,
}

pub(super) struct Parser<'a> {
    scanner: Scanner<'a>,
    /// The next token, when it has been looked at.
    ahead: Option<(usize, Token<'a>)>,
    state: State,
    /// What is expected when the present thing is complete.
    states: Vec<State>,
    /// What the handles of tags stand for in this document.
    handles: HashMap<&'a str, String>,
}

type Parsed<'a> = Result<Event<'a>, String>;

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { scanner: Scanner::new(text), ahead: None, state: State::FirstDocument, states: Vec::new(), handles: HashMap::new() }
    }

    /// The next event; the stream's end as often as it is asked for.
    ///
    /// # Errors
    /// goyaml's sentence.
    pub(super) fn next(&mut self) -> Parsed<'a> {
        match self.state {
            State::FirstDocument => self.first_document(),
            State::Document => self.document(),
            State::DocumentContent => self.document_content(),
            State::DocumentEnd => self.document_end(),
            State::Node => self.node(Place::Block),
            State::BlockEntry => self.block_entry(),
            State::IndentlessEntry => self.indentless_entry(),
            State::BlockKey => self.block_key(),
            State::BlockValue => self.block_value(),
            State::FlowFirstEntry => self.flow_entry(true),
            State::FlowEntry => self.flow_entry(false),
            State::PairKey => self.pair_key(),
            State::PairValue => self.pair_value(),
            State::PairEnd => self.pair_end(),
            State::FlowFirstKey => self.flow_key(true),
            State::FlowKey => self.flow_key(false),
            State::FlowValue => self.flow_value(),
            State::FlowNoValue => self.flow_no_value(),
            State::End => Ok(Event { line: 0, kind: Kind::StreamEnd }),
        }
    }

    fn peek(&mut self) -> Result<(usize, &Token<'a>), String> {
        if self.ahead.is_none() {
            self.ahead = Some(self.scanner.next()?);
        }
        Ok(self.ahead.as_ref().map_or((0, &Token::StreamEnd), |(line, token)| (*line, token)))
    }

    /// Goes behind the token that was looked at.
    fn skip(&mut self) {
        self.ahead = None;
    }

    fn take(&mut self) -> Result<(usize, Token<'a>), String> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.scanner.next(),
        }
    }

    fn peeks_at(&mut self, wanted: &[Token]) -> Result<bool, String> {
        let (_, token) = self.peek()?;
        Ok(wanted.contains(token))
    }

    /// What was expected is complete.
    fn pop(&mut self) {
        self.state = self.states.pop().unwrap_or(State::End);
    }

    fn end(&mut self, kind: Kind<'a>) -> Parsed<'a> {
        let (line, _) = self.take()?;
        self.pop();
        Ok(Event { line, kind })
    }

    fn fail<T>(&mut self, why: &str) -> Result<T, String> {
        let (line, _) = self.peek()?;
        Err(complaint::of_parser(line, why))
    }

    /// A node, and behind it something else.
    fn node_then(&mut self, place: Place, then: State) -> Parsed<'a> {
        self.states.push(then);
        self.node(place)
    }

    /// Nothing where a node could stand.
    fn nothing_then(&mut self, line: usize, then: State) -> Parsed<'a> {
        self.state = then;
        Ok(Event { line, kind: Kind::Scalar { text: String::new(), properties: Properties::default(), plain: true } })
    }

    fn first_document(&mut self) -> Parsed<'a> {
        match self.peek()? {
            (_, Token::Version(..) | Token::TagDirective { .. } | Token::DocumentStart | Token::StreamEnd) => self.document(),
            (line, _) => {
                self.states.push(State::DocumentEnd);
                self.state = State::Node;
                Ok(Event { line, kind: Kind::DocumentStart })
            }
        }
    }

    fn document(&mut self) -> Parsed<'a> {
        while self.peeks_at(&[Token::DocumentEnd])? {
            self.skip();
        }
        let (line, token) = self.peek()?;
        if *token == Token::StreamEnd {
            self.state = State::End;
            return Ok(Event { line, kind: Kind::StreamEnd });
        }
        self.directives()?;
        if !self.peeks_at(&[Token::DocumentStart])? {
            return self.fail("did not find expected <document start>");
        }
        self.skip();
        self.states.push(State::DocumentEnd);
        self.state = State::DocumentContent;
        Ok(Event { line, kind: Kind::DocumentStart })
    }

    fn directives(&mut self) -> Result<(), String> {
        let mut has_version = false;
        loop {
            match self.peek()? {
                (_, Token::Version(..)) if has_version => return self.fail("found duplicate %YAML directive"),
                (_, Token::Version(1, 1)) => has_version = true,
                (_, Token::Version(..)) => return self.fail("found incompatible YAML document"),
                (_, Token::TagDirective { .. }) => self.tag_directive()?,
                _ => return Ok(()),
            }
            self.skip();
        }
    }

    fn tag_directive(&mut self) -> Result<(), String> {
        if let (line, Token::TagDirective { handle, prefix }) = self.take()?
            && self.handles.insert(handle, prefix).is_some()
        {
            return Err(complaint::of_parser(line, "found duplicate %TAG directive"));
        }
        Ok(())
    }

    fn document_content(&mut self) -> Parsed<'a> {
        match self.peek()? {
            (line, Token::Version(..) | Token::TagDirective { .. } | Token::DocumentStart | Token::DocumentEnd | Token::StreamEnd) => {
                self.states.pop();
                self.nothing_then(line, State::DocumentEnd)
            }
            _ => self.node(Place::Block),
        }
    }

    fn document_end(&mut self) -> Parsed<'a> {
        let (line, token) = self.peek()?;
        if *token == Token::DocumentEnd {
            self.skip();
        }
        self.handles.clear();
        self.state = State::Document;
        Ok(Event { line, kind: Kind::DocumentEnd })
    }

    fn node(&mut self, place: Place) -> Parsed<'a> {
        let (line, token) = self.peek()?;
        if let Token::Alias(name) = *token {
            self.skip();
            self.pop();
            return Ok(Event { line, kind: Kind::Alias(name) });
        }
        let properties = self.properties()?;
        let kind = self.content(place, properties)?;
        Ok(Event { line, kind })
    }

    /// An anchor and a tag, in any order.
    fn properties(&mut self) -> Result<Properties<'a>, String> {
        let mut anchor = self.anchor()?;
        let tag = self.tag()?;
        if anchor.is_none() && tag.is_some() {
            anchor = self.anchor()?;
        }
        // What is wrong with the next token is told before the tag.
        self.peek()?;
        let tag = tag.map(|(line, handle, suffix)| self.whole_tag(handle, suffix).ok_or_else(|| complaint::of_parser(line, "found undefined tag handle")));
        Ok(Properties { anchor, tag: tag.transpose()? })
    }

    fn anchor(&mut self) -> Result<Option<&'a str>, String> {
        let (_, &Token::Anchor(name)) = self.peek()? else { return Ok(None) };
        self.skip();
        Ok(Some(name))
    }

    fn tag(&mut self) -> Result<Option<(usize, &'a str, String)>, String> {
        match self.take()? {
            (line, Token::Tag { handle, suffix }) => Ok(Some((line, handle, suffix))),
            other => {
                self.ahead = Some(other);
                Ok(None)
            }
        }
    }

    fn whole_tag(&self, handle: &str, suffix: String) -> Option<String> {
        let prefix = match (self.handles.get(handle), handle) {
            (_, "") => return Some(suffix),
            (Some(prefix), _) => prefix,
            (None, "!") => "!",
            (None, "!!") => "tag:yaml.org,2002:",
            (None, _) => return None,
        };
        let shown = |text: &str| text.get(..text.floor_char_boundary(TAG_BYTES_MAX)).map(str::to_owned);
        Some(shown(prefix)? + &shown(&suffix)?)
    }

    fn content(&mut self, place: Place, properties: Properties<'a>) -> Result<Kind<'a>, String> {
        let in_block = place != Place::Flow;
        let (start, first) = match self.peek()?.1 {
            // The entry itself is looked at again.
            Token::BlockEntry if place == Place::BlockOrIndentless => {
                self.state = State::IndentlessEntry;
                return Ok(Kind::SequenceStart(properties.anchor));
            }
            Token::Scalar { .. } => return self.scalar(properties),
            Token::FlowSequenceStart => (Kind::SequenceStart(properties.anchor), State::FlowFirstEntry),
            Token::FlowMappingStart => (Kind::MappingStart(properties.anchor), State::FlowFirstKey),
            Token::BlockSequenceStart if in_block => (Kind::SequenceStart(properties.anchor), State::BlockEntry),
            Token::BlockMappingStart if in_block => (Kind::MappingStart(properties.anchor), State::BlockKey),
            _ if properties != Properties::default() => {
                self.pop();
                let plain = properties.tag.is_none();
                return Ok(Kind::Scalar { text: String::new(), properties, plain });
            }
            _ => return self.fail("did not find expected node content"),
        };
        self.skip();
        self.state = first;
        Ok(start)
    }

    fn scalar(&mut self, properties: Properties<'a>) -> Result<Kind<'a>, String> {
        self.pop();
        let (text, plain) = match self.take()? {
            (_, Token::Scalar { text, plain }) => (text, plain),
            _ => Default::default(),
        };
        let plain = properties.tag.as_deref().map_or(plain, |tag| tag == "!");
        Ok(Kind::Scalar { text, properties, plain })
    }

    fn block_entry(&mut self) -> Parsed<'a> {
        match self.peek()? {
            (line, Token::BlockEntry) => {
                self.skip();
                if self.peeks_at(&[Token::BlockEntry, Token::BlockEnd])? {
                    return self.nothing_then(line, State::BlockEntry);
                }
                self.node_then(Place::Block, State::BlockEntry)
            }
            (_, Token::BlockEnd) => self.end(Kind::SequenceEnd),
            _ => self.fail("did not find expected '-' indicator"),
        }
    }

    fn indentless_entry(&mut self) -> Parsed<'a> {
        let (line, token) = self.peek()?;
        if *token != Token::BlockEntry {
            self.pop();
            return Ok(Event { line, kind: Kind::SequenceEnd });
        }
        self.skip();
        if self.peeks_at(&[Token::BlockEntry, Token::Key, Token::Value, Token::BlockEnd])? {
            return self.nothing_then(line, State::IndentlessEntry);
        }
        self.node_then(Place::Block, State::IndentlessEntry)
    }

    fn block_key(&mut self) -> Parsed<'a> {
        match self.peek()? {
            (line, Token::Key) => {
                self.skip();
                self.block_key_or_value(line, State::BlockValue)
            }
            (_, Token::BlockEnd) => self.end(Kind::MappingEnd),
            _ => self.fail("did not find expected key"),
        }
    }

    fn block_value(&mut self) -> Parsed<'a> {
        let (line, token) = self.peek()?;
        if *token != Token::Value {
            return self.nothing_then(line, State::BlockKey);
        }
        self.skip();
        self.block_key_or_value(line, State::BlockKey)
    }

    fn block_key_or_value(&mut self, line: usize, then: State) -> Parsed<'a> {
        if self.peeks_at(&[Token::Key, Token::Value, Token::BlockEnd])? {
            return self.nothing_then(line, then);
        }
        self.node_then(Place::BlockOrIndentless, then)
    }

    fn flow_entry(&mut self, first: bool) -> Parsed<'a> {
        if !first {
            self.comma(&Token::FlowSequenceEnd, "did not find expected ',' or ']'")?;
        }
        match self.peek()? {
            (_, Token::FlowSequenceEnd) => self.end(Kind::SequenceEnd),
            (line, Token::Key) => {
                self.skip();
                self.state = State::PairKey;
                Ok(Event { line, kind: Kind::MappingStart(None) })
            }
            _ => self.node_then(Place::Flow, State::FlowEntry),
        }
    }

    /// The comma behind an element, unless it is the last.
    fn comma(&mut self, end: &Token, otherwise: &str) -> Result<(), String> {
        let (_, token) = self.peek()?;
        if *token == Token::FlowEntry {
            self.skip();
        } else if token != end {
            return self.fail(otherwise);
        }
        Ok(())
    }

    fn pair_key(&mut self) -> Parsed<'a> {
        match self.peek()? {
            // goyaml takes it for gone, whatever it is.
            (line, Token::Value | Token::FlowEntry | Token::FlowSequenceEnd) => {
                self.skip();
                self.nothing_then(line, State::PairValue)
            }
            _ => self.node_then(Place::Flow, State::PairValue),
        }
    }

    fn pair_value(&mut self) -> Parsed<'a> {
        self.flow_value_up_to(&Token::FlowSequenceEnd, State::PairEnd)
    }

    fn pair_end(&mut self) -> Parsed<'a> {
        let (line, _) = self.peek()?;
        self.state = State::FlowEntry;
        Ok(Event { line, kind: Kind::MappingEnd })
    }

    fn flow_key(&mut self, first: bool) -> Parsed<'a> {
        if !first {
            self.comma(&Token::FlowMappingEnd, "did not find expected ',' or '}'")?;
        }
        match self.peek()? {
            (_, Token::FlowMappingEnd) => self.end(Kind::MappingEnd),
            (_, Token::Key) => {
                self.skip();
                match self.peek()? {
                    (line, Token::Value | Token::FlowEntry | Token::FlowMappingEnd) => self.nothing_then(line, State::FlowValue),
                    _ => self.node_then(Place::Flow, State::FlowValue),
                }
            }
            _ => self.node_then(Place::Flow, State::FlowNoValue),
        }
    }

    fn flow_value(&mut self) -> Parsed<'a> {
        self.flow_value_up_to(&Token::FlowMappingEnd, State::FlowKey)
    }

    fn flow_value_up_to(&mut self, end: &Token, then: State) -> Parsed<'a> {
        let (line, token) = self.peek()?;
        if *token != Token::Value {
            return self.nothing_then(line, then);
        }
        self.skip();
        let (line, token) = self.peek()?;
        if *token == Token::FlowEntry || token == end {
            return self.nothing_then(line, then);
        }
        self.node_then(Place::Flow, then)
    }

    fn flow_no_value(&mut self) -> Parsed<'a> {
        let (line, _) = self.peek()?;
        self.nothing_then(line, State::FlowKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events up to the end or the first mistake, which is the last of them; with the lines of the nodes.
    fn events(text: &str) -> String {
        let mut parser = Parser::new(text);
        let mut all = Vec::new();
        loop {
            let Event { line, kind } = match parser.next() {
                Ok(event) => event,
                Err(why) => {
                    all.push(why);
                    break;
                }
            };
            all.push(match kind {
                Kind::StreamEnd => break,
                Kind::DocumentStart => "(".into(),
                Kind::DocumentEnd => ")".into(),
                Kind::Alias(name) => format!("*{name}"),
                Kind::Scalar { text, properties: Properties { anchor, tag }, plain } => {
                    let anchor = anchor.map(|anchor| format!("&{anchor} ")).unwrap_or_default();
                    let tag = tag.map(|tag| format!("<{tag}> ")).unwrap_or_default();
                    format!("{anchor}{tag}{}{line}", if plain { text } else { format!("{text:?}") })
                }
                Kind::SequenceStart(anchor) => format!("[{}", anchor.unwrap_or_default()),
                Kind::SequenceEnd => "]".into(),
                Kind::MappingStart(anchor) => format!("{{{}", anchor.unwrap_or_default()),
                Kind::MappingEnd => "}".into(),
            });
        }
        all.join(" ")
    }

    #[test]
    fn nodes_stand_within_each_other() {
        for (text, wanted) in [
            ("", ""),
            ("---\n---\n", "( 1 ) ( 2 )"),
            ("a\n...\n--- b", "( a0 ) ( b2 )"),
            ("a:\n- b\n-\nc: {d: e}", "( { a0 [ b1 2 ] c3 { d3 e3 } } )"),
            ("? a\n? b\n:\n", "( { a0 1 b1 2 } )"),
            ("[a, b: c, ? d, e]", "( [ a0 { b0 c0 } { d0 0 } e0 ] )"),
            ("{a, b: , ? c : d}", "( { a0 0 b0 0 c0 d0 } )"),
            ("&a !!str b: &c [*a, !x '', ! \"d\"]", "( { &a <tag:yaml.org,2002:str> \"b\"0 [c *a <!x> \"\"0 <!> d0 ] } )"),
            ("- !a\n- &b\n", "( [ <!a> \"\"0 &b 1 ] )"),
            ("%TAG ! x:\n--- !a b\n--- !a b", "( <x:a> \"b\"1 ) ( <!a> \"b\"2 )"),
        ] {
            assert_eq!(events(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn mistakes_are_told_with_the_lines_before() {
        for (text, wanted) in [
            ("a: b\n- c", "( { a0 b0 yaml: line 1: did not find expected key"),
            ("- a\nb", "( [ a0 yaml: line 3: could not find expected ':'"),
            ("- a\nb: c", "( [ a0 yaml: line 1: did not find expected '-' indicator"),
            ("[a,\n? b,\n: c]", "( [ a0 { b1 1 } yaml: line 2: did not find expected node content"),
            ("[a\nb: c]", "( [ a b0 yaml: line 1: did not find expected ',' or ']'"),
            ("{a\n[b]}", "( { a0 1 yaml: line 1: did not find expected ',' or '}'"),
            ("%YAML 1.1\n%YAML 1.1\n---", "yaml: line 1: found duplicate %YAML directive"),
            ("%YAML 1.2\n---", "yaml: found incompatible YAML document"),
            ("%TAG ! a\n%TAG ! b\n---", "yaml: line 1: found duplicate %TAG directive"),
            ("%TAG ! a\nb", "yaml: line 1: did not find expected <document start>"),
            ("\n!a!b c", "( yaml: line 1: found undefined tag handle"),
            ("!a!b %", "yaml: found character that cannot start any token"),
            ("...", "( yaml: did not find expected node content"),
        ] {
            assert_eq!(events(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn a_tag_is_no_longer_than_any_that_is_known_may_be() {
        let long = "x".repeat(1_000_000);
        let mut parser = Parser::new("");
        parser.handles.insert("!", long.clone());
        assert_eq!(parser.whole_tag("!", long).map(|tag| tag.len()), Some(2 * TAG_BYTES_MAX));
    }
}
