//! The API server: HTTP pipeline, generic handlers, admission, discovery, aggregation.
//!
//! A write: bytes → authenticate → flow control → authorize → decode, convert, default → mutating admission → strategy →
//! managedFields → validation → validating admission → compare-and-swap → answer. A read comes from the watch cache.

pub mod admission;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod pki;
pub mod stored;
