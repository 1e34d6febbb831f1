//! Kinds of the core group, pods apart.

pub mod config;
pub mod endpoints;
pub mod event;
pub mod limitrange;
pub mod namespace;
pub mod node;
pub mod persistentvolume;
pub mod persistentvolumeclaim;
pub mod replicationcontroller;
pub mod resourcequota;
pub mod service;
pub mod serviceaccount;
mod tls;
