//! Outcomes as HTTP answers.

use std::{io::Write, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use knarr_core::{Result, Status, ValueExt};
use knarr_schema::codec;

use super::{
    body::Body,
    negotiate::{Accepted, Media},
    watch,
};
use crate::{
    call::{Failure, Outcome},
    catalog::Served,
    encode::{
        self, Format,
        pieces::{Assembled, Pieces},
    },
    read::Page,
};

/// Answers above this size are compressed for clients that take it (upstream: `defaultGzipThresholdBytes`).
pub const GZIP_BYTES_MIN: usize = 128 * 1024;
/// Lists above this number of items, and bodies above this size, are encoded beside the event loop.
const ITEMS_INLINE_MAX: usize = 256;
const GZIP_INLINE_MAX: usize = 512 * 1024;

/// What the client takes beside the media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    gzip: bool,
}

impl Shape {
    pub fn of(headers: &HeaderMap) -> Self {
        let accepts = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Self { gzip: accepts.split(',').any(|e| e.split(';').next().unwrap_or_default().trim() == "gzip") }
    }
}

/// An answer of one content type.
pub fn answer(code: u16, content_type: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A good answer.
///
/// # Errors
/// When it cannot be encoded as the client wants it.
pub async fn outcome(outcome: Outcome, format: Format, shape: Shape, pieces: &Arc<Pieces>) -> Result<Response<Body>> {
    let media = format.accepted.media.content_type();
    match outcome {
        Outcome::Object { served, object, code } => Ok(finish(code, media, encode::object(&served, &object, &format)?, shape).await),
        Outcome::Value { value, code } => Ok(finish(code, media, encode::value(&value, &format.accepted)?, shape).await),
        Outcome::Scale { served, scale, code } => Ok(finish(code, media, encode::scale(&served, &scale, &format)?, shape).await),
        Outcome::List { served, page } => {
            let encoded = if page.items.len() > ITEMS_INLINE_MAX {
                let pieces = pieces.clone();
                let work = move || list(&served, &page, &format, shape, &pieces);
                tokio::task::spawn_blocking(work).await.map_err(Status::internal)??
            } else {
                list(&served, &page, &format, shape, pieces)?
            };
            Ok(match encoded {
                List::Whole(bytes) => finish(200, media, bytes, shape).await,
                List::Pieces(Assembled { parts, gzip }) => {
                    let response = answer(200, media, Body::Parts(parts));
                    if gzip { compressed(response) } else { response }
                }
            })
        }
        Outcome::Watch { served, watching } => {
            let stream_type = format.accepted.media.stream_type();
            Ok(answer(200, stream_type, watch::body(served, watching, format)))
        }
    }
}

enum List {
    Whole(Bytes),
    Pieces(Assembled),
}

fn list(served: &Served, page: &Page, format: &Format, shape: Shape, pieces: &Arc<Pieces>) -> Result<List> {
    if let Some(assembled) = pieces.list(served, page, format, shape.gzip)? {
        return Ok(List::Pieces(assembled));
    }
    encode::list(served, &page.meta, page.objects().iter(), format).map(List::Whole)
}

/// Compresses what is large enough.
pub async fn finish(code: u16, content_type: &'static str, body: Bytes, shape: Shape) -> Response<Body> {
    if !shape.gzip || body.len() <= GZIP_BYTES_MIN {
        return answer(code, content_type, body);
    }
    let plain = body.clone();
    let compressed = if body.len() > GZIP_INLINE_MAX { tokio::task::spawn_blocking(move || gzip(&body)).await.ok().flatten() } else { gzip(&body) };
    let Some(compressed) = compressed else { return answer(code, content_type, plain) };
    self::compressed(answer(code, content_type, compressed))
}

/// The same answer, whose body is compressed.
fn compressed(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// Level 1, as upstream.
pub fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::new(1));
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// The plain text of a path that nobody serves.
pub fn page_not_found() -> Response<Body> {
    plain_error(404, "404 page not found")
}

/// A refusal as Go's `http.Error` writes it.
pub fn plain_error(code: u16, text: &str) -> Response<Body> {
    let mut response = answer(code, "text/plain; charset=utf-8", format!("{text}\n"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A refusal, as a `Status` in the client's encoding.
pub fn failure(failure: &Failure, accepted: &Accepted) -> Response<Body> {
    let status = &failure.status;
    if crate::catalog::is_no_page(status) {
        return page_not_found();
    }
    let mut tree = status.to_value();
    if let Some(token) = &failure.continue_token {
        tree.set(&["metadata", "continue"], token.as_str());
    }
    let (media, bytes) = match accepted.media {
        Media::Protobuf => (Media::Protobuf, codec::encode_protobuf(&tree).unwrap_or_default().into()),
        media => (media, encode::text(codec::encode_json(&tree), accepted)),
    };
    let mut response = answer(status.code, media.content_type(), bytes);
    let retry = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
    if retry > 0 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry));
    }
    // Upstream's filters of identity and permission say so, what stands behind them does not.
    if status.code == 403 && status.message.contains("forbidden: User \"") || status.code == 400 && status.message.contains(" without impersonating ") {
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    response
}

/// Most bytes of warnings in an answer, and of one of them (upstream: `filters/warning.go`).
const WARNING_BYTES_MAX: usize = 4 * 1024;
const WARNING_TEXT_MAX: usize = 256;

/// Adds `Warning: 299 - "…"` headers.
pub fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let total: usize = warnings.iter().map(String::len).sum();
    let mut written = 0;
    for text in warnings {
        let text = if total > WARNING_BYTES_MAX { text.chars().take(WARNING_TEXT_MAX).collect() } else { text.clone() };
        written += text.len();
        if written > WARNING_BYTES_MAX {
            return;
        }
        let quoted: String = text.chars().filter(|c| !c.is_control()).flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] }).collect();
        if let Ok(value) = HeaderValue::try_from(format!("299 - \"{quoted}\"").into_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}
