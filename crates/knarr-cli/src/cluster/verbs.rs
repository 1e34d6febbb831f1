//! The cluster verbs as the command line takes them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::config::{self, Cluster, DEFAULT_PROFILE};
use super::failure::Result;
use super::join::{self, JoinArgs};
use super::start::{self, Machine, StartArgs};
use super::turn::Turn;
use super::{doctor, logs, status, stop, token};

/// Which cluster is meant.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Name of the cluster
    #[arg(short, long, global = true, default_value = DEFAULT_PROFILE)]
    pub profile: String,
    /// Folder of the cluster's data (default: /var/lib/knarr/PROFILE)
    #[arg(long, global = true)]
    pub data: Option<PathBuf>,
}

impl Which {
    pub fn load(&self) -> Result<Cluster> {
        Cluster::load(&config::data_folder(&self.profile, self.data.as_deref()))
    }

    /// The cluster, for a verb that changes it: nobody else does until the turn is dropped.
    pub async fn take(&self) -> Result<(Turn, Cluster)> {
        // Its own name: with --data alone that of another is the default.
        let turn = Turn::take(&self.load()?.profile).await?;
        // Whoever had the turn before may have changed or deleted it.
        Ok((turn, self.load()?))
    }
}

#[derive(Clone, Debug, Subcommand)]
pub enum ClusterVerb {
    /// Start a cluster, or bring a stopped one back
    Start(StartArgs),
    /// Make this machine a node of a cluster on another one
    Join(JoinArgs),
    /// Say what runs; the exit code tells it too
    Status {
        #[command(flatten)]
        which: Which,
        #[arg(short, long, value_enum, default_value_t)]
        output: status::Output,
    },
    /// Stop the cluster; its state is kept
    Stop {
        #[command(flatten)]
        which: Which,
        /// Let the containers run on, as for an upgrade
        #[arg(long)]
        keep_pods: bool,
    },
    /// Delete the cluster and everything it has made
    Delete {
        #[command(flatten)]
        which: Which,
    },
    /// What the cluster's own processes wrote
    Logs {
        #[command(flatten)]
        which: Which,
        /// `server`, or the name of a node
        role: Option<String>,
        /// How many lines
        #[arg(long, default_value_t = 100)]
        tail: usize,
    },
    /// Add or remove a node on this machine
    Node {
        #[command(flatten)]
        which: Which,
        #[command(subcommand)]
        verb: NodeVerb,
    },
    /// Bootstrap tokens, by which a new node introduces itself
    Token {
        #[command(flatten)]
        which: Which,
        #[command(subcommand)]
        verb: token::TokenVerb,
    },
    /// Say why a pod, claim or Service does not work, and what mends it
    Doctor {
        #[command(flatten)]
        which: Which,
        /// As KIND/NAME; without it everything is looked at
        target: Option<String>,
        /// Look into this namespace alone
        #[arg(short, long)]
        namespace: Option<String>,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum NodeVerb {
    /// Add a node
    Add,
    /// Remove a node: its pods are made anew elsewhere
    Remove { name: String },
    /// Names of the nodes
    List,
}

/// Runs one of them.
pub async fn run(verb: ClusterVerb, machine: &dyn Machine) -> Result<()> {
    match verb {
        ClusterVerb::Start(args) => start::start(&args, machine).await,
        ClusterVerb::Join(args) => join::join(&args, machine).await,
        ClusterVerb::Status { which, output } => status::print(&which.load()?, output).await,
        ClusterVerb::Stop { which, keep_pods } => {
            let (_turn, cluster) = which.take().await?;
            stop::stop_cluster(&cluster, machine, keep_pods).await
        }
        ClusterVerb::Delete { which } => {
            let (_turn, cluster) = which.take().await?;
            stop::delete_cluster(&cluster, machine).await
        }
        ClusterVerb::Logs { which, role, tail } => logs::print(&which.load()?, role.as_deref(), tail, &mut std::io::stdout()),
        ClusterVerb::Node { which, verb } => node(&which, verb, machine).await,
        ClusterVerb::Token { which, verb } => token::run(&which.load()?, verb).await,
        ClusterVerb::Doctor { which, target, namespace } => doctor::run(&which.load()?, target.as_deref(), namespace.as_deref()).await,
    }
}

async fn node(which: &Which, verb: NodeVerb, machine: &dyn Machine) -> Result<()> {
    match verb {
        NodeVerb::List => {
            for node in &which.load()?.nodes {
                println!("{}", node.name);
            }
            Ok(())
        }
        NodeVerb::Remove { name } => {
            let (_turn, cluster) = which.take().await?;
            stop::remove_node(&cluster, machine, &name).await
        }
        NodeVerb::Add => start::start_another_node(which, machine).await,
    }
}
