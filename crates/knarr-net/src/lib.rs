//! Everything between pods, nodes and Services that is a packet: the pod network, the way from node to node, the service
//! proxy, and the names that lead there.
//!
//! - [`proxy`]: Services as packet rules.
//! - [`pods`]: links, addresses, masquerading and host ports of the pods on one node.

mod http;
pub mod pods;
pub mod proxy;
mod rules;
#[cfg(test)]
mod testbed;
mod view;
