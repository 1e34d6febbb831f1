//! JSON as Go's encoder writes it: which characters it escapes, how it spells a float.

use base64::Engine as _;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Bytes that stand for themselves in a JSON string: printable ASCII but for `"`, `\`, `&`, `<` and `>`.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut b = 0x20;
    while b < 0x80 {
        plain[b] = !matches!(b as u8, b'"' | b'\\' | b'&' | b'<' | b'>');
        b += 1;
    }
    plain
};

/// Appends a string in quotes. Bytes that are no UTF-8 become U+FFFD, as in Go.
#[inline]
pub(super) fn string(out: &mut Vec<u8>, s: &[u8]) {
    out.reserve(s.len() + 3);
    out.push(b'"');
    if is_plain(s) {
        out.extend_from_slice(s)
    } else {
        escaped(out, s)
    }
    out.push(b'"');
}

#[inline]
fn is_plain(s: &[u8]) -> bool {
    if s.len() < 16 {
        return s.iter().all(|b| PLAIN[usize::from(*b)]);
    }
    let (large, rest) = s.as_chunks::<64>();
    let (small, _) = rest.as_chunks::<16>();
    let last = &s[s.len() - 16..];
    large.iter().all(|c| plain_chunk(c)) && small.iter().all(|c| plain_chunk(c)) && plain_chunk(last)
}

/// Written without branches, so that it becomes a few vector instructions. What has the highest bit is negative; `"` and `&`, and `<` and `>`, differ
/// by one bit.
#[inline]
fn plain_chunk(chunk: &[u8]) -> bool {
    let odd = |b: u8| u8::from((b as i8) < 0x20) | u8::from(b | 4 == b'&') | u8::from(b | 2 == b'>') | u8::from(b == b'\\');
    chunk.iter().fold(0, |any, b| any | odd(*b)) == 0
}

fn escaped(out: &mut Vec<u8>, s: &[u8]) {
    for part in s.utf8_chunks() {
        escaped_text(out, part.valid());
        if !part.invalid().is_empty() {
            // Go writes one replacement for each byte, not for each sequence.
            part.invalid().iter().for_each(|_| out.extend_from_slice(b"\\ufffd"));
        }
    }
}

fn escaped_text(out: &mut Vec<u8>, s: &str) {
    let bytes = s.as_bytes();
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let b = bytes[at];
        if PLAIN[usize::from(b)] || (b >= 0x80 && !is_line_separator(&bytes[at..])) {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        at += escape(out, &bytes[at..]);
        from = at;
    }
    out.extend_from_slice(&bytes[from..]);
}

/// U+2028 or U+2029, which JavaScript takes for the end of a line.
fn is_line_separator(bytes: &[u8]) -> bool {
    matches!(bytes, [0xe2, 0x80, 0xa8 | 0xa9, ..])
}

/// Escapes the first character, gives its length in bytes.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) -> usize {
    match bytes[0] {
        0xe2 => {
            out.extend_from_slice(b"\\u202");
            out.push(HEX[usize::from(bytes[2] & 15)]);
            return 3;
        }
        b @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', b]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        8 => out.extend_from_slice(b"\\b"),
        12 => out.extend_from_slice(b"\\f"),
        b => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]),
    }
    1
}

/// Appends JSON that came from elsewhere: without space, with `&<>` and the line separators escaped
/// (`encoding/json.appendCompact`, which Go runs over what a `MarshalJSON` gives).
pub(super) fn raw_json(out: &mut Vec<u8>, json: &[u8]) {
    let odd = |b: u8| (b <= 0x20) | (b == b'&') | (b == b'<') | (b == b'>') | (b == 0xe2);
    if !json.iter().fold(false, |any, b| any | odd(*b)) {
        return out.extend_from_slice(json);
    }
    let mut in_string = false;
    let mut at = 0;
    while at < json.len() {
        let b = json[at];
        match b {
            b'\\' if in_string && at + 1 < json.len() => {
                out.extend_from_slice(&json[at..at + 2]);
                at += 1;
            }
            b' ' | b'\t' | b'\r' | b'\n' if !in_string => {}
            b'&' | b'<' | b'>' => _ = escape(out, &json[at..]),
            0xe2 if is_line_separator(&json[at..]) => at += escape(out, &json[at..]) - 1,
            _ => {
                in_string ^= b == b'"';
                out.push(b);
            }
        }
        at += 1;
    }
}

static DIGITS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

/// Appends an integer.
#[inline]
pub(super) fn integer(out: &mut Vec<u8>, n: i64) {
    if (0..10).contains(&n) {
        return out.push(b'0' + n as u8);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = n.unsigned_abs();
    while rest >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&DIGITS[(rest % 100) as usize]);
        rest /= 100;
    }
    if rest > 0 {
        at -= 1;
        digits[at] = b'0' + rest as u8;
    }
    if n < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// The two digits of a number below 100.
#[inline]
pub(super) fn two_digits(n: u32) -> [u8; 2] {
    DIGITS[(n % 100) as usize]
}

/// Appends a float: shortest digits that read back, with an exponent below 1e-6 and from 1e21 (`encoding/json.floatEncoder`).
pub(super) fn float(out: &mut Vec<u8>, x: f64) {
    let magnitude = x.abs();
    if !x.is_finite() {
        return out.extend_from_slice(b"null");
    }
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        let text = format!("{x:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let sign = if exponent.starts_with('-') { "" } else { "+" };
        return out.extend_from_slice(format!("{mantissa}e{sign}{exponent}").as_bytes());
    }
    // Rust writes -0.0 as "-0", as Go does.
    out.extend_from_slice(format!("{x}").as_bytes());
}

/// Appends bytes as a base64 string in quotes.
pub(super) fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let from = out.len();
    out.resize(from + bytes.len().div_ceil(3) * 4, 0);
    let written = base64::engine::general_purpose::STANDARD.encode_slice(bytes, &mut out[from..]).unwrap_or(0);
    out.truncate(from + written);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_go_does() {
        for (given, wanted) in [
            ("plain", r#""plain""#),
            ("a \"quote\" \\ \n\r\t\u{8}\u{c}\u{1}\u{7f}", "\"a \\\"quote\\\" \\\\ \\n\\r\\t\\b\\f\\u0001\u{7f}\""),
            ("<a&b> is long enough for a vector", r#""\u003ca\u0026b\u003e is long enough for a vector""#),
            ("x\u{2028}\u{2029}\u{2027}é", "\"x\\u2028\\u2029\u{2027}é\""),
        ] {
            assert_eq!(text(|out| string(out, given.as_bytes())), wanted);
        }
        assert_eq!(text(|out| string(out, b"a\xff\xfeb")), r#""a\ufffd\ufffdb""#);
    }

    #[test]
    fn a_character_that_is_escaped_is_found_wherever_it_stands() {
        for len in [1, 15, 16, 17, 63, 64, 65, 130] {
            for at in 0..len {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'x'; len];
                    text[at] = byte;
                    assert_eq!(is_plain(&text), PLAIN[usize::from(byte)], "{byte:#x} at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn foreign_json_is_compacted_outside_of_strings_only() {
        assert_eq!(text(|out| raw_json(out, b"{ \"a b\" : [ 1 , \"<\\\" >\" ] }\n")), r#"{"a b":[1,"\u003c\" \u003e"]}"#);
    }

    #[test]
    fn numbers_read_as_go_writes_them() {
        for n in [0, 7, 10, 99, 100, 101, 12345, -1, -10, i64::MAX, i64::MIN, 1_000_000] {
            assert_eq!(text(|out| integer(out, n)), n.to_string());
        }
        for (x, wanted) in [
            (1.0, "1"),
            (0.5, "0.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-7"),
            (1e-6, "0.000001"),
            (-2.5e30, "-2.5e+30"),
            (0.1 + 0.2, "0.30000000000000004"),
        ] {
            assert_eq!(text(|out| float(out, x)), wanted);
        }
    }
}
