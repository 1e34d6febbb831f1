//! Custom resources: how a CustomResourceDefinition becomes a line of the registry, and what its objects do of their own
//! (upstream: `k8s.io/apiextensions-apiserver`).

mod controller;
mod conversion;
mod definition;
mod names;
mod strategy;

pub use controller::{CLEANUP, start};
pub use conversion::Converter;
pub use definition::is_terminating;
pub use names::set_condition;
pub use strategy::CustomStrategy;
