//! `cargo xtask conformance`: official Kubernetes specs against a knarr cluster. `conformance/known-green.txt` names those that
//! pass; it only grows.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::tools;

#[derive(clap::Args)]
pub struct Options {
    /// Run the specs whose file and name match this expression; without it those of known-green.txt
    #[arg(long)]
    specs: Option<String>,
    /// Specs at once
    #[arg(long, default_value_t = 4)]
    procs: usize,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Folder for log and results
    #[arg(long)]
    out: Option<std::path::PathBuf>,
    /// Use the cluster of $KUBECONFIG instead of starting one
    #[arg(long)]
    existing: bool,
}

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("the conformance suite")?;
    let work = tools::work();
    tools::need_programs(&["e2e.test", "ginkgo", "kubectl"])?;
    tools::run(tools::command(tools::root().join("conformance/images")).arg(&work))?;
    let specs = wanted(options)?;
    let out = options.out.clone().unwrap_or_else(|| work.join("results"));
    fs::create_dir_all(&out)?;
    let kubeconfig =
        if options.existing { std::env::var_os("KUBECONFIG").map(Into::into).context("--existing needs KUBECONFIG")? } else { start(options.nodes, &out)? };
    let list = out.join("specs.txt");
    fs::write(&list, specs)?;
    tools::run(
        tools::command(tools::root().join("conformance/run-specs"))
            .arg(&out)
            .arg(options.procs.to_string())
            .stdin(fs::File::open(&list)?)
            .env("KUBECONFIG", kubeconfig)
            .env("WORK", &work),
    )
}

fn wanted(options: &Options) -> Result<String> {
    let text = match &options.specs {
        Some(expression) => tools::output(tools::command(tools::root().join("conformance/specs")).arg(expression).env("WORK", tools::work()))?,
        None => fs::read_to_string(tools::root().join("conformance/known-green.txt"))?,
    };
    ensure!(text.lines().any(|l| !l.trim().is_empty()), "no spec matches");
    Ok(text)
}

/// Starts a cluster of this many nodes and gives its kubeconfig.
fn start(nodes: usize, out: &std::path::Path) -> Result<std::path::PathBuf> {
    let knarr = tools::release_binary()?;
    let kubeconfig = out.join("kubeconfig");
    tools::run(tools::command(knarr).args(["start", "--nodes", &nodes.to_string(), "--kubeconfig"]).arg(&kubeconfig))?;
    Ok(kubeconfig)
}
