//! The seams to time and chance. Code takes an [`Env`] from its context and never asks the operating system, so that a
//! whole cluster can run on virtual time from one seed. Durations and timers go through `tokio::time`, which can be paused.

use std::sync::Arc;

use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::sync::Mutex;

/// Wall-clock time.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> jiff::Timestamp;
}

/// The operating system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

/// Wall-clock time that follows `tokio::time`: with paused time it moves only as timers fire.
pub struct TokioClock {
    start: jiff::Timestamp,
    origin: tokio::time::Instant,
}

impl TokioClock {
    /// A clock that reads `start` now.
    pub fn starting_at(start: jiff::Timestamp) -> Self {
        Self { start, origin: tokio::time::Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> jiff::Timestamp {
        self.start + self.origin.elapsed()
    }
}

/// A source of random bits that may be shared.
pub trait Rng: Send + Sync + 'static {
    fn next_u64(&self) -> u64;
}

/// A generator from a seed, or from the operating system's entropy.
pub struct SeededRng(Mutex<StdRng>);

impl SeededRng {
    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    pub fn from_entropy() -> Self {
        Self(Mutex::new(StdRng::from_os_rng()))
    }
}

impl Rng for SeededRng {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next_u64()
    }
}

/// Time and chance, handed to whoever needs them.
#[derive(Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub rng: Arc<dyn Rng>,
}

impl Env {
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), rng: Arc::new(SeededRng::from_entropy()) }
    }

    /// Virtual time and a seed. Call it inside a runtime whose time is paused.
    pub fn simulated(seed: u64, start: jiff::Timestamp) -> Self {
        Self { clock: Arc::new(TokioClock::starting_at(start)), rng: Arc::new(SeededRng::from_seed(seed)) }
    }

    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// A random UUID of version 4.
    pub fn uuid(&self) -> String {
        let (a, b) = (self.rng.next_u64(), self.rng.next_u64());
        format!("{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xfff, 0x8000 | (b >> 50) & 0x3fff, b & 0xffff_ffff_ffff)
    }

    /// A number below `bound` (which must not be zero).
    pub fn below(&self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    /// The random tail of `generateName`: letters that make no words (upstream: `k8s.io/apimachinery/pkg/util/rand.String`).
    pub fn suffix(&self, length: usize) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..length).map(|_| ALPHABET[self.below(ALPHABET.len() as u64) as usize] as char).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_story_twice() {
        let at = jiff::Timestamp::UNIX_EPOCH;
        let make = || Env { clock: Arc::new(SystemClock), rng: Arc::new(SeededRng::from_seed(7)) };
        assert_eq!((make().uuid(), make().suffix(5)), (make().uuid(), make().suffix(5)));
        assert_eq!(at.as_second(), 0);
    }

    #[test]
    fn a_uuid_has_version_4_and_variant_1() {
        let id = Env::system().uuid();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }
}
