//! The node agent (upstream: kubelet): makes the pods that are bound to its node run, and tells the API what became of
//! them. It reaches containers only through [`knarr_runtime::cri::Runtime`], the network only through
//! [`network::PodNetwork`], and the API only as a client.

pub mod fake;
pub mod network;
pub mod pod;
#[cfg(test)]
mod testing;
