//! Streams over a WebSocket: the first byte of each message names its channel (upstream: `httpstream/wsstream`). In the
//! `base64` protocols messages are text: a digit, then base64. With `v5` a message of channel 255 closes the channel it names.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::PollSender;

use super::pieces::{self, Reader};
use super::{CHUNK_BYTES_MAX, PIECES_WAITING_MAX};

/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
const CLOSE_CHANNEL: u8 = 255;

/// A subprotocol of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: &'static str,
    pub base64: bool,
    /// The last status is JSON (`v4` and later); before it was text.
    pub json_status: bool,
}

/// For commands, the newest first. A client that names none gets the last one, without a name.
pub const COMMAND_PROTOCOLS: [Protocol; 6] = [
    Protocol { name: "v5.channel.k8s.io", base64: false, json_status: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, json_status: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, json_status: true },
    Protocol { name: "channel.k8s.io", base64: false, json_status: false },
    Protocol { name: "base64.channel.k8s.io", base64: true, json_status: false },
    Protocol { name: "", base64: false, json_status: false },
];

/// For ports.
pub const FORWARD_PROTOCOLS: [Protocol; 3] = [
    Protocol { name: "v4.channel.k8s.io", base64: false, json_status: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, json_status: true },
    Protocol { name: "", base64: false, json_status: false },
];

/// SPDY for ports, carried by binary messages.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The first protocol that the client names and we speak; without any name the nameless one.
pub fn negotiate(asked: &[String], spoken: &[Protocol]) -> Option<Protocol> {
    if asked.is_empty() {
        return spoken.iter().copied().find(|p| p.name.is_empty());
    }
    asked.iter().find_map(|name| spoken.iter().copied().find(|p| !p.name.is_empty() && p.name == name))
}

async fn open<S: AsyncRead + AsyncWrite + Unpin>(connection: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// A WebSocket's channels.
pub struct Channels {
    readers: BTreeMap<u8, Reader>,
    messages: mpsc::Sender<Message>,
    base64: bool,
    closed: watch::Receiver<bool>,
}

impl Channels {
    /// Takes over an upgraded connection. Only the channels in `inputs` can be read; what comes on others is passed over.
    pub async fn start<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(connection: S, protocol: Protocol, inputs: &[u8]) -> Self {
        let (senders, readers): (BTreeMap<_, _>, BTreeMap<_, _>) = inputs
            .iter()
            .map(|channel| {
                let (sender, reader) = pieces::channel();
                ((*channel, sender), (*channel, reader))
            })
            .unzip();
        let (messages, to_write) = mpsc::channel(PIECES_WAITING_MAX);
        let (closing, closed) = watch::channel(false);
        let (sink, stream) = open(connection).await.split();
        tokio::spawn(write_messages(sink, to_write, closed.clone()));
        tokio::spawn(read_messages(stream, senders, protocol.base64, Arc::new(closing)));
        Self { readers, messages, base64: protocol.base64, closed }
    }

    /// The reading end of a channel, once.
    pub fn reader(&mut self, channel: u8) -> Option<Reader> {
        self.readers.remove(&channel)
    }

    pub fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { channel, base64: self.base64, messages: PollSender::new(self.messages.clone()) }
    }

    /// Sends one message on a channel as it is, even an empty one.
    pub async fn send(&self, channel: u8, data: &[u8]) {
        // A client that has gone hears nothing.
        drop(self.messages.send(message(channel, data, self.base64)).await);
    }

    /// Waits until the client has gone.
    pub async fn closed(&self) {
        drop(self.closed.clone().wait_for(|closed| *closed).await);
    }

    /// Ends the connection after all that has been written. Clients take an end without the normal code for a failure.
    pub async fn close(self) {
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        drop(self.messages.send(Message::Close(Some(normal))).await);
    }
}

fn message(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(data)));
    }
    let mut all = Vec::with_capacity(data.len() + 1);
    all.push(channel);
    all.extend_from_slice(data);
    Message::binary(all)
}

async fn write_messages<S>(
    mut sink: futures::stream::SplitSink<WebSocketStream<S>, Message>,
    mut messages: mpsc::Receiver<Message>,
    mut closed: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let client_left = async move { drop(closed.wait_for(|c| *c).await) };
    tokio::pin!(client_left);
    loop {
        let next = tokio::select! {
            next = messages.recv() => next,
            () = &mut client_left => return,
        };
        let Some(next) = next else { break };
        if let Err(error) = sink.send(next).await {
            return tracing::debug!(%error, "a WebSocket was cut");
        }
    }
    if let Err(error) = sink.close().await {
        tracing::debug!(%error, "a WebSocket was not closed in form");
    }
}

async fn read_messages<S>(
    mut stream: futures::stream::SplitStream<WebSocketStream<S>>,
    mut senders: BTreeMap<u8, mpsc::Sender<Bytes>>,
    base64: bool,
    closing: Arc<watch::Sender<bool>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        let Some((channel, data)) = payload(message, base64) else { continue };
        if channel == CLOSE_CHANNEL {
            data.first().map(|named| senders.remove(named));
            continue;
        }
        if let Some(sender) = senders.get(&channel)
            && !data.is_empty()
            && sender.send(data).await.is_err()
        {
            senders.remove(&channel);
        }
    }
    closing.send_replace(true);
}

/// The channel and the bytes of a message. As upstream does, it is taken as text and as binary data: Python's client sends text in both.
fn payload(message: Message, base64: bool) -> Option<(u8, Bytes)> {
    let mut data = match message {
        Message::Binary(data) => data,
        Message::Text(text) => text.into(),
        _ => return None,
    };
    if data.is_empty() {
        return None;
    }
    let rest = data.split_off(1);
    if base64 { Some((data[0].checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into())) } else { Some((data[0], rest)) }
}

/// What is sent to the client on a channel. A channel has no end of its own; the connection has.
pub struct ChannelWriter {
    channel: u8,
    base64: bool,
    messages: PollSender<Message>,
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.messages.poll_reserve(cx)).map_err(gone)?;
        let n = data.len().min(CHUNK_BYTES_MAX);
        let message = message(self.channel, &data[..n], self.base64);
        self.messages.send_item(message).map_err(gone)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A WebSocket whose binary messages are nothing but a stream of bytes.
pub async fn tunnel<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(connection: S) -> DuplexStream {
    let (near, far) = tokio::io::duplex(CHUNK_BYTES_MAX);
    let (mut sink, mut stream) = open(connection).await.split();
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(data) = message
                && write.write_all(&data).await.is_err()
            {
                return;
            }
        }
        // The other end sees the end of the stream.
        drop(write.shutdown().await);
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            if sink.send(Message::binary(buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
        if let Err(error) = sink.close().await {
            tracing::debug!(%error, "a WebSocket was not closed in form");
        }
    });
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn client(far: DuplexStream) -> WebSocketStream<DuplexStream> {
        WebSocketStream::from_raw_socket(far, Role::Client, None).await
    }

    #[tokio::test]
    async fn messages_go_to_the_channel_that_they_name() {
        let (near, far) = tokio::io::duplex(4096);
        let mut client = client(far).await;
        let mut channels = Channels::start(near, COMMAND_PROTOCOLS[0], &[0, 4]).await;
        client.send(Message::binary(b"\x00hello".to_vec())).await.unwrap();
        client.send(Message::binary(b"\x07nobody".to_vec())).await.unwrap();
        client.send(Message::text("\x00 world")).await.unwrap();
        client.send(Message::binary(vec![255, 0])).await.unwrap();
        let mut text = String::new();
        channels.reader(0).unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
        channels.writer(1).write_all(b"bye").await.unwrap();
        channels.send(3, b"").await;
        channels.close().await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"\x01bye".to_vec()));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(b"\x03".to_vec()));
        assert!(client.next().await.unwrap().unwrap().is_close());
    }

    #[tokio::test]
    async fn base64_protocols_speak_text() {
        let (near, far) = tokio::io::duplex(4096);
        let mut client = client(far).await;
        let mut channels = Channels::start(near, COMMAND_PROTOCOLS[2], &[0]).await;
        client.send(Message::text("0aGk=")).await.unwrap();
        client.send(Message::binary(b"0IQ==".to_vec())).await.unwrap();
        client.close(None).await.unwrap();
        let mut text = String::new();
        channels.reader(0).unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hi!");
        channels.closed().await;
    }

    #[test]
    fn the_clients_order_of_protocols_counts() {
        let asked = |names: &[&str]| negotiate(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), &COMMAND_PROTOCOLS).map(|p| p.name);
        assert_eq!(asked(&["v9", "v4.channel.k8s.io", "v5.channel.k8s.io"]), Some("v4.channel.k8s.io"));
        assert_eq!((asked(&[]), asked(&["v9"])), (Some(""), None));
    }
}
