//! Containers' log files: reading, following, rotating, linking.

pub mod cri;
pub mod links;
pub mod read;
pub mod rotate;
