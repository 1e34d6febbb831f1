//! PersistentVolumeClaims (upstream: `pkg/registry/core/persistentvolumeclaim`, `pkg/api/persistentvolumeclaim`).

pub mod validation;

use crate::cells::{Cells, UNSET, access_modes, age, is_deleting, name, quantity, storage_class, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use crate::at;
use crate::pod::defaults::claim_spec;
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, is_zero_at};

pub struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status().judges_prefix_again()
    }

    fn default(&self, claim: &mut Value) {
        default_claim(claim);
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, claim: &mut Value) {
        separation::create(self.shape(), claim);
        claim.set(&["status", "phase"], "Pending");
        drop_disabled(claim, None);
        normalize_data_sources(claim);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, claim: &mut Value, old: &Value) {
        separation::update(self.shape(), claim, old);
        drop_disabled(claim, Some(old));
        normalize_data_sources(claim);
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, claim: &mut Value, old: &Value) {
        separation::status_update(self.shape(), claim, old);
        if old.at(&["status", "healthStatus"]).is_none() {
            claim.remove(&["status", "healthStatus"]);
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, claim: &Value) -> ErrorList {
        at::check(claim, validation::create)
    }

    fn validate_update(&self, _cx: &Context<'_>, claim: &Value, old: &Value) -> ErrorList {
        validation::update(claim, old)
    }

    fn validate_status_update(&self, _cx: &Context<'_>, claim: &Value, _old: &Value) -> ErrorList {
        at::check(claim, validation::status)
    }

    fn warnings(&self, claim: &Value, _old: Option<&Value>) -> Vec<String> {
        validation::warnings(claim)
    }

    fn cells(&self, claim: &Value, now: Timestamp) -> Cells {
        let spec = |field, otherwise| claim.str_at(&["spec", field]).unwrap_or(otherwise);
        let bound = !spec("volumeName", "").is_empty();
        let if_bound = |text: String| if bound { text } else { String::new() };
        Some(vec![
            name(claim),
            if is_deleting(claim) { "Terminating".into() } else { text(claim, &["status", "phase"]).into() },
            spec("volumeName", "").into(),
            if_bound(quantity(claim, &["status", "capacity", "storage"])).into(),
            if_bound(access_modes(claim, &["status", "accessModes"])).into(),
            storage_class(claim).into(),
            spec("volumeAttributesClassName", UNSET).into(),
            age(claim, now),
            spec("volumeMode", UNSET).into(),
        ])
    }
}

/// Defaults of a claim, also of one inside a StatefulSet.
pub fn default_claim(claim: &mut Value) {
    default_if_zero(claim.ensure(&["status"]), "phase", "Pending");
    claim_spec(claim.ensure(&["spec"]));
}

/// Data from other namespaces is behind a gate; a source of a kind that nothing populates from is not kept.
fn drop_disabled(claim: &mut Value, old: Option<&Value>) {
    let had = |field: &str| old.is_some_and(|o| o.at(&["spec", field]).is_some());
    if !is_zero_at(claim, &["spec", "dataSourceRef", "namespace"]) && !had("dataSourceRef") {
        claim.remove(&["spec", "dataSourceRef"]);
    }
    if had("dataSource") || had("dataSourceRef") || claim.at(&["spec", "dataSourceRef"]).is_some() {
        return;
    }
    let source = claim.at(&["spec", "dataSource"]);
    let kind = source.map(|s| (s.str_at(&["apiGroup"]).unwrap_or_default(), s.str_at(&["kind"]).unwrap_or_default()));
    if !matches!(kind, Some(("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot"))) {
        claim.remove(&["spec", "dataSource"]);
    }
}

/// `dataSource` and `dataSourceRef` say the same in two generations of the API.
pub fn normalize_data_sources(claim: &mut Value) {
    let (source, reference) = (claim.at(&["spec", "dataSource"]).cloned(), claim.at(&["spec", "dataSourceRef"]).cloned());
    match (source, reference) {
        (Some(source), None) => claim.set(&["spec", "dataSourceRef"], source),
        (None, Some(mut reference)) if is_zero_at(&reference, &["namespace"]) => {
            reference.remove(&["namespace"]);
            claim.set(&["spec", "dataSource"], reference);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{clock::Env, json};

    #[test]
    fn data_sources_are_told_twice() {
        let mut claim = json!({"spec": {"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}});
        PersistentVolumeClaim.prepare_for_create(&Context::internal(&Env::system(), ""), &mut claim);
        assert_eq!(claim["spec"]["dataSourceRef"], claim["spec"]["dataSource"]);
        let mut claim = json!({"spec": {"dataSource": {"kind": "Foo", "name": "x"}}});
        PersistentVolumeClaim.prepare_for_create(&Context::internal(&Env::system(), ""), &mut claim);
        assert_eq!(claim["spec"], json!({}));
    }
}
