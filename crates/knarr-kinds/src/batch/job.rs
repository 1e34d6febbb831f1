//! Jobs (upstream: `pkg/registry/batch/job`).

use crate::cells::{Cells, age, between, containers, is_deleting, is_true, name, number, selector};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, time};

use super::{update, validation};
use crate::at;
use crate::metadata::has_invalid_label_value;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, each, is_set, is_zero_at, object};
use crate::{disabled, pod};

/// Labels that tie a pod to its Job, old and new spelling.
pub const JOB_NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
pub const CONTROLLER_UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// Gang scheduling of Jobs is off by default.
pub const DISABLED: &[disabled::Gate] = &[&["scheduling"]];

pub struct Job;

impl Strategy for Job {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, job: &mut Value) {
        if is_zero_at(job, &["metadata", "labels"])
            && let Some(labels) = job.at(&["spec", "template", "metadata", "labels"]).cloned()
        {
            job.set(&["metadata", "labels"], labels);
        }
        let spec = job.ensure(&["spec"]);
        default_job_spec(spec);
        pod::defaults::template(spec.ensure(&["template"]));
    }

    fn prepare_for_create(&self, cx: &Context<'_>, job: &mut Value) {
        if job.bool_at(&["spec", "manualSelector"]) != Some(true) {
            generate_selector(job, cx.labels_defaulted);
        }
        separation::create(self.shape(), job);
        disabled::drop_template(job, None, &["spec", "template"]);
        disabled::drop(job, None, &["spec"], DISABLED);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, job: &mut Value, old: &Value) {
        disabled::drop_template(job, Some(old), &["spec", "template"]);
        disabled::drop(job, Some(old), &["spec"], DISABLED);
        separation::update(self.shape(), job, old);
    }

    fn validate_create(&self, _cx: &Context<'_>, job: &Value) -> ErrorList {
        at::check(job, |root, e| {
            let spec = root.get("spec");
            validation::generated_selector(root, e);
            validation::spec(&spec, &validation::template_options(None), e);
            validation::selector(&spec, false, e);
            validation::name_allows_completions(root, e);
        })
    }

    fn validate_update(&self, _cx: &Context<'_>, job: &Value, old: &Value) -> ErrorList {
        at::check(job, |root, e| {
            let spec = root.get("spec");
            let options = validation::template_options(old.at(&["spec"]));
            let lenient = options.invalid_label_values_in_selectors || has_invalid_label_value(old.at(&["spec", "selector"]));
            validation::spec(&spec, &pod::validation::Options { invalid_label_values_in_selectors: lenient, ..options }, e);
            validation::selector(&spec, lenient, e);
            update::spec(root, old, e);
            validation::name_allows_completions(root, e);
        })
    }

    fn validate_status_update(&self, _cx: &Context<'_>, job: &Value, old: &Value) -> ErrorList {
        at::check(job, |root, e| update::status(root, old, e))
    }

    fn warnings(&self, job: &Value, old: Option<&Value>) -> Vec<String> {
        at::warn(job, |root, out| {
            if old.is_none() {
                crate::warnings::host_name_of_pods(job, "Pod names and hostnames", out);
            }
            if old.is_none_or(|old| old.i64_at(&["metadata", "generation"]) != job.i64_at(&["metadata", "generation"])) {
                validation::warn(&root.get("spec"), out);
            }
        })
    }

    fn orphans_dependents(&self) -> bool {
        true
    }

    fn field(&self, object: &Value, name: &str) -> String {
        match name {
            "status.successful" => object.i64_at(&["status", "succeeded"]).unwrap_or(0).to_string(),
            _ => crate::strategy::plain_field(object, name),
        }
    }

    fn cells(&self, job: &Value, now: Timestamp) -> Cells {
        let [names, images] = containers(job, &["spec", "template", "spec", "containers"]);
        let completions = completions(job).into();
        let selector = selector(job.at(&["spec", "selector"]));
        Some(vec![name(job), state(job).into(), completions, duration(job, now).into(), age(job, now), names, images, selector])
    }
}

fn completions(job: &Value) -> String {
    let succeeded = number(job, &["status", "succeeded"]);
    match (job.i64_at(&["spec", "completions"]), number(job, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

/// How long the Job took, or has been going on.
fn duration(job: &Value, now: Timestamp) -> String {
    let at = |field| job.str_at(&["status", field]).and_then(time::parse);
    at("startTime").map_or(String::new(), |start| between(start, at("completionTime").unwrap_or(now)))
}

fn state(job: &Value) -> &'static str {
    match () {
        () if is_true(job, "Complete") => "Complete",
        () if is_true(job, "Failed") => "Failed",
        () if is_deleting(job) => "Terminating",
        () if is_true(job, "Suspended") => "Suspended",
        () if is_true(job, "FailureTarget") => "FailureTarget",
        () if is_true(job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

/// Defaults of a Job's own spec (upstream: `SetDefaults_Job`).
fn default_job_spec(spec: &mut Value) {
    if !is_set(spec, "completions") && !is_set(spec, "parallelism") {
        default_to(spec, "completions", 1);
    }
    default_to(spec, "parallelism", 1);
    let unlimited = is_set(spec, "backoffLimitPerIndex");
    default_to(spec, "backoffLimit", if unlimited { i32::MAX } else { 6 });
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    let by_failure = is_set(spec, "podFailurePolicy");
    default_to(spec, "podReplacementPolicy", if by_failure { "Failed" } else { "TerminatingOrFailed" });
    default_to(spec, "manualSelector", false);
    default_failure_policy(spec);
}

/// Conditions in a podFailurePolicy are meant to be true.
pub fn default_failure_policy(spec: &mut Value) {
    each(spec, &["podFailurePolicy", "rules"], |rule| {
        each(rule, &["onPodConditions"], |condition| default_if_zero(condition, "status", "True"));
    });
}

/// Ties pods to this Job by its uid, which nobody else has. `shares_labels`: the Job's own labels are the template's.
fn generate_selector(job: &mut Value, shares_labels: bool) {
    let name = job.str_at(&["metadata", "name"]).unwrap_or_default().to_owned();
    let uid = job.str_at(&["metadata", "uid"]).unwrap_or_default().to_owned();
    let labels = object(job.ensure(&["spec", "template", "metadata", "labels"]));
    for key in JOB_NAME_LABELS {
        labels.entry(key).or_insert_with(|| name.clone().into());
    }
    for key in CONTROLLER_UID_LABELS {
        labels.entry(key).or_insert_with(|| uid.clone().into());
    }
    object(job.ensure(&["spec", "selector", "matchLabels"])).entry(CONTROLLER_UID_LABELS[1]).or_insert_with(|| uid.into());
    // Defaulting made the Job's own labels share the template's map, so they grow with it.
    if shares_labels || is_zero_at(job, &["metadata", "labels"]) {
        let labels = job.at(&["spec", "template", "metadata", "labels"]).cloned().unwrap_or_default();
        job.set(&["metadata", "labels"], labels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{clock::Env, json};

    #[test]
    fn a_job_selects_its_pods_by_its_uid() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        Job.default(&mut job);
        Job.prepare_for_create(&Context::internal(&Env::system(), ""), &mut job);
        let labels = json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "j", "controller-uid": "u", "job-name": "j"});
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        assert_eq!((&job["spec"]["template"]["metadata"]["labels"], &job["metadata"]["labels"]), (&labels, &labels));
    }

    #[test]
    fn only_labels_that_defaulting_gave_grow_with_the_templates() {
        let env = Env::system();
        for (own, grows) in [(json!({}), true), (json!({"app": "a"}), false)] {
            let mut job =
                json!({"metadata": {"name": "j", "uid": "u", "labels": own}, "spec": {"template": {"metadata": {"labels": {"app": "a"}}, "spec": {}}}});
            Job.default(&mut job);
            Job.prepare_for_create(&Context { labels_defaulted: grows, ..Context::internal(&env, "") }, &mut job);
            assert_eq!(job["metadata"]["labels"].as_object().unwrap().len(), if grows { 5 } else { 1 }, "{own}");
            assert_eq!(job["spec"]["template"]["metadata"]["labels"].as_object().unwrap().len(), 5);
        }
    }

    #[test]
    fn completions_stay_open_when_parallelism_is_given() {
        let mut job = json!({"spec": {"parallelism": 3}});
        Job.default(&mut job);
        assert_eq!(job["spec"].get("completions"), None);
    }
}
