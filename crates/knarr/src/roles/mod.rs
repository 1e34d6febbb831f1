//! The roles a process can play, each with the runtime that fits it.

mod access;
mod agent;
mod audit;
mod encryption;
pub mod etcd;
mod flags;
mod gates;
mod guard;
mod joined;
mod keys;
pub mod kube_apiserver;
mod listening;
mod names;
mod network;
mod renewal;
mod server;
mod service_accounts;
mod serving;
mod telemetry;
mod tls;
mod traces;
mod values;
mod verdicts;
mod ways;

pub use server::{check_apiserver_args, sealer};

pub use agent::{images_folder, local_nodes, local_volumes};
pub use ways::clear as clear_ways;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use knarr_cli::cluster::config::Cluster;
use knarr_cli::cluster::failure::{Failure, Result};
use knarr_cli::cluster::process::{self, Home, Tenure};
use knarr_cli::cluster::supervise;
use knarr_cli::kubectl::command::Verb;
use knarr_core::clock::Env;
use knarr_core::deep;
use tracing_subscriber::EnvFilter;

/// What is logged unless `KNARR_LOG` says otherwise.
const LOG_DEFAULT: &str = "info";

/// The control plane, or one of several.
pub fn server(data: &Path, index: usize) -> Result<()> {
    let role = supervise::server_role(index);
    let (cluster, _tenure) = begin(data, &role)?;
    until_it_ends(runtime(2)?, || server::run(&cluster, || look_after_others(&cluster, &role, Home::default())))
}

/// Looks after the others, and answers names beside the agents.
pub fn guard(data: &Path) -> Result<()> {
    let (cluster, _tenure) = begin(data, supervise::GUARD)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::program)?;
    runtime.block_on(async {
        look_after_others(&cluster, supervise::GUARD, Home::default());
        let working = async {
            guard::work(&cluster, &Env::system()).await;
            std::future::pending::<Result<()>>().await
        };
        tokio::select! {
            told = until_told_to_stop() => told,
            never = working => never,
        }
    })
}

/// One node; with `clear`, the end of it.
pub fn agent(data: &Path, name: &str, clear: bool) -> Result<()> {
    let cluster = Cluster::load(data)?;
    let Some(node) = cluster.nodes.iter().find(|n| n.name == name).cloned() else {
        return Err(Failure::program(format!("the cluster has no node {name:?}")));
    };
    let place = agent::enter_node(&cluster, &node)?;
    if clear {
        return runtime(1)?.block_on(agent::clear(&cluster, &node));
    }
    let (cluster, _tenure) = begin(data, &Cluster::agent_role(&node))?;
    runtime(2)?.block_on(async {
        look_after_others(&cluster, &Cluster::agent_role(&node), place.home());
        agent::run(&cluster, &node, place).await
    })
}

/// A pod's shim.
pub fn shim(args: &[OsString]) -> ExitCode {
    knarr_runtime::shim_main(args.iter().cloned())
}

/// The built-in kubectl, or verbs of knarr's that speak its language.
pub fn kubectl(root: &'static Verb, args: &[OsString]) -> ExitCode {
    let args: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    match runtime(1) {
        Ok(runtime) => until_it_ends(runtime, || knarr_cli::kubectl::main(root, args)),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// A verb that a person waits for.
pub fn for_a_person(verb: impl Future<Output = Result<()>>) -> Result<()> {
    runtime(1)?.block_on(verb)
}

/// Log, pid file: what every background role begins with.
fn begin(data: &Path, role: &str) -> Result<(Cluster, Tenure)> {
    log_to_stderr();
    let cluster = Cluster::load(data)?;
    let tenure = process::take_role(&cluster, role)?;
    // Whoever has no provider of its own (the registry's client) uses this one. A second call changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    Ok((cluster, tenure))
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("KNARR_LOG").unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

/// For a role that hardly does anything.
fn small_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::program)
}

/// Looks after every other role of the cluster, and after some time lets go of what only the start needed.
fn look_after_others(cluster: &Cluster, own: &str, home: Home) {
    tokio::spawn(supervise::look_after_others(cluster.data.clone(), own.to_owned(), home));
    tokio::spawn(async {
        tokio::time::sleep(STARTED_AFTER).await;
        knarr_sys::memory::let_go();
    });
}

/// When a process has long done what is done at its start alone.
const STARTED_AFTER: Duration = Duration::from_secs(20);

/// For a role that holds what clients send.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_stack_size(deep::STACK_BYTES).enable_all().build().map_err(Failure::program)
}

/// Runs what a process is there for, with as much stack as its other threads have. Once that is over nothing is waited for that still goes on beside it: a webhook that has not answered yet,
/// or a read of standard input, would hold the process up for as long as it may take.
fn until_it_ends<F: Future<Output: Send>>(runtime: tokio::runtime::Runtime, work: impl FnOnce() -> F + Send) -> F::Output {
    let done = deep::run(|| runtime.block_on(work()));
    runtime.shutdown_background();
    done
}

/// Waits for the signal to stop.
async fn until_told_to_stop() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::program)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::program)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
