//! gRPC over HTTP/2, as far as a client of etcd, or of a collector of traces, needs it: calls, one stream, and another server of the same
//! service when one does not answer. Thin, on hyper, which is linked anyway.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long one member may take to shake hands.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may take (etcd itself gives up on one after 7 s).
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing comes is asked for a sign of life this often, and has this long to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much may be under way to us: lists are large.
const WINDOW: u32 = 8 << 20;
/// The largest message that is read.
const MESSAGE_BYTES_MAX: usize = 512 << 20;
/// Compressed or not, and the length.
const PREFIX_BYTES: usize = 5;
/// gRPC's code for a server that cannot serve now.
const UNAVAILABLE: u32 = 14;

type Body = BoxBody<Bytes, Infallible>;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing was sent.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The connection broke: what was asked may have been done or not.
    #[error("no answer: {0}")]
    Lost(String),
    /// The server's own answer.
    #[error("{message}")]
    Refused { code: u32, message: String },
}

impl Failure {
    /// The database is as large as it may become.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("database space exceeded"))
    }

    /// What was asked for is no longer kept.
    pub fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("required revision has been compacted"))
    }

    /// Another member may do better.
    fn is_of_the_member(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Lost(_) | Self::Refused { code: UNAVAILABLE, .. })
    }
}

/// What is called.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its package, in front of the names of its methods.
    pub package: &'static str,
    /// Headers of every call.
    pub metadata: &'static [(&'static str, &'static str)],
}

/// One member's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    is_tls: bool,
    host: String,
    port: u16,
}

impl Endpoint {
    /// Reads `https://host:2379`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: http::Uri = url.trim_end_matches('/').parse().map_err(|e| format!("{url:?} is no address of a server: {e}"))?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{url:?} is no address of a server: it must begin with http:// or https://")),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(format!("{url:?} is no address of a server: it names no host"));
        }
        Ok(Self { is_tls, host, port: uri.port_u16().unwrap_or(2379) })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    async fn dial(&self, tls: Option<&Arc<rustls::ClientConfig>>) -> Result<SendRequest<Body>, String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| e.to_string())?;
        tcp.set_nodelay(true).map_err(|e| e.to_string())?;
        if !self.is_tls {
            return handshake(TokioIo::new(tcp)).await;
        }
        let tls = tls.ok_or("it is to be reached over TLS, and nothing is known of its certificates")?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(|e| e.to_string())?;
        handshake(TokioIo::new(stream)).await
    }
}

async fn handshake<T>(io: T) -> Result<SendRequest<Body>, String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(2 * WINDOW);
    let (sender, connection) = builder.handshake(io).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    Ok(sender)
}

/// A connection to whichever member answers.
pub struct Channel {
    service: Service,
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<rustls::ClientConfig>>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// The member to try next.
    next: usize,
    number: u64,
}

#[derive(Clone)]
struct Connection {
    sender: SendRequest<Body>,
    authority: Arc<str>,
    number: u64,
}

impl Channel {
    /// Without `tls`, addresses of `https` cannot be reached.
    pub fn new(service: Service, endpoints: Vec<Endpoint>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { service, endpoints, tls, current: Mutex::default() }
    }

    /// The connection that is there, or a new one to the first member that answers.
    async fn connection(&self) -> Result<Connection, Failure> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|c| !c.sender.is_closed()) {
            return Ok(connection.clone());
        }
        let mut why = String::from("no address is known");
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[current.next % self.endpoints.len()];
            match timeout(DIAL_TIMEOUT, endpoint.dial(self.tls.as_ref())).await {
                Ok(Ok(sender)) => {
                    current.number += 1;
                    let connection = Connection { sender, authority: endpoint.authority().into(), number: current.number };
                    current.connection = Some(connection.clone());
                    return Ok(connection);
                }
                Ok(Err(error)) => why = format!("{}: {error}", endpoint.authority()),
                Err(_) => why = format!("{}: no answer within {} s", endpoint.authority(), DIAL_TIMEOUT.as_secs()),
            }
            current.next += 1;
        }
        Err(Failure::Unreachable(why))
    }

    /// Leaves a member that did not serve.
    async fn leave(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.connection.as_ref().is_some_and(|c| c.number == number) {
            current.connection = None;
            current.next += 1;
        }
    }

    /// Sends the head of a call; one that was not sent goes to another member.
    async fn send(&self, method: &str, body: Body) -> Result<(Response<Incoming>, u64), Failure> {
        let mut body = Some(body);
        for _ in 0..=self.endpoints.len() {
            let mut connection = self.connection().await?;
            let request = request(self.service, &connection.authority, method, body.take().unwrap_or_default())?;
            match connection.sender.try_send_request(request).await {
                Ok(answer) => return Ok((answer, connection.number)),
                Err(mut error) => {
                    self.leave(connection.number).await;
                    match error.take_message() {
                        Some(unsent) => body = Some(unsent.into_body()),
                        None => return Err(Failure::Lost(error.into_error().to_string())),
                    }
                }
            }
        }
        Err(Failure::Unreachable("no member takes requests".into()))
    }

    /// One call.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn call<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A, Failure> {
        let body = Full::new(framed(message)).boxed();
        let mut served_by = None;
        let exchange = async {
            let (answer, number) = self.send(method, body).await?;
            served_by = Some(number);
            let mut messages = Messages::of(answer)?;
            let message = messages.next().await?.ok_or_else(|| Failure::Lost("the answer is empty".into()));
            // What comes after it says whether all went well.
            messages.end().await?;
            message
        };
        let result = timeout(CALL_TIMEOUT, exchange).await.unwrap_or_else(|_| Err(Failure::Lost("no answer in time".into())));
        if let (Err(failure), Some(number)) = (&result, served_by)
            && failure.is_of_the_member()
        {
            self.leave(number).await;
        }
        result
    }

    /// A call that changes nothing: asked once more when a member fails.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn read<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A, Failure> {
        match self.call(method, message).await {
            Err(failure) if failure.is_of_the_member() => self.call(method, message).await,
            result => result,
        }
    }

    /// A call with many messages either way. It ends when `messages` does.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn stream(&self, method: &str, messages: mpsc::Receiver<Bytes>) -> Result<Messages, Failure> {
        let frames = futures::stream::unfold(messages, |mut messages| async { messages.recv().await.map(|m| (Ok(Frame::data(m)), messages)) });
        let body = BodyExt::boxed(StreamBody::new(frames));
        let (answer, number) = timeout(CALL_TIMEOUT, self.send(method, body)).await.unwrap_or_else(|_| Err(Failure::Lost("no answer in time".into())))?;
        match Messages::of(answer) {
            Ok(messages) => Ok(messages),
            Err(failure) => {
                self.leave(number).await;
                Err(failure)
            }
        }
    }
}

fn request(service: Service, authority: &str, method: &str, body: Body) -> Result<Request<Body>, Failure> {
    let request = Request::post(format!("http://{authority}/{}.{method}", service.package));
    let request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    service.metadata.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body).map_err(|e| Failure::Unreachable(e.to_string()))
}

/// A message with its length in front.
pub fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// The messages of an answer.
pub struct Messages {
    body: Incoming,
    buffer: BytesMut,
    is_over: bool,
}

impl Messages {
    fn of(answer: Response<Incoming>) -> Result<Self, Failure> {
        if !answer.status().is_success() {
            return Err(Failure::Lost(format!("nobody who speaks gRPC answers there: HTTP status {}", answer.status())));
        }
        verdict(answer.headers())?;
        Ok(Self { body: answer.into_body(), buffer: BytesMut::new(), is_over: false })
    }

    /// The next message; `None` at the end of them.
    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Failure> {
        loop {
            if let Some(message) = cut(&mut self.buffer)? {
                return A::decode(message).map(Some).map_err(|e| Failure::Lost(e.to_string()));
            }
            if self.is_over {
                return Ok(None);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        match self.body.frame().await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => frame.trailers_ref().map_or(Ok(()), verdict)?,
            },
            Some(Err(error)) => return Err(Failure::Lost(error.to_string())),
            None => self.is_over = true,
        }
        Ok(())
    }

    /// Reads to the end.
    async fn end(&mut self) -> Result<(), Failure> {
        while !self.is_over {
            self.fill().await?;
        }
        Ok(())
    }
}

/// Takes one whole message off the front.
fn cut(buffer: &mut BytesMut) -> Result<Option<Bytes>, Failure> {
    if buffer.len() < PREFIX_BYTES {
        return Ok(None);
    }
    let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
    if buffer[0] != 0 || length > MESSAGE_BYTES_MAX {
        return Err(Failure::Lost("a message is compressed or too long".into()));
    }
    if buffer.len() < PREFIX_BYTES + length {
        buffer.reserve(PREFIX_BYTES + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// What the headers or trailers say of the call.
fn verdict(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err(Failure::Refused { code: code.parse().unwrap_or(2), message: percent_decoded(text("grpc-message").unwrap_or_default()) }),
    }
}

/// gRPC writes what is not printable as `%XX`.
fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.get(..2)).flatten().and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        out.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_scheme_host_and_port() {
        let endpoint = |is_tls, host: &str, port| Ok(Endpoint { is_tls, host: host.into(), port });
        assert_eq!(Endpoint::parse("https://etcd.example.com:2380/"), endpoint(true, "etcd.example.com", 2380));
        assert_eq!(Endpoint::parse("http://127.0.0.1"), endpoint(false, "127.0.0.1", 2379));
        assert_eq!(Endpoint::parse("https://[::1]:1").unwrap().authority(), "[::1]:1");
        assert!(Endpoint::parse("unix:///x").is_err() && Endpoint::parse("127.0.0.1:2379").is_err());
    }

    #[test]
    fn messages_are_cut_out_of_a_stream_wherever_it_breaks() {
        let message = crate::etcd::message::LeaseGrantRequest { ttl: 77 };
        let all = [framed(&message), framed(&message)].concat();
        for at in 0..all.len() {
            let mut buffer = BytesMut::from(&all[..at]);
            let mut seen = Vec::new();
            for rest in [&all[at..], &[]] {
                while let Some(m) = cut(&mut buffer).unwrap() {
                    seen.push(crate::etcd::message::LeaseGrantRequest::decode(m).unwrap());
                }
                buffer.extend_from_slice(rest);
            }
            assert_eq!(seen, [message.clone(), message.clone()], "broken at {at}");
        }
        assert!(cut(&mut BytesMut::from(&[1, 0, 0, 0, 0][..])).is_err());
    }

    #[test]
    fn a_refusal_is_told_in_etcds_words() {
        let headers: HeaderMap = [("grpc-status", "8"), ("grpc-message", "etcdserver: mvcc: database space exceeded%21")]
            .into_iter()
            .map(|(k, v)| (http::HeaderName::from_static(k), v.parse().unwrap()))
            .collect();
        let failure = verdict(&headers).unwrap_err();
        assert_eq!(failure.to_string(), "etcdserver: mvcc: database space exceeded!");
        assert!(failure.is_no_space() && !failure.is_of_the_member());
    }
}
