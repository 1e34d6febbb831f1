//! StatefulSets (upstream: `pkg/registry/apps/statefulset`).

use crate::cells::{Cells, age, containers, name, number};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, each, with};
use crate::{core, disabled, pod};

pub struct StatefulSet;

impl Strategy for StatefulSet {
    fn shape(&self) -> Shape {
        Shape::PLAIN.generation().status()
    }

    fn default(&self, object: &mut Value) {
        let spec = object.ensure(&["spec"]);
        default_if_zero(spec, "podManagementPolicy", "OrderedReady");
        update_strategy(spec.ensure(&["updateStrategy"]));
        let retention = spec.ensure(&["persistentVolumeClaimRetentionPolicy"]);
        default_if_zero(retention, "whenDeleted", "Retain");
        default_if_zero(retention, "whenScaled", "Retain");
        default_to(spec, "replicas", 1);
        default_to(spec, "revisionHistoryLimit", 10);
        pod::defaults::template(spec.ensure(&["template"]));
        each(spec, &["volumeClaimTemplates"], |claim| {
            default_if_zero(claim, "apiVersion", "v1");
            default_if_zero(claim, "kind", "PersistentVolumeClaim");
            core::persistentvolumeclaim::default_claim(claim);
        });
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        separation::create(self.shape(), object);
        disabled::drop_template(object, None, &["spec", "template"]);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, object: &mut Value, old: &Value) {
        disabled::drop_template(object, Some(old), &["spec", "template"]);
        separation::update(self.shape(), object, old);
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        let [names, images] = containers(object, &["spec", "template", "spec", "containers"]);
        let ready = format!("{}/{}", number(object, &["status", "readyReplicas"]), number(object, &["spec", "replicas"]));
        Some(vec![name(object), ready.into(), age(object, now), names, images])
    }
}

fn update_strategy(strategy: &mut Value) {
    if crate::tree::is_zero_at(strategy, &["type"]) {
        strategy.set(&["type"], "RollingUpdate");
        crate::tree::object(strategy.ensure(&["rollingUpdate"]));
    }
    if strategy.str_at(&["type"]) == Some("RollingUpdate") {
        with(strategy, &["rollingUpdate"], |rolling| {
            default_to(rolling, "partition", 0);
            default_to(rolling, "maxUnavailable", 1);
        });
    }
}
