//! The streams of an HTTP/2 connection, run by the connection's own task.
//!
//! A stream does little but hand on what it is given, and a change that a hundred watches of one client are told wakes a hundred of them. As tasks of
//! their own each would have to be scheduled, perhaps by another thread, only to wait for the lock under which the connection writes. Here they
//! are polled one after the other by whoever writes next. An answer that takes a moment only is made here too; what works longer for it has a task of
//! its own ([`Answer`]).

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture, task::AtomicWaker};
use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio_util::task::AbortOnDropHandle;

/// How long streams are polled before the connection may write.
const TURN_MAX: Duration = Duration::from_millis(1);

/// Where hyper puts the streams that begin.
#[derive(Clone, Default)]
pub struct Begun(Option<Arc<Mutex<Vec<BoxFuture<'static, ()>>>>>);

impl Begun {
    /// For a connection that runs its streams by [`Streams`].
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    fn take(&self) -> Vec<BoxFuture<'static, ()>> {
        self.0.as_ref().map_or_else(Vec::new, |begun| std::mem::take(&mut *begun.lock()))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, stream: F) {
        match &self.0 {
            // A panic ends the stream and not the connection, as it would a task.
            Some(begun) => begun.lock().push(AssertUnwindSafe(stream).catch_unwind().map(drop).boxed()),
            None => drop(tokio::spawn(stream)),
        }
    }
}

/// The streams that a connection runs.
///
/// Not a `FuturesUnordered`: that one ends its turn with the second future that woke itself, and HTTP/2 wakes each stream that writes.
pub struct Streams {
    begun: Begun,
    ready: Arc<Ready>,
    running: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Those that are polled now; kept for its memory.
    turn: Vec<usize>,
}

struct Stream {
    future: BoxFuture<'static, ()>,
    waker: Waker,
    woken: Arc<Woken>,
}

/// Which streams were woken, and who is to be told.
#[derive(Default)]
struct Ready {
    places: Mutex<Vec<usize>>,
    connection: AtomicWaker,
}

/// Wakes one stream.
struct Woken {
    place: usize,
    is_ready: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_ready.swap(true, SeqCst) {
            return;
        }
        let mut places = self.ready.places.lock();
        places.push(self.place);
        let is_first = places.len() == 1;
        drop(places);
        // Who has woken the first of them has woken the connection for all.
        if is_first {
            self.ready.connection.wake();
        }
    }
}

impl Streams {
    pub fn new(begun: Begun) -> Self {
        Self { begun, ready: Arc::default(), running: Vec::new(), free: Vec::new(), turn: Vec::new() }
    }

    /// Polls those that have begun or were woken, each once. When that takes long, what is said already goes out before the rest.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        self.ready.connection.register(cx.waker());
        for future in self.begun.take() {
            self.start(future);
        }
        std::mem::swap(&mut *self.ready.places.lock(), &mut self.turn);
        let began = Instant::now();
        for at in 0..self.turn.len() {
            if began.elapsed() > TURN_MAX {
                self.ready.places.lock().extend_from_slice(&self.turn[at..]);
                cx.waker().wake_by_ref();
                break;
            }
            self.poll_one(self.turn[at]);
        }
        self.turn.clear();
    }

    fn start(&mut self, future: BoxFuture<'static, ()>) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.running.push(None);
            self.running.len() - 1
        });
        let woken = Arc::new(Woken { place, is_ready: AtomicBool::new(true), ready: self.ready.clone() });
        self.running[place] = Some(Stream { future, waker: woken.clone().into(), woken });
        self.ready.places.lock().push(place);
    }

    fn poll_one(&mut self, place: usize) {
        // One that has ended may have been woken since.
        let Some(stream) = &mut self.running[place] else { return };
        if !stream.woken.is_ready.swap(false, SeqCst) {
            return;
        }
        if stream.future.poll_unpin(&mut Context::from_waker(&stream.waker)).is_ready() {
            self.running[place] = None;
            self.free.push(place);
        }
    }
}

/// What a task of its own answers. Dropped before, it is given up, as is the request that nobody waits for.
pub struct Answer<T>(AbortOnDropHandle<T>);

impl<T: Send + 'static> Answer<T> {
    pub fn of(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(AbortOnDropHandle::new(tokio::spawn(work)))
    }
}

impl<T> Future for Answer<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(self.0.poll_unpin(cx)) {
            Ok(answer) => Poll::Ready(answer),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and with it this connection.
                Err(_) => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures::task::{ArcWake, waker};
    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Self>) {
            woken.0.fetch_add(1, SeqCst);
        }
    }

    /// Where streams begin, who runs them, and how often that one was woken.
    fn connection() -> (Begun, Streams, Arc<Woken>) {
        let begun = Begun::kept();
        (begun.clone(), Streams::new(begun), Arc::default())
    }

    #[test]
    fn streams_run_when_they_are_woken_and_wake_their_connection_once() {
        let (begun, mut streams, woken) = connection();
        let waker = waker(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        streams.poll(cx);
        let told = Arc::new(AtomicUsize::new(0));
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let (sender, receiver) = oneshot::channel::<usize>();
                let told = told.clone();
                begun.execute(async move {
                    if let Ok(n) = receiver.await {
                        told.fetch_add(n, SeqCst);
                    }
                });
                sender
            })
            .collect();
        begun.execute(async { panic!("of one stream") });
        streams.poll(cx);
        assert_eq!((woken.0.load(SeqCst), streams.running.iter().flatten().count()), (0, 3));
        senders.into_iter().enumerate().for_each(|(n, s)| s.send(n + 1).unwrap());
        assert_eq!((woken.0.load(SeqCst), told.load(SeqCst)), (1, 0));
        streams.poll(cx);
        assert_eq!((told.load(SeqCst), streams.running.iter().flatten().count()), (6, 0));
        begun.execute(async {});
        streams.poll(cx);
        assert!(streams.running.iter().flatten().count() == 0);
    }

    #[test]
    fn streams_that_take_long_let_the_connection_write_in_between() {
        let (begun, mut streams, woken) = connection();
        let waker = waker(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        for _ in 0..3 {
            begun.execute(async {
                let began = Instant::now();
                while began.elapsed() <= TURN_MAX {}
            });
        }
        for left in [2, 1, 0] {
            streams.poll(cx);
            assert_eq!((streams.running.iter().flatten().count(), woken.0.load(SeqCst)), (left, 3 - left.max(1)));
        }
    }

    #[tokio::test]
    async fn an_answer_that_nobody_waits_for_is_given_up() {
        let (kept, mut given_up) = oneshot::channel::<()>();
        let answer = Answer::of(async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        });
        assert!(given_up.try_recv().is_err());
        drop(answer);
        assert!(given_up.await.is_err());
        assert_eq!(Answer::of(async { 7 }).await, 7);
    }
}
