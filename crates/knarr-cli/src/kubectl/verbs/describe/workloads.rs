//! The pages of what makes pods, and of what scales and guards them.

use knarr_core::{Value, ValueExt};

use super::page::{Page, between, date, format_labels, format_selector, int, or, text, texts, title_bool};
use super::{Asker, controller, pods};
use crate::kubectl::failure::Result;
use crate::kubectl::print::go;
use crate::kubectl::resources::known;
use crate::kubectl::verbs::pods::selector_of;

fn phases(page: &mut Page, counts: [usize; 4]) {
    let [running, waiting, succeeded, failed] = counts;
    page.field(0, "Pods Status", format!("{running} Running / {waiting} Waiting / {succeeded} Succeeded / {failed} Failed"));
}

fn conditions(page: &mut Page, object: &Value) {
    let all = object.list_at(&["status", "conditions"]);
    if all.is_empty() {
        return;
    }
    page.line(0, "Conditions:");
    page.line(1, "Type\tStatus\tReason");
    page.line(1, "----\t------\t------");
    all.iter().for_each(|c| page.line(1, format!("{} \t{}\t{}", text(c, &["type"]), text(c, &["status"]), text(c, &["reason"]))));
}

fn controlled_by(page: &mut Page, object: &Value) {
    page.some(0, "Controlled By", controller(object).map(|c| format!("{}/{}", text(c, &["kind"]), text(c, &["name"]))));
}

fn template(page: &mut Page, object: &Value) {
    pods::template(page, object.at(&["spec", "template"]).unwrap_or(&Value::Null));
}

pub async fn replication_controller(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let counts = asker.pod_phases(object).await?;
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "Selector", format_labels(object.at(&["spec", "selector"])));
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    page.field(0, "Replicas", format!("{} current / {} desired", int(object, &["status", "replicas"]), int(object, &["spec", "replicas"])));
    phases(&mut page, counts);
    template(&mut page, object);
    conditions(&mut page, object);
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

pub async fn replica_set(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let counts = asker.pod_phases(object).await;
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "Selector", format_selector(object.at(&["spec", "selector"])));
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    controlled_by(&mut page, object);
    page.field(0, "Replicas", format!("{} current / {} desired", int(object, &["status", "replicas"]), int(object, &["spec", "replicas"])));
    match counts {
        Ok(counts) => phases(&mut page, counts),
        Err(e) => page.field(0, "Pods Status", format!("error in fetching pods: {}", e.message())),
    }
    template(&mut page, object);
    conditions(&mut page, object);
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

pub async fn deployment(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "CreationTimestamp", date(object.str_at(&["metadata", "creationTimestamp"])));
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    page.field(0, "Selector", selector_of(object)?);
    let status = |key: &str| int(object, &["status", key]);
    page.field(
        0,
        "Replicas",
        format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            int(object, &["spec", "replicas"]),
            status("updatedReplicas"),
            status("replicas"),
            status("availableReplicas"),
            status("unavailableReplicas")
        ),
    );
    page.field(0, "StrategyType", text(object, &["spec", "strategy", "type"]));
    page.field(0, "MinReadySeconds", int(object, &["spec", "minReadySeconds"]));
    if let Some(rolling) = object.at(&["spec", "strategy", "rollingUpdate"]) {
        page.field(
            0,
            "RollingUpdateStrategy",
            format!("{} max unavailable, {} max surge", or(rolling, &["maxUnavailable"], "0"), or(rolling, &["maxSurge"], "0")),
        );
    }
    template(&mut page, object);
    conditions(&mut page, object);
    if let Ok((old, new)) = replica_sets(asker, object).await
        && !(old.is_empty() && new.is_empty())
    {
        page.field(0, "OldReplicaSets", set_names(&old));
        page.field(0, "NewReplicaSet", set_names(&new));
    }
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

fn set_names(sets: &[Value]) -> String {
    let names: Vec<String> = sets
        .iter()
        .map(|s| format!("{} ({}/{} replicas created)", text(s, &["metadata", "name"]), int(s, &["status", "replicas"]), int(s, &["spec", "replicas"])))
        .collect();
    if names.is_empty() { "<none>".into() } else { names.join(", ") }
}

/// The ReplicaSets of a Deployment: old ones, and the one of its template.
async fn replica_sets(asker: &Asker<'_>, object: &Value) -> Result<(Vec<Value>, Vec<Value>)> {
    let path = known("replicasets").path(Some(text(object, &["metadata", "namespace"])), None);
    let mut all = asker.list(&path, &[("labelSelector", selector_of(object)?.to_string())]).await?;
    let uid = text(object, &["metadata", "uid"]);
    all.retain(|s| controller(s).is_some_and(|c| text(c, &["uid"]) == uid));
    all.sort_by_key(|s| (text(s, &["metadata", "creationTimestamp"]).to_owned(), text(s, &["metadata", "name"]).to_owned()));
    let plain = |o: &Value| {
        let mut template = o.at(&["spec", "template"]).cloned().unwrap_or_default();
        template.remove(&["metadata", "labels", "pod-template-hash"]);
        template
    };
    let wanted = plain(object);
    let new = all.iter().position(|s| plain(s) == wanted).map(|at| all.remove(at));
    Ok((all, new.into_iter().collect()))
}

pub async fn stateful_set(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let counts = asker.pod_phases(object).await?;
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "CreationTimestamp", date(object.str_at(&["metadata", "creationTimestamp"])));
    page.field(0, "Selector", selector_of(object)?);
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    page.some(0, "Service Name", object.str_at(&["spec", "serviceName"]).filter(|t| !t.is_empty()));
    page.some(0, "Pod Management Policy", object.str_at(&["spec", "podManagementPolicy"]).filter(|t| !t.is_empty()));
    page.field(0, "Replicas", format!("{} desired | {} total", int(object, &["spec", "replicas"]), int(object, &["status", "replicas"])));
    page.field(0, "Update Strategy", text(object, &["spec", "updateStrategy", "type"]));
    if let Some(partition) = object.i64_at(&["spec", "updateStrategy", "rollingUpdate", "partition"]) {
        page.field(1, "Partition", partition);
        page.some(1, "MaxUnavailable", object.at(&["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"]).map(go::sprint));
    }
    if let Some(policy) = object.at(&["spec", "persistentVolumeClaimRetentionPolicy"]) {
        page.line(0, "Persistent Volume Claim Retention Policy:");
        page.field(1, "WhenDeleted", text(policy, &["whenDeleted"]));
        page.field(1, "WhenScaled", text(policy, &["whenScaled"]));
    }
    phases(&mut page, counts);
    template(&mut page, object);
    claims(&mut page, object.list_at(&["spec", "volumeClaimTemplates"]));
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

fn claims(page: &mut Page, templates: &[Value]) {
    if templates.is_empty() {
        return page.line(0, "Volume Claims:\t<none>");
    }
    page.line(0, "Volume Claims:");
    for claim in templates {
        page.field(1, "Name", text(claim, &["metadata", "name"]));
        page.field(1, "StorageClass", text(claim, &["spec", "storageClassName"]));
        for (title, key) in [("Labels", "labels"), ("Annotations", "annotations")] {
            let pairs: Vec<String> = claim
                .at(&["metadata", key])
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                .collect();
            page.part(0, format!("  {title}:\t"));
            if pairs.is_empty() {
                page.line(0, "<none>");
            }
            pairs.iter().enumerate().for_each(|(i, p)| page.line(0, if i == 0 { p.clone() } else { format!("  \t{p}") }));
        }
        page.field(1, "Capacity", or(claim, &["spec", "resources", "requests", "storage"], "<default>"));
        page.field(1, "Access Modes", format!("[{}]", texts(claim, &["spec", "accessModes"]).join(" ")));
    }
}

pub async fn daemon_set(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let counts = asker.pod_phases(object).await?;
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "Selector", selector_of(object)?);
    page.field(0, "Node-Selector", format_labels(object.at(&["spec", "template", "spec", "nodeSelector"])));
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    for (title, key) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        ("Number of Nodes Scheduled with Up-to-date Pods", "updatedNumberScheduled"),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        page.line(0, format!("{title}: {}", int(object, &["status", key])));
    }
    phases(&mut page, counts);
    template(&mut page, object);
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

pub async fn job(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "Selector", selector_of(object).map(|s| s.to_string()).unwrap_or_default());
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    controlled_by(&mut page, object);
    page.some(0, "Parallelism", object.i64_at(&["spec", "parallelism"]));
    page.field(0, "Completions", or(object, &["spec", "completions"], "<unset>"));
    page.some(0, "Completion Mode", object.str_at(&["spec", "completionMode"]));
    page.some(0, "Suspend", object.bool_at(&["spec", "suspend"]));
    page.some(0, "Backoff Limit", object.i64_at(&["spec", "backoffLimit"]));
    page.some(0, "TTL Seconds After Finished", object.i64_at(&["spec", "ttlSecondsAfterFinished"]));
    let (start, end) = (object.str_at(&["status", "startTime"]), object.str_at(&["status", "completionTime"]));
    page.some(0, "Start Time", start.map(|t| date(Some(t))));
    page.some(0, "Completed At", end.map(|t| date(Some(t))));
    page.some(0, "Duration", start.zip(end).and_then(|(s, e)| between(s, e)));
    page.some(0, "Active Deadline Seconds", object.i64_at(&["spec", "activeDeadlineSeconds"]).map(|s| format!("{s}s")));
    let status = |key: &str| int(object, &["status", key]);
    let ready = object.i64_at(&["status", "ready"]).map(|r| format!(" ({r} Ready)")).unwrap_or_default();
    page.field(0, "Pods Statuses", format!("{} Active{ready} / {} Succeeded / {} Failed", status("active"), status("succeeded"), status("failed")));
    if object.str_at(&["spec", "completionMode"]) == Some("Indexed") {
        page.field(0, "Completed Indexes", capped(text(object, &["status", "completedIndexes"]), 50));
    }
    template(&mut page, object);
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

/// A long list of indexes is cut at a comma.
fn capped(indexes: &str, limit: usize) -> String {
    if indexes.is_empty() {
        return "<none>".into();
    }
    match indexes.get(limit..).and_then(|rest| rest.find(',')) {
        Some(at) => format!("{}...", &indexes[..=limit + at]),
        None => indexes.to_owned(),
    }
}

pub async fn cron_job(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    page.field(0, "Schedule", text(object, &["spec", "schedule"]));
    page.field(0, "Concurrency Policy", text(object, &["spec", "concurrencyPolicy"]));
    page.field(0, "Suspend", object.bool_at(&["spec", "suspend"]).map_or("<unset>", title_bool));
    page.field(0, "Time Zone", or(object, &["spec", "timeZone"], "<unset>"));
    page.field(0, "Successful Job History Limit", or(object, &["spec", "successfulJobsHistoryLimit"], "<unset>"));
    page.field(0, "Failed Job History Limit", or(object, &["spec", "failedJobsHistoryLimit"], "<unset>"));
    page.field(0, "Starting Deadline Seconds", object.i64_at(&["spec", "startingDeadlineSeconds"]).map_or_else(|| "<unset>".into(), |s| format!("{s}s")));
    let job = object.at(&["spec", "jobTemplate"]).unwrap_or(&Value::Null);
    page.field(
        0,
        "Selector",
        if job.at(&["spec", "selector"]).is_some() { selector_of(job).map(|s| s.to_string()).unwrap_or_default() } else { "<unset>".into() },
    );
    page.field(0, "Parallelism", or(job, &["spec", "parallelism"], "<unset>"));
    page.field(0, "Completions", or(job, &["spec", "completions"], "<unset>"));
    page.some(0, "Active Deadline Seconds", job.i64_at(&["spec", "activeDeadlineSeconds"]).map(|s| format!("{s}s")));
    template(&mut page, job);
    page.field(0, "Last Schedule Time", object.str_at(&["status", "lastScheduleTime"]).map_or_else(|| "<unset>".into(), |t| date(Some(t))));
    let active: Vec<&str> = object.list_at(&["status", "active"]).iter().map(|j| text(j, &["name"])).collect();
    page.field(0, "Active Jobs", if active.is_empty() { "<none>".into() } else { active.join(", ") });
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn disruption_budget(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    match (object.at(&["spec", "minAvailable"]), object.at(&["spec", "maxUnavailable"])) {
        (Some(min), _) => page.field(0, "Min available", go::sprint(min)),
        (None, Some(max)) => page.field(0, "Max unavailable", go::sprint(max)),
        _ => {}
    }
    page.field(0, "Selector", object.at(&["spec", "selector"]).map_or_else(|| "<unset>".into(), |s| format_selector(Some(s))));
    page.line(0, "Status:");
    for (title, key) in [("Allowed disruptions", "disruptionsAllowed"), ("Current", "currentHealthy"), ("Desired", "desiredHealthy"), ("Total", "expectedPods")]
    {
        page.field(2, title, int(object, &["status", key]));
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn autoscaler(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    page.field(0, "CreationTimestamp", date(object.str_at(&["metadata", "creationTimestamp"])));
    let target = |key: &str| text(object, &["spec", "scaleTargetRef", key]).to_owned();
    page.field(0, "Reference", format!("{}/{}", target("kind"), target("name")));
    page.field(0, "Metrics", "( current / target )");
    let current = object.list_at(&["status", "currentMetrics"]);
    for (i, metric) in object.list_at(&["spec", "metrics"]).iter().enumerate() {
        page.line(1, metric_line(metric, current.get(i).unwrap_or(&Value::Null)));
    }
    page.field(0, "Min replicas", or(object, &["spec", "minReplicas"], "<unset>"));
    page.field(0, "Max replicas", int(object, &["spec", "maxReplicas"]));
    if let Some(behavior) = object.at(&["spec", "behavior"]) {
        page.line(0, "Behavior:");
        direction(&mut page, "Scale Up", behavior.at(&["scaleUp"]));
        direction(&mut page, "Scale Down", behavior.at(&["scaleDown"]));
    }
    page.field(
        0,
        &format!("{} pods", target("kind")),
        format!("{} current / {} desired", int(object, &["status", "currentReplicas"]), int(object, &["status", "desiredReplicas"])),
    );
    let conditions = object.list_at(&["status", "conditions"]);
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tReason\tMessage");
        page.line(1, "----\t------\t------\t-------");
        conditions
            .iter()
            .for_each(|c| page.line(1, format!("{}\t{}\t{}\t{}", text(c, &["type"]), text(c, &["status"]), text(c, &["reason"]), text(c, &["message"]))));
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

fn metric_line(metric: &Value, current: &Value) -> String {
    let quoted = |m: &Value| knarr_core::field::go_quote(text(m, &["metric", "name"]));
    let now = |key: &str, value: &str| or(current, &[key, "current", value], "<unknown>");
    match text(metric, &["type"]) {
        "External" => {
            let m = &metric["external"];
            match m.at(&["target", "averageValue"]) {
                Some(wanted) => format!("{} (target average value):\t{} / {}", quoted(m), now("external", "averageValue"), go::sprint(wanted)),
                None => format!("{} (target value):\t{} / {}", quoted(m), now("external", "value"), or(m, &["target", "value"], "<nil>")),
            }
        }
        "Pods" => {
            format!("{} on pods:\t{} / {}", quoted(&metric["pods"]), now("pods", "averageValue"), or(metric, &["pods", "target", "averageValue"], "<nil>"))
        }
        "Object" => {
            let m = &metric["object"];
            let (what, key) = if text(m, &["target", "type"]) == "AverageValue" { ("average value", "averageValue") } else { ("value", "value") };
            format!(
                "\"{}\" on {}/{} (target {what}):\t{} / {}",
                text(m, &["metric", "name"]),
                text(m, &["describedObject", "kind"]),
                text(m, &["describedObject", "name"]),
                now("object", key),
                or(m, &["target", key], "<nil>")
            )
        }
        kind @ ("Resource" | "ContainerResource") => {
            let key = if kind == "Resource" { "resource" } else { "containerResource" };
            let m = &metric[key];
            let of = if kind == "Resource" { String::new() } else { format!(" of container \"{}\"", text(m, &["container"])) };
            let lead = format!("resource {}{of} on pods", text(m, &["name"]));
            if let Some(wanted) = m.at(&["target", "averageValue"]) {
                return format!("{lead}:\t{} / {}", now(key, "averageValue"), go::sprint(wanted));
            }
            let used =
                current.i64_at(&[key, "current", "averageUtilization"]).map_or_else(|| "<unknown>".into(), |u| format!("{u}% ({})", now(key, "averageValue")));
            let wanted = m.i64_at(&["target", "averageUtilization"]).map_or_else(|| "<auto>".into(), |u| format!("{u}%"));
            format!("{lead}  (as a percentage of request):\t{used} / {wanted}")
        }
        other => format!("<unknown metric type {}>", knarr_core::field::go_quote(other)),
    }
}

fn direction(page: &mut Page, title: &str, rules: Option<&Value>) {
    let Some(rules) = rules else { return };
    page.line(1, format!("{title}:"));
    if let Some(window) = rules.i64_at(&["stabilizationWindowSeconds"]) {
        page.line(2, format!("Stabilization Window: {window} seconds"));
    }
    let policies = rules.list_at(&["policies"]);
    if policies.is_empty() {
        return;
    }
    page.line(2, format!("Select Policy: {}", or(rules, &["selectPolicy"], "Max")));
    page.line(2, "Policies:");
    policies
        .iter()
        .for_each(|p| page.line(3, format!("- Type: {}\tValue: {}\tPeriod: {} seconds", text(p, &["type"]), int(p, &["value"]), int(p, &["periodSeconds"]))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn metrics_show_what_is_and_what_shall_be() {
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        assert_eq!(metric_line(&metric, &Value::Null), "resource cpu on pods  (as a percentage of request):\t<unknown> / 80%");
        let now = json!({"resource": {"current": {"averageUtilization": 5, "averageValue": "10m"}}});
        assert_eq!(metric_line(&metric, &now), "resource cpu on pods  (as a percentage of request):\t5% (10m) / 80%");
        assert_eq!(capped("1,2,3,4", 3), "1,2,...");
    }
}
