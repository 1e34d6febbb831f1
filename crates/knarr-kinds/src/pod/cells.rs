//! The table row of a pod (upstream: `printPod`): what `kubectl get pods` shows of readiness, reason and restarts.

use jiff::Timestamp;
use knarr_core::{Value, ValueExt, time};

use super::resources::is_sidecar;
use crate::cells::{NONE, age, between, is_deleting, name, number, text, text_or};

/// What the walk over container statuses found.
#[derive(Default)]
struct Summary {
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
    ready: usize,
    total: usize,
}

impl Summary {
    /// Counts the restarts of one container.
    fn count(&mut self, status: &Value) {
        self.restarts += number(status, &["restartCount"]);
        let finished = status.str_at(&["lastState", "terminated", "finishedAt"]).and_then(time::parse);
        self.last_restart = self.last_restart.max(finished);
    }
}

/// Cells of all columns, the wide ones included.
pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, between(at, now)),
        _ => summary.restarts.to_string(),
    };
    let ip = pod.list_at(&["status", "podIPs"]).first().and_then(|i| i.str_at(&["ip"])).filter(|ip| !ip.is_empty());
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        ip.unwrap_or(text_or(pod, &["status", "podIP"], NONE)).into(),
        text_or(pod, &["spec", "nodeName"], NONE).into(),
        text_or(pod, &["status", "nominatedNodeName"], NONE).into(),
        readiness_gates(pod).into(),
    ]
}

fn summarize(pod: &Value) -> Summary {
    let sidecars = pod.list_at(&["spec", "initContainers"]).iter().filter(|c| is_sidecar(c)).count();
    let mut all = Summary { reason: phase_or_reason(pod), total: pod.list_at(&["spec", "containers"]).len() + sidecars, ..Summary::default() };
    let (restarts_of_sidecars, initializing) = walk_init_containers(pod, &mut all);
    if !initializing || initialized(pod) {
        all.restarts = restarts_of_sidecars.restarts;
        all.last_restart = restarts_of_sidecars.last_restart;
        walk_containers(pod, &mut all);
    }
    if is_deleting(pod) {
        if text(pod, &["status", "reason"]) == "NodeLost" {
            all.reason = "Unknown".into();
        } else if !matches!(text(pod, &["status", "phase"]), "Failed" | "Succeeded") {
            all.reason = "Terminating".into();
        }
    }
    all
}

fn phase_or_reason(pod: &Value) -> String {
    let gated = |c: &Value| text(c, &["type"]) == "PodScheduled" && text(c, &["reason"]) == "SchedulingGated";
    if pod.list_at(&["status", "conditions"]).iter().any(gated) {
        return "SchedulingGated".into();
    }
    text_or(pod, &["status", "reason"], text(pod, &["status", "phase"])).into()
}

fn initialized(pod: &Value) -> bool {
    crate::cells::is_true(pod, "Initialized")
}

/// Walks the init containers up to the first that is not done. Gives the restarts of sidecars alone, and whether the pod still
/// initialises.
fn walk_init_containers(pod: &Value, all: &mut Summary) -> (Summary, bool) {
    let specs = pod.list_at(&["spec", "initContainers"]);
    let mut sidecars = Summary::default();
    for (i, status) in pod.list_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        all.count(status);
        let sidecar = specs.iter().any(|c| c.get("name") == status.get("name") && is_sidecar(c));
        if sidecar {
            sidecars.count(status);
        }
        let terminated = status.at(&["state", "terminated"]);
        if terminated.is_some_and(|t| number(t, &["exitCode"]) == 0) {
            continue;
        }
        if sidecar && status.bool_at(&["started"]) == Some(true) {
            all.ready += usize::from(status.bool_at(&["ready"]) == Some(true));
            continue;
        }
        let waiting = text(status, &["state", "waiting", "reason"]);
        all.reason = match terminated {
            Some(t) => format!("Init:{}", why_terminated(t)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{}", specs.len()),
        };
        return (sidecars, true);
    }
    (sidecars, false)
}

/// Reason, signal or exit code of a container that ended.
fn why_terminated(terminated: &Value) -> String {
    match (text(terminated, &["reason"]), number(terminated, &["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(terminated, &["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

fn walk_containers(pod: &Value, all: &mut Summary) {
    let (mut running, mut error) = (false, None);
    for status in pod.list_at(&["status", "containerStatuses"]).iter().rev() {
        all.count(status);
        let waiting = text(status, &["state", "waiting", "reason"]);
        if !waiting.is_empty() {
            all.reason = waiting.into();
        } else if let Some(terminated) = status.at(&["state", "terminated"]) {
            all.reason = why_terminated(terminated);
            if number(terminated, &["exitCode"]) != 0 {
                error = Some(all.reason.clone());
            }
        } else if status.bool_at(&["ready"]) == Some(true) && status.at(&["state", "running"]).is_some() {
            running = true;
            all.ready += 1;
        }
    }
    if all.reason == "Completed" {
        all.reason = match error {
            _ if running && crate::cells::is_true(pod, "Ready") => "Running".into(),
            Some(error) => error,
            None if running => "NotReady".into(),
            None => "Completed".into(),
        };
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod.list_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return NONE.into();
    }
    let passed = gates.iter().filter(|g| crate::cells::is_true(pod, text(g, &["conditionType"]))).count();
    format!("{passed}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn check(spec: Value, status: Value, wanted: [&str; 3]) {
        let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        let row = cells(&pod, time::parse("2026-01-01T01:00:00Z").unwrap());
        assert_eq!([row[1].as_str(), row[2].as_str(), row[3].as_str()], wanted.map(Some), "{pod}");
    }

    #[test]
    fn a_row_tells_what_the_pod_is_at() {
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let run = |ready: bool| json!({"ready": ready, "restartCount": 3, "state": {"running": {}}});
        check(two.clone(), json!({"phase": "Running", "containerStatuses": [run(true), {"restartCount": 3}]}), ["1/2", "Running", "6"]);
        check(
            two.clone(),
            json!({"phase": "Running", "containerStatuses": [run(true), {"restartCount": 3, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            ["1/2", "NotReady", "6"],
        );
        check(two.clone(), json!({"phase": "Failed", "reason": "Evicted"}), ["0/2", "Evicted", "0"]);
        check(
            two.clone(),
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 2, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:57:00Z"}}}]}),
            ["0/2", "CrashLoopBackOff", "2 (3m ago)"],
        );
        check(two, json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}), ["0/2", "SchedulingGated", "0"]);
    }

    #[test]
    fn init_containers_show_how_far_they_are() {
        let spec = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "k"}]});
        check(spec.clone(), json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}), ["0/2", "Init:0/3", "0"]);
        check(
            spec.clone(),
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 2}}}]}),
            ["0/2", "Init:ExitCode:2", "0"],
        );
        check(
            spec,
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "s", "started": true, "ready": true, "restartCount": 2}, {"name": "k", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
            ["1/2", "Init:ImagePullBackOff", "2"],
        );
    }
}
