//! `kubectl events`.

use futures::StreamExt;
use knarr_core::{Value, ValueExt, json, time};

use super::describe::page::{since, text};
use super::options::{ALL_NAMESPACES, CHUNK};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::Result;
use crate::kubectl::flags::{Flag, list, switch, text as text_flag};
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, table};
use crate::kubectl::resources::find;
use crate::kubectl::resources::known;
use crate::kubectl::session::with_query;

const FLAGS: &[Flag] = &[
    ALL_NAMESPACES,
    CHUNK,
    switch("watch", "After listing the requested events, watch for more events").short('w'),
    text_flag("for", "", "Filter events to only those pertaining to the specified resource"),
    list("types", "Output only events of given types"),
    switch("no-headers", "Do not print headers"),
];

pub static VERB: Verb = Verb {
    name: "events",
    usage: "[(-o|--output=)json|yaml|kyaml|name|go-template|go-template-file|template|templatefile|jsonpath|jsonpath-as-json|jsonpath-file] [--for TYPE/NAME] [--watch] [--types=Normal,Warning] [flags]",
    about: "List events",
    flags: &[FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let types = flags.all("types");
    for kind in &types {
        if !kind.eq_ignore_ascii_case("normal") && !kind.eq_ignore_ascii_case("warning") {
            return Err("valid --types are Normal or Warning".into());
        }
    }
    let mut printer = if flags.given("output") { Some(Printer::of(flags, "")?) } else { None };
    let session = cx.session()?;
    let mut query = Vec::new();
    if let Some(about) = flags.some("for") {
        let (kind, name) = about.split_once('/').ok_or("--for must be in resource/name form")?;
        let meant = find(session, kind).await?;
        query.push((
            "fieldSelector",
            format!("involvedObject.apiVersion={},involvedObject.kind={},involvedObject.name={name}", meant.api_version(), meant.kind),
        ));
    }
    let namespace = (!flags.on("all-namespaces")).then_some(session.namespace.as_str());
    let path = known("events").path(namespace, None);
    let wanted = |e: &Value| types.is_empty() || types.iter().any(|t| t.eq_ignore_ascii_case(text(e, &["type"])));
    let list = session.get(&with_query(&path, &query)).await?;
    let mut events: Vec<Value> = list.list_at(&["items"]).iter().filter(|e| wanted(e)).cloned().collect();
    events.sort_by_key(last_seen);
    if events.is_empty() && !flags.on("watch") {
        match namespace {
            Some(namespace) => eprintln!("No events found in {namespace} namespace."),
            None => eprintln!("No events found."),
        }
        return Ok(());
    }
    let mut growing = table::Growing::default();
    let headings = !flags.on("no-headers");
    if let Some(printer) = &mut printer {
        let items: Vec<Value> = events.iter().map(with_kind).collect();
        let whole = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        if !flags.on("watch") {
            return out(&printer.print(&whole)?);
        }
        items.iter().try_for_each(|e| out(&printer.print(e)?))?;
    } else {
        let mut rows: Vec<Vec<String>> = headings.then(|| heading(namespace.is_none())).into_iter().collect();
        rows.extend(events.iter().map(|e| row(e, namespace.is_none())));
        out(&growing.layout(&rows))?;
    }
    if !flags.on("watch") {
        return Ok(());
    }
    query.extend([("watch", "true".to_owned()), ("resourceVersion", text(&list, &["metadata", "resourceVersion"]).to_owned())]);
    let mut stream = session.watch(&with_query(&path, &query), false).await?;
    while let Some(event) = stream.next().await {
        let event = event?;
        let Some(object) = event.at(&["object"]).filter(|o| event["type"] != "DELETED" && event["type"] != "BOOKMARK" && wanted(o)) else { continue };
        match &mut printer {
            Some(printer) => out(&printer.print(object)?)?,
            None => out(&growing.layout(&[row(object, namespace.is_none())]))?,
        }
    }
    Ok(())
}

fn with_kind(event: &Value) -> Value {
    let mut event = event.clone();
    event.set(&["apiVersion"], "v1");
    event.set(&["kind"], "Event");
    event
}

fn last_seen(event: &Value) -> Option<jiff::Timestamp> {
    let series = event.str_at(&["series", "lastObservedTime"]);
    series.or_else(|| event.str_at(&["lastTimestamp"])).or_else(|| event.str_at(&["eventTime"])).and_then(time::parse)
}

fn heading(with_namespace: bool) -> Vec<String> {
    let names = ["NAMESPACE", "LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
    names[usize::from(!with_namespace)..].iter().map(|n| (*n).to_owned()).collect()
}

fn row(event: &Value, with_namespace: bool) -> Vec<String> {
    let first = event.str_at(&["firstTimestamp"]).or_else(|| event.str_at(&["eventTime"]));
    let seen = match (event.at(&["series"]), event.i64_at(&["count"]).unwrap_or(0)) {
        (Some(series), _) => format!("{} (x{} over {})", since(series.str_at(&["lastObservedTime"])), series.i64_at(&["count"]).unwrap_or(0), since(first)),
        (None, count) if count > 1 => format!("{} (x{count} over {})", since(event.str_at(&["lastTimestamp"])), since(first)),
        _ => since(first),
    };
    let object = format!("{}/{}", text(event, &["involvedObject", "kind"]), text(event, &["involvedObject", "name"]));
    let mut row = vec![seen, text(event, &["type"]).to_owned(), text(event, &["reason"]).to_owned(), object, text(event, &["message"]).trim().to_owned()];
    if with_namespace {
        row.insert(0, text(event, &["metadata", "namespace"]).to_owned());
    }
    row
}
