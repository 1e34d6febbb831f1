//! URLs (upstream: `library/urls.go`, which reads as Go's `net/url`).

use std::{collections::BTreeMap, sync::Arc};

use knarr_core::formats::uri;

use super::{Impl, no_overload};
use crate::value::{Error, Map, Res, Value};

/// A URL in its parts, as Go's `url.URL` has them.
#[derive(Debug)]
pub struct Url {
    pub text: String,
    scheme: String,
    host: String,
    path: String,
    query: String,
}

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "url" => |_, a| match &a[..] {
            [Value::String(s)] => {
                parse(s).map(|u| Value::Url(Arc::new(u))).map_err(|why| Error::new(format!("URL parse error during conversion from string: {why}")))
            }
            _ => no_overload(),
        },
        "isURL" => |_, a| match &a[..] {
            [Value::String(s)] => Ok(Value::Bool(check(s).is_ok())),
            _ => no_overload(),
        },
        "getScheme" => |_, a| of(&a, |u| Value::text(u.scheme.as_str())),
        "getHost" => |_, a| of(&a, |u| Value::text(u.host.as_str())),
        "getHostname" => |_, a| of(&a, |u| Value::text(split_port(&u.host).0.trim_start_matches('[').trim_end_matches(']'))),
        "getPort" => |_, a| of(&a, |u| Value::text(split_port(&u.host).1)),
        "getEscapedPath" => |_, a| of(&a, |u| Value::text(escape_path(&u.path))),
        "getQuery" => |_, a| {
            of(&a, |u| {
                let mut grouped: BTreeMap<String, Vec<String>> = BTreeMap::new();
                for (key, value) in ::url::form_urlencoded::parse(u.query.as_bytes()) {
                    grouped.entry(key.into_owned()).or_default().push(value.into_owned());
                }
                Value::Map(Map::of_texts(grouped.into_iter().map(|(k, v)| (k, Value::texts(v)))))
            })
        },
        _ => return None,
    })
}

fn of<'a>(args: &[Value<'a>], f: impl FnOnce(&Url) -> Value<'a>) -> Res<'a> {
    match args {
        [Value::Url(u)] => Ok(f(u)),
        _ => no_overload(),
    }
}

/// Reads an absolute URL or path (Go: `url.ParseRequestURI`, then `url.Parse`).
///
/// # Errors
/// Why it is none, in Go's words.
pub fn parse(text: &str) -> Result<Url, String> {
    check(text)?;
    let uri::Uri { scheme, host, path, query } = uri::parse(text).map_err(|why| error(text, &why))?;
    Ok(Url { text: text.to_owned(), scheme: scheme.to_ascii_lowercase(), host: host.to_owned(), path: path.to_owned(), query: query.to_owned() })
}

/// Whether it is one (Go: `url.ParseRequestURI`).
///
/// # Errors
/// Why it is none, in Go's words.
pub fn check(text: &str) -> Result<(), String> {
    uri::check(text).map_err(|why| error(text, &why))
}

fn error(text: &str, why: &str) -> String {
    format!("parse {}: {why}", knarr_core::field::go_quote(text))
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

/// A path with everything escaped that must be.
fn escape_path(path: &str) -> String {
    let mut out = String::new();
    for b in path.bytes() {
        let plain = b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*%[]".contains(&b);
        if plain { out.push(b as char) } else { out.push_str(&format!("%{b:02X}")) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_comes_apart_as_in_go() {
        let parts = |text: &str| parse(text).map(|u| [u.scheme, u.host, u.path, u.query]);
        let of = |parts: [&str; 4]| Ok(parts.map(str::to_owned));
        assert_eq!(parts("HTTP://u:p@[::1]:80/a%20b?c=d#e"), of(["http", "[::1]:80", "/a%20b", "c=d"]));
        assert_eq!(parts("//h/a"), of(["", "h", "/a", ""]));
        assert_eq!(parts("///a"), of(["", "", "///a", ""]));
        assert_eq!(parts("mailto:a@b.c"), of(["mailto", "", "", ""]));
        assert_eq!(parts("a"), Err("parse \"a\": invalid URI for request".into()));
        assert!(check("//a b/").is_ok() && parse("//a b/").is_err(), "a path first, a host then");
    }
}
