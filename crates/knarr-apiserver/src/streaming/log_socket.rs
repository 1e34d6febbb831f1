//! A container's log over a WebSocket: the backend's answer, one message for each piece, and an empty one first so that the client
//! sees that the connection stands (upstream: `k8s.io/apimachinery/pkg/util/httpstream/wsstream/stream.go`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use knarr_core::{Result, Status};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::http::Body;

/// RFC 6455, section 1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
/// Bytes read at once of what a client says, which nobody wants to know.
const IGNORED_BYTES: usize = 1024;

/// How pieces are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Binary,
    Base64,
}

/// Whether a request asks to become a WebSocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.to_ascii_lowercase().contains(word));
    has(UPGRADE, "websocket") && has(CONNECTION, "upgrade")
}

/// The client's first protocol that we speak; a client that names none gets binary messages.
fn choose(headers: &HeaderMap) -> Result<(Protocol, Option<&'static str>)> {
    let asked: Vec<&str> = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).collect();
    if asked.is_empty() {
        return Ok((Protocol::Binary, None));
    }
    let known = |name: &&str| match *name {
        "" => Some((Protocol::Binary, None)),
        "binary.k8s.io" => Some((Protocol::Binary, Some("binary.k8s.io"))),
        "base64.binary.k8s.io" => Some((Protocol::Base64, Some("base64.binary.k8s.io"))),
        _ => None,
    };
    asked.iter().find_map(known).ok_or_else(|| Status::bad_request(format!("requested protocol(s) are not supported: {asked:?}")))
}

/// Answers the handshake, and sends the backend's answer once the client has switched.
pub(super) fn answer(headers: &HeaderMap, client: hyper::upgrade::OnUpgrade, backend: Response<hyper::body::Incoming>) -> Result<Response<Body>> {
    let (protocol, name) = choose(headers)?;
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let accept = STANDARD.encode(Sha1::new().chain_update(key.as_bytes()).chain_update(ACCEPT_GUID).finalize());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answered = response.headers_mut();
    answered.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answered.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answered.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(Status::internal)?);
    if let Some(name) = name {
        answered.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    tokio::spawn(async move {
        let sent = async {
            let (reader, writer) = tokio::io::split(TokioIo::new(client.await.map_err(std::io::Error::other)?));
            let pieces = backend.into_body().into_data_stream().map(|piece| piece.map_err(std::io::Error::other));
            tokio::select! {
                sent = send(pieces, writer, protocol) => sent,
                () = left(reader) => Ok(()),
            }
        };
        if let Err(error) = sent.await {
            tracing::debug!(%error, "a log over a WebSocket ended");
        }
    });
    Ok(response)
}

async fn send(
    mut pieces: impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Unpin,
    mut to: impl AsyncWrite + Unpin,
    protocol: Protocol,
) -> std::io::Result<()> {
    let message = |piece: &[u8]| match protocol {
        Protocol::Binary => frame(BINARY, piece),
        Protocol::Base64 => frame(TEXT, STANDARD.encode(piece).as_bytes()),
    };
    to.write_all(&message(b"")).await?;
    to.flush().await?;
    while let Some(piece) = pieces.next().await {
        to.write_all(&message(&piece?)).await?;
        to.flush().await?;
    }
    to.write_all(&frame(CLOSE, &1000u16.to_be_bytes())).await?;
    to.shutdown().await
}

/// Waits until the client has gone. What it says is passed over.
async fn left(mut client: impl AsyncRead + Unpin) {
    let mut ignored = [0; IGNORED_BYTES];
    while client.read(&mut ignored).await.is_ok_and(|n| n > 0) {}
}

/// A whole message in one frame; servers do not mask.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        n @ 0..=125 => frame.push(n as u8),
        n @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            frame.push(127);
            frame.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_how_long_they_are() {
        assert_eq!(frame(BINARY, b"ab"), [0x82, 2, b'a', b'b']);
        assert_eq!(frame(TEXT, &[0; 200])[..4], [0x81, 126, 0, 200]);
        assert_eq!(frame(BINARY, &vec![0; 70_000])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[tokio::test]
    async fn an_empty_message_comes_first_and_a_close_last() {
        let pieces = futures::stream::iter([Ok(bytes::Bytes::from_static(b"hi"))]);
        let mut out = Vec::new();
        send(pieces, &mut out, Protocol::Base64).await.unwrap();
        assert_eq!(out, [&[0x81, 0][..], &[0x81, 4], b"aGk=", &[0x88, 2, 3, 232]].concat());
    }

    #[test]
    fn the_clients_first_known_protocol_is_taken() {
        let choice = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(text).unwrap());
            choose(&headers).map(|(p, _)| p).ok()
        };
        assert_eq!(choice("x, base64.binary.k8s.io, binary.k8s.io"), Some(Protocol::Base64));
        assert_eq!(choice("v5.channel.k8s.io"), None);
        assert_eq!(choose(&HeaderMap::new()).unwrap(), (Protocol::Binary, None));
    }
}
