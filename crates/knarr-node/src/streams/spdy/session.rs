//! A session: the streams of one connection, as the server sees them. One task reads frames, one writes them.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::frame::{Decoder, Encoder, Frame, Headers};
use crate::streams::pieces::{self, Reader};
use crate::streams::{CHUNK_BYTES_MAX, PIECES_WAITING_MAX};

/// Streams that a client may have open at once.
const STREAMS_MAX: usize = 1000;
/// Frames that wait to be written.
const FRAMES_WAITING_MAX: usize = 64;
/// How long a finished connection waits for the client to close its side, so that the last data is not lost to a reset.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

const RST_REFUSED_STREAM: u32 = 3;
const RST_CANCEL: u32 = 5;

/// A stream that the client has opened.
pub struct Accepted {
    pub id: u32,
    pub headers: Headers,
    pub reader: Reader,
    pub writer: Writer,
}

impl Accepted {
    /// A header's value; names are written in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What is sent to the client on a stream. Shutting it down ends our half.
pub struct Writer {
    id: u32,
    frames: PollSender<Frame>,
    ended: Arc<AtomicBool>,
}

/// Ends our half of a stream whose writer is somewhere else, unless it has been ended already.
pub struct Ender {
    id: u32,
    frames: mpsc::WeakSender<Frame>,
    ended: Arc<AtomicBool>,
}

impl Ender {
    pub async fn end(self) {
        if let Some(frames) = self.frames.upgrade().filter(|_| !self.ended.swap(true, Ordering::SeqCst)) {
            // A connection that has ended needs no end of streams.
            drop(frames.send(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await);
        }
    }
}

impl Writer {
    fn gone() -> io::Error {
        io::ErrorKind::BrokenPipe.into()
    }

    pub fn ender(&self) -> Option<Ender> {
        Some(Ender { id: self.id, frames: self.frames.get_ref()?.downgrade(), ended: self.ended.clone() })
    }

    /// Breaks the stream off.
    pub async fn reset(self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(frames) = self.frames.get_ref() {
            // A connection that has ended needs no reset.
            drop(frames.send(Frame::Reset { id: self.id, status: RST_CANCEL }).await);
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended.load(Ordering::SeqCst) {
            return Poll::Ready(Err(Self::gone()));
        }
        ready!(self.frames.poll_reserve(cx)).map_err(|_| Self::gone())?;
        let n = data.len().min(CHUNK_BYTES_MAX);
        let frame = Frame::Data { id: self.id, fin: false, data: Bytes::copy_from_slice(&data[..n]) };
        self.frames.send_item(frame).map_err(|_| Self::gone())?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended.load(Ordering::SeqCst) {
            ready!(self.frames.poll_reserve(cx)).map_err(|_| Self::gone())?;
            let frame = Frame::Data { id: self.id, fin: true, data: Bytes::new() };
            self.frames.send_item(frame).map_err(|_| Self::gone())?;
            self.ended.store(true, Ordering::SeqCst);
        }
        Poll::Ready(Ok(()))
    }
}

/// The streams of one connection. Dropping it lets what is written go out, then closes the connection.
pub struct Session {
    accepted: mpsc::Receiver<Accepted>,
    frames: mpsc::Sender<Frame>,
}

impl Session {
    /// Takes over an upgraded connection.
    pub fn start<S: AsyncRead + AsyncWrite + Send + 'static>(connection: S) -> Self {
        let (read, write) = tokio::io::split(connection);
        let (frames, to_write) = mpsc::channel(FRAMES_WAITING_MAX);
        let (accept, accepted) = mpsc::channel(PIECES_WAITING_MAX);
        // The reader must not keep the writer alive: the connection ends when nobody wants to write any more.
        let answers = frames.downgrade();
        tokio::spawn(async move {
            let reading = tokio::spawn(read_frames(read, accept, answers));
            if let Err(error) = write_frames(write, to_write).await {
                tracing::debug!(%error, "a SPDY connection was cut");
                reading.abort();
            } else if tokio::time::timeout(LINGER, reading).await.is_err() {
                tracing::debug!("a SPDY client did not close its side");
            }
        });
        Self { accepted, frames }
    }

    /// The next stream that the client opens; `None` when it has gone.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.accepted.recv().await
    }

    /// Says that no more streams will be served.
    pub async fn go_away(self) {
        // A client that has gone needs no farewell.
        drop(self.frames.send(Frame::GoAway { last: 0 }).await);
    }
}

async fn write_frames(mut write: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) -> io::Result<()> {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    while let Some(frame) = frames.recv().await {
        encoder.encode(&frame, &mut out).map_err(io::Error::other)?;
        while let Ok(more) = frames.try_recv() {
            encoder.encode(&more, &mut out).map_err(io::Error::other)?;
            if out.len() > CHUNK_BYTES_MAX {
                break;
            }
        }
        write.write_all(&out).await?;
        write.flush().await?;
        out.clear();
    }
    write.shutdown().await
}

async fn read_frames(mut read: impl AsyncRead + Unpin, accept: mpsc::Sender<Accepted>, answers: mpsc::WeakSender<Frame>) {
    let (mut decoder, mut input) = (Decoder::default(), BytesMut::with_capacity(CHUNK_BYTES_MAX));
    let mut incoming = Incoming { streams: BTreeMap::new(), accept: Some(accept), answers };
    loop {
        match decoder.decode(&mut input) {
            Ok(Some(frame)) => incoming.take(frame).await,
            Ok(None) => match read.read_buf(&mut input).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(error) => return tracing::debug!(%error, "a client does not speak SPDY"),
        }
    }
}

struct Incoming {
    streams: BTreeMap<u32, mpsc::Sender<Bytes>>,
    /// Gone when the session does not want any more streams.
    accept: Option<mpsc::Sender<Accepted>>,
    answers: mpsc::WeakSender<Frame>,
}

impl Incoming {
    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { id, fin, headers } => self.open(id, fin, headers).await,
            Frame::Data { id, fin, data } => {
                if let Some(pieces) = self.streams.get(&id)
                    && !data.is_empty()
                    && pieces.send(data).await.is_err()
                {
                    // Nobody reads this stream any more: what still comes is passed over.
                    self.streams.remove(&id);
                }
                if fin {
                    self.streams.remove(&id);
                }
            }
            Frame::Reset { id, .. } => drop(self.streams.remove(&id)),
            // A ping of ours would have an even id; there is none.
            Frame::Ping { id } if id % 2 == 1 => self.answer(Frame::Ping { id }).await,
            Frame::GoAway { .. } => self.accept = None,
            Frame::Headers { id, fin: true, .. } => drop(self.streams.remove(&id)),
            _ => {}
        }
    }

    async fn answer(&self, frame: Frame) {
        if let Some(answers) = self.answers.upgrade() {
            drop(answers.send(frame).await);
        }
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) {
        let (Some(accept), Some(frames)) = (&self.accept, self.answers.upgrade()) else { return };
        if id.is_multiple_of(2) || self.streams.contains_key(&id) || self.streams.len() >= STREAMS_MAX {
            return self.answer(Frame::Reset { id, status: RST_REFUSED_STREAM }).await;
        }
        drop(frames.send(Frame::SynReply { id, fin: false, headers: Vec::new() }).await);
        let (sender, reader) = pieces::channel();
        let writer = Writer { id, frames: PollSender::new(frames), ended: Arc::default() };
        if accept.send(Accepted { id, headers, reader, writer }).await.is_err() {
            self.accept = None;
        } else if !fin {
            self.streams.insert(id, sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's end: writes frames, reads frames.
    struct Client {
        io: tokio::io::DuplexStream,
        encoder: Encoder,
        decoder: Decoder,
        input: BytesMut,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            let mut out = BytesMut::new();
            self.encoder.encode(&frame, &mut out).unwrap();
            self.io.write_all(&out).await.unwrap();
        }

        async fn receive(&mut self) -> Option<Frame> {
            loop {
                if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                    return Some(frame);
                }
                if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                    return None;
                }
            }
        }
    }

    fn pair() -> (Client, Session) {
        let (near, far) = tokio::io::duplex(4096);
        (Client { io: near, encoder: Encoder::default(), decoder: Decoder::default(), input: BytesMut::new() }, Session::start(far))
    }

    #[tokio::test]
    async fn a_stream_carries_data_both_ways_and_ends_half_by_half() {
        let (mut client, mut session) = pair();
        client.send(Frame::SynStream { id: 1, fin: false, headers: vec![("streamtype".into(), "stdin".into())] }).await;
        client.send(Frame::Data { id: 1, fin: false, data: "he".into() }).await;
        client.send(Frame::Data { id: 1, fin: true, data: "llo".into() }).await;
        let mut stream = session.accept().await.unwrap();
        assert_eq!(stream.header("streamType"), Some("stdin"));
        let mut text = String::new();
        stream.reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        stream.writer.write_all(b"bye").await.unwrap();
        stream.writer.shutdown().await.unwrap();
        drop(stream);
        session.go_away().await;
        let mut told = Vec::new();
        while let Some(frame) = client.receive().await {
            told.push(frame);
        }
        let wanted = [
            Frame::SynReply { id: 1, fin: false, headers: vec![] },
            Frame::Data { id: 1, fin: false, data: "bye".into() },
            Frame::Data { id: 1, fin: true, data: "".into() },
            Frame::GoAway { last: 0 },
        ];
        assert_eq!(told, wanted);
    }

    #[tokio::test]
    async fn pings_are_answered_and_a_client_that_leaves_ends_the_session() {
        let (mut client, mut session) = pair();
        client.send(Frame::Ping { id: 1 }).await;
        assert_eq!(client.receive().await, Some(Frame::Ping { id: 1 }));
        drop(client);
        assert!(session.accept().await.is_none());
    }
}
