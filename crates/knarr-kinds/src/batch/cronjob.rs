//! CronJobs (upstream: `pkg/registry/batch/cronjob`).

use crate::cells::{Cells, NONE, UNSET, age, containers, name, selector, since, text};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use super::job::default_failure_policy;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to};
use crate::{disabled, pod};

const TEMPLATE: [&str; 4] = ["spec", "jobTemplate", "spec", "template"];

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

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &TEMPLATE);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        disabled::drop_template(object, Some(old), &TEMPLATE);
        separation::update(self.shape(), object, old);
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
