//! The server's end of a WebSocket that only tells: the handshake, and frames. What a client says is passed over (upstream:
//! `wsstream.IgnoreReceives`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Response, StatusCode};
use knarr_core::{Result, Status};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::http::Body;

/// RFC 6455, section 1.3.
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes read at once of what a client says, which nobody wants to know.
const IGNORED_BYTES: usize = 1024;

/// What a frame holds: RFC 6455, section 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Text = 1,
    Binary = 2,
    Close = 8,
}

/// Whether a request asks to become a WebSocket.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| headers.get(name).and_then(|v| v.to_str().ok()).is_some_and(|v| v.to_ascii_lowercase().contains(word));
    has(UPGRADE, "websocket") && has(CONNECTION, "upgrade")
}

/// The protocols that a client asks for, in its order.
pub fn protocols(headers: &HeaderMap) -> Vec<&str> {
    headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim).collect()
}

/// The answer to the handshake, in the protocol that was chosen, if any.
///
/// # Errors
/// `BadRequest` for a client that sent no key, or a protocol that cannot be repeated.
pub fn switching(headers: &HeaderMap, protocol: Option<&str>) -> Result<Response<Body>> {
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let accept = STANDARD.encode(Sha1::new().chain_update(key.as_bytes()).chain_update(ACCEPT_GUID).finalize());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answered = response.headers_mut();
    answered.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answered.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answered.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).map_err(Status::internal)?);
    if let Some(name) = protocol {
        answered.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(name).map_err(|e| Status::bad_request(e.to_string()))?);
    }
    Ok(response)
}

/// Waits until the client has gone. What it says is passed over.
pub async fn left(mut client: impl AsyncRead + Unpin) {
    let mut ignored = [0; IGNORED_BYTES];
    while client.read(&mut ignored).await.is_ok_and(|n| n > 0) {}
}

/// A whole message in one frame; servers do not mask.
pub fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode as u8];
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

/// The last frame of a connection that ends as it should.
pub fn close() -> Vec<u8> {
    frame(Opcode::Close, &1000_u16.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_say_how_long_they_are() {
        assert_eq!(frame(Opcode::Binary, b"ab"), [0x82, 2, b'a', b'b']);
        assert_eq!(frame(Opcode::Text, &[0; 200])[..4], [0x81, 126, 0, 200]);
        assert_eq!(frame(Opcode::Binary, &vec![0; 70_000])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
        assert_eq!(close(), [0x88, 2, 3, 232]);
    }

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn a_handshake_is_answered_with_its_key() {
        let mut headers = HeaderMap::new();
        assert!(switching(&headers, None).is_err());
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let answer = switching(&headers, Some("chat")).unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()[SEC_WEBSOCKET_PROTOCOL]), (101, &HeaderValue::from_static("chat")));
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
