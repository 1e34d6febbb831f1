//! A watch over a WebSocket, which browsers use: one message for each event, text for JSON and binary for the others (upstream:
//! `WatchServer.HandleWS`).

use bytes::{Buf, Bytes};
use futures::StreamExt;
use http::header::ORIGIN;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use knarr_core::{Reason, Result, Status};
use knarr_schema::codec;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    body::{Body, BoxError},
    negotiate::Media,
    switched,
};
use crate::streaming::socket::{self, Opcode};

/// Answers the handshake, and sends the events of a watch once the client has switched.
///
/// # Errors
/// `Forbidden` for a client that does not say where it comes from, `BadRequest` for one that offers a choice of protocols: there is none to make.
pub fn answer(headers: &HeaderMap, client: OnUpgrade, events: Body, media: Media) -> Result<Response<Body>> {
    if headers.get(ORIGIN).is_none_or(|origin| origin.is_empty()) {
        return Err(Status::new(403, Reason::Forbidden, "null origin"));
    }
    let protocols = socket::protocols(headers);
    if protocols.len() > 1 {
        return Err(Status::bad_request("bad protocol"));
    }
    let response = socket::switching(headers, protocols.first().copied())?;
    let watch = async move {
        let sent = async {
            let (reader, writer) = tokio::io::split(TokioIo::new(client.await?));
            tokio::select! {
                sent = send(events, writer, media) => sent,
                () = socket::left(reader) => Ok(()),
            }
        };
        if let Err(error) = sent.await {
            tracing::debug!(error, "a watch over a WebSocket ended");
        }
    };
    Ok(switched::talk_on(response, watch))
}

async fn send(events: Body, mut to: impl AsyncWrite + Unpin, media: Media) -> Result<(), BoxError> {
    let mut batches = events.into_data_stream();
    while let Some(batch) = batches.next().await {
        to.write_all(&messages(batch?, media)).await?;
        to.flush().await?;
    }
    to.write_all(&socket::close()).await?;
    Ok(to.shutdown().await?)
}

/// The events of a batch as frames. In JSON each ends with a line, in protobuf its length stands before it, in CBOR it is in it.
fn messages(mut batch: Bytes, media: Media) -> Vec<u8> {
    if media == Media::Cbor {
        let mut frames = Vec::with_capacity(batch.len());
        while let Some(length) = codec::cbor_length(&batch) {
            frames.extend(socket::frame(Opcode::Binary, &batch.split_to(length)));
        }
        return frames;
    }
    if media != Media::Protobuf {
        return batch.split_inclusive(|b| *b == b'\n').flat_map(|event| socket::frame(Opcode::Text, event)).collect();
    }
    let mut frames = Vec::with_capacity(batch.len());
    while let Ok(length) = batch.try_get_u32() {
        let event = batch.split_to(batch.len().min(length as usize));
        frames.extend(socket::frame(Opcode::Binary, &event));
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_a_message_of_its_own() {
        let json = messages(Bytes::from_static(b"{1}\n{22}\n"), Media::Json);
        assert_eq!(json, [&[0x81, 4][..], b"{1}\n", &[0x81, 5], b"{22}\n"].concat());
        let protobuf = messages(Bytes::from_static(b"\0\0\0\x01a\0\0\0\x02bc"), Media::Protobuf);
        assert_eq!(protobuf, [&[0x82, 1][..], b"a", &[0x82, 2], b"bc"].concat());
        let cbor = messages(Bytes::from_static(b"\xd9\xd9\xf7\xa0\xd9\xd9\xf7\x80"), Media::Cbor);
        assert_eq!(cbor, [&[0x82, 4][..], b"\xd9\xd9\xf7\xa0", &[0x82, 4], b"\xd9\xd9\xf7\x80"].concat());
    }
}
