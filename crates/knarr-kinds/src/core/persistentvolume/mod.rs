//! PersistentVolumes (upstream: `pkg/registry/core/persistentvolume`).

pub mod validation;

use crate::cells::{Cells, UNSET, access_modes, age, is_deleting, name, quantity, storage_class, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json, time};

use crate::at;
use crate::separation::{keep, keep_at, status_update};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, round_amounts, with};

pub struct PersistentVolume;

const TRANSITION: [&str; 2] = ["status", "lastPhaseTransitionTime"];

impl Strategy for PersistentVolume {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status().judges_prefix_again()
    }

    fn default(&self, volume: &mut Value) {
        default_if_zero(volume.ensure(&["status"]), "phase", "Pending");
        let spec = volume.ensure(&["spec"]);
        default_if_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_to(spec, "volumeMode", "Filesystem");
        round_amounts(spec, &["capacity"]);
        default_source(spec);
    }

    fn prepare_for_create(&self, cx: &Context<'_>, volume: &mut Value) {
        volume.set(&["status"], json!({"phase": "Pending", "lastPhaseTransitionTime": time::format(cx.env.now())}));
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, volume: &mut Value, old: &Value) {
        keep(volume, old, "status");
    }

    /// Notes when the phase changed, unless the writer did.
    fn prepare_for_status_update(&self, cx: &Context<'_>, volume: &mut Value, old: &Value) {
        status_update(self.shape(), volume, old);
        let same_phase = volume.at(&["status", "phase"]) == old.at(&["status", "phase"]);
        let told = volume.at(&TRANSITION);
        if same_phase && told.is_none() {
            keep_at(volume, old, &TRANSITION);
        } else if !same_phase && (told.is_none() || told == old.at(&TRANSITION)) {
            volume.set(&TRANSITION, time::format(cx.env.now()));
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, volume: &Value) -> ErrorList {
        at::check(volume, |root, e| validation::volume(root, None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, volume: &Value, old: &Value) -> ErrorList {
        at::check(volume, |root, e| validation::update(root, old, e))
    }

    fn warnings(&self, volume: &Value, _old: Option<&Value>) -> Vec<String> {
        at::warn(volume, validation::warnings)
    }

    fn cells(&self, volume: &Value, now: Timestamp) -> Cells {
        let spec = |field, otherwise| volume.str_at(&["spec", field]).unwrap_or(otherwise);
        let claim = volume.at(&["spec", "claimRef"]).map_or(String::new(), |c| format!("{}/{}", text(c, &["namespace"]), text(c, &["name"])));
        Some(vec![
            name(volume),
            quantity(volume, &["spec", "capacity", "storage"]).into(),
            access_modes(volume, &["spec", "accessModes"]).into(),
            spec("persistentVolumeReclaimPolicy", "").into(),
            if is_deleting(volume) { "Terminating".into() } else { text(volume, &["status", "phase"]).into() },
            claim.into(),
            storage_class(volume).into(),
            spec("volumeAttributesClassName", UNSET).into(),
            text(volume, &["status", "reason"]).into(),
            age(volume, now),
            spec("volumeMode", UNSET).into(),
        ])
    }
}

/// Defaults of the place where a volume's data lies.
pub fn default_source(spec: &mut Value) {
    with(spec, &["hostPath"], |path| default_to(path, "type", ""));
}
