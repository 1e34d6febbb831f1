//! Verbs that make and keep a cluster: `start`, `join`, `status`, `stop`, `delete`, `logs`, `node`.
//!
//! A cluster (a *profile*) is a data folder with `cluster.json` in it ([`config::Cluster`]). One server process and one agent
//! process a node read that file; they look after each other ([`supervise`]), so that the death of any of them is mended by
//! the ones that are left. These verbs only write the file, start what is missing and wait for it.

pub mod config;
pub mod credentials;
pub mod doctor;
pub mod failure;
pub mod join;
pub mod kubeconfig;
pub mod logs;
pub mod preflight;
pub mod process;
pub mod slots;
pub mod start;
pub mod status;
pub mod stop;
pub mod supervise;
pub mod systemd;
pub mod token;
pub mod turn;
pub mod verbs;
