//! `cargo xtask demo`: from a clean clone to a running cluster with the example app on it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::image::{self, Image};
use crate::tools;

const PODS: usize = 3;
const NODE_PORT: u16 = 30080;
/// What the tests' image has in its `/bin`.
const TOOLS: [&str; 7] = ["cat", "echo", "env", "false", "sleep", "tar", "true"];
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(60);

pub fn run() -> Result<()> {
    tools::need_root("the demo")?;
    let knarr = tools::step("build knarr", tools::release_binary)?;
    let archive = tools::step("pack the example app", || pack_hello("release"))?;
    tools::run(Command::new(&knarr).arg("start"))?;
    tools::run(Command::new(&knarr).args(["image", "load"]).arg(&archive))?;
    kubectl(&knarr, &["apply", "-f", "examples/hello.yaml"])?;
    kubectl(&knarr, &["rollout", "status", "deployment/hello"])?;
    let url = format!("http://127.0.0.1:{NODE_PORT}/");
    println!("\nThe app answers on {url}");
    for answer in answers()? {
        print!("  {answer}");
    }
    print_next(&knarr);
    Ok(())
}

/// Builds the example app and packs its image; gives the archive.
pub fn pack_hello(profile: &str) -> Result<PathBuf> {
    let program = built("hello", "hello", profile)?;
    packed(&Image { reference: "knarr.local/hello:1", program: &program, name: "hello", links: &[], port: Some(8080) })
}

/// What `exec`, `attach` and `cp` of the end-to-end tests find in a container, as an image; gives the archive.
pub fn pack_tools() -> Result<PathBuf> {
    let program = built("knarr-test-tools", "tools", "debug")?;
    packed(&Image { reference: "knarr.local/tools:1", program: &program, name: "tools", links: &TOOLS, port: None })
}

fn built(package: &str, program: &str, profile: &str) -> Result<PathBuf> {
    let is_release = profile == "release";
    let mut build = if is_release { tools::cargo_release()? } else { tools::cargo()? };
    build.args(["build", "--package", package]).args(is_release.then_some("--release"));
    tools::run(&mut build)?;
    tools::built_program(profile, program)
}

fn packed(image: &Image<'_>) -> Result<PathBuf> {
    let archive = image.program.with_extension("tar");
    image::pack(image, &archive)?;
    Ok(archive)
}

fn kubectl(knarr: &Path, args: &[&str]) -> Result<()> {
    tools::run(tools::command(knarr).arg("kubectl").args(args))
}

/// Asks until that many different pods have answered.
fn answers() -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    let until = Instant::now() + ANSWERS_TIMEOUT;
    let mut last = None;
    while seen.len() < PODS {
        match get(SocketAddr::from(([127, 0, 0, 1], NODE_PORT))) {
            Ok(body) => {
                seen.insert(body);
            }
            Err(e) => last = Some(e),
        }
        if Instant::now() > until {
            bail!("only {} of {PODS} pods answered: {:?}", seen.len(), last);
        }
    }
    Ok(seen)
}

fn get(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}

fn print_next(knarr: &Path) {
    let knarr = knarr.strip_prefix(tools::root()).unwrap_or(knarr).display().to_string();
    println!("\nTry next:");
    for (command, what) in [
        ("kubectl get pods -o wide", "see the pods and where they run"),
        ("kubectl scale deployment/hello --replicas=10", "ten of them"),
        ("kubectl set env deployment/hello GREETING=Ahoy", "a rolling update"),
        ("kubectl rollout undo deployment/hello", "and back again"),
        ("kubectl delete pod -l app=hello", "watch it heal: kubectl get pods -w"),
        ("start --nodes 3", "two more nodes"),
        ("delete", "take everything away"),
    ] {
        println!("  {knarr} {command:<48} # {what}");
    }
}
