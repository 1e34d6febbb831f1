//! What agent and shim say to each other: a length, then JSON; descriptors travel with the length.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::spec::Identity;

/// Longest message: exec arguments are the largest part.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Messages that wait for a reader who has stopped reading.
pub const QUEUE_MAX: usize = 4096;

/// A question of the agent. `number` comes back in the answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    pub number: u64,
    pub fds: usize,
    pub body: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Sets a container up to the point before its program runs. Answered by `Created`.
    Create {
        id: String,
    },
    Start {
        id: String,
    },
    /// To the first process, or to all.
    Signal {
        id: String,
        signal: i32,
        all: bool,
    },
    /// Forgets a container that has ended (or kills one that has not been started).
    Remove {
        id: String,
    },
    /// Runs a program in a container. Comes with stdin, stdout, stderr in this order, those that are wanted.
    Exec {
        id: String,
        exec: ExecSpec,
    },
    KillExec {
        exec: u64,
    },
    /// Output from now on also goes to these pipes: stdout, and stderr unless there is a terminal.
    Attach {
        id: String,
    },
    CloseStdin {
        id: String,
    },
    ReopenLog {
        id: String,
    },
    /// State of one container, with its descriptors.
    Inspect {
        id: String,
    },
    /// Stdio of a container that lost its shim: stdout, stderr, stdin as `has` tells.
    Adopt {
        id: String,
        has: Handles,
    },
    /// Kills all that is left, then the shim itself ends.
    Stop,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    pub args: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Columns and rows of the terminal.
    pub size: Option<(u16, u16)>,
}

/// Which descriptors come along, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handles {
    pub pidfd: bool,
    /// With a terminal: its master.
    pub stdout: bool,
    pub stderr: bool,
    pub stdin: bool,
}

/// What the shim says: an answer, or with `number` 0 something that happened.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    pub number: u64,
    pub fds: usize,
    pub body: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Failed(Failure),
    /// The shim serves; first message on a new connection. Comes with the ipc, uts and (where it has one) pid namespace.
    Ready {
        pid: i32,
        containers: Vec<ContainerState>,
    },
    /// With the descriptors that `handles` names.
    Container {
        state: Box<ContainerState>,
        handles: Handles,
        warnings: Vec<String>,
    },
    /// With the terminal's master, when there is one.
    ExecStarted {
        exec: u64,
        pid: i32,
    },
    Exited {
        state: Box<ContainerState>,
    },
    ExecExited {
        exec: u64,
        exit_code: i32,
    },
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    NotFound(String),
    /// The container's config cannot be met.
    Config(String),
    /// The program cannot be run; an attempt to start the container shows this.
    Program(String),
    Other(String),
}

impl Failure {
    pub fn other(what: &str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Other(format!("{what}: {error}"))
    }

    pub fn config(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Config(format!("{what}: {error}"))
    }

    pub fn text(&self) -> &str {
        match self {
            Self::NotFound(text) | Self::Config(text) | Self::Program(text) | Self::Other(text) => text,
        }
    }
}

/// What a shim knows about a container; kept in `state.json` too. Times are RFC 3339.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: String,
    pub pid: i32,
    /// Tells a process from a later one with its pid.
    pub pid_start_time: u64,
    pub identity: Identity,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    /// The failure of an attempt to start it.
    pub start_error: Option<String>,
    /// Inode numbers of the pipes that take its stdout and stderr; none with a terminal.
    #[serde(default)]
    pub outputs: Option<[u64; 2]>,
}

/// One side of a connection: bytes on their way in and out.
pub struct Channel {
    socket: Arc<OwnedFd>,
    received: Vec<u8>,
    received_fds: VecDeque<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
}

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// A message that tells how many descriptors belong to it.
pub trait Framed: DeserializeOwned {
    fn fds(&self) -> usize;
}

impl Framed for Question {
    fn fds(&self) -> usize {
        self.fds
    }
}

impl Framed for Message {
    fn fds(&self) -> usize {
        self.fds
    }
}

impl Channel {
    /// The socket is not to block.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self { socket: Arc::new(socket), received: Vec::new(), received_fds: VecDeque::new(), outgoing: VecDeque::new() })
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket, to be watched.
    pub fn shared_socket(&self) -> Arc<OwnedFd> {
        self.socket.clone()
    }

    /// Takes in what has come. `UnexpectedEof`: the other side has gone; `WouldBlock`: all is read.
    pub fn fill(&mut self) -> io::Result<()> {
        let mut buffer = [0u8; 16 << 10];
        let mut fds = Vec::new();
        let n = knarr_sys::fdpass::receive(self.socket.as_fd(), &mut buffer, &mut fds)?;
        self.received_fds.extend(fds);
        self.received.extend_from_slice(&buffer[..n]);
        if n == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The next whole message, if there is one.
    pub fn next<T: Framed>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.received.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message is too long"));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message: T = serde_json::from_slice(body)?;
        self.received.drain(..4 + length);
        self.received.shrink_to(4096);
        if message.fds() > self.received_fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing"));
        }
        let fds = self.received_fds.drain(..message.fds()).collect();
        Ok(Some((message, fds)))
    }

    /// Queues a message; [`Self::flush`] sends it.
    pub fn push(&mut self, message: &impl Serialize, fds: Vec<OwnedFd>) -> io::Result<()> {
        if self.outgoing.len() >= QUEUE_MAX {
            return Err(io::Error::other("the other side has stopped reading"));
        }
        let mut bytes = vec![0; 4];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() - 4;
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message is too long"));
        }
        bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        self.outgoing.push_back(Outgoing { bytes, sent: 0, fds });
        Ok(())
    }

    /// Sends what the socket takes; true when nothing is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while let Some(first) = self.outgoing.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = first.fds.iter().map(AsFd::as_fd).collect();
            match knarr_sys::fdpass::send(self.socket.as_fd(), &first.bytes[first.sent..], &fds) {
                Ok(n) => {
                    first.sent += n;
                    first.fds.clear();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if first.sent == first.bytes.len() {
                self.outgoing.pop_front();
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    #[test]
    fn messages_arrive_in_order_with_their_own_descriptors() {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (mut a, mut b) = (Channel::new(a).unwrap(), Channel::new(b).unwrap());
        let question = |number, fds, text: &str| Question { number, fds, body: Request::Start { id: text.into() } };
        let file = |text: &str| -> OwnedFd {
            let file = tempfile::tempfile().unwrap();
            std::os::unix::fs::FileExt::write_at(&file, text.as_bytes(), 0).unwrap();
            file.into()
        };
        let long = "x".repeat(1 << 20);
        a.push(&question(1, 1, "one"), vec![file("f1")]).unwrap();
        a.push(&question(2, 0, &long), vec![]).unwrap();
        a.push(&question(3, 2, "three"), vec![file("f2"), file("f3")]).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            a.flush().unwrap();
            match b.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other.unwrap(),
            }
            while let Some((question, fds)) = b.next::<Question>().unwrap() {
                let texts: Vec<String> = fds
                    .into_iter()
                    .map(|fd| {
                        let mut text = [0; 2];
                        std::os::unix::fs::FileExt::read_at(&std::fs::File::from(fd), &mut text, 0).unwrap();
                        String::from_utf8(text.to_vec()).unwrap()
                    })
                    .collect();
                seen.push((question.number, texts.join(",")));
            }
        }
        assert_eq!(seen, [(1, "f1".to_owned()), (2, String::new()), (3, "f2,f3".to_owned())]);
        drop(a);
        assert_eq!(b.fill().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
