//! `kubectl describe`: the object as indented text, and its events.

use knarr_core::{Value, ValueExt, time};

use crate::kubectl::print::table;
use crate::kubectl::resources::named;
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    /// TYPE, TYPE NAME…, or TYPE/NAME…
    resources: Vec<String>,
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let mut first = true;
    for one in named(session, &args.resources).await? {
        let namespace = (!args.all_namespaces).then_some(session.namespace.as_str());
        let mut path = one.meant.path(namespace, one.name.as_deref());
        if let Some(selector) = args.selector.as_ref().filter(|_| one.name.is_none()) {
            path += &format!("?labelSelector={}", super::get::encode(selector));
        }
        let answer = session.get_json(&path, "application/json").await?;
        let objects = if one.name.is_some() { vec![answer] } else { answer.list_at(&["items"]).to_vec() };
        for object in objects {
            print!("{}{}", if first { "" } else { "\n\n" }, text(&object));
            print!("{}", events(session, &object).await?);
            first = false;
        }
    }
    Ok(())
}

/// Name, namespace, labels and annotations first, then everything else as it stands in the object.
fn text(object: &Value) -> String {
    let meta = |key: &str| object.str_at(&["metadata", key]).unwrap_or_default();
    let mut out = line("Name", meta("name"));
    if !meta("namespace").is_empty() {
        out += &line("Namespace", meta("namespace"));
    }
    for (title, key) in [("Labels", "labels"), ("Annotations", "annotations")] {
        out += &pairs(title, object.at(&["metadata", key]));
    }
    out += &line("Created", meta("creationTimestamp"));
    for section in object.as_object().into_iter().flatten().filter(|(k, _)| !matches!(k.as_str(), "metadata" | "kind" | "apiVersion")) {
        out += &format!("{}:\n", titled(section.0));
        tree(section.1, 2, &mut out);
    }
    out
}

const COLUMN: usize = 18;

fn line(title: &str, value: &str) -> String {
    format!("{:<COLUMN$}{value}\n", format!("{title}:"))
}

fn pairs(title: &str, map: Option<&Value>) -> String {
    let list: Vec<String> = map.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    match list.split_first() {
        None => line(title, "<none>"),
        Some((first, rest)) => line(title, first) + &rest.iter().map(|r| format!("{:COLUMN$}{r}\n", "")).collect::<String>(),
    }
}

/// `containerPort` → `Container Port`
fn titled(key: &str) -> String {
    let mut out = String::new();
    for (i, c) in key.chars().enumerate() {
        if i == 0 {
            out.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && !out.ends_with(char::is_uppercase) {
                out.push(' ');
            }
            out.push(c);
        }
    }
    out
}

fn tree(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(map) => {
            for (key, item) in map {
                match item {
                    Value::Object(_) | Value::Array(_) => {
                        out.push_str(&format!("{pad}{}:\n", titled(key)));
                        tree(item, indent + 2, out);
                    }
                    scalar => out.push_str(&format!("{pad}{}:  {}\n", titled(key), plain(scalar))),
                }
            }
        }
        Value::Array(list) => {
            for item in list {
                match item {
                    Value::Object(_) | Value::Array(_) => {
                        out.push_str(&format!("{pad}-\n"));
                        tree(item, indent + 2, out);
                    }
                    scalar => out.push_str(&format!("{pad}{}\n", plain(scalar))),
                }
            }
        }
        scalar => out.push_str(&format!("{pad}{}\n", plain(scalar))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn events(session: &Session, object: &Value) -> Result<String> {
    let uid = object.str_at(&["metadata", "uid"]).unwrap_or_default();
    let namespace = object.str_at(&["metadata", "namespace"]).unwrap_or("default");
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}");
    let mut found = session.get_json(&path, "application/json").await?.list_at(&["items"]).to_vec();
    if found.is_empty() {
        return Ok(line("Events", "<none>"));
    }
    found.sort_by_key(|e| seen(e).map(str::to_owned));
    let now = jiff::Timestamp::now();
    let mut rows = vec![
        ["Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec(),
        ["----", "------", "----", "----", "-------"].map(str::to_owned).to_vec(),
    ];
    for event in &found {
        let text = |path: &[&str]| event.str_at(path).unwrap_or_default().to_owned();
        let from = event.str_at(&["source", "component"]).or_else(|| event.str_at(&["reportingComponent"])).unwrap_or_default().to_owned();
        rows.push(vec![text(&["type"]), text(&["reason"]), time::age(seen(event), now), from, text(&["message"])]);
    }
    let body: String = table::layout(&rows).lines().map(|l| format!("  {l}\n")).collect();
    Ok(format!("Events:\n{body}"))
}

fn seen(event: &Value) -> Option<&str> {
    ["lastTimestamp", "eventTime", "firstTimestamp"].iter().find_map(|key| event.str_at(&[key])).or_else(|| event.str_at(&["metadata", "creationTimestamp"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn an_object_reads_as_indented_text() {
        let object =
            json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a", "labels": {"k": "v", "l": "w"}}, "spec": {"hostPort": 1, "list": ["x"]}});
        let wanted = "Name:             a\nLabels:           k=v\n                  l=w\nAnnotations:      <none>\nCreated:          \nSpec:\n  Host Port:  1\n  List:\n    x\n";
        assert_eq!(text(&object), wanted);
    }
}
