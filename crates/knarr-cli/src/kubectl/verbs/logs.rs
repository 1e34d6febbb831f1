//! `kubectl logs`.

use std::io::Write;

use bytes::Bytes;
use http_body_util::BodyExt;
use knarr_client::read;
use knarr_core::api::Options;
use knarr_core::selector::LabelSelector;
use knarr_core::{GroupVersionResource, Reason, Status, ValueExt};

use crate::kubectl::resources::{Named, named};
use crate::kubectl::session::{Result, Session};

#[derive(clap::Args)]
pub struct Args {
    /// POD, or TYPE/NAME
    #[arg(required_unless_present = "selector")]
    pod: Option<String>,
    /// Name of the container
    container_word: Option<String>,
    #[arg(short, long)]
    container: Option<String>,
    /// As it is written
    #[arg(short, long)]
    follow: bool,
    /// Of the container before the last restart
    #[arg(short, long)]
    previous: bool,
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    tail: i64,
    /// Only lines of the last 5s, 2m or 3h
    #[arg(long)]
    since: Option<String>,
    #[arg(long)]
    since_time: Option<String>,
    #[arg(long)]
    timestamps: bool,
    #[arg(long)]
    limit_bytes: Option<i64>,
    /// Of every pod that matches
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Put the name of the pod before each line
    #[arg(long)]
    prefix: bool,
}

pub async fn run(args: &Args, session: &Session) -> Result<()> {
    let pods = match (&args.pod, &args.selector) {
        (_, Some(selector)) => matching(session, selector).await?,
        (Some(pod), None) => vec![first_pod(session, pod).await?],
        (None, None) => {
            return Err("expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command".into());
        }
    };
    for pod in pods {
        copy(args, session, &pod).await?;
    }
    Ok(())
}

fn pods() -> GroupVersionResource {
    GroupVersionResource::new("", "v1", "pods")
}

async fn matching(session: &Session, selector: &str) -> Result<Vec<String>> {
    let options = Options { label_selector: Some(selector.to_owned()), ..Options::default() };
    let list = session.client.dynamic(pods(), Some(&session.namespace)).list(&options).await?;
    Ok(list.items.iter().map(|o| read::key(o).name().to_owned()).collect())
}

/// A pod by its name, or the first one that a workload selects.
pub async fn first_pod(session: &Session, word: &str) -> Result<String> {
    if !word.contains('/') {
        return Ok(word.to_owned());
    }
    let found = named(session, &[word.to_owned()]).await?;
    let Some(Named { meant, name: Some(name) }) = found.into_iter().next() else { return Err("a name is needed".into()) };
    if meant.resource == pods() {
        return Ok(name);
    }
    let object = session.get_json(&meant.path(Some(&session.namespace), Some(&name)), "application/json").await?;
    let selector = match object.at(&["spec", "selector"]) {
        Some(s) if s.get("matchLabels").is_some() || s.get("matchExpressions").is_some() => LabelSelector::from_value(Some(s))?,
        plain => LabelSelector::from_map(plain),
    };
    let found = matching(session, &selector.to_string()).await?;
    found.into_iter().next().ok_or_else(|| format!("no pods found for {word}").into())
}

fn query(args: &Args) -> Result<String> {
    let mut pairs: Vec<String> = Vec::new();
    let mut add = |key: &str, value: String| pairs.push(format!("{key}={}", super::get::encode(&value)));
    if let Some(container) = args.container.as_ref().or(args.container_word.as_ref()) {
        add("container", container.clone());
    }
    for (key, on) in [("follow", args.follow), ("previous", args.previous), ("timestamps", args.timestamps)] {
        if on {
            add(key, "true".into());
        }
    }
    if args.tail >= 0 {
        add("tailLines", args.tail.to_string());
    }
    if let Some(since) = &args.since {
        add("sinceSeconds", seconds(since).ok_or_else(|| format!("invalid duration {since:?}"))?.to_string());
    }
    if let Some(at) = &args.since_time {
        add("sinceTime", at.clone());
    }
    if let Some(limit) = args.limit_bytes {
        add("limitBytes", limit.to_string());
    }
    Ok(pairs.join("&"))
}

/// `1h2m3s` in seconds.
pub fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0, String::new());
    for c in text.chars() {
        match c {
            '0'..='9' => number.push(c),
            'h' | 'm' | 's' => {
                let n: u64 = std::mem::take(&mut number).parse().ok()?;
                total += n * match c {
                    'h' => 3600,
                    'm' => 60,
                    _ => 1,
                };
            }
            _ => return None,
        }
    }
    number.is_empty().then_some(total)
}

async fn copy(args: &Args, session: &Session, pod: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log?{}", session.namespace, query(args)?);
    let request = http::Request::get(path).body(Bytes::new()).map_err(|e| e.to_string())?;
    let response = session.transport.request(request).await.map_err(|e| e.to_string())?;
    let (head, mut body) = response.into_parts();
    if !head.status.is_success() {
        let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        return Err(Status::from_json(&bytes).unwrap_or_else(|| Status::new(head.status.as_u16(), Reason::Unknown, String::from_utf8_lossy(&bytes))).into());
    }
    let mut out = std::io::stdout().lock();
    let prefix = if args.prefix { format!("[pod/{pod}] ") } else { String::new() };
    let mut at_start = true;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() else { continue };
        if prefix.is_empty() {
            out.write_all(&data)?;
        } else {
            for line in data.split_inclusive(|b| *b == b'\n') {
                if at_start {
                    out.write_all(prefix.as_bytes())?;
                }
                out.write_all(line)?;
                at_start = line.ends_with(b"\n");
            }
        }
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, wanted) in [("5s", Some(5)), ("1h2m3s", Some(3723)), ("x", None), ("5", None)] {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }
}
