//! What goes on after an answer. Where a client and a server switch protocols, the answer is sent at once, and they talk on for as long as
//! they like: what counts a request, writes down its end or traces it has to live until then.

use std::{future::Future, sync::Arc};

use http::Response;
use parking_lot::Mutex;

use super::body::{Body, Held};

/// What lives as long as the talk does; it comes along with the answer.
#[derive(Clone, Default)]
struct Talk(Arc<Mutex<Vec<Held>>>);

/// Lets `talk` run after the switch that `answer` tells of.
pub fn talk_on(mut answer: Response<Body>, talk: impl Future<Output = ()> + Send + 'static) -> Response<Body> {
    let held = Talk::default();
    answer.extensions_mut().insert(held.clone());
    tokio::spawn(async move {
        talk.await;
        drop(held);
    });
    answer
}

/// Keeps `held` until the answer is sent or given up, and after a switch of protocols until the talk has ended.
pub fn hold(answer: Response<Body>, held: Held) -> Response<Body> {
    match answer.extensions().get::<Talk>() {
        Some(talk) => talk.0.lock().push(held),
        None => return answer.map(|body| body.holding(held)),
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    /// A held thing, and what tells that it was dropped.
    fn held() -> (Held, oneshot::Receiver<()>) {
        let (sender, dropped) = oneshot::channel();
        (Box::new(sender), dropped)
    }

    #[tokio::test]
    async fn what_is_held_lives_as_long_as_the_answer_or_the_talk_after_it() {
        let (first, mut dropped) = held();
        let answer = hold(Response::new(Body::empty()), first);
        assert!(dropped.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        drop(answer);
        assert!(dropped.await.is_err(), "it goes with the answer");

        let (second, mut dropped) = held();
        let (end, ended) = oneshot::channel::<()>();
        let answer = talk_on(Response::new(Body::empty()), async { drop(ended.await) });
        drop(hold(answer, second));
        assert!(dropped.try_recv() == Err(oneshot::error::TryRecvError::Empty), "the answer is sent, and the talk goes on");
        drop(end);
        assert!(dropped.await.is_err(), "it goes with the talk");
    }
}
