//! `cargo xtask differential`: the same requests to the real kube-apiserver and to knarr's, and every difference between the two
//! answers. The requests are data (`conformance/differential`): one valid object for each kind, requests for each verb, plain
//! paths; `fields` adds what can be told from the schema. What is known to differ, and why, is in `accepted.jsonl`.
//!
//! Upstream's answers are kept in the work folder and asked for again when the requests have changed.

mod compare;
mod fields;
mod http;
mod matrix;
mod report;
mod servers;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use knarr_sys::netlink::NetNs;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::http::{Answer, Client};
use self::table::{NAMESPACES, Request, Scenario, Tables};

/// Scenarios that run at once, each over a connection of its own.
const AT_ONCE: usize = 12;
/// How long a server may need for what it does by itself, such as emptying a definition that goes.
const SETTLING: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Options {
    /// Folder with upstream's `kube-apiserver` and `etcd` (`conformance/build FOLDER kube-apiserver etcd`)
    #[arg(long)]
    upstream: PathBuf,
    /// knarr's binary
    #[arg(long)]
    knarr: PathBuf,
    /// Folder for servers, recorded answers and the report
    #[arg(long)]
    work: PathBuf,
    /// Only scenarios (kinds, `paths`) whose name holds one of these texts; the answers of the others stay as recorded before
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Compare what was recorded before, without asking knarr again
    #[arg(long)]
    offline: bool,
}

/// One request and what came back.
#[derive(Serialize, Deserialize)]
pub struct Exchange {
    pub id: String,
    pub request: String,
    pub body: Option<String>,
    pub answer: Answer,
}

/// Asks both servers and compares, in a network that nobody else is in: what a server says of addresses that nobody has is then its own
/// word, and not that of whoever answers for them on the network of this machine.
pub fn run(options: &Options) -> Result<()> {
    match NetNs::anonymous() {
        Ok(alone) => alone.run(|| {
            knarr_sys::namespace::loopback_up()?;
            compare_all(options)
        })?,
        Err(why) => {
            println!("The servers stand on the network of this machine ({why}): somebody else may answer for addresses that nobody has");
            compare_all(options)
        }
    }
}

fn compare_all(options: &Options) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let tables = Tables::read(&folder)?;
    let scenarios = tables.scenarios();
    let count: usize = scenarios.iter().map(|s| s.requests.len()).sum();
    println!("{count} requests in {} scenarios", scenarios.len());
    fs::create_dir_all(&options.work)?;
    let (theirs_file, ours_file) = (options.work.join(format!("upstream-{}.jsonl", hash(&scenarios)?)), options.work.join("knarr.jsonl"));
    if !theirs_file.exists() {
        let server = servers::Upstream.start(&options.upstream, &options.work)?;
        record(&server.client()?, &scenarios, &[], &theirs_file)?;
    }
    if !options.offline {
        let server = servers::Knarr.start(&options.knarr, &options.work)?;
        let kept = if options.only.is_empty() { Vec::new() } else { kept(&options.only, &ours_file)? };
        let asked: Vec<Scenario> = scenarios.into_iter().filter(|s| s.name == NAMESPACES || s.name == "matrix-setup" || options.wants(&s.name)).collect();
        record(&server.client()?, &asked, &kept, &ours_file)?;
    }
    let (theirs, ours) = (read(&theirs_file)?, read(&ours_file)?);
    let mut report = report::Report::new(&folder)?;
    for (id, theirs) in theirs.iter().filter(|(id, _)| options.wants(scenario(id))) {
        let ours = ours.get(id).with_context(|| format!("knarr was not asked for {id}"))?;
        report.add(theirs, ours);
    }
    let unexplained = report.print(&options.work.join("differences.jsonl"))?;
    if unexplained > 0 {
        bail!("{unexplained} answers differ");
    }
    Ok(())
}

impl Options {
    fn wants(&self, scenario: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| scenario.contains(text.as_str()))
    }
}

/// The scenario of an exchange's id.
fn scenario(id: &str) -> &str {
    id.split(' ').next().unwrap_or_default()
}

/// What was recorded before of scenarios that are not asked for now.
fn kept(only: &[String], file: &Path) -> Result<Vec<Exchange>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let asked = |id: &str| scenario(id) == NAMESPACES || scenario(id) == "matrix-setup" || only.iter().any(|text| scenario(id).contains(text.as_str()));
    Ok(read(file)?.into_values().filter(|e| !asked(&e.id)).collect())
}

fn hash(scenarios: &[Scenario]) -> Result<String> {
    let digest = Sha256::digest(serde_json::to_vec(scenarios)?);
    Ok(knarr_core::hex::encode(&digest[..6]))
}

fn read(path: &Path) -> Result<BTreeMap<String, Exchange>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines().map(|line| serde_json::from_str::<Exchange>(line).map(|e| (e.id.clone(), e)).map_err(Into::into)).collect()
}

/// Asks everything: what comes first alone, then several scenarios at once. The file holds the answers and what was kept.
fn record(client: &Client, scenarios: &[Scenario], kept: &[Exchange], file: &Path) -> Result<()> {
    let (first, rest): (Vec<&Scenario>, Vec<&Scenario>) = scenarios.iter().partition(|s| s.first);
    let all = Mutex::new(Vec::new());
    for scenario in first {
        all.lock().expect("no thread has panicked").extend(play(client, scenario)?);
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| -> Result<()> {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                threads.spawn(|| -> Result<()> {
                    while let Some(scenario) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let done = play(client, scenario).with_context(|| scenario.name.clone())?;
                        all.lock().expect("no thread has panicked").extend(done);
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().expect("no thread has panicked"))
    })?;
    let all = all.into_inner()?;
    let lines: Vec<String> = kept.iter().chain(&all).map(serde_json::to_string).collect::<Result<_, _>>()?;
    let unfinished = file.with_extension("part");
    fs::write(&unfinished, lines.join("\n"))?;
    Ok(fs::rename(unfinished, file)?)
}

fn play(client: &Client, scenario: &Scenario) -> Result<Vec<Exchange>> {
    let mut connection = client.connect()?;
    let mut known = scenario.known.clone();
    let mut done = Vec::new();
    for request in &scenario.requests {
        let Request { id, method, path, headers, body, .. } = request;
        let (path, body) = (fill(path, &known), body.as_ref().map(|b| fill(b, &known)));
        let mut answer = match connection.ask(method, &path, headers, body.as_deref()) {
            Ok(answer) => answer,
            Err(_) => {
                connection = client.connect()?;
                connection.ask(method, &path, headers, body.as_deref()).or_else(|_| {
                    connection = client.connect()?;
                    anyhow::Ok(Answer::none())
                })?
            }
        };
        let since = Instant::now();
        while request.until.as_ref().is_some_and(|text| !format!("{} {}", answer.status, answer.body).contains(text.as_str())) && since.elapsed() < SETTLING {
            std::thread::sleep(Duration::from_millis(20));
            answer = connection.ask(method, &path, headers, body.as_deref())?;
        }
        for (name, pointer) in &request.capture {
            if let Some(value) = answer.json().as_ref().and_then(|v| v.pointer(pointer)).and_then(|v| v.as_str()) {
                known.insert(name.clone(), value.to_owned());
            }
        }
        done.push(Exchange { id: format!("{} {id}", scenario.name), request: format!("{method} {path}"), body, answer });
    }
    Ok(done)
}

/// Puts what is known into `{name}`.
fn fill(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = text.to_owned();
    for (name, value) in known {
        let placeholder = format!("{{{name}}}");
        if out.contains(&placeholder) {
            out = out.replace(&placeholder, value);
        }
    }
    out
}
