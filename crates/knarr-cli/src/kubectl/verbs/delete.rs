//! `kubectl delete`, which waits until the objects are gone.

use std::time::Duration;

use futures::StreamExt;
use knarr_client::{Deletion, DynamicApi};
use knarr_core::api::{EventType, Options};
use knarr_core::{Value, ValueExt};

use super::apply::place;
use crate::kubectl::manifest::Files;
use crate::kubectl::resources::{Meant, named};
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    /// TYPE NAME…, TYPE/NAME…, or TYPE with a selector or --all
    resources: Vec<String>,
    #[command(flatten)]
    files: Files,
    #[arg(short = 'l', long)]
    selector: Option<String>,
    #[arg(long)]
    field_selector: Option<String>,
    #[arg(long)]
    all: bool,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    #[arg(long)]
    ignore_not_found: bool,
    /// Do not wait until it is gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, default_missing_value = "true", num_args = 0..=1)]
    wait: bool,
    #[arg(long)]
    force: bool,
    #[arg(long, allow_negative_numbers = true)]
    grace_period: Option<i64>,
    /// background, orphan or foreground
    #[arg(long, default_value = "background", default_missing_value = "background", num_args = 0..=1)]
    cascade: String,
    /// The same as --grace-period=1
    #[arg(long)]
    now: bool,
}

/// One object that is to go.
struct Target {
    meant: Meant,
    name: String,
    api: DynamicApi,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let targets = targets(args, session).await?;
    if targets.is_empty() {
        println!("No resources found");
    }
    let mut going = Vec::new();
    let mut failure = None;
    for target in targets {
        match target.api.delete(&target.name, &deletion(args)?).await {
            Ok(reply) => {
                let how = if args.force { " force deleted" } else { " deleted" };
                let place = if target.meant.namespaced { format!(" from {} namespace", target.api.namespace().unwrap_or_default()) } else { String::new() };
                println!("{} \"{}\"{how}{place}", target.meant.title, target.name);
                if args.wait {
                    going.push((target, reply));
                }
            }
            Err(status) if status.is_not_found() && args.ignore_not_found => {}
            Err(status) => drop(failure.get_or_insert(status)),
        }
    }
    for (target, _) in going {
        until_gone(&target).await?;
    }
    failure.map_or(Ok(()), |status| Err(status.into()))
}

fn deletion(args: &Args) -> Result<Deletion> {
    let propagation = match args.cascade.as_str() {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => return Err(format!("invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\"").into()),
    };
    let grace = if args.now { Some(1) } else { args.grace_period.filter(|g| *g >= 0).or(args.force.then_some(0)) };
    Ok(Deletion { grace_period_seconds: grace, propagation_policy: Some(propagation), ..Deletion::default() })
}

async fn targets(args: &Args, session: &Session) -> Result<Vec<Target>> {
    let mut found = Vec::new();
    if !args.files.is_empty() {
        for object in args.files.read()? {
            let (meant, name, api) = place(session, &object).await?;
            found.push(Target { meant, name, api });
        }
        return Ok(found);
    }
    for one in named(session, &args.resources).await? {
        let namespace = (!args.all_namespaces && one.meant.namespaced).then_some(session.namespace.as_str());
        let api = session.client.dynamic(one.meant.resource.clone(), namespace);
        match one.name {
            Some(name) => found.push(Target { meant: one.meant, name, api }),
            None if args.all || args.selector.is_some() || args.field_selector.is_some() => {
                let options = Options { label_selector: args.selector.clone(), field_selector: args.field_selector.clone(), ..Options::default() };
                for object in api.list(&options).await?.items {
                    let value: Value = knarr_client::read::value(&object)?;
                    let text = |key: &str| value.str_at(&["metadata", key]).unwrap_or_default().to_owned();
                    let api = session.client.dynamic(one.meant.resource.clone(), one.meant.namespaced.then(|| text("namespace")).as_deref());
                    found.push(Target { meant: one.meant.clone(), name: text("name"), api });
                }
            }
            None => return Err("resource(s) were provided, but no name was specified".into()),
        }
    }
    Ok(found)
}

/// Follows the object until it is deleted.
async fn until_gone(target: &Target) -> Result<()> {
    loop {
        let options = Options { field_selector: Some(format!("metadata.name={}", target.name)), ..Options::default() };
        let listed = target.api.list(&options).await?;
        if listed.items.is_empty() {
            return Ok(());
        }
        let options = Options { resource_version: Some(listed.resource_version.to_string()), timeout: Some(Duration::from_secs(300)), ..options };
        let mut events = target.api.watch(&options).await?;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) if event.event_type == EventType::Deleted => return Ok(()),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}
