//! Times, durations and other scalars that have one form in JSON and another in protobuf.

use super::text;
use super::wire::{Malformed, Reader};

/// Seconds from 0001-01-01, Go's zero time, to 1970-01-01.
const GO_ZERO: i64 = -62_135_596_800;

/// The two numbers of a `Timestamp` or an `IntOrString`, and what else a small message may hold.
pub(super) fn seconds_and_nanos(message: &[u8]) -> Result<Option<(i64, u32)>, Malformed> {
    if message.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(message);
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => seconds = value.varint()? as i64,
            2 => nanos = value.varint()? as u32,
            _ => {}
        }
    }
    Ok((seconds != GO_ZERO || nanos != 0).then_some((seconds, nanos)))
}

/// Appends RFC 3339 in UTC, with six decimals for a `MicroTime`.
pub(super) fn time(out: &mut Vec<u8>, seconds: i64, micros: Option<u32>) {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
    let (year, month, day) = civil(days);
    let ([y, e], [a, r]) = (text::two_digits(year / 100), text::two_digits(year));
    let [[m, o], [d, i], [h, u], [n, t], [s, c]] = [month, day, of_day / 3600, of_day / 60 % 60, of_day % 60].map(text::two_digits);
    out.extend_from_slice(&[y, e, a, r, b'-', m, o, b'-', d, i, b'T', h, u, b':', n, t, b':', s, c]);
    if let Some(micros) = micros {
        let [[a, b], [c, d], [e, f]] = [micros / 10_000, micros / 100, micros].map(text::two_digits);
        out.extend_from_slice(&[b'.', a, b, c, d, e, f]);
    }
    out.push(b'Z');
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years outside 0 to 9999, which no
/// text form holds, are clamped.
fn civil(days: i64) -> (u32, u32, u32) {
    let shifted = days.clamp(-719_528, 2_932_896) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    ((year_of_era + era * 400 + i64::from(month <= 2)).max(0) as u32, month, day)
}

const SECOND: u64 = 1_000_000_000;

/// Appends a duration as Go prints it: `1h2m3.5s`, `100ms`, `0s`.
pub(super) fn duration(out: &mut Vec<u8>, nanos: i64) {
    if nanos < 0 {
        out.push(b'-');
    }
    let n = nanos.unsigned_abs();
    if n < SECOND {
        return match n {
            0 => out.extend_from_slice(b"0s"),
            1..1_000 => in_unit(out, n, 1, "ns"),
            1_000..1_000_000 => in_unit(out, n, 1_000, "µs"),
            _ => in_unit(out, n, 1_000_000, "ms"),
        };
    }
    let (hours, minutes) = (n / (3600 * SECOND), n / (60 * SECOND) % 60);
    if hours > 0 {
        in_unit(out, hours, 1, "h");
    }
    if hours > 0 || minutes > 0 {
        in_unit(out, minutes, 1, "m");
    }
    in_unit(out, n % (60 * SECOND), SECOND, "s");
}

/// `n / unit` with as many decimals as it needs, and the unit's name.
fn in_unit(out: &mut Vec<u8>, n: u64, unit: u64, name: &str) {
    text::integer(out, (n / unit) as i64);
    if n % unit != 0 {
        let fraction = format!("{:0width$}", n % unit, width = unit.ilog10() as usize);
        out.push(b'.');
        out.extend_from_slice(fraction.trim_end_matches('0').as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
}

/// Reads a duration as Go writes or accepts it (`time.ParseDuration`).
pub(super) fn parse_duration(given: &str) -> Option<i64> {
    let (negative, mut rest) = match given.as_bytes().first()? {
        b'-' => (true, &given[1..]),
        b'+' => (false, &given[1..]),
        _ => (false, given),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let size = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let unit: i128 = match &tail[..size] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
            return None;
        }
        let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        total += parse(whole)?.checked_mul(unit)? + parse(fraction)? * unit / 10_i128.pow(fraction.len() as u32);
        rest = &tail[size..];
    }
    i64::try_from(if negative { -total } else { total }).ok()
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
    fn times_agree_with_the_calendar() {
        for at in
            ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2026-11-23T05:00:05Z", "1969-12-31T23:59:59Z", "0001-01-01T00:00:01Z", "9999-12-30T01:02:03Z"]
        {
            let seconds = knarr_core::time::parse(at).unwrap().as_second();
            assert_eq!(text(|out| time(out, seconds, None)), at);
        }
        assert_eq!(text(|out| time(out, 0, Some(1234))), "1970-01-01T00:00:00.001234Z");
    }

    #[test]
    fn durations_read_back_as_they_are_written() {
        for (nanos, wanted) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (3_723_500_000_000, "1h2m3.5s"),
            (-60_000_000_000, "-1m0s"),
            (7_200_000_000_000, "2h0m0s"),
        ] {
            assert_eq!(text(|out| duration(out, nanos)), wanted);
            assert_eq!(parse_duration(wanted), Some(nanos));
        }
        for bad in ["", "1", "s", "1x", "1.2.3s", "."] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
