//! `kubectl label` and `kubectl annotate`.

use knarr_client::{Patch, read};
use knarr_core::api::Options;
use knarr_core::{Value, ValueExt, json};

use crate::kubectl::resources::named;
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    /// TYPE NAME… KEY=VALUE… KEY-…
    words: Vec<String>,
    /// Change values that are there
    #[arg(long)]
    overwrite: bool,
    /// All objects of the type
    #[arg(long)]
    all: bool,
    #[arg(short = 'l', long)]
    selector: Option<String>,
}

pub async fn run(args: &Args, field: &str, done: &str, session: &Session) -> Result<()> {
    let (changes, resources): (Vec<&String>, Vec<&String>) = args.words.iter().partition(|w| is_change(w));
    if changes.is_empty() {
        return Err(format!("at least one {} update is required", field.trim_end_matches('s')).into());
    }
    let resources: Vec<String> = resources.into_iter().cloned().collect();
    for one in named(session, &resources).await? {
        let api = session.client.dynamic(one.meant.resource.clone(), one.meant.namespaced.then_some(session.namespace.as_str()));
        let names = match one.name {
            Some(name) => vec![name],
            None if args.all || args.selector.is_some() => {
                let options = Options { label_selector: args.selector.clone(), ..Options::default() };
                api.list(&options).await?.items.iter().map(|o| read::key(o).name().to_owned()).collect()
            }
            None => return Err("resource(s) were provided, but no name was specified".into()),
        };
        for name in names {
            let current = read::value(&api.get(&name).await?)?;
            api.patch(&name, Patch::merge(json!({"metadata": {field: change(&changes, &current, field, args.overwrite)?}}))).await?;
            println!("{}/{name} {done}", one.meant.title);
        }
    }
    Ok(())
}

fn is_change(word: &str) -> bool {
    word.contains('=') || word.ends_with('-')
}

fn change(words: &[&String], current: &Value, field: &str, overwrite: bool) -> Result<Value> {
    let mut change = serde_json::Map::new();
    for word in words {
        match word.split_once('=') {
            None => drop(change.insert(word.trim_end_matches('-').to_owned(), Value::Null)),
            Some((key, value)) => {
                let there = current.str_at(&["metadata", field, key]);
                if there.is_some_and(|t| t != value) && !overwrite {
                    return Err(format!("'{key}' already has a value ({}), and --overwrite is false", there.unwrap_or_default()).into());
                }
                change.insert(key.to_owned(), value.into());
            }
        }
    }
    Ok(Value::Object(change))
}
