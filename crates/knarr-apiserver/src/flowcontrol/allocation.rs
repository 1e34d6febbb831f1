//! How the server's seats are shared out among the priority levels: by what each could use, within the bounds of lending and
//! borrowing (upstream: `conc_alloc.go`, `updateBorrowingLocked`; KEP-1040).

use super::demand::Demand;

/// The seats of one level that its configuration gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub nominal: u32,
    /// Nominal less what may be lent.
    pub min: u32,
    /// Nominal and what may be borrowed.
    pub max: u32,
}

impl Limits {
    /// The part of `server` seats that so many of all `shares` are (upstream: `finishQueueSetReconfigsLocked`).
    pub fn of(server: u32, shares: u32, all_shares: u32, lendable_percent: u32, borrowing_percent: Option<u32>) -> Self {
        let nominal = (f64::from(server) * f64::from(shares) / f64::from(all_shares)).ceil();
        let nominal = if nominal.is_finite() { nominal } else { 0.0 };
        let part = |percent: u32| (nominal * f64::from(percent) / 100.0).round() as u32;
        let nominal = nominal as u32;
        Self { nominal, min: nominal - part(lendable_percent).min(nominal), max: nominal.saturating_add(borrowing_percent.map_or(server, part)) }
    }

    /// Before anything is known of the demand.
    pub fn initial(self) -> u32 {
        self.nominal - (self.nominal - self.min) / 2
    }
}

/// One level of the problem.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    pub exempt: bool,
    pub limits: Limits,
    pub demand: Demand,
    /// What it has now, in case that nothing better is found.
    pub current: u32,
}

/// What a level gets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    pub seats: u32,
    pub target: f64,
}

/// Shares out the seats. The second part is the fair fraction, 0 where there was nothing to share.
pub fn share_out(levels: &[Level]) -> (Vec<Share>, f64) {
    let all: u32 = levels.iter().map(|l| l.limits.nominal).sum();
    let floor = |l: &Level| {
        let used = if l.exempt { l.demand.high } else { l.demand.high.min(l.limits.nominal) };
        l.limits.min.max(used)
    };
    let limited = || levels.iter().filter(|l| !l.exempt);
    let exempt: i64 = levels.iter().filter(|l| l.exempt).map(|l| i64::from(floor(l))).sum();
    let left = i64::from(all) - exempt;
    let mins: i64 = limited().map(|l| i64::from(l.limits.min)).sum();
    let floors: i64 = limited().map(|l| i64::from(floor(l))).sum();
    let class = |l: &Level| Class { low: f64::from(floor(l)), high: f64::from(l.limits.max), target: f64::from(floor(l)).max(l.demand.smoothed) };
    let mut fair = 0.0;
    let seats: Vec<u32> = if left <= mins {
        limited().map(|l| l.limits.min).collect()
    } else if left <= floors {
        let part = (left - mins) as f64 / (floors - mins) as f64;
        limited().map(|l| l.limits.min + (f64::from(floor(l) - l.limits.min) * part).round() as u32).collect()
    } else if let Some((parts, fraction)) = allocate(f64::from(all), &limited().map(class).collect::<Vec<_>>()) {
        fair = fraction;
        parts.into_iter().map(|p| p.round() as u32).collect()
    } else {
        limited().map(|l| l.current).collect()
    };
    let mut seats = seats.into_iter();
    let shares = levels.iter().map(|l| Share { seats: if l.exempt { floor(l) } else { seats.next().unwrap_or(l.current) }, target: class(l).target });
    (shares.collect(), fair)
}

/// Who is to get a part of a sum.
#[derive(Clone, Copy, Debug)]
struct Class {
    low: f64,
    high: f64,
    target: f64,
}

/// Targets below this count as this, so that nothing is divided by zero.
const TARGET_MIN: f64 = 0.001;
const EPSILON: f64 = 1e-7;

impl Class {
    fn at(&self, fraction: f64) -> f64 {
        (fraction * self.target).clamp(self.low, self.high)
    }
}

/// The one fraction by which all targets, kept within their bounds, make up the sum. There is none when the bounds forbid it.
fn allocate(sum: f64, classes: &[Class]) -> Option<(Vec<f64>, f64)> {
    let classes: Vec<Class> = classes.iter().map(|c| Class { target: c.target.max(TARGET_MIN), ..*c }).collect();
    if classes.iter().any(|c| c.high < c.low || c.target < c.low) {
        return None;
    }
    let total = |fraction: f64| classes.iter().map(|c| c.at(fraction)).sum::<f64>();
    // Between two of these, each class either grows with the fraction or does not.
    let mut bends: Vec<f64> = classes.iter().flat_map(|c| [c.low / c.target, c.high / c.target]).collect();
    bends.sort_by(f64::total_cmp);
    let (first, last) = (*bends.first()?, *bends.last()?);
    if total(first) - sum > EPSILON || sum - total(last) > EPSILON {
        return None;
    }
    let next = bends.iter().position(|b| total(*b) >= sum).unwrap_or(bends.len() - 1);
    let fraction = match next.checked_sub(1).map(|before| (bends[before], bends[next])) {
        None => first,
        Some((from, to)) => {
            let (low, high) = (total(from), total(to));
            if high > low { from + (to - from) * (sum - low) / (high - low) } else { to }
        }
    };
    Some((classes.iter().map(|c| c.at(fraction)).collect(), fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(low: f64, high: f64, target: f64) -> Class {
        Class { low, high, target }
    }

    #[test]
    fn the_parts_make_up_the_sum_within_their_bounds() {
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..2000 {
            let classes: Vec<Class> = (0..1 + random(6))
                .map(|_| {
                    let low = random(50) as f64;
                    class(low, low + random(100) as f64, low + random(80) as f64)
                })
                .collect();
            let (low, high) = (classes.iter().map(|c| c.low).sum::<f64>(), classes.iter().map(|c| c.high).sum::<f64>());
            let sum = low + random((high - low) as u64 + 1) as f64;
            let (parts, fraction) = allocate(sum, &classes).unwrap();
            assert!((parts.iter().sum::<f64>() - sum).abs() < 1e-3, "{sum} {parts:?} {classes:?}");
            for (part, c) in parts.iter().zip(&classes) {
                assert!((c.low..=c.high).contains(part), "{part} {c:?}");
                assert!((part - (fraction * c.target.max(TARGET_MIN)).clamp(c.low, c.high)).abs() < 1e-6);
            }
        }
        assert!(allocate(10.0, &[class(20.0, 30.0, 20.0)]).is_none());
        assert!(allocate(40.0, &[class(20.0, 30.0, 20.0)]).is_none());
    }

    #[test]
    fn shares_are_seats() {
        // 600 seats, 245 shares: the figures of the default configuration.
        assert_eq!(Limits::of(600, 40, 245, 50, None), Limits { nominal: 98, min: 49, max: 698 });
        assert_eq!(Limits::of(600, 5, 245, 0, None), Limits { nominal: 13, min: 13, max: 613 });
        assert_eq!(Limits::of(600, 30, 300, 33, Some(50)), Limits { nominal: 60, min: 40, max: 90 });
        assert_eq!(Limits::of(600, 0, 0, 0, None).nominal, 0);
    }

    #[test]
    fn who_needs_seats_borrows_from_who_does_not() {
        let limits = Limits { nominal: 100, min: 50, max: 700 };
        let busy = Demand { high: 400, smoothed: 400.0, average: 400.0, deviation: 0.0 };
        let level = |demand| Level { exempt: false, limits, demand, current: 75 };
        let (shares, fair) = share_out(&[level(busy), level(Demand::default()), level(Demand::default())]);
        assert_eq!(shares.iter().map(|s| s.seats).collect::<Vec<_>>(), [200, 50, 50]);
        assert_eq!(shares[0].target, 400.0);
        assert!((fair - 0.5).abs() < 1e-9, "{fair}");
        // What is exempt takes what it needs, down to what the others may not lend.
        let exempt = Level { exempt: true, limits: Limits::default(), demand: Demand { high: 1000, ..Demand::default() }, current: 0 };
        let (shares, fair) = share_out(&[exempt, level(busy), level(Demand::default())]);
        assert_eq!((shares.iter().map(|s| s.seats).collect::<Vec<_>>(), fair), (vec![1000, 50, 50], 0.0));
    }
}
