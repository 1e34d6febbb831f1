//! `cargo xtask crash`: the crash tests of the store with large counts, and their reports. The same tests run with small ones in
//! `cargo xtask test`.

use anyhow::Result;

use crate::tools;

#[derive(clap::Args)]
pub struct Options {
    /// Kills of a server process with its store in a folder
    #[arg(long, default_value_t = 10_000)]
    kills: u64,
    /// Kills of one of several servers on one etcd, or of etcd
    #[arg(long, default_value_t = 1_000)]
    etcd_kills: u64,
    /// Power cuts on a disk in memory
    #[arg(long, default_value_t = 10_000)]
    cuts: u64,
    /// Repeats a run
    #[arg(long)]
    seed: Option<u64>,
}

pub fn run(options: &Options) -> Result<()> {
    let etcd = tools::need_programs(&["etcd"])?.join("etcd");
    tools::step("power cuts, torn and lost writes", || {
        let mut cargo = tools::cargo()?;
        cargo.args(["test", "--package", "knarr-store", "--lib", "--", "--nocapture", "power_cut", "torn_or_lost", "after_a_failed_sync"]);
        cargo.env("KNARR_CRASH_CUTS", options.cuts.to_string());
        if let Some(seed) = options.seed {
            cargo.env("KNARR_CRASH_SEED", seed.to_string());
        }
        tools::run(&mut cargo)
    })?;
    tools::step("killed servers", || {
        let mut cargo = tools::cargo()?;
        cargo.args(["test", "--package", "knarr-apiserver", "--test", "crash", "--", "--nocapture"]).env("KNARR_ETCD", etcd);
        cargo.env("KNARR_CRASH_KILLS", options.kills.to_string()).env("KNARR_CRASH_ETCD_KILLS", options.etcd_kills.to_string());
        if let Some(seed) = options.seed {
            cargo.env("KNARR_CRASH_SEED", seed.to_string());
        }
        tools::run(&mut cargo)
    })
}
