//! Everything between pods, nodes and Services that is a packet: the pod network, the way from node to node, the service
//! proxy, and the names that lead there.
//!
//! - [`pods`]: links, addresses, masquerading and host ports of the pods on one node.

pub mod pods;
mod rules;
#[cfg(test)]
mod testbed;
