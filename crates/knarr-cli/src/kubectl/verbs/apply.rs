//! `kubectl apply`: three-way by what was applied last (an annotation), or by the server with `--server-side`.

use std::collections::BTreeSet;

use knarr_core::{Value, ValueExt, json};
use knarr_schema::{codec, patch};

use super::change::{MERGE, STRATEGIC, is_empty, type_of};
use super::options::{ALL, DRY_RUN, FIELD_MANAGER, SELECTOR, VALIDATE};
use super::writes::{DryRun, create, write_query};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, list, switch, switch_on, text, time};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, go};
use crate::kubectl::resources::find;
use crate::kubectl::select::{Info, Selection, place};
use crate::kubectl::session::with_query;

pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const MANAGER: &str = "kubectl-client-side-apply";
const APPLY: &str = "application/apply-patch+yaml";
/// A patch that lost against another write is made anew this often.
const CONFLICTS_MAX: usize = 5;

const FLAGS: &[Flag] = &[
    switch("server-side", "Let the server merge"),
    switch("force-conflicts", "With --server-side, take fields over from other managers"),
    switch_on("overwrite", "Resolve conflicts with the live object in favour of what is applied"),
    switch_on("openapi-patch", "Accepted; the schema is built in"),
    switch("prune", "Delete what was applied before and is there no more"),
    list("prune-allowlist", "Kinds that --prune looks at, as <group/version/kind>"),
    list("prune-whitelist", "The old name of --prune-allowlist"),
    switch("force", "Delete the object and make it anew when it cannot be patched"),
    text("cascade", "background", "How dependents are deleted").bare("background"),
    int("grace-period", "-1", "Seconds given to what is deleted to end gracefully"),
    time("timeout", "0s", "How long to wait for deletions"),
    switch("wait", "Wait for deletions"),
    text("subresource", "", "Apply this subresource of the object"),
    DRY_RUN,
    FIELD_MANAGER,
    SELECTOR,
    ALL,
    VALIDATE,
];

pub static VERB: Verb = Verb {
    name: "apply",
    usage: "-f FILENAME [flags]",
    about: "Apply a configuration to a resource by file name or stdin",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    verbs: &[
        &Verb {
            name: "edit-last-applied",
            usage: "(RESOURCE/NAME | -f FILENAME) [flags]",
            about: "Edit latest last-applied-configuration annotations of a resource/object",
            flags: &[&[FIELD_MANAGER, VALIDATE, switch("windows-line-endings", "Accepted; line ends are the platform's")], manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(edit_last(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "set-last-applied",
            usage: "-f FILENAME [flags]",
            about: "Set the last-applied-configuration annotation on a live object to match the contents of a file",
            flags: &[&[DRY_RUN, switch("create-annotation", "Create the annotation if there is none")], manifest::FLAGS, print::FLAGS],
            run: Some(|cx| Box::pin(set_last(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "view-last-applied",
            usage: "(TYPE [NAME | -l label] | TYPE/NAME | -f FILENAME) [flags]",
            about: "View the latest last-applied-configuration annotations of a resource/object",
            flags: &[&[SELECTOR, ALL, text("output", "yaml", "Output format. Must be one of (yaml, json)").short('o')], manifest::FLAGS],
            run: Some(|cx| Box::pin(view_last(cx))),
            ..Verb::NONE
        },
    ],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let dry_run = DryRun::of(flags)?;
    if !cx.words().is_empty() {
        return Err(cx.usage(format!("Unexpected args: [{}]", cx.words().join(" "))));
    }
    if flags.on("force-conflicts") && !flags.on("server-side") {
        return Err("--force-conflicts only works with --server-side".into());
    }
    if dry_run == DryRun::Client && flags.on("server-side") {
        return Err("--dry-run=client doesn't work with --server-side (did you mean --dry-run=server instead?)".into());
    }
    if flags.on("force") && flags.on("server-side") {
        return Err("--force cannot be used with --server-side".into());
    }
    if flags.on("prune") && !flags.on("all") && !flags.given("selector") {
        return Err("all resources selected for prune without explicitly passing --all. To prune all resources, pass the --all flag. If you did not mean to prune all resources, specify a label selector".into());
    }
    manifest::require(flags)?;
    let session = cx.session()?;
    let selector = flags.some("selector").map(knarr_core::selector::LabelSelector::parse).transpose()?;
    let (objects, mut failures) = manifest::read(flags).await;
    let mut infos = Vec::new();
    for read in objects {
        match place(session, read).await {
            Ok(info) if selector.as_ref().is_none_or(|s| s.matches(info.object.at(&["metadata", "labels"]))) => infos.push(info),
            Ok(_) => {}
            Err(e) => failures.push(e),
        }
    }
    if infos.is_empty() && failures.is_empty() {
        return Err("no objects passed to apply".into());
    }
    let mut applied = Vec::new();
    let mut shown = Vec::new();
    for info in &infos {
        match apply(cx, info, dry_run).await {
            Ok((object, operation)) => {
                applied.push(object.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned());
                if flags.given("output") { shown.push(object) } else { out(&Printer::of(flags, &dry_run.note(operation))?.print(&object)?)? }
            }
            Err(e) => failures.push(e),
        }
    }
    print_all(cx, shown, infos.len())?;
    if flags.on("prune") && failures.is_empty() {
        prune(cx, &infos, &applied, dry_run).await?;
    }
    Failure::all(failures)
}

/// With an output format, several objects are printed as one list.
fn print_all(cx: &Context, mut shown: Vec<Value>, asked: usize) -> Result<()> {
    let mut printer = Printer::of(&cx.flags, "")?;
    if cx.flags.text("output") == "name" {
        return shown.iter().try_for_each(|o| out(&printer.print(o)?));
    }
    match shown.len() {
        0 => Ok(()),
        1 if asked == 1 => out(&printer.print(&shown.remove(0))?),
        _ => out(&printer.print(&json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": shown}))?),
    }
}

async fn apply(cx: &Context, info: &Info, dry_run: DryRun) -> Result<(Value, &'static str)> {
    if cx.flags.on("server-side") { server_side(cx, info, dry_run).await } else { client_side(cx, info, dry_run).await }
}

async fn server_side(cx: &Context, info: &Info, dry_run: DryRun) -> Result<(Value, &'static str)> {
    let flags = &cx.flags;
    let mut query = write_query(flags, "kubectl", dry_run)?;
    query.push(("force", flags.on("force-conflicts").to_string()));
    let base = flags.some("subresource").map_or_else(|| info.path(), |s| format!("{}/{s}", info.path()));
    match cx.session()?.patch(&with_query(&base, &query), APPLY, &info.object).await {
        Ok(object) => Ok((object, "serverside-applied")),
        Err(Failure::Server(status)) if status.is_conflict() => Err(Failure::Other(format!(
            "{}\nPlease review the fields above--they currently have other managers. Here\nare the ways you can resolve this warning:\n* If you intend to manage all of these fields, please re-run the apply\n  command with the `--force-conflicts` flag.\n* If you do not intend to manage all of the fields, please edit your\n  manifest to remove references to the fields that should keep their\n  current managers.\n* You may co-own fields by updating your manifest to match the existing\n  value; in this case, you'll become the manager if the other manager(s)\n  stop managing the field (remove it from their configuration).\nSee https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts",
            status.message
        ))),
        Err(e) => Err(e),
    }
}

async fn client_side(cx: &Context, info: &Info, dry_run: DryRun) -> Result<(Value, &'static str)> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let query = write_query(flags, MANAGER, dry_run)?;
    let mut wanted = info.object.clone();
    annotate(&mut wanted);
    if info.name.is_empty() {
        return Err(format!("from {}: cannot use generate name with apply", info.object.str_at(&["metadata", "generateName"]).unwrap_or_default())
            .replacen("from :", "from", 1)
            .into());
    }
    let mut refused = None;
    for _ in 0..CONFLICTS_MAX {
        let current = match session.get(&info.path()).await {
            Ok(found) => found,
            Err(e) if e.is_not_found() => {
                if dry_run == DryRun::Client {
                    return Ok((wanted, "created"));
                }
                let made = create(session, &Info { object: wanted, ..info.clone() }, &query).await.map_err(|e| e.when("creating", &info.source))?;
                return Ok((made, "created"));
            }
            Err(e) => return Err(retrieving(info, e)),
        };
        if current.str_at(&["metadata", "annotations", LAST_APPLIED]).is_none() {
            eprintln!(
                "Warning: resource {} is missing the {LAST_APPLIED} annotation which is required by kubectl apply. kubectl apply should only be used on resources created declaratively by either kubectl create --save-config or kubectl apply. The missing annotation will be patched automatically.",
                info.plural_name()
            );
        }
        let change = three_way(&wanted, &current)?;
        if is_empty(&change) {
            return Ok((current, "unchanged"));
        }
        let kind = if type_of(&wanted).is_some() { STRATEGIC } else { MERGE };
        if dry_run == DryRun::Client {
            let after = match type_of(&wanted) {
                Some(id) => patch::strategic_merge(id, &current, &change)?,
                None => patch::merge_patch(&current, &change),
            };
            return Ok((after, "configured"));
        }
        match session.patch(&with_query(&info.path(), &query), kind, &change).await {
            Err(Failure::Server(status)) if status.is_conflict() => refused = Some(Failure::Server(status)),
            Err(Failure::Server(status)) if status.code == 422 && flags.on("force") => return recreate(cx, info, wanted, &query).await,
            Err(e) => {
                return Err(e.when_applying(&change, info));
            }
            Ok(after) => {
                return Ok((after, "configured"));
            }
        }
    }
    Err(refused.unwrap_or_else(|| format!("{} changes too often", info.title()).into()))
}

fn retrieving(info: &Info, failure: Failure) -> Failure {
    let r = &info.meant.resource;
    let text = |message: &str| {
        format!(
            "error when retrieving current configuration of:\nResource: \"{}/{}, Resource={}\", GroupVersionKind: \"{}/{}, Kind={}\"\nName: \"{}\", Namespace: \"{}\"\nfrom server for: \"{}\": {message}",
            r.group, r.version, r.resource, r.group, r.version, info.meant.kind, info.name, info.namespace, info.source
        )
    };
    match failure {
        Failure::Server(mut status) => {
            status.message = text(&status.message);
            Failure::Server(status)
        }
        other => other,
    }
}

impl Failure {
    /// Says which patch was refused for which object.
    fn when_applying(self, change: &Value, info: &Info) -> Self {
        let r = &info.meant.resource;
        match self {
            Self::Server(mut status) if status.code != 422 => {
                status.message = format!(
                    "error when applying patch:\n{}\nto:\nResource: \"{}/{}, Resource={}\", GroupVersionKind: \"{}/{}, Kind={}\"\nName: \"{}\", Namespace: \"{}\"\nfor: \"{}\": error when patching \"{}\": {}",
                    go::json_compact(change),
                    r.group,
                    r.version,
                    r.resource,
                    r.group,
                    r.version,
                    info.meant.kind,
                    info.name,
                    info.namespace,
                    info.source,
                    info.source,
                    status.message
                );
                Self::Server(status)
            }
            other => other,
        }
    }
}

async fn recreate(cx: &Context, info: &Info, wanted: Value, query: &[(&'static str, String)]) -> Result<(Value, &'static str)> {
    let session = cx.session()?;
    let grace = cx.flags.int("grace-period").max(0);
    session.delete(&info.path(), &json!({"gracePeriodSeconds": grace, "propagationPolicy": "Background"})).await?;
    super::delete::until_gone(session, info, "").await?;
    Ok((create(session, &Info { object: wanted, ..info.clone() }, query).await?, "configured"))
}

/// Puts the configuration as it was given into the object's annotation.
pub fn annotate(object: &mut Value) {
    object.remove(&["metadata", "annotations", LAST_APPLIED]);
    if object.at(&["metadata", "annotations"]).is_none() {
        object.set(&["metadata", "annotations"], json!({}));
    }
    let text = go::json_compact(object) + "\n";
    object.set(&["metadata", "annotations", LAST_APPLIED], text);
}

fn last_applied(object: &Value) -> Option<Value> {
    object.str_at(&["metadata", "annotations", LAST_APPLIED]).and_then(|t| codec::parse_json(t.as_bytes()).ok())
}

/// What must change so that `current` has everything of `wanted`, and nothing that was applied before and is wanted no more.
pub fn three_way(wanted: &Value, current: &Value) -> Result<Value> {
    let original = last_applied(current).unwrap_or(Value::Null);
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

/// Kinds that `--prune` looks at unless told otherwise; those without a namespace last.
const PRUNED: &[&str] = &[
    "configmaps",
    "endpoints",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "secrets",
    "services",
    "jobs.batch",
    "cronjobs.batch",
    "ingresses.networking.k8s.io",
    "daemonsets.apps",
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "namespaces",
    "persistentvolumes",
];

async fn prune(cx: &Context, infos: &[Info], applied: &[String], dry_run: DryRun) -> Result<()> {
    let session = cx.session()?;
    for info in prunable(cx, infos, applied).await? {
        if dry_run != DryRun::Client {
            let mut options = json!({"propagationPolicy": "Background"});
            if dry_run == DryRun::Server {
                options["dryRun"] = json!(["All"]);
            }
            session.delete(&info.path(), &options).await?;
        }
        println!("{} {}", info.title(), dry_run.note("pruned"));
    }
    Ok(())
}

/// What was applied before, is there, and is none of these any more.
pub(super) async fn prunable(cx: &Context, infos: &[Info], applied: &[String]) -> Result<Vec<Info>> {
    let mut found = Vec::new();
    let (flags, session) = (&cx.flags, cx.session()?);
    let namespaces: BTreeSet<&str> = infos.iter().filter(|i| i.meant.namespaced).map(|i| i.namespace.as_str()).collect();
    let mut kinds = Vec::new();
    let listed: Vec<String> = [flags.all("prune-allowlist"), flags.all("prune-whitelist")].concat();
    for entry in &listed {
        let parts: Vec<&str> = entry.split('/').collect();
        let [group, version, kind] = parts.as_slice() else {
            return Err(format!("invalid GroupVersionKind format: {entry}, please follow <group/version/kind>").into());
        };
        let group = if *group == "core" { "" } else { group };
        kinds.push(
            crate::kubectl::resources::of_kind(session, &if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") }, kind).await?,
        );
    }
    if listed.is_empty() {
        for name in PRUNED {
            kinds.push(find(session, name).await?);
        }
    }
    let query: Vec<(&'static str, String)> = flags.some("selector").map(|s| ("labelSelector", s.to_owned())).into_iter().collect();
    for meant in &kinds {
        let places: Vec<Option<&str>> = if meant.namespaced { namespaces.iter().copied().map(Some).collect() } else { vec![None] };
        for place in places {
            let list = session.get(&with_query(&meant.path(place, None), &query)).await?;
            for object in list.list_at(&["items"]) {
                let uid = object.str_at(&["metadata", "uid"]).unwrap_or_default();
                if last_applied(object).is_none() || applied.iter().any(|a| a == uid) {
                    continue;
                }
                found.push(Info::of(meant, object.clone()));
            }
        }
    }
    Ok(found)
}

async fn view_last(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let format = flags.text("output");
    if !matches!(format, "yaml" | "json") {
        return Err(cx.usage(format!("Unexpected -o output mode: {format}, the flag 'output' must be one of yaml|json")));
    }
    let mut selection = Selection::of(cx.session()?, flags);
    selection.type_is_all = flags.on("all");
    for info in selection.objects(cx.words()).await?.all()? {
        let Some(last) = last_applied(&info.object) else {
            return Err(format!("no last-applied-configuration annotation found on resource: {}", info.name).into());
        };
        out(&if format == "json" { go::json_indent_by(&last, b"  ") + "\n" } else { print::yaml::to_string(&last) })?;
    }
    Ok(())
}

async fn set_last(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let dry_run = DryRun::of(flags)?;
    manifest::require(flags)?;
    let (objects, failures) = manifest::read(flags).await;
    Failure::all(failures)?;
    let mut printer = Printer::of(flags, &dry_run.note("configured"))?;
    for read in objects {
        let info = place(session, read).await?;
        let current = session.get(&info.path()).await?;
        if last_applied(&current).is_none() && !flags.on("create-annotation") {
            return Err(format!(
                "no last-applied-configuration annotation found on resource: {}, to create the annotation, run the command with --create-annotation",
                info.name
            )
            .into());
        }
        let mut wanted = info.object.clone();
        annotate(&mut wanted);
        let annotation = wanted.at(&["metadata", "annotations", LAST_APPLIED]).cloned().unwrap_or_default();
        let mut after = current.clone();
        after.set(&["metadata", "annotations", LAST_APPLIED], annotation.clone());
        if dry_run != DryRun::Client {
            let query = if dry_run == DryRun::Server { vec![("dryRun", "All".to_owned())] } else { Vec::new() };
            after = session.patch(&with_query(&info.path(), &query), MERGE, &json!({"metadata": {"annotations": {LAST_APPLIED: annotation}}})).await?;
        }
        out(&printer.print(&after)?)?;
    }
    Ok(())
}

async fn edit_last(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    for info in Selection::of(session, flags).objects(cx.words()).await?.all()? {
        let last = last_applied(&info.object).ok_or_else(|| format!("no last-applied-configuration annotation found on resource: {}", info.name))?;
        let mut edited = super::edit::by_hand(&last)?;
        if edited == last {
            println!("Edit cancelled, no changes made.");
            continue;
        }
        annotate(&mut edited);
        let annotation = edited.at(&["metadata", "annotations", LAST_APPLIED]).cloned().unwrap_or_default();
        let after = session.patch(&info.path(), MERGE, &json!({"metadata": {"annotations": {LAST_APPLIED: annotation}}})).await?;
        out(&Printer::of(flags, "edited")?.print(&after)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_custom_object_changes_only_where_it_must() {
        let original = json!({"spec": {"a": 1, "gone": 2}});
        let wanted = json!({"spec": {"a": 3, "b": [1]}});
        let current = json!({"spec": {"a": 1, "gone": 2, "b": [1], "others": 9}});
        assert_eq!(merge(&original, &wanted, &current), json!({"spec": {"a": 3, "gone": null}}));
        assert_eq!(merge(&original, &wanted, &json!({"spec": {"a": 3, "b": [1], "others": 9}})), json!({}));
    }

    #[test]
    fn the_annotation_holds_what_was_given() {
        let mut object = json!({"kind": "A", "metadata": {"name": "<x>"}});
        annotate(&mut object);
        let text = object.str_at(&["metadata", "annotations", LAST_APPLIED]).unwrap();
        assert_eq!(text, "{\"kind\":\"A\",\"metadata\":{\"annotations\":{},\"name\":\"\\u003cx\\u003e\"}}\n");
    }
}
