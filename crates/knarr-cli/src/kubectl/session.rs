//! Who talks to which server, in which namespace: what the flags that every verb takes say, and requests as verbs make them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use http::{Method, header};
use http_body_util::BodyExt;
use knarr_client::kubeconfig::{self, Kubeconfig, Overrides};
use knarr_client::{Client, TlsTransport};
use knarr_core::{Reason, Status, Value};
use knarr_schema::codec;

use super::failure::{Failure, Result};
use super::flags::{Flag, Flags, int, many, switch, text, time};

/// Flags that every verb takes.
pub const GLOBAL: &[Flag] = &[
    text("kubeconfig", "", "Path to the kubeconfig file to use for CLI requests."),
    text("context", "", "The name of the kubeconfig context to use"),
    text("cluster", "", "The name of the kubeconfig cluster to use"),
    text("user", "", "The name of the kubeconfig user to use"),
    text("namespace", "", "If present, the namespace scope for this CLI request").short('n'),
    text("server", "", "The address and port of the Kubernetes API server").short('s'),
    text("token", "", "Bearer token for authentication to the API server"),
    text("username", "", "Username for basic authentication to the API server"),
    text("password", "", "Password for basic authentication to the API server"),
    text("as", "", "Username to impersonate for the operation"),
    many("as-group", "Group to impersonate; can be repeated"),
    text("as-uid", "", "UID to impersonate for the operation"),
    many("as-user-extra", "User extras to impersonate; can be repeated"),
    switch("insecure-skip-tls-verify", "Do not check the server's certificate"),
    text("certificate-authority", "", "Path to a cert file for the certificate authority"),
    text("client-certificate", "", "Path to a client certificate file for TLS"),
    text("client-key", "", "Path to a client key file for TLS"),
    text("tls-server-name", "", "Name to check the server's certificate for"),
    text("request-timeout", "0", "How long to wait for one server request; 0 is without limit"),
    switch("disable-compression", "Ask for answers that are not compressed"),
    switch("match-server-version", "Require the server's version to be the client's"),
    switch("warnings-as-errors", "Treat warnings of the server as errors"),
    text("cache-dir", "", "Accepted; nothing is cached"),
    text("kuberc", "", "Accepted; preferences are not read"),
    text("profile", "none", "Accepted; nothing is profiled"),
    text("profile-output", "profile.pprof", "Accepted; nothing is profiled"),
    int("v", "0", "Accepted; nothing is logged").short('v'),
    text("vmodule", "", "Accepted; nothing is logged"),
    time("log-flush-frequency", "5s", "Accepted; nothing is logged"),
];

/// A connection with what the flags say.
pub struct Session {
    pub transport: TlsTransport,
    pub client: Client,
    pub namespace: String,
    /// The namespace was named by a flag: objects that name another one are refused.
    pub namespace_named: bool,
    warned: RefCell<BTreeSet<String>>,
    warnings_fail: bool,
}

/// What the flags set over the kubeconfig.
pub fn overrides(flags: &Flags) -> Overrides {
    let some = |name: &str| flags.some(name).map(str::to_owned);
    Overrides {
        context: some("context"),
        cluster: some("cluster"),
        user: some("user"),
        namespace: some("namespace"),
        server: some("server"),
        token: some("token"),
        certificate_authority: some("certificate-authority"),
        client_certificate: some("client-certificate"),
        client_key: some("client-key"),
        insecure_skip_tls_verify: flags.given("insecure-skip-tls-verify").then(|| flags.on("insecure-skip-tls-verify")),
        tls_server_name: some("tls-server-name"),
        impersonate: some("as"),
        impersonate_uid: some("as-uid"),
        impersonate_groups: flags.all("as-group"),
    }
}

/// The kubeconfig that the flags and the environment name.
pub fn kubeconfig(flags: &Flags) -> Result<Kubeconfig> {
    let named = flags.some("kubeconfig").map(Path::new);
    if let Some(path) = named.filter(|p| !p.exists()) {
        return Err(format!("stat {}: no such file or directory", path.display()).into());
    }
    let paths = kubeconfig::default_paths(named, |name| std::env::var(name).ok());
    Kubeconfig::load(&paths).map_err(|e| e.to_string().into())
}

/// The namespace that counts, without any connection.
pub fn namespace(flags: &Flags) -> Result<String> {
    let context = kubeconfig(flags)?.context(&overrides(flags)).map_err(|e| e.to_string())?;
    Ok(context.namespace.unwrap_or_else(|| "default".into()))
}

/// A parameter of a request's query.
pub type Query = Vec<(&'static str, String)>;

/// A path with its query.
pub fn with_query(path: &str, query: &[(&'static str, String)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let pairs: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    format!("{path}{}{}", if path.contains('?') { '&' } else { '?' }, pairs.join("&"))
}

/// Percent-encodes everything but unreserved characters.
pub fn encode(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) { (b as char).to_string() } else { format!("%{b:02X}") }).collect()
}

pub const JSON: &str = "application/json";
const ACCEPT_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

impl Session {
    pub fn open(flags: &Flags) -> Result<Self> {
        let config = kubeconfig(flags)?;
        let overrides = overrides(flags);
        let context = config.context(&overrides).map_err(|e| configuration(&e))?;
        let mut tls = match config.client_config(&overrides) {
            Ok(tls) => tls,
            // kubectl's own last resort, outside of a pod.
            Err(kubeconfig::Error::Invalid(why)) if why.starts_with("no configuration") => {
                knarr_client::kubeconfig::in_cluster(|name| std::env::var(name).ok())
                    .unwrap_or_else(|_| knarr_client::tls::Config::new("http://localhost:8080"))
            }
            Err(e) => return Err(configuration(&e)),
        };
        if let Some(user) = flags.some("username") {
            tls.identity = knarr_client::tls::Identity::Basic { username: user.into(), password: flags.text("password").into() };
        }
        for extra in flags.all("as-user-extra") {
            let Some((key, value)) = extra.split_once('=') else { continue };
            let name = http::HeaderName::from_bytes(format!("impersonate-extra-{}", encode(key)).as_bytes()).map_err(|e| e.to_string())?;
            tls.headers.push((name, http::HeaderValue::from_str(value).map_err(|e| e.to_string())?));
        }
        tls.user_agent = format!("kubectl/{} (linux/{}) kubernetes", knarr_core::KUBERNETES_VERSION, crate::kubectl::go_arch());
        let transport = TlsTransport::new(tls).map_err(|e| e.to_string())?;
        Ok(Self {
            client: transport.client(),
            transport,
            namespace: context.namespace.unwrap_or_else(|| "default".into()),
            namespace_named: flags.given("namespace"),
            warned: RefCell::default(),
            warnings_fail: flags.on("warnings-as-errors"),
        })
    }

    fn warn(&self, headers: &http::HeaderMap) {
        for text in headers.get_all(header::WARNING).iter().filter_map(|h| h.to_str().ok()).filter_map(warning_text) {
            if self.warned.borrow_mut().insert(text.clone()) {
                eprintln!("Warning: {text}");
            }
        }
    }

    /// Whether there were warnings and they count as errors.
    ///
    /// # Errors
    /// How many there were.
    pub fn warnings(&self) -> Result<()> {
        match self.warned.borrow().len() {
            n if n > 0 && self.warnings_fail => Err(format!("{n} warning{} received", if n == 1 { "" } else { "s" }).into()),
            _ => Ok(()),
        }
    }

    /// Sends a request and gives the body of a successful answer.
    pub async fn send(&self, method: Method, path: &str, content_type: Option<&str>, accept: &str, body: impl Into<Bytes>) -> Result<Bytes> {
        let mut request = http::Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body.into()).map_err(|e| e.to_string())?;
        let response = self.transport.fetch(request).await.map_err(|e| self.unreachable(&e))?;
        self.warn(response.headers());
        if response.status().is_success() { Ok(response.into_body()) } else { Err(refusal(response.status(), response.body())) }
    }

    async fn json(&self, method: Method, path: &str, content_type: Option<&str>, accept: &str, body: Option<&Value>) -> Result<Value> {
        let bytes = body.map(ToString::to_string).unwrap_or_default();
        let answer = self.send(method, path, body.and(content_type), accept, bytes).await?;
        codec::parse_json(&answer).map_err(|e| format!("{path}: {e}").into())
    }

    /// A GET whose answer is JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.json(Method::GET, path, None, JSON, None).await
    }

    /// A GET that asks for a certain form.
    pub async fn get_as(&self, path: &str, accept: &str) -> Result<Value> {
        self.json(Method::GET, path, None, accept, None).await
    }

    /// A GET whose answer is a `Table`, if the server can make one.
    pub async fn table(&self, path: &str) -> Result<Value> {
        self.get_as(path, ACCEPT_TABLE).await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Result<Value> {
        self.json(Method::POST, path, Some(JSON), JSON, Some(object)).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Result<Value> {
        self.json(Method::PUT, path, Some(JSON), JSON, Some(object)).await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.json(Method::DELETE, path, Some(JSON), JSON, Some(options)).await
    }

    /// `content_type` says which of the patches it is.
    pub async fn patch(&self, path: &str, content_type: &str, patch: &Value) -> Result<Value> {
        self.json(Method::PATCH, path, Some(content_type), JSON, Some(patch)).await
    }

    /// An open answer, to be read as it comes.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let request = http::Request::get(path).header(header::ACCEPT, accept).body(Bytes::new()).map_err(|e| e.to_string())?;
        let response = self.transport.request(request).await.map_err(|e| self.unreachable(&e))?;
        self.warn(response.headers());
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            return Err(refusal(head.status, &bytes));
        }
        let frames = body.into_data_stream().map(|frame| frame.map_err(|e| Failure::from(e.to_string())));
        Ok(frames.boxed())
    }

    /// The events of a watch: each with `type` and `object`.
    pub async fn watch(&self, path: &str, tables: bool) -> Result<BoxStream<'static, Result<Value>>> {
        let frames = self.stream(path, if tables { ACCEPT_TABLE } else { JSON }).await?;
        let state = (frames, Vec::<u8>::new());
        let events = futures::stream::unfold(state, |(mut frames, mut buffer)| async move {
            loop {
                if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    if line.iter().all(u8::is_ascii_whitespace) {
                        continue;
                    }
                    let event = codec::parse_json(&line).map_err(Failure::from);
                    return Some((event, (frames, buffer)));
                }
                match frames.next().await {
                    Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
                    Some(Err(e)) => return Some((Err(e), (frames, buffer))),
                    None => return None,
                }
            }
        });
        Ok(events.boxed())
    }

    /// A request that becomes a stream of frames (`exec`, `attach`, `portforward`).
    pub async fn upgrade(&self, path: &str, protocol: &str) -> Result<knarr_client::tls::Upgraded> {
        let request = http::Request::get(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "a25hcnIga25hcnIga25hcg==")
            .header("Sec-WebSocket-Protocol", protocol)
            .body(Bytes::new())
            .map_err(|e| e.to_string())?;
        let (response, upgraded) = self.transport.upgrade(request).await.map_err(|e| self.unreachable(&e))?;
        self.warn(response.headers());
        // Whatever the reason is, only its text is told (`spdy.upgradeErrorMessage`).
        upgraded.ok_or_else(|| Failure::Other(format!("unable to upgrade connection: {}", refusal(response.status(), response.body()).message())))
    }

    fn unreachable(&self, error: &knarr_client::tls::Error) -> Failure {
        let server = self.transport.server();
        if error.is_refused() {
            let host = server.split("://").nth(1).unwrap_or(server).trim_end_matches('/');
            return Failure::Plain(format!("The connection to the server {host} was refused - did you specify the right host or port?"));
        }
        Failure::Plain(format!("Unable to connect to the server: {error}"))
    }
}

fn configuration(error: &kubeconfig::Error) -> Failure {
    match error {
        kubeconfig::Error::Invalid(why) if why.starts_with("context ") => {
            let name = why.split('"').nth(1).unwrap_or_default();
            Failure::Plain(format!("Error in configuration: context was not found for specified context: {name}"))
        }
        other => Failure::Other(other.to_string()),
    }
}

/// `299 - "text"`
fn warning_text(header: &str) -> Option<String> {
    let rest = header.strip_prefix("299 ")?;
    let quoted = &rest[rest.find('"')?..];
    serde_json::from_str(quoted).ok().or_else(|| Some(quoted.trim_matches('"').to_owned()))
}

/// What an answer that is no success says (`rest.Request.transformResponse`).
fn refusal(code: http::StatusCode, body: &[u8]) -> Failure {
    if let Some(status) = Status::from_json(body) {
        return status.into();
    }
    let text = String::from_utf8_lossy(body).trim().to_owned();
    let (reason, message) = match code.as_u16() {
        404 => (Reason::NotFound, "the server could not find the requested resource".to_owned()),
        401 => (Reason::Unauthorized, "the server has asked for the client to provide credentials".to_owned()),
        403 => (Reason::Forbidden, text),
        405 => (Reason::MethodNotAllowed, "the server does not allow this method on the requested resource".to_owned()),
        406 => (Reason::NotAcceptable, text),
        415 => (Reason::UnsupportedMediaType, text),
        503 => (Reason::ServiceUnavailable, if text.is_empty() { "the server is currently unable to handle the request".into() } else { text }),
        code => (
            Reason::InternalError,
            format!("an error on the server ({}) has prevented the request from succeeding", serde_json::to_string(&text).unwrap_or_default())
                .replace("\"\"", "\"unknown\"")
                + if code == 0 { "!" } else { "" },
        ),
    };
    Status::new(code.as_u16(), reason, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_read_out_of_its_header() {
        assert_eq!(warning_text("299 - \"v1 X is \\\"old\\\"\"").as_deref(), Some("v1 X is \"old\""));
        assert_eq!(warning_text("199 - \"x\""), None);
        assert_eq!(with_query("/a", &[("labelSelector", "a=b".into())]), "/a?labelSelector=a%3Db");
    }
}
