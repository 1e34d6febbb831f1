//! What a container may do, in words that users write and numbers that the kernel takes. Pure.

pub mod capabilities;
pub mod seccomp;
pub mod signals;
