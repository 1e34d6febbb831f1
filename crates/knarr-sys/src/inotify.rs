//! File system notifications: `inotify(7)`, so that nobody has to look at a file again and again.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::unix::AsyncFd;

pub const MODIFY: u32 = libc::IN_MODIFY;
pub const CREATE: u32 = libc::IN_CREATE;
pub const MOVED_TO: u32 = libc::IN_MOVED_TO;
pub const DELETE: u32 = libc::IN_DELETE;
pub const DELETE_SELF: u32 = libc::IN_DELETE_SELF;

/// Bytes read at once: room for at least sixteen events with the longest names.
const BUFFER_BYTES: usize = 16 * (size_of::<libc::inotify_event>() + 256);

/// Watches of one user.
pub struct Inotify(AsyncFd<OwnedFd>);

impl Inotify {
    /// To be called inside a tokio runtime.
    ///
    /// # Errors
    /// Too many instances, or no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a call with plain flags.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an owned descriptor stays the same and open as long as the registration owns it.
        Ok(Self(unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)?))
    }

    /// Watches a path for the events in `mask`.
    ///
    /// # Errors
    /// No such path, or too many watches.
    pub fn watch(&self, path: &Path, mask: u32) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "path contains a NUL byte"))?;
        // SAFETY: `path` is a NUL-terminated string that outlives the call.
        let watch = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Returns when something watched has changed since the last call; what it was is forgotten.
    /// May be given up at any point without a change being lost.
    ///
    /// # Errors
    /// As `read(2)`.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if self.drain()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    /// Takes all events that wait and gives whether there were any.
    fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0u8; BUFFER_BYTES];
        let mut any = false;
        loop {
            match nix::unistd::read(self.0.get_ref(), &mut buffer) {
                Ok(0) => return Ok(any),
                Ok(_) => any = true,
                Err(nix::errno::Errno::EAGAIN) => return Ok(any),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_told_once() {
        let dir = std::env::temp_dir().join(format!("knarr-inotify-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let inotify = Inotify::new().unwrap();
        inotify.watch(&dir, CREATE | MODIFY).unwrap();
        assert!(!inotify.drain().unwrap());
        std::fs::write(dir.join("f"), "x").unwrap();
        inotify.changed().await.unwrap();
        assert!(!inotify.drain().unwrap());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
