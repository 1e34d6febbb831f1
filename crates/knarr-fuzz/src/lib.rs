//! Feeds bad input to decoders and patchers, on a stable compiler and within the ordinary tests: inputs are made from seeds and from what was
//! found since by cutting, repeating and mixing them, as bytes and, where they are JSON or protobuf, as trees. Found is an input that took a new
//! way through the code, where the build counts these (`coverage`), or of which something new came, in short: what decodes by tables
//! goes the same ways for all kinds, but does not say the same of them.
//!
//! A target fails by a panic (its own assertions are such), by taking more than [`CPU_MAX`] for an input, or by letting the process
//! grow. The input is made smaller, printed, and kept in a file.
//!
//! A fraction of a second for each target by default; `cargo xtask fuzz` builds them optimised, with all checks and counters, and sets `KNARR_FUZZ_SECONDS`. `KNARR_FUZZ_SEED` makes another run,
//! `KNARR_FUZZ_INPUT` feeds a file that was kept before anything else.

mod coverage;
mod mutate;
mod watch;
mod wire;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use mutate::Form;

/// What one input may take of a processor: tests are not optimised, and inputs are small.
pub const CPU_MAX: Duration = Duration::from_secs(3);
/// Longest input.
const BYTES_MAX: usize = 64 << 10;
/// How many inputs are kept of each of the two ways to be found.
const FOUND_MAX: usize = 4000;
const SECONDS_DEFAULT: f64 = 0.4;

/// What is fed.
pub struct Target<'a> {
    pub name: &'a str,
    pub form: Form,
    pub seeds: Vec<Vec<u8>>,
    /// Words of its language.
    pub words: &'a [&'a str],
}

/// Feeds inputs to `once` for as long as the environment says. It gives what came of one, in short.
///
/// # Panics
/// An input makes it fail.
pub fn fuzz(target: Target<'_>, once: impl FnMut(&[u8]) -> String + Send) {
    knarr_core::deep::run(|| feed(target, once));
}

fn feed(target: Target<'_>, mut once: impl FnMut(&[u8]) -> String) {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<f64>().expect("a number"));
    let length = Duration::from_secs_f64(number("KNARR_FUZZ_SECONDS").unwrap_or(SECONDS_DEFAULT));
    let mut random = StdRng::seed_from_u64(number("KNARR_FUZZ_SEED").unwrap_or(1.0) as u64);
    let name = target.name;
    let watcher = watch::Watcher::start(name);
    let mut coverage = coverage::Coverage::start();
    let mut corpus = Corpus { seeds: target.seeds, ways: Vec::new(), outcomes: Vec::new() };
    let mut outcomes = HashSet::new();
    let (begun, cpu, mut inputs, mut slowest) = (Instant::now(), watch::cpu(), 0_u64, Duration::ZERO);
    let kept = std::env::var_os("KNARR_FUZZ_INPUT").map(|file| std::fs::read(file).expect("the file that was kept"));
    let mut first = kept.into_iter().chain(corpus.seeds.clone());
    let mutator = mutate::Mutator { form: target.form, words: target.words };
    loop {
        let input = match first.next() {
            Some(seed) => seed,
            None if begun.elapsed() >= length => break,
            None => mutator.make(corpus.pick(&mut random), corpus.pick(&mut random), &mut random, BYTES_MAX),
        };
        inputs += 1;
        let began = Instant::now();
        watcher.begin(&input);
        coverage.iter_mut().for_each(coverage::Coverage::begin);
        let outcome = catch_unwind(AssertUnwindSafe(|| once(&input)));
        let is_new_way = coverage.as_mut().is_some_and(coverage::Coverage::is_new);
        let too_long = watcher.end(CPU_MAX);
        slowest = slowest.max(began.elapsed());
        match (outcome, too_long) {
            (Ok(outcome), None) => {
                let is_new_outcome = outcomes.insert(kind_of(&outcome));
                if is_new_way {
                    keep(&mut corpus.ways, input, &mut random);
                } else if is_new_outcome {
                    keep(&mut corpus.outcomes, input, &mut random);
                }
            }
            (Ok(_), Some(cpu)) => fail(name, &format!("takes {cpu:?}"), &input),
            (Err(_), _) => fail(name, "panics", &smaller(&input, &mut once)),
        }
    }
    let ways = coverage.map_or_else(String::new, |c| format!(", {} ways", c.ways()));
    let (length, cpu) = (begun.elapsed().as_secs_f64(), (watch::cpu() - cpu).as_secs_f64());
    println!("{name}: {inputs} inputs, {} kinds of outcome{ways}, {length:.1} s, {cpu:.1} s of a processor; the slowest took {slowest:?}", outcomes.len());
}

/// What new inputs are made of.
struct Corpus {
    /// They stay: most ways begin at something whole.
    seeds: Vec<Vec<u8>>,
    /// Took a new way.
    ways: Vec<Vec<u8>>,
    /// Something new came of them.
    outcomes: Vec<Vec<u8>>,
}

impl Corpus {
    /// Each of the three has the same part in what is made, however many it holds.
    fn pick(&self, random: &mut StdRng) -> &[u8] {
        let from = [&self.seeds, &self.ways, &self.outcomes][random.random_range(0..3)];
        let from = if from.is_empty() { &self.seeds } else { from };
        from.get(random.random_range(0..from.len().max(1))).map_or(&[], Vec::as_slice)
    }
}

/// Keeps an input, if need be in the place of another.
fn keep(found: &mut Vec<Vec<u8>>, input: Vec<u8>, random: &mut StdRng) {
    if found.len() >= FOUND_MAX {
        found.swap_remove(random.random_range(0..found.len()));
    }
    found.push(input);
}

/// An outcome without what differs from input to input: numbers and what stands in quotes.
fn kind_of(outcome: &str) -> String {
    let (mut kind, mut quote) = (String::new(), None);
    for c in outcome.chars().take(400) {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '`') => quote = Some(c),
            (None, c) if c.is_ascii_digit() => {}
            (None, c) => kind.push(c),
        }
    }
    kind
}

fn fail(name: &str, what: &str, input: &[u8]) -> ! {
    let file = watch::keep(name, input);
    panic!("{name} {what} with {} bytes, kept in {file}: {}", input.len(), input.escape_ascii().to_string().chars().take(600).collect::<String>());
}

/// A part of an input that still makes it panic.
fn smaller(input: &[u8], once: &mut impl FnMut(&[u8]) -> String) -> Vec<u8> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (mut best, mut size, until) = (input.to_vec(), input.len().div_ceil(2), Instant::now() + Duration::from_secs(20));
    while size > 0 && Instant::now() < until {
        let mut at = 0;
        while at < best.len() && Instant::now() < until {
            let mut less = best.clone();
            less.drain(at..(at + size).min(best.len()));
            if catch_unwind(AssertUnwindSafe(|| once(&less))).is_err() {
                best = less;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    std::panic::set_hook(hook);
    best
}

/// Seeds out of texts.
pub fn seeds<T: AsRef<[u8]>>(texts: impl IntoIterator<Item = T>) -> Vec<Vec<u8>> {
    texts.into_iter().map(|t| t.as_ref().to_vec()).collect()
}

/// What came of something, in short.
pub fn told<T, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    result.as_ref().err().map_or_else(|| "ok".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_found_and_made_small() {
        let target = Target { name: "of the fuzzer itself", form: Form::Bytes, seeds: seeds(["a harmless text with a brace {"]), words: &["}", "]"] };
        let failed = catch_unwind(|| {
            fuzz(target, |input| {
                assert!(!(input.contains(&b'{') && input.contains(&b']')), "found");
                input.len().to_string()
            });
        });
        let why = failed.expect_err("found").downcast::<String>().expect("a text");
        assert!(why.contains("panics with 2 bytes"), "{why}");
        let kept = why.split("kept in ").nth(1).and_then(|rest| rest.split(": ").next()).expect("a file");
        assert_eq!(std::fs::read(kept).expect("the file").len(), 2);
        std::fs::remove_file(kept).expect("remove it");
    }

    #[test]
    fn outcomes_differ_by_words_and_not_by_numbers() {
        assert_eq!(kind_of("line 3: unknown field \"a\""), kind_of("line 77: unknown field \"b\""));
        assert_ne!(kind_of("unknown field"), kind_of("duplicate field"));
    }
}
