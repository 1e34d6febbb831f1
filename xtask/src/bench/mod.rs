//! `cargo xtask bench`: knarr and upstream on this machine in one go, alternating, with the same driver; prints the ratios as
//! the tables of `docs/performance.md`: CPU per operation of every server process, beside rate and memory, and the rate that the driver itself reaches
//! at most, with a server that does nothing ([`null`]); and what somebody feels who starts a cluster and pods on it.

pub mod null;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::tools;

/// What apibench does, in the order in which it does it.
const WORK: [&str; 8] = ["create", "get", "update", "list", "listselector", "watch", "watchpeak", "delete"];

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
    /// Then store pods until there are so many, and tell the resident memory that each takes: 50000,150000
    #[arg(long, value_delimiter = ',')]
    stored_pods: Vec<usize>,
    /// At last make so many nodes that nobody runs, and have as many pods scheduled on them; 0 leaves it out, and so does --stored-pods, whose pods
    /// would be tried again for each node
    #[arg(long, default_value_t = 5000)]
    nodes: usize,
    /// Leave out upstream: print knarr's figures alone
    #[arg(long)]
    alone: bool,
    /// Measure this binary instead of building the release binary
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Leave out pods, for which images are built first
    #[arg(long)]
    no_pods: bool,
    /// Give the driver a core of its own, and the servers the others: only so is it seen whether a server keeps pace with what the driver can ask
    #[arg(long)]
    apart: bool,
}

/// How long a started cluster is left in peace before it is looked at, and then looked at.
const SETTLE: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_secs(30);

/// One line of apibench.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figure {
    rate: f64,
    cpu_us: f64,
    rss_mb: f64,
}

type Figures = BTreeMap<String, Vec<Figure>>;

/// What was measured of one system: the lines of apibench, and single values by name.
#[derive(Default)]
struct Measured {
    api: Figures,
    values: BTreeMap<String, Vec<f64>>,
}

impl Measured {
    fn value(&mut self, name: &str, value: f64) {
        self.values.entry(name.to_owned()).or_default().push(value);
    }
}

pub fn run(options: &Options) -> Result<()> {
    tools::need_root("the benchmark")?;
    let bin = tools::need_programs(&["apibench", "kubectl"])?;
    if !options.alone {
        tools::need_programs(&["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "etcd"])?;
    }
    let knarr = options.binary.clone().map_or_else(tools::release_binary, Ok)?;
    if !options.no_pods {
        tools::run(tools::command(tools::root().join("conformance/images")).arg(tools::work()))?;
    }
    let null = null::program()?;
    let (mut ours, mut theirs, mut ceiling) = (Measured::default(), Measured::default(), Figures::new());
    for _ in 0..options.rounds {
        measure_knarr(&knarr, &bin, options, &mut ours)?;
        measure_null(&null, &bin, options, &mut ceiling)?;
        if !options.alone {
            measure_upstream(&bin, options, &mut theirs)?;
        }
    }
    print(&ours.api, &theirs.api, &ceiling);
    print_values(&ours.values, &theirs.values);
    Ok(())
}

fn measure_knarr(knarr: &Path, bin: &Path, options: &Options, measured: &mut Measured) -> Result<()> {
    let folder = tools::work().join("bench-knarr");
    let kubeconfig = folder.with_extension("kubeconfig");
    let started = tools::output(
        Command::new(knarr).args(["start", "--profile", "bench", "--port", "16443", "--data"]).arg(&folder).arg("--kubeconfig").arg(&kubeconfig),
    )?;
    measured.value(START, milliseconds_after(&started, "Ready after ").context("knarr start does not say when it was ready")?);
    let kubeconfig = as_master(&folder.join("pki"), &kubeconfig)?;
    let result = pids(Path::new("/run/knarr/bench")).and_then(|pids| {
        measure(bin, &kubeconfig, &pids, options, measured)?;
        record(bin, &kubeconfig, options)
    });
    tools::run(Command::new(knarr).args(["delete", "--profile", "bench", "--data"]).arg(&folder))?;
    result
}

/// How the cluster is reached by a member of `system:masters`, as the driver is of upstream's. The cluster's own kubeconfig names a group to which
/// priority and fairness grants a share of the seats only, and a write that a hundred watch holds ten of them for five milliseconds more: that is what
/// would be measured.
fn as_master(pki: &Path, kubeconfig: &Path) -> Result<PathBuf> {
    let text = std::fs::read_to_string(kubeconfig)?;
    let server = text.lines().find_map(|line| line.trim().strip_prefix("server: ")).with_context(|| format!("{}: no server", kubeconfig.display()))?;
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).with_context(|| pki.join(name).display().to_string());
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.crt")?, rcgen::KeyPair::from_pem(&read("ca.key")?)?)?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "bench");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate()?;
    let [certificate_file, key_file, to] = ["crt", "key", "json"].map(|extension| kubeconfig.with_extension(format!("master.{extension}")));
    std::fs::write(&certificate_file, params.signed_by(&key, &issuer)?.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    let cluster = serde_json::json!({"server": server.trim_matches('"'), "certificate-authority": pki.join("ca.crt")});
    let user = serde_json::json!({"client-certificate": certificate_file, "client-key": key_file});
    let config = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "bench", "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": user}], "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}]});
    std::fs::write(&to, config.to_string())?;
    Ok(to)
}

/// Keeps what is answered to the driver, for [`null`].
fn record(bin: &Path, kubeconfig: &Path, options: &Options) -> Result<()> {
    let mut command = driver(bin, kubeconfig, &[], options, options.objects);
    // A namespace of its own, which holds no more objects than were measured.
    tools::output(command.args(["-namespace", "record", "-watchers", "1", "-record"]).arg(answers()).args(WORK)).map(drop)
}

fn answers() -> PathBuf {
    tools::work().join("bench-answers")
}

/// The rates of a server that does nothing, which are the driver's ceiling.
fn measure_null(program: &Path, bin: &Path, options: &Options, figures: &mut Figures) -> Result<()> {
    let kubeconfig = tools::work().join("bench-null.kubeconfig");
    let server = null::Running::start(program, &answers(), &kubeconfig)?;
    let pids = [server.pid()];
    if options.apart {
        move_apart(&pids)?;
    }
    apibench(bin, &kubeconfig, &pids, options, figures)
}

fn measure_upstream(bin: &Path, options: &Options, measured: &mut Measured) -> Result<()> {
    let folder = tools::work().join("bench-upstream");
    let log = folder.with_extension("log");
    // Its servers inherit the output: a pipe would not end before they do.
    let output = std::fs::File::create(&log)?;
    tools::run(tools::command(tools::root().join("conformance/upstream")).arg(bin).arg(&folder).stdout(output))?;
    let started = std::fs::read_to_string(&log)?;
    measured.value(START, milliseconds_after(&started, "node ready after ").context("upstream does not say when its node was ready")?);
    let result = pids(&folder).and_then(|pids| measure(bin, &folder.join("kubeconfig"), &pids, options, measured));
    tools::run(tools::command(tools::root().join("conformance/upstream-down")).arg(&folder))?;
    result
}

const START: &str = "start until the node is Ready, ms";

fn milliseconds_after(text: &str, mark: &str) -> Option<f64> {
    text.split_once(mark)?.1.split_whitespace().next()?.parse().ok()
}

fn measure(bin: &Path, kubeconfig: &Path, pids: &[String], options: &Options, measured: &mut Measured) -> Result<()> {
    std::thread::sleep(SETTLE);
    let all = with_descendants(pids)?;
    let (before, since) = (cpu_ticks(&all), Instant::now());
    std::thread::sleep(IDLE);
    let ticks = (cpu_ticks(&all) - before) as f64;
    measured.value("idle CPU, % of a core", ticks / TICKS_PER_SECOND / since.elapsed().as_secs_f64() * 100.0);
    measured.value("idle memory (PSS of all processes), MB", all.iter().filter_map(|pid| pss_kb(*pid)).sum::<f64>() / 1024.0);
    if !options.no_pods {
        podbench(bin, kubeconfig, measured)?;
        await_rest(&all);
    }
    if options.apart {
        move_apart(pids)?;
    }
    apibench(bin, kubeconfig, pids, options, &mut measured.api)?;
    stored_pods(bin, kubeconfig, pids, options, measured)?;
    schedule(bin, kubeconfig, pids, options, &mut measured.api)
}

/// Waits until what is left to do of earlier work is done, and is not counted as part of the next. Containers whose pods were deleted without
/// grace get two seconds all the same (upstream: `minimumGracePeriodInSeconds`), so that nothing is to be seen of them for a while before they are taken down.
fn await_rest(pids: &[u32]) {
    const REST_TICKS_MAX: u64 = TICKS_PER_SECOND as u64 / 20;
    const SECONDS_OF_REST: usize = 4;
    const TRIES: usize = 60;
    let mut rested = 0;
    for _ in 0..TRIES {
        let before = cpu_ticks(pids);
        std::thread::sleep(Duration::from_secs(1));
        let is_at_rest = cpu_ticks(pids).saturating_sub(before) <= REST_TICKS_MAX;
        rested = if is_at_rest { rested + 1 } else { 0 };
        if rested == SECONDS_OF_REST {
            return;
        }
    }
}

/// Has pods placed by the scheduler, durably and through the API. Comes last: the nodes stay, and nobody says that they are ready.
fn schedule(bin: &Path, kubeconfig: &Path, pids: &[String], options: &Options, figures: &mut Figures) -> Result<()> {
    if options.nodes == 0 || !options.stored_pods.is_empty() {
        return Ok(());
    }
    let mut command = driver(bin, kubeconfig, pids, options, options.nodes);
    take(&tools::output(command.args(["-namespace", "schedule", "-nodes", &options.nodes.to_string(), "schedule"]))?, figures)
}

/// Creates pods that no node fits, in a namespace for each number of them, and looks at the resident memory of every server process. The row
/// `pods` counts what schedulers and controllers do meanwhile, too.
fn stored_pods(bin: &Path, kubeconfig: &Path, pids: &[String], options: &Options, measured: &mut Measured) -> Result<()> {
    let (mut stored, before) = (0, resident_kb(pids));
    for wanted in &options.stored_pods {
        let more = wanted.saturating_sub(stored);
        let mut command = driver(bin, kubeconfig, pids, options, more);
        let printed = tools::output(command.arg("-namespace").arg(format!("stored-{wanted}")).arg("pods"))?;
        take(&printed, &mut measured.api)?;
        stored += more;
        measured.value(&format!("resident memory for each of {stored} stored pods, KB"), (resident_kb(pids) - before) / stored.max(1) as f64);
    }
    Ok(())
}

fn resident_kb(pids: &[String]) -> f64 {
    pids.iter().filter_map(|pid| kilobytes(pid, "status", "VmRSS:")).sum()
}

/// `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// These processes and all that came of them.
fn with_descendants(pids: &[String]) -> Result<Vec<u32>> {
    let mut all: Vec<u32> = pids.iter().filter_map(|p| p.parse().ok()).collect();
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat_fields(pid)?.first()?.parse().ok()?)))
        .collect();
    let mut next = 0;
    while let Some(parent) = all.get(next).copied() {
        let children = parents.iter().filter(|(pid, of)| *of == parent && !all.contains(pid)).map(|(pid, _)| *pid).collect::<Vec<_>>();
        all.extend(children);
        next += 1;
    }
    Ok(all)
}

/// The fields of `/proc/PID/stat` from the parent's pid on.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').skip(1).map(str::to_owned).collect())
}

fn cpu_ticks(pids: &[u32]) -> u64 {
    let of = |fields: Vec<String>| -> Option<u64> { Some(fields.get(10)?.parse::<u64>().ok()? + fields.get(11)?.parse::<u64>().ok()?) };
    pids.iter().filter_map(|pid| stat_fields(*pid).and_then(of)).sum()
}

fn pss_kb(pid: u32) -> Option<f64> {
    kilobytes(&pid.to_string(), "smaps_rollup", "Pss:")
}

/// What a file of a process in `/proc` says of its memory.
fn kilobytes(pid: &str, file: &str, key: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

fn podbench(bin: &Path, kubeconfig: &Path, measured: &mut Measured) -> Result<()> {
    let printed = tools::output(tools::command(tools::root().join("conformance/podbench")).arg(bin.join("kubectl")).env("KUBECONFIG", kubeconfig))?;
    for (name, values) in printed.lines().filter_map(|l| l.split_once("(ms): ")) {
        let mut values: Vec<f64> = values.split_whitespace().filter_map(|v| v.parse().ok()).collect();
        values.sort_by(f64::total_cmp);
        if let Some(middle) = values.get(values.len() / 2) {
            measured.value(&format!("{}, ms", name.trim()), *middle);
        }
    }
    Ok(())
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

/// Leaves the first core to the driver: moves all threads of these processes, and with them whatever they start, to the others.
fn move_apart(pids: &[String]) -> Result<()> {
    ensure!(cores() > 1, "--apart needs two cores");
    for pid in with_descendants(pids)? {
        tools::output(Command::new("taskset").args(["--all-tasks", "--pid", "--cpu-list", &format!("1-{}", cores() - 1), &pid.to_string()]))?;
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn apibench(bin: &Path, kubeconfig: &Path, pids: &[String], options: &Options, figures: &mut Figures) -> Result<()> {
    let mut command = driver(bin, kubeconfig, pids, options, options.objects);
    take(&tools::output(command.args(WORK))?, figures)
}

/// Takes in what the driver has printed. What failed costs a server less than what succeeds: then there are no figures.
fn take(printed: &str, figures: &mut Figures) -> Result<()> {
    ensure!(printed.lines().filter(|line| parse(line).is_some()).all(|line| line.contains(" failed=0 ")), "the driver's requests failed: {printed}");
    for (name, figure) in printed.lines().filter_map(parse) {
        figures.entry(name).or_default().push(figure);
    }
    Ok(())
}

fn driver(bin: &Path, kubeconfig: &Path, pids: &[String], options: &Options, objects: usize) -> Command {
    let apibench = bin.join("apibench");
    let mut command = Command::new(if options.apart { Path::new("taskset") } else { &apibench });
    if options.apart {
        command.args(["--cpu-list", "0"]).arg(&apibench);
    }
    command.arg("-kubeconfig").arg(kubeconfig).args(["-n", &objects.to_string(), "-pids", &pids.join(",")]);
    if options.protobuf {
        command.arg("-protobuf");
    }
    command
}

/// Reads `create n=3000 rate=1460/s … cpu=1.02ms/op driver=80.5µs/op rss=300MB`.
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

/// The ceiling is the rate that the driver reaches with a server that does nothing.
fn print(ours: &Figures, theirs: &Figures, ceiling: &Figures) {
    println!("| work | knarr CPU/op | upstream CPU/op | ratio | knarr rate | upstream rate | ratio | driver's ceiling | reached | knarr MB | upstream MB |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, figures) in ours {
        let peer = theirs.get(name).map_or(&[][..], Vec::as_slice);
        let both = |of: fn(&Figure) -> f64| [median(figures, of), median(peer, of)];
        let ([cpu, their_cpu], [rate, their_rate], [rss, their_rss]) = (both(|f| f.cpu_us), both(|f| f.rate), both(|f| f.rss_mb));
        let ceiling = median(ceiling.get(name).map_or(&[], Vec::as_slice), |f| f.rate);
        println!(
            "| {name} | {cpu:.1} µs | {their_cpu:.1} µs | 1/{:.1} | {rate:.0}/s | {their_rate:.0}/s | {:.1}× | {ceiling:.0}/s | {:.0} % | {rss:.0} | {their_rss:.0} |",
            their_cpu / cpu,
            rate / their_rate,
            rate / ceiling * 100.0,
        );
    }
}

fn print_values(ours: &BTreeMap<String, Vec<f64>>, theirs: &BTreeMap<String, Vec<f64>>) {
    println!("\n| what | knarr | upstream | ratio |");
    println!("|---|---|---|---|");
    let middle = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    for (name, values) in ours {
        let (our, their) = (middle(values), middle(theirs.get(name).map_or(&[][..], Vec::as_slice)));
        println!("| {name} | {our:.1} | {their:.1} | 1/{:.1} |", their / our);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_uses_is_read_of_the_kernel() {
        let me = std::process::id();
        assert!(with_descendants(&[me.to_string()]).unwrap().contains(&me));
        assert!(pss_kb(me).unwrap() > 100.0);
        assert!(resident_kb(&[me.to_string(), "none".into()]) > 100.0);
        let spun = Instant::now();
        let before = cpu_ticks(&[me]);
        while cpu_ticks(&[me]) == before {
            std::hint::black_box(spun.elapsed());
        }
        assert_eq!(milliseconds_after("x\nReady after 230 ms: y", "Ready after "), Some(230.0));
    }

    #[test]
    fn a_line_of_the_driver_is_read() {
        let line = "create             n=3000 rate=1460/s p50=20ms p99=40ms max=50ms failed=0 cpu=1.02ms/op driver=80.5µs/op rss=300MB";
        assert_eq!(parse(line), Some(("create".into(), Figure { rate: 1460.0, cpu_us: 1020.0, rss_mb: 300.0 })));
        assert_eq!(parse("  first error: x"), None);
        let mut figures = Figures::new();
        take(line, &mut figures).unwrap();
        assert_eq!(figures["create"].len(), 1);
        assert!(take(&line.replace("failed=0", "failed=10"), &mut figures).is_err());
    }
}
