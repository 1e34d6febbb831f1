//! `/containerLogs` (upstream: `server.go:getContainerLogs`, `kubelet_pods.go:validateContainerLogStatus`).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::query::Query;
use super::{Body, Server, plain};
use crate::container::config::pod_log_dir;
use crate::logs::cri::Stream;
use crate::logs::read::{self, Options};
use crate::pod::actor::{Handle, PodView};
use crate::pod::observed::ID_PREFIX;
use crate::pod::spec::{PodExt, find_container};
use crate::streams::PIECES_WAITING_MAX;

impl Server {
    pub(super) async fn container_logs(&self, namespace: &str, pod: &str, container: &str, query: &Query) -> Response<Body> {
        let Some(handle) = self.pods.find(namespace, pod) else { return plain(StatusCode::NOT_FOUND, format!("pod \"{pod}\" does not exist")) };
        let view = handle.view.borrow().clone();
        if find_container(view.pod.spec(), container).is_none() {
            return plain(StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{pod}\""));
        }
        let options = match options(query, self.context.env.now()) {
            Ok(options) => options,
            Err((status, text)) => return plain(status, text),
        };
        let id = match container_id(pod, container, &view.status, query.flag("previous")) {
            Ok(id) => id,
            Err(text) => return plain(StatusCode::BAD_REQUEST, text),
        };
        let Some(seen) = view.observed.containers.iter().find(|c| c.id == id) else {
            return plain(StatusCode::BAD_REQUEST, format!("unable to retrieve container logs for {ID_PREFIX}{id}"));
        };
        let path = pod_log_dir(&self.context, &view.pod).join(&seen.log_path);
        let (to, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let (running, guard) = follow_state(handle, id);
        tokio::spawn(async move {
            let _guard = guard;
            if let Err(error) = read::send(path.clone(), options, running, to.clone()).await {
                let text = format!("failed to try resolving symlinks in path \"{}\": {error}", path.display());
                drop(to.send(Bytes::from(text)).await);
            }
        });
        streamed(pieces)
    }
}

/// An answer whose body comes in pieces.
fn streamed(pieces: mpsc::Receiver<Bytes>) -> Response<Body> {
    let frames = futures::stream::unfold(pieces, |mut pieces| async move { Some((Ok(Frame::data(pieces.recv().await?)), pieces)) });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// Whether that run of the container still runs, as long as the guard lives.
fn follow_state(handle: Handle, id: String) -> (watch::Receiver<bool>, tokio_util::sync::DropGuard) {
    let runs = move |view: &PodView| view.observed.containers.iter().any(|c| c.id == id && c.is_running());
    let (sender, receiver) = watch::channel(runs(&handle.view.borrow()));
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let mut view = handle.view;
    tokio::spawn(async move {
        tokio::select! {
            // The end of the actor is the end of the container, too.
            _ = view.wait_for(|v| !runs(v)) => drop(sender.send_replace(false)),
            () = stop.cancelled() => {}
        }
    });
    (receiver, guard)
}

fn options(query: &Query, now: jiff::Timestamp) -> Result<Options, (StatusCode, String)> {
    let bad = || (StatusCode::BAD_REQUEST, "{\"message\": \"Unable to decode query.\"}".to_owned());
    let invalid = || (StatusCode::UNPROCESSABLE_ENTITY, "{\"message\": \"Invalid request.\"}".to_owned());
    let number = |name: &str| match query.get(name) {
        None => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| bad()),
    };
    let tail = match query.get("tail") {
        None => number("tailLines")?,
        Some("all") => None,
        Some(_) => number("tail")?,
    };
    let (limit, seconds) = (number("limitBytes")?, number("sinceSeconds")?);
    let time = query.get("sinceTime").filter(|t| !t.is_empty()).map(|t| knarr_core::time::parse(t).ok_or_else(bad)).transpose()?;
    if tail.is_some_and(|n| n < 0) || limit.is_some_and(|n| n < 1) || seconds.is_some_and(|n| n < 1) || (seconds.is_some() && time.is_some()) {
        return Err(invalid());
    }
    let stream = match query.get("stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        Some(_) => return Err(invalid()),
    };
    Ok(Options {
        follow: query.flag("follow"),
        tail_lines: tail.and_then(|n| u64::try_from(n).ok()),
        since: time.or_else(|| seconds.map(|s| now - SignedDuration::from_secs(s))),
        timestamps: query.flag("timestamps"),
        limit_bytes: limit.and_then(|n| u64::try_from(n).ok()),
        stream,
    })
}

/// The run whose log is wanted: the running one, or the last that ended.
fn container_id(pod: &str, container: &str, status: &PodStatus, previous: bool) -> Result<String, String> {
    let named = |list: &Option<Vec<ContainerStatus>>| list.iter().flatten().find(|s| s.name == container).cloned();
    let status = named(&status.container_statuses).or_else(|| named(&status.init_container_statuses)).or_else(|| named(&status.ephemeral_container_statuses));
    let status = status.ok_or_else(|| format!("container \"{container}\" in pod \"{pod}\" is not available"))?;
    let bare = |id: Option<String>| id.and_then(|id| id.strip_prefix(ID_PREFIX).map(str::to_owned)).filter(|id| !id.is_empty());
    let last = bare(status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).and_then(|t| t.container_id.clone()));
    if previous {
        return last.ok_or_else(|| format!("previous terminated container \"{container}\" in pod \"{pod}\" not found"));
    }
    let state = status.state.unwrap_or_default();
    if state.running.is_some() {
        return bare(status.container_id).ok_or_else(|| format!("container \"{container}\" in pod \"{pod}\" is not available"));
    }
    if let Some(terminated) = state.terminated {
        return bare(terminated.container_id).or(last).ok_or_else(|| format!("container \"{container}\" in pod \"{pod}\" is terminated"));
    }
    if status.last_state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return last.ok_or_else(|| format!("container \"{container}\" in pod \"{pod}\" is terminated"));
    }
    let why = match state.waiting.and_then(|w| w.reason).unwrap_or_default().as_str() {
        "ErrImagePull" => "image can't be pulled".to_owned(),
        "ImagePullBackOff" => "trying and failing to pull image".to_owned(),
        reason => reason.to_owned(),
    };
    Err(format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn id_of(status: knarr_core::Value, previous: bool) -> Result<String, String> {
        let mut status = status;
        for (key, value) in [("name", json!("c")), ("image", json!("")), ("imageID", json!("")), ("ready", json!(false)), ("restartCount", json!(0))] {
            status[key] = value;
        }
        container_id("p", "c", &serde_json::from_value(json!({"containerStatuses": [status]})).unwrap(), previous)
    }

    #[test]
    fn the_run_that_tells_most_is_chosen() {
        let ended = |id: &str| json!({"terminated": {"exitCode": 1, "containerID": format!("knarr://{id}")}});
        assert_eq!(id_of(json!({"containerID": "knarr://b", "state": {"running": {}}, "lastState": ended("a")}), false), Ok("b".into()));
        assert_eq!(id_of(json!({"containerID": "knarr://b", "state": {"running": {}}, "lastState": ended("a")}), true), Ok("a".into()));
        assert_eq!(id_of(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended("a")}), false), Ok("a".into()));
        assert_eq!(
            id_of(json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), false),
            Err("container \"c\" in pod \"p\" is waiting to start: ContainerCreating".into())
        );
        assert_eq!(id_of(json!({"state": {"running": {}}}), true), Err("previous terminated container \"c\" in pod \"p\" not found".into()));
    }

    #[test]
    fn options_are_checked() {
        let parse = |q: &str| options(&Query::parse(q), jiff::Timestamp::from_second(1000).unwrap());
        let all = parse("follow=true&tailLines=5&sinceSeconds=10&timestamps=true&limitBytes=7").unwrap();
        assert_eq!((all.follow, all.tail_lines, all.limit_bytes, all.since.unwrap().as_second()), (true, Some(5), Some(7), 990));
        assert_eq!(parse("tailLines=-1").unwrap_err().0, 422);
        assert_eq!(parse("tailLines=x").unwrap_err().0, 400);
        assert_eq!(parse("tail=all").unwrap().tail_lines, None);
    }
}
