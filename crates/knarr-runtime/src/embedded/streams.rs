//! Processes and connections inside containers: exec, attach, port forwarding.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sched::CloneFlags;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connection::ShimConnection;
use super::pipes::Pipe;
use super::{Embedded, failed};
use crate::cri::{ContainerState, Error, ExecOutput, Result, Streams};
use crate::shim::protocol::{Answer, ExecSpec, Request};

/// Output of an exec_sync that is kept, per stream; containerd's limit. What comes after is read and dropped.
const OUTPUT_BYTES_MAX: usize = 16 << 20;
/// How long a connection to a port inside a pod may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that runs in a container; dropping this kills it.
struct Process {
    shim: ShimConnection,
    exec: u64,
    terminal: Option<OwnedFd>,
    over: bool,
}

impl Process {
    async fn start(shim: ShimConnection, container: &str, exec: ExecSpec, fds: Vec<OwnedFd>) -> Result<Self> {
        let answer = shim.ask(Request::Exec { id: container.to_owned(), exec }, fds).await.map_err(describe)?;
        match answer {
            (Answer::ExecStarted { exec, .. }, mut fds) => Ok(Self { shim, exec, terminal: fds.pop(), over: false }),
            (other, _) => Err(Error::Failed(format!("unexpected answer of the shim: {other:?}"))),
        }
    }

    async fn exit(&mut self) -> Result<i32> {
        let code = self.shim.exec_exit(self.exec).await;
        self.over = true;
        code
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (shim, exec) = (self.shim.clone(), self.exec);
        tokio::spawn(async move {
            // A shim that has gone has no execs.
            if shim.ask(Request::KillExec { exec }, Vec::new()).await.is_ok() {
                drop(shim.exec_exit(exec).await);
            }
        });
    }
}

/// containerd's words around an exec that cannot start.
fn describe(error: Error) -> Error {
    match error {
        Error::Failed(text) => {
            let text = text.strip_prefix("failed to create task: OCI runtime create failed: unable to start container process: ").unwrap_or(&text);
            Error::Failed(format!("failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: {text}"))
        }
        other => other,
    }
}

impl Embedded {
    async fn running(&self, id: &str) -> Result<ShimConnection> {
        let (container, shim) = self.container_and_shim(id).await?;
        let state = container.status().state;
        if state == ContainerState::Running { Ok(shim) } else { Err(Error::Failed(format!("container is in {state:?} state"))) }
    }

    pub(super) async fn run_exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let shim = self.running(id).await?;
        let (stdout, their_stdout) = Pipe::reader().map_err(failed("pipe"))?;
        let (stderr, their_stderr) = Pipe::reader().map_err(failed("pipe"))?;
        let exec = ExecSpec { args: command.to_vec(), tty: false, stdin: false, stdout: true, stderr: true, size: None };
        let work = async {
            let mut process = Process::start(shim, id, exec, vec![their_stdout, their_stderr]).await?;
            let over = CancellationToken::new();
            let (mut out, mut err) = (Kept::default(), Kept::default());
            let copies = async { tokio::try_join!(stdout.copy_out(&mut out, &over), stderr.copy_out(&mut err, &over)) };
            let exit = async {
                let code = process.exit().await;
                over.cancel();
                code
            };
            let (copied, code) = tokio::join!(copies, exit);
            copied.map_err(failed("reading output"))?;
            Ok(ExecOutput { stdout: out.0, stderr: err.0, exit_code: code? })
        };
        if timeout.is_zero() {
            return work.await;
        }
        let late = || Error::Timeout(format!("failed to exec in container: timeout {timeout:?} exceeded: context deadline exceeded"));
        tokio::time::timeout(timeout, work).await.map_err(|_| late())?
    }

    pub(super) async fn run_exec(&self, id: &str, command: &[String], streams: Streams) -> Result<i32> {
        let shim = self.running(id).await?;
        if streams.tty { exec_terminal(shim, id, command, streams).await } else { exec_pipes(shim, id, command, streams).await }
    }

    pub(super) async fn run_attach(&self, id: &str, streams: Streams) -> Result<()> {
        let shim = self.running(id).await?;
        let container = self.container(id)?;
        let (tty, stdin_once) = {
            let record = container.record.lock();
            (record.config.tty, record.config.stdin_once)
        };
        let (stdout, their_stdout) = Pipe::reader().map_err(failed("pipe"))?;
        let (stderr, their_stderr) = Pipe::reader().map_err(failed("pipe"))?;
        let mut their_ends = vec![their_stdout, their_stderr];
        // All of a terminal's output comes in one stream; the other ends at once.
        their_ends.truncate(if tty { 1 } else { 2 });
        shim.ask(Request::Attach { id: id.to_owned() }, their_ends).await?;
        let input = container.live.lock().held.stdin.as_ref().map(OwnedFd::try_clone).transpose().map_err(failed("stdin"))?;
        let Streams { stdin, stdout: out, stderr: err, resize, .. } = streams;
        let terminal = input.as_ref().filter(|_| tty).map(OwnedFd::try_clone).transpose().map_err(failed("stdin"))?;
        // Whoever does not write must not keep the pipe open.
        let input = input.filter(|_| stdin.is_some()).map(Pipe::new).transpose().map_err(failed("stdin"))?;
        let feed = async {
            let Some(client) = stdin else { return std::future::pending().await };
            feed(input, Some(client)).await;
            if stdin_once && !tty {
                container.live.lock().held.stdin = None;
                // A shim that has gone keeps nothing open either.
                shim.ask(Request::CloseStdin { id: id.to_owned() }, Vec::new()).await.map(drop).unwrap_or_default();
            }
            std::future::pending::<()>().await;
        };
        let sizes = async {
            if let (Some(resize), Some(terminal)) = (resize, &terminal) {
                apply_sizes(resize, terminal).await;
            }
            std::future::pending::<()>().await;
        };
        let never = CancellationToken::new();
        let copies = async { tokio::try_join!(copy_to(&stdout, out, &never), copy_to(&stderr, err, &never)).map(drop) };
        tokio::select! {
            result = copies => match result {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed("attach")(error)),
                _ => Ok(()),
            },
            () = feed => Ok(()),
            () = sizes => Ok(()),
        }
    }

    pub(super) async fn connect_inside(&self, sandbox_id: &str, port: u16) -> Result<TcpStream> {
        let netns = self.sandbox(sandbox_id)?.record.lock().netns.clone();
        let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
        let mut last = None;
        for address in addresses {
            let socket = socket_inside(netns.clone(), address.is_ipv6()).await.map_err(failed("network namespace"))?;
            match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = last.or(Some(error)),
                Err(_) => last = last.or(Some(io::ErrorKind::TimedOut.into())),
            }
        }
        let error = last.map_or_else(String::new, |e| e.to_string());
        Err(Error::Failed(format!("failed to connect to localhost:{port} inside namespace {sandbox_id:?}: {error}")))
    }
}

/// A socket belongs to the network namespace it was made in: only making it takes a thread that went there, and that thread ends.
async fn socket_inside(netns: Option<std::path::PathBuf>, v6: bool) -> io::Result<TcpSocket> {
    let make = move || if v6 { TcpSocket::new_v6() } else { TcpSocket::new_v4() };
    let Some(path) = netns else { return make() };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let handle = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let _runtime = handle.enter();
        let made =
            std::fs::File::open(path).and_then(|ns| knarr_sys::namespace::enter(OwnedFd::from(ns).as_fd(), CloneFlags::CLONE_NEWNET)).and_then(|()| make());
        // Nobody waits any more: the socket closes.
        drop(sender.send(made));
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::Error::other("thread ended")))
}

async fn exec_pipes(shim: ShimConnection, id: &str, command: &[String], streams: Streams) -> Result<i32> {
    let Streams { stdin, stdout, stderr, .. } = streams;
    let mut fds = Vec::new();
    let mut end = |wanted: bool, make: fn() -> io::Result<(Pipe, OwnedFd)>| -> Result<Option<Pipe>> {
        if !wanted {
            return Ok(None);
        }
        let (ours, theirs) = make().map_err(failed("pipe"))?;
        fds.push(theirs);
        Ok(Some(ours))
    };
    let (input, output, errors) = (end(stdin.is_some(), Pipe::writer)?, end(stdout.is_some(), Pipe::reader)?, end(stderr.is_some(), Pipe::reader)?);
    let exec = ExecSpec { args: command.to_vec(), tty: false, stdin: input.is_some(), stdout: output.is_some(), stderr: errors.is_some(), size: None };
    let mut process = Process::start(shim, id, exec, fds).await?;
    let over = CancellationToken::new();
    let feed = feed(input, stdin);
    let copies = async {
        let out = async { if let Some(pipe) = &output { copy_to(pipe, stdout, &over).await } else { Ok(()) } };
        let err = async { if let Some(pipe) = &errors { copy_to(pipe, stderr, &over).await } else { Ok(()) } };
        tokio::join!(out, err)
    };
    finish(&mut process, &over, feed, copies).await
}

async fn exec_terminal(shim: ShimConnection, id: &str, command: &[String], streams: Streams) -> Result<i32> {
    let Streams { stdin, stdout, mut resize, .. } = streams;
    // The first size is mostly there already, and saves the program a redraw.
    let size = resize.as_mut().and_then(|r| r.try_recv().ok());
    let exec = ExecSpec { args: command.to_vec(), tty: true, stdin: stdin.is_some(), stdout: true, stderr: false, size };
    let mut process = Process::start(shim, id, exec, Vec::new()).await?;
    let master = process.terminal.take().ok_or_else(|| Error::Failed("shim gave no terminal".to_owned()))?;
    let sizes = master.try_clone().map_err(failed("terminal"))?;
    let input = Pipe::new(master.try_clone().map_err(failed("terminal"))?).map_err(failed("terminal"))?;
    let output = Pipe::new(master).map_err(failed("terminal"))?;
    let over = CancellationToken::new();
    let feed = async {
        if let Some(mut client) = stdin {
            input.copy_in(&mut client).await.unwrap_or_default();
        }
    };
    let resizing = async {
        if let Some(resize) = resize {
            apply_sizes(resize, &sizes).await;
        }
    };
    let copies = async { (copy_to(&output, stdout, &over).await, Ok(())) };
    finish(&mut process, &over, async { tokio::join!(feed, resizing).0 }, copies).await
}

/// Waits for the exit, then for the last output. A client that has gone ends the process.
async fn finish(
    process: &mut Process,
    over: &CancellationToken,
    feed: impl Future<Output = ()>,
    copies: impl Future<Output = (io::Result<()>, io::Result<()>)>,
) -> Result<i32> {
    let exit = async {
        let code = process.exit().await;
        over.cancel();
        code
    };
    let feed = async {
        feed.await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        ((out, err), code) = async { tokio::join!(copies, exit) } => {
            // Output that nobody took does not change how the process ended.
            if let Err(error) = out.and(err) {
                tracing::debug!(%error, "exec output");
            }
            code
        }
        () = feed => Err(Error::Failed("unreachable: feeding never ends the process".to_owned())),
    }
}

/// Closing our end is what tells the process that its input is over.
async fn feed(pipe: Option<Pipe>, client: Option<Box<dyn AsyncRead + Send + Unpin>>) {
    if let (Some(pipe), Some(mut client)) = (pipe, client) {
        // Either side may break off: the process goes on without input.
        pipe.copy_in(&mut client).await.unwrap_or_default();
    }
}

/// Output for nobody is read all the same, so that the process never waits for a reader.
async fn copy_to(pipe: &Pipe, client: Option<Box<dyn AsyncWrite + Send + Unpin>>, over: &CancellationToken) -> io::Result<()> {
    match client {
        Some(mut client) => pipe.copy_out(&mut client, over).await,
        None => pipe.copy_out(&mut tokio::io::sink(), over).await,
    }
}

async fn apply_sizes(mut sizes: mpsc::Receiver<(u16, u16)>, terminal: &OwnedFd) {
    while let Some((columns, rows)) = sizes.recv().await {
        if let Err(error) = knarr_sys::process::set_window_size(terminal.as_fd(), columns, rows) {
            tracing::debug!(%error, "terminal size");
        }
    }
}

/// Keeps output up to a limit.
#[derive(Default)]
struct Kept(Vec<u8>);

impl AsyncWrite for Kept {
    fn poll_write(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>, data: &[u8]) -> std::task::Poll<io::Result<usize>> {
        let room = OUTPUT_BYTES_MAX.saturating_sub(self.0.len());
        self.0.extend_from_slice(&data[..data.len().min(room)]);
        std::task::Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}
