//! Kinds of the group `networking.k8s.io`.

pub mod ingress;
pub mod networkpolicy;
pub mod servicecidr;
mod validation;
