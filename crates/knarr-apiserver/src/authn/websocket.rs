//! Browsers cannot set headers of a WebSocket: they send the bearer token as one of the protocols that they speak
//! (upstream: `authentication/request/websocket`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue};
use knarr_core::{Result, Status};

const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

fn names(headers: &HeaderMap, header: http::HeaderName, wanted: &str) -> bool {
    headers.get_all(header).iter().filter_map(|v| v.to_str().ok()).any(|v| v.to_ascii_lowercase().contains(wanted))
}

/// Moves a token among the protocols of a WebSocket into the `Authorization` header, where nobody who comes later will see it as
/// a protocol.
///
/// # Errors
/// Several tokens, one that cannot be read, or one that stands for the only protocol.
pub fn take_token(headers: &mut HeaderMap) -> Result<()> {
    if !headers.contains_key(SEC_WEBSOCKET_PROTOCOL) || !names(headers, UPGRADE, "websocket") || !names(headers, CONNECTION, "upgrade") {
        return Ok(());
    }
    let all = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let all: Vec<String> = all.flat_map(|v| v.split(',')).map(|p| p.trim().to_owned()).collect();
    let (tokens, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| p.starts_with(PREFIX));
    let [token] = &tokens[..] else {
        return if tokens.is_empty() { Ok(()) } else { Err(Status::unauthorized("multiple base64.bearer.authorization tokens specified")) };
    };
    let token = URL_SAFE_NO_PAD.decode(&token[PREFIX.len()..]).map_err(|_| Status::unauthorized("invalid base64.bearer.authorization token encoding"))?;
    if others.is_empty() {
        return Err(Status::unauthorized("missing additional subprotocol"));
    }
    let mut bearer = b"Bearer ".to_vec();
    bearer.extend(token);
    let mut bearer = HeaderValue::from_bytes(&bearer).map_err(|_| Status::unauthorized("invalid base64.bearer.authorization token"))?;
    bearer.set_sensitive(true);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(others.join(",")).map_err(Status::internal)?);
    headers.entry(AUTHORIZATION).or_insert(bearer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocols: &str) -> HeaderMap {
        let pairs = [(CONNECTION, "Upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_PROTOCOL, protocols)];
        pairs.into_iter().map(|(k, v)| (k, v.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_among_the_protocols_becomes_a_bearer_token() {
        let mut all = headers(&format!("v5.channel.k8s.io, {PREFIX}{}", URL_SAFE_NO_PAD.encode("abc")));
        take_token(&mut all).unwrap();
        assert_eq!((&all[AUTHORIZATION], &all[SEC_WEBSOCKET_PROTOCOL]), (&"Bearer abc".parse().unwrap(), &"v5.channel.k8s.io".parse().unwrap()));
    }

    #[test]
    fn tokens_that_cannot_be_read_are_refused() {
        let refusal = |protocols: String| take_token(&mut headers(&protocols)).unwrap_err().message;
        assert_eq!(refusal(format!("{PREFIX}YQ, {PREFIX}YQ, x")), "multiple base64.bearer.authorization tokens specified");
        assert_eq!(refusal(format!("{PREFIX}!, x")), "invalid base64.bearer.authorization token encoding");
        assert_eq!(refusal(format!("{PREFIX}YQ")), "missing additional subprotocol");
        let mut plain = headers("x");
        take_token(&mut plain).unwrap();
        assert_eq!((plain.len(), plain.get(AUTHORIZATION)), (3, None));
    }
}
