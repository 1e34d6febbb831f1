//! Writes to `pods/ephemeralcontainers`: what `kubectl debug` adds (upstream: `podEphemeralContainersStrategy`).

use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use super::{Pod, count_spec, validation};
use crate::separation::{keep, keep_metadata};
use crate::strategy::{Context, Shape, Strategy};

pub struct EphemeralContainers;

impl Strategy for EphemeralContainers {
    fn shape(&self) -> Shape {
        Pod.shape()
    }

    fn default(&self, object: &mut Value) {
        Pod.default(object);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, pod: &mut Value, old: &Value) {
        let wanted = pod.at(&["spec", "ephemeralContainers"]).cloned();
        keep(pod, old, "spec");
        keep(pod, old, "status");
        keep_metadata(pod, old);
        match wanted {
            Some(list) => pod.set(&["spec", "ephemeralContainers"], list),
            None => {
                pod.remove(&["spec", "ephemeralContainers"]);
            }
        }
        count_spec(pod, old);
    }

    fn validate_update(&self, _cx: &Context<'_>, pod: &Value, old: &Value) -> ErrorList {
        validation::update_ephemeral(pod, old)
    }

    fn field(&self, object: &Value, name: &str) -> String {
        Pod.field(object, name)
    }

    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Option<Vec<Value>> {
        Pod.cells(object, now)
    }
}
