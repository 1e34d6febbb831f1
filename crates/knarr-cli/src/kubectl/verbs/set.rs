//! `kubectl set image` and `kubectl set env`.

use clap::Subcommand;
use knarr_client::{Patch, read};
use knarr_core::{Value, ValueExt, json};

use crate::kubectl::resources::named;
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Images of containers: TYPE/NAME CONTAINER=IMAGE…
    Image { words: Vec<String> },
    /// Environment of containers: TYPE/NAME KEY=VALUE… KEY-…
    Env {
        words: Vec<String>,
        /// Only of this container
        #[arg(short, long, default_value = "*")]
        containers: String,
    },
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let (words, done) = match &args.what {
        What::Image { words } => (words, "image updated"),
        What::Env { words, .. } => (words, "env updated"),
    };
    let (changes, resources): (Vec<String>, Vec<String>) = words.iter().cloned().partition(|w| w.contains('=') || w.ends_with('-'));
    if changes.is_empty() {
        return Err("at least one change is required".into());
    }
    for one in named(session, &resources).await? {
        let Some(name) = one.name else { return Err("resource(s) were provided, but no name was specified".into()) };
        let api = session.client.dynamic(one.meant.resource.clone(), one.meant.namespaced.then_some(session.namespace.as_str()));
        let object = read::value(&api.get(&name).await?)?;
        let path: &[&str] = if object.at(&["spec", "template"]).is_some() { &["spec", "template", "spec"] } else { &["spec"] };
        let containers = match &args.what {
            What::Image { .. } => images(&object, path, &changes)?,
            What::Env { containers, .. } => environment(&object, path, containers, &changes),
        };
        let mut patch = json!({});
        patch.set(&[path, &["containers"]].concat(), containers);
        api.patch(&name, Patch::strategic(patch)).await?;
        println!("{}/{name} {done}", one.meant.title);
    }
    Ok(())
}

fn names(object: &Value, path: &[&str]) -> Vec<String> {
    object.list_at(&[path, &["containers"]].concat()).iter().filter_map(|c| c.str_at(&["name"])).map(str::to_owned).collect()
}

fn images(object: &Value, path: &[&str], changes: &[String]) -> Result<Value> {
    let there = names(object, path);
    let mut list = Vec::new();
    for change in changes {
        let (wanted, image) = change.split_once('=').ok_or_else(|| format!("{change:?} is not CONTAINER=IMAGE"))?;
        let matching: Vec<&String> = there.iter().filter(|n| wanted == "*" || *n == wanted).collect();
        if matching.is_empty() {
            return Err(format!("unable to find container named \"{wanted}\"").into());
        }
        list.extend(matching.into_iter().map(|n| json!({"name": n, "image": image})));
    }
    Ok(Value::Array(list))
}

fn environment(object: &Value, path: &[&str], containers: &str, changes: &[String]) -> Value {
    let env: Vec<Value> = changes
        .iter()
        .map(|change| match change.split_once('=') {
            Some((key, value)) => json!({"name": key, "value": value}),
            None => json!({"name": change.trim_end_matches('-'), "$patch": "delete"}),
        })
        .collect();
    names(object, path).into_iter().filter(|n| containers == "*" || n == containers).map(|n| json!({"name": n, "env": env})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_container_changes() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(images(&object, &["spec"], &["b=x:1".into()]).unwrap(), json!([{"name": "b", "image": "x:1"}]));
        assert!(images(&object, &["spec"], &["c=x".into()]).is_err());
        assert_eq!(
            environment(&object, &["spec"], "a", &["K=v".into(), "L-".into()]),
            json!([{"name": "a", "env": [{"name": "K", "value": "v"}, {"name": "L", "$patch": "delete"}]}])
        );
    }
}
