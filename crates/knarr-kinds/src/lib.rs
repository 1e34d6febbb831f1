//! What a kind has of its own: defaulting, strategy, validation, conversion, printer cells. One file a kind, all pure.
//!
//! Generic handlers ask [`strategy`] by group and resource; a kind without behaviour of its own gets the plain one.
//! [`strategy::Strategy`] is the seam, `table` the list of who serves what.

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod at;
mod autoscaling;
pub mod batch;
mod cells;
pub mod certificates;
mod conditions;
mod convert;
mod coordination;
pub mod core;
mod difference;
mod disabled;
mod discovery;
mod flowcontrol;
pub mod jsonpath;
pub mod metadata;
mod networking;
pub mod pod;
mod policy;
pub mod quota;
mod rbac;
mod resource;
mod resource_names;
mod rules;
mod scale;
mod scheduling;
pub mod semantic;
pub mod separation;
mod storage;
mod storagemigration;
mod strategy;
mod table;
mod tree;
mod warnings;

pub use apiextensions::{approval_condition, columns::custom_cells, custom};
pub use convert::convert;
pub use metadata::{validate_metadata, validate_metadata_update, validate_prefix};
pub use resource::admin_access;
pub use scale::{ScalePaths, apply_scale, to_scale, validate_scale};
pub use strategy::{Context, Graceful, Plain, Shape, StatusOf, Strategy, Warn};
pub use table::{custom_strategy, strategy};
