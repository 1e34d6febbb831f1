//! `kubectl get`: the server fills the tables.

use knarr_client::read;
use knarr_core::api::Options;
use knarr_core::{Value, ValueExt, json};

use crate::kubectl::manifest::Files;
use crate::kubectl::print::{self, Output, table};
use crate::kubectl::resources::{Meant, Named, named};
use crate::kubectl::session::{Failure, Result, Session};

const ACCEPT_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME…, or TYPE/NAME…
    resources: Vec<String>,
    #[command(flatten)]
    files: Files,
    /// Output format: json, yaml, name, wide
    #[arg(short, long, default_value = "")]
    output: Output,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Label selector
    #[arg(short = 'l', long)]
    selector: Option<String>,
    #[arg(long)]
    field_selector: Option<String>,
    /// Leave the headings out
    #[arg(long)]
    no_headers: bool,
    #[arg(long)]
    show_labels: bool,
    /// Labels to show as columns
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Succeed when an object does not exist
    #[arg(long)]
    ignore_not_found: bool,
    #[arg(long)]
    show_managed_fields: bool,
    /// After the objects, their changes
    #[arg(short, long)]
    watch: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let wanted = if args.files.is_empty() { named(session, &args.resources).await? } else { from_files(args, session).await? };
    if args.watch {
        return watch(args, session, &wanted).await;
    }
    match args.output {
        Output::Table | Output::Wide => tables(args, session, &wanted).await,
        _ => objects(args, session, &wanted).await,
    }
}

async fn from_files(args: &Args, session: &Session) -> Result<Vec<Named>> {
    let mut wanted = Vec::new();
    for object in args.files.read()? {
        let (meant, name, _) = super::apply::place(session, &object).await?;
        wanted.push(Named { meant, name: Some(name) });
    }
    Ok(wanted)
}

fn namespace<'a>(args: &Args, session: &'a Session) -> Option<&'a str> {
    (!args.all_namespaces).then_some(session.namespace.as_str())
}

fn query(args: &Args) -> String {
    let pairs = [("labelSelector", &args.selector), ("fieldSelector", &args.field_selector)];
    let encoded = pairs.iter().filter_map(|(key, value)| value.as_ref().map(|v| format!("{key}={}", encode(v))));
    encoded.collect::<Vec<_>>().join("&")
}

/// Percent-encodes everything but unreserved characters.
pub fn encode(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

fn path(args: &Args, session: &Session, meant: &Meant, name: Option<&str>) -> String {
    let path = meant.path(namespace(args, session), name);
    let query = query(args);
    if name.is_some() || query.is_empty() { path } else { format!("{path}?{query}") }
}

async fn tables(args: &Args, session: &Session, wanted: &[Named]) -> Result<()> {
    let kinds: std::collections::BTreeSet<&str> = wanted.iter().map(|n| n.meant.title.as_str()).collect();
    let (mut shown, mut failure): (Vec<(Meant, Value)>, _) = (Vec::new(), None);
    for one in wanted {
        match session.get_json(&path(args, session, &one.meant, one.name.as_deref()), ACCEPT_TABLE).await {
            Ok(table) => match shown.last_mut() {
                Some((meant, last)) if *meant == one.meant => append(last, table),
                _ => shown.push((one.meant.clone(), table)),
            },
            Err(Failure::Server(status)) if status.is_not_found() && args.ignore_not_found => {}
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    let mut printed = false;
    for (meant, found) in shown.iter().filter(|(_, t)| !t.list_at(&["rows"]).is_empty()) {
        let options = table::Options {
            wide: args.output == Output::Wide,
            no_headers: args.no_headers,
            show_labels: args.show_labels,
            label_columns: args.label_columns.clone(),
            with_namespace: args.all_namespaces && meant.namespaced,
            prefix: (kinds.len() > 1).then(|| format!("{}/", meant.title)),
        };
        print!("{}{}", if printed { "\n" } else { "" }, table::layout(&table::rows(found, &options)));
        printed = true;
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if !printed && !args.ignore_not_found {
        let place =
            if args.all_namespaces || !wanted.iter().any(|n| n.meant.namespaced) { String::new() } else { format!(" in {} namespace", session.namespace) };
        eprintln!("No resources found{place}{}", if place.is_empty() { "" } else { "." });
    }
    Ok(())
}

fn append(table: &mut Value, other: Value) {
    let more = other.list_at(&["rows"]).to_vec();
    if let Some(rows) = table.get_mut("rows").and_then(Value::as_array_mut) {
        rows.extend(more);
    }
}

async fn objects(args: &Args, session: &Session, wanted: &[Named]) -> Result<()> {
    let mut found = Vec::new();
    for one in wanted {
        match session.get_json(&path(args, session, &one.meant, one.name.as_deref()), "application/json").await {
            Ok(value) if one.name.is_some() => found.push((one.meant.clone(), value)),
            Ok(list) => {
                let api_version = list.str_at(&["apiVersion"]).unwrap_or_default().to_owned();
                found.extend(list.list_at(&["items"]).iter().map(|item| (one.meant.clone(), with_kind(item, &api_version, &one.meant.kind))));
            }
            Err(Failure::Server(status)) if status.is_not_found() && args.ignore_not_found => {}
            Err(error) => return Err(error),
        }
    }
    if args.output == Output::Name {
        for (meant, object) in &found {
            println!("{}/{}", meant.title, object.str_at(&["metadata", "name"]).unwrap_or_default());
        }
        return Ok(());
    }
    let single = matches!(wanted, [Named { name: Some(_), .. }]);
    let whole = match found.pop() {
        Some((_, object)) if single => object,
        None if single => return Ok(()),
        last => {
            found.extend(last);
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": found.into_iter().map(|(_, o)| o).collect::<Vec<_>>()})
        }
    };
    print!("{}", print::whole(&whole, &args.output, args.show_managed_fields)?);
    Ok(())
}

fn with_kind(item: &Value, api_version: &str, kind: &str) -> Value {
    let mut item = item.clone();
    item.set(&["apiVersion"], api_version);
    item.set(&["kind"], kind);
    item
}

/// Shows the objects and then a line for each change.
async fn watch(args: &Args, session: &Session, wanted: &[Named]) -> Result<()> {
    use futures::StreamExt;
    let [one] = wanted else { return Err("you may only specify a single resource type".into()) };
    tables(args, session, wanted).await?;
    let api = session.client.dynamic(one.meant.resource.clone(), namespace(args, session).filter(|_| one.meant.namespaced));
    let mut options = Options { label_selector: args.selector.clone(), field_selector: args.field_selector.clone(), ..Options::default() };
    if let Some(name) = &one.name {
        options.field_selector = Some(format!("metadata.name={name}"));
    }
    let listed = api.list(&options).await?;
    options.resource_version = Some(listed.resource_version.to_string());
    let mut events = api.watch(&options).await?;
    while let Some(event) = events.next().await {
        let object = read::value(&event?.object)?;
        let place = object.str_at(&["metadata", "namespace"]).map(str::to_owned);
        let name = object.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
        let path = one.meant.path(place.as_deref(), Some(&name));
        if let Ok(found) = session.get_json(&path, ACCEPT_TABLE).await {
            let options =
                table::Options { wide: args.output == Output::Wide, no_headers: true, with_namespace: args.all_namespaces, ..table::Options::default() };
            print!("{}", table::layout(&table::rows(&found, &options)));
        }
    }
    Ok(())
}
