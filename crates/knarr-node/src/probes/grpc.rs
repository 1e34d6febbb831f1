//! The gRPC health check, written by hand: one message of one string out, one of one number back (upstream: `pkg/probe/grpc`).

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http::dial;

const SERVING: u64 = 1;
const STATUS_NAMES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const UNIMPLEMENTED: &str = "12";

/// `HealthCheckRequest { service }` in gRPC's frame.
fn request_body(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put(message);
    frame.freeze()
}

fn put_varint(out: &mut BytesMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8((n as u8) | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

/// `HealthCheckResponse.status` out of gRPC's frame; an empty message says `UNKNOWN`.
fn response_status(body: &[u8]) -> Option<u64> {
    let message = body.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, rest @ ..] => Some(rest.iter().take_while(|b| **b & 0x80 != 0).count()).and_then(|n| {
            let digits = rest.get(..=n)?;
            Some(digits.iter().rev().fold(0, |sum, b| sum << 7 | u64::from(b & 0x7f)))
        }),
        _ => None,
    }
}

/// # Errors
/// Why the service does not count as healthy, in upstream's words.
pub async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let at = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let seconds = format!("{}s", timeout.as_secs());
    let Ok(tcp) = tokio::time::timeout(timeout, dial(host, port)).await else {
        return Err(format!("timeout: failed to connect service \"{at}\" within {seconds}: context deadline exceeded"));
    };
    // grpc-go keeps trying to connect until the time is over, so a refused connection ends as a timeout there.
    let tcp = tcp.map_err(|_| format!("timeout: failed to connect service \"{at}\" within {seconds}: context deadline exceeded"))?;
    match tokio::time::timeout(timeout, ask(tcp, &at, service)).await {
        Ok(result) => result,
        Err(_) => Err(format!("timeout: health rpc did not complete within {seconds}")),
    }
}

async fn ask(tcp: tokio::net::TcpStream, at: &str, service: &str) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("error: health rpc probe failed: {e}");
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.map_err(|e| failed(&e))?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{at}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "kube-probe/1.37")
        .body(Full::new(request_body(service)))
        .map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let headers = response.headers().clone();
    let collected = response.into_body().collect().await.map_err(|e| failed(&e))?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    drop(sender);
    connection.abort();
    let field = |name: &str| -> Option<String> {
        let of = |map: &HeaderMap| map.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        of(&trailers).or_else(|| of(&headers))
    };
    let message = field("grpc-message").unwrap_or_default();
    match field("grpc-status").as_deref() {
        Some("0") => {}
        Some(UNIMPLEMENTED) => return Err(format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}")),
        Some(code) => return Err(format!("error: health rpc probe failed: rpc error: code = {code} desc = {message}")),
        None => return Err(failed(&"no grpc-status in the answer")),
    }
    match response_status(&collected.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(status) => {
            let name = usize::try_from(status).ok().and_then(|s| STATUS_NAMES.get(s)).map_or_else(|| status.to_string(), |n| (*n).to_owned());
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
        None => Err(failed(&"the answer is no HealthCheckResponse")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::service::service_fn;

    async fn serve(body: &'static [u8], status: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await?.to_bytes();
                assert_eq!(&asked[..], b"\0\0\0\0\x05\x0a\x03abc");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from_static(body)).with_trailers(async { Some(Ok(trailers)) })))
            });
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await
        });
        port
    }

    #[tokio::test]
    async fn a_serving_service_is_healthy_and_others_are_not() {
        let check = async |body, status| check("127.0.0.1", serve(body, status).await, "abc", Duration::from_secs(5)).await;
        assert_eq!(check(b"\0\0\0\0\x02\x08\x01", "0").await, Ok(()));
        assert_eq!(check(b"\0\0\0\0\x02\x08\x02", "0").await, Err("service unhealthy (responded with \"NOT_SERVING\")".into()));
        assert_eq!(check(b"\0\0\0\0\0", "0").await, Err("service unhealthy (responded with \"UNKNOWN\")".into()));
        assert!(check(b"", "12").await.unwrap_err().starts_with("error: this server does not implement"));
    }
}
