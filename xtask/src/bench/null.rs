//! A server that does nothing: what it is asked, it answers with the bytes by which another server has answered the same before
//! (`apibench -record`). The rate at which the driver gets on with it is the driver's own ceiling on this machine.
//!
//! What it takes itself is what no server can do without: TLS, HTTP/2 and the bytes; all frames of a turn go out together. It is built as what is
//! released is: what it takes beside the driver is taken from the driver. It shares no code with the server that it is a measure for.

use std::collections::HashMap;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, ready};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tools;

#[derive(clap::Args)]
pub struct Options {
    /// The answers, as `apibench -record` has left them
    #[arg(long)]
    answers: PathBuf,
    /// Where to write how the server is reached
    #[arg(long)]
    kubeconfig: PathBuf,
}

/// What the driver wants done, and is answered as recorded.
const RECORDED: [&str; 8] = ["create", "get", "update", "list", "listselector", "watch", "fanout", "delete"];

/// Streams that a client may have open, as Kubernetes allows.
const STREAMS_MAX: u32 = 250;

/// What stands beside the body.
#[derive(serde::Deserialize)]
struct Head {
    status: u16,
    #[serde(rename = "type")]
    media_type: String,
    #[serde(default)]
    encoding: String,
}

struct Answer {
    response: Response<()>,
    body: Bytes,
}

impl Answer {
    fn of(head: &Head, body: Bytes) -> Result<Self> {
        let mut response = Response::builder().status(head.status).header("content-type", &head.media_type);
        if !head.encoding.is_empty() {
            response = response.header("content-encoding", &head.encoding);
        }
        Ok(Self { response: response.body(())?, body })
    }

    fn recorded(folder: &Path, kind: &str) -> Result<Self> {
        let path = folder.join(kind);
        let head = std::fs::read(path.with_extension("json")).with_context(|| format!("no answer to {kind:?} was recorded in {}", folder.display()))?;
        let mut body = Bytes::from(std::fs::read(path.with_extension("body"))?);
        let head: Head = serde_json::from_slice(&head)?;
        if kind == "watch" {
            body.truncate(first_frame(&body, &head.media_type).context("the recorded watch has no event")?);
        }
        Self::of(&head, body)
    }

    fn send(&self, to: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
        to.send_response(self.response.clone(), false)?.send_data(self.body.clone(), true)
    }
}

/// The length of the first event of a watch: a line of JSON, or as many bytes as four bytes before them say.
fn first_frame(body: &[u8], media_type: &str) -> Option<usize> {
    if media_type.contains("json") {
        return body.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    }
    let length = u32::from_be_bytes(*body.first_chunk()?) as usize + 4;
    (body.len() >= length).then_some(length)
}

/// What this server knows, and who watches it.
struct Null {
    answers: HashMap<&'static str, Answer>,
    other: Answer,
    watches: Mutex<Vec<SendStream<Bytes>>>,
}

impl Null {
    fn read(folder: &Path) -> Result<Self> {
        let answers = RECORDED.iter().map(|kind| Ok((*kind, Answer::recorded(folder, kind)?))).collect::<Result<_>>()?;
        let json = Head { status: 200, media_type: "application/json".into(), encoding: String::new() };
        let account = Bytes::from_static(br#"{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"default"}}"#);
        Ok(Self { answers, other: Answer::of(&json, account)?, watches: Mutex::default() })
    }

    fn answer(&self, kind: &str) -> &Answer {
        self.answers.get(kind).unwrap_or(&self.other)
    }

    fn get(&self, request: &Request<RecvStream>, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
        let kind = kind_of_get(request.uri().path(), request.uri().query().unwrap_or_default());
        if kind != "watch" {
            return self.answer(kind).send(respond);
        }
        let stream = respond.send_response(self.answer(kind).response.clone(), false)?;
        lock(&self.watches).push(stream);
        Ok(())
    }

    /// Takes in all that the client sends, and answers. While it watches, an update is told to all who do.
    async fn write(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
        let (parts, mut body) = request.into_parts();
        while let Some(part) = body.data().await {
            let length = part?.len();
            body.flow_control().release_capacity(length)?;
        }
        let kind = match parts.method {
            Method::POST => "create",
            Method::PUT if self.tell() => "fanout",
            Method::PUT => "update",
            _ => "delete",
        };
        self.answer(kind).send(&mut respond)
    }

    /// Tells everybody who watches of an event. False when nobody does.
    fn tell(&self) -> bool {
        let event = &self.answer("watch").body;
        let mut watches = lock(&self.watches);
        watches.retain_mut(|stream| stream.send_data(event.clone(), false).is_ok());
        !watches.is_empty()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kind_of_get(path: &str, query: &str) -> &'static str {
    match path.split_once("/configmaps") {
        None => "",
        Some(_) if query.contains("watch=") => "watch",
        Some(_) if query.contains("labelSelector=") => "listselector",
        Some((_, "")) => "list",
        Some(_) => "get",
    }
}

/// The server, until it is ended.
pub fn run(options: &Options) -> Result<()> {
    let null = Arc::new(Null::read(&options.answers)?);
    let acceptor = acceptor()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        std::fs::write(&options.kubeconfig, kubeconfig(listener.local_addr()?.port()))?;
        println!("ready");
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = listener.accept().await?;
            let (acceptor, null) = (acceptor.clone(), null.clone());
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &acceptor, null).await {
                    // Also when the driver goes, which closes its connections without a word.
                    eprintln!("the server that does nothing: a connection ended: {error:#}");
                }
            });
        }
    })
}

/// What is written waits for the end of a turn.
struct Held {
    stream: TlsStream<TcpStream>,
    held: Vec<u8>,
    written: usize,
}

impl Held {
    fn poll_let_go(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            self.written += ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held[self.written..]))?;
        }
        self.held.clear();
        self.written = 0;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

/// The end of it that HTTP/2 writes to, and flushes after each frame.
struct Holding(Arc<Mutex<Held>>);

/// As much as rustls takes at once: what is longer does not wait.
const HELD_BYTES_MAX: usize = 64 * 1024;

impl AsyncRead for Holding {
    fn poll_read(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(self: Pin<&mut Self>, cx: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut held = lock(&self.0);
        if held.held.len() + bytes.len() > HELD_BYTES_MAX {
            ready!(held.poll_let_go(cx))?;
        }
        held.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.0);
        ready!(held.poll_let_go(cx))?;
        Pin::new(&mut held.stream).poll_shutdown(cx)
    }
}

/// Goes on with a connection, and whenever it is done for now lets go of what it has written.
async fn with_turns<F: Future + Unpin>(held: &Mutex<Held>, mut work: F) -> F::Output {
    std::future::poll_fn(|cx| {
        let polled = Pin::new(&mut work).poll(cx);
        if polled.is_pending() {
            // That the stream is broken is told to who reads from it.
            let _ = lock(held).poll_let_go(cx);
        }
        polled
    })
    .await
}

async fn serve(stream: TcpStream, acceptor: &TlsAcceptor, null: Arc<Null>) -> Result<()> {
    stream.set_nodelay(true)?;
    let held = Arc::new(Mutex::new(Held { stream: acceptor.accept(stream).await?, held: Vec::new(), written: 0 }));
    let handshake = h2::server::Builder::new().max_concurrent_streams(STREAMS_MAX).handshake::<_, Bytes>(Holding(held.clone()));
    let mut connection = with_turns(&held, handshake).await?;
    while let Some(request) = with_turns(&held, std::future::poll_fn(|cx| connection.poll_accept(cx))).await {
        let (request, mut respond) = request?;
        if request.method() == Method::GET {
            null.get(&request, &mut respond)?;
        } else {
            let null = null.clone();
            tokio::spawn(async move { null.write(request, respond).await });
        }
    }
    Ok(())
}

fn acceptor() -> Result<TlsAcceptor> {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn kubeconfig(port: u16) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Config","current-context":"null","contexts":[{{"name":"null","context":{{"cluster":"null","user":"null"}}}}],
"clusters":[{{"name":"null","cluster":{{"server":"https://127.0.0.1:{port}","insecure-skip-tls-verify":true}}}}],"users":[{{"name":"null","user":{{}}}}]}}"#
    )
}

/// The program that [`Running`] starts, built now.
pub fn program() -> Result<PathBuf> {
    tools::run(tools::cargo()?.args(["build", "--release", "--package", "xtask"]))?;
    tools::built_program("release", "xtask")
}

/// A server of this kind as a process of its own, which ends with this value.
pub struct Running(Child);

impl Running {
    /// # Errors
    /// When an answer was not recorded.
    pub fn start(program: &Path, answers: &Path, kubeconfig: &Path) -> Result<Self> {
        let mut child =
            Command::new(program).arg("null-server").arg("--answers").arg(answers).arg("--kubeconfig").arg(kubeconfig).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let said = child.stdout.take().context("no pipe")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line)?;
        let running = Self(child);
        ensure!(line.trim() == "ready", "the server that does nothing could not be started");
        Ok(running)
    }

    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_driver_are_told_apart() {
        let kinds = [
            ("/api/v1/namespaces/apibench/serviceaccounts/default", ""),
            ("/api/v1/namespaces/apibench/configmaps", "resourceVersion=5&watch=true"),
            ("/api/v1/namespaces/apibench/configmaps", "labelSelector=app%3Da1"),
            ("/api/v1/namespaces/apibench/configmaps", "resourceVersion=0"),
            ("/api/v1/namespaces/apibench/configmaps/cm-000001", ""),
        ]
        .map(|(path, query)| kind_of_get(path, query));
        assert_eq!(kinds, ["", "watch", "listselector", "list", "get"]);
    }

    #[test]
    fn the_first_event_of_a_watch_is_found() {
        assert_eq!(first_frame(b"{\"a\":1}\n{\"a\":2}\n", "application/json"), Some(8));
        assert_eq!(first_frame(b"{\"a\":", "application/json"), None);
        let protobuf = "application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(first_frame(b"\0\0\0\x02ab\0\0", protobuf), Some(6));
        assert_eq!(first_frame(b"\0\0\0\x02a", protobuf), None);
        assert_eq!(first_frame(b"\0", protobuf), None);
    }
}
