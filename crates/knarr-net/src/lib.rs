//! Everything between pods, nodes and Services that is a packet: the pod network, the way from node to node, the service
//! proxy, and the names that lead there.
//!
//! - [`network`]: all of it for one node, as its agent starts it.
//! - [`pods`]: links, addresses, masquerading and host ports of the pods on one node.
//! - [`nodes`]: the way from node to node, and nodes in network namespaces on one machine.
//! - [`proxy`]: Services as packet rules.
//! - [`policy`]: who may talk to whom.
//! - [`dns`]: names of the cluster, answered on every node.

pub mod dns;
mod http;
pub mod network;
pub mod nodes;
pub mod pods;
pub mod policy;
pub mod proxy;
mod rules;
#[cfg(test)]
mod testbed;
mod view;
