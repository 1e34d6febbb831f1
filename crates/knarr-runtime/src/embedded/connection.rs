//! The agent's side of a connection to a shim: questions with answers, and what happens by itself.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use knarr_sys::watch::{Watched, watch};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::cri::{Error, Result};
use crate::shim::protocol::{Answer, Channel, ContainerState, Failure, Message, Question, Request};

/// What a shim tells unasked.
#[derive(Debug)]
pub enum Event {
    Exited {
        sandbox: String,
        state: Box<ContainerState>,
    },
    /// The connection is gone, and most likely the shim.
    Gone {
        sandbox: String,
    },
}

type Reply = (Answer, Vec<OwnedFd>);

struct Shared {
    sandbox: String,
    socket: Watched,
    channel: Mutex<Channel>,
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    /// Exits of exec'd processes: by exec number; one that came before anybody asked waits here.
    execs: Mutex<HashMap<u64, ExecEnd>>,
    next: AtomicU64,
}

enum ExecEnd {
    Awaited(oneshot::Sender<i32>),
    Over(i32),
}

/// A connection to a shim.
#[derive(Clone)]
pub struct ShimConnection {
    shared: Arc<Shared>,
    reader: Arc<Reader>,
}

/// The task that reads; it ends with the last handle on the connection.
struct Reader(tokio::task::AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the shim said first.
pub struct Welcome {
    pub pid: i32,
    pub containers: Vec<ContainerState>,
}

impl ShimConnection {
    /// Starts the conversation: waits for the shim's first word.
    pub async fn open(sandbox: &str, socket: OwnedFd, events: mpsc::UnboundedSender<Event>) -> Result<(Self, Welcome)> {
        let failed = |error: io::Error| Error::Failed(format!("connecting to the shim of sandbox {sandbox}: {error}"));
        let channel = Channel::new(socket).map_err(failed)?;
        let socket = watch(channel.shared_socket()).map_err(failed)?;
        let shared = Arc::new(Shared {
            sandbox: sandbox.to_owned(),
            socket,
            channel: Mutex::new(channel),
            waiting: Mutex::new(Some(HashMap::new())),
            execs: Mutex::default(),
            next: AtomicU64::new(1),
        });
        let welcome = match shared.next_message().await.map_err(failed)?.0.body {
            Answer::Ready { pid, containers } => Welcome { pid, containers },
            Answer::Failed(failure) => return Err(failure.into()),
            other => return Err(Error::Failed(format!("unexpected first word of a shim: {other:?}"))),
        };
        let reader = tokio::spawn(read(shared.clone(), events)).abort_handle();
        Ok((Self { shared, reader: Arc::new(Reader(reader)) }, welcome))
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&self, body: Request, fds: Vec<OwnedFd>) -> Result<Reply> {
        Ok(self.try_ask(body, fds).await??)
    }

    /// As [`Self::ask`], with the shim's refusal as it is.
    pub async fn try_ask(&self, body: Request, fds: Vec<OwnedFd>) -> Result<std::result::Result<Reply, Failure>> {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match &mut *self.shared.waiting.lock() {
            Some(waiting) => drop(waiting.insert(number, sender)),
            None => return Err(self.gone()),
        }
        let question = Question { number, fds: fds.len(), body };
        self.shared.send(question, fds).await.map_err(|error| Error::Failed(format!("shim of sandbox {}: {error}", self.shared.sandbox)))?;
        match receiver.await {
            Ok((Answer::Failed(failure), _)) => Ok(Err(failure)),
            Ok(reply) => Ok(Ok(reply)),
            Err(_) => Err(self.gone()),
        }
    }

    /// Whether the other end was seen to be closed.
    pub fn has_gone(&self) -> bool {
        self.shared.waiting.lock().is_none()
    }

    fn gone(&self) -> Error {
        Error::Failed(format!("shim of sandbox {} has gone", self.shared.sandbox))
    }

    /// The exit code of an exec'd process, when it has ended.
    pub async fn exec_exit(&self, exec: u64) -> Result<i32> {
        let receiver = {
            let mut execs = self.shared.execs.lock();
            if let Some(ExecEnd::Over(code)) = execs.remove(&exec) {
                return Ok(code);
            }
            let (sender, receiver) = oneshot::channel();
            execs.insert(exec, ExecEnd::Awaited(sender));
            receiver
        };
        receiver.await.map_err(|_| self.gone())
    }

    /// Lets go without telling anybody.
    pub fn close(&self) {
        self.reader.0.abort();
    }
}

impl Shared {
    async fn send(&self, question: Question, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.channel.lock().push(&question, fds)?;
        loop {
            let mut ready = self.socket.writable().await?;
            if self.channel.lock().flush()? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }

    async fn next_message(&self) -> io::Result<(Message, Vec<OwnedFd>)> {
        loop {
            if let Some(message) = self.channel.lock().next()? {
                return Ok(message);
            }
            let mut ready = self.socket.readable().await?;
            match self.channel.lock().fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                other => other?,
            }
        }
    }

    fn exec_exited(&self, exec: u64, code: i32) {
        let mut execs = self.execs.lock();
        match execs.remove(&exec) {
            // Somebody who has stopped waiting does not want it.
            Some(ExecEnd::Awaited(sender)) => drop(sender.send(code)),
            _ => drop(execs.insert(exec, ExecEnd::Over(code))),
        }
    }
}

async fn read(shared: Arc<Shared>, events: mpsc::UnboundedSender<Event>) {
    while let Ok((message, fds)) = shared.next_message().await {
        match message.body {
            Answer::Exited { state } => drop(events.send(Event::Exited { sandbox: shared.sandbox.clone(), state })),
            Answer::ExecExited { exec, exit_code } => shared.exec_exited(exec, exit_code),
            body => {
                let waiting = shared.waiting.lock().as_mut().and_then(|w| w.remove(&message.number));
                if let Some(sender) = waiting {
                    // Somebody who has stopped waiting lets the descriptors close.
                    drop(sender.send((body, fds)));
                }
            }
        }
    }
    // Whoever waits sees the end.
    drop(shared.waiting.lock().take());
    shared.execs.lock().clear();
    drop(events.send(Event::Gone { sandbox: shared.sandbox.clone() }));
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotFound(text) => Self::NotFound(text),
            Failure::Config(text) => Self::Failed(format!("failed to create container: {text}")),
            Failure::Program(text) => Self::Failed(format!("failed to create task: OCI runtime create failed: unable to start container process: {text}")),
            Failure::Other(text) => Self::Failed(text),
        }
    }
}
