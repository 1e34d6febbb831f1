//! One output stream of a container: into the log, and to everybody who is attached.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::{Lines, Log};

/// Bytes taken from a pipe at once.
const READ_BYTES: usize = 32 << 10;

/// Somebody who is attached.
pub struct Attachment {
    pub number: u64,
    pub pipe: OwnedFd,
    pub token: u64,
    /// What the pipe did not take yet. While there is some, the container's stream is not read: it waits for its reader, as with any pipe.
    pending: Vec<u8>,
}

impl Attachment {
    pub fn new(number: u64, pipe: OwnedFd, token: u64) -> io::Result<Self> {
        set_nonblocking(&pipe)?;
        Ok(Self { number, pipe, token, pending: Vec::new() })
    }

    pub fn is_blocked(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what waits; an error when nobody reads any more.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match nix::unistd::write(&self.pipe, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.pending.shrink_to_fit();
        Ok(())
    }
}

/// What came of reading a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All there was is read.
    Drained,
    /// An attached reader is slow: read on when it has caught up.
    Blocked,
    Ended,
}

/// One output stream.
pub struct Stream {
    pub pipe: OwnedFd,
    /// Where it is being watched; 0 while an attached reader holds it up.
    pub token: u64,
    pub attached: Vec<Attachment>,
    lines: Lines,
    /// Said once, not for every line.
    log_is_broken: bool,
}

impl Stream {
    /// `pipe` is the read end, or a terminal's master.
    pub fn new(pipe: OwnedFd, name: &'static str) -> io::Result<Self> {
        set_nonblocking(&pipe)?;
        Ok(Self { pipe, token: 0, attached: Vec::new(), lines: Lines::new(name), log_is_broken: false })
    }

    pub fn is_blocked(&self) -> bool {
        self.attached.iter().any(Attachment::is_blocked)
    }

    /// Reads until nothing is left or somebody is slow. Readers that have gone are given back.
    pub fn pump(&mut self, log: &mut Log, gone: &mut Vec<Attachment>) -> Outcome {
        let mut buffer = [0u8; READ_BYTES];
        loop {
            if self.is_blocked() {
                return Outcome::Blocked;
            }
            match nix::unistd::read(self.pipe.as_fd(), &mut buffer) {
                Err(Errno::EAGAIN) => return Outcome::Drained,
                Err(Errno::EINTR) => {}
                // A terminal says EIO when its last user has gone.
                Ok(0) | Err(_) => {
                    let finished = log.finish(&mut self.lines);
                    self.note(finished);
                    return Outcome::Ended;
                }
                Ok(n) => {
                    let written = log.write(&mut self.lines, &buffer[..n]);
                    self.note(written);
                    self.fan_out(&buffer[..n], gone);
                }
            }
        }
    }

    /// A full disk must not stop the container; what could not be written is lost.
    fn note(&mut self, written: io::Result<()>) {
        if let Err(error) = &written
            && !self.log_is_broken
        {
            eprintln!("knarr shim: container log: {error}");
        }
        self.log_is_broken = written.is_err();
    }

    fn fan_out(&mut self, data: &[u8], gone: &mut Vec<Attachment>) {
        for attachment in &mut self.attached {
            attachment.pending.extend_from_slice(data);
        }
        gone.extend(self.attached.extract_if(.., |a| a.flush().is_err()));
    }
}

pub fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
