//! The texts of scalars: plain ones, quoted ones and blocks, with their lines put together.

use super::super::reader::Reader;

/// What stands between two words of a scalar: blanks, or line breaks with blanks around them.
#[derive(Default)]
struct Gap {
    blanks: String,
    /// Whether a line has ended; with the break that ended it, unless that was escaped.
    broken: bool,
    first: Option<char>,
    /// The breaks behind it.
    rest: String,
}

impl Gap {
    /// Takes in all that stands here; a tab on a new line is refused in columns before `tabs_from`.
    fn read(&mut self, reader: &mut Reader, tabs_from: usize) -> Result<(), String> {
        loop {
            if reader.is_blank(0) {
                if self.broken && reader.byte(0) == b'\t' && reader.column() < tabs_from {
                    return reader.fail("found a tab character that violates indentation");
                }
                if self.broken { reader.skip() } else { reader.take(&mut self.blanks) }
            } else if reader.is_break(0) {
                reader.need(2)?;
                let found = reader.line_break();
                if self.broken {
                    self.rest.extend(found);
                } else {
                    (self.broken, self.first) = (true, found);
                }
            } else {
                return Ok(());
            }
            reader.need(1)?;
        }
    }

    /// Adds what it means to a text, and is empty then.
    fn close(&mut self, text: &mut String) {
        if self.broken {
            join_lines(self.first.take(), &mut self.rest, true, text);
        } else {
            text.push_str(&self.blanks);
        }
        self.blanks.clear();
        self.broken = false;
    }
}

/// A line and the next, with the break behind the first and those that follow it: one alone becomes a space where lines are folded.
fn join_lines(first: Option<char>, rest: &mut String, fold: bool, text: &mut String) {
    match first {
        Some('\n') if fold && rest.is_empty() => text.push(' '),
        Some('\n') if fold => {}
        first => text.extend(first),
    }
    text.push_str(rest);
    rest.clear();
}

/// A scalar without quotes, and whether lines have ended behind it. `least` is the first column that its lines may begin in.
pub(super) fn plain(reader: &mut Reader, least: usize, in_flow: bool) -> Result<(String, bool), String> {
    let (mut text, mut gap) = (String::new(), Gap::default());
    loop {
        reader.need(4)?;
        if reader.document_indicator().is_some() || reader.byte(0) == b'#' {
            break;
        }
        if !ends_plain(reader, in_flow) {
            gap.close(&mut text);
            plain_word(reader, in_flow, &mut text)?;
        }
        if !reader.is_blank(0) && !reader.is_break(0) {
            break;
        }
        gap.read(reader, least)?;
        if !in_flow && reader.column() < least {
            break;
        }
    }
    Ok((text, gap.broken))
}

fn plain_word(reader: &mut Reader, in_flow: bool, text: &mut String) -> Result<(), String> {
    loop {
        text.push_str(reader.run(|b| b <= b' ' || b == b':' || in_flow && is_flow_indicator(b)));
        if ends_plain(reader, in_flow) {
            return Ok(());
        }
        reader.take(text);
        reader.need(2)?;
    }
}

fn ends_plain(reader: &Reader, in_flow: bool) -> bool {
    let byte = reader.byte(0);
    reader.is_blank_or_end(0) || byte == b':' && reader.is_blank_or_end(1) || in_flow && is_flow_indicator(byte)
}

fn is_flow_indicator(byte: u8) -> bool {
    matches!(byte, b',' | b'?' | b'[' | b']' | b'{' | b'}')
}

/// A scalar within quotes.
pub(super) fn quoted(reader: &mut Reader) -> Result<String, String> {
    let quote = reader.byte(0);
    reader.skip();
    let (mut text, mut gap) = (String::new(), Gap::default());
    loop {
        reader.need(4)?;
        if reader.document_indicator().is_some() {
            return reader.fail("found unexpected document indicator");
        }
        if reader.is_end() {
            return reader.fail("found unexpected end of stream");
        }
        gap.broken = quoted_word(reader, quote, &mut text)?;
        reader.need(1)?;
        if reader.byte(0) == quote {
            reader.skip();
            return Ok(text);
        }
        gap.read(reader, 0)?;
        gap.close(&mut text);
    }
}

/// Up to a blank, a break or the last quote; tells whether an escaped break was the end.
fn quoted_word(reader: &mut Reader, quote: u8, text: &mut String) -> Result<bool, String> {
    let escapes = quote == b'"';
    loop {
        text.push_str(reader.run(|b| b <= b' ' || b == quote || b == b'\\'));
        match reader.byte(0) {
            _ if reader.is_blank_or_end(0) => return Ok(false),
            b'\'' if !escapes && reader.byte(1) == b'\'' => {
                reader.take(text);
                reader.skip();
            }
            byte if byte == quote => return Ok(false),
            b'\\' if escapes && reader.is_break(1) => {
                reader.need(3)?;
                reader.skip();
                reader.line_break();
                return Ok(true);
            }
            b'\\' if escapes => escape(reader, text)?,
            _ => reader.take(text),
        }
        reader.need(2)?;
    }
}

fn escape(reader: &mut Reader, text: &mut String) -> Result<(), String> {
    let meaning = match reader.byte(1) {
        b'0' => '\0',
        b'a' => '\x07',
        b'b' => '\x08',
        b't' | b'\t' => '\t',
        b'n' => '\n',
        b'v' => '\x0b',
        b'f' => '\x0c',
        b'r' => '\r',
        b'e' => '\x1b',
        sign @ (b' ' | b'"' | b'\'' | b'\\') => char::from(sign),
        b'N' => '\u{85}',
        b'_' => '\u{a0}',
        b'L' => '\u{2028}',
        b'P' => '\u{2029}',
        b'x' => return escaped_number(reader, 2, text),
        b'u' => return escaped_number(reader, 4, text),
        b'U' => return escaped_number(reader, 8, text),
        _ => return reader.fail("found unknown escape character"),
    };
    reader.skip();
    reader.skip();
    text.push(meaning);
    Ok(())
}

fn escaped_number(reader: &mut Reader, digits: usize, text: &mut String) -> Result<(), String> {
    reader.skip();
    reader.skip();
    reader.need(digits)?;
    let mut number = 0;
    for at in 0..digits {
        let Some(digit) = char::from(reader.byte(at)).to_digit(16) else {
            return reader.fail("did not find expected hexdecimal number");
        };
        number = number << 4 | digit;
    }
    let Some(meaning) = char::from_u32(number) else {
        return reader.fail("found invalid Unicode character escape code");
    };
    (0..digits).for_each(|_| reader.skip());
    text.push(meaning);
    Ok(())
}

/// What becomes of the breaks at a block's end.
#[derive(Clone, Copy, PartialEq)]
enum Chomping {
    Strip,
    Clip,
    Keep,
}

/// A literal or a folded block. `indent` is the column of what it stands in.
pub(super) fn block(reader: &mut Reader, indent: Option<usize>) -> Result<String, String> {
    let folds = reader.byte(0) == b'>';
    reader.skip();
    let (chomping, indicated) = block_header(reader)?;
    let (mut text, mut first, mut rest) = (String::new(), None, String::new());
    let indicated = indicated.map(|columns| columns + indent.unwrap_or(0));
    let deepest = block_indentation(reader, indicated, &mut rest)?;
    let column = indicated.unwrap_or_else(|| deepest.max(indent.map_or(1, |indent| indent + 1)));
    let mut after_blank = false;
    while reader.column() == column && !reader.is_end() {
        let blank = reader.is_blank(0);
        join_lines(first.take(), &mut rest, folds && !after_blank && !blank, &mut text);
        after_blank = blank;
        block_line(reader, &mut text)?;
        first = reader.line_break();
        block_indentation(reader, Some(column), &mut rest)?;
    }
    if chomping != Chomping::Strip {
        text.extend(first);
    }
    if chomping == Chomping::Keep {
        text.push_str(&rest);
    }
    Ok(text)
}

/// The signs behind `|` and `>`, up to the end of their line: a chomping, and how many columns the block is indented by.
fn block_header(reader: &mut Reader) -> Result<(Chomping, Option<usize>), String> {
    reader.need(1)?;
    let mut chomping = block_chomping(reader)?;
    let columns = block_columns(reader)?;
    if chomping.is_none() && columns.is_some() {
        chomping = block_chomping(reader)?;
    }
    reader.rest_of_line()?;
    Ok((chomping.unwrap_or(Chomping::Clip), columns))
}

fn block_chomping(reader: &mut Reader) -> Result<Option<Chomping>, String> {
    let found = match reader.byte(0) {
        b'+' => Chomping::Keep,
        b'-' => Chomping::Strip,
        _ => return Ok(None),
    };
    reader.skip();
    reader.need(1)?;
    Ok(Some(found))
}

fn block_columns(reader: &mut Reader) -> Result<Option<usize>, String> {
    let found = match reader.byte(0) {
        b'0' => return reader.fail("found an indentation indicator equal to 0"),
        digit @ b'1'..=b'9' => usize::from(digit - b'0'),
        _ => return Ok(None),
    };
    reader.skip();
    reader.need(1)?;
    Ok(Some(found))
}

fn block_line(reader: &mut Reader, text: &mut String) -> Result<(), String> {
    loop {
        text.push_str(reader.run(|b| matches!(b, b'\n' | b'\r')));
        if reader.is_break_or_end(0) {
            return reader.need(2);
        }
        reader.take(text);
        reader.need(1)?;
    }
}

/// Takes in empty lines, and the indentation of the one that follows them; tells the deepest of all these indentations.
fn block_indentation(reader: &mut Reader, column: Option<usize>, breaks: &mut String) -> Result<usize, String> {
    let mut deepest = 0;
    loop {
        reader.need(1)?;
        let is_before = |reader: &Reader| column.is_none_or(|column| reader.column() < column);
        while is_before(reader) && reader.byte(0) == b' ' {
            reader.skip();
            reader.need(1)?;
        }
        deepest = deepest.max(reader.column());
        if is_before(reader) && reader.byte(0) == b'\t' {
            return reader.fail("found a tab character where an indentation space is expected");
        }
        if !reader.is_break(0) {
            return Ok(deepest);
        }
        reader.need(2)?;
        breaks.extend(reader.line_break());
    }
}
