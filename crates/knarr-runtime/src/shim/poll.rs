//! Waiting for many descriptors at once: epoll, with a name for each descriptor.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Events taken from the kernel in one go.
const EVENTS_MAX: usize = 32;

/// Descriptors by name. A descriptor must be removed before it is closed.
pub struct Poll<T> {
    epoll: Epoll,
    names: HashMap<u64, T>,
    next: u64,
}

/// What happened to a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub writable: bool,
    /// The other side is gone, or something else is wrong.
    pub broken: bool,
}

impl<T: Clone> Poll<T> {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, names: HashMap::new(), next: 1 })
    }

    /// Watches for something to read.
    pub fn add(&mut self, fd: BorrowedFd<'_>, name: T) -> io::Result<u64> {
        self.add_with(fd, name, EpollFlags::EPOLLIN)
    }

    /// Watches only for the other side's end.
    pub fn add_for_end(&mut self, fd: BorrowedFd<'_>, name: T) -> io::Result<u64> {
        self.add_with(fd, name, EpollFlags::empty())
    }

    fn add_with(&mut self, fd: BorrowedFd<'_>, name: T, flags: EpollFlags) -> io::Result<u64> {
        let token = self.next;
        self.next += 1;
        self.epoll.add(fd, EpollEvent::new(flags, token))?;
        self.names.insert(token, name);
        Ok(token)
    }

    /// Changes what is watched for.
    pub fn change(&mut self, fd: BorrowedFd<'_>, token: u64, read: bool, write: bool) -> io::Result<()> {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, read);
        flags.set(EpollFlags::EPOLLOUT, write);
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(flags, token))?)
    }

    pub fn remove(&mut self, fd: BorrowedFd<'_>, token: u64) {
        if self.names.remove(&token).is_some() {
            // It can only fail when the descriptor is not watched, which is what we want.
            self.epoll.delete(fd).unwrap_or_default();
        }
    }

    /// Waits for something to happen.
    pub fn wait(&mut self) -> io::Result<Vec<(T, Ready)>> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let n = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => 0,
            other => other?,
        };
        let ready = |e: &EpollEvent| Ready {
            writable: e.events().contains(EpollFlags::EPOLLOUT),
            broken: e.events().intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP),
        };
        Ok(events[..n].iter().filter_map(|e| Some((self.names.get(&e.data())?.clone(), ready(e)))).collect())
    }
}
