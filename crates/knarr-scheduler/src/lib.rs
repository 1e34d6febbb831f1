//! The scheduler: gives each pod a node.
//!
//! ```text
//! informers → cluster (what runs where) ─┐
//! informers → queue (who waits, why)  ───┴→ decide: filter, score → assume → bind → event
//! ```
//!
//! [`decide`] is pure: a pod and a cluster in, a node or the reasons out. One task takes pods from the queue and decides; it
//! assumes its decision at once, so that the next one sees it, and lets the binding (a durable write) run beside it, as it lets
//! refusals be written. A pod that fits nowhere waits until something changes that can help it.
//!
//! Plugins, their order, weights and texts follow `k8s.io/kubernetes/pkg/scheduler/framework/plugins`.

pub mod cluster;
mod condition;
pub mod decide;
mod filter;
mod manifest;
pub mod node;
pub mod pod;
mod preempt;
pub mod queue;
mod run;
mod score;
pub mod shared;
pub mod terms;
mod volumes;

pub use run::{NAME, start};
