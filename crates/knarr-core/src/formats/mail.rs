//! What Go takes for the address of one mailbox (`net/mail.ParseAddress`: RFC 5322, more liberal with points in names, 2047 and 6532).

use std::net::IpAddr;

use base64::Engine;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

/// One address, alone, with a name, or alone in a group.
pub fn is_address(text: &str) -> bool {
    let mut rest = Rest(text);
    rest.addresses(true) == Some(1) && rest.comments().is_some() && rest.0.is_empty()
}

/// What is left to be read. Its readers give nothing when what they read is not there.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a str);

/// Whether an atom is text in another character set.
enum Word {
    Plain,
    Encoded {
        is_empty: bool,
    },
    /// It is, and Go has no table for the set.
    Unreadable,
}

impl<'a> Rest<'a> {
    fn space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self, token: char) -> Option<()> {
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    /// How many addresses an address or, if they are taken, a group has.
    fn addresses(&mut self, takes_groups: bool) -> Option<usize> {
        self.space();
        if self.0.is_empty() {
            return None;
        }
        let before = *self;
        if self.plain_address().is_some() {
            self.space();
            if self.0.starts_with('(') {
                self.name_in_comment()?;
            }
            return Some(1);
        }
        *self = before;
        if !self.0.starts_with('<') {
            self.phrase()?;
        }
        self.space();
        if takes_groups && self.token(':').is_some() {
            return self.group();
        }
        self.token('<')?;
        self.plain_address()?;
        self.token('>')?;
        Some(1)
    }

    /// After the colon of a group.
    fn group(&mut self) -> Option<usize> {
        let mut count = 0;
        self.space();
        while self.token(';').is_none() {
            if count > 0 {
                self.token(',')?;
                self.space();
            }
            count += self.addresses(false)?;
            self.comments()?;
        }
        self.comments()?;
        Some(count)
    }

    /// `local@domain`.
    fn plain_address(&mut self) -> Option<()> {
        self.space();
        if self.0.starts_with('"') {
            self.quoted().filter(|text| !text.is_empty())?;
        } else {
            self.dotted_atom()?;
        }
        self.token('@')?;
        self.space();
        if self.0.starts_with('[') { self.domain_literal() } else { self.dotted_atom() }
    }

    /// Words. One that is wrong ends them, if it is not the first.
    fn phrase(&mut self) -> Option<()> {
        // An encoded word counts when another follows, or at the end.
        let (mut words, mut is_encoded) = (0, false);
        loop {
            if words > 0 {
                self.comments()?;
            }
            self.space();
            if self.0.is_empty() {
                return Some(());
            }
            let word = if self.0.starts_with('"') { self.quoted().map(|_| Word::Plain) } else { self.atom().map(decode) };
            match word {
                Some(Word::Plain) => {
                    words += 1 + usize::from(is_encoded);
                    is_encoded = false;
                }
                Some(Word::Encoded { is_empty }) => is_encoded |= !is_empty,
                Some(Word::Unreadable) | None => return (words > 0 || is_encoded).then_some(()),
            }
        }
    }

    /// The text between quotes, with its escapes.
    fn quoted(&mut self) -> Option<&'a str> {
        let text = self.0.strip_prefix('"')?;
        let mut is_escaped = false;
        for (at, c) in text.char_indices() {
            match c {
                _ if is_escaped && !(is_visible(c) || is_space(c)) => return None,
                _ if is_escaped => is_escaped = false,
                '"' => {
                    self.0 = &text[at + 1..];
                    return Some(&text[..at]);
                }
                '\\' => is_escaped = true,
                _ if is_visible(c) || is_space(c) => {}
                _ => return None,
            }
        }
        None
    }

    /// With points anywhere.
    fn atom(&mut self) -> Option<&'a str> {
        let end = self.0.find(|c| !is_visible(c) || "()<>[]:;@\\,\"".contains(c)).unwrap_or(self.0.len());
        let (atom, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(atom).filter(|atom| !atom.is_empty())
    }

    /// With points between others only.
    fn dotted_atom(&mut self) -> Option<()> {
        self.atom().filter(|atom| atom.split('.').all(|part| !part.is_empty())).map(drop)
    }

    /// `[address]`.
    fn domain_literal(&mut self) -> Option<()> {
        let (address, rest) = self.0.strip_prefix('[')?.split_once(']')?;
        address.parse::<IpAddr>().ok()?;
        self.0 = rest;
        Some(())
    }

    /// A comment is taken for the name of an address that has no other.
    fn name_in_comment(&mut self) -> Option<()> {
        let comment = self.comment()?;
        let is_readable = |word: &str| !matches!(decode(word), Word::Unreadable);
        comment.split([' ', '\t']).all(is_readable).then_some(())
    }

    /// Comments with spaces around them, or neither.
    fn comments(&mut self) -> Option<()> {
        self.space();
        while self.0.starts_with('(') {
            self.comment()?;
            self.space();
        }
        Some(())
    }

    /// What stands between brackets, which may hold others.
    fn comment(&mut self) -> Option<String> {
        let (mut depth, mut is_escaped, mut comment) = (0, false, String::new());
        for (at, c) in self.0.char_indices() {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' if at + 1 < self.0.len() => {
                    is_escaped = true;
                    continue;
                }
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                self.0 = &self.0[at + 1..];
                return Some(comment);
            }
            if at > 0 {
                comment.push(c);
            }
        }
        None
    }
}

fn is_visible(c: char) -> bool {
    c.is_ascii_graphic() || !c.is_ascii()
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// Base64 whose last bits may be anything.
const BASE64: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// `=?set?how?text?=` (RFC 2047).
fn decode(word: &str) -> Word {
    let inner = word.strip_prefix("=?").and_then(|w| w.strip_suffix("?=")).filter(|_| word.len() >= 8 && word.matches('?').count() == 4);
    let mut parts = inner.unwrap_or_default().splitn(3, '?');
    let (Some(set), Some(how), Some(text)) = (parts.next().filter(|set| !set.is_empty()), parts.next(), parts.next()) else { return Word::Plain };
    let is_empty = match how {
        "B" | "b" => match BASE64.decode(text) {
            Ok(bytes) => bytes.is_empty(),
            Err(_) => return Word::Plain,
        },
        "Q" | "q" if is_quoted_printable(text) => text.is_empty(),
        _ => return Word::Plain,
    };
    let is_known = ["utf-8", "iso-8859-1", "us-ascii"].iter().any(|known| set.eq_ignore_ascii_case(known));
    if is_known { Word::Encoded { is_empty } } else { Word::Unreadable }
}

fn is_quoted_printable(text: &str) -> bool {
    let is_escape = |at: usize| text.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    text.is_ascii() && text.match_indices('=').all(|(at, _)| is_escape(at))
}
