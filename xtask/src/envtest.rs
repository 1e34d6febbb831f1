//! `cargo xtask envtest`: controller-runtime's test environment on knarr's binary, called by the names of the programs that it
//! starts. The program that drives it is `conformance/envtest`.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::tools;

#[derive(clap::Args)]
pub struct Options {
    /// Environments side by side
    #[arg(long, default_value_t = 4)]
    at_once: usize,
    /// The binary (default: a release build, made now)
    #[arg(long)]
    knarr: Option<PathBuf>,
}

pub fn run(options: &Options) -> Result<()> {
    let knarr = match &options.knarr {
        Some(path) => path.clone(),
        None => tools::release_binary()?,
    };
    pass(&knarr, options.at_once)
}

/// Builds the program that does with a cluster what programs written with client-go do.
pub fn build_tour() -> Result<PathBuf> {
    build("tour", "./tour")
}

fn build(name: &str, package: &str) -> Result<PathBuf> {
    let program = tools::work().join("bin").join(name);
    tools::run(tools::command("go").args(["build", "-C", "conformance/envtest", "-o"]).arg(&program).arg(package).env("CGO_ENABLED", "0"))?;
    Ok(program)
}

/// Passes the whole program with this many environments.
pub fn pass(knarr: &Path, at_once: usize) -> Result<()> {
    ensure!(tools::has("go"), "Go 1.26 is needed to build the program that uses envtest: install it and put `go` on the PATH");
    let program = build("envtest", ".")?;
    let assets = tempfile::tempdir()?;
    let knarr = std::path::absolute(knarr)?;
    for name in ["kube-apiserver", "etcd", "kubectl"] {
        symlink(&knarr, assets.path().join(name)).context("cannot link the binary")?;
    }
    tools::run(tools::command(program).arg(assets.path()).arg(at_once.to_string()).env("NO_PROXY", "*"))
}
