//! `kubectl wait --for=condition=… | jsonpath=… | delete | create`.

use std::time::Duration;

use futures::StreamExt;
use knarr_core::{Value, ValueExt};

use super::options::{ALL, ALL_NAMESPACES, FIELD_SELECTOR, LOCAL, SELECTOR};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, many, time};
use crate::kubectl::manifest;
use crate::kubectl::print::jsonpath::{JsonPath, relaxed};
use crate::kubectl::print::out;
use crate::kubectl::print::{self, Printer, go};
use crate::kubectl::select::{Info, Selection, Target};
use crate::kubectl::session::{Session, with_query};

const FLAGS: &[Flag] = &[
    many("for", "The condition to wait on: [create|delete|condition=condition-name[=condition-value]|jsonpath='{JSONPath expression}'=[JSONPath value]]"),
    time("timeout", "30s", "The length of time to wait before giving up; zero means check once, negative means wait for a week"),
    ALL,
    ALL_NAMESPACES,
    SELECTOR,
    FIELD_SELECTOR,
    LOCAL,
];

pub static VERB: Verb = Verb {
    name: "wait",
    usage: "([-f FILENAME] | resource.group/resource.name | resource.group [(-l label | --all)]) [--for=create|--for=delete|--for condition=available|--for=jsonpath='{}'[=value]] [flags]",
    about: "Wait for a specific condition on one or many resources",
    flags: &[FLAGS, manifest::FLAGS, print::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

/// What is waited for.
#[derive(Clone, Debug)]
pub enum Condition {
    Create,
    Delete,
    Status { name: String, value: String },
    Path { path: JsonPath, value: Option<String> },
}

impl Condition {
    pub fn parse(text: &str) -> Result<Self> {
        let lower = text.to_lowercase();
        if lower == "delete" {
            return Ok(Self::Delete);
        }
        if lower == "create" {
            return Ok(Self::Create);
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
            return Ok(Self::Status { name: name.to_owned(), value: value.to_owned() });
        }
        if let Some(spec) = text.strip_prefix("jsonpath=") {
            return Self::path(spec);
        }
        Err(format!("unrecognized condition: {}", knarr_core::field::go_quote(text)).into())
    }

    fn path(spec: &str) -> Result<Self> {
        // The first equal sign after the braces parts path and value.
        let spec = spec.trim_matches('\'');
        let end = spec.rfind('}').map_or(0, |e| e + 1);
        let (path, value) = match spec[end..].find('=') {
            Some(at) => (&spec[..end + at], Some(&spec[end + at + 1..])),
            None => (spec, None),
        };
        if path.is_empty() {
            return Err("jsonpath expression cannot be empty".into());
        }
        let value = value.map(|v| v.trim_matches(['"', '\'']).to_owned());
        if value.as_deref() == Some("") {
            return Err("jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3".into());
        }
        Ok(Self::Path { path: JsonPath::parse(&relaxed(path.trim_matches('\''))?)?, value })
    }

    /// Whether an object (or its absence) is as wanted.
    pub fn fulfilled(&self, object: Option<&Value>) -> Result<bool> {
        let Some(object) = object else { return Ok(matches!(self, Self::Delete)) };
        Ok(match self {
            Self::Create => true,
            Self::Delete => false,
            Self::Status { name, value } => status(object, name, value),
            Self::Path { path, value } => {
                let found = path.find(object)?;
                let first = found.first().map_or(&[][..], Vec::as_slice);
                match (first, value) {
                    ([], _) => false,
                    ([..], None) => true,
                    ([Value::Array(_) | Value::Object(_)], Some(_)) => return Err("jsonpath leads to a nested object or list, which is not supported".into()),
                    ([one], Some(value)) => go::sprint(one).trim() == value.trim(),
                    _ => return Err("given jsonpath expression matches more than one value".into()),
                }
            }
        })
    }
}

fn status(object: &Value, name: &str, value: &str) -> bool {
    let conditions = object.list_at(&["status", "conditions"]);
    let Some(condition) = conditions.iter().find(|c| c.str_at(&["type"]).is_some_and(|t| t.eq_ignore_ascii_case(name))) else { return false };
    let generation = object.i64_at(&["metadata", "generation"]);
    let observed = condition.i64_at(&["observedGeneration"]).or_else(|| object.i64_at(&["status", "observedGeneration"]));
    if let (Some(generation), Some(observed)) = (generation, observed)
        && observed < generation
    {
        return false;
    }
    condition.str_at(&["status"]).is_some_and(|s| s.eq_ignore_ascii_case(value))
}

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let wanted = flags.all("for");
    if wanted.is_empty() {
        return Err("unrecognized condition: \"\"".into());
    }
    let conditions = wanted.iter().map(|w| Condition::parse(w)).collect::<Result<Vec<_>>>()?;
    let session = cx.session()?;
    let seconds = flags.seconds("timeout");
    let limit = if seconds < 0.0 { Duration::from_secs(7 * 24 * 3600) } else { Duration::from_secs_f64(seconds) };
    let until = tokio::time::Instant::now() + limit;
    let deleting = conditions.iter().any(|c| matches!(c, Condition::Delete));
    let creating = conditions.iter().any(|c| matches!(c, Condition::Create));
    let selection = Selection::of(session, flags).as_in_files();
    let infos = targets(session, &selection, cx.words(), deleting, creating, until).await?;
    if infos.is_empty() {
        return if deleting { Ok(()) } else { Err("no matching resources found".into()) };
    }
    let mut printer = Printer::of(flags, "condition met")?;
    for info in infos {
        for condition in &conditions {
            let late = || Failure::from(format!("timed out waiting for the condition on {}", info.plural_name()));
            let work = follow(session, &info, |object| condition.fulfilled(object));
            let found = if seconds == 0.0 {
                let found = once(session, &info).await?;
                if condition.fulfilled(found.as_ref())? { Ok(found) } else { Err(late()) }
            } else {
                tokio::time::timeout_at(until, work).await.map_err(|_| late())?
            };
            let shown = match found {
                Err(e) if matches!(condition, Condition::Delete) && e.is_not_found() => None,
                other => other?,
            };
            let shown =
                shown.unwrap_or_else(|| knarr_core::json!({"apiVersion": info.meant.api_version(), "kind": info.meant.kind, "metadata": {"name": info.name}}));
            out(&printer.print(&shown)?)?;
        }
    }
    Ok(())
}

async fn once(session: &Session, info: &Info) -> Result<Option<Value>> {
    match session.get(&info.path()).await {
        Ok(object) => Ok(Some(object)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// The objects that are waited for. Only who waits for their creation may name what is not there.
async fn targets(
    session: &Session,
    selection: &Selection<'_>,
    words: &[String],
    deleting: bool,
    creating: bool,
    until: tokio::time::Instant,
) -> Result<Vec<Info>> {
    let (targets, _) = selection.targets(words).await?;
    let mut infos = Vec::new();
    for target in targets {
        match target {
            Target::File(info) => infos.push(*info),
            Target::One { meant, namespace, name } => {
                let info = Info { meant, namespace, name, object: Value::Null, source: String::new() };
                if !creating {
                    match session.get(&info.path()).await {
                        Err(e) if e.is_not_found() && deleting => continue,
                        other => drop(other?),
                    }
                }
                infos.push(info);
            }
            Target::Many { ref meant, .. } => loop {
                let list = session.get(&selection.page_path(&target, None)).await.map_err(|e| selection.explain(&target, e))?;
                infos.extend(list.list_at(&["items"]).iter().map(|o| Info::of(meant, o.clone())));
                if !infos.is_empty() || !creating {
                    break;
                }
                let version = list.str_at(&["metadata", "resourceVersion"]).unwrap_or_default().to_owned();
                let mut query = selection.query();
                query.extend([("watch", "true".to_owned()), ("resourceVersion", version)]);
                let mut events = session.watch(&with_query(&target.path(), &query), false).await?;
                match tokio::time::timeout_at(until, events.next()).await {
                    Err(_) => return Err("timed out waiting for the condition on resources".into()),
                    Ok(_) => {}
                }
            },
        }
    }
    Ok(infos)
}

/// Follows one object until it is as wanted; gives its last state.
pub async fn follow(session: &Session, info: &Info, wanted: impl Fn(Option<&Value>) -> Result<bool>) -> Result<Option<Value>> {
    let path = info.meant.path(Some(&info.namespace), None);
    let by_name = ("fieldSelector", format!("metadata.name={}", info.name));
    loop {
        let listed = session.get(&with_query(&path, std::slice::from_ref(&by_name))).await?;
        let with_kind = |object: &Value| {
            let mut object = object.clone();
            object.set(&["apiVersion"], info.meant.api_version());
            object.set(&["kind"], info.meant.kind.clone());
            object
        };
        let mut last = listed.list_at(&["items"]).first().map(with_kind);
        if wanted(last.as_ref())? {
            return Ok(last);
        }
        let version = listed.str_at(&["metadata", "resourceVersion"]).unwrap_or_default().to_owned();
        let mut events = session.watch(&with_query(&path, &[by_name.clone(), ("watch", "true".into()), ("resourceVersion", version)]), false).await?;
        while let Some(Ok(event)) = events.next().await {
            let object = event.at(&["object"]).cloned();
            match event.str_at(&["type"]) {
                Some("ADDED" | "MODIFIED") => last = object,
                Some("DELETED") => {
                    if wanted(None)? {
                        return Ok(object);
                    }
                    last = None;
                }
                Some("ERROR") => break,
                _ => continue,
            }
            if wanted(last.as_ref())? {
                return Ok(last);
            }
        }
        // The watch has ended for a reason of the server's; a short breath keeps us from storming it.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn conditions_are_read_without_regard_to_case() {
        let object = json!({"status": {"conditions": [{"type": "Available", "status": "True"}], "n": 3}});
        for (wanted, outcome) in [
            ("condition=available", true),
            ("condition=Available=false", false),
            ("create", true),
            ("delete", false),
            ("jsonpath={.status.n}=3", true),
            ("jsonpath='{.status.n}'=4", false),
            ("jsonpath={.status.n}", true),
            ("jsonpath={.status.m}", false),
            ("jsonpath={.status.conditions[?(@.type==\"Available\")].status}=True", true),
        ] {
            assert_eq!(Condition::parse(wanted).and_then(|c| c.fulfilled(Some(&object))).unwrap(), outcome, "{wanted}");
        }
        assert!(Condition::parse("delete").unwrap().fulfilled(None).unwrap());
        assert!(Condition::parse("nonsense").is_err());
    }
}
