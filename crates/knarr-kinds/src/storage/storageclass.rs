//! StorageClasses and VolumeAttributesClasses (upstream: `pkg/registry/storage/storageclass`, `volumeattributesclass`).

use crate::cells::{Cells, age, name, text, text_or};
use std::cmp::Reverse;

use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use super::validation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::default_to;

pub struct StorageClass;

impl Strategy for StorageClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    fn default(&self, class: &mut Value) {
        default_to(class, "reclaimPolicy", "Delete");
        default_to(class, "volumeBindingMode", "Immediate");
    }

    fn validate_create(&self, _cx: &Context<'_>, class: &Value) -> ErrorList {
        validation::storage_class(class)
    }

    fn validate_update(&self, _cx: &Context<'_>, class: &Value, old: &Value) -> ErrorList {
        validation::storage_class_update(class, old)
    }

    /// Of several the newest counts, of equally old ones the first by name.
    fn effective_default(&self, classes: &[Value]) -> Option<usize> {
        let key = |class: &Value| (Reverse(text(class, &["metadata", "creationTimestamp"]).to_owned()), text(class, &["metadata", "name"]).to_owned());
        classes.iter().enumerate().filter(|(_, class)| is_default(class)).min_by_key(|(_, class)| key(class)).map(|(i, _)| i)
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Cells {
        Some(vec![
            name(class),
            text(class, &["provisioner"]).into(),
            text_or(class, &["reclaimPolicy"], "Delete").into(),
            text_or(class, &["volumeBindingMode"], "Immediate").into(),
            class.bool_at(&["allowVolumeExpansion"]).unwrap_or(false).into(),
            age(class, now),
        ])
    }
}

const DEFAULT_ANNOTATIONS: [&str; 2] = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn is_default(class: &Value) -> bool {
    DEFAULT_ANNOTATIONS.iter().any(|key| text(class, &["metadata", "annotations", key]) == "true")
}

pub struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    fn validate_create(&self, _cx: &Context<'_>, class: &Value) -> ErrorList {
        validation::volume_attributes_class(class)
    }

    fn validate_update(&self, _cx: &Context<'_>, class: &Value, old: &Value) -> ErrorList {
        validation::volume_attributes_class_update(class, old)
    }

    fn cells(&self, class: &Value, now: Timestamp) -> Cells {
        Some(vec![name(class), text(class, &["driverName"]).into(), age(class, now)])
    }
}
