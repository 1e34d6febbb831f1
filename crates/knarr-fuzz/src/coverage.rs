//! The ways through the code that inputs took. `cargo xtask fuzz` has the compiler put a counter of eight bits at each branch
//! (<https://clang.llvm.org/docs/SanitizerCoverage.html>, `inline-8bit-counters`); other builds have none, and what came of an input has to do.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Counters, as address and length: a place for each unit of code, though a linker that joins them tells the same for all.
static UNITS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Each unit of code that has counters tells so before `main`.
// SAFETY: nothing else has the name, and it is called as LLVM calls it.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *const u8, stop: *const u8) {
    let unit = (start as usize, stop as usize - start as usize);
    let mut units = UNITS.lock().unwrap_or_else(PoisonError::into_inner);
    if !units.contains(&unit) {
        units.push(unit);
    }
}

/// See the module.
pub struct Coverage {
    units: Vec<&'static [AtomicU8]>,
    /// How often each branch was taken so far, as a set of [`class`]es.
    seen: Vec<Vec<u8>>,
    ways: usize,
}

impl Coverage {
    /// What the build counts, if it counts.
    pub fn start() -> Option<Self> {
        let units = UNITS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // SAFETY: the compiler keeps these bytes for its counters, for as long as the process lives; code adds to them without a lock, by which a count
        // may be lost, and every byte is a count.
        let units: Vec<&'static [AtomicU8]> = units.iter().map(|(start, len)| unsafe { std::slice::from_raw_parts(*start as *const AtomicU8, *len) }).collect();
        let seen = units.iter().map(|u| vec![0; u.len()]).collect();
        (!units.is_empty()).then_some(Self { units, seen, ways: 0 })
    }

    /// Counts from zero.
    pub fn begin(&mut self) {
        self.units.iter().for_each(|unit| taken(unit, |_, counter| counter.store(0, Relaxed)));
    }

    /// Whether a branch was taken that never was, or much oftener or less often than ever.
    pub fn is_new(&mut self) -> bool {
        let before = self.ways;
        for (unit, seen) in self.units.iter().zip(&mut self.seen) {
            taken(unit, |at, counter| {
                let class = class(counter.load(Relaxed));
                self.ways += usize::from(seen[at] & class == 0);
                seen[at] |= class;
            });
        }
        self.ways > before
    }

    /// Branches, each counted once for each class of how often it was taken.
    pub fn ways(&self) -> usize {
        self.ways
    }
}

/// Calls `each` for the counters that are not zero; most are, so eight are looked at in one go.
fn taken(unit: &'static [AtomicU8], mut each: impl FnMut(usize, &AtomicU8)) {
    // SAFETY: eight bytes that can be counters are a number of eight bytes.
    let (before, words, after) = unsafe { unit.align_to::<AtomicU64>() };
    let mut bytes = |from: usize, len: usize| (from..from + len).filter(|at| unit[*at].load(Relaxed) != 0).for_each(|at| each(at, &unit[at]));
    bytes(0, before.len());
    for (at, _) in words.iter().enumerate().filter(|(_, word)| word.load(Relaxed) != 0) {
        bytes(before.len() + at * 8, 8);
    }
    bytes(unit.len() - after.len(), after.len());
}

/// Classes of how often, as a bit: a loop that ran once more is nothing new.
fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..8 => 8,
        8..16 => 16,
        16..32 => 32,
        32..128 => 64,
        128.. => 128,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_new_once_for_each_class() {
        let counters: &'static [AtomicU8] = Box::leak((0..29).map(|_| AtomicU8::new(0)).collect::<Box<[_]>>());
        let mut coverage = Coverage { units: vec![counters], seen: vec![vec![0; counters.len()]], ways: 0 };
        let mut run = |counts: &[(usize, u8)]| {
            coverage.begin();
            assert!(counters.iter().all(|c| c.load(Relaxed) == 0));
            counts.iter().for_each(|(at, count)| counters[*at].store(*count, Relaxed));
            coverage.is_new()
        };
        assert!(!run(&[]));
        assert!((0..29).all(|at| run(&[(at, 1)])));
        assert!(!run(&[(0, 1), (7, 1), (28, 1)]));
        assert!(run(&[(13, 4)]));
        assert!(!run(&[(13, 7)]));
        assert!(run(&[(13, 200)]));
    }
}
