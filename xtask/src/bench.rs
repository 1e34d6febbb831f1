//! `cargo xtask bench`: knarr and upstream on this machine in one go, alternating, with the same driver; prints the ratios as
//! the table of `docs/performance.md`. Figures are CPU per operation of every server process, beside rate and memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::tools;

/// What apibench does, in the order in which it does it.
const WORK: [&str; 7] = ["create", "get", "update", "list", "listselector", "watch", "delete"];

#[derive(clap::Args)]
pub struct Options {
    /// Objects per work
    #[arg(long, default_value_t = 3000)]
    objects: usize,
    /// Rounds of each system; medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Speak protobuf
    #[arg(long)]
    protobuf: bool,
    /// Leave out upstream: print knarr's figures alone
    #[arg(long)]
    alone: bool,
}

/// One line of apibench.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figure {
    rate: f64,
    cpu_us: f64,
    rss_mb: f64,
}

type Figures = BTreeMap<String, Vec<Figure>>;

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("the benchmark")?;
    let bin = tools::need_programs(&["apibench", "kubectl"])?;
    if !options.alone {
        tools::need_programs(&["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "etcd"])?;
    }
    let knarr = tools::release_binary()?;
    let (mut ours, mut theirs) = (Figures::new(), Figures::new());
    for _ in 0..options.rounds {
        measure_knarr(&knarr, &bin, options, &mut ours)?;
        if !options.alone {
            measure_upstream(&bin, options, &mut theirs)?;
        }
    }
    print(&ours, &theirs);
    Ok(())
}

fn measure_knarr(knarr: &Path, bin: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let folder = tools::work().join("bench-knarr");
    let kubeconfig = folder.with_extension("kubeconfig");
    tools::run(Command::new(knarr).args(["start", "--profile", "bench", "--port", "16443", "--data"]).arg(&folder).arg("--kubeconfig").arg(&kubeconfig))?;
    let measured = pids(Path::new("/run/knarr/bench")).and_then(|pids| apibench(bin, &kubeconfig, &pids, options, figures));
    tools::run(Command::new(knarr).args(["delete", "--profile", "bench", "--data"]).arg(&folder))?;
    measured
}

fn measure_upstream(bin: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let folder = tools::work().join("bench-upstream");
    tools::run(tools::command(tools::root().join("conformance/upstream")).arg(bin).arg(&folder))?;
    let measured = pids(&folder).and_then(|pids| apibench(bin, &folder.join("kubeconfig"), &pids, options, figures));
    tools::run(tools::command(tools::root().join("conformance/upstream-down")).arg(&folder))?;
    measured
}

/// Process ids out of the pid files of a folder.
fn pids(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path: PathBuf = entry?.path();
        if path.extension().is_some_and(|e| e == "pid") {
            let text = std::fs::read_to_string(&path)?;
            found.extend(text.split_whitespace().next().map(str::to_owned));
        }
    }
    ensure!(!found.is_empty(), "{}: no pid files", folder.display());
    Ok(found)
}

fn apibench(bin: &Path, kubeconfig: &Path, pids: &[String], options: &Options, figures: &mut Figures) -> Result<()> {
    let mut command = Command::new(bin.join("apibench"));
    command.arg("-kubeconfig").arg(kubeconfig).args(["-n", &options.objects.to_string(), "-pids", &pids.join(",")]);
    if options.protobuf {
        command.arg("-protobuf");
    }
    for line in tools::output(command.args(WORK))?.lines() {
        if let Some((name, figure)) = parse(line) {
            figures.entry(name).or_default().push(figure);
        }
    }
    Ok(())
}

/// Reads `create n=3000 rate=1460/s … cpu=1.02ms/op rss=300MB`.
fn parse(line: &str) -> Option<(String, Figure)> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    let values: BTreeMap<&str, &str> = words.filter_map(|w| w.split_once('=')).collect();
    Some((
        name,
        Figure {
            rate: values.get("rate")?.strip_suffix("/s")?.parse().ok()?,
            cpu_us: microseconds(values.get("cpu")?.strip_suffix("/op")?)?,
            rss_mb: values.get("rss")?.strip_suffix("MB")?.parse().ok()?,
        },
    ))
}

/// A Go duration of one unit in microseconds.
fn microseconds(text: &str) -> Option<f64> {
    let scale = [("ns", 1e-3), ("µs", 1.0), ("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    scale.iter().find_map(|(unit, factor)| text.strip_suffix(unit)?.parse::<f64>().ok().map(|n| n * factor))
}

fn median(figures: &[Figure], of: impl Fn(&Figure) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn print(ours: &Figures, theirs: &Figures) {
    println!("| work | knarr CPU/op | upstream CPU/op | ratio | knarr rate | upstream rate | ratio | knarr MB | upstream MB |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for (name, figures) in ours {
        let peer = theirs.get(name).map_or(&[][..], Vec::as_slice);
        let [cpu, rate, rss] = [figures, peer].map(|f| [median(f, |x| x.cpu_us), median(f, |x| x.rate), median(f, |x| x.rss_mb)]).into_iter().fold(
            [[f64::NAN; 2]; 3],
            |mut table, row| {
                for (pair, value) in table.iter_mut().zip(row) {
                    pair[usize::from(!pair[0].is_nan())] = value;
                }
                table
            },
        );
        println!(
            "| {name} | {:.0} µs | {:.0} µs | 1/{:.1} | {:.0}/s | {:.0}/s | {:.1}× | {:.0} | {:.0} |",
            cpu[0],
            cpu[1],
            cpu[1] / cpu[0],
            rate[0],
            rate[1],
            rate[0] / rate[1],
            rss[0],
            rss[1]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_driver_is_read() {
        let line = "create             n=3000 rate=1460/s p50=20ms p99=40ms max=50ms failed=0 cpu=1.02ms/op rss=300MB";
        assert_eq!(parse(line), Some(("create".into(), Figure { rate: 1460.0, cpu_us: 1020.0, rss_mb: 300.0 })));
        assert_eq!(parse("  first error: x"), None);
    }
}
