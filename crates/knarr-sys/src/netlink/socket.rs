//! A netlink socket: requests out, acknowledgements and dumps in.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt};

use super::wire::{Attributes, Message, Messages, Writer, as_text, read_u32};

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_REPLACE: u16 = 0x100;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
/// The state changed while it was dumped: what was read may be torn.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// An acknowledgement carries only the header of the request.
const NLM_F_CAPPED: u16 = 0x100;
/// Attributes follow an acknowledgement.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Room for one datagram; the kernel sends at most 32 KiB at once.
const RECEIVE_BUFFER_LEN: usize = 64 * 1024;
/// How often a dump that was torn by concurrent changes is tried again.
const DUMP_ATTEMPTS_MAX: usize = 10;

/// Why the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("netlink: {0}")]
    Io(#[from] io::Error),
    /// The kernel's answer to a request, with its own explanation where it gives one.
    #[error("{what}: {}{}", errno.desc(), .explanation.as_deref().map(|e| format!(" ({e})")).unwrap_or_default())]
    Refused { what: String, errno: Errno, explanation: Option<String> },
    #[error("{0}: changed again and again while it was read")]
    Torn(String),
    #[error("{0}: malformed answer")]
    Malformed(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Io(e) => e.raw_os_error().map(Errno::from_raw),
            Self::Torn(_) | Self::Malformed(_) => None,
        }
    }

    /// What was to be deleted or read is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL))
    }

    pub fn already_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }
}

/// Errors of nix as errors of I/O.
impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
}

/// A socket in the network namespace of the thread that opened it; it stays there wherever it is used.
pub struct NetlinkSocket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// The kernel's word on one request.
pub struct Acknowledgement {
    pub sequence: u32,
    /// Zero for success.
    pub errno: i32,
    pub explanation: Option<String>,
}

impl NetlinkSocket {
    pub fn open(protocol: Protocol) -> Result<Self> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let fd = socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        socket::bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        set_netlink_option(&fd, libc::NETLINK_CAP_ACK)?;
        set_netlink_option(&fd, libc::NETLINK_EXT_ACK)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; RECEIVE_BUFFER_LEN] })
    }

    /// Lets one `send` carry `bytes` (a batch is one datagram). Needs CAP_NET_ADMIN.
    pub fn reserve_send_buffer(&mut self, bytes: usize) -> Result<()> {
        // The kernel doubles the value and keeps some for itself; a datagram must stay below what it reports.
        let current = socket::getsockopt(&self.fd, sockopt::SndBuf)?;
        if current < bytes + 4096 {
            socket::setsockopt(&self.fd, sockopt::SndBufForce, &bytes)?;
        }
        Ok(())
    }

    /// Lets many answers queue up.
    pub fn set_receive_buffer(&mut self, bytes: usize) -> Result<()> {
        socket::setsockopt(&self.fd, sockopt::RcvBufForce, &bytes)?;
        Ok(())
    }

    /// A number for the next request. Never 0, which the kernel uses for notifications.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        socket::send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads one datagram and shows its messages.
    pub fn receive(&mut self, mut each: impl FnMut(Message<'_>) -> Result<()>) -> Result<()> {
        let len = loop {
            match socket::recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => (),
                other => break other?,
            }
        };
        Messages(&self.buffer[..len]).try_for_each(&mut each)
    }

    /// Sends requests in one datagram and waits until each is acknowledged. The first refusal is returned (as `what` says
    /// it), after all requests were tried.
    pub fn request(&mut self, requests: &[Request]) -> Result<()> {
        self.request_tolerating(requests, |_, _| false)
    }

    /// Like [`Self::request`]; `tolerate` is shown the index and the errno of each refusal.
    pub fn request_tolerating(&mut self, requests: &[Request], tolerate: impl Fn(usize, Errno) -> bool) -> Result<()> {
        let Some(first) = requests.first().map(|_| self.sequence.wrapping_add(1)) else { return Ok(()) };
        let mut out = Writer::new();
        for request in requests {
            let sequence = self.next_sequence();
            out.message(request.kind, request.flags | NLM_F_REQUEST | NLM_F_ACK, sequence, |m| m.fixed(&request.body));
        }
        self.send(out.as_bytes())?;
        let (mut pending, mut failure) = (requests.len(), None);
        while pending > 0 {
            self.receive(|message| {
                let Some(answer) = acknowledgement(&message) else { return Ok(()) };
                let index = answer.sequence.wrapping_sub(first) as usize;
                if index >= requests.len() {
                    return Ok(());
                }
                pending -= 1;
                let errno = Errno::from_raw(answer.errno);
                if answer.errno != 0 && failure.is_none() && !tolerate(index, errno) {
                    failure = Some(Error::Refused { what: requests[index].what.clone(), errno, explanation: answer.explanation });
                }
                Ok(())
            })?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Asks for everything of a kind. `each` sees the type and the body of every message. A dump that concurrent changes
    /// tore is repeated: `start` is called before each attempt.
    pub fn dump<T: Default>(&mut self, request: &Request, mut each: impl FnMut(&mut T, u16, &[u8])) -> Result<T> {
        for _ in 0..DUMP_ATTEMPTS_MAX {
            let sequence = self.next_sequence();
            let mut out = Writer::new();
            out.message(request.kind, request.flags | NLM_F_REQUEST | NLM_F_DUMP, sequence, |m| m.fixed(&request.body));
            self.send(out.as_bytes())?;
            let (mut found, mut done, mut torn) = (T::default(), false, false);
            while !done {
                self.receive(|message| {
                    if message.sequence != sequence {
                        return Ok(());
                    }
                    torn |= message.flags & NLM_F_DUMP_INTR != 0;
                    match message.kind {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => {
                            let errno = acknowledgement(&message).map_or(Errno::EPROTO, |a| Errno::from_raw(a.errno));
                            return Err(Error::Refused { what: request.what.clone(), errno, explanation: None });
                        }
                        kind => each(&mut found, kind, message.body),
                    }
                    Ok(())
                })?;
            }
            if !torn {
                return Ok(found);
            }
        }
        Err(Error::Torn(request.what.clone()))
    }

    /// Asks for one thing; gives what `read` makes of the answer.
    pub fn get<T>(&mut self, request: &Request, read: impl Fn(u16, &[u8]) -> Option<T>) -> Result<T> {
        let sequence = self.next_sequence();
        let mut out = Writer::new();
        out.message(request.kind, request.flags | NLM_F_REQUEST, sequence, |m| m.fixed(&request.body));
        self.send(out.as_bytes())?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(|message| {
                if message.sequence == sequence && answer.is_none() {
                    answer = Some(match acknowledgement(&message) {
                        Some(a) => Err(Error::Refused { what: request.what.clone(), errno: Errno::from_raw(a.errno), explanation: a.explanation }),
                        None => read(message.kind, message.body).ok_or_else(|| Error::Malformed(request.what.clone())),
                    });
                }
                Ok(())
            })?;
        }
        answer.unwrap_or_else(|| Err(Error::Malformed(request.what.clone())))
    }
}

/// One request: what the message carries behind its header, and words for the error that may come back.
#[derive(Clone, Debug)]
pub struct Request {
    pub what: String,
    pub kind: u16,
    pub flags: u16,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(what: impl Into<String>, kind: u16, flags: u16, body: impl FnOnce(&mut Writer)) -> Self {
        let mut out = Writer::new();
        body(&mut out);
        Self { what: what.into(), kind, flags, body: out.as_bytes().to_vec() }
    }
}

/// Reads a message as an acknowledgement, if it is one.
pub fn acknowledgement(message: &Message<'_>) -> Option<Acknowledgement> {
    const ERROR_AND_HEADER_LEN: usize = 4 + 16;
    if message.kind != NLMSG_ERROR || message.body.len() < ERROR_AND_HEADER_LEN {
        return None;
    }
    let errno = -(read_u32(message.body, 0) as i32);
    let inner_len = read_u32(message.body, 4) as usize;
    let attributes_at = if message.flags & NLM_F_CAPPED == 0 && errno != 0 { 4 + inner_len.next_multiple_of(4) } else { ERROR_AND_HEADER_LEN };
    let explanation = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| message.body.get(attributes_at..))
        .flatten()
        .and_then(|a| Attributes(a).find(NLMSGERR_ATTR_MSG))
        .and_then(as_text)
        .map(str::to_owned);
    Some(Acknowledgement { sequence: read_u32(message.body, 12), errno, explanation })
}

fn set_netlink_option(fd: &OwnedFd, option: libc::c_int) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` lives through the call and its size is given.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t) };
    Errno::result(result)?;
    Ok(())
}
