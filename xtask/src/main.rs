//! The developers' commands: `cargo xtask demo`, `test`, `fresh`, `bench`, `conformance`, `envtest`, `crash`, `fuzz`, `lint`, `profile`. What runs here runs in CI.

mod bench;
mod code;
mod conformance;
mod crash;
mod demo;
mod differential;
mod envtest;
mod fresh;
mod fuzz;
mod image;
mod lint;
mod profile;
mod test;
mod tools;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The developers' commands of knarr")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build, start a cluster, put the example app on it, and show its answers
    Demo,
    /// Build the example app and the tests' programs and pack their images; prints the archives' paths
    Pack,
    /// Install what the tests need and pass them all (needs root)
    Test(test::Options),
    /// Prove `demo` and `test` inside a new root with only the toolchains mounted
    Fresh(fresh::Options),
    /// Run knarr and upstream in one go and print the ratios
    Bench(bench::Options),
    /// Answer the driver of the bench with what was recorded (the bench starts it)
    #[command(hide = true)]
    NullServer(bench::null::Options),
    /// Run official Kubernetes specs against a knarr cluster
    Conformance(conformance::Options),
    /// Ask the real kube-apiserver and knarr's the same, and print what differs
    Differential(differential::Options),
    /// Run controller-runtime's envtest with knarr's binary in place of its programs
    Envtest(envtest::Options),
    /// Kill servers and cut the power, thousands of times, and report
    Crash(crash::Options),
    /// Feed bad input to every decoder and patcher
    Fuzz(fuzz::Options),
    /// Formatting, clippy, licences
    Lint,
    /// Count what runs how often, for release builds to be optimized by
    Profile,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Demo => demo::run(),
        Command::Pack => [demo::pack_hello("debug"), demo::pack_tools()].into_iter().try_for_each(|archive| {
            println!("{}", archive?.display());
            Ok(())
        }),
        Command::Test(options) => test::run(&options),
        Command::Fresh(options) => fresh::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::NullServer(options) => bench::null::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Differential(options) => differential::run(&options),
        Command::Envtest(options) => envtest::run(&options),
        Command::Crash(options) => crash::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Lint => lint::run(),
        Command::Profile => profile::run(),
    }
}
