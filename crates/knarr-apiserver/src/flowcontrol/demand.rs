//! How many seats a level could use, over time: what borrowing is decided by (upstream: `fairqueuing/integrator.go`).

/// Integrates a number that changes at moments.
#[derive(Clone, Debug, Default)]
pub struct Integrator {
    value: f64,
    seconds: f64,
    sum: f64,
    sum_of_squares: f64,
    high: f64,
}

/// What was seen since the last [`Integrator::reset`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    pub seconds: f64,
    pub average: f64,
    pub deviation: f64,
    pub high: f64,
}

impl Integrator {
    /// So many nanoseconds have passed with the value as it is.
    pub fn pass(&mut self, nanos: u64) {
        let seconds = nanos as f64 / 1e9;
        self.seconds += seconds;
        self.sum += self.value * seconds;
        self.sum_of_squares += self.value * self.value * seconds;
    }

    pub fn set(&mut self, value: f64) {
        self.value = value;
        self.high = self.high.max(value);
    }

    /// Tells what was seen, and begins anew.
    pub fn reset(&mut self) -> Seen {
        let mut seen = Seen { seconds: self.seconds, high: self.high, ..Seen::default() };
        if self.seconds > 0.0 {
            seen.average = self.sum / self.seconds;
            seen.deviation = (self.sum_of_squares / self.seconds - seen.average * seen.average).max(0.0).sqrt();
        }
        *self = Self { value: self.value, high: self.value, ..Self::default() };
        seen
    }
}

/// Half of an old demand is forgotten in five minutes of adjustments (upstream: `seatDemandSmoothingCoefficient`).
const SMOOTHING: f64 = 0.977;

/// The demand of a level as of the last adjustment (upstream: `seatDemandStats`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    pub average: f64,
    pub deviation: f64,
    pub high: u32,
    pub smoothed: f64,
}

impl Demand {
    pub fn update(&mut self, seen: Seen) {
        self.high = seen.high.round() as u32;
        if seen.seconds <= 0.0 {
            return;
        }
        (self.average, self.deviation) = (seen.average, seen.deviation);
        let envelope = seen.average + seen.deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_weighted_by_time() {
        let mut integrator = Integrator::default();
        integrator.set(4.0);
        integrator.pass(1_000_000_000);
        integrator.set(0.0);
        integrator.pass(3_000_000_000);
        let seen = integrator.reset();
        assert_eq!((seen.seconds, seen.average, seen.high), (4.0, 1.0, 4.0));
        assert!((seen.deviation - 3f64.sqrt()).abs() < 1e-9, "{seen:?}");
        assert_eq!(integrator.reset(), Seen::default());
    }

    #[test]
    fn a_burst_is_forgotten_slowly() {
        let mut demand = Demand::default();
        demand.update(Seen { seconds: 10.0, average: 80.0, deviation: 20.0, high: 150.0 });
        assert_eq!((demand.smoothed, demand.high), (100.0, 150));
        (0..30).for_each(|_| demand.update(Seen { seconds: 10.0, ..Seen::default() }));
        assert!((49.0..51.0).contains(&demand.smoothed), "{demand:?}");
    }
}
