use k8s_openapi::api::core::v1::Event;
use knarr_core::Value;

use super::*;
use crate::context::testing::Harness;

fn job(spec: Value) -> Job {
    let mut value = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "namespace": "a", "uid": "job"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "selector": {"matchLabels": {"job": "work"}},
            "template": {"metadata": {"labels": {"job": "work"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}}});
    for (key, setting) in spec.as_object().unwrap() {
        value["spec"][key] = setting.clone();
    }
    serde_json::from_value(value).unwrap()
}

fn status(harness: &Harness) -> JobStatus {
    harness.api.read::<Job>("a", "work").and_then(|j| j.status).unwrap_or_default()
}

/// `(active, succeeded, failed)`.
fn counts(harness: &Harness) -> (i32, i32, i32) {
    let s = status(harness);
    (s.active.unwrap_or(0), s.succeeded.unwrap_or(0), s.failed.unwrap_or(0))
}

fn conditions(harness: &Harness) -> Vec<String> {
    status(harness).conditions.unwrap_or_default().iter().map(|c| format!("{} {} {}", c.type_, c.status, c.reason.as_deref().unwrap_or_default())).collect()
}

fn active(harness: &Harness) -> Vec<Pod> {
    let over = |p: &Pod| matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    harness.api.read_all::<Pod>().into_iter().filter(|p| p.metadata.deletion_timestamp.is_none() && !over(p)).collect()
}

fn index(pod: &Pod) -> String {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(pod::INDEX)).cloned().unwrap_or_default()
}

/// What the node agent would report of a pod that exits.
fn exit(harness: &Harness, pod: &Pod, code: i32) {
    let now = harness.context.env.now();
    harness.api.change::<Pod>("a", pod.metadata.name.as_deref().unwrap(), |p| {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        p.status = serde_json::from_value(json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": code, "finishedAt": now.to_string()}}}]}))
        .unwrap();
    });
}

fn start_with(spec: Value) -> Harness {
    let harness = Harness::new();
    start(&harness.context);
    harness.api.seed(&job(spec));
    harness
}

fn tracked(harness: &Harness) -> usize {
    harness.api.read_all::<Pod>().iter().filter(|p| p.metadata.finalizers.iter().flatten().any(|f| f == TRACKING)).count()
}

fn events(harness: &Harness) -> Vec<String> {
    harness.api.read_all::<Event>().into_iter().map(|e| e.reason.unwrap_or_default()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_until_enough_pods_succeeded_and_counts_each_once() {
    let harness = start_with(json!({"parallelism": 2, "completions": 3}));
    for succeeded in 0..3 {
        harness.api.until(|_| counts(&harness) == ((3 - succeeded).min(2), succeeded, 0)).await;
        exit(&harness, &active(&harness)[0], 0);
    }
    harness.api.until(|_| conditions(&harness) == ["SuccessCriteriaMet True CompletionsReached", "Complete True CompletionsReached"]).await;
    harness.settle().await;
    let status = status(&harness);
    assert_eq!((status.active, status.succeeded, status.ready, status.terminating), (None, Some(3), Some(0), Some(0)));
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    assert_eq!(status.uncounted_terminated_pods, Some(Default::default()));
    assert_eq!((tracked(&harness), harness.api.read_all::<Pod>().len()), (0, 3));
    assert_eq!(events(&harness).iter().filter(|r| *r == "Completed").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_index_runs_to_its_end() {
    let harness = start_with(json!({"parallelism": 2, "completions": 3, "completionMode": "Indexed"}));
    harness.api.until(|_| active(&harness).len() == 2).await;
    let first = active(&harness);
    assert_eq!(first.iter().map(index).collect::<Vec<_>>(), ["0", "1"]);
    assert!(first[1].metadata.name.as_deref().unwrap().starts_with("work-1-"));
    let spec = first[1].spec.as_ref().unwrap();
    let variable = spec.containers[0].env.as_ref().unwrap()[0].clone();
    let path = variable.value_from.and_then(|v| v.field_ref).map(|f| f.field_path).unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), variable.name.as_str(), path.as_str()),
        (Some("work-1"), "JOB_COMPLETION_INDEX", "metadata.labels['batch.kubernetes.io/job-completion-index']")
    );
    exit(&harness, &first[1], 0);
    harness.api.until(|_| status(&harness).completed_indexes.as_deref() == Some("1") && active(&harness).len() == 2).await;
    active(&harness).iter().for_each(|p| exit(&harness, p, 0));
    harness.api.until(|_| conditions(&harness).len() == 2).await;
    assert_eq!((status(&harness).completed_indexes.as_deref(), counts(&harness)), (Some("0-2"), (0, 3, 0)));
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_ever_later_until_there_were_too_many() {
    let harness = start_with(json!({"backoffLimit": 1, "parallelism": 2, "completions": 2}));
    harness.api.until(|_| counts(&harness) == (2, 0, 0)).await;
    let started = tokio::time::Instant::now();
    exit(&harness, &active(&harness)[0], 1);
    harness.api.until(|_| counts(&harness) == (1, 0, 1)).await;
    harness.api.until(|_| counts(&harness) == (2, 0, 1)).await;
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
    exit(&harness, &active(&harness)[0], 1);
    // The other pod goes, and counts as failed.
    harness.api.until(|_| conditions(&harness) == ["FailureTarget True BackoffLimitExceeded", "Failed True BackoffLimitExceeded"]).await;
    assert_eq!((counts(&harness), active(&harness).len(), tracked(&harness)), ((0, 0, 3), 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_policy_decides_what_a_failure_means() {
    let rules = json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42], "containerName": "c"}}]);
    let harness = start_with(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}));
    harness.api.until(|_| active(&harness).len() == 1).await;
    let name = active(&harness)[0].metadata.name.clone().unwrap();
    harness.api.change::<Pod>("a", &name, |p| {
        p.status = serde_json::from_value(json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}]})).unwrap();
    });
    harness.api.until(|_| active(&harness).len() == 1).await;
    assert_eq!(counts(&harness).2, 0);
    let pod = active(&harness).remove(0);
    exit(&harness, &pod, 42);
    harness.api.until(|_| conditions(&harness).len() == 2).await;
    let condition = status(&harness).conditions.unwrap().remove(1);
    let expected = format!("Container c for pod a/{} failed with exit code 42 matching FailJob rule at index 1", pod.metadata.name.unwrap());
    assert_eq!((condition.reason.as_deref(), condition.message.unwrap()), (Some("PodFailurePolicy"), expected));
}

#[tokio::test(start_paused = true)]
async fn an_index_may_fail_alone() {
    let harness = start_with(json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": i32::MAX}));
    harness.api.until(|_| active(&harness).len() == 2).await;
    let pods = active(&harness);
    exit(&harness, &pods[0], 1);
    harness.api.until(|_| counts(&harness) == (2, 0, 1)).await;
    let again = active(&harness).into_iter().find(|p| index(p) == "0").unwrap();
    assert_eq!(again.metadata.annotations.as_ref().unwrap()["batch.kubernetes.io/job-index-failure-count"], "1");
    exit(&harness, &again, 1);
    harness.api.until(|_| status(&harness).failed_indexes.as_deref() == Some("0")).await;
    exit(&harness, &pods[1], 0);
    harness.api.until(|_| conditions(&harness) == ["FailureTarget True FailedIndexes", "Failed True FailedIndexes"]).await;
    assert_eq!((status(&harness).completed_indexes.as_deref(), counts(&harness)), (Some("1"), (0, 1, 2)));
}

#[tokio::test(start_paused = true)]
async fn enough_indexes_are_enough_where_a_policy_says_so() {
    let policy = json!({"rules": [{"succeededIndexes": "1-2", "succeededCount": 1}]});
    let harness = start_with(json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed", "successPolicy": policy}));
    harness.api.until(|_| active(&harness).len() == 3).await;
    exit(&harness, &active(&harness)[2], 0);
    harness.api.until(|_| conditions(&harness) == ["SuccessCriteriaMet True SuccessPolicy", "Complete True SuccessPolicy"]).await;
    assert_eq!((status(&harness).completed_indexes.as_deref(), active(&harness).len()), (Some("2"), 0));
}

#[tokio::test(start_paused = true)]
async fn a_suspended_job_has_no_pods_and_loses_no_time() {
    let harness = start_with(json!({"suspend": true, "activeDeadlineSeconds": 60}));
    harness.api.until(|_| conditions(&harness) == ["Suspended True JobSuspended"]).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((active(&harness).len(), status(&harness).start_time), (0, None));
    harness.api.change::<Job>("a", "work", |j| j.spec.as_mut().unwrap().suspend = Some(false));
    harness.api.until(|_| conditions(&harness) == ["Suspended False JobResumed"] && active(&harness).len() == 1).await;
    assert!(status(&harness).start_time.is_some());
    harness.api.change::<Job>("a", "work", |j| j.spec.as_mut().unwrap().suspend = Some(true));
    harness.api.until(|_| active(&harness).is_empty() && counts(&harness) == (0, 0, 0)).await;
    harness.api.change::<Job>("a", "work", |j| j.spec.as_mut().unwrap().suspend = Some(false));
    harness.api.until(|_| active(&harness).len() == 1).await;
    harness.api.until(|_| conditions(&harness).last().is_some_and(|c| c == "Failed True DeadlineExceeded")).await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_job_that_is_gone_are_let_go() {
    let harness = start_with(json!({"parallelism": 2, "completions": 2}));
    harness.api.until(|_| tracked(&harness) == 2).await;
    let jobs = harness.context.client("x").within::<Job>("a");
    jobs.delete("work", &Default::default()).await.unwrap();
    harness.api.until(|_| tracked(&harness) == 0).await;
    assert_eq!(active(&harness).len(), 2, "deleting them is the garbage collector's");
}
