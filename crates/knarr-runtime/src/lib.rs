//! Images and containers. [`cri`] is the Container Runtime Interface as a trait; behind it the embedded runtime: content store,
//! registry client, overlayfs, and a small shim per pod that holds stdio and exit codes and survives the agent.

pub mod container;
pub mod cri;
pub mod embedded;
pub mod image;
pub mod shim;

pub use cri::Runtime;
pub use embedded::{Embedded, EmbeddedConfig, ShimProgram};
pub use image::{Hosts, Images};
pub use shim::shim_main;
