//! The agent's handle on the spawner, which is started when the first pod comes and again when it has died.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use knarr_sys::watch::{Watched, watch};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::shim::protocol::Channel;
use crate::shim::spawner::SpawnRequest;

/// How the shim's program is started.
#[derive(Clone, Debug)]
pub struct ShimProgram {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

impl Default for ShimProgram {
    /// This very program, called with `shim`.
    fn default() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), arguments: vec!["shim".into()] }
    }
}

/// A connection to a spawner.
struct Running {
    channel: Channel,
    socket: Watched,
}

/// See the module's text. The spawner ends when this is dropped, the shims that it made do not.
pub struct Spawner {
    program: ShimProgram,
    log: PathBuf,
    running: tokio::sync::Mutex<Option<Running>>,
}

impl Spawner {
    /// `log` takes what shims have to say that fits nowhere else.
    pub fn new(program: ShimProgram, log: PathBuf) -> Self {
        Self { program, log, running: tokio::sync::Mutex::default() }
    }

    /// Makes a shim for the sandbox in `folder`; gives our end of its first connection.
    pub async fn spawn(&self, folder: &Path, adopt: bool) -> io::Result<OwnedFd> {
        let mut running = self.running.lock().await;
        let request = SpawnRequest { folder: folder.to_owned(), adopt };
        let attempt = match &mut *running {
            Some(spawner) => Some(send(spawner, &request).await),
            None => None,
        };
        match attempt {
            Some(Ok(connection)) => Ok(connection),
            failed => {
                if let Some(Err(error)) = failed {
                    tracing::warn!(%error, "shim spawner has gone, starting another");
                }
                send(running.insert(self.start()?), &request).await
            }
        }
    }

    fn start(&self) -> io::Result<Running> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        let log = OpenOptions::new().append(true).create(true).open(&self.log)?;
        let mut command = tokio::process::Command::new(&self.program.program);
        command.args(&self.program.arguments).stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(log).env_clear().process_group(0);
        let mut child = command.spawn()?;
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await
                && !status.success()
            {
                tracing::warn!(%status, "shim spawner ended");
            }
        });
        let channel = Channel::new(ours)?;
        let socket = watch(channel.shared_socket())?;
        Ok(Running { channel, socket })
    }
}

async fn send(spawner: &mut Running, request: &SpawnRequest) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    spawner.channel.push(request, vec![theirs])?;
    while !spawner.channel.flush()? {
        spawner.socket.writable().await?.clear_ready();
    }
    Ok(ours)
}
