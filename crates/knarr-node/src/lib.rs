//! The node agent (upstream: kubelet): makes the pods that are bound to its node run, and tells the API what became of
//! them. It reaches containers only through [`knarr_runtime::cri::Runtime`], the network only through
//! [`network::PodNetwork`], and the API only as a client.
//!
//! ```text
//! API ──watch──► agent ──► one actor per pod ──► runtime, network, volumes
//!                  ▲              │  decide purely, act at the edge
//!   runtime events ┘              └──► status, events
//! ```

pub mod admission;
pub mod agent;
pub mod allocations;
mod background;
pub mod backoff;
pub mod config;
pub mod container;
pub mod context;
pub mod events;
pub mod eviction;
pub mod fake;
pub mod images;
mod lifecycle;
pub mod logs;
pub mod machine;
pub mod network;
pub mod node;
pub mod objects;
pub mod pod;
pub mod probes;
pub mod server;
pub mod services;
pub mod streams;
#[cfg(test)]
mod testing;
pub mod tokens;
pub mod volumes;

pub use agent::{Agent, Parts};
pub use config::{AgentConfig, ServingConfig};
