//! `cargo xtask conformance`: official Kubernetes specs against a knarr cluster. `conformance/known-green.txt` names those that
//! pass; it only grows.

use std::fs;
use std::path::{Path, PathBuf};

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
    out: Option<PathBuf>,
    /// Use the cluster of $KUBECONFIG instead of starting one
    #[arg(long)]
    existing: bool,
    /// Leave the cluster running
    #[arg(long)]
    keep: bool,
}

/// The specs that continuous integration runs: a part of the known-green ones that starts no container, and so needs no image.
const CI: &str = "conformance/ci.txt";
const PROFILE: &str = "conformance";
const PORT: &str = "17443";
/// Where the suite would find its images. What it reads there is only used by specs that start containers.
const NO_IMAGES: &str = "promoterE2eRegistry: registry.invalid\n";

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("the conformance suite")?;
    let work = tools::work();
    tools::need_programs(&["e2e.test", "ginkgo", "kubectl"])?;
    tools::run(tools::command(tools::root().join("conformance/images")).arg(&work))?;
    let specs = wanted(options)?;
    let out = options.out.clone().unwrap_or_else(|| work.join("results"));
    fs::create_dir_all(&out)?;
    if options.existing {
        let kubeconfig: PathBuf = std::env::var_os("KUBECONFIG").map(Into::into).context("--existing needs KUBECONFIG")?;
        return run_specs(&specs, &out, options.procs, &kubeconfig, &work.join("repos.yaml"));
    }
    let cluster = Cluster::start(tools::release_binary()?, options.nodes, &out)?;
    let result = run_specs(&specs, &out, options.procs, &cluster.kubeconfig, &work.join("repos.yaml"));
    if options.keep { result } else { result.and(cluster.delete()) }
}

/// The specs of continuous integration, by the debug binary that the tests have built.
///
/// # Errors
/// A spec failed, or a program cannot be built or run.
pub fn run_in_ci() -> Result<()> {
    tools::need_programs(&["e2e.test", "ginkgo", "kubectl"])?;
    let out = tools::work().join("results-ci");
    fs::create_dir_all(&out)?;
    let repos = out.join("repos.yaml");
    fs::write(&repos, NO_IMAGES)?;
    let cluster = Cluster::start(tools::built("debug")?, 2, &out)?;
    let result = run_specs(&fs::read_to_string(tools::root().join(CI))?, &out, 4, &cluster.kubeconfig, &repos);
    result.and(cluster.delete())
}

fn run_specs(specs: &str, out: &Path, procs: usize, kubeconfig: &Path, repos: &Path) -> Result<()> {
    let list = out.join("specs.txt");
    fs::write(&list, specs)?;
    tools::run(
        tools::command(tools::root().join("conformance/run-specs"))
            .arg(out)
            .arg(procs.to_string())
            .stdin(fs::File::open(&list)?)
            .env("KUBECONFIG", kubeconfig)
            .env("REPOS", repos)
            .env("WORK", tools::work()),
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

/// A cluster for the suite alone.
struct Cluster {
    knarr: PathBuf,
    data: PathBuf,
    kubeconfig: PathBuf,
}

impl Cluster {
    fn start(knarr: PathBuf, nodes: usize, out: &Path) -> Result<Self> {
        let cluster = Self { knarr, data: out.join("data"), kubeconfig: out.join("kubeconfig") };
        cluster.knarr("start", &["--port", PORT, "--nodes", &nodes.to_string(), "--kubeconfig", &cluster.kubeconfig.to_string_lossy()])?;
        Ok(cluster)
    }

    fn delete(&self) -> Result<()> {
        self.knarr("delete", &[])
    }

    fn knarr(&self, verb: &str, more: &[&str]) -> Result<()> {
        tools::run(tools::command(&self.knarr).args([verb, "--profile", PROFILE, "--data"]).arg(&self.data).args(more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(file: &str) -> BTreeSet<String> {
        fs::read_to_string(tools::root().join(file)).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn continuous_integration_runs_known_green_specs() {
        let ci = names(CI);
        assert!(ci.len() > 40, "{}", ci.len());
        assert!(ci.is_subset(&names("conformance/known-green.txt")));
        assert!(names("conformance/known-green.txt").is_subset(&names("conformance/passed-once.txt")));
    }
}
