//! Formatting, clippy, and what may come in.

use anyhow::Result;

use crate::tools;

/// The version whose configuration `deny.toml` is written for.
const CARGO_DENY: &str = "0.20";

pub fn run() -> Result<()> {
    tools::step("fmt", || tools::run(tools::cargo().args(["fmt", "--all", "--check"])))?;
    tools::step("clippy", || tools::run(tools::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])))?;
    tools::step("licences and sources", deny)
}

fn deny() -> Result<()> {
    if !tools::has("cargo-deny") {
        tools::run(tools::cargo().args(["install", "--locked", "--quiet", "cargo-deny", "--version", CARGO_DENY]).current_dir(std::env::temp_dir()))?;
    }
    tools::run(tools::cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}
