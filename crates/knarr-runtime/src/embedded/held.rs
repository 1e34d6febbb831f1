//! A container's descriptors in the agent's hands: so that its exit code and its output survive its shim, and attach can write to it.

use std::io;
use std::os::fd::OwnedFd;

use crate::shim::protocol::Handles;

/// Copies of what the shim holds.
#[derive(Debug, Default)]
pub struct Held {
    pub pidfd: Option<OwnedFd>,
    /// With a terminal: its master.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
}

impl Held {
    /// Sorts descriptors that came with a message.
    pub fn from_message(handles: Handles, fds: Vec<OwnedFd>) -> Self {
        let mut fds = fds.into_iter();
        let mut next = |wanted: bool| if wanted { fds.next() } else { None };
        Self { pidfd: next(handles.pidfd), stdout: next(handles.stdout), stderr: next(handles.stderr), stdin: next(handles.stdin) }
    }

    /// Copies to hand to a new shim.
    pub fn to_message(&self) -> io::Result<(Handles, Vec<OwnedFd>)> {
        let handles = Handles { pidfd: false, stdout: self.stdout.is_some(), stderr: self.stderr.is_some(), stdin: self.stdin.is_some() };
        let fds = [&self.stdout, &self.stderr, &self.stdin].into_iter().flatten().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok((handles, fds))
    }
}
