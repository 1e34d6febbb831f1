//! `kubectl get`: the server fills the tables.

use futures::StreamExt;
use knarr_core::{Value, ValueExt, json};

use super::options::{ALL_NAMESPACES, CHUNK, FIELD_SELECTOR, SELECTOR};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, Flags, list, switch, switch_on, text};
use crate::kubectl::manifest;
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, table};
use crate::kubectl::select::{Selection, Target};
use crate::kubectl::session::with_query;

const FLAGS: &[Flag] = &[
    switch("no-headers", "Do not print headers"),
    switch("show-kind", "List the resource type for the requested objects"),
    switch("show-labels", "Show all labels as the last column"),
    list("label-columns", "Labels that are shown as columns").short('L'),
    text("sort-by", "", "Sort by the field that this JSONPath expression names"),
    text("raw", "", "Raw URI to request from the server"),
    switch("watch", "After listing the requested objects, watch for changes").short('w'),
    switch("watch-only", "Watch for changes, without listing first"),
    switch("output-watch-events", "Output the type of the event with each object"),
    switch("ignore-not-found", "Succeed when an object does not exist"),
    text("subresource", "", "Get this subresource of the object"),
    switch_on("server-print", "Have the server return the table"),
    SELECTOR,
    FIELD_SELECTOR,
    ALL_NAMESPACES,
    CHUNK,
];

pub static VERB: Verb = Verb {
    name: "get",
    usage: "[(-o|--output=)json|yaml|kyaml|name|go-template|go-template-file|template|templatefile|jsonpath|jsonpath-as-json|jsonpath-file|custom-columns|custom-columns-file|wide] (TYPE[.VERSION][.GROUP] [NAME | -l label] | TYPE[.VERSION][.GROUP]/NAME ...) [flags]",
    about: "Display one or many resources",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

const FORMATS: &[&str] = &[
    "custom-columns",
    "custom-columns-file",
    "go-template",
    "go-template-file",
    "json",
    "jsonpath",
    "jsonpath-as-json",
    "jsonpath-file",
    "kyaml",
    "name",
    "template",
    "templatefile",
    "wide",
    "yaml",
];

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    if let Some(raw) = flags.some("raw") {
        return get_raw(cx, raw).await;
    }
    complete(cx)?;
    let session = cx.session()?;
    let mut selection = Selection::of(session, flags).type_is_all();
    selection.chunk = if flags.given("sort-by") { 0 } else { flags.int("chunk-size") };
    if flags.on("watch") || flags.on("watch-only") {
        return watch(cx, &selection).await;
    }
    let (targets, single) = selection.targets(cx.words()).await?;
    if human(flags) { tables(cx, &selection, &targets).await } else { objects(cx, &selection, &targets, single).await }
}

fn human(flags: &Flags) -> bool {
    matches!(flags.text("output"), "" | "wide") && flags.text("template").is_empty()
}

fn complete(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let watching = flags.on("watch") || flags.on("watch-only");
    if watching && flags.given("sort-by") {
        let note = if flags.on("watch") {
            "--watch requested, --sort-by will be ignored for watch events received"
        } else {
            "--watch-only requested, --sort-by will be ignored"
        };
        eprintln!("warning: {note}");
    }
    if !watching && cx.words().is_empty() && !manifest::named(flags) {
        eprintln!("You must specify the type of resource to get. Use \"kubectl api-resources\" for a complete list of supported resources.\n");
        return Err(cx.usage(
            "Required resource not specified.\nUse \"kubectl explain <resource>\" for a detailed description of that resource (e.g. kubectl explain pods).",
        ));
    }
    let output = flags.text("output");
    if flags.on("show-labels") && !matches!(output, "" | "wide") {
        return Err(format!("--show-labels option cannot be used with {output} printer").into());
    }
    if flags.given("label-columns") && output.starts_with("custom-columns") {
        return Err(format!("--label-columns option cannot be used with {output} printer").into());
    }
    if flags.on("output-watch-events") && !watching {
        return Err("--output-watch-events option can only be used with --watch or --watch-only".into());
    }
    Ok(())
}

async fn get_raw(cx: &Context, raw: &str) -> Result<()> {
    let flags = &cx.flags;
    if !cx.words().is_empty() {
        return Err("arguments may not be passed when --raw is specified".into());
    }
    if flags.on("watch") || flags.on("watch-only") || flags.given("selector") {
        return Err("--raw may not be specified with other flags that filter the server request or alter the output".into());
    }
    if flags.given("output") {
        return Err("--raw and --output are mutually exclusive".into());
    }
    if !raw.starts_with('/') {
        return Err(format!("--raw must be a valid URL path: parse {}: invalid URI for request", knarr_core::field::go_quote(raw)).into());
    }
    let mut frames = cx.session()?.stream(raw, "application/json, */*").await?;
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    while let Some(frame) = frames.next().await {
        stdout.write_all(&frame?)?;
        stdout.flush()?;
    }
    Ok(())
}

fn table_options(flags: &Flags) -> table::Options {
    table::Options {
        wide: flags.text("output") == "wide",
        no_headers: flags.on("no-headers"),
        show_labels: flags.on("show-labels"),
        label_columns: flags.all("label-columns"),
        ..table::Options::default()
    }
}

/// What one target gave: tables, a page after another.
async fn fetch_tables(selection: &Selection<'_>, target: &Target, sorting: bool) -> Result<Value> {
    let session = selection.session;
    let with_object = |path: &str| if sorting { with_query(path, &[("includeObject", "Object".into())]) } else { path.to_owned() };
    if !matches!(target, Target::Many { .. }) {
        let path = selection.subresource.as_ref().map_or_else(|| target.path(), |s| format!("{}/{s}", target.path()));
        return session.table(&with_object(&path)).await.map(plain_table);
    }
    let page = async |token| session.table(&with_object(&selection.page_path(target, token))).await.map_err(|e| selection.explain(target, e));
    let mut whole = page(None).await?;
    let mut next = token_of(&whole);
    while let Some(token) = next {
        let mut more = page(Some(token)).await?;
        next = token_of(&more);
        let rows = more.get_mut("rows").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        if let Some(all) = whole.get_mut("rows").and_then(Value::as_array_mut) {
            all.extend(rows);
        }
    }
    Ok(whole)
}

/// The table of an object that the server gave none for: name and age.
fn plain_table(answer: Value) -> Value {
    if answer.str_at(&["kind"]) == Some("Table") {
        return answer;
    }
    let name = answer.str_at(&["metadata", "name"]).unwrap_or_default();
    let age = knarr_core::time::age(answer.str_at(&["metadata", "creationTimestamp"]), jiff::Timestamp::now());
    json!({"kind": "Table", "columnDefinitions": [{"name": "Name", "type": "string", "format": "name", "priority": 0}, {"name": "Age", "type": "string", "priority": 0}],
        "rows": [{"cells": [name, age], "object": {"metadata": answer["metadata"]}}]})
}

fn token_of(list: &Value) -> Option<String> {
    list.str_at(&["metadata", "continue"]).filter(|c| !c.is_empty()).map(str::to_owned)
}

async fn tables(cx: &Context, selection: &Selection<'_>, targets: &[Target]) -> Result<()> {
    let flags = &cx.flags;
    let (mut shown, mut failures): (Vec<(&Target, Value)>, Vec<Failure>) = (Vec::new(), Vec::new());
    for target in targets {
        match fetch_tables(selection, target, flags.given("sort-by")).await {
            Ok(table) => shown.push((target, table)),
            Err(failure) if failure.is_not_found() && flags.on("ignore-not-found") => {}
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(field) = flags.some("sort-by") {
        for (_, table) in &mut shown {
            if let Some(rows) = table.get_mut("rows").and_then(Value::as_array_mut) {
                // What cannot be sorted is not shown, as kubectl has it.
                if table::sort(rows, field, |row| &row["object"]).is_err() {
                    rows.clear();
                }
            }
        }
    }
    let several = shown.iter().any(|(t, _)| t.meant() != shown[0].0.meant());
    let mut text = String::new();
    let mut at = 0;
    while at < shown.len() {
        let meant = shown[at].0.meant();
        let group: Vec<&Value> = shown[at..].iter().take_while(|(t, _)| t.meant().resource == meant.resource).map(|(_, table)| table).collect();
        at += group.len();
        let options = table::Options {
            with_namespace: flags.on("all-namespaces") && meant.namespaced,
            kind: (several || flags.on("show-kind")).then(|| meant.title.clone()),
            ..table_options(flags)
        };
        let mut rows = Vec::new();
        for table in group.iter().filter(|t| !t.list_at(&["rows"]).is_empty()) {
            let options = table::Options { no_headers: options.no_headers || !rows.is_empty(), ..options.clone() };
            rows.extend(table::rows(table, &options, None));
        }
        if rows.is_empty() {
            continue;
        }
        if !text.is_empty() && !options.no_headers {
            text.push('\n');
        }
        text += &table::layout(&rows);
    }
    out(&text)?;
    if text.is_empty() && failures.is_empty() && !flags.on("ignore-not-found") {
        let namespaced = !flags.on("all-namespaces") && targets.iter().all(|t| t.meant().namespaced);
        eprintln!("{}", if namespaced { format!("No resources found in {} namespace.", selection.session.namespace) } else { "No resources found".into() });
    }
    Failure::all(failures)
}

async fn objects(cx: &Context, selection: &Selection<'_>, targets: &[Target], single: bool) -> Result<()> {
    let flags = &cx.flags;
    let mut printer = Printer::named(flags, "", FORMATS)?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for target in targets {
        let words = match target {
            Target::One { meant, name, .. } => vec![format!("{}/{name}", full_name(meant))],
            Target::Many { meant, .. } => vec![full_name(meant)],
            Target::File(info) => {
                match selection.session.get(&info.path()).await {
                    Ok(object) => found.push(object),
                    Err(failure) if failure.is_not_found() && flags.on("ignore-not-found") => {}
                    Err(failure) => failures.push(failure),
                }
                continue;
            }
        };
        let fetched = selection.objects(&words).await?;
        found.extend(fetched.infos.into_iter().map(|i| i.object));
        failures.extend(fetched.failures.into_iter().filter(|f| !(f.is_not_found() && flags.on("ignore-not-found"))));
    }
    if single && !failures.is_empty() {
        return Failure::all(failures);
    }
    if found.is_empty() && flags.on("ignore-not-found") {
        return Failure::all(failures);
    }
    if let Some(field) = flags.some("sort-by").filter(|_| found.len() > 1) {
        table::sort(&mut found, field, |o| o)?;
    }
    let whole = if single && found.len() == 1 {
        found.remove(0)
    } else {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": found})
    };
    out(&printer.print(&whole)?)?;
    Failure::all(failures)
}

/// `deployments.v1.apps`: a name that means nothing else.
fn full_name(meant: &crate::kubectl::resources::Meant) -> String {
    let r = &meant.resource;
    if r.group.is_empty() { format!("{}.{}.", r.resource, r.version) } else { format!("{}.{}.{}", r.resource, r.version, r.group) }
}

/// Shows the objects and then a line for each change.
async fn watch(cx: &Context, selection: &Selection<'_>) -> Result<()> {
    let flags = &cx.flags;
    let session = selection.session;
    let (targets, single) = selection.targets(cx.words()).await?;
    let [target] = targets.as_slice() else { return Err("you may only specify a single resource type".into()) };
    let mut show = Show::new(flags, target)?;
    let (path, mut query) = match target {
        Target::Many { meant, namespace } => (meant.path(namespace.as_deref(), None), selection.query()),
        _ => {
            let (meant, namespace, name) = match target {
                Target::One { meant, namespace, name } => (meant, namespace, name),
                Target::File(info) => (&info.meant, &info.namespace, &info.name),
                Target::Many { meant, .. } => (meant, &session.namespace, &session.namespace),
            };
            (meant.path(Some(namespace), None), vec![("fieldSelector", format!("metadata.name={name}"))])
        }
    };
    let mut version = "0".to_owned();
    if single {
        // It must exist; the watch shows it then.
        match session.get(&target.path()).await {
            Err(failure) if failure.is_not_found() && flags.on("ignore-not-found") => return Ok(()),
            other => other?,
        };
    } else {
        let first = with_query(&path, &query);
        let listed = if human(flags) { session.table(&first).await } else { session.get(&first).await }.map_err(|e| selection.explain(target, e))?;
        version = listed.str_at(&["metadata", "resourceVersion"]).unwrap_or("0").to_owned();
        if !flags.on("watch-only") {
            show.listed(&listed)?;
        }
    }
    query.push(("watch", "true".into()));
    query.push(("resourceVersion", version));
    let mut events = session.watch(&with_query(&path, &query), human(flags)).await?;
    let mut skip = single && flags.on("watch-only");
    while let Some(event) = events.next().await {
        let event = event?;
        let kind = event.str_at(&["type"]).unwrap_or_default();
        match kind {
            "BOOKMARK" => {}
            "ERROR" => {
                let status = event.at(&["object"]).and_then(|o| knarr_core::Status::from_json(o.to_string().as_bytes()));
                return Err(status.map_or_else(|| Failure::from("an error came instead of an event"), Failure::from));
            }
            // What is there already is no change.
            _ if std::mem::take(&mut skip) => {}
            kind => show.event(kind, event.at(&["object"]).unwrap_or(&Value::Null))?,
        }
    }
    Ok(())
}

/// What a watch shows, over its whole life.
struct Show {
    options: table::Options,
    growing: table::Growing,
    columns: Value,
    printer: Option<Printer>,
    api_version: String,
    kind: String,
}

impl Show {
    fn new(flags: &Flags, target: &Target) -> Result<Self> {
        let meant = target.meant();
        let options = table::Options {
            with_namespace: flags.on("all-namespaces") && meant.namespaced,
            with_event: flags.on("output-watch-events"),
            kind: flags.on("show-kind").then(|| meant.title.clone()),
            ..table_options(flags)
        };
        let printer = if human(flags) { None } else { Some(Printer::named(flags, "", FORMATS)?) };
        Ok(Self { options, growing: table::Growing::default(), columns: Value::Null, printer, api_version: meant.api_version(), kind: meant.kind.clone() })
    }

    fn listed(&mut self, listed: &Value) -> Result<()> {
        if self.printer.is_none() {
            return self.rows(listed, "ADDED");
        }
        for item in listed.list_at(&["items"]) {
            let mut item = item.clone();
            item.set(&["apiVersion"], self.api_version.clone());
            item.set(&["kind"], self.kind.clone());
            self.event("ADDED", &item)?;
        }
        Ok(())
    }

    fn event(&mut self, kind: &str, object: &Value) -> Result<()> {
        let with_event = self.options.with_event;
        match &mut self.printer {
            None => self.rows(object, kind),
            Some(printer) if with_event => out(&printer.print(&json!({"type": kind, "object": object}))?),
            Some(printer) => out(&printer.print(object)?),
        }
    }

    /// Only the first table of a watch has column definitions.
    fn rows(&mut self, table: &Value, kind: &str) -> Result<()> {
        if table.list_at(&["rows"]).is_empty() {
            return Ok(());
        }
        let mut table = table.clone();
        if table.list_at(&["columnDefinitions"]).is_empty() {
            table.set(&["columnDefinitions"], self.columns.clone());
        } else {
            self.columns = table["columnDefinitions"].clone();
        }
        let rows = table::rows(&table, &self.options, Some(kind));
        self.options.no_headers = true;
        out(&self.growing.layout(&rows))
    }
}
