//! kubectl's verbs: a file each, a line each here.

mod apply;
mod create;
mod delete;
mod describe;
mod edit_fields;
mod exec;
mod get;
mod logs;
mod rollout;
mod scale;
mod set;
mod version;
mod wait;

use std::process::ExitCode;

use clap::Subcommand;

use super::session::{Result, Session};

#[derive(Subcommand)]
pub enum Verb {
    /// Apply a configuration to resources by file name or stdin
    Apply(apply::Args),
    /// Create resources from a file or from stdin
    Create(create::Args),
    /// Delete resources by file names, names, or label selector
    Delete(delete::Args),
    /// Show details of a resource
    Describe(describe::Args),
    /// Execute a command in a container
    Exec(exec::Args),
    /// Display one or many resources
    Get(get::Args),
    /// Update the labels on a resource
    Label(edit_fields::Args),
    /// Update the annotations on a resource
    Annotate(edit_fields::Args),
    /// Print the logs of a container in a pod
    Logs(logs::Args),
    /// Manage the rollout of a resource
    Rollout(rollout::Args),
    /// Set a new size for a deployment, replica set, or replication controller
    Scale(scale::Args),
    /// Set specific features on objects
    Set(set::Args),
    /// Print the client and server version
    Version(version::Args),
    /// Wait for a condition on one or many resources
    Wait(wait::Args),
}

pub async fn run(verb: Verb, session: &Session) -> Result<ExitCode> {
    let done = match verb {
        Verb::Apply(args) => apply::run(&args, session).await,
        Verb::Create(args) => create::run(&args, session).await,
        Verb::Delete(args) => delete::run(&args, session).await,
        Verb::Describe(args) => describe::run(&args, session).await,
        Verb::Exec(args) => return exec::run(&args, session).await,
        Verb::Get(args) => get::run(&args, session).await,
        Verb::Label(args) => edit_fields::run(&args, "labels", "labeled", session).await,
        Verb::Annotate(args) => edit_fields::run(&args, "annotations", "annotated", session).await,
        Verb::Logs(args) => logs::run(&args, session).await,
        Verb::Rollout(args) => rollout::run(&args, session).await,
        Verb::Scale(args) => scale::run(&args, session).await,
        Verb::Set(args) => set::run(&args, session).await,
        Verb::Version(args) => version::run(&args, session).await,
        Verb::Wait(args) => wait::run(&args, session).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}
