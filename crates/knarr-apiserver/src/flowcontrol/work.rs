//! Work in seat-seconds: how many seats a request takes, and for how long (upstream: `flowcontrol/request`).

use std::{
    fmt,
    ops::{Add, AddAssign, Sub, SubAssign},
};

/// An amount of work, in units of 10 ns on one seat. Wide enough to never wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Work(i128);

const UNITS_A_SECOND: i128 = 100_000_000;

impl Work {
    pub const MAX: Self = Self(i128::MAX);

    /// So many seats for so many nanoseconds (which may be less than none).
    pub fn of(seats: f64, nanos: f64) -> Self {
        Self((seats * nanos / 10.0).round() as i128)
    }

    /// How many nanoseconds this takes on so many seats.
    pub fn nanos_on(self, seats: f64) -> u64 {
        (self.0 as f64 / seats * 10.0) as u64
    }

    pub fn seat_seconds(self) -> f64 {
        self.0 as f64 / UNITS_A_SECOND as f64
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:08}ss", self.0 / UNITS_A_SECOND, self.0 % UNITS_A_SECOND)
    }
}

impl Add for Work {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Work {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl SubAssign for Work {
    fn sub_assign(&mut self, other: Self) {
        self.0 -= other.0;
    }
}

/// How wide a request is: the seats it takes while it runs, and those that what it causes takes for a while afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    pub initial: u32,
    pub last: u32,
    /// How long the last seats are taken, in nanoseconds.
    pub after: u64,
}

/// Bytes of objects that one seat stands for (upstream: `bytesPerSeat`).
const BYTES_A_SEAT: u64 = 100_000;
/// A list out of the watch cache is written piece by piece and never holds more than this
/// (upstream: `cacheWithStreamingMaxMemoryUsage`).
const LIST_BYTES_MAX: u64 = 1_000_000;
/// What an object may weigh whose size nobody knows (upstream: `maxObjectSize`).
const OBJECT_BYTES_MAX: u64 = 1_500_000;
/// Most seats of a list, and of a write (upstream: `DefaultWorkEstimatorConfig`).
const LIST_SEATS_MAX: u32 = 100;
const WRITE_SEATS_MAX: u32 = 10;
/// Watchers whose events take one seat, for this long (upstream: `watchesPerSeat`, `eventAdditionalDuration`).
const WATCHERS_A_SEAT: usize = 10;
const EVENT_NANOS: f64 = 5e6;

/// What is known of the objects that a list or the first state of a watch reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listed {
    /// Stored objects of the resource.
    pub count: usize,
    /// Bytes of one of them.
    pub average_bytes: usize,
    pub limit: Option<i64>,
    /// One object is named by the field selector.
    pub single: bool,
}

impl Width {
    pub const ONE: Self = Self { initial: 1, last: 0, after: 0 };

    /// Seats that the request holds while it runs.
    pub fn seats(self) -> u32 {
        self.initial.max(self.last)
    }

    /// A list. Here each comes out of the watch cache, so upstream's rule for those counts
    /// (upstream: `listWorkEstimator.seatsBasedOnObjectSize`).
    pub fn of_list(listed: Listed, seats_max: u32) -> Self {
        let count = listed.count as u64;
        let limited = listed.limit.and_then(|l| u64::try_from(l).ok()).filter(|l| *l > 0).map_or(count, |l| l.min(count));
        let objects = if listed.single { 1 } else { limited };
        let each = if listed.average_bytes == 0 && count > 0 { OBJECT_BYTES_MAX } else { listed.average_bytes as u64 };
        let bytes = objects.saturating_mul(each).min(LIST_BYTES_MAX);
        let seats = u32::try_from(bytes.div_ceil(BYTES_A_SEAT)).unwrap_or(LIST_SEATS_MAX);
        Self { initial: seats.clamp(1, at_most(seats_max, LIST_SEATS_MAX)), ..Self::ONE }
    }

    /// A write that so many watchers will hear of (upstream: `mutatingWorkEstimator`).
    pub fn of_write(watchers: usize, seats_max: u32) -> Self {
        if watchers < WATCHERS_A_SEAT {
            return Self::ONE;
        }
        let seats = u32::try_from(watchers.div_ceil(WATCHERS_A_SEAT)).unwrap_or(u32::MAX);
        let work = Work::of(f64::from(seats), EVENT_NANOS);
        // Narrower and longer is the same work.
        let seats = seats.min(at_most(seats_max, WRITE_SEATS_MAX));
        Self { initial: 1, last: seats, after: work.nanos_on(f64::from(seats)) }
    }
}

fn at_most(of_level: u32, of_kind: u32) -> u32 {
    if of_level == 0 { of_kind } else { of_level.min(of_kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_wide_as_its_bytes() {
        let seats = |count, average_bytes, limit, single, max| Width::of_list(Listed { count, average_bytes, limit, single }, max).initial;
        assert_eq!(seats(0, 0, None, false, 0), 1);
        assert_eq!(seats(100, 5_000, None, false, 0), 5);
        assert_eq!(seats(100, 5_000, Some(30), false, 0), 2);
        assert_eq!(seats(100, 5_000, None, true, 0), 1);
        // Streamed: never more than a megabyte at once; and never more than the level gives.
        assert_eq!(seats(150_000, 3_000, None, false, 0), 10);
        assert_eq!(seats(150_000, 3_000, None, false, 4), 4);
        assert_eq!(seats(3, 0, None, false, 0), 10);
    }

    #[test]
    fn a_write_is_as_wide_as_its_watchers() {
        assert_eq!(Width::of_write(9, 0), Width::ONE);
        assert_eq!(Width::of_write(10, 0), Width { initial: 1, last: 1, after: 5_000_000 });
        assert_eq!(Width::of_write(95, 0), Width { initial: 1, last: 10, after: 5_000_000 });
        // 40 seats for 5 ms are 10 for 20 ms, or 5 for 40.
        assert_eq!(Width::of_write(400, 0), Width { initial: 1, last: 10, after: 20_000_000 });
        assert_eq!(Width::of_write(400, 5), Width { initial: 1, last: 5, after: 40_000_000 });
    }

    #[test]
    fn work_is_written_as_upstream_writes_it() {
        assert_eq!(Work::of(2.0, 1.5e9).to_string(), "3.00000000ss");
        assert_eq!(Work::of(1.0, 3e6).to_string(), "0.00300000ss");
    }
}
