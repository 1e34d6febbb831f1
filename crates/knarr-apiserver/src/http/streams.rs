//! The streams of an HTTP/2 connection, run by the connection's own task.
//!
//! A stream does little but hand on what it is given, and a change that a hundred watches of one client are told wakes a hundred of them. As tasks of
//! their own each would have to be scheduled, perhaps by another thread, only to wait for the lock under which the connection writes. Here they
//! are polled one after the other by whoever writes next. An answer that takes a moment only is made here too; what works longer for it has a task of
//! its own ([`Answer`]).
//!
//! Changes come in bursts. The first of one is told at once. If many streams were told, the next events wait for each other a few milliseconds: each
//! way through a hundred streams, and each wake-up of the client, then is one for several changes. What it read, the client acknowledges in a volley
//! of small frames, stream by stream; for the first moment of the pause these too wake the connection together ([`Streams::expects_volley`]).

use std::{
    cell::Cell,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture, task::AtomicWaker};
use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tokio_util::task::AbortOnDropHandle;

/// How long streams are polled before the connection may write.
const TURN_MAX: Duration = Duration::from_millis(1);
/// How long the next events wait for others, for each stream that was told one just now.
const PAUSE_FOR_EACH: Duration = Duration::from_micros(40);
/// Nobody waits for less: a client is told of a change by a few watches, which is no work, and may wait for it to make the next one.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The timer makes it up to a millisecond more.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// How long after so many were told the client's acknowledgements may wait for each other; a request without a body that comes in between waits with them. As above,
/// the timer makes it up to a millisecond more.
const VOLLEY: Duration = Duration::from_millis(1);

/// The pause after so many were told.
fn pause_after(told: u32) -> Option<Duration> {
    Some((PAUSE_FOR_EACH * told).min(PAUSE_MAX)).filter(|pause| *pause >= PAUSE_MIN)
}

thread_local! {
    /// What the stream that is polled says of itself.
    static SAID: Cell<Said> = const { Cell::new(Said { told: false, may_wait: false }) };
}

#[derive(Clone, Copy, Default)]
struct Said {
    /// It had an event.
    told: bool,
    /// It waits for the next one, which may wait for others.
    may_wait: bool,
}

/// To be called by a watch with what it answers to a poll: its events may go out together with those of others.
pub fn unhurried<T>(polled: Poll<T>) -> Poll<T> {
    let said = SAID.get();
    SAID.set(if polled.is_ready() { Said { told: true, ..said } } else { Said { may_wait: true, ..said } });
    polled
}

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
    /// How many of the streams that are polled now had events.
    told: u32,
    pause: Option<Pause>,
}

/// What comes after many were told, kept for its memory.
struct Pause {
    /// Until the volley is over, then until all is.
    timer: Pin<Box<Sleep>>,
    ends: Instant,
    in_volley: bool,
}

struct Stream {
    future: BoxFuture<'static, ()>,
    waker: Waker,
    woken: Arc<Woken>,
}

/// Which streams were woken, and who is to be told.
#[derive(Default)]
struct Ready {
    places: Mutex<Places>,
    connection: AtomicWaker,
}

#[derive(Default)]
struct Places {
    now: Vec<usize>,
    /// After the pause.
    later: Vec<usize>,
    is_paused: bool,
}

/// Wakes one stream.
struct Woken {
    place: usize,
    is_ready: AtomicBool,
    may_wait: AtomicBool,
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
        if places.is_paused && self.may_wait.load(SeqCst) {
            places.later.push(self.place);
            return;
        }
        places.now.push(self.place);
        let is_first = places.now.len() == 1;
        drop(places);
        // Who has woken the first of them has woken the connection for all.
        if is_first {
            self.ready.connection.wake();
        }
    }
}

impl Pause {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        if !std::mem::take(&mut self.in_volley) {
            return true;
        }
        self.timer.as_mut().reset(self.ends);
        self.timer.as_mut().poll(cx).is_ready()
    }
}

impl Streams {
    pub fn new(begun: Begun) -> Self {
        Self { begun, ready: Arc::default(), running: Vec::new(), free: Vec::new(), turn: Vec::new(), told: 0, pause: None }
    }

    /// Polls those that have begun or were woken, each once. When that takes long, what is said already goes out before the rest.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        self.ready.connection.register(cx.waker());
        for future in self.begun.take() {
            self.start(future);
        }
        self.end_pause(cx);
        std::mem::swap(&mut self.ready.places.lock().now, &mut self.turn);
        let began = Instant::now();
        for at in 0..self.turn.len() {
            if began.elapsed() > TURN_MAX {
                self.ready.places.lock().now.extend_from_slice(&self.turn[at..]);
                cx.waker().wake_by_ref();
                break;
            }
            self.poll_one(self.turn[at]);
        }
        self.turn.clear();
        if let Some(pause) = pause_after(std::mem::take(&mut self.told)) {
            self.begin_pause(Instant::now() + pause, cx);
        }
    }

    /// Whether the client, having been told much just now, is about to send many small frames.
    pub fn expects_volley(&self) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.in_volley)
    }

    fn begin_pause(&mut self, ends: Instant, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.ready.places.lock().is_paused, true) {
            return;
        }
        let volley_ends = ends.min(Instant::now() + VOLLEY);
        let pause = self.pause.get_or_insert_with(|| Pause { timer: Box::pin(tokio::time::sleep_until(volley_ends)), ends, in_volley: true });
        (pause.ends, pause.in_volley) = (ends, true);
        pause.timer.as_mut().reset(volley_ends);
        if self.end_pause(cx) {
            cx.waker().wake_by_ref();
        }
    }

    /// Whether it is over: then those that were woken meanwhile come next. If not, this task is woken when it is.
    fn end_pause(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else { return false };
        let mut places = self.ready.places.lock();
        if !places.is_paused || !pause.is_over(cx) {
            return false;
        }
        let Places { now, later, is_paused } = &mut *places;
        *is_paused = false;
        now.append(later);
        true
    }

    fn start(&mut self, future: BoxFuture<'static, ()>) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.running.push(None);
            self.running.len() - 1
        });
        let woken = Arc::new(Woken { place, is_ready: AtomicBool::new(true), may_wait: AtomicBool::new(false), ready: self.ready.clone() });
        self.running[place] = Some(Stream { future, waker: woken.clone().into(), woken });
        self.ready.places.lock().now.push(place);
    }

    fn poll_one(&mut self, place: usize) {
        // One that has ended may have been woken since.
        let Some(stream) = &mut self.running[place] else { return };
        if !stream.woken.is_ready.swap(false, SeqCst) {
            return;
        }
        SAID.take();
        let polled = stream.future.poll_unpin(&mut Context::from_waker(&stream.waker));
        let said = SAID.take();
        self.told += u32::from(said.told);
        if polled.is_ready() {
            self.running[place] = None;
            self.free.push(place);
        } else {
            stream.woken.may_wait.store(said.may_wait, SeqCst);
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

    use std::future::poll_fn;

    use futures::{
        StreamExt,
        channel::mpsc,
        task::{ArcWake, waker},
    };
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

    // The clock is paused: a machine under load must not end a turn early.
    #[tokio::test(start_paused = true)]
    async fn streams_run_when_they_are_woken_and_wake_their_connection_once() {
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

    /// Streams that tell what is sent to them.
    fn watches(begun: &Begun, count: usize, told: &Arc<Mutex<Vec<usize>>>) -> Vec<mpsc::UnboundedSender<usize>> {
        let watch = |_| {
            let (sender, mut events) = mpsc::unbounded();
            let told = told.clone();
            begun.execute(async move {
                while let Some(event) = poll_fn(|cx| unhurried(events.poll_next_unpin(cx))).await {
                    told.lock().push(event);
                }
            });
            sender
        };
        (0..count).map(watch).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn once_many_were_told_of_a_change_the_next_ones_go_out_together() {
        let (begun, mut streams, woken) = connection();
        let waker = waker(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        let told = Arc::new(Mutex::new(Vec::new()));
        let watches = watches(&begun, 100, &told);
        let send = |n: usize| watches.iter().for_each(|w| w.unbounded_send(n).unwrap());
        // What was told since, in runs of the same, and how often the connection was woken for it.
        let since = || {
            let told = std::mem::take(&mut *told.lock());
            let runs: Vec<_> = told.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect();
            (runs, woken.0.swap(0, SeqCst))
        };
        streams.poll(cx);
        assert_eq!((since(), streams.expects_volley()), ((vec![], 0), false));
        send(1);
        streams.poll(cx);
        assert_eq!((since(), streams.expects_volley()), ((vec![(1, 100)], 1), true), "the first is told at once");
        watches.iter().for_each(|w| [2, 3].into_iter().for_each(|n| w.unbounded_send(n).unwrap()));
        streams.poll(cx);
        assert_eq!(since(), (vec![], 0), "during the pause nobody is woken");
        let (sender, receiver) = oneshot::channel();
        begun.execute(async { receiver.await.unwrap() });
        streams.poll(cx);
        sender.send(()).unwrap();
        assert_eq!((since(), streams.expects_volley()), ((vec![], 1), true), "a stream that is no watch does not wait");
        tokio::time::advance(VOLLEY).await;
        streams.poll(cx);
        assert_eq!((since(), streams.expects_volley()), ((vec![], 1), false), "the volley is over before the pause is");
        tokio::time::advance(PAUSE_MAX - VOLLEY).await;
        streams.poll(cx);
        assert_eq!((since(), streams.expects_volley()), (([[(2, 1), (3, 1)]; 100].concat(), 1), true));
        tokio::time::advance(PAUSE_MAX).await;
        streams.poll(cx);
        assert!(!streams.expects_volley(), "both are over");
        since();
        send(4);
        streams.poll(cx);
        assert_eq!(since(), (vec![(4, 100)], 1), "nothing came meanwhile: this is a first one again");
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_few_are_told_do_not_wait() {
        let (begun, mut streams, woken) = connection();
        let waker = waker(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        let told = Arc::default();
        let watches = watches(&begun, 10, &told);
        streams.poll(cx);
        for n in 0..5 {
            watches.iter().for_each(|w| w.unbounded_send(n).unwrap());
            streams.poll(cx);
        }
        assert_eq!((told.lock().len(), woken.0.load(SeqCst), streams.expects_volley()), (50, 5, false));
        assert_eq!((pause_after(10), pause_after(100), pause_after(1_000_000)), (None, Some(PAUSE_FOR_EACH * 100), Some(PAUSE_MAX)));
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
