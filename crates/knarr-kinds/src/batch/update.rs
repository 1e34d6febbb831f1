//! What may change of a Job, in spec and status (upstream: `ValidateJobUpdate`, `ValidateJobUpdateStatus`).

use knarr_core::field::{Error, ErrorList};
use knarr_core::{Value, ValueExt, time};

use super::indexes;
use super::validation::without_value;
use crate::at::At;
use crate::metadata::IMMUTABLE;
use crate::semantic::{same, same_at};
use crate::separation::keep_at;

/// Fields that stay as they are.
const FIXED: [&str; 5] = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];

const TEMPLATE: [&str; 2] = ["spec", "template"];

pub fn spec(root: &At, old: &Value, e: &mut ErrorList) {
    let spec = root.get("spec");
    completions(&spec, old, e);
    crate::apps::validation::immutable(&spec, old, &["selector"], e);
    if let Some(job) = root.value() {
        template(job, old, &spec, e);
    }
    crate::apps::validation::immutable(&spec, old, &FIXED, e);
}

/// Indexed Jobs may grow with their parallelism.
fn completions(spec: &At, old: &Value, e: &mut ErrorList) {
    let completions = spec.get("completions");
    let before = old.at(&["spec", "completions"]);
    if spec.str_of("completionMode") != "Indexed" {
        completions.immutable(before, e);
    } else if completions.is_set() && completions.value() != before && completions.int() != spec.get("parallelism").int() {
        e.push(completions.invalid("can only be modified in tandem with spec.parallelism"));
    }
}

/// A suspended Job that runs no pods may change where its pods go and what they ask for.
fn template(job: &Value, old: &Value, spec: &At, e: &mut ErrorList) {
    let suspended = old.bool_at(&["spec", "suspend"]) == Some(true);
    let stopped = old.at(&["status", "startTime"]).is_none() || is_true(old, "Suspended");
    let idle = suspended && stopped && old.i64_at(&["status", "active"]).unwrap_or(0) == 0;
    let mut before = old.clone();
    if idle {
        allow_scheduling(job, &mut before);
    }
    if !(suspended && idle) {
        if !same_at(job, &before, &TEMPLATE) {
            e.push(spec.get("template").invalid(IMMUTABLE));
        }
        return;
    }
    allow_resources(job, &mut before);
    if !same_at(job, &before, &["spec", "template", "spec"]) {
        let template = spec.get("template");
        let shown = spec.shown_as("template.spec", template.get("spec").value());
        e.push(shown.invalid(IMMUTABLE));
    }
}

fn allow_scheduling(job: &Value, before: &mut Value) {
    let affinity = ["spec", "template", "spec", "affinity"];
    keep_at(before, job, &["spec", "template", "spec", "affinity", "nodeAffinity"]);
    if job.at(&affinity).is_none() && before.at(&affinity).and_then(Value::as_object).is_some_and(knarr_core::Map::is_empty) {
        before.remove(&affinity);
    }
    if job.at(&affinity).is_some() {
        before.ensure(&affinity);
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        keep_at(before, job, &["spec", "template", "spec", field]);
    }
    for field in ["annotations", "labels"] {
        keep_at(before, job, &["spec", "template", "metadata", field]);
    }
}

fn allow_resources(job: &Value, before: &mut Value) {
    for kind in ["containers", "initContainers"] {
        let path = ["spec", "template", "spec", kind];
        let now = job.list_at(&path);
        let was = crate::tree::list_mut(before, &path);
        if now.len() != was.len() {
            continue;
        }
        for (was, now) in was.iter_mut().zip(now).filter(|(was, now)| was.get("name") == now.get("name")) {
            keep_at(was, now, &["resources"]);
        }
    }
}

fn is_true(job: &Value, kind: &str) -> bool {
    has(job, kind, "True")
}

fn has(job: &Value, kind: &str, status: &str) -> bool {
    job.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == Some(kind) && c.str_at(&["status"]) == Some(status))
}

fn is_finished(job: &Value) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

/// The status of a Job. Most rules hold only for what this write changes.
pub fn status(root: &At, old: &Value, e: &mut ErrorList) {
    let Some(job) = root.value() else { return };
    let status = root.get("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        status.get(field).nonnegative(e);
    }
    uncounted(&status.get("uncountedTerminatedPods"), e);
    let write = Write { job, old, status: &status };
    write.conditions(e);
    write.times(e);
    write.finished(e);
    write.indexes(e);
    write.counters(e);
}

fn uncounted(pods: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in pods.get(list).items() {
            if uid.is_empty() {
                e.push(uid.invalid("must not be empty"));
            } else if seen.contains(&uid.str()) {
                e.push(uid.duplicate());
            } else {
                seen.push(uid.str());
            }
        }
    }
}

/// A write to the status.
struct Write<'a, 'v, 'p> {
    job: &'v Value,
    old: &'a Value,
    status: &'p At<'v, 'p>,
}

impl Write<'_, '_, '_> {
    fn changed(&self, field: &str) -> bool {
        !same(self.status.get(field).value(), self.old.at(&["status", field]))
    }

    /// A condition became true or is true no more.
    fn turned(&self, condition: &str) -> bool {
        is_true(self.job, condition) != is_true(self.old, condition)
    }

    fn refuse(&self, text: &str, e: &mut ErrorList) {
        e.push(without_value(&self.status.get("conditions"), text));
    }

    fn conditions(&self, e: &mut ErrorList) {
        let now = |kind| is_true(self.job, kind);
        let before = |kind| is_true(self.old, kind);
        let (complete, failed, failing, met) = (now("Complete"), now("Failed"), now("FailureTarget"), now("SuccessCriteriaMet"));
        let turned = |kind| self.turned(kind);
        if complete && failed && (turned("Complete") || turned("Failed")) {
            self.refuse("cannot set Complete=True and Failed=true conditions", e);
        }
        if complete && failing && (turned("Complete") || turned("FailureTarget")) {
            self.refuse("cannot set Complete=True and FailureTarget=true conditions", e);
        }
        if failed && !failing && (turned("Failed") || self.changed("failedIndexes")) {
            self.refuse("cannot set Failed=True condition without the FailureTarget=true condition", e);
        }
        if complete && !met && (turned("Complete") || turned("SuccessCriteriaMet")) {
            self.refuse("cannot set Complete=True condition without the SuccessCriteriaMet=true condition", e);
        }
        if met && failed {
            self.refuse("cannot set SuccessCriteriaMet=True and Failed=true conditions", e);
        }
        if met && failing {
            self.refuse("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", e);
        }
        if self.job.at(&["spec", "successPolicy"]).is_some() && !met && complete {
            self.refuse("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True", e);
        }
        for kind in ["Failed", "Complete", "FailureTarget"] {
            if before(kind) && !now(kind) {
                self.refuse(&format!("cannot disable the terminal {kind}=True condition"), e);
            }
        }
        if before("SuccessCriteriaMet") && !met {
            self.refuse("cannot disable the SuccessCriteriaMet=True condition", e);
        }
        if before("Complete") && !before("SuccessCriteriaMet") && met {
            self.refuse("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions", e);
        }
    }

    fn times(&self, e: &mut ErrorList) {
        let (start, end) = (self.status.get("startTime"), self.status.get("completionTime"));
        let complete = is_true(self.job, "Complete");
        let changed = self.turned("Complete") || self.changed("completionTime");
        if end.is_set() && !complete && changed {
            e.push(end.invalid("cannot set completionTime when there is no Complete=True condition"));
        }
        if !end.is_set() && complete && changed {
            e.push(end.required("completionTime is required for Complete jobs"));
        }
        let before = |a: &At, b: &At| time::parse(a.str()).zip(time::parse(b.str())).is_some_and(|(a, b)| a < b);
        if before(&end, &start) && (self.changed("startTime") || self.changed("completionTime")) {
            e.push(end.invalid("must be equal to or after `startTime`"));
        }
        let (old_start, old_end) = (self.old.at(&["status", "startTime"]), self.old.at(&["status", "completionTime"]));
        if end.is_set() && old_end.is_some() && end.value() != old_end {
            e.push(end.invalid(IMMUTABLE));
        }
        let resumes = is_true(self.old, "Suspended") && has(self.job, "Suspended", "False");
        if old_start.is_some() && start.value() != old_start && !resumes && self.job.bool_at(&["spec", "suspend"]) != Some(true) {
            e.push(start.invalid_as(start.value().cloned().unwrap_or_default(), "field is immutable for unsuspended job once set"));
        }
    }

    fn finished(&self, e: &mut ErrorList) {
        if !is_finished(self.job) {
            return;
        }
        let now_finished = !is_finished(self.old);
        let (active, start, uncounted, terminating) =
            (self.status.get("active"), self.status.get("startTime"), self.status.get("uncountedTerminatedPods"), self.status.get("terminating"));
        if active.int() > 0 && (now_finished || self.changed("active")) {
            e.push(active.invalid("active>0 is invalid for finished job"));
        }
        let nothing_to_do = self.job.bool_at(&["spec", "suspend"]) == Some(true) && self.job.i64_at(&["spec", "completions"]) == Some(0);
        if !start.is_set() && (now_finished || self.changed("startTime")) && !nothing_to_do {
            e.push(start.required("startTime is required for finished job"));
        }
        if uncounted.get("failed").len() + uncounted.get("succeeded").len() > 0 && (now_finished || self.changed("uncountedTerminatedPods")) {
            e.push(uncounted.invalid("must be empty for finished job"));
        }
        if terminating.int() > 0 && (now_finished || self.changed("terminating")) {
            e.push(terminating.invalid("terminating>0 is invalid for finished job"));
        }
    }

    fn indexes(&self, e: &mut ErrorList) {
        let (completed, failed) = (self.status.get("completedIndexes"), self.status.get("failedIndexes"));
        let (completed_changed, failed_changed) = (self.changed("completedIndexes"), self.changed("failedIndexes"));
        let spec = |field| self.job.at(&["spec", field]);
        let completions = spec("completions").and_then(Value::as_i64);
        let mut readable = |place: &At, field: &str| {
            if let Some(Err(problem)) = completions.map(|c| indexes::count(place.str(), c)) {
                e.push(place.invalid(format!("error parsing {field}: {problem}")));
            }
        };
        if completed_changed {
            readable(&completed, "completedIndexes");
        }
        if failed_changed && failed.is_set() && spec("backoffLimitPerIndex").is_some() {
            readable(&failed, "failedIndexes");
        }
        if completed_changed && !completed.is_empty() && spec("completionMode").and_then(Value::as_str) != Some("Indexed") {
            e.push(completed.invalid("cannot set non-empty completedIndexes when non-indexed completion mode"));
        }
        if failed_changed && failed.is_set() && spec("backoffLimitPerIndex").is_none() {
            e.push(failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null"));
        }
        if (failed_changed || completed_changed)
            && let Some(completions) = completions
            && let Some(i) = indexes::overlap(completed.str(), failed.str(), completions)
        {
            e.push(failed.invalid(format!("failedIndexes and completedIndexes overlap at index: {i}")));
        }
    }

    fn counters(&self, e: &mut ErrorList) {
        let (ready, active) = (self.status.get("ready"), self.status.get("active"));
        if ready.is_set() && ready.int() > active.int() && (self.changed("ready") || self.changed("active")) {
            e.push(ready.invalid("cannot set more ready pods than active"));
        }
        let indexed = self.job.str_at(&["spec", "completionMode"]) == Some("Indexed");
        let elastic = indexed && self.job.at(&["spec", "completions"]) == self.job.at(&["spec", "parallelism"]);
        let mut not_less = |field: &str| {
            let place = self.status.get(field);
            if place.int() < self.old.i64_at(&["status", field]).unwrap_or(0) {
                e.push(Error::invalid(&place.path(), place.int(), format!("cannot decrease the {field} counter")));
            }
        };
        not_less("failed");
        if !elastic {
            not_less("succeeded");
        }
    }
}
