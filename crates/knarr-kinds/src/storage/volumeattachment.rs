//! VolumeAttachments (upstream: `pkg/registry/storage/volumeattachment`).

use crate::cells::{Cells, age, name, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt};

use super::validation;

use crate::core::persistentvolume::default_source;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{round_amounts, with};

pub struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }

    /// An inline volume gets the defaults of a PersistentVolume's source, not those of the whole.
    fn default(&self, attachment: &mut Value) {
        with(attachment, &["spec", "source", "inlineVolumeSpec"], |spec| {
            default_source(spec);
            round_amounts(spec, &["capacity"]);
        });
    }

    fn validate_create(&self, _cx: &Context<'_>, attachment: &Value) -> ErrorList {
        validation::volume_attachment(attachment)
    }

    fn validate_update(&self, _cx: &Context<'_>, attachment: &Value, old: &Value) -> ErrorList {
        validation::volume_attachment_update(attachment, old)
    }

    fn cells(&self, attachment: &Value, now: Timestamp) -> Cells {
        Some(vec![
            name(attachment),
            text(attachment, &["spec", "attacher"]).into(),
            text(attachment, &["spec", "source", "persistentVolumeName"]).into(),
            text(attachment, &["spec", "nodeName"]).into(),
            attachment.bool_at(&["status", "attached"]).unwrap_or(false).into(),
            age(attachment, now),
        ])
    }
}
