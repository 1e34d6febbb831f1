//! `kubectl scale`.

use knarr_client::{Patch, read};
use knarr_core::api::Options;
use knarr_core::{ValueExt, json};

use super::apply::place;
use crate::kubectl::manifest::Files;
use crate::kubectl::resources::{Named, named};
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    /// TYPE NAME…, or TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[arg(long)]
    replicas: i32,
    /// Only if there are this many now
    #[arg(long)]
    current_replicas: Option<i64>,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let targets = if args.files.is_empty() {
        named(session, &args.resources).await?
    } else {
        let mut targets = Vec::new();
        for object in args.files.read()? {
            let (meant, name, _) = place(session, &object).await?;
            targets.push(Named { meant, name: Some(name) });
        }
        targets
    };
    for target in targets {
        let Some(name) = target.name else { return Err("resource(s) were provided, but no name was specified".into()) };
        let api = session.client.dynamic(target.meant.resource.clone(), Some(&session.namespace));
        if let Some(expected) = args.current_replicas {
            let current = read::value(&api.get(&name).await?)?.i64_at(&["spec", "replicas"]).unwrap_or(0);
            if current != expected {
                return Err(format!("Expected replicas to be {expected}, was {current}").into());
            }
        }
        let patch = Patch::merge(json!({"spec": {"replicas": args.replicas}}));
        api.patch_with(&name, patch, Some("scale"), &Options::default()).await?;
        println!("{}/{name} scaled", target.meant.title);
    }
    Ok(())
}
