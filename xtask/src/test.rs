//! `cargo xtask test`: installs what the tests need and passes them all: unit, in-process server, and end-to-end with real
//! containers, and official specs. Without root it says so and fails; nothing is skipped silently.

use std::process::Command;

use anyhow::Result;

use crate::{conformance, demo, envtest, lint, tools};

/// All programs of tests together take eleven minutes; continuous integration has 90 for everything.
const TEST_PROGRAM_SECONDS_MAX: u32 = 1200;

#[derive(clap::Args)]
pub struct Options {
    /// Leave out formatting, clippy and licences
    #[arg(long)]
    no_lint: bool,
}

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("the test suite")?;
    tools::need_disk("the test suite")?;
    // The containers of the runtime's tests have busybox's programs; what came of the official specs is read by Python.
    tools::need_packages(&["busybox-static", "python3"])?;
    let bin = tools::step("programs for the tests", || tools::need_programs(&["kubectl", "etcd"]))?;
    if !options.no_lint {
        tools::step("lint", lint::run)?;
    }
    tools::step("build", || tools::run(tools::cargo()?.args(["build", "--workspace"])))?;
    tools::step("controller-runtime's envtest", || envtest::pass(&tools::built("debug")?, 4))?;
    let hello = tools::step("pack the example app", || demo::pack_hello("debug"))?;
    let tools_image = tools::step("pack the tests' image", demo::pack_tools)?;
    let tour = tools::step("build the client-go program", envtest::build_tour)?;
    let programs = [
        ("KNARR_KUBECTL", bin.join("kubectl")),
        ("KNARR_ETCD", bin.join("etcd")),
        ("KNARR_HELLO_IMAGE", hello),
        ("KNARR_TOOLS_IMAGE", tools_image),
        ("KNARR_TOUR", tour),
    ];
    tools::step("unit, in-process and end-to-end tests", || tools::run(cargo_test()?.envs(programs.iter().map(|(name, path)| (name, path)))))?;
    tools::step("the API server's tests on etcd", || {
        // Of the whole workspace, as before: with the package alone, features differ and everything is compiled once more.
        let names = test_names("crates/knarr-apiserver/tests")?;
        let tests = names.iter().flat_map(|name| ["--test", name]);
        tools::run(cargo_test()?.args(tests).envs(programs.iter().map(|(name, path)| (name, path))).env("KNARR_TEST_STORE", "etcd"))
    })?;
    tools::step("official specs", conformance::run_in_ci)
}

/// `cargo test` of the workspace. A program of tests that hangs is ended, so that the others pass and the log says which test it was.
fn cargo_test() -> Result<Command> {
    let mut cargo = tools::cargo()?;
    cargo.args(["test", "--workspace", "--no-fail-fast", "--config"]);
    cargo.arg(format!("target.'cfg(unix)'.runner=['timeout', '--signal=ABRT', '--kill-after=10', '{TEST_PROGRAM_SECONDS_MAX}']"));
    Ok(cargo)
}

/// The integration tests in a folder.
fn test_names(folder: &str) -> Result<Vec<String>> {
    let files = std::fs::read_dir(tools::root().join(folder))?.collect::<std::io::Result<Vec<_>>>()?;
    let names = files.iter().map(|f| f.path()).filter(|p| p.extension().is_some_and(|e| e == "rs"));
    Ok(names.filter_map(|p| Some(p.file_stem()?.to_str()?.to_owned())).collect())
}
