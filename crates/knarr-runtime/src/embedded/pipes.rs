//! Pipes and terminals as asynchronous streams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use knarr_sys::watch::{Watched, watch};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::shim::set_nonblocking;

/// Bytes copied at once.
const COPY_BYTES: usize = 32 << 10;

/// One end of a pipe, or a terminal's master.
pub struct Pipe(Watched);

impl Pipe {
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self(watch(Arc::new(fd))?))
    }

    /// Our end for reading, theirs for writing.
    pub fn reader() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        Ok((Self::new(read)?, write))
    }

    /// Our end for writing, theirs for reading.
    pub fn writer() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        Ok((Self::new(write)?, read))
    }

    /// What is there now: `Ok(None)` when there is nothing yet, `Ok(Some(0))` at the end.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::unistd::read(self.0.get_ref().as_fd(), buffer) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            // A terminal's way of saying that its last user has gone.
            Err(Errno::EIO) => Ok(Some(0)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for something to read; 0 at the end.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.try_read(buffer)? {
                Some(n) => return Ok(n),
                None => ready.clear_ready(),
            }
        }
    }

    pub async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            match nix::unistd::write(self.0.get_ref(), data) {
                Ok(n) => data = &data[n..],
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Copies to a client until the end; after `over` only what is there already, since a process' children may keep the pipe open.
    pub async fn copy_out(&self, client: &mut (impl AsyncWrite + Unpin + ?Sized), over: &tokio_util::sync::CancellationToken) -> io::Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let n = tokio::select! {
                biased;
                n = self.read(&mut buffer) => n?,
                () = over.cancelled() => match self.try_read(&mut buffer)? {
                    Some(n) => n,
                    None => break,
                },
            };
            if n == 0 {
                break;
            }
            client.write_all(&buffer[..n]).await?;
            client.flush().await?;
        }
        client.shutdown().await
    }

    /// Copies from a client until it closes.
    pub async fn copy_in(&self, client: &mut (impl AsyncRead + Unpin + ?Sized)) -> io::Result<()> {
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let n = client.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            self.write_all(&buffer[..n]).await?;
        }
    }
}
