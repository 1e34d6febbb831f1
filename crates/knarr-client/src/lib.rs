//! Components are clients of the API: this crate is how they come in.
//!
//! - [`client`]: [`Client`] over any [`knarr_core::api::Transport`], typed and dynamic.
//! - [`read`]: what callers need of an object at rest: a typed struct, a tree, its key.
//! - [`typed`]: structs of objects and trees, and back.
//! - [`informer`]: a copy of one resource, kept by list and watch, shared by everybody in the process.
//! - [`queue`] and [`controller`]: keys to reconcile, and the runner that works through them.
//! - [`events`]: the recorders of `Event` objects.
//! - [`leader`]: leader election over Leases.
//! - [`tls`]: the transport over the network, and raw requests and upgrades for `exec`, `logs` and their like.
//! - [`kubeconfig`]: the files that say where a cluster is and who asks.
//! - [`fake`]: an API in memory, for tests of clients.

pub mod client;
pub mod controller;
pub mod events;
pub mod fake;
pub mod informer;
pub mod kubeconfig;
pub mod leader;
pub mod node_affinity;
pub mod queue;
pub mod read;
pub mod tls;
pub mod typed;

pub use client::{Api, Client, Deletion, DynamicApi, Patch};
pub use controller::Outcome;
pub use events::{EventKind, Recorder};
pub use informer::{Change, Informer, Item, Project, Query, SharedInformers, Store};
pub use kubeconfig::Kubeconfig;
pub use queue::WorkQueue;
pub use read::{Key, Meta};
pub use tls::TlsTransport;
pub use typed::{ToTree, Typed};
