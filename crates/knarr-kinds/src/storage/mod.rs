//! Kinds of the group `storage.k8s.io`.

pub mod csi;
pub mod storageclass;
pub mod validation;
pub mod volumeattachment;
