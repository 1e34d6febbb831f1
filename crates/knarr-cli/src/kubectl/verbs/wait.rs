//! `kubectl wait --for=condition=… | delete | create`.

use std::time::Duration;

use futures::StreamExt;
use knarr_client::read;
use knarr_core::api::{EventType, Options};
use knarr_core::{Value, ValueExt};

use crate::kubectl::resources::named;
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    /// TYPE NAME…, or TYPE/NAME…
    resources: Vec<String>,
    /// condition=NAME[=VALUE], delete, or create
    #[arg(long = "for")]
    wanted: String,
    #[arg(long, default_value = "30s")]
    timeout: String,
    #[arg(short = 'l', long)]
    selector: Option<String>,
    #[arg(long)]
    all: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let timeout = Duration::from_secs(super::logs::seconds(&args.timeout).ok_or_else(|| format!("invalid duration {:?}", args.timeout))?);
    for one in named(session, &args.resources).await? {
        let api = session.client.dynamic(one.meant.resource.clone(), one.meant.namespaced.then_some(session.namespace.as_str()));
        let names = match one.name {
            Some(name) => vec![name],
            None => {
                let options = Options { label_selector: args.selector.clone(), ..Options::default() };
                api.list(&options).await?.items.iter().map(|o| read::key(o).name().to_owned()).collect()
            }
        };
        if names.is_empty() {
            return Err("no matching resources found".into());
        }
        for name in names {
            let title = format!("{}/{name}", one.meant.title);
            let fulfilled = tokio::time::timeout(timeout, until(&api, &name, &args.wanted)).await;
            fulfilled.map_err(|_| format!("timed out waiting for the condition on {}/{name}", one.meant.resource.resource))??;
            println!("{title} condition met");
        }
    }
    Ok(())
}

/// Follows one object until it is as wanted.
pub async fn until(api: &knarr_client::DynamicApi, name: &str, wanted: &str) -> Result<()> {
    let options = Options { field_selector: Some(format!("metadata.name={name}")), ..Options::default() };
    loop {
        let listed = api.list(&options).await?;
        let first = listed.items.first().map(read::value).transpose()?;
        if fulfilled(wanted, first.as_ref())? {
            return Ok(());
        }
        if first.is_none() && wanted != "create" {
            return Err(knarr_core::Status::not_found(&api.resource().group_resource(), name).into());
        }
        let from = Options { resource_version: Some(listed.resource_version.to_string()), ..options.clone() };
        let mut events = api.watch(&from).await?;
        while let Some(Ok(event)) = events.next().await {
            let object = (event.event_type != EventType::Deleted).then(|| read::value(&event.object)).transpose()?;
            if event.event_type != EventType::Bookmark && fulfilled(wanted, object.as_ref())? {
                return Ok(());
            }
        }
    }
}

fn fulfilled(wanted: &str, object: Option<&Value>) -> Result<bool> {
    if wanted == "delete" {
        return Ok(object.is_none());
    }
    let Some(object) = object else { return Ok(false) };
    if wanted == "create" {
        return Ok(true);
    }
    let condition = wanted.strip_prefix("condition=").ok_or_else(|| format!("unrecognized condition: {wanted:?}"))?;
    let (name, value) = condition.split_once('=').unwrap_or((condition, "True"));
    let conditions = object.list_at(&["status", "conditions"]);
    Ok(conditions
        .iter()
        .any(|c| c.str_at(&["type"]).is_some_and(|t| t.eq_ignore_ascii_case(name)) && c.str_at(&["status"]).is_some_and(|s| s.eq_ignore_ascii_case(value))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn conditions_are_read_without_regard_to_case() {
        let object = json!({"status": {"conditions": [{"type": "Available", "status": "True"}]}});
        for (wanted, outcome) in [("condition=available", true), ("condition=Available=false", false), ("create", true), ("delete", false)] {
            assert_eq!(fulfilled(wanted, Some(&object)).unwrap(), outcome, "{wanted}");
        }
        assert!(fulfilled("delete", None).unwrap());
        assert!(fulfilled("nonsense", Some(&object)).is_err());
    }
}
