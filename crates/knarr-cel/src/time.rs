//! Durations and timestamps as Go writes and reads them.

use jiff::Timestamp;

const UNITS: [(&str, f64); 8] = [("ns", 1.0), ("us", 1e3), ("\u{b5}s", 1e3), ("\u{3bc}s", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Nanoseconds of a duration such as `1h15m` or `-2.5s` (Go: `time.ParseDuration`).
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let whole = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, after) = rest.split_at(whole);
        let fraction = after.strip_prefix('.').unwrap_or_default();
        let length = fraction.len() - fraction.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if whole == 0 && length == 0 {
            return None;
        }
        let after = if after.starts_with('.') { &after[1 + length..] } else { after };
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1 as i128;
        let whole: i128 = if digits.is_empty() { 0 } else { digits.parse::<u64>().ok()?.into() };
        let part = &fraction[..length.min(18)];
        let part: i128 = if part.is_empty() { 0 } else { part.parse::<i128>().ok()? * scale / 10i128.pow(u32::try_from(part.len()).ok()?) };
        total += whole * scale + part;
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return None;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A duration in seconds, as CEL's `string()` shows it.
pub fn seconds(nanos: i64) -> String {
    format!("{}s", go_float(nanos as f64 / 1e9))
}

/// A number as Go's `strconv.FormatFloat(f, 'f', -1, 64)` shows it.
pub fn go_float(f: f64) -> String {
    if f.is_nan() {
        "NaN".into()
    } else if f.is_infinite() {
        if f > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        format!("{f}")
    }
}

/// RFC 3339 within the years that CEL knows.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shaped = bytes.len() >= 20 && bytes[4] == b'-' && bytes[10] == b'T' && bytes[13] == b':' && bytes[16] == b':';
    let zoned = text.ends_with('Z') || matches!(bytes.get(bytes.len().checked_sub(6)?), Some(b'+' | b'-'));
    if !shaped || !zoned {
        return None;
    }
    text.parse().ok().filter(in_range)
}

/// A date as midnight in UTC.
pub fn parse_date(text: &str) -> Option<Timestamp> {
    if text.len() != 10 { None } else { parse_timestamp(&format!("{text}T00:00:00Z")) }
}

/// Whether a time lies in the years 1 to 9999.
pub fn in_range(t: &Timestamp) -> bool {
    const FIRST: i64 = -62_135_596_800;
    const LAST: i64 = 253_402_300_799;
    (FIRST..=LAST).contains(&t.as_second())
}
