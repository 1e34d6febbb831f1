//! Feeds bad input to decoders and patchers, on a stable compiler and within the ordinary tests: inputs are made from seeds by
//! cutting, repeating and mixing them, as bytes and, where they are JSON, as trees. What came of an input, in short, tells kinds of
//! outcome apart; an input with a new one becomes a seed itself, which stands in for the coverage of the usual fuzzers.
//!
//! A target fails by a panic (its own assertions are such), by taking more than [`CPU_MAX`] for an input, or by letting the process
//! grow. The input is made smaller, printed, and kept in a file.
//!
//! A fraction of a second for each target by default; `cargo xtask fuzz` builds them optimised, with all checks, and sets `KNARR_FUZZ_SECONDS`. `KNARR_FUZZ_SEED` makes another run,
//! `KNARR_FUZZ_INPUT` feeds a file that was kept before anything else.

mod mutate;
mod watch;

use std::collections::{HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use mutate::Form;

/// What one input may take of a processor: tests are not optimised, and inputs are small.
pub const CPU_MAX: Duration = Duration::from_secs(3);
/// Longest input.
const BYTES_MAX: usize = 64 << 10;
/// How many inputs are kept as seeds.
const CORPUS_MAX: usize = 4000;
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
    let (mut corpus, mut outcomes) = (VecDeque::new(), HashSet::new());
    let (begun, mut inputs, mut slowest) = (Instant::now(), 0_u64, Duration::ZERO);
    let kept = std::env::var_os("KNARR_FUZZ_INPUT").map(|file| std::fs::read(file).expect("the file that was kept"));
    let mut seeds = kept.into_iter().chain(target.seeds.iter().cloned());
    let mutator = mutate::Mutator { form: target.form, words: target.words };
    loop {
        let input = match seeds.next() {
            Some(seed) => seed,
            None if begun.elapsed() >= length => break,
            None => mutator.make(&corpus, &mut random, BYTES_MAX),
        };
        inputs += 1;
        let began = Instant::now();
        watcher.begin(&input);
        let outcome = catch_unwind(AssertUnwindSafe(|| once(&input)));
        let too_long = watcher.end(CPU_MAX);
        slowest = slowest.max(began.elapsed());
        match (outcome, too_long) {
            (Ok(outcome), None) => {
                if outcomes.insert(kind_of(&outcome)) || corpus.is_empty() {
                    if corpus.len() >= CORPUS_MAX {
                        let at = random.random_range(0..corpus.len());
                        corpus.swap_remove_back(at);
                    }
                    corpus.push_back(input);
                }
            }
            (Ok(_), Some(cpu)) => fail(name, &format!("takes {cpu:?}"), &input),
            (Err(_), _) => fail(name, "panics", &smaller(&input, &mut once)),
        }
    }
    println!("{name}: {inputs} inputs, {} kinds of outcome, {:.1} s; the slowest took {slowest:?}", outcomes.len(), begun.elapsed().as_secs_f64());
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
