//! The one binary. What it does depends on how it is called: a verb for people, or a role that such a verb starts in the
//! background (`server`, `agent`, `shim`).

mod backup;
mod heap;
mod images;
mod machine;
mod roles;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use knarr_cli::cluster::failure::Failure;
use knarr_cli::cluster::verbs::{self, ClusterVerb};

#[derive(Parser)]
#[command(name = "knarr", version, about = "A complete Kubernetes in one binary")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    #[command(flatten)]
    Cluster(ClusterVerb),
    /// Run an image on the cluster: a Deployment, and with --expose a Service
    Run,
    /// kubectl, built in
    Kubectl,
    /// Write all objects of the cluster, and its keys, into a folder; the cluster may run
    Backup(backup::Backup),
    /// Bring back what `knarr backup` has written; the cluster must be stopped
    Restore(backup::Restore),
    /// Images on the nodes of this machine
    Image {
        #[command(flatten)]
        which: verbs::Which,
        #[command(subcommand)]
        verb: images::ImageVerb,
    },
    /// The control plane's process
    #[command(hide = true)]
    Server {
        #[arg(long)]
        data: PathBuf,
        /// Which of several servers, from 1
        #[arg(long, default_value_t = 1)]
        index: usize,
    },
    /// The process that looks after the others
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        data: PathBuf,
    },
    /// A node's process
    #[command(hide = true)]
    Agent {
        #[arg(long)]
        data: PathBuf,
        #[arg(long)]
        node: String,
        /// End the node's pods and take away what it has made, instead of running it
        #[arg(long)]
        clear: bool,
    },
}

fn main() -> ExitCode {
    heap::install();
    let mut args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "shim") {
        return roles::shim(&args[2..]);
    }
    match called_as(&args).as_deref() {
        Some("kubectl") => return roles::kubectl(&knarr_cli::kubectl::ROOT, &args[1..]),
        Some("kube-apiserver") => return component(roles::kube_apiserver::run, &args[1..]),
        Some("etcd") => return component(roles::etcd::run, &args[1..]),
        _ => {}
    }
    if args.get(1).is_some_and(|a| a == "kubectl") {
        return roles::kubectl(&knarr_cli::kubectl::ROOT, &args.split_off(2));
    }
    if args.get(1).is_some_and(|a| a == "run") {
        return roles::kubectl(&knarr_cli::kubectl::KNARR, &args[1..]);
    }
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// The name under which the binary was called: links named after upstream's programs do what those do.
fn called_as(args: &[std::ffi::OsString]) -> Option<String> {
    let name = std::path::Path::new(args.first()?).file_name()?;
    Some(name.to_string_lossy().into_owned())
}

/// A component of upstream's, with that component's flags.
fn component(run: fn(&[String]) -> Result<(), Failure>, args: &[std::ffi::OsString]) -> ExitCode {
    let args: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Server { data, index } => roles::server(&data, index),
        Verb::Guard { data } => roles::guard(&data),
        Verb::Agent { data, node, clear } => roles::agent(&data, &node, clear),
        // They have read their own command lines: here they stand for the help.
        Verb::Run | Verb::Kubectl => Ok(()),
        Verb::Cluster(verb) => roles::for_a_person(verbs::run(verb, &machine::Local)),
        Verb::Backup(args) => roles::for_a_person(backup::make(args)),
        Verb::Restore(args) => roles::for_a_person(backup::restore(args)),
        Verb::Image { which, verb } => roles::for_a_person(images::run(which.load()?, verb)),
    }
}
