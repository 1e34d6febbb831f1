//! `kubectl logs`.

use std::io::Write;

use futures::stream::{SelectAll, StreamExt};
use knarr_core::{Value, ValueExt};

use super::exec::described;
use super::options::SELECTOR;
use super::pods::{container_names, default_container, pods_matching, pods_of};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, int, switch, text, time};
use crate::kubectl::resources::known;
use crate::kubectl::select::Selection;
use crate::kubectl::session::{Query, encode, with_query};

const FLAGS: &[Flag] = &[
    switch("all-containers", "Get all containers' logs in the pod(s)"),
    switch("all-pods", "Get logs from all pods of the workload"),
    text("container", "", "Print the logs of this container").short('c'),
    switch("follow", "Specify if the logs should be streamed").short('f'),
    switch("ignore-errors", "If watching or following pod logs, allow for any errors that occur to be non-fatal"),
    switch("insecure-skip-tls-verify-backend", "Skip verifying the identity of the kubelet that logs are requested from"),
    int("limit-bytes", "0", "Maximum bytes of logs to return"),
    int("max-log-requests", "5", "Maximum number of concurrent logs to follow when using by a selector"),
    time("pod-running-timeout", "20s", "How long to wait until at least one pod is running"),
    switch("prefix", "Prefix each log line with the log source (pod name and container name)"),
    switch("previous", "Print the logs for the previous instance of the container").short('p'),
    SELECTOR,
    time("since", "0s", "Only return logs newer than a relative duration like 5s, 2m, or 3h"),
    text("since-time", "", "Only return logs after a specific date (RFC3339)"),
    int("tail", "-1", "Lines of recent log file to display; with a selector 10"),
    switch("timestamps", "Include timestamps on each line in the log output"),
];

pub static VERB: Verb = Verb {
    name: "logs",
    usage: "[-f] [-p] (POD | TYPE/NAME) [-c CONTAINER] [flags]",
    about: "Print the logs for a container in a pod",
    flags: &[FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

const USAGE: &str = "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command";

fn check(cx: &Context) -> Result<(Option<String>, Option<String>)> {
    let flags = &cx.flags;
    let (target, inline) = match cx.words() {
        [] if !flags.given("selector") => return Err(cx.usage(USAGE)),
        [] => (None, None),
        [_, ..] if flags.given("selector") => return Err(cx.usage("only a selector (-l) or a POD name is allowed")),
        [one] => (Some(one.clone()), None),
        [one, container] => (Some(one.clone()), Some(container.clone())),
        _ => return Err(cx.usage(USAGE)),
    };
    if flags.given("since") && flags.given("since-time") {
        return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into());
    }
    if flags.on("all-containers") && flags.given("container") {
        return Err(format!("--all-containers=true should not be specified with container name {}", flags.text("container")).into());
    }
    if inline.is_some() && flags.given("container") {
        return Err("only one of -c or an inline [CONTAINER] arg is allowed".into());
    }
    Ok((target, inline))
}

/// What is checked once the pods have been found.
fn check_values(flags: &crate::kubectl::flags::Flags) -> Result<()> {
    if flags.given("limit-bytes") && flags.int("limit-bytes") < 1 {
        return Err("--limit-bytes must be greater than 0".into());
    }
    if flags.given("since") && flags.seconds("since") <= 0.0 {
        return Err("--since must be greater than 0".into());
    }
    if flags.int("tail") < -1 {
        return Err("--tail must be greater than or equal to -1".into());
    }
    Ok(())
}

/// One container's log.
struct Source {
    namespace: String,
    pod: String,
    container: String,
}

async fn run(cx: &Context) -> Result<()> {
    let (flags, session) = (&cx.flags, cx.session()?);
    let (target, inline) = check(cx)?;
    let pods = match (&target, flags.some("selector")) {
        (None, Some(selector)) => {
            let pods = pods_matching(session, &session.namespace, selector).await?;
            if pods.is_empty() {
                eprintln!("No resources found in {} namespace.", session.namespace);
            }
            pods
        }
        (Some(word), _) => pods_named(cx, word).await?,
        _ => Vec::new(),
    };
    check_values(flags)?;
    let wanted = flags.some("container").map(str::to_owned).or(inline);
    let mut sources = Vec::new();
    for pod in &pods {
        let text = |key: &str| pod.str_at(&["metadata", key]).unwrap_or_default().to_owned();
        for container in containers(cx, pod, wanted.as_deref())? {
            sources.push(Source { namespace: text("namespace"), pod: text("name"), container });
        }
    }
    if flags.on("follow") && sources.len() > 1 {
        return follow_all(cx, &sources).await;
    }
    for source in &sources {
        match copy(cx, source).await {
            Err(e) if flags.on("ignore-errors") => println!("{e}"),
            other => other?,
        }
    }
    Ok(())
}

async fn pods_named(cx: &Context, word: &str) -> Result<Vec<Value>> {
    let session = cx.session()?;
    let words = if word.contains('/') { vec![word.to_owned()] } else { vec!["pods".to_owned(), word.to_owned()] };
    let infos = match Selection::of(session, &cx.flags).objects(&words).await?.all() {
        Err(Failure::Server(status)) if status.is_not_found() => {
            return Err(Failure::Other(format!("error from server (NotFound): {} in namespace \"{}\"", status.message, session.namespace)));
        }
        other => other?,
    };
    let [info] = infos.as_slice() else { return Err("expected a resource".into()) };
    if info.meant.kind == "Pod" {
        return Ok(vec![info.object.clone()]);
    }
    if !["ReplicationController", "ReplicaSet", "Deployment", "StatefulSet", "DaemonSet", "Job", "Service"].contains(&info.meant.kind.as_str()) {
        return Err(
            format!("cannot get the logs from {}.{}: selector for {} not implemented", info.meant.resource.version, info.meant.kind, info.meant.kind).into()
        );
    }
    let pods = pods_of(session, info).await?;
    if cx.flags.on("all-pods") {
        return Ok(pods);
    }
    let count = pods.len();
    let Some(first) = super::pods::first_pod(pods) else { return Err("timed out waiting for the condition".into()) };
    if count > 1 {
        eprintln!("Found {count} pods, using pod/{}", first.str_at(&["metadata", "name"]).unwrap_or_default());
    }
    Ok(vec![first])
}

fn containers(cx: &Context, pod: &Value, wanted: Option<&str>) -> Result<Vec<String>> {
    let names = container_names(pod);
    let name = pod.str_at(&["metadata", "name"]).unwrap_or_default();
    if cx.flags.on("all-containers") {
        return Ok(names);
    }
    if let Some(wanted) = wanted {
        if !names.iter().any(|n| n == wanted) {
            return Err(format!("container {wanted} is not valid for pod {name} out of: {}", described(pod)).into());
        }
        return Ok(vec![wanted.to_owned()]);
    }
    let default = default_container(pod);
    if names.len() > 1
        && pod.str_at(&["metadata", "annotations", "kubectl.kubernetes.io/default-container"]).is_none()
        && let Some(default) = &default
    {
        eprintln!("Defaulted container \"{default}\" out of: {}", described(pod));
    }
    Ok(default.into_iter().collect())
}

fn path(cx: &Context, source: &Source) -> String {
    let flags = &cx.flags;
    let mut query = Query::new();
    query.push(("container", source.container.clone()));
    for name in ["follow", "previous", "timestamps"] {
        if flags.on(name) {
            query.push((name, "true".into()));
        }
    }
    let tail = if flags.given("selector") && !flags.given("tail") && !flags.on("all-pods") { 10 } else { flags.int("tail") };
    if tail >= 0 {
        query.push(("tailLines", tail.to_string()));
    }
    if flags.given("since") {
        query.push(("sinceSeconds", format!("{}", flags.seconds("since").ceil() as i64)));
    }
    if let Some(at) = flags.some("since-time") {
        query.push(("sinceTime", at.to_owned()));
    }
    if flags.given("limit-bytes") {
        query.push(("limitBytes", flags.int("limit-bytes").to_string()));
    }
    if flags.on("insecure-skip-tls-verify-backend") {
        query.push(("insecureSkipTLSVerifyBackend", "true".into()));
    }
    let base = format!("{}/log", known("pods").path(Some(&source.namespace), Some(&encode(&source.pod))));
    with_query(&base, &query)
}

/// Writes bytes, each line with a prefix.
struct Lines {
    prefix: String,
    begun: bool,
}

impl Lines {
    fn of(cx: &Context, source: &Source) -> Self {
        let prefix = if cx.flags.on("prefix") || (cx.flags.on("all-pods") && !cx.flags.given("prefix")) {
            format!("[pod/{}/{}] ", source.pod, source.container)
        } else {
            String::new()
        };
        Self { prefix, begun: false }
    }

    fn write(&mut self, out: &mut impl Write, data: &[u8]) -> Result<()> {
        if self.prefix.is_empty() {
            out.write_all(data)?;
        }
        for line in data.split_inclusive(|b| *b == b'\n').filter(|_| !self.prefix.is_empty()) {
            if !std::mem::replace(&mut self.begun, !line.ends_with(b"\n")) {
                out.write_all(self.prefix.as_bytes())?;
            }
            out.write_all(line)?;
        }
        Ok(out.flush()?)
    }
}

async fn copy(cx: &Context, source: &Source) -> Result<()> {
    let mut frames = cx.session()?.stream(&path(cx, source), "*/*").await?;
    let mut lines = Lines::of(cx, source);
    let mut out = std::io::stdout().lock();
    while let Some(frame) = frames.next().await {
        lines.write(&mut out, &frame?)?;
    }
    Ok(())
}

async fn follow_all(cx: &Context, sources: &[Source]) -> Result<()> {
    let limit = cx.flags.int("max-log-requests");
    if i64::try_from(sources.len()).is_ok_and(|n| n > limit) {
        return Err(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {limit}, use --max-log-requests to increase the limit",
            sources.len()
        )
        .into());
    }
    let mut all = SelectAll::new();
    let mut lines = Vec::new();
    for (i, source) in sources.iter().enumerate() {
        let frames = cx.session()?.stream(&path(cx, source), "*/*").await?;
        lines.push(Lines::of(cx, source));
        all.push(frames.map(move |f| (i, f)).boxed());
    }
    let mut out = std::io::stdout().lock();
    while let Some((i, frame)) = all.next().await {
        lines[i].write(&mut out, &frame?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_its_prefix_once() {
        let mut lines = Lines { prefix: "[p] ".into(), begun: false };
        let mut out = Vec::new();
        for part in ["a\nb", "c\n", "d\n"] {
            lines.write(&mut out, part.as_bytes()).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "[p] a\n[p] bc\n[p] d\n");
    }
}
