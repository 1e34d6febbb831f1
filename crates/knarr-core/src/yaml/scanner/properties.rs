//! What is said about a node or a document beside its content: anchors, tags and directives.

use super::super::reader::{Reader, is_name, width};
use super::Token;

/// `&name` or `*name`.
pub(super) fn anchor<'a>(reader: &mut Reader<'a>) -> Result<Token<'a>, String> {
    let is_alias = reader.byte(0) == b'*';
    reader.skip();
    let name = reader.name()?;
    let may_follow = reader.is_blank_or_end(0) || matches!(reader.byte(0), b'?' | b':' | b',' | b']' | b'}' | b'%' | b'@' | b'`');
    if name.is_empty() || !may_follow {
        return reader.fail("did not find expected alphabetic or numeric character");
    }
    Ok(if is_alias { Token::Alias(name) } else { Token::Anchor(name) })
}

/// `!<whole>`, `!suffix`, `!handle!suffix` or `!` alone.
pub(super) fn tag<'a>(reader: &mut Reader<'a>) -> Result<Token<'a>, String> {
    reader.need(2)?;
    let (handle, suffix) = if reader.byte(1) == b'<' { ("", whole_tag(reader)?) } else { short_tag(reader)? };
    reader.need(1)?;
    if !reader.is_blank_or_end(0) {
        return reader.fail("did not find expected whitespace or line break");
    }
    Ok(Token::Tag { handle, suffix })
}

fn whole_tag(reader: &mut Reader) -> Result<String, String> {
    reader.skip();
    reader.skip();
    let tag = uri(reader)?;
    if tag.is_empty() {
        return reader.fail("did not find expected tag URI");
    }
    if reader.byte(0) != b'>' {
        return reader.fail("did not find the expected '>'");
    }
    reader.skip();
    Ok(tag)
}

fn short_tag<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, String), String> {
    let handle = handle(reader)?;
    let rest = uri(reader)?;
    if is_closed(handle) {
        return if rest.is_empty() { reader.fail("did not find expected tag URI") } else { Ok((handle, rest)) };
    }
    // What was no handle is the suffix's beginning.
    let suffix = format!("{}{rest}", handle.trim_start_matches('!'));
    Ok(if suffix.is_empty() { ("", "!".to_owned()) } else { ("!", suffix) })
}

/// `!name!`, where the name may be empty and the second sign missing.
fn handle<'a>(reader: &mut Reader<'a>) -> Result<&'a str, String> {
    reader.need(1)?;
    if reader.byte(0) != b'!' {
        return reader.fail("did not find expected '!'");
    }
    let start = reader.at();
    reader.skip();
    reader.name()?;
    if reader.byte(0) == b'!' {
        reader.skip();
    }
    Ok(reader.since(start))
}

fn is_closed(handle: &str) -> bool {
    handle.len() > 1 && handle.ends_with('!')
}

/// Characters of a URI, with those that are escaped in it.
fn uri(reader: &mut Reader) -> Result<String, String> {
    let mut bytes = Vec::new();
    reader.need(1)?;
    loop {
        match reader.byte(0) {
            b'%' => escaped_character(reader, &mut bytes)?,
            byte if is_name(byte) || b";/?:@&=+$,.!~*'()[]".contains(&byte) => {
                bytes.push(byte);
                reader.skip();
            }
            // What is no UTF-8 is no tag that anybody knows.
            _ => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
        reader.need(1)?;
    }
}

fn escaped_character(reader: &mut Reader, bytes: &mut Vec<u8>) -> Result<(), String> {
    let first = escaped_byte(reader)?;
    if matches!(first, 0x80..0xc0 | 0xf8..) {
        return reader.fail("found an incorrect leading UTF-8 octet");
    }
    skip_escape(reader);
    bytes.push(first);
    for _ in 1..width(first) {
        let next = escaped_byte(reader)?;
        if next & 0xc0 != 0x80 {
            return reader.fail("found an incorrect trailing UTF-8 octet");
        }
        skip_escape(reader);
        bytes.push(next);
    }
    Ok(())
}

fn escaped_byte(reader: &mut Reader) -> Result<u8, String> {
    reader.need(3)?;
    let digit = |at: usize| char::from(reader.byte(at)).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match (reader.byte(0), digit(1), digit(2)) {
        (b'%', Some(high), Some(low)) => Ok(high << 4 | low),
        _ => reader.fail("did not find URI escaped octet"),
    }
}

fn skip_escape(reader: &mut Reader) {
    (0..3).for_each(|_| reader.skip());
}

/// `%YAML` and `%TAG` with what belongs to them, up to the next line.
pub(super) fn directive<'a>(reader: &mut Reader<'a>) -> Result<Token<'a>, String> {
    reader.skip();
    let name = reader.name()?;
    if name.is_empty() {
        return reader.fail("could not find expected directive name");
    }
    if !reader.is_blank_or_end(0) {
        return reader.fail("found unexpected non-alphabetical character");
    }
    let token = match name {
        "YAML" => version(reader)?,
        "TAG" => tag_directive(reader)?,
        _ => return reader.fail("found unknown directive name"),
    };
    reader.rest_of_line()?;
    Ok(token)
}

fn version<'a>(reader: &mut Reader<'a>) -> Result<Token<'a>, String> {
    reader.skip_blanks()?;
    let major = version_number(reader)?;
    if reader.byte(0) != b'.' {
        return reader.fail("did not find expected digit or '.' character");
    }
    reader.skip();
    let minor = version_number(reader)?;
    Ok(Token::Version(major, minor))
}

fn version_number(reader: &mut Reader) -> Result<u8, String> {
    let (mut number, mut length) = (0, 0);
    reader.need(1)?;
    while let digit @ b'0'..=b'9' = reader.byte(0) {
        length += 1;
        if length > 2 {
            return reader.fail("found extremely long version number");
        }
        number = number * 10 + (digit - b'0');
        reader.skip();
        reader.need(1)?;
    }
    if length == 0 { reader.fail("did not find expected version number") } else { Ok(number) }
}

fn tag_directive<'a>(reader: &mut Reader<'a>) -> Result<Token<'a>, String> {
    reader.skip_blanks()?;
    let handle = handle(reader)?;
    if !is_closed(handle) && handle != "!" {
        return reader.fail("did not find expected '!'");
    }
    reader.need(1)?;
    if !reader.is_blank(0) {
        return reader.fail("did not find expected whitespace");
    }
    reader.skip_blanks()?;
    let prefix = uri(reader)?;
    if prefix.is_empty() {
        return reader.fail("did not find expected tag URI");
    }
    reader.need(1)?;
    if !reader.is_blank_or_end(0) {
        return reader.fail("did not find expected whitespace or line break");
    }
    Ok(Token::TagDirective { handle, prefix })
}
