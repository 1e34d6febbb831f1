//! The registry protocol (OCI distribution): manifests and blobs, with the authentication that the registry asks for.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::manifest::{DOCUMENT_BYTES_MAX, MANIFEST_TYPES};
use super::transport::{Request, TlsOptions, Transport};
use super::{Digest, ImageError, Reference};
use crate::cri::Auth;

/// A transfer that stands still for so long is begun again where it stopped.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a transfer is taken up again, or a busy registry asked again.
const ATTEMPTS_MAX: u32 = 5;
/// Longest pause that a registry's Retry-After is granted.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Error bodies are quoted up to here.
const QUOTE_BYTES_MAX: usize = 512;

/// A host that serves an image, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://registry-1.docker.io/v2`, without a slash at the end.
    pub base: String,
    /// The image's name there: mirrors may have another.
    pub repository: String,
    pub auth: Option<(String, String)>,
    pub tls: TlsOptions,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
}

impl Endpoint {
    /// Host and port.
    pub fn host(&self) -> &str {
        let rest = self.base.split_once("://").map_or(self.base.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default()
    }
}

/// Where an image is looked for, in order: mirrors first, the registry itself last.
pub trait Endpoints: Send + Sync {
    fn of(&self, reference: &Reference) -> Vec<Endpoint>;
}

/// Every registry by itself: plain HTTP for those on this machine, HTTPS for all others.
pub struct Direct;

impl Endpoints for Direct {
    fn of(&self, reference: &Reference) -> Vec<Endpoint> {
        vec![Endpoint { repository: reference.repository.clone(), ..direct(&reference.registry) }]
    }
}

/// The registry itself.
pub(super) fn direct(registry: &str) -> Endpoint {
    Endpoint { base: default_base(registry), repository: String::new(), auth: None, tls: TlsOptions::default(), headers: Vec::new() }
}

/// The host that answers for a registry's name.
pub fn default_host(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

fn default_base(registry: &str) -> String {
    let host = default_host(registry);
    let scheme = if is_loopback(host) { "http" } else { "https" };
    format!("{scheme}://{host}/v2")
}

fn is_loopback(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok_and(|a| a.is_loopback()));
    }
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|a| a.is_loopback())
}

/// One image name on one endpoint, with what its registry has granted so far.
pub struct Repository<'a> {
    transport: &'a Transport,
    endpoint: Endpoint,
    reference: &'a Reference,
    auth: Option<&'a Auth>,
    granted: Mutex<Option<HeaderValue>>,
}

impl<'a> Repository<'a> {
    pub fn new(transport: &'a Transport, endpoint: Endpoint, reference: &'a Reference, auth: Option<&'a Auth>) -> Self {
        // What was given for the registry is not shown to its mirrors.
        let auth = auth.filter(|_| endpoint.host() == default_host(&reference.registry));
        Self { transport, endpoint, reference, auth, granted: Mutex::new(None) }
    }

    /// The manifest or index that a tag or digest names: its digest and bytes, checked where a digest is known.
    pub async fn manifest(&self, selector: &str) -> Result<(Digest, Bytes), ImageError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let response = self.request("manifests", selector, &headers).await?;
        let told = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok()?.parse::<Digest>().ok());
        let bytes = read_all(response, DOCUMENT_BYTES_MAX).await.map_err(ImageError::io(format!("reading manifest {selector}")))?;
        let digest = match selector.parse::<Digest>() {
            Ok(digest) => digest,
            Err(_) => told.unwrap_or_else(|| Digest::of(&bytes)),
        };
        digest.verify(&bytes, &format!("manifest of {}", self.reference))?;
        Ok((digest, bytes))
    }

    /// A small blob (a config), checked.
    pub async fn small_blob(&self, digest: &Digest) -> Result<Bytes, ImageError> {
        let response = self.request("blobs", digest.as_str(), &HeaderMap::new()).await?;
        let bytes = read_all(response, DOCUMENT_BYTES_MAX).await.map_err(ImageError::io(format!("reading blob {digest}")))?;
        digest.verify(&bytes, "blob")?;
        Ok(bytes)
    }

    /// Sends a blob's bytes, in order, to `sink`, from where it stopped when the connection breaks. Nothing is checked here. A `sink` that
    /// is closed wants no more.
    pub async fn blob(&self, digest: &Digest, size: u64, sink: mpsc::Sender<Bytes>) -> Result<(), ImageError> {
        let mut offset = 0u64;
        let mut failures = 0;
        loop {
            let before = offset;
            match self.blob_part(digest, &mut offset, size, &sink).await {
                Ok(()) => return Ok(()),
                Err(ImageError::Io(what, error)) => {
                    failures = if offset > before { 1 } else { failures + 1 };
                    if failures >= ATTEMPTS_MAX {
                        return Err(ImageError::Io(what, error));
                    }
                    tracing::warn!(%digest, offset, %error, "image layer transfer broke off, going on from there");
                    tokio::time::sleep(pause(failures, None)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn blob_part(&self, digest: &Digest, offset: &mut u64, size: u64, sink: &mpsc::Sender<Bytes>) -> Result<(), ImageError> {
        let broken = || format!("reading layer {digest}");
        let mut headers = HeaderMap::new();
        if *offset > 0 {
            headers.insert(header::RANGE, HeaderValue::from_str(&format!("bytes={offset}-")).map_err(|e| ImageError::Invalid(e.to_string()))?);
        }
        let response = self.request("blobs", digest.as_str(), &headers).await?;
        // A registry that ignores Range begins again at the first byte.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { *offset };
        let mut body = response.into_body();
        while *offset < size {
            let stalled = || io::Error::new(io::ErrorKind::TimedOut, "transfer stands still");
            let frame = tokio::time::timeout(STALL_TIMEOUT, body.frame()).await.map_err(|_| stalled()).map_err(ImageError::io(broken()))?;
            let Some(frame) = frame else { return Err(ImageError::Io(broken(), io::ErrorKind::UnexpectedEof.into())) };
            let Ok(mut data) = frame.map_err(io::Error::other).map_err(ImageError::io(broken()))?.into_data() else { continue };
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            data = data.slice(skipped as usize..);
            if data.is_empty() {
                continue;
            }
            // More than was announced cannot have the right digest.
            data.truncate(usize::try_from(size - *offset).unwrap_or(usize::MAX));
            *offset += data.len() as u64;
            if sink.send(data).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Asks, authenticates when told to, asks again; waits for a busy registry.
    async fn request(&self, kind: &str, selector: &str, headers: &HeaderMap) -> Result<Response<Incoming>, ImageError> {
        let mut url = format!("{}/{}/{kind}/{selector}", self.endpoint.base, self.endpoint.repository);
        if self.endpoint.host() != default_host(&self.reference.registry) {
            // A mirror of many registries wants to know which one is meant.
            url = format!("{url}?ns={}", self.reference.registry);
        }
        let mut headers = headers.clone();
        for (name, value) in &self.endpoint.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<header::HeaderName>(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        let uri: Uri = url.parse().map_err(|_| ImageError::Registry(format!("invalid registry address {url:?}")))?;
        let mut asked_for_token = false;
        for attempt in 1.. {
            let authorization = self.granted.lock().clone();
            let response = self.transport.send(Request::get(&uri, &headers), authorization.as_ref()).await;
            let response = match response {
                Ok(response) => response,
                Err(error) if attempt < ATTEMPTS_MAX && error.kind() == io::ErrorKind::ConnectionAborted => {
                    tokio::time::sleep(pause(attempt, None)).await;
                    continue;
                }
                Err(error) => return Err(ImageError::Registry(format!("failed to do request: Get {url:?}: {error}"))),
            };
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if !asked_for_token => {
                    asked_for_token = true;
                    let granted = self.authenticate(&response).await?;
                    *self.granted.lock() = Some(granted);
                }
                status if attempt < ATTEMPTS_MAX && is_busy(status) => {
                    let after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
                    tokio::time::sleep(pause(attempt, after)).await;
                }
                _ => return Err(self.refusal(&url, response).await),
            }
        }
        unreachable!("the loop ends by return")
    }

    /// What a refusal means, in the words of containerd.
    async fn refusal(&self, url: &str, response: Response<Incoming>) -> ImageError {
        let status = response.status();
        let body = read_all(response, 64 << 10).await.unwrap_or_default();
        match status {
            StatusCode::NOT_FOUND => ImageError::NotFound(self.reference.to_string()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ImageError::Registry(format!(
                "pull access denied, repository does not exist or may require authorization: server message: {}",
                server_message(&body).unwrap_or_else(|| "insufficient_scope: authorization failed".to_owned())
            )),
            StatusCode::TOO_MANY_REQUESTS => ImageError::Registry(format!(
                "unexpected status from GET request to {url}: 429 Too Many Requests\n{}",
                server_message(&body).unwrap_or_else(|| "toomanyrequests".to_owned())
            )),
            _ => ImageError::Registry(format!(
                "unexpected status from GET request to {url}: {status}{}",
                server_message(&body).map(|m| format!("\n{m}")).unwrap_or_default()
            )),
        }
    }

    /// An Authorization header that meets the challenge of a 401.
    async fn authenticate(&self, response: &Response<Incoming>) -> Result<HeaderValue, ImageError> {
        let challenges: Vec<_> = response.headers().get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| parse_challenge(v.to_str().ok()?)).collect();
        if let Some(auth) = self.auth.filter(|a| !a.registry_token.is_empty()) {
            return secret_header(format!("Bearer {}", auth.registry_token));
        }
        if let Some(challenge) = challenges.iter().find(|c| c.scheme == "bearer") {
            return self.fetch_token(challenge).await;
        }
        match (challenges.iter().any(|c| c.scheme == "basic"), self.credentials()) {
            (true, Some((user, password))) => basic(&user, &password),
            _ => Err(ImageError::Registry("failed to authorize: no basic auth credentials".to_owned())),
        }
    }

    fn credentials(&self) -> Option<(String, String)> {
        let given = self.auth.filter(|a| !a.username.is_empty()).map(|a| (a.username.clone(), a.password.clone()));
        given.or_else(|| self.endpoint.auth.clone())
    }

    async fn fetch_token(&self, challenge: &Challenge) -> Result<HeaderValue, ImageError> {
        let get = |key: &str| challenge.parameters.get(key).map_or("", String::as_str);
        let scope = if get("scope").is_empty() { format!("repository:{}:pull", self.endpoint.repository) } else { get("scope").to_owned() };
        let mut query = format!("scope={}", percent(&scope));
        if !get("service").is_empty() {
            query = format!("service={}&{query}", percent(get("service")));
        }
        let realm: Uri = get("realm").parse().map_err(|_| ImageError::Registry(format!("failed to authorize: invalid realm {:?}", get("realm"))))?;
        let authorization = self.credentials().map(|(user, password)| basic(&user, &password)).transpose()?;
        let known = authorization.is_some() || self.auth.is_some_and(|a| !a.identity_token.is_empty());
        let failed =
            |text: String| ImageError::Registry(format!("failed to authorize: failed to fetch {} token: {text}", if known { "oauth" } else { "anonymous" }));
        let request = match self.auth.filter(|a| !a.identity_token.is_empty()) {
            Some(auth) => {
                // OAuth2: the long-lived token buys a short-lived one.
                let form = format!("grant_type=refresh_token&client_id=knarr&refresh_token={}&{query}", percent(&auth.identity_token));
                Request::post_form(&realm, form)
            }
            None => {
                let glue = if realm.query().is_some() { '&' } else { '?' };
                let uri = format!("{realm}{glue}{query}").parse().map_err(|_| failed("invalid realm".to_owned()))?;
                Request::get(&uri, &HeaderMap::new())
            }
        };
        let authorization = authorization.filter(|_| request.is_get());
        let response = self.transport.send(request, authorization.as_ref()).await.map_err(|e| failed(e.to_string()))?;
        let status = response.status();
        let body = read_all(response, 1 << 20).await.map_err(|e| failed(e.to_string()))?;
        if status != StatusCode::OK {
            return Err(failed(format!("unexpected status from token request to {}: {status}", get("realm"))));
        }
        let token: Token = serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        secret_header(format!("Bearer {token}"))
    }
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, ImageError> {
    secret_header(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))))
}

fn secret_header(text: String) -> Result<HeaderValue, ImageError> {
    let mut value = HeaderValue::from_str(&text).map_err(|_| ImageError::Registry("failed to authorize: credentials contain control characters".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

fn pause(attempt: u32, asked: Option<u64>) -> Duration {
    asked.map_or(Duration::from_millis(100 << attempt.min(8)), Duration::from_secs).min(PAUSE_MAX)
}

async fn read_all(response: Response<Incoming>, limit: usize) -> io::Result<Bytes> {
    let body = http_body_util::Limited::new(response.into_body(), limit).collect();
    let body = tokio::time::timeout(STALL_TIMEOUT, body).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    Ok(body.map_err(io::Error::other)?.to_bytes())
}

/// The first error of a registry's error body: `CODE: message`.
fn server_message(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = body.get("errors")?.get(0)?;
    let text = |key: &str| error.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    let mut message = format!("{}: {}", text("code").to_lowercase(), text("message"));
    message.truncate(message.floor_char_boundary(QUOTE_BYTES_MAX));
    Some(message)
}

/// One way to authenticate that a registry offers.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: HashMap<String, String>,
}

/// Reads `Bearer realm="…",service="…",scope="a:b:pull,push"`.
fn parse_challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let mut parameters = HashMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        let Some((key, after)) = rest.split_once('=') else { break };
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        parameters.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        rest = after;
    }
    Some(Challenge { scheme: scheme.to_ascii_lowercase(), parameters })
}

fn percent(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() || b"-._~:/".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_inside_quotes() {
        let challenge = parse_challenge(r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:a/b:pull,push""#).unwrap();
        let get = |key: &str| challenge.parameters.get(key).map(String::as_str);
        assert_eq!(
            (challenge.scheme.as_str(), get("realm"), get("service"), get("scope")),
            ("bearer", Some("https://a.io/token"), Some("r.io"), Some("repository:a/b:pull,push"))
        );
        assert_eq!(parse_challenge("Basic realm=x").unwrap().scheme, "basic");
        assert_eq!(parse_challenge(r#"Bearer realm="unfinished"#), None);
    }

    #[test]
    fn only_registries_on_this_machine_are_spoken_to_in_plain_http() {
        let check = |registry: &str, base: &str| assert_eq!(default_base(registry), base);
        check("docker.io", "https://registry-1.docker.io/v2");
        check("quay.io", "https://quay.io/v2");
        check("127.0.0.1:5000", "http://127.0.0.1:5000/v2");
        check("127.0.0.2", "http://127.0.0.2/v2");
        check("localhost:5000", "http://localhost:5000/v2");
        check("[::1]:5000", "http://[::1]:5000/v2");
        check("10.0.0.1:5000", "https://10.0.0.1:5000/v2");
        check("localhost.evil.io", "https://localhost.evil.io/v2");
    }
}
