//! `kubectl apply`: three-way by what was applied last (an annotation), or by the server with `--server-side`.

use knarr_client::{DynamicApi, Patch, read};
use knarr_core::api::Options;
use knarr_core::{Value, ValueExt};
use knarr_schema::{patch, types};

use crate::kubectl::manifest::Files;
use crate::kubectl::resources::{Meant, of_kind};
use crate::kubectl::session::{Result, Session};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "kubectl-client-side-apply";
/// A patch that lost against another write is made anew this often.
const CONFLICTS_MAX: usize = 5;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// Let the server merge
    #[arg(long)]
    server_side: bool,
    /// Take fields over from other managers (with --server-side)
    #[arg(long)]
    force_conflicts: bool,
    /// Who owns the fields that are set
    #[arg(long)]
    field_manager: Option<String>,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    for object in args.files.read()? {
        let done = apply(args, session, object).await?;
        println!("{done}");
    }
    Ok(())
}

async fn apply(args: &Args, session: &Session, object: Value) -> Result<String> {
    let (meant, name, api) = place(session, &object).await?;
    let title = format!("{}/{name}", meant.title);
    if args.server_side {
        let options = Options {
            field_manager: Some(args.field_manager.clone().unwrap_or_else(|| "kubectl".into())),
            force: Some(args.force_conflicts),
            ..Options::default()
        };
        api.patch_with(&name, Patch::apply(object), None, &options).await?;
        return Ok(format!("{title} serverside-applied"));
    }
    let options = Options { field_manager: Some(args.field_manager.clone().unwrap_or_else(|| MANAGER.into())), ..Options::default() };
    let wanted = with_last_applied(object)?;
    for _ in 0..CONFLICTS_MAX {
        let current = match api.get(&name).await {
            Ok(found) => read::value(&found)?,
            Err(status) if status.is_not_found() => {
                api.create_with(wanted, &options).await?;
                return Ok(format!("{title} created"));
            }
            Err(status) => return Err(status.into()),
        };
        let change = three_way(&wanted, &current)?;
        if change.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(format!("{title} unchanged"));
        }
        let patch = if type_of(&wanted).is_some() { Patch::strategic(change) } else { Patch::merge(change) };
        match api.patch_with(&name, patch, None, &options).await {
            Err(status) if status.is_conflict() => {}
            Err(status) => return Err(status.into()),
            Ok(_) => return Ok(format!("{title} configured")),
        }
    }
    Err(format!("{title} changes too often").into())
}

/// Where an object belongs.
pub async fn place(session: &Session, object: &Value) -> Result<(Meant, String, DynamicApi)> {
    let text = |path: &[&str]| object.str_at(path).unwrap_or_default().to_owned();
    let meant = of_kind(session, &text(&["apiVersion"]), &text(&["kind"])).await?;
    let (name, own) = (text(&["metadata", "name"]), text(&["metadata", "namespace"]));
    if session.namespace_named && !own.is_empty() && own != session.namespace && meant.namespaced {
        return Err(format!("the namespace from the provided object \"{own}\" does not match the namespace \"{}\". You must pass '--namespace={own}' to perform this operation.", session.namespace).into());
    }
    let namespace = if own.is_empty() { session.namespace.clone() } else { own };
    let api = session.client.dynamic(meant.resource.clone(), meant.namespaced.then_some(namespace.as_str()));
    Ok((meant, name, api))
}

/// Puts the configuration as it was given into the object's annotation.
fn with_last_applied(mut object: Value) -> Result<Value> {
    object.remove(&["metadata", "annotations", LAST_APPLIED]);
    object.ensure(&["metadata", "annotations"]);
    if object.at(&["metadata", "annotations"]).is_none() {
        object.set(&["metadata", "annotations"], Value::Object(serde_json::Map::default()));
    }
    let text = serde_json::to_string(&object).map_err(|e| e.to_string())? + "\n";
    object.set(&["metadata", "annotations", LAST_APPLIED], text);
    Ok(object)
}

fn type_of(object: &Value) -> Option<types::TypeId> {
    let api_version = object.str_at(&["apiVersion"])?;
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    types::of_kind(group, version, object.str_at(&["kind"])?)
}

/// What must change so that `current` has everything of `wanted`, and nothing that was applied before and is wanted no more.
fn three_way(wanted: &Value, current: &Value) -> Result<Value> {
    let original = current.str_at(&["metadata", "annotations", LAST_APPLIED]).and_then(|t| serde_json::from_str(t).ok()).unwrap_or(Value::Null);
    Ok(match type_of(wanted) {
        Some(id) => patch::create_three_way(id, &original, wanted, current)?,
        None => merge(&original, wanted, current),
    })
}

/// The same as a merge patch, for kinds whose lists have no keys.
fn merge(original: &Value, wanted: &Value, current: &Value) -> Value {
    let (Some(wanted), Some(current)) = (wanted.as_object(), current.as_object()) else { return wanted.clone() };
    let mut change = serde_json::Map::new();
    for (key, value) in wanted {
        match current.get(key) {
            Some(there) if there == value => {}
            Some(there) if there.is_object() && value.is_object() => {
                let inner = merge(original.get(key).unwrap_or(&Value::Null), value, there);
                if inner.as_object().is_some_and(|m| !m.is_empty()) {
                    change.insert(key.clone(), inner);
                }
            }
            _ => drop(change.insert(key.clone(), value.clone())),
        }
    }
    for key in original.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| !wanted.contains_key(*k) && current.contains_key(*k)) {
        change.insert(key.clone(), Value::Null);
    }
    Value::Object(change)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_custom_object_changes_only_where_it_must() {
        let original = json!({"spec": {"a": 1, "gone": 2}});
        let wanted = json!({"spec": {"a": 3, "b": [1]}});
        let current = json!({"spec": {"a": 1, "gone": 2, "b": [1], "others": 9}});
        assert_eq!(merge(&original, &wanted, &current), json!({"spec": {"a": 3, "gone": null}}));
        assert_eq!(merge(&original, &wanted, &json!({"spec": {"a": 3, "b": [1], "others": 9}})), json!({}));
    }
}
