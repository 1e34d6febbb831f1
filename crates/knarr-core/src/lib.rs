//! Plain types that every other crate speaks: names, quantities, selectors, errors, the clock, and the two
//! seams between components that must not know each other (an object as bytes, a request to the API).
//!
//! This crate does no I/O and knows no kind. What it knows are the rules of the wire that hold for all kinds.

pub mod api;
pub mod clock;
pub mod deep;
pub mod field;
pub mod formats;
pub mod go;
pub mod gvk;
pub mod hex;
pub mod ip;
pub mod metrics;
pub mod names;
pub mod object;
pub mod order;
pub mod pem;
pub mod quantity;
pub mod regexp;
pub mod selector;
pub mod status;
pub mod time;
pub mod value;
pub mod yaml;

pub use gvk::{GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use object::{Encoding, Object};
pub use serde_json::{Map, Value, json};
pub use status::{Reason, Result, Status};
pub use value::ValueExt;

/// The release whose wire we speak.
pub const KUBERNETES_VERSION: &str = "v1.37.2";
