//! Calls of webhooks: one POST of JSON over TLS to an endpoint that we pick ourselves, with a deadline, a bounded answer and no
//! redirects (upstream: `k8s.io/apiserver/pkg/util/webhook`). Admission and the conversion of custom resources share it.

mod connect;

use std::{fmt::Display, sync::OnceLock, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use knarr_core::{Reason, Status, Value, ValueExt, field};
use knarr_schema::codec;
use parking_lot::Mutex;

use crate::{admission::Objects, spans};
use connect::Tls;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Connections that are kept for later, for each webhook.
const IDLE_MAX: usize = 8;
/// How long a call may take that names no time of its own (upstream: the deadline of the request).
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a webhook listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Service { namespace: String, name: String, port: i64 },
    Url { host: String, port: u16 },
}

/// One webhook, made of its `clientConfig`. Keeps its connections.
pub struct Hook {
    /// What is wrong with the configuration, if anything is.
    place: Result<Place, String>,
    /// `https://host:port/path`, as messages show it.
    url: String,
    path: String,
    /// The name that the certificate must have.
    server_name: String,
    ca_bundle: String,
    tls: OnceLock<Result<Tls, String>>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Hook {
    /// Reads a `WebhookClientConfig`, of admission or of a CustomResourceDefinition.
    pub fn new(config: &Value) -> Self {
        let (place, host, path) = match config.at(&["service"]) {
            Some(service) => {
                let text = |key: &str| service.str_at(&[key]).unwrap_or_default().to_owned();
                let (namespace, name, port) = (text("namespace"), text("name"), service.i64_at(&["port"]).unwrap_or(443));
                let host = format!("{name}.{namespace}.svc:{port}");
                (Ok(Place::Service { namespace, name, port }), host, text("path"))
            }
            None => from_url(config.str_at(&["url"]).unwrap_or_default()),
        };
        // Upstream's client joins the path anew: doubled slashes, as harnesses write them, become one.
        let path = format!("/{}", path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"));
        let server_name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name).trim_matches(['[', ']']).to_owned();
        Self {
            place,
            url: format!("https://{host}{path}"),
            path,
            server_name,
            ca_bundle: config.str_at(&["caBundle"]).unwrap_or_default().to_owned(),
            tls: OnceLock::new(),
            idle: Mutex::default(),
        }
    }

    /// Sends a tree and gives the tree that comes back. The deadline travels in the query, as upstream's does.
    ///
    /// # Errors
    /// Why there is no answer, in the words of upstream's client.
    pub async fn post(&self, objects: &dyn Objects, body: &Value, timeout: Option<Duration>) -> Result<Value, String> {
        let query = timeout.map(|t| format!("?timeout={}s", t.as_secs())).unwrap_or_default();
        let failed = |why: &dyn Display| format!("Post {}: {why}", field::go_quote(&format!("{}{query}", self.url)));
        let bytes = Bytes::from(serde_json::to_vec(body).map_err(|e| e.to_string())?);
        let mut span = spans::child("HTTP POST", spans::Kind::Client);
        span.set("http.request.method", "POST");
        span.set("url.full", format!("{}{query}", self.url));
        span.set("server.address", self.server_name.as_str());
        let call = async {
            let answer = self.exchange(objects, &format!("{}{query}", self.path), bytes).await.map_err(|why| failed(&why))?;
            read(answer).await
        };
        tokio::time::timeout(timeout.unwrap_or(PATIENCE), span.around(|| call)).await.unwrap_or_else(|_| Err(failed(&"context deadline exceeded")))
    }

    /// One request and the head of its answer. A kept connection may have died meanwhile: then a new one is made.
    async fn exchange(&self, objects: &dyn Objects, path: &str, body: Bytes) -> Result<Response<Incoming>, String> {
        let request = || {
            Request::post(path)
                .header(header::HOST, self.url["https://".len()..].split('/').next().unwrap_or_default())
                .header(header::ACCEPT, "application/json, */*")
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::USER_AGENT, "kube-apiserver-admission")
                .body(Full::new(body.clone()))
                .map(traced)
                .map_err(|e| e.to_string())
        };
        if let Some(mut kept) = self.kept()
            && let Ok(answer) = kept.send_request(request()?).await
        {
            self.keep(kept);
            return Ok(answer);
        }
        let place = self.place.as_ref().map_err(Clone::clone)?;
        let tls = self.tls.get_or_init(|| connect::tls(&self.ca_bundle)).as_ref().map_err(Clone::clone)?;
        let mut sender = connect::connect(objects, place, &self.server_name, tls).await?;
        let answer = sender.send_request(request()?).await.map_err(|e| if e.is_incomplete_message() { "EOF".to_owned() } else { e.to_string() })?;
        self.keep(sender);
        Ok(answer)
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    /// Puts a connection aside. It is ready again when its answer has been read.
    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock();
        idle.retain(|s| !s.is_closed());
        if idle.len() < IDLE_MAX {
            idle.insert(0, sender);
        }
    }
}

/// The same request as a part of what is traced.
fn traced<B>(mut request: Request<B>) -> Request<B> {
    spans::inject(request.headers_mut());
    request
}

fn from_url(url: &str) -> (Result<Place, String>, String, String) {
    let Some(rest) = url.strip_prefix("https://") else {
        return (Err(format!("unsupported protocol scheme in {}", field::go_quote(url))), String::new(), String::new());
    };
    let (host, path) = rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().map_err(|_| format!("invalid port {}", field::go_quote(port)))),
        _ => (host, Ok(443)),
    };
    let place = port.map(|port| Place::Url { host: name.trim_matches(['[', ']']).to_owned(), port });
    let shown = if name.len() == host.len() { format!("{host}:443") } else { host.to_owned() };
    (place, shown, path)
}

/// The body of a good answer.
async fn read(answer: Response<Incoming>) -> Result<Value, String> {
    let status = answer.status();
    if status.is_redirection() {
        return Err(format!("the server redirected the call ({status}), which is not allowed"));
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| format!("the answer could not be read: {e}"))?.to_bytes();
    if !status.is_success() {
        return Err(refusal(status.as_u16(), &body));
    }
    codec::parse_json(&body).map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))
}

/// What upstream's client makes of an answer that is no success (`apierrors.NewGenericServerResponse`).
fn refusal(code: u16, body: &[u8]) -> String {
    if let Some(status) = Status::from_json(body) {
        return status.message;
    }
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    match code {
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        503 => "the server is currently unable to handle the request".into(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the request".into(),
        500.. => {
            format!("an error on the server ({}) has prevented the request from succeeding", field::go_quote(if text.is_empty() { "unknown" } else { text }))
        }
        _ => format!("the server responded with the status code {code} but did not return more information"),
    }
}

/// What a refusal without a code of its own is told with (upstream: `webhookerrors.ToStatusErr`).
pub(crate) fn denied(hook: &str, result: Option<&Value>) -> Status {
    let by = format!("admission webhook {} denied the request", field::go_quote(hook));
    let empty = Value::Null;
    let result = result.unwrap_or(&empty);
    let mut told = result.clone();
    told.set(&["kind"], "Status");
    told.set(&["status"], "Failure");
    let code = result.i64_at(&["code"]).and_then(|c| u16::try_from(c).ok()).filter(|c| *c >= 400).unwrap_or(400);
    told.set(&["code"], code);
    let text = |key: &str| result.str_at(&[key]).unwrap_or_default();
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    told.set(&["message"], message.as_str());
    serde_json::to_vec(&told).ok().and_then(|body| Status::from_json(&body)).unwrap_or_else(|| Status::new(code, Reason::Unknown, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_place_is_read_from_its_configuration() {
        let hook = Hook::new(&json!({"service": {"namespace": "n", "name": "s", "path": "/p", "port": 8443}}));
        assert_eq!((hook.url.as_str(), hook.server_name.as_str()), ("https://s.n.svc:8443/p", "s.n.svc"));
        let hook = Hook::new(&json!({"url": "https://[::1]:9443/a/b"}));
        assert_eq!((hook.url.as_str(), hook.server_name.as_str()), ("https://[::1]:9443/a/b", "::1"));
        assert_eq!(hook.place, Ok(Place::Url { host: "::1".into(), port: 9443 }));
        assert_eq!(Hook::new(&json!({"url": "https://localhost:1//a//b/"})).url, "https://localhost:1/a/b");
        let hook = Hook::new(&json!({"url": "https://example.com"}));
        assert_eq!((hook.place, hook.path.as_str()), (Ok(Place::Url { host: "example.com".into(), port: 443 }), "/"));
    }

    #[test]
    fn a_denial_is_told_in_upstreams_words() {
        let told = |result: Value| {
            let status = denied("a.example.com", Some(&result));
            (status.code, status.message)
        };
        let by = "admission webhook \"a.example.com\" denied the request";
        assert_eq!(told(json!({})), (400, format!("{by} without explanation")));
        assert_eq!(told(json!({"reason": "Forbidden"})), (400, format!("{by}: Forbidden")));
        assert_eq!(told(json!({"message": "no", "code": 403, "status": "Success"})), (403, format!("{by}: no")));
        assert_eq!(denied("a.example.com", None).message, format!("{by} without explanation"));
    }
}
