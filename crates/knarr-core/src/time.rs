//! Times and durations as the API writes them.

use std::time::Duration;

use jiff::{Timestamp, civil};

/// RFC 3339, whole seconds, UTC (`metav1.Time`).
pub fn format(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 with six decimals, UTC (`metav1.MicroTime`).
pub fn format_micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// RFC 3339 with nine decimals, UTC: log lines.
pub fn format_nano(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// RFC 3339 as a layout of Go (`time.RFC3339`), which reads any number of decimals.
pub const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
/// With the six decimals that must be there (`metav1.RFC3339Micro`).
pub const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Reads RFC 3339 as Go does: any offset, any number of decimals, after a point or a comma, and hours of one digit. The last hours of the year
/// 9999 are one moment.
pub fn parse(text: &str) -> Option<Timestamp> {
    read(text, RFC3339).ok().map(Moment::timestamp)
}

/// A point in time without an end, as Go has it: `Timestamp` ends some hours before the year 9999 does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Since 1970-01-01, in UTC.
    pub seconds: i64,
    /// Forward from these.
    pub nanos: u32,
}

impl Moment {
    /// The nearest that there is.
    pub fn timestamp(self) -> Timestamp {
        let end = if self.seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
        Timestamp::new(self.seconds, self.nanos as i32).unwrap_or(end)
    }

    /// Reads what [`parse`] reads, and years with a sign or more than four digits, in which Go writes but does not read times.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, unsigned) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (year, rest) = unsigned.split_once('-')?;
        if year.len() < 4 || !year.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let year = sign * year.parse::<i64>().ok()?;
        let same = read(&format!("{:04}-{rest}", year.rem_euclid(YEARS)), RFC3339).ok()?;
        let cycles = i128::from(year.div_euclid(YEARS)) * i128::from(DAYS_OF_YEARS * 86_400);
        Some(Self { seconds: i64::try_from(i128::from(same.seconds) + cycles).ok()?, ..same })
    }
}

/// After so many years the calendar is the same again.
const YEARS: i64 = 400;
const DAYS_OF_YEARS: i64 = 146_097;

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let from_march = year - i64::from(month <= 2);
    let of_cycle = from_march.rem_euclid(YEARS);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    from_march.div_euclid(YEARS) * DAYS_OF_YEARS + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year - 719_468
}

/// What comes before a number of a time, the number in the layout, the least and the most that it may be, and its name.
const NUMBERS: [(&str, &str, i32, i32, &str); 6] = [
    ("", "2006", 0, 9999, ""),
    ("-", "01", 1, 12, "month"),
    ("-", "02", 0, 99, ""),
    ("T", "15", 0, 23, "hour"),
    (":", "04", 0, 59, "minute"),
    (":", "05", 0, 59, "second"),
];

/// Follows Go's `time.Parse` element by element to the first that does not fit. `layout` is one of the two above.
///
/// # Errors
/// Go's words.
pub fn read(given: &str, layout: &str) -> Result<Moment, String> {
    let fail =
        |rest: &str, element: &str| format!("parsing time {} as {}: cannot parse {} as {}", quoted(given), quoted(layout), quoted(rest), quoted(element));
    let out_of_range = |what: &str| format!("parsing time {}: {what} out of range", quoted(given));
    let (mut rest, mut read) = (given, [0_i32; 6]);
    for ((literal, element, min, max, name), number) in NUMBERS.iter().zip(&mut read) {
        rest = rest.strip_prefix(literal).ok_or_else(|| fail(rest, literal))?;
        let is_short = *element == "15" && !rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let width = if is_short { 1 } else { element.len() };
        let digits = rest.get(..width).filter(|d| d.bytes().all(|b| b.is_ascii_digit())).ok_or_else(|| fail(rest, element))?;
        *number = digits.parse().map_err(|_| fail(rest, element))?;
        if !(*min..=*max).contains(number) {
            return Err(out_of_range(name));
        }
        rest = &rest[width..];
    }
    let decimals = rest.strip_prefix(['.', ',']).map_or(0, |after| after.bytes().take_while(u8::is_ascii_digit).count());
    let decimals = match layout {
        RFC3339_MICRO if decimals < 6 => return Err(fail(rest, ".000000")),
        RFC3339_MICRO => 6,
        _ => decimals,
    };
    let nanos = rest.get(1..=decimals).map_or(0, nanos);
    rest = if decimals > 0 { &rest[1 + decimals..] } else { rest };
    let (offset, rest) = zone(rest).ok_or_else(|| fail(rest, "Z07:00"))?;
    let (hours, minutes) = (offset.abs() / 100, offset.abs() % 100);
    if hours > 24 || minutes > 60 {
        return Err(out_of_range(if hours > 24 { "time zone offset hour" } else { "time zone offset minute" }));
    }
    if !rest.is_empty() {
        return Err(format!("parsing time {}: extra text: {}", quoted(given), quoted(rest)));
    }
    let [year, month, day, hour, minute, second] = read;
    civil::Date::new(year as i16, month as i8, day as i8).map_err(|_| out_of_range("day"))?;
    let offset = i64::from(offset.signum() * (hours * 3600 + minutes * 60));
    let of_day = i64::from(hour * 3600 + minute * 60 + second);
    let seconds = days(year.into(), month.into(), day.into()) * 86_400 + of_day - offset;
    Ok(Moment { seconds, nanos })
}

/// The nanoseconds that decimals say; what is beyond nine is dropped.
fn nanos(decimals: &str) -> u32 {
    decimals.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'))
}

/// The zone that a text begins with as a number `±hhmm`, and what follows it.
fn zone(text: &str) -> Option<(i32, &str)> {
    if let Some(rest) = text.strip_prefix('Z') {
        return Some((0, rest));
    }
    let (sign, zone) = text.get(..6)?.split_at_checked(1)?;
    let (hours, minutes) = zone.split_once(':')?;
    let number = |digits: &str| if digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse::<i32>().ok() } else { None };
    let offset = number(hours)? * 100 + number(minutes)?;
    match sign {
        "+" => Some((offset, &text[6..])),
        "-" => Some((-offset, &text[6..])),
        _ => None,
    }
}

/// A text in quotes as package `time` writes it: what is not printable ASCII in hexadecimal, byte by byte.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for b in text.bytes() {
        match b {
            b'"' | b'\\' => out.extend(['\\', char::from(b)]),
            b' '..=b'~' | 0x7f => out.push(char::from(b)),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out.push('"');
    out
}

/// An age as kubectl prints it (`k8s.io/apimachinery/pkg/util/duration.HumanDuration`).
pub fn human_duration(age: Duration) -> String {
    let seconds = age.as_secs();
    let pair = |a: u64, ua: &str, b: u64, ub: &str| if b == 0 { format!("{a}{ua}") } else { format!("{a}{ua}{b}{ub}") };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// The age of something made at `since`, or `<unknown>` without one; a future time is `<invalid>`.
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(parse) {
        None => "<unknown>".into(),
        Some(at) => match Duration::try_from(now.duration_since(at)) {
            Ok(age) => human_duration(age),
            Err(_) if at.duration_since(now).as_secs() < 2 => "0s".into(),
            Err(_) => "<invalid>".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Asked of Go.
    #[test]
    fn times_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000000000Z"),
            ("2026-01-02T3:04:05Z", "2026-01-02T03:04:05.000000000Z"),
            ("2026-01-02T03:04:05,5Z", "2026-01-02T03:04:05.500000000Z"),
            ("2026-01-02T03:04:05.1234567891234Z", "2026-01-02T03:04:05.123456789Z"),
            ("2026-01-02T3:04:05.5+01:00", "2026-01-02T02:04:05.500000000Z"),
            ("2026-01-02T03:04:05-00:00", "2026-01-02T03:04:05.000000000Z"),
            ("2026-01-02T03:04:05+24:60", "2026-01-01T02:04:05.000000000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(parse(text).map(format_nano).as_deref(), Some(wanted), "{text}");
        }
        let as_layout = |text: &str, rest: &str, element: &str| {
            format!("parsing time \"{text}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{rest}\" as \"{element}\"")
        };
        for (text, rest, element) in [
            ("2026-01-02T06Z", "Z", ":"),
            ("-002026-01-02T06:00:00Z", "-002026-01-02T06:00:00Z", "2006"),
            ("2026-01-02 03:04:05Z", " 03:04:05Z", "T"),
            ("2026-01-02t03:04:05Z", "t03:04:05Z", "T"),
            ("2026-01-02T03:04:05z", "z", "Z07:00"),
            ("2026-01-02T03:04:05.Z", ".Z", "Z07:00"),
            ("2026-1-02T03:04:05Z", "1-02T03:04:05Z", "01"),
            ("2026-01-02T3:4:05Z", "4:05Z", "04"),
            ("2026-01-02T03:04:05+1:00", "+1:00", "Z07:00"),
        ] {
            assert_eq!(read(text, RFC3339), Err(as_layout(text, rest, element)), "{text}");
        }
        for (text, what) in [
            ("2026-01-02T03:04:60Z", "second"),
            ("2026-01-02T24:00:00Z", "hour"),
            ("2026-02-30T00:00:00Z", "day"),
            ("2026-01-02T03:04:05+25:00", "time zone offset hour"),
        ] {
            assert_eq!(read(text, RFC3339), Err(format!("parsing time \"{text}\": {what} out of range")), "{text}");
        }
        assert_eq!(read("2026-01-02T03:04:05Zé", RFC3339), Err("parsing time \"2026-01-02T03:04:05Z\\xc3\\xa9\": extra text: \"\\xc3\\xa9\"".into()));
        assert!(read("2026-01-02T03:04:05,123456+01:00", RFC3339_MICRO).is_ok());
        assert!(["2026-01-02T03:04:05é1:000", "2026-01-02Té", "é", "2026-01-02T03:04:05.é", ""].iter().all(|t| parse(t).is_none()), "no letter is cut");
        let long = "2026-01-02T03:04:05.1234567Z";
        let wanted = format!("parsing time \"{long}\" as \"{RFC3339_MICRO}\": cannot parse \"7Z\" as \"Z07:00\"");
        assert_eq!(read(long, RFC3339_MICRO), Err(wanted));
    }

    #[test]
    fn a_moment_is_the_day_that_the_calendar_says() {
        let day = civil::Date::new(-9999, 1, 1).unwrap();
        for at in (0..7_304_484).step_by(97).map(|days| day.checked_add(jiff::ToSpan::days(days)).unwrap()) {
            let since = at.since(civil::date(1970, 1, 1)).unwrap().get_days();
            assert_eq!(days(at.year().into(), at.month().into(), at.day().into()), i64::from(since), "{at}");
        }
    }

    // Asked of Go.
    #[test]
    fn moments_have_no_end() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("10000-01-01T00:00:00Z", 253_402_300_800),
            ("292277026596-12-04T15:30:07Z", i64::MAX),
            ("-0001-12-31T23:59:59Z", -62_167_219_201),
            ("0000-12-31T23:59:59Z", -62_135_596_801),
        ] {
            assert_eq!(Moment::parse(text), Some(Moment { seconds, nanos: 0 }), "{text}");
        }
        let latest = parse("9999-12-31T23:59:59.5Z").unwrap();
        assert_eq!((latest, parse("9999-12-31T23:00:00-14:00")), (Timestamp::MAX, Some(latest)));
        assert_eq!(Moment { seconds: i64::MIN, nanos: 0 }.timestamp(), Timestamp::MIN);
        assert!(
            ["292277026597-12-04T15:30:07Z", "99999999999999999999-01-01T00:00:00Z", "-1-01-01T00:00:00Z", "+2026-01-02T00:00:00Z"]
                .iter()
                .all(|t| Moment::parse(t).is_none())
        );
    }

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, wanted) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600, "9h"),
            (172_800, "2d"),
            (172_800 + 3600, "2d1h"),
            (86_400 * 10, "10d"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), wanted, "{seconds}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        let at = parse("2026-01-02T03:04:05.678901+01:00").unwrap();
        assert_eq!(format(at), "2026-01-02T02:04:05Z");
        assert_eq!(format_micro(at), "2026-01-02T02:04:05.678901Z");
    }
}
