//! The command line: kubectl's verbs, and the verbs that make and keep a cluster.

pub mod cluster;
pub mod kubectl;
