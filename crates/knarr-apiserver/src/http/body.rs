//! Bodies of requests and answers, without a box for the common ones.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Limited, combinators::UnsyncBoxBody};
use knarr_core::{Result, Status};

/// Whatever may go wrong while a body passes.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request that is handed on to a stream handler.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Most bytes of a body that is read whole (upstream: `MaxRequestBodyBytes`).
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// What lives as long as an answer is being sent.
pub type Held = Box<dyn std::any::Any + Send>;

/// The body of an answer.
pub enum Body {
    /// All of it at once, with a known length.
    Full(Bytes),
    /// Parts that are known already, so that a large list needs no second copy.
    Parts(VecDeque<Bytes>),
    /// As it comes: watches, logs, proxied answers.
    Stream(Pin<Box<dyn Stream<Item = std::result::Result<Bytes, BoxError>> + Send>>),
    /// Another body, and what is dropped with it.
    Holding(Box<Body>, Held),
}

impl Body {
    pub fn empty() -> Self {
        Self::Full(Bytes::new())
    }

    /// The same body, which drops `held` when it is sent or given up.
    #[must_use]
    pub fn holding(self, held: Held) -> Self {
        Self::Holding(Box::new(self), held)
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Full(bytes.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Parts(parts) => Poll::Ready(parts.pop_front().map(|p| Ok(Frame::data(p)))),
            Self::Stream(stream) => stream.as_mut().poll_next(cx).map(|next| next.map(|item| item.map(Frame::data))),
            Self::Holding(body, _) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::Parts(parts) => parts.is_empty(),
            Self::Stream(_) => false,
            Self::Holding(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Parts(parts) => SizeHint::with_exact(parts.iter().map(|p| p.len() as u64).sum()),
            Self::Stream(_) => SizeHint::default(),
            Self::Holding(body, _) => body.size_hint(),
        }
    }
}

/// Reads a request's body to its end.
///
/// # Errors
/// 413 beyond [`BODY_BYTES_MAX`], 400 when the client breaks off.
pub async fn read_all<B>(body: B) -> Result<Bytes>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(all) => Ok(all.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(Status::too_large(format!("limit is {BODY_BYTES_MAX}"))),
        Err(e) => Err(Status::bad_request(format!("the body of the request could not be read: {e}"))),
    }
}
