//! Links of proxied pages: what leads to the backend's own root leads through the proxy instead
//! (upstream: `k8s.io/apimachinery/pkg/util/proxy/transport.go`).

use std::io::{Read, Write};

use bytes::{Bytes, BytesMut};
use flate2::{
    Compression,
    read::{DeflateDecoder, GzDecoder},
    write::{DeflateEncoder, GzEncoder},
};
use futures::StreamExt;
use html5gum::{
    Span, Tokenizer,
    emitters::callback::{CallbackEmitter, CallbackEvent},
};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use knarr_core::{Result, Status};

use crate::http::{Body, BoxError};

/// Larger pages are handed on as they are.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Attributes that hold a URL, by tag.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// What the links of one answer lead to.
pub struct Links {
    /// Our own path up to and with `…/proxy`.
    pub prefix: String,
    /// Host and port that were dialled.
    pub backend: String,
    /// Host and port that the client asked for.
    pub asked: String,
}

impl Links {
    /// A URL as the client can follow it. None: it is left as it is.
    pub fn rewritten(&self, url: &str) -> Option<String> {
        let parts = Parts::of(url)?;
        let elsewhere = parts.host.is_some_and(|host| !host.is_empty() && host != self.backend && host != self.asked);
        if elsewhere || !parts.path.starts_with('/') {
            return None;
        }
        // Who names the host that the client asked for may go on doing so.
        let origin = match (parts.scheme, parts.host) {
            (scheme, Some(host)) if !host.is_empty() && host == self.asked => scheme.map_or_else(|| format!("//{host}"), |s| format!("{s}://{host}")),
            _ => String::new(),
        };
        if parts.path.starts_with(&self.prefix) {
            return Some(format!("{origin}{}{}", parts.path, parts.rest));
        }
        let slash = if parts.path.ends_with('/') { "/" } else { "" };
        Some(format!("{origin}{}{slash}{}", joined(&self.prefix, parts.path), parts.rest))
    }

    /// Changes an answer on its way: its `Location`, and the links of a page.
    ///
    /// # Errors
    /// When a page that says it is compressed is not.
    pub async fn rewrite(&self, answer: http::Response<Body>) -> Result<http::Response<Body>> {
        let (mut parts, body) = answer.into_parts();
        if let Some(location) = parts.headers.get(LOCATION).and_then(|l| l.to_str().ok()) {
            if let Some(moved) = self.rewritten(location).and_then(|l| HeaderValue::try_from(l).ok()) {
                parts.headers.insert(LOCATION, moved);
            }
            return Ok(http::Response::from_parts(parts, body));
        }
        let header = |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
        let is_page = header(CONTENT_TYPE).split(';').next().unwrap_or_default().trim() == "text/html";
        let Some(encoding) = Encoding::of(header(CONTENT_ENCODING)).filter(|_| is_page) else {
            return Ok(http::Response::from_parts(parts, body));
        };
        let body = match gather(body).await? {
            Gathered::All(bytes) if bytes.is_empty() => Body::Full(bytes),
            Gathered::All(bytes) => match self.page(&bytes, encoding)? {
                Some(page) => {
                    parts.headers.remove(CONTENT_LENGTH);
                    Body::from(page)
                }
                None => Body::Full(bytes),
            },
            Gathered::TooLarge(body) => body,
        };
        Ok(http::Response::from_parts(parts, body))
    }

    /// The page with its links rewritten; none when it is too large.
    fn page(&self, bytes: &[u8], encoding: Encoding) -> Result<Option<Vec<u8>>> {
        let broken = |e: std::io::Error| Status::internal(format!("the page cannot be read: {e}"));
        let Some(plain) = encoding.decoded(bytes).map_err(broken)? else { return Ok(None) };
        encoding.encoded(self.html(&plain)).map(Some).map_err(broken)
    }

    /// Copies a page. Tags that begin an element are written anew, everything else stays to the byte.
    fn html(&self, page: &[u8]) -> Vec<u8> {
        let (mut out, mut copied) = (Vec::with_capacity(page.len() + page.len() / 8), 0);
        let mut tag = Tag::default();
        let mut emitter = CallbackEmitter::<_, std::convert::Infallible, usize>::new(|event: CallbackEvent<'_>, span: Span<usize>| {
            match event {
                CallbackEvent::OpenStartTag { name } => tag = Tag { start: span.start, name: name.to_owned(), attributes: Vec::new() },
                CallbackEvent::AttributeName { name } => tag.attributes.push((name.to_owned(), Vec::new())),
                CallbackEvent::AttributeValue { value } => tag.attributes.last_mut().into_iter().for_each(|a| a.1 = value.to_owned()),
                CallbackEvent::CloseStartTag { self_closing } => {
                    out.extend_from_slice(page.get(copied..tag.start).unwrap_or_default());
                    tag.write(self, self_closing, &mut out);
                    copied = span.end;
                }
                _ => {}
            }
            None
        });
        emitter.naively_switch_states(true);
        let Ok(()) = Tokenizer::new_with_emitter(page, emitter).finish();
        out.extend_from_slice(page.get(copied..).unwrap_or_default());
        out
    }
}

#[derive(Default)]
struct Tag {
    start: usize,
    name: Vec<u8>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Tag {
    fn write(&self, links: &Links, self_closing: bool, out: &mut Vec<u8>) {
        let with_urls = LINKS.iter().find(|(name, _)| name.as_bytes() == self.name).map_or(&[][..], |(_, attributes)| *attributes);
        out.push(b'<');
        out.extend_from_slice(&self.name);
        for (key, value) in &self.attributes {
            let is_url = with_urls.iter().any(|a| a.as_bytes() == &key[..]);
            let moved = std::str::from_utf8(value).ok().filter(|_| is_url).and_then(|url| links.rewritten(url));
            out.push(b' ');
            out.extend_from_slice(key);
            out.extend_from_slice(b"=\"");
            escape(moved.as_ref().map_or(&value[..], String::as_bytes), out);
            out.push(b'"');
        }
        out.extend_from_slice(if self_closing { b"/>" } else { b">" });
    }
}

/// As Go's `html.EscapeString` writes it.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'\'' => out.extend_from_slice(b"&#39;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&#34;"),
            b'\r' => out.extend_from_slice(b"&#13;"),
            other => out.push(*other),
        }
    }
}

/// A URL in pieces.
struct Parts<'u> {
    scheme: Option<&'u str>,
    host: Option<&'u str>,
    path: &'u str,
    /// Query and fragment.
    rest: &'u str,
}

impl<'u> Parts<'u> {
    /// None for what is no URL, or leads into no host (`mailto:`).
    fn of(url: &'u str) -> Option<Self> {
        if url.contains(|c: char| c.is_ascii_control()) {
            return None;
        }
        let (scheme, after) = match url.split_once(':') {
            Some((scheme, after)) if is_scheme(scheme) => (Some(scheme), after),
            Some((before, _)) if !before.contains(['/', '?', '#']) => return None,
            _ => (None, url),
        };
        let end = after.find(['?', '#']).unwrap_or(after.len());
        let (before, rest) = after.split_at(end);
        let (host, path) = match before.strip_prefix("//") {
            Some(authority) => {
                let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
                (Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host)), path)
            }
            None => (None, before),
        };
        Some(Self { scheme, host, path, rest })
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

/// Two paths as one, without empty steps and dots (Go: `path.Join`).
pub(super) fn joined(first: &str, second: &str) -> String {
    let mut steps: Vec<&str> = Vec::new();
    for step in first.split('/').chain(second.split('/')) {
        match step {
            "" | "." => {}
            ".." => drop(steps.pop()),
            step => steps.push(step),
        }
    }
    format!("/{}", steps.join("/"))
}

/// How a page is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    Gzip,
    Deflate,
}

impl Encoding {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "" => Self::Plain,
            "gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            other => {
                tracing::debug!(encoding = other, "links of a proxied page are not rewritten");
                return None;
            }
        })
    }

    /// The page itself; none when it is too large.
    fn decoded(self, bytes: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        let reader: Box<dyn Read + '_> = match self {
            Self::Plain => return Ok(Some(bytes.to_vec())),
            Self::Gzip => Box::new(GzDecoder::new(bytes)),
            Self::Deflate => Box::new(DeflateDecoder::new(bytes)),
        };
        let mut plain = Vec::new();
        reader.take(PAGE_BYTES_MAX as u64 + 1).read_to_end(&mut plain)?;
        Ok((plain.len() <= PAGE_BYTES_MAX).then_some(plain))
    }

    fn encoded(self, page: Vec<u8>) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(page),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&page)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
                encoder.write_all(&page)?;
                encoder.finish()
            }
        }
    }
}

enum Gathered {
    All(Bytes),
    /// What was read already and what is still to come.
    TooLarge(Body),
}

async fn gather(mut body: Body) -> Result<Gathered> {
    let mut read = BytesMut::new();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let failed = |e: BoxError| Status::service_unavailable(format!("error trying to reach service: {e}"));
        if let Ok(data) = frame.map_err(failed)?.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > PAGE_BYTES_MAX {
            let first = futures::stream::once(std::future::ready(Ok(read.freeze())));
            return Ok(Gathered::TooLarge(Body::Stream(Box::pin(first.chain(body.into_data_stream())))));
        }
    }
    Ok(Gathered::All(read.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/pods/p/proxy";

    fn links() -> Links {
        Links { prefix: PREFIX.into(), backend: "10.0.0.5:80".into(), asked: "cluster:6443".into() }
    }

    #[test]
    fn what_leads_to_the_backends_root_leads_through_the_proxy() {
        for (url, wanted) in [
            ("/a", "PREFIX/a"),
            ("/", "PREFIX/"),
            ("/a/../b//c/?q=/x#f", "PREFIX/b/c/?q=/x#f"),
            ("http://10.0.0.5:80/a", "PREFIX/a"),
            ("https://cluster:6443/a", "https://cluster:6443PREFIX/a"),
            ("//10.0.0.5:80/a", "PREFIX/a"),
            ("/api/v1/namespaces/n/pods/p/proxy/a", "PREFIX/a"),
        ] {
            assert_eq!(links().rewritten(url).as_deref(), Some(wanted.replace("PREFIX", PREFIX).as_str()), "{url}");
        }
        for url in ["a", "../a", "", "?q", "#f", "http://elsewhere/a", "//elsewhere/a", "mailto:a@b", "http://10.0.0.5:80", "javascript:void(0)", "/a\u{1}"] {
            assert_eq!(links().rewritten(url), None, "{url}");
        }
    }

    #[test]
    fn only_tags_with_links_change() {
        for (page, wanted) in [
            (r#"<a href="/rewriteme">test</a>"#, r#"<a href="PREFIX/rewriteme">test</a>"#),
            ("<!DOCTYPE html>\r\n<A  HREF='/x?a=1&amp;b=2'\n>y</A >\r\n", "<!DOCTYPE html>\r\n<a href=\"PREFIX/x?a=1&amp;b=2\">y</A >\r\n"),
            (r#"<img src=/i.png usemap="/m"/><p title='"/x"'>"#, r#"<img src="PREFIX/i.png" usemap="PREFIX/m"/><p title="&#34;/x&#34;">"#),
            (r#"<script>"<a href='/x'>"</script><a href="b">c"#, r#"<script>"<a href='/x'>"</script><a href="b">c"#),
            ("<!-- <a href='/x'> --> 1 < 2 & 3", "<!-- <a href='/x'> --> 1 < 2 & 3"),
            ("<a href=\"/x", "<a href=\"/x"),
        ] {
            let got = String::from_utf8(links().html(page.as_bytes())).unwrap();
            assert_eq!(got, wanted.replace("PREFIX", PREFIX));
        }
    }

    async fn rewritten(headers: &[(&str, &str)], body: impl Into<Body>) -> (http::HeaderMap, Vec<u8>) {
        let mut answer = http::Response::new(body.into());
        for (name, value) in headers {
            answer.headers_mut().insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let (parts, body) = links().rewrite(answer).await.unwrap().into_parts();
        (parts.headers, body.collect().await.map_err(|e| e.to_string()).unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn pages_redirects_and_nothing_else_are_touched() {
        let page = r#"<a href="/x">y</a>"#;
        let moved = page.replace("/x", &format!("{PREFIX}/x"));
        let html = ("content-type", "text/html; charset=utf-8");
        let (headers, body) = rewritten(&[html, ("content-length", "18")], page).await;
        assert_eq!((headers.get("content-length"), body), (None, moved.clone().into_bytes()));
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let name = if encoding == Encoding::Gzip { "gzip" } else { "deflate" };
            let (_, body) = rewritten(&[html, ("content-encoding", name)], encoding.encoded(page.into()).unwrap()).await;
            assert_eq!(encoding.decoded(&body).unwrap(), Some(moved.clone().into_bytes()));
        }
        assert_eq!(rewritten(&[("content-type", "text/plain")], page).await.1, page.as_bytes());
        assert_eq!(rewritten(&[html, ("content-encoding", "br")], page).await.1, page.as_bytes());
        let (headers, body) = rewritten(&[html, ("location", "http://10.0.0.5:80/login")], page).await;
        assert_eq!((headers["location"].to_str().unwrap(), body), (format!("{PREFIX}/login").as_str(), page.as_bytes().to_vec()));
        let large = [page.as_bytes(), &vec![b' '; PAGE_BYTES_MAX]].concat();
        assert_eq!(rewritten(&[html], large.clone()).await.1, large);
    }
}
