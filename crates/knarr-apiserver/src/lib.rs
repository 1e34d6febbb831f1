//! The API server: HTTP pipeline, generic handlers, admission, discovery, aggregation.
//!
//! A write: bytes → authenticate → flow control → authorize → decode, convert, default → mutating admission → strategy →
//! managedFields → validation → validating admission → compare-and-swap → answer. A read comes from the watch cache.
//!
//! ```text
//!  http (hyper, TLS) ─┐                                   ┌─ read ──── watch cache
//!                     ├─ call ─▶ pipeline ─▶ authorize ───┼─ write ─── admission, strategy, store
//!  transport ─────────┘                                   ├─ subresource, reviews
//!                                                         └─ (http only) discovery, health, metrics, streaming
//! ```

pub mod admission;
pub mod aggregate;
pub mod alloc;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cached;
pub mod call;
pub mod catalog;
pub mod crd;
pub mod discovery;
pub mod encode;
pub mod encryption;
pub mod flowcontrol;
pub mod health;
pub mod hook;
pub mod http;
pub mod metrics;
pub mod outside;
pub mod pipeline;
pub mod pki;
pub mod read;
pub mod request;
mod review_rules;
pub mod reviews;
pub mod server;
pub mod spans;
pub mod stored;
pub mod streaming;
pub mod subresource;
pub mod tokens;
pub mod transport;
pub mod write;

pub use server::{Config, Server, ServerBuilder};
pub use transport::InProcess;
