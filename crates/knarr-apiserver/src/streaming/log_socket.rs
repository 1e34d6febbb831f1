//! A container's log over a WebSocket: the backend's answer, one message for each piece, and an empty one first so that the client
//! sees that the connection stands (upstream: `k8s.io/apimachinery/pkg/util/httpstream/wsstream/stream.go`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use knarr_core::{Result, Status};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::socket::{self, Opcode};
use crate::http::{Body, switched};

/// How pieces are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Binary,
    Base64,
}

/// The client's first protocol that we speak; a client that names none gets binary messages.
fn choose(headers: &HeaderMap) -> Result<(Protocol, Option<&'static str>)> {
    let asked = socket::protocols(headers);
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
    let response = socket::switching(headers, name)?;
    let log = async move {
        let sent = async {
            let (reader, writer) = tokio::io::split(TokioIo::new(client.await.map_err(std::io::Error::other)?));
            let pieces = backend.into_body().into_data_stream().map(|piece| piece.map_err(std::io::Error::other));
            tokio::select! {
                sent = send(pieces, writer, protocol) => sent,
                () = socket::left(reader) => Ok(()),
            }
        };
        if let Err(error) = sent.await {
            tracing::debug!(%error, "a log over a WebSocket ended");
        }
    };
    Ok(switched::talk_on(response, log))
}

async fn send(
    mut pieces: impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Unpin,
    mut to: impl AsyncWrite + Unpin,
    protocol: Protocol,
) -> std::io::Result<()> {
    let message = |piece: &[u8]| match protocol {
        Protocol::Binary => socket::frame(Opcode::Binary, piece),
        Protocol::Base64 => socket::frame(Opcode::Text, STANDARD.encode(piece).as_bytes()),
    };
    to.write_all(&message(b"")).await?;
    to.flush().await?;
    while let Some(piece) = pieces.next().await {
        to.write_all(&message(&piece?)).await?;
        to.flush().await?;
    }
    to.write_all(&socket::close()).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::SEC_WEBSOCKET_PROTOCOL;

    use super::*;

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
