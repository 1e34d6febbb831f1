//! The kernel door: mounts, namespaces, cgroups, processes, netlink, nftables. Every `unsafe` block of the project stands in this crate.

pub mod cgroup;
pub mod fdpass;
pub mod inotify;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod privilege;
pub mod process;
pub mod socket;
pub mod tree;
pub mod watch;
pub mod xattr;
