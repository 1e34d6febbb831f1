//! CronJobs (upstream: `pkg/registry/batch/cronjob`).

use crate::cells::{Cells, NONE, UNSET, age, containers, name, selector, since, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use super::job::{DISABLED, default_failure_policy};
use super::schedule::Schedule;
use super::{timezone, validation};
use crate::at::{self, At};
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to};
use crate::{disabled, pod};

const TEMPLATE: [&str; 4] = ["spec", "jobTemplate", "spec", "template"];

/// Jobs are called after it, with eleven characters more.
const NAME_MAX: usize = 52;

pub struct CronJob;

impl Strategy for CronJob {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, object: &mut Value) {
        let spec = object.ensure(&["spec"]);
        default_if_zero(spec, "concurrencyPolicy", "Allow");
        default_to(spec, "suspend", false);
        default_to(spec, "successfulJobsHistoryLimit", 3);
        default_to(spec, "failedJobsHistoryLimit", 1);
        default_failure_policy(spec.ensure(&["jobTemplate", "spec"]));
        pod::defaults::template(object.ensure(&TEMPLATE));
    }

    fn domain_finalizers_of_status(&self) -> bool {
        false
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &TEMPLATE);
        disabled::drop(object, None, &TEMPLATE[..3], DISABLED);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        disabled::drop_template(object, Some(old), &TEMPLATE);
        disabled::drop(object, Some(old), &TEMPLATE[..3], DISABLED);
        separation::update(self.shape(), object, old);
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| {
            validate(&root.get("spec"), None, e);
            let metadata = root.get("metadata");
            if metadata.str_of("name").len() > NAME_MAX {
                e.push(metadata.get("name").invalid(format!("must be no more than {NAME_MAX} characters")));
            }
        })
    }

    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        at::check(object, |root, e| validate(&root.get("spec"), Some(old), e))
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        at::warn(object, |root, out| {
            let (spec, generation) = (root.get("spec"), |o: &Value| o.i64_at(&["metadata", "generation"]));
            if old.is_none() {
                crate::warnings::host_name_of_pods(object, "Pod names and hostnames", out);
            }
            if old.is_none_or(|old| generation(old) != generation(object)) {
                validation::warn(&spec.get("jobTemplate").get("spec"), out);
            }
            if old.is_some() && spec.str_of("schedule").contains("TZ") {
                let more = "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/";
                out.push(format!("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see {more} for more details"));
            }
        })
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let [names, images] = containers(object, &["spec", "jobTemplate", "spec", "template", "spec", "containers"]);
        let last = match object.at(&["status", "lastScheduleTime"]) {
            Some(_) => since(object, &["status", "lastScheduleTime"], now),
            None => NONE.into(),
        };
        let suspend = match object.bool_at(&["spec", "suspend"]) {
            Some(true) => "True",
            Some(false) => "False",
            None => UNSET,
        };
        Some(vec![
            name(object),
            text(object, &["spec", "schedule"]).into(),
            object.str_at(&["spec", "timeZone"]).unwrap_or(NONE).into(),
            suspend.into(),
            object.list_at(&["status", "active"]).len().into(),
            last.into(),
            age(object, now),
            names,
            images,
            selector(object.at(&["spec", "jobTemplate", "spec", "selector"])),
        ])
    }
}

fn validate(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    let (schedule, zone) = (spec.get("schedule"), spec.get("timeZone"));
    if !schedule.is_empty() {
        let zone_was_inside = old.is_some_and(|o| text(o, &["spec", "schedule"]).contains("TZ"));
        validate_schedule(&schedule, zone_was_inside, zone.is_set(), e);
    }
    spec.get("startingDeadlineSeconds").nonnegative(e);
    if old.is_none_or(|o| o.at(&["spec", "timeZone"]) != zone.value()) {
        validate_zone(&zone, e);
    }
    spec.get("concurrencyPolicy").one_of(e, &["Allow", "Forbid", "Replace"]);
    let template = spec.get("jobTemplate");
    let job = template.get("spec");
    validation::spec(&job, &validation::template_options(old.and_then(|o| o.at(&["spec", "jobTemplate", "spec"]))), e);
    if job.get("selector").is_set() {
        e.push(job.get("selector").invalid("`selector` will be auto-generated"));
    }
    if job.get("manualSelector").bool() {
        e.push(job.get("manualSelector").not_supported(&["nil", "false"]));
    }
    spec.get("successfulJobsHistoryLimit").nonnegative(e);
    spec.get("failedJobsHistoryLimit").nonnegative(e);
    // Upstream declares this one.
    schedule.require(e);
}

fn validate_schedule(schedule: &At, zone_was_inside: bool, has_zone: bool, e: &mut ErrorList) {
    if let Err(problem) = Schedule::parse(schedule.str()) {
        e.push(schedule.invalid(problem));
    }
    if schedule.str().contains("TZ") {
        if !zone_was_inside {
            e.push(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
        } else if has_zone {
            e.push(schedule.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule"));
        }
    }
}

fn validate_zone(zone: &At, e: &mut ErrorList) {
    if !zone.is_set() {
        return;
    }
    let name = zone.str();
    if name.is_empty() {
        e.push(zone.invalid("timeZone must be nil or non-empty string"));
        return;
    }
    let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b));
    let wrong = |part: &str| matches!(part, "." | "..") || part.starts_with('-') || !(1..=14).contains(&part.len()) || !letters(part);
    if name.split('/').any(wrong) {
        e.push(zone.invalid(format!("unknown time zone {name}")));
        return;
    }
    if name.eq_ignore_ascii_case("local") {
        e.push(zone.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"));
    }
    if timezone::find(name).is_none() {
        e.push(zone.invalid(format!("unknown time zone {name}")));
    }
}
