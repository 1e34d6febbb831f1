//! Descriptors that tokio waits for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// A descriptor with which tasks can wait until it can be read or written.
pub type Watched = AsyncFd<Arc<OwnedFd>>;

/// Hands a descriptor, which must not block, to tokio. Must be called within a tokio runtime.
pub fn watch(fd: Arc<OwnedFd>) -> io::Result<Watched> {
    // SAFETY: the descriptor is owned by the Arc, which the AsyncFd keeps: it stays open, and the same, for as long.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}
