//! Times, durations and other scalars that have one form in JSON and another in protobuf.

use super::text;
use super::wire::{Malformed, Reader};
use crate::types::Shape;

/// Seconds from 0001-01-01, Go's zero time, to 1970-01-01.
const GO_ZERO: i64 = -62_135_596_800;

/// A time: seconds from 1970-01-01, and microseconds where it has some. Nothing for Go's zero time, and where there is no message at all.
///
/// Upstream's decoders take the seconds only of a `Time`, and cut the nanoseconds of a `MicroTime` (`Time.Unmarshal`, `MicroTime.Unmarshal`).
pub(super) fn read_time(message: &[u8], shape: &Shape) -> Result<Option<(i64, Option<u32>)>, Malformed> {
    if message.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(message);
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => seconds = value.varint()? as i64,
            2 => nanos = value.varint()? as i32,
            _ => {}
        }
    }
    if *shape != Shape::MicroTime {
        return Ok((seconds != GO_ZERO).then_some((seconds, None)));
    }
    let micros = nanos / 1000;
    let (seconds, micros) = (seconds.saturating_add(i64::from(micros.div_euclid(1_000_000))), micros.rem_euclid(1_000_000) as u32);
    Ok((seconds != GO_ZERO || micros != 0).then_some((seconds, Some(micros))))
}

/// Appends RFC 3339 in UTC, with six decimals for a `MicroTime`. Years beyond four digits are written in as many as they need, as Go does.
pub(super) fn time(out: &mut Vec<u8>, seconds: i64, micros: Option<u32>) {
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
    let (year, month, day) = civil(days);
    match u32::try_from(year) {
        Ok(year @ 0..10_000) => [year / 100, year].map(text::two_digits).iter().for_each(|digits| out.extend_from_slice(digits)),
        _ => out.extend_from_slice(format!("{}{:04}", if year < 0 { "-" } else { "" }, year.abs()).as_bytes()),
    }
    let [[m, o], [d, i], [h, u], [n, t], [s, c]] = [month, day, of_day / 3600, of_day / 60 % 60, of_day % 60].map(text::two_digits);
    out.extend_from_slice(&[b'-', m, o, b'-', d, i, b'T', h, u, b':', n, t, b':', s, c]);
    if let Some(micros) = micros {
        let [[a, b], [c, d], [e, f]] = [micros / 10_000, micros / 100, micros].map(text::two_digits);
        out.extend_from_slice(&[b'.', a, b, c, d, e, f]);
    }
    out.push(b'Z');
}

/// The same as a text.
pub(super) fn time_text(seconds: i64, micros: Option<u32>) -> String {
    let mut out = Vec::with_capacity(27);
    time(&mut out, seconds, micros);
    String::from_utf8_lossy(&out).into_owned()
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
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
    use crate::codec::wire::Back;

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
        assert_eq!(time_text(0, Some(1234)), "1970-01-01T00:00:00.001234Z");
        // Asked of upstream.
        for (seconds, wanted) in [
            (i64::MAX, "292277026596-12-04T15:30:07Z"),
            (1 << 62, "146138514283-06-19T07:45:04Z"),
            (253_402_300_800, "10000-01-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (-62_167_219_200, "0000-01-01T00:00:00Z"),
            (-62_167_219_201, "-0001-12-31T23:59:59Z"),
        ] {
            assert_eq!(time_text(seconds, None), wanted);
            assert_eq!(knarr_core::time::Moment::parse(wanted).map(|m| m.seconds), Some(seconds));
        }
        time_text(i64::MIN, None);
    }

    // Asked of upstream.
    #[test]
    fn nanoseconds_are_cut_and_carried() {
        let of = |seconds: i64, nanos: i64| {
            let mut back = Back::with_capacity(32);
            back.number(2, nanos as u64);
            back.number(1, seconds as u64);
            back.into_vec()
        };
        for (seconds, nanos, wanted) in
            [(5, 2_000_000_000, Some((7, Some(0)))), (5, -1, Some((5, Some(0)))), (5, -1_001, Some((4, Some(999_999)))), (GO_ZERO, 999, None)]
        {
            assert_eq!(read_time(&of(seconds, nanos), &Shape::MicroTime), Ok(wanted));
        }
        assert_eq!(read_time(&of(5, 7_000), &Shape::Time), Ok(Some((5, None))));
        assert_eq!(read_time(&of(GO_ZERO, 7_000), &Shape::Time), Ok(None));
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
