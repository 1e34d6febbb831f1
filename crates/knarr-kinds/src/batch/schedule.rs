//! Cron schedules: five fields or a descriptor, as `github.com/robfig/cron` reads them, with its error texts.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use knarr_core::field::go_quote;

use super::timezone;

/// When a CronJob is due: a bit for each minute, hour, day, month and weekday at which it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the set minutes of the set hours of the set days. A day is one that its day of the month and its weekday both allow,
    /// or, when both are restricted, one of them.
    Fields { minute: u64, hour: u64, day: Days, month: u64 },
    /// Every so often, in nanoseconds.
    Every(i64),
}

/// On which days a schedule is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    pub of_month: u64,
    pub of_week: u64,
    /// Both were written as something else than `*`: one of them is enough.
    pub either: bool,
}

const NANOSECONDS: i64 = 1_000_000_000;
/// A schedule that is not due within so many years (the 31st of February) never is.
const SEARCH_YEARS: i32 = 5;

/// The minutes of the calendar that a schedule allows.
struct Due {
    minute: u64,
    hour: u64,
    day: Days,
    month: u64,
}

impl Due {
    /// The first minute from `wall` on; none up to `end`.
    fn first_from(&self, wall: DateTime, end: DateTime) -> Option<DateTime> {
        let mut wall = wall;
        while wall <= end {
            wall = if !has(self.month, wall.month()) {
                wall.date().first_of_month().checked_add(1.month()).ok()?.into()
            } else if !self.on(wall.date()) {
                wall.date().tomorrow().ok()?.into()
            } else if !has(self.hour, wall.hour()) {
                wall.date().at(wall.hour(), 0, 0, 0).checked_add(1.hour()).ok()?
            } else if !has(self.minute, wall.minute()) {
                wall.checked_add(1.minute()).ok()?
            } else {
                return Some(wall);
            };
        }
        None
    }

    fn on(&self, date: Date) -> bool {
        let of_month = has(self.day.of_month, date.day());
        let of_week = has(self.day.of_week, date.weekday().to_sunday_zero_offset());
        if self.day.either { of_month || of_week } else { of_month && of_week }
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits >> value & 1 == 1
}

/// Set in a field that was written as `*` or `?`.
const STAR: u64 = 1 << 63;

/// What a field may hold.
struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds { min: 1, max: 12, names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"] };
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Schedule {
    /// Reads a schedule. A leading `TZ=` or `CRON_TZ=` is checked and left out.
    ///
    /// # Errors
    /// The text that upstream's parser gives.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty spec string".into());
        }
        let text = without_zone(text)?;
        if text.starts_with('@') {
            return descriptor(text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        };
        Ok(Self::of(field(minute, &MINUTES)?, field(hour, &HOURS)?, field(day, &DAYS)?, field(month, &MONTHS)?, field(weekday, &WEEKDAYS)?))
    }

    /// The time zone that a leading `TZ=` or `CRON_TZ=` names.
    pub fn written_zone(text: &str) -> Option<TimeZone> {
        let rest = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="))?;
        timezone::find(rest.split(' ').next()?)
    }

    /// The first time after `after` at which the schedule is due in that time zone; none within the next five years.
    ///
    /// A wall time that a clock change skips is due right after the gap, one that comes twice is due the first time.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match *self {
            Self::Every(nanoseconds) => {
                let seconds = (nanoseconds / NANOSECONDS).max(1);
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::from_secs(seconds)).ok()
            }
            Self::Fields { minute, hour, day, month } => {
                let due = Due { minute, hour, day, month };
                let mut wall = zone.to_datetime(after).with().second(0).subsec_nanosecond(0).build().ok()?;
                let end = wall.checked_add(SEARCH_YEARS.years()).ok()?;
                loop {
                    wall = due.first_from(wall.checked_add(1.minute()).ok()?, end)?;
                    let at = zone.to_timestamp(wall).ok()?;
                    if at > after {
                        return Some(at);
                    }
                }
            }
        }
    }

    fn of(minute: u64, hour: u64, of_month: u64, month: u64, of_week: u64) -> Self {
        let either = of_month & STAR == 0 && of_week & STAR == 0;
        let day = Days { of_month: of_month & !STAR, of_week: of_week & !STAR, either };
        Self::Fields { minute: minute & !STAR, hour: hour & !STAR, day, month: month & !STAR }
    }
}

fn without_zone(text: &str) -> Result<&str, String> {
    let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else { return Ok(text) };
    let Some((zone, rest)) = rest.split_once(' ') else {
        return Err("invalid schedule format: runtime error: slice bounds out of range [:-1]".into());
    };
    if timezone::find(zone).is_none() {
        return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
    }
    Ok(rest.trim())
}

fn descriptor(text: &str) -> Result<Schedule, String> {
    let all = |b: &Bounds| bits(b.min, b.max, 1) | STAR;
    let (first_minute, first_hour, first_day, first_month, first_weekday) = (1, 1, 1 << 1, 1 << 1, 1);
    let (any_day, any_month, any_weekday) = (all(&DAYS), all(&MONTHS), all(&WEEKDAYS));
    Ok(match text {
        "@yearly" | "@annually" => Schedule::of(first_minute, first_hour, first_day, first_month, any_weekday),
        "@monthly" => Schedule::of(first_minute, first_hour, first_day, any_month, any_weekday),
        "@weekly" => Schedule::of(first_minute, first_hour, any_day, any_month, first_weekday),
        "@daily" | "@midnight" => Schedule::of(first_minute, first_hour, any_day, any_month, any_weekday),
        "@hourly" => Schedule::of(first_minute, all(&HOURS), any_day, any_month, any_weekday),
        _ => match text.strip_prefix("@every ") {
            Some(every) => Schedule::Every(go_duration(every).map_err(|problem| format!("failed to parse duration {text}: {problem}"))?),
            None => return Err(format!("unrecognized descriptor: {text}")),
        },
    })
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(0, |all, part| Ok(all | range(part, bounds)?))
}

/// `*`, `5`, `5-10`, each with `/step`.
fn range(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let any = matches!(ends[0], "*" | "?");
    let (start, mut end) = match &ends[..] {
        _ if any => (bounds.min, bounds.max),
        [one] => {
            let one = number_or_name(one, bounds)?;
            (one, one)
        }
        [start, end] => (number_or_name(start, bounds)?, number_or_name(end, bounds)?),
        [start, ..] => {
            number_or_name(start, bounds)?;
            return Err(format!("too many hyphens: {text}"));
        }
        [] => (bounds.min, bounds.max),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = number(step)?;
            end = if ends.len() == 1 { bounds.max } else { end };
            step
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < bounds.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", bounds.min));
    }
    if end > bounds.max {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", bounds.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(bits(start, end, step) | if any && step == 1 { STAR } else { 0 })
}

fn bits(start: u64, end: u64, step: u64) -> u64 {
    (start..=end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).fold(0, |all, i| all | 1 << i)
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    match bounds.names.iter().position(|name| text.eq_ignore_ascii_case(name)) {
        Some(i) => Ok(bounds.min + i as u64),
        None => number(text),
    }
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(n.unsigned_abs()),
        Err(_) => {
            let why = if is_number { "value out of range" } else { "invalid syntax" };
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {why}", go_quote(text)))
        }
    }
}

/// `1h30m`, in nanoseconds (Go: `time.ParseDuration`).
fn go_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (amount, after) = rest.split_at(digits);
        let amount: f64 = amount.parse().map_err(|_| invalid())?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale = match unit {
            "" => return Err(format!("time: missing unit in duration {}", go_quote(text))),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            other => return Err(format!("time: unknown unit {} in duration {}", go_quote(other), go_quote(text))),
        };
        total += amount * scale;
        rest = after;
    }
    if total > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if negative { -(total as i64) } else { total as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_read_as_cron_reads_them() {
        let Ok(Schedule::Fields { minute, hour, day, month }) = Schedule::parse("*/15 0-5,12 1 jan,DEC ?") else { panic!("not five fields") };
        assert_eq!((minute, hour, day.of_month, day.of_week, month), (1 | 1 << 15 | 1 << 30 | 1 << 45, 0b1_0000_0011_1111, 2, 127, 2 | 1 << 12));
        assert!(!day.either);
        assert_eq!(Schedule::parse("@every 1h30m"), Ok(Schedule::Every(5_400_000_000_000)));
        assert_eq!(Schedule::parse("@hourly"), Schedule::parse("0 * * * *"));
        assert!(Schedule::parse("TZ=Europe/Berlin 0 0 * * *").is_ok());
    }

    #[test]
    fn the_next_time_is_found_in_its_time_zone() {
        for (schedule, zone, after, wanted) in [
            ("*/15 * * * *", "UTC", "2026-01-01T00:00:00Z", "2026-01-01T00:15:00Z"),
            ("0 0 1 1 *", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("30 2 29 2 *", "UTC", "2026-03-01T00:00:00Z", "2028-02-29T02:30:00Z"),
            ("0 9 13 * 5", "UTC", "2026-02-01T00:00:00Z", "2026-02-06T09:00:00Z"),
            ("0 9 * * *", "Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-02T07:00:00Z"),
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"),
            ("@every 90s", "UTC", "2026-01-01T00:00:00.5Z", "2026-01-01T00:01:30Z"),
        ] {
            let zone = timezone::find(zone).unwrap();
            assert_eq!(Schedule::parse(schedule).unwrap().next(after.parse().unwrap(), &zone), Some(wanted.parse().unwrap()), "{schedule}");
        }
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(never.next("2026-01-01T00:00:00Z".parse().unwrap(), &TimeZone::UTC), None);
    }

    #[test]
    fn problems_are_told_in_crons_words() {
        for (text, wanted) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-3 * * * *", "beginning of range (5) beyond end of range (3): 5-3"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every 5x", "failed to parse duration @every 5x: time: unknown unit \"x\" in duration \"5x\""),
            ("TZ=Mars/City * * * * *", "provided bad location Mars/City: unknown time zone Mars/City"),
        ] {
            assert_eq!(Schedule::parse(text), Err(wanted.to_owned()), "{text}");
        }
    }
}
