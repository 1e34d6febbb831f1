//! A connection that lets go of what it was told to write only when whoever wrote is done for now.
//!
//! HTTP/2 flushes after each frame, and each flush is a TLS record, a system call and a wake-up of the client: a change that a hundred watchers
//! of one client are told costs a hundred of them. Here the frames of one turn of the connection go out together.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::streams::Streams;

/// Most bytes that wait for the end of a turn: four TLS records, and all that rustls takes at once.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// A buffer that has grown above this is given back once it is empty: most connections are silent most of the time.
const IDLE_BYTES_MAX: usize = 4 * 1024;

/// While a client acknowledges what it was told, so many bytes of it wake the connection: seven frames of a window each in a TLS record of its own, or the
/// headers and the body of a request.
const VOLLEY_BYTES: u16 = 256;

/// What connections run over.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// See [`knarr_sys::socket::wake_at`].
    fn wake_at(&self, bytes: u16) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn wake_at(&self, bytes: u16) -> io::Result<()> {
        knarr_sys::socket::wake_at(self, bytes)
    }
}

impl<S: Wire> Wire for TlsStream<S> {
    fn wake_at(&self, bytes: u16) -> io::Result<()> {
        self.get_ref().0.wake_at(bytes)
    }
}

/// A stream whose writes are held back while [`Turns::run`] runs those who write. At all other times it hands on everything at once.
pub struct Cork<S> {
    shared: Arc<Mutex<Shared<S>>>,
}

/// What the turns of a connection know of its stream.
pub struct Turns<S> {
    shared: Arc<Mutex<Shared<S>>>,
}

struct Shared<S> {
    stream: S,
    held: Vec<u8>,
    /// How much of `held` is written.
    written: usize,
    /// The stream itself may still hold bytes.
    unflushed: bool,
    in_turn: bool,
    /// A volley is expected.
    in_volley: bool,
}

/// Splits a stream into the end that a connection writes to, and the end that lets it go.
pub fn cork<S>(stream: S) -> (Cork<S>, Turns<S>) {
    let shared = Arc::new(Mutex::new(Shared { stream, held: Vec::new(), written: 0, unflushed: false, in_turn: false, in_volley: false }));
    (Cork { shared: shared.clone() }, Turns { shared })
}

impl<S: Wire> Turns<S> {
    /// Runs a connection that writes to the [`Cork`], and its streams: first those who have something to say, then the connection that says it, and so
    /// on until all are quiet. Without streams it is left alone.
    pub async fn run<F: Future>(&self, connection: F, streams: Option<&mut Streams>) -> F::Output {
        let Some(streams) = streams else { return connection.await };
        let mut connection = pin!(connection);
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        poll_fn(|task| {
            bell.task.register(task.waker());
            let cx = &mut Context::from_waker(&waker);
            let polled = self.turn(&bell, cx, |cx| {
                streams.poll(cx);
                let polled = connection.as_mut().poll(cx);
                // Those that have begun by it.
                streams.poll(cx);
                polled
            });
            // What cannot be written now wakes this task when it can; that the stream is broken is told to whoever uses it next.
            let mut shared = self.shared.lock();
            let _ = shared.poll_let_go(cx);
            shared.expect_volley(streams.expects_volley());
            drop(shared);
            polled
        })
        .await
    }

    /// Goes through the connection until nobody was woken by it any more.
    fn turn<T>(&self, bell: &Bell, cx: &mut Context<'_>, mut round: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.shared.lock().in_turn = true;
        let mut polled = Poll::Pending;
        for _ in 0..ROUNDS_MAX {
            bell.state.store(RUNNING, SeqCst);
            polled = round(cx);
            if polled.is_ready() || bell.state.compare_exchange(RUNNING, IDLE, SeqCst, SeqCst).is_ok() {
                break;
            }
        }
        if bell.state.swap(IDLE, SeqCst) == RUNG {
            bell.task.wake();
        }
        self.shared.lock().in_turn = false;
        polled
    }
}

/// How often a connection that wakes itself is gone through before others come first.
const ROUNDS_MAX: usize = 4;

/// Wakes the task of a connection; but while it runs, only notes that it shall go on. Streams and connection wake each other with each frame, and a task
/// that is woken while it runs is put in the queue of all, where another thread is called for it.
#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
/// Woken while it ran, or about to run.
const RUNG: u8 = 2;

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, SeqCst) == IDLE {
            self.task.wake();
        }
    }
}

impl<S: Wire> Shared<S> {
    fn expect_volley(&mut self, expected: bool) {
        if std::mem::replace(&mut self.in_volley, expected) != expected {
            // Where it cannot be set, each frame wakes as ever.
            let _ = self.stream.wake_at(if expected { VOLLEY_BYTES } else { 1 });
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shared<S> {
    /// Writes all that is held.
    fn poll_let_go(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
            self.unflushed = true;
        }
        self.written = 0;
        self.held.clear();
        if self.held.capacity() > IDLE_BYTES_MAX {
            self.held = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wanted: usize = parts.iter().map(|p| p.len()).sum();
        if self.in_turn && self.held.len() + wanted <= HELD_BYTES_MAX {
            parts.iter().for_each(|p| self.held.extend_from_slice(p));
            return Poll::Ready(Ok(wanted));
        }
        ready!(self.poll_let_go(cx))?;
        if self.in_turn && wanted <= HELD_BYTES_MAX {
            return self.poll_write(cx, parts);
        }
        self.unflushed = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.shared.lock().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_write(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_write(cx, bufs)
    }

    /// No: HTTP/2 then puts small frames into one buffer, instead of handing on each by itself.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        if shared.in_turn { Poll::Ready(Ok(())) } else { shared.poll_let_go(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        ready!(shared.poll_let_go(cx))?;
        Pin::new(&mut shared.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::streams::{Begun, unhurried};
    use hyper::rt::Executor;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    impl Wire for DuplexStream {
        fn wake_at(&self, _: u16) -> io::Result<()> {
            Ok(())
        }
    }

    /// A stream that counts what reaches it.
    struct Counted<S> {
        stream: S,
        writes: Arc<Mutex<Vec<usize>>>,
        wakes_at: Arc<Mutex<Vec<u16>>>,
    }

    impl<S> Counted<S> {
        fn new(stream: S) -> Self {
            Self { stream, writes: Arc::default(), wakes_at: Arc::default() }
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
            self.writes.lock().push(written);
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> Wire for Counted<S> {
        fn wake_at(&self, bytes: u16) -> io::Result<()> {
            self.wakes_at.lock().push(bytes);
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_volley_wakes_the_connection_less_often_and_what_comes_later_as_ever() {
        let (near, _far) = tokio::io::duplex(64);
        let near = Counted::new(near);
        let wakes_at = near.wakes_at.clone();
        let (_near, turns) = cork(near);
        let begun = Begun::kept();
        // Each tells of one change.
        for _ in 0..100 {
            begun.execute(poll_fn(|_| unhurried(Poll::Ready(()))));
        }
        turns.run(tokio::time::sleep(std::time::Duration::from_millis(20)), Some(&mut Streams::new(begun))).await;
        assert_eq!(*wakes_at.lock(), [VOLLEY_BYTES, 1]);
    }

    async fn say(cork: &mut (impl AsyncWrite + Unpin), text: &[u8]) {
        cork.write_all(text).await.unwrap();
        cork.flush().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_said_in_one_turn_goes_out_in_one_piece() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let near = Counted::new(near);
        let writes = near.writes.clone();
        let (mut near, turns) = cork(near);
        let connection = async {
            for text in [b"a", b"b", b"c"] {
                say(&mut near, text).await;
            }
            tokio::task::yield_now().await;
            say(&mut near, b"d").await;
        };
        turns.run(connection, Some(&mut Streams::new(Begun::kept()))).await;
        assert_eq!(*writes.lock(), [3, 1]);
        say(&mut near, b"e").await;
        say(&mut near, b"f").await;
        assert_eq!(*writes.lock(), [3, 1, 1, 1], "outside of turns nothing waits");
        near.shutdown().await.unwrap();
        let mut got = String::new();
        far.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "abcdef");
    }

    #[tokio::test]
    async fn a_reader_who_is_slow_gets_everything_and_holds_the_writer_up() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut near, turns) = cork(near);
        let said: Vec<u8> = (0..3 * HELD_BYTES_MAX).map(|i| (i % 251) as u8).collect();
        let connection = async {
            for part in said.chunks(777) {
                say(&mut near, part).await;
            }
            near.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let mut streams = Streams::new(Begun::kept());
        let (_, read) = tokio::join!(turns.run(connection, Some(&mut streams)), far.read_to_end(&mut got));
        read.unwrap();
        assert!(got == said);
    }

    #[tokio::test]
    async fn a_connection_goes_on_as_long_as_it_is_woken_and_lets_others_in_between() {
        let (near, far) = tokio::io::duplex(64);
        let (_near, turns) = cork(near);
        let (order, begun) = (Mutex::new(Vec::new()), Begun::kept());
        let woken = AtomicU8::new(0);
        begun.execute(async {
            tokio::task::yield_now().await;
        });
        let connection = poll_fn(|cx| {
            order.lock().push("connection");
            if woken.fetch_add(1, SeqCst) == 2 * ROUNDS_MAX as u8 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let mut streams = Streams::new(begun.clone());
        tokio::join!(turns.run(connection, Some(&mut streams)), async { order.lock().push("other") });
        let order = order.lock();
        assert_eq!((order.len(), order.iter().position(|o| *o == "other")), (2 * ROUNDS_MAX + 2, Some(ROUNDS_MAX)));
        drop(far);
    }
}
