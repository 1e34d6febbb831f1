//! `kubectl proxy`: the API of a cluster at an address of this machine, without certificates and tokens, which this program adds.
//! Follows `k8s.io/kubectl/pkg/cmd/proxy` and `pkg/proxy/proxy_server.go`; static files are in [`super::proxy_files`].

use std::convert::Infallible;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use knarr_client::TlsTransport;
use regex::Regex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::proxy_files;
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result, go_io};
use crate::kubectl::flags::{Flags, int, switch, text, time};
use crate::kubectl::print::out;

const PORT_DEFAULT: &str = "8001";
/// A request with a longer body is refused: it is read whole before it is passed on.
const BODY_BYTES_MAX: usize = 64 << 20;
/// What belongs to one connection and is not passed on (`httputil.ReverseProxy`).
const HOP_BY_HOP: &[&str] =
    &["connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"];
/// Answers for scripts of other sites are not passed on (`proxy.corsRemovingTransport`).
const CORS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
];

pub static VERB: Verb = Verb {
    name: "proxy",
    usage: "[--port=PORT] [--www=static-dir] [--www-prefix=prefix] [--api-prefix=prefix]",
    about: "Run a proxy to the Kubernetes API server",
    flags: &[&[
        text("www", "", "Also serve static files from the given directory under the specified prefix").short('w'),
        text("www-prefix", "/static/", "Prefix to serve static files under, if a directory of them is given").short('P'),
        text("api-prefix", "/", "Prefix to serve the proxied API under"),
        text("accept-paths", "^.*", "Regular expressions of paths that the proxy accepts"),
        text("reject-paths", "^/api/.*/pods/.*/exec,^/api/.*/pods/.*/attach", "Regular expressions of paths that the proxy rejects, even if they are accepted"),
        text("accept-hosts", "^localhost$,^127\\.0\\.0\\.1$,^\\[::1\\]$", "Regular expressions of hosts that the proxy accepts"),
        text("reject-methods", "^$", "Regular expressions of HTTP methods that the proxy rejects"),
        int("port", PORT_DEFAULT, "The port on which to run the proxy; 0 picks a free one").short('p'),
        text("address", "127.0.0.1", "The IP address on which to serve"),
        switch("disable-filter", "Disable request filtering. This is dangerous: any web page may then use the proxy"),
        text("unix-socket", "", "Unix socket on which to run the proxy").short('u'),
        time("keepalive", "0s", "The keep-alive period of an active network connection; accepted, the system's holds"),
        switch("append-server-path", "Append the path of the kubeconfig's server to each request; this is always done"),
    ]],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// What is passed on.
struct Filter {
    accept_paths: Vec<Regex>,
    reject_paths: Vec<Regex>,
    accept_hosts: Vec<Regex>,
    reject_methods: Vec<Regex>,
}

impl Filter {
    fn of(flags: &Flags) -> Result<Self> {
        let read = |flag: &str| expressions(flags.text(flag));
        Ok(Self {
            accept_paths: read("accept-paths")?,
            reject_paths: read("reject-paths")?,
            accept_hosts: read("accept-hosts")?,
            reject_methods: read("reject-methods")?,
        })
    }

    fn accepts(&self, method: &str, path: &str, host: &str) -> bool {
        let any = |expressions: &[Regex], text: &str| expressions.iter().any(|e| e.is_match(text));
        !any(&self.reject_paths, path) && !any(&self.reject_methods, method) && any(&self.accept_paths, path) && any(&self.accept_hosts, host)
    }
}

fn expressions(list: &str) -> Result<Vec<Regex>> {
    let read = |text: &str| {
        Regex::new(text).map_err(|e| {
            eprintln!("Error compiling re: {e}");
            Failure::Exit(255)
        })
    };
    list.split(',').filter(|_| !list.is_empty()).map(read).collect()
}

/// The proxy's own side.
struct Server {
    transport: TlsTransport,
    /// Both end with a slash.
    api_prefix: String,
    files_prefix: String,
    files: Option<PathBuf>,
    filter: Option<Filter>,
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The API, under this path.
    Api(String),
    /// A file below the folder.
    File(String),
    Elsewhere(String),
    Nowhere,
}

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let session = cx.session()?;
    let server = Arc::new(Server::of(flags, session.transport.clone())?);
    if flags.text("port") != PORT_DEFAULT && flags.some("unix-socket").is_some() {
        return Err("cannot set --unix-socket and --port at the same time".into());
    }
    if let Some(folder) = server.files.as_deref().filter(|f| !f.is_dir()) {
        match std::fs::metadata(folder) {
            Err(e) => warn(&format!("Failed to stat static file directory {}: stat {}: {}", folder.display(), folder.display(), go_io(&e))),
            Ok(_) => warn(&format!("Static file directory {} is not a directory", folder.display())),
        }
    }
    if let Some(path) = flags.some("unix-socket") {
        let listener = listen_unix(path)?;
        out(&format!("Starting to serve on {path}\n"))?;
        return serve(futures::stream::unfold(listener, |l| async { Some((l.accept().await.map(|(s, _)| (s, None)), l)) }), server).await;
    }
    let listener = listen(flags.text("address"), flags.text("port")).await?;
    out(&format!("Starting to serve on {}\n", listener.local_addr()?))?;
    serve(futures::stream::unfold(listener, |l| async { Some((l.accept().await.map(|(s, peer)| (s, Some(peer.ip()))), l)) }), server).await
}

fn warn(text: &str) {
    eprintln!("Warning: {text}");
}

async fn listen(address: &str, port: &str) -> Result<TcpListener> {
    let number: u16 = port.parse().map_err(|_| format!("listen tcp: address {port}: invalid port"))?;
    TcpListener::bind((address, number)).await.map_err(|e| format!("listen tcp {address}:{number}: bind: {}", go_io(&e)).into())
}

/// A socket that was left is taken away, any other file is not. Only its owner may use it.
fn listen_unix(path: &str) -> Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let refused = |e: std::io::Error| Failure::from(format!("listen unix {path}: bind: {}", go_io(&e)));
    let listener = UnixListener::bind(path).map_err(refused)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(refused)?;
    Ok(listener)
}

/// Serves every connection until interrupted.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    connections: impl futures::Stream<Item = std::io::Result<(S, Option<std::net::IpAddr>)>>,
    server: Arc<Server>,
) -> Result<()> {
    let mut connections = std::pin::pin!(connections);
    loop {
        let next = tokio::select! {
            next = connections.next() => next,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(connection) = next else { return Ok(()) };
        let (stream, peer) = connection?;
        let server = server.clone();
        let service = hyper::service::service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request, peer).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        // A client that goes away is its own business.
        tokio::spawn(async move { connection.await.ok() });
    }
}

impl Server {
    fn of(flags: &Flags, transport: TlsTransport) -> Result<Self> {
        let prefix = |flag: &str| {
            let text = flags.text(flag);
            if text.ends_with('/') { text.to_owned() } else { format!("{text}/") }
        };
        let filter = if flags.on("disable-filter") {
            if flags.some("unix-socket").is_none() {
                warn("Request filter disabled, your proxy is vulnerable to XSRF attacks, please be cautious");
            }
            None
        } else {
            if flags.text("reject-paths").is_empty() || flags.text("reject-methods").is_empty() {
                warn("Request filter has been relaxed, your proxy may be vulnerable to attacks, please be cautious");
            }
            Some(Filter::of(flags)?)
        };
        Ok(Self { transport, api_prefix: prefix("api-prefix"), files_prefix: prefix("www-prefix"), files: flags.some("www").map(PathBuf::from), filter })
    }

    /// As Go's `ServeMux` and `stripLeaveSlash` would have it: the longer prefix wins, one that lacks its slash is told so, and the
    /// prefix of the API is taken off unless it is one that the API has itself.
    fn place(&self, path: &str) -> Place {
        let clean = cleaned(path);
        if clean != path {
            return Place::Elsewhere(clean);
        }
        let prefixes = [(&self.api_prefix, true), (&self.files_prefix, false)];
        let served = prefixes.into_iter().filter(|(_, api)| *api || self.files.is_some());
        let Some((prefix, api)) = served.clone().filter(|(p, _)| path.starts_with(p.as_str())).max_by_key(|(p, _)| p.len()) else {
            let bare = served.clone().any(|(p, _)| p.strip_suffix('/') == Some(path));
            return if bare { Place::Elsewhere(format!("{path}/")) } else { Place::Nowhere };
        };
        let rest = &path[prefix.len()..];
        match api {
            false => Place::File(rest.to_owned()),
            true if prefix.starts_with("/api") => Place::Api(path.to_owned()),
            true => Place::Api(format!("/{rest}")),
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: Option<std::net::IpAddr>) -> Response<Body> {
        let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
        match self.place(request.uri().path()) {
            Place::Nowhere => plain(StatusCode::NOT_FOUND, "404 page not found"),
            Place::Elsewhere(path) => redirect(&format!("{path}{query}"), request.method()),
            Place::File(path) => match &self.files {
                Some(folder) => proxy_files::answer(folder, request.uri().path(), &path, request.method()).map(|b| b.map_err(|e| match e {}).boxed()),
                None => plain(StatusCode::NOT_FOUND, "404 page not found"),
            },
            Place::Api(path) => {
                let named = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
                if self.filter.as_ref().is_some_and(|f| !f.accepts(request.method().as_str(), &decoded(&path), host(named))) {
                    return plain(StatusCode::FORBIDDEN, "Forbidden");
                }
                self.pass_on(request, &format!("{path}{query}"), peer).await.unwrap_or_else(|error| {
                    eprintln!("Error while proxying request: {error}");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, &error)
                })
            }
        }
    }

    async fn pass_on(&self, mut request: Request<Incoming>, path: &str, peer: Option<std::net::IpAddr>) -> std::result::Result<Response<Body>, String> {
        let upgrade = upgrade_of(request.headers());
        let theirs = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        let bytes = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(whole) => whole.to_bytes(),
            Err(_) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large to be passed on")),
        };
        let mut onwards = Request::builder().method(head.method.clone()).uri(path).body(bytes).map_err(|e| e.to_string())?;
        *onwards.headers_mut() = passed_on(&head.headers, upgrade.as_ref(), peer);
        if let Some(theirs) = theirs {
            let (response, ours) = self.transport.upgrade(onwards).await.map_err(|e| e.to_string())?;
            if let Some(mut ours) = ours {
                tokio::spawn(async move {
                    if let Ok(theirs) = theirs.await {
                        // Either side may end it.
                        tokio::io::copy_bidirectional(&mut TokioIo::new(theirs), &mut ours).await.ok();
                    }
                });
            }
            let (mut head, body) = response.into_parts();
            head.version = http::Version::HTTP_11;
            return Ok(Response::from_parts(head, whole(body)));
        }
        let response = self.transport.request(onwards).await.map_err(|e| e.to_string())?;
        let (mut answer, body) = response.into_parts();
        answer.version = http::Version::HTTP_11;
        for name in HOP_BY_HOP.iter().chain(CORS) {
            answer.headers.remove(*name);
        }
        Ok(Response::from_parts(answer, body.map_err(Into::into).boxed()))
    }
}

/// The protocol that a request wants to change to, when it does.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let wanted = wanted.map(str::trim).any(|v| v.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wanted).cloned()
}

/// Headers as the server gets them.
fn passed_on(headers: &HeaderMap, upgrade: Option<&HeaderValue>, peer: Option<std::net::IpAddr>) -> HeaderMap {
    let named: Vec<String> =
        headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(|v| v.trim().to_lowercase()).collect();
    let kept = |name: &HeaderName| {
        !HOP_BY_HOP.contains(&name.as_str()) && !named.iter().any(|n| n == name.as_str()) && name != header::HOST && name != header::CONTENT_LENGTH
    };
    let mut out: HeaderMap = headers.iter().filter(|(name, _)| kept(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Some(protocol) = upgrade {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, protocol.clone());
    }
    if let Some(peer) = peer {
        let before = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok()).map(|v| format!("{v}, ")).unwrap_or_default();
        HeaderValue::from_str(&format!("{before}{peer}")).into_iter().for_each(|v| drop(out.insert("x-forwarded-for", v)));
    }
    out
}

/// `http.Redirect`
fn redirect(to: &str, method: &Method) -> Response<Body> {
    let read = matches!(*method, Method::GET | Method::HEAD);
    let link = to.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;");
    let text = if *method == Method::GET { format!("<a href=\"{link}\">Temporary Redirect</a>.\n\n") } else { String::new() };
    let mut response = Response::new(whole(text.into()));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    HeaderValue::from_str(to).into_iter().for_each(|to| drop(response.headers_mut().insert(header::LOCATION, to)));
    if read {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    response
}

/// `http.Error`
pub(super) fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(whole(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|e| match e {}).boxed()
}

/// The host of a `Host` header (`net.SplitHostPort`, or all of it when there is no port).
fn host(named: &str) -> &str {
    match named.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) => {
            host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
        }
        _ => named,
    }
}

/// `path.Clean`, with the slash at the end kept.
pub(super) fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    clean
}

/// Takes percent signs out, as expressions are compared with what a path means.
pub(super) fn decoded(path: &str) -> String {
    let (bytes, mut out, mut at) = (path.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubectl::command;

    fn server(line: &str) -> Server {
        let line: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let cx = command::read(&crate::kubectl::ROOT, &line).unwrap().unwrap();
        Server::of(&cx.flags, TlsTransport::new(knarr_client::tls::Config::new("http://localhost:1")).unwrap()).unwrap()
    }

    #[test]
    fn paths_lead_to_the_api_or_to_files() {
        let api = |path: &str| Place::Api(path.to_owned());
        let plain = server("proxy");
        assert_eq!(plain.place("/api/v1"), api("/api/v1"));
        assert_eq!(plain.place("/"), api("/"));
        assert_eq!(plain.place("/a//b/../c"), Place::Elsewhere("/a/c".into()));
        let both = server("proxy --www=/srv --www-prefix=/my --api-prefix=/custom");
        assert_eq!(both.place("/custom/api/v1/"), api("/api/v1/"));
        assert_eq!(both.place("/custom"), Place::Elsewhere("/custom/".into()));
        assert_eq!(both.place("/api/v1"), Place::Nowhere);
        assert_eq!(both.place("/my/a/b.html"), Place::File("a/b.html".into()));
        let part = server("proxy --www=/srv --www-prefix=/ --api-prefix=/api/");
        assert_eq!((part.place("/api/v1"), part.place("/x")), (api("/api/v1"), Place::File("x".into())));
    }

    #[test]
    fn only_what_was_allowed_passes() {
        let filter = server("proxy").filter.unwrap();
        assert!(filter.accepts("GET", "/api/v1/pods", "localhost") && filter.accepts("DELETE", "/x", "127.0.0.1"));
        assert!(!filter.accepts("GET", "/api/v1/pods", "evil.example"));
        assert!(!filter.accepts("POST", "/api/v1/namespaces/a/pods/b/exec", "localhost"));
        let own = server("proxy --accept-hosts=.* --reject-methods=POST,PUT --accept-paths=^/version").filter.unwrap();
        assert!(own.accepts("GET", "/version", "any") && !own.accepts("POST", "/version", "any") && !own.accepts("GET", "/api", "any"));
        assert!(server("proxy --disable-filter").filter.is_none());
        assert_eq!((host("localhost:80"), host("localhost"), host("[::1]:80"), host("::1")), ("localhost", "localhost", "::1", "::1"));
        assert_eq!(expressions("(").unwrap_err().code(), 255);
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, x-own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("host", "localhost"),
            ("accept", "*/*"),
            ("x-forwarded-for", "192.0.2.7"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        assert_eq!(upgrade_of(&headers), None);
        let passed = passed_on(&headers, None, "127.0.0.1".parse().ok());
        let mut shown: Vec<String> = passed.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        shown.sort();
        assert_eq!(shown, ["accept: */*", "x-forwarded-for: 192.0.2.7, 127.0.0.1"]);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let protocol = upgrade_of(&headers).unwrap();
        assert_eq!(passed_on(&headers, Some(&protocol), None).get(header::UPGRADE).unwrap(), "websocket");
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!((decoded("/a%2Fb%zz%"), decoded("%C3%A4")), ("/a/b%zz%".into(), "ä".into()));
    }
}
