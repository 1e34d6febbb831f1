//! `kubectl auth`: can-i, whoami, reconcile.

use knarr_core::{Value, ValueExt, json};

use super::describe::rule_lines;
use super::options::{ALL_NAMESPACES, DRY_RUN};
use super::writes::DryRun;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{switch, text};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, table, tabs};
use crate::kubectl::resources::find;
use crate::kubectl::select::{Info, place};
use crate::kubectl::session::with_query;

pub static VERB: Verb = Verb {
    name: "auth",
    about: "Inspect authorization",
    verbs: &[
        &Verb {
            name: "can-i",
            usage: "VERB [TYPE | TYPE/NAME | NONRESOURCEURL] [flags]",
            about: "Check whether an action is allowed",
            flags: &[&[
                ALL_NAMESPACES,
                switch("list", "Print all allowed actions"),
                switch("no-headers", "Print allowed actions without headers"),
                switch("quiet", "Suppress output and just return the exit code").short('q'),
                text("subresource", "", "Subresource such as log or scale"),
            ]],
            run: Some(|cx| Box::pin(can_i(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "reconcile",
            usage: "-f FILENAME [flags]",
            about: "Reconciles rules for RBAC role, role binding, cluster role, and cluster role binding objects",
            flags: &[
                &[
                    DRY_RUN,
                    switch("remove-extra-permissions", "Remove extra permissions added to roles"),
                    switch("remove-extra-subjects", "Remove extra subjects added to rolebindings"),
                ],
                manifest::FLAGS,
                print::FLAGS,
            ],
            run: Some(|cx| Box::pin(reconcile(cx))),
            ..Verb::NONE
        },
        &Verb {
            name: "whoami",
            usage: "[flags]",
            about: "Check self subject attributes",
            flags: &[print::FLAGS],
            run: Some(|cx| Box::pin(whoami(cx))),
            ..Verb::NONE
        },
    ],
    ..Verb::NONE
};

const RESOURCE_VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "use",
    "bind",
    "impersonate",
    "*",
    "approve",
    "sign",
    "escalate",
    "attest",
    "proxy",
];
const URL_VERBS: &[&str] = &["get", "put", "post", "head", "options", "delete", "patch", "*"];
const ODD_NAMES: &[&str] = &["users", "groups"];

fn warn(text: &str) {
    eprintln!("Warning: {text}\n");
}

async fn can_i(cx: &Context) -> Result<()> {
    let (flags, words) = (&cx.flags, cx.words());
    if flags.on("list") {
        return list(cx).await;
    }
    let [verb, what] = words else {
        return Err("you must specify two arguments: verb resource or verb resource/resourceName.\nSee 'kubectl auth can-i -h' for help and examples.".into());
    };
    let session = cx.session()?;
    let spec = if what.starts_with('/') {
        if flags.given("subresource") {
            return Err("--subresource can not be used with NonResourceURL".into());
        }
        if !URL_VERBS.contains(&verb.as_str()) {
            warn(&format!("verb '{verb}' is not a known verb"));
        }
        json!({"nonResourceAttributes": {"verb": verb, "path": what}})
    } else {
        json!({"resourceAttributes": attributes(cx, verb, what).await?})
    };
    if flags.on("no-headers") {
        return Err("--no-headers cannot be set without --list specified".into());
    }
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
    let answer = session.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await?;
    let allowed = answer.bool_at(&["status", "allowed"]) == Some(true);
    if !flags.on("quiet") {
        let why = ["reason", "evaluationError"].iter().filter_map(|k| answer.str_at(&["status", k])).filter(|t| !t.is_empty()).map(|t| format!(" - {t}"));
        println!("{}", if allowed { "yes".to_owned() } else { format!("no{}", why.collect::<String>()) });
    }
    if allowed { Ok(()) } else { Err(Failure::Exit(1)) }
}

async fn attributes(cx: &Context, verb: &str, what: &str) -> Result<Value> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let (kind, name) = what.split_once('/').map_or((what, ""), |(k, n)| (k, n));
    let mut attributes = json!({"verb": verb, "resource": kind});
    if kind != "*" {
        match find(session, &kind.to_lowercase()).await {
            Ok(meant) => {
                attributes["resource"] = meant.resource.resource.clone().into();
                attributes["group"] = meant.resource.group.clone().into();
                if !meant.namespaced && !flags.on("all-namespaces") {
                    let group = if meant.resource.group.is_empty() { String::new() } else { format!(" in group '{}'", meant.resource.group) };
                    warn(&format!("resource '{}' is not namespace scoped{group}", meant.resource.resource));
                }
            }
            Err(_) if !ODD_NAMES.contains(&kind) => {
                let (plain, group) = kind.split_once('.').map_or((kind, None), |(k, g)| (k, Some(g)));
                warn(&format!("the server doesn't have a resource type '{plain}'{}", group.map(|g| format!(" in group '{g}'")).unwrap_or_default()));
            }
            Err(_) => {}
        }
        if !RESOURCE_VERBS.contains(&verb) {
            warn(&format!("verb '{verb}' is not a known verb"));
        }
    }
    if !flags.on("all-namespaces") {
        attributes["namespace"] = session.namespace.clone().into();
    }
    for (key, value) in [("name", name), ("subresource", flags.text("subresource"))] {
        if !value.is_empty() {
            attributes[key] = value.into();
        }
    }
    Ok(attributes)
}

async fn list(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    if !cx.words().is_empty() {
        return Err("list option must be specified with no arguments".into());
    }
    if flags.on("quiet") || flags.on("all-namespaces") || flags.given("subresource") {
        return Err("list option can't be specified with neither quiet, all-namespaces nor subresource options".into());
    }
    let session = cx.session()?;
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": session.namespace}});
    let answer = session.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review).await?;
    if answer.bool_at(&["status", "incomplete"]) == Some(true) {
        eprintln!("Warning: the list may be incomplete: {}", answer.str_at(&["status", "evaluationError"]).unwrap_or_default());
    }
    let rules = [answer.list_at(&["status", "resourceRules"]), answer.list_at(&["status", "nonResourceRules"])].concat();
    let mut text = if flags.on("no-headers") { String::new() } else { "Resources\tNon-Resource URLs\tResource Names\tVerbs\n".to_owned() };
    rule_lines(&rules).iter().for_each(|l| text += &format!("{l}\n"));
    out(&tabs::layout(&text, 6, 3))
}

async fn whoami(cx: &Context) -> Result<()> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = cx.session()?.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await?;
    if cx.flags.given("output") {
        return out(&Printer::of(&cx.flags, "")?.print(&answer)?);
    }
    let user = answer.at(&["status", "userInfo"]).unwrap_or(&Value::Null);
    let list = |v: &Value| format!("[{}]", v.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    let mut rows = vec![vec!["ATTRIBUTE".to_owned(), "VALUE".to_owned()]];
    for (title, key) in [("Username", "username"), ("UID", "uid")] {
        if let Some(text) = user.str_at(&[key]).filter(|t| !t.is_empty()) {
            rows.push(vec![title.into(), text.into()]);
        }
    }
    if let Some(groups) = user.at(&["groups"]) {
        rows.push(vec!["Groups".into(), list(groups)]);
    }
    for (key, values) in user.at(&["extra"]).and_then(Value::as_object).into_iter().flatten() {
        rows.push(vec![format!("Extra: {key}"), list(values)]);
    }
    out(&table::layout(&rows))
}

/// What is missing of one list in the other.
fn missing(of: &[Value], there: &[Value]) -> Vec<Value> {
    of.iter().filter(|w| !there.contains(w)).cloned().collect()
}

async fn reconcile(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let dry_run = DryRun::of(flags)?;
    manifest::require(flags)?;
    let (objects, failures) = manifest::read(flags).await;
    Failure::all(failures)?;
    let query = if dry_run == DryRun::Server { vec![("dryRun", "All".to_owned())] } else { Vec::new() };
    let mut printer = Printer::of(flags, &dry_run.note("reconciled"))?;
    for read in objects {
        let info = place(session, read).await?;
        let (field, remove) = match info.meant.kind.as_str() {
            "Role" | "ClusterRole" => ("rules", flags.on("remove-extra-permissions")),
            "RoleBinding" | "ClusterRoleBinding" => ("subjects", flags.on("remove-extra-subjects")),
            other => {
                eprintln!("skipping {}: {other} is not reconciled", info.title());
                continue;
            }
        };
        let done = match session.get(&info.path()).await {
            Err(e) if e.is_not_found() && dry_run == DryRun::Client => info.object.clone(),
            Err(e) if e.is_not_found() => session.post(&with_query(&info.meant.path(Some(&info.namespace), None), &query), &info.object).await?,
            Err(e) => return Err(e),
            Ok(current) => one(cx, &info, current, field, remove, &query, dry_run).await?,
        };
        out(&printer.print(&done)?)?;
    }
    Ok(())
}

async fn one(cx: &Context, info: &Info, current: Value, field: &str, remove: bool, query: &[(&'static str, String)], dry_run: DryRun) -> Result<Value> {
    let session = cx.session()?;
    let (wanted, there) = (info.object.list_at(&[field]).to_vec(), current.list_at(&[field]).to_vec());
    let mut new = current.clone();
    let all = if remove { wanted } else { [there.clone(), missing(&wanted, &there)].concat() };
    new.set(&[field], all);
    for map in ["labels", "annotations"] {
        for (key, value) in info.object.at(&["metadata", map]).and_then(Value::as_object).into_iter().flatten() {
            new.set(&["metadata", map, key], value.clone());
        }
    }
    if dry_run == DryRun::Client || new == current {
        return Ok(new);
    }
    if info.object.at(&["roleRef"]) != current.at(&["roleRef"]) {
        // What a binding refers to cannot be changed: it is made anew.
        let options = if query.is_empty() { json!({}) } else { json!({"dryRun": ["All"]}) };
        session.delete(&info.path(), &options).await?;
        return session.post(&with_query(&info.meant.path(Some(&info.namespace), None), query), &info.object).await;
    }
    session.put(&with_query(&info.path(), query), &new).await
}
