//! StorageClasses and VolumeAttributesClasses (upstream: `pkg/registry/storage/storageclass`, `volumeattributesclass`).

use knarr_core::Value;

use crate::strategy::Strategy;
use crate::tree::default_to;

pub struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, class: &mut Value) {
        default_to(class, "reclaimPolicy", "Delete");
        default_to(class, "volumeBindingMode", "Immediate");
    }
}

pub struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {}
