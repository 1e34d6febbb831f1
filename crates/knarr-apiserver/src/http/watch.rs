//! The body of a watch: frames that are encoded once for all watchers who want the same form.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use knarr_core::{Object, Result, api::EventType};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    body::{Body, BoxError},
    negotiate::{Convert, Media},
    streams::unhurried,
};
use crate::{
    catalog::Served,
    encode::{self, Format},
    read::{Shown, Watching},
};

/// Frames that are ready at once go out together, up to this size.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// What is larger when joined is not kept for the next watch.
const SHARED_BYTES_MAX: usize = 16 * 1024;

pub fn body(served: Arc<Served>, watching: Box<Watching>, format: Format) -> Body {
    let form = form(&served, &format);
    let waits = served.asks_a_webhook();
    let frames = Frames { served, watching, format, form, headers: true, ended: false, has_gone_on: false };
    if waits { apart(frames) } else { Body::Stream(Box::pin(frames)) }
}

/// The body of a watch whose frames are made by a task of its own: a webhook is waited for by the thread, and other streams of the connection may
/// be what the webhook waits for.
fn apart(mut frames: Frames) -> Body {
    let (sender, mut receiver) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        while let Some(frame) = frames.next().await
            && sender.send(frame).await.is_ok()
        {}
    });
    Body::Stream(Box::pin(futures::stream::poll_fn(move |cx| receiver.poll_recv(cx)))).holding(Box::new(AbortOnDropHandle::new(task)))
}

/// Says everything that the bytes of an event depend on, but for its type.
fn form(served: &Served, format: &Format) -> u64 {
    let a = &format.accepted;
    let media = match a.media {
        Media::Json | Media::Yaml => 0,
        Media::Protobuf => 1,
        Media::Cbor => 2,
    };
    let convert = match a.convert {
        None => 0,
        Some(Convert::Table) => 1,
        Some(_) => 2,
    };
    let version = u64::from(a.version == "v1beta1");
    u64::from(served.id) << 16 | media << 8 | convert << 6 | version << 5 | (format.include as u64) << 3
}

struct Frames {
    served: Arc<Served>,
    watching: Box<Watching>,
    format: Format,
    form: u64,
    /// The next table shows its columns.
    headers: bool,
    ended: bool,
    /// The last batch was full: others come first.
    has_gone_on: bool,
}

thread_local! {
    /// What was joined last by this thread, and what came of it.
    static JOINED: RefCell<(Vec<Bytes>, Bytes)> = RefCell::default();
}

/// Joins frames. Watches that are told the same one after the other share the result, as they share each frame.
fn joined(frames: Vec<Bytes>) -> Bytes {
    let is_same = |a: &Bytes, b: &Bytes| std::ptr::eq(&raw const **a, &raw const **b);
    JOINED.with_borrow_mut(|(known, joined)| {
        if known.len() == frames.len() && known.iter().zip(&frames).all(|(a, b)| is_same(a, b)) {
            return joined.clone();
        }
        let new = Bytes::from(frames.concat());
        if new.len() <= SHARED_BYTES_MAX {
            (*known, *joined) = (frames, new.clone());
        }
        new
    })
}

impl Frames {
    fn encode(&mut self, shown: Shown) -> Result<Bytes> {
        match shown {
            Shown::Whole(event_type, change) if !self.is_first_table() => {
                let mut failed = None;
                let form = self.form | event_type as u64;
                let frame = change.frame(form, || match self.event(event_type, &change.object()) {
                    Ok(frame) => frame,
                    Err(e) => {
                        failed = Some(e);
                        Bytes::new()
                    }
                });
                failed.map_or(Ok(frame), Err)
            }
            Shown::Whole(event_type, change) => self.event(event_type, &change.object()),
            Shown::Initial(item) => self.event(EventType::Added, &item.object()),
            Shown::Left(object) => self.event(EventType::Deleted, &object),
            Shown::Bookmark(object, _) => self.event(EventType::Bookmark, &object),
        }
    }

    fn is_first_table(&self) -> bool {
        self.headers && self.format.accepted.convert == Some(Convert::Table)
    }

    fn event(&self, event_type: EventType, object: &Object) -> Result<Bytes> {
        encode::event(&self.served, event_type, object, &self.format, self.headers)
    }

    /// The frame of what comes next. An error is told by a frame and ends the watch.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.watching.poll_next(cx));
        let frame = next.map(|shown| shown.and_then(|s| self.encode(s)));
        Poll::Ready(match frame {
            None => {
                self.ended = true;
                None
            }
            Some(Ok(frame)) => {
                self.headers = false;
                Some(frame)
            }
            Some(Err(status)) => {
                self.ended = true;
                Some(encode::error_event(&status, self.format.accepted.media))
            }
        })
    }
}

impl Stream for Frames {
    type Item = std::result::Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        unhurried(self.poll_batch(cx).map(|batch| batch.map(Ok)))
    }
}

impl Frames {
    /// The frames that are ready, in one.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if std::mem::take(&mut self.has_gone_on) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let first = match std::task::ready!(self.poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(frame) => frame,
        };
        // One frame goes out as the bytes that all watchers share; several are joined, which costs less than sending each.
        if !self.watching.has_more() {
            return Poll::Ready(Some(first));
        }
        let mut length = first.len();
        let mut frames = vec![first];
        while length < BATCH_BYTES_MAX
            && let Poll::Ready(Some(frame)) = self.poll_frame(cx)
        {
            length += frame.len();
            frames.push(frame);
        }
        self.has_gone_on = length >= BATCH_BYTES_MAX;
        Poll::Ready(if frames.len() == 1 { frames.pop() } else { Some(joined(frames)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_that_are_told_the_same_share_what_was_joined() {
        let [a, b, c] = ["a", "b", "c"].map(|text| Bytes::from(text.repeat(100)));
        let ab = joined(vec![a.clone(), b.clone()]);
        assert_eq!(ab, ["a".repeat(100), "b".repeat(100)].concat());
        assert_eq!(joined(vec![a.clone(), b.clone()]).as_ptr(), ab.as_ptr());
        // The same text of another change is another frame.
        assert_ne!(joined(vec![a.clone(), Bytes::from("b".repeat(100))]).as_ptr(), ab.as_ptr());
        assert_eq!(joined(vec![a.clone(), c.clone()]), ["a".repeat(100), "c".repeat(100)].concat());
        assert_eq!(joined(vec![a.slice(..50), c.clone()]), ["a".repeat(50), "c".repeat(100)].concat());
        let large = Bytes::from(vec![b'x'; SHARED_BYTES_MAX]);
        assert_eq!(joined(vec![a.clone(), large]).len(), SHARED_BYTES_MAX + 100);
        assert_eq!(joined(vec![a, c]).len(), 200);
    }
}
