//! `cargo xtask fuzz`: bad input for every decoder and patcher, for as long as one likes. The same targets run a fraction of a second
//! each in `cargo xtask test`.

use anyhow::Result;

use crate::tools;

/// Where targets are: in the tests of all, and in crates whose decoders cannot be reached from outside. Built in one go: features that differ from
/// crate to crate would have most of it built three times.
const PLACES: &[&str] = &["--package", "knarr", "--test", "fuzz", "--package", "knarr-store", "--package", "knarr-net", "--lib"];

/// Counters at each branch (`knarr-fuzz`'s `coverage`). A program that is linked beside the targets has nobody whom it could tell of them; it is not run.
const COUNTERS: &[&str] = &[
    "passes=sancov-module",
    "llvm-args=-sanitizer-coverage-level=3",
    "llvm-args=-sanitizer-coverage-inline-8bit-counters",
    "link-arg=-Wl,--unresolved-symbols=ignore-all",
];

#[derive(clap::Args)]
pub struct Options {
    /// For each target
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Only targets whose names have this in them (`fuzz_json_bodies`)
    #[arg(long, default_value = "fuzz_")]
    only: String,
    /// Makes another run (default: a new one each time)
    #[arg(long)]
    seed: Option<u64>,
    /// Targets at once
    #[arg(long, default_value_t = 2)]
    at_once: usize,
}

pub fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |e| e.as_secs()));
    println!("--seed {seed} repeats this run");
    let mut cargo = tools::cargo()?;
    cargo.args(["test", "--profile", "fuzz"]).args(PLACES).args(["--", "--nocapture", "--test-threads", &options.at_once.to_string(), &options.only]);
    tools::with_flags(&mut cargo, COUNTERS);
    cargo.env("KNARR_FUZZ_SECONDS", options.seconds.to_string()).env("KNARR_FUZZ_SEED", seed.to_string());
    tools::run(&mut cargo)
}
