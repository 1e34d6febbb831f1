//! Formatting, clippy, and what may come in.

use anyhow::Result;

use crate::tools;

/// The version whose configuration `deny.toml` is written for.
const CARGO_DENY: &str = "^0.20";

/// What must not be there. Clippy's groups of style, complexity and speed are advice, and left out here.
const DENIED: [&str; 3] = ["warnings", "clippy::correctness", "clippy::suspicious"];
const ADVICE: [&str; 3] = ["clippy::style", "clippy::complexity", "clippy::perf"];

pub fn run() -> Result<()> {
    tools::step("fmt", || tools::run(tools::cargo()?.args(["fmt", "--all", "--check"])))?;
    tools::step("clippy", clippy)?;
    tools::step("licences and sources", deny)
}

fn clippy() -> Result<()> {
    let mut command = tools::cargo()?;
    command.args(["clippy", "--workspace", "--all-targets", "--"]);
    for group in ADVICE {
        command.args(["-A", group]);
    }
    for group in DENIED {
        command.args(["-D", group]);
    }
    tools::run(&mut command)
}

fn deny() -> Result<()> {
    if !tools::has("cargo-deny") {
        tools::run(tools::cargo()?.args(["install", "--locked", "--quiet", "cargo-deny", "--version", CARGO_DENY]).current_dir(std::env::temp_dir()))?;
    }
    tools::run(tools::cargo()?.args(["deny", "check", "licenses", "bans", "sources"]))
}
