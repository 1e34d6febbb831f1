//! The body of a watch: frames that are encoded once for all watchers who want the same form.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use knarr_core::{Object, Result, api::EventType};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{
    body::{Body, BoxError},
    negotiate::{Convert, Media},
};
use crate::{
    catalog::Served,
    encode::{self, Format},
    read::{Shown, Watching},
};

/// Frames that are ready at once go out together, up to this size.
const BATCH_BYTES_MAX: usize = 64 * 1024;

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
    let media = u64::from(a.media == Media::Protobuf);
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
            return Poll::Ready(Some(Ok(first)));
        }
        let Poll::Ready(Some(second)) = self.poll_frame(cx) else { return Poll::Ready(Some(Ok(first))) };
        let mut batch = BytesMut::with_capacity((first.len() + second.len()) * 4);
        batch.extend_from_slice(&first);
        batch.extend_from_slice(&second);
        while batch.len() < BATCH_BYTES_MAX
            && let Poll::Ready(Some(frame)) = self.poll_frame(cx)
        {
            batch.extend_from_slice(&frame);
        }
        self.has_gone_on = batch.len() >= BATCH_BYTES_MAX;
        Poll::Ready(Some(Ok(batch.freeze())))
    }
}
