//! What a container is made of, computed from its pod: environment, files, security, mounts, cgroup.

pub mod config;
pub mod env;
pub mod expansion;
pub mod fields;
pub mod names;
pub mod security;
