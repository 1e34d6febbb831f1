//! What a CronJob calls for at a moment: pure. Upstream: `syncCronJob` and `nextScheduleTime` in `pkg/controller/cronjob`.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJobSpec;
use knarr_kinds::batch::schedule::Schedule;
use knarr_kinds::batch::timezone;

/// A CronJob that missed more starts than this is told so.
const MISSED_MAX: i64 = 100;

/// Why a CronJob's schedule cannot be followed: the reason and the message of its event.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub reason: &'static str,
    pub message: String,
}

/// A schedule in its time zone.
pub struct Timetable {
    schedule: Schedule,
    pub zone: TimeZone,
}

impl Timetable {
    /// # Errors
    /// The event that tells what is wrong with the spec.
    pub fn of(spec: &CronJobSpec) -> Result<Self, Refused> {
        let refused = |reason, message| Refused { reason, message };
        let schedule = Schedule::parse(&spec.schedule)
            .map_err(|problem| refused("UnparseableSchedule", format!("unparseable schedule: {:?} : {problem}", spec.schedule)))?;
        let zone = match spec.time_zone.as_deref() {
            Some(name) => timezone::find(name).ok_or_else(|| refused("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}")))?,
            None => Schedule::written_zone(&spec.schedule).unwrap_or(TimeZone::UTC),
        };
        Ok(Self { schedule, zone })
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }
}

/// What a schedule says about now.
#[derive(Debug, PartialEq, Eq)]
pub struct Timing {
    /// The latest time at which a Job was due and for which none was started yet.
    pub due: Option<Timestamp>,
    /// More starts were missed than can be taken for an accident.
    pub too_many_missed: bool,
    /// The next time after now.
    pub next: Option<Timestamp>,
}

/// Where a schedule stands at `now`, for a CronJob that last started at `last` or was created at `created`.
pub fn timing(table: &Timetable, last: Option<Timestamp>, created: Timestamp, deadline: Option<i64>, now: Timestamp) -> Timing {
    let mut earliest = last.unwrap_or(created);
    if let Some(limit) = deadline.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok()) {
        earliest = earliest.max(limit);
    }
    let next = table.next(now);
    let Some(first) = table.next(earliest).filter(|t| *t <= now) else {
        return Timing { due: None, too_many_missed: false, next };
    };
    let missed = missed(table, first, now);
    Timing { due: Some(latest(table, first, now)), too_many_missed: missed > MISSED_MAX && deadline.is_none(), next }
}

/// About how many times the schedule was due from `first` to `now`.
fn missed(table: &Timetable, first: Timestamp, now: Timestamp) -> i64 {
    let Some(second) = table.next(first) else { return 1 };
    let between = second.as_second() - first.as_second();
    (now.as_second() - first.as_second()) / between.max(1) + 1
}

/// The last time from `first` on at which the schedule is due not after `now`. A long absence is skipped in steps that halve,
/// so that a schedule of every minute is not walked through for a year.
fn latest(table: &Timetable, first: Timestamp, now: Timestamp) -> Timestamp {
    let mut at = first;
    let mut step = now.duration_since(first);
    while step > SignedDuration::from_mins(1) {
        match at.checked_add(step).ok().and_then(|t| table.next(t)).filter(|t| *t <= now) {
            Some(later) => at = later,
            None => step /= 2,
        }
    }
    while let Some(later) = table.next(at).filter(|t| *t <= now) {
        at = later;
    }
    at
}

/// Whether it is too late to start what was due at `due`.
pub fn is_too_late(due: Timestamp, deadline: Option<i64>, now: Timestamp) -> bool {
    deadline.is_some_and(|s| due.checked_add(SignedDuration::from_secs(s)).is_ok_and(|latest| latest < now))
}

/// How long until `next`.
pub fn wait(next: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    Some(Duration::try_from(next?.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// The name of the Job that starts at `due`.
pub fn job_name(cron_job: &str, due: Timestamp) -> String {
    format!("{cron_job}-{}", due.as_second() / 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(schedule: &str) -> Timetable {
        Timetable::of(&CronJobSpec { schedule: schedule.into(), ..CronJobSpec::default() }).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_due_is_the_latest_missed_start() {
        let hourly = table("0 * * * *");
        let created = at("2026-01-01T10:30:00Z");
        let timing = |last: Option<&str>, deadline, now: &str| super::timing(&hourly, last.map(at), created, deadline, at(now));
        assert_eq!(timing(None, None, "2026-01-01T10:59:59Z").due, None);
        assert_eq!(timing(None, None, "2026-01-01T11:00:00Z").due, Some(at("2026-01-01T11:00:00Z")));
        assert_eq!(timing(Some("2026-01-01T11:00:00Z"), None, "2026-01-01T11:30:00Z").due, None);
        let long = timing(None, None, "2026-01-09T15:30:00Z");
        assert_eq!(long, Timing { due: Some(at("2026-01-09T15:00:00Z")), too_many_missed: true, next: Some(at("2026-01-09T16:00:00Z")) });
        assert!(!timing(None, Some(3600), "2026-01-09T15:30:00Z").too_many_missed);
        assert_eq!(timing(None, Some(60), "2026-01-09T15:30:00Z").due, None, "the deadline hides what is older");
    }

    #[test]
    fn a_year_of_minutes_is_skipped() {
        let timing = timing(&table("* * * * *"), None, at("2025-01-01T00:00:30Z"), None, at("2026-01-01T00:00:30Z"));
        assert_eq!((timing.due, timing.too_many_missed), (Some(at("2026-01-01T00:00:00Z")), true));
    }

    #[test]
    fn a_deadline_passes() {
        let due = at("2026-01-01T00:00:00Z");
        assert!(is_too_late(due, Some(10), at("2026-01-01T00:00:11Z")));
        assert!(!is_too_late(due, Some(10), at("2026-01-01T00:00:10Z")) && !is_too_late(due, None, at("2027-01-01T00:00:00Z")));
    }

    #[test]
    fn what_cannot_be_followed_says_why() {
        let of = |schedule: &str, zone: Option<&str>| {
            Timetable::of(&CronJobSpec { schedule: schedule.into(), time_zone: zone.map(Into::into), ..CronJobSpec::default() }).err().map(|r| r.reason)
        };
        assert_eq!(of("* * * *", None), Some("UnparseableSchedule"));
        assert_eq!(of("* * * * *", Some("Mars/City")), Some("UnknownTimeZone"));
        assert_eq!(of("* * * * *", Some("Europe/Berlin")), None);
    }
}
