//! Quantities and times as upstream writes them after reading what a client sent, and its words for what it cannot read.

use knarr_core::quantity::{Format, Quantity};
use knarr_core::time;

use super::scalar;

/// A quantity in canonical form. Like upstream's `ParseQuantity`, a form that needs no change of suffix is kept as it came:
/// `1.500` stays, `0.5` becomes `500m`.
///
/// # Errors
/// Upstream's words.
pub(super) fn quantity(given: &str) -> Result<String, String> {
    let parsed: Quantity = given.parse().map_err(|_| bad_quantity(given))?;
    if given == "0" || keeps_its_form(given, parsed.format) { Ok(given.to_owned()) } else { Ok(parsed.to_string()) }
}

fn keeps_its_form(given: &str, format: Format) -> bool {
    let unsigned = given.strip_prefix(['+', '-']).unwrap_or(given);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = Some(whole.trim_start_matches('0')).filter(|w| !w.is_empty()).unwrap_or("0");
    let digits = format!("{whole}{fraction}");
    let Ok(value) = digits.parse::<i64>() else { return false };
    match format {
        Format::BinarySi => {
            let power = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|s| *s == suffix).map_or(0, |i| (i as u32 + 1) * 10);
            let precise = whole.len() as f32 + f32::floor(power as f32 * 3.0 / 10.0) + 1.0 <= 15.0;
            fraction.is_empty() && precise && value & 7 != 0 && value.checked_mul(1 << power).is_some()
        }
        Format::DecimalSi | Format::DecimalExponent => {
            let exponent = match suffix {
                "n" => -9,
                "u" => -6,
                "m" => -3,
                "k" => 3,
                "M" => 6,
                "G" => 9,
                "T" => 12,
                "P" => 15,
                "E" => 18,
                _ => suffix.get(1..).and_then(|n| n.parse().ok()).unwrap_or(0),
            };
            let scale = exponent - fraction.len() as i64;
            digits.len() <= 18 && scale >= -9 && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
        }
    }
}

fn bad_quantity(given: &str) -> String {
    let unsigned = given.strip_prefix(['+', '-']).unwrap_or(given);
    let suffix = unsigned.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('.').trim_start_matches(|c: char| c.is_ascii_digit());
    let known = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let number = known.strip_prefix(['+', '-']).unwrap_or(known);
    if given.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".to_owned();
    }
    "unable to parse quantity's suffix".to_owned()
}

/// Decodes base64 as Go's `StdEncoding` does: line ends do not count, padding does, spare bits of the last symbol are let go.
///
/// # Errors
/// Where Go sees the first wrong byte.
pub(super) fn bytes(given: &str) -> Result<Vec<u8>, usize> {
    let given = given.as_bytes();
    let mut out = Vec::with_capacity(given.len() / 4 * 3);
    let mut at = 0;
    let skip_line_ends = |mut at: usize| {
        while let Some(b'\r' | b'\n') = given.get(at) {
            at += 1;
        }
        at
    };
    loop {
        let (mut quantum, mut count) = (0_u32, 0);
        while count < 4 {
            at = skip_line_ends(at);
            let Some(&symbol) = given.get(at) else {
                return if count == 0 { Ok(out) } else { Err(at - count) };
            };
            at += 1;
            if let Some(value) = base64_value(symbol) {
                quantum = quantum << 6 | value;
                count += 1;
                continue;
            }
            if symbol != b'=' || count < 2 {
                return Err(at - 1);
            }
            if count == 2 {
                at = skip_line_ends(at);
                match given.get(at) {
                    None => return Err(given.len()),
                    Some(b'=') => at += 1,
                    Some(_) => return Err(at - 1),
                }
            }
            at = skip_line_ends(at);
            out.extend_from_slice(&(quantum << (8 + 6 * (4 - count))).to_be_bytes()[..count - 1]);
            return if at < given.len() { Err(at) } else { Ok(out) };
        }
        out.extend_from_slice(&quantum.to_be_bytes()[1..]);
    }
}

fn base64_value(symbol: u8) -> Option<u32> {
    Some(u32::from(match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

/// A `Time`: whole seconds in UTC.
///
/// # Errors
/// The words of Go's `time.Parse`.
pub(super) fn seconds(given: &str) -> Result<String, String> {
    if is_canonical_time(given.as_bytes()) {
        return Ok(given.to_owned());
    }
    time::read(given, time::RFC3339).map(|at| scalar::time_text(at.seconds, None))
}

/// Whether a time is already what it would become. Says no where it would have to know the calendar.
fn is_canonical_time(t: &[u8]) -> bool {
    let number = |at: usize| u32::from(t[at].wrapping_sub(b'0')) * 10 + u32::from(t[at + 1].wrapping_sub(b'0'));
    t.len() == 20
        && t.iter().enumerate().all(|(i, b)| match i {
            4 | 7 => *b == b'-',
            10 => *b == b'T',
            13 | 16 => *b == b':',
            19 => *b == b'Z',
            _ => b.is_ascii_digit(),
        })
        && (1..=12).contains(&number(5))
        && (1..=28).contains(&number(8))
        && number(11) < 24
        && number(14) < 60
        && number(17) < 60
        && number(0) > 0
}

/// A `MicroTime`: six decimals in UTC, and six decimals wanted.
///
/// # Errors
/// The words of Go's `time.Parse`.
pub(super) fn micros(given: &str) -> Result<String, String> {
    time::read(given, time::RFC3339_MICRO).map(|at| scalar::time_text(at.seconds, Some(at.nanos / 1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_keep_a_form_that_upstream_keeps() {
        for (given, wanted) in [
            ("1", "1"),
            ("100m", "100m"),
            ("0.5", "500m"),
            ("1.500", "1.500"),
            ("2.5", "2500m"),
            ("1000", "1k"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1025Mi", "1025Mi"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("0", "0"),
            ("00", "0"),
            ("+5", "+5"),
            ("0.000", "0"),
            ("8Ki", "8Ki"),
            ("9223372036854775807", "9223372036854775807"),
        ] {
            assert_eq!(quantity(given), Ok(wanted.to_owned()), "{given}");
        }
        let regular = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        for (given, wanted) in [
            ("", regular),
            ("1x", regular),
            ("{}", regular),
            (" 5", regular),
            ("1mi", "unable to parse quantity's suffix"),
            ("1KiB", regular),
            ("1ki", "unable to parse quantity's suffix"),
        ] {
            assert_eq!(quantity(given), Err(wanted.to_owned()), "{given}");
        }
    }

    #[test]
    fn base64_is_read_as_go_reads_it() {
        for (given, wanted) in [("", Ok(&b""[..])), ("YWJj", Ok(b"abc")), ("YQ==", Ok(b"a")), ("YR==", Ok(b"a")), ("YW\r\nI=\n", Ok(b"ab"))] {
            assert_eq!(bytes(given).as_deref(), wanted.as_ref().map(|b| *b), "{given}");
        }
        for (given, at) in [("YQ", 0), ("YWJjYQ", 4), ("a", 0), ("b!", 1), ("YQ=", 3), ("YQ=a", 2), ("YQ==a", 4), ("=", 0), ("YWI=YWI=", 4)] {
            assert_eq!(bytes(given), Err(at), "{given}");
        }
    }

    #[test]
    fn times_are_read_and_refused_as_go_does() {
        assert_eq!(seconds("2026-01-02T03:04:05.9+01:00"), Ok("2026-01-02T02:04:05Z".to_owned()));
        assert_eq!(micros("2026-01-02T03:04:05.678901Z"), Ok("2026-01-02T03:04:05.678901Z".to_owned()));
        for (given, wanted) in [
            ("abc", r#"parsing time "abc" as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006""#),
            ("2026-01-02", r#"parsing time "2026-01-02" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#),
            ("2026-13-02T03:04:05Z", r#"parsing time "2026-13-02T03:04:05Z": month out of range"#),
            ("2026-02-30T03:04:05Z", r#"parsing time "2026-02-30T03:04:05Z": day out of range"#),
            ("2026-01-02T03:04:05", r#"parsing time "2026-01-02T03:04:05" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#),
            ("<é>", r#"parsing time "<\xc3\xa9>" as "2006-01-02T15:04:05Z07:00": cannot parse "<\xc3\xa9>" as "2006""#),
            ("2026-01-02T03:04:05Zx", r#"parsing time "2026-01-02T03:04:05Zx": extra text: "x""#),
        ] {
            assert_eq!(seconds(given), Err(wanted.to_owned()));
        }
        assert!(micros("2026-01-02T03:04:05Z").unwrap_err().contains(r#"cannot parse "Z" as ".000000""#));
    }
}
