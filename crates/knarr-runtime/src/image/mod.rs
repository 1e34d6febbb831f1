//! Images: finding, fetching, unpacking and keeping them.
//!
//! ```text
//! reference ─► registry (manifest, config) ─► layers, side by side:
//!                network ─► sha256 + inflate ─► sha256 + untar ─► layers/DIFFID/fs
//! ```
//! A layer is unpacked straight into the folder that overlayfs will use; the compressed bytes are not kept.

pub mod archive;
pub mod digest;
pub mod hosts;
pub mod ingest;
pub mod manifest;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod service;
pub mod store;
mod toml;
pub mod transport;
pub mod unpack;

pub use digest::Digest;
pub use hosts::Hosts;
pub use pull::Puller;
pub use reference::Reference;
pub use service::Images;
pub use store::{ImageRecord, ImageStore};

/// Why an image cannot be had, in words for a pod's status.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("invalid reference format: {0:?}")]
    Reference(String),
    #[error("{0}")]
    Registry(String),
    #[error("{0}: not found")]
    NotFound(String),
    #[error("no match for platform in manifest: not found")]
    Platform,
    #[error("{what} has digest {found}, expected {expected}")]
    Digest { what: String, expected: String, found: String },
    #[error("unsupported: {0}")]
    Unsupported(String),
    #[error("invalid image: {0}")]
    Invalid(String),
    #[error("{0}: {1}")]
    Io(String, #[source] std::io::Error),
}

impl ImageError {
    /// For `map_err`: says what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io(what, error)
    }
}
