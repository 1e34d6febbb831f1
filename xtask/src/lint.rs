//! Formatting, clippy, and what may come in.

use anyhow::Result;

use crate::tools;

/// The version whose configuration `deny.toml` is written for.
const CARGO_DENY: &str = "^0.20";

/// Lints of clippy that are matters of taste, and ours is another: names for tuples that are used once, booleans turned round, method
/// names that resemble the standard library's, `is_empty` beside every `len`.
const TASTE: [&str; 8] = [
    "clippy::type_complexity",
    "clippy::nonminimal_bool",
    "clippy::should_implement_trait",
    "clippy::wrong_self_convention",
    "clippy::len_without_is_empty",
    "clippy::large_enum_variant",
    "clippy::too_many_arguments",
    "clippy::collapsible_if",
];

pub fn run() -> Result<()> {
    tools::step("fmt", || tools::run(tools::cargo().args(["fmt", "--all", "--check"])))?;
    tools::step("clippy", clippy)?;
    tools::step("licences and sources", deny)
}

fn clippy() -> Result<()> {
    let mut command = tools::cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    for lint in TASTE {
        command.args(["-A", lint]);
    }
    tools::run(&mut command)
}

fn deny() -> Result<()> {
    if !tools::has("cargo-deny") {
        tools::run(tools::cargo().args(["install", "--locked", "--quiet", "cargo-deny", "--version", CARGO_DENY]).current_dir(std::env::temp_dir()))?;
    }
    tools::run(tools::cargo().args(["deny", "check", "licenses", "bans", "sources"]))
}
