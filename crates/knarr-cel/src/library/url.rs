//! URLs (upstream: `library/urls.go`, which reads as Go's `net/url`).

use std::{collections::BTreeMap, sync::Arc};

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
            [Value::String(s)] => Ok(Value::Bool(parse(s).is_ok())),
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
    let quoted = knarr_core::field::go_quote(text);
    let error = |why: &str| format!("parse {quoted}: {why}");
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err(error("net/url: invalid control character in URL"));
    }
    if text.is_empty() {
        return Err(error("empty url"));
    }
    let (scheme, rest) = split_scheme(text).ok_or_else(|| error("missing protocol scheme"))?;
    if scheme.is_empty() && !rest.starts_with('/') {
        return Err(error("invalid URI for request"));
    }
    if !scheme.is_empty() && !rest.starts_with('/') {
        return Err(error("invalid URI for request"));
    }
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let with_host = !scheme.is_empty() || !rest.starts_with("///");
    let (host, path) = match rest.strip_prefix("//").filter(|_| with_host) {
        Some(authority) => authority.split_at(authority.find('/').unwrap_or(authority.len())),
        None => ("", rest),
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    check_host(host).map_err(|why| error(&why))?;
    check_escapes(path).map_err(|why| error(&why))?;
    Ok(Url { text: text.to_owned(), scheme: scheme.to_ascii_lowercase(), host: host.to_owned(), path: path.to_owned(), query: query.to_owned() })
}

/// Scheme and rest; `None` if there is a colon where a scheme would have to be.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return None,
            ':' => return Some((&text[..i], &text[i + 1..])),
            _ => return Some(("", text)),
        }
    }
    Some(("", text))
}

fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) && !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let after = if let Some(open) = host.find('[') {
        let close = host.rfind(']').ok_or("missing ']' in host")?;
        if open > 0 {
            return Err("invalid character \"[\" in host name".into());
        }
        &host[close + 1..]
    } else {
        host.find(':').map_or("", |i| &host[i..])
    };
    if !after.is_empty() && !(after.starts_with(':') && after[1..].chars().all(|c| c.is_ascii_digit())) {
        return Err(format!("invalid port {} after host", knarr_core::field::go_quote(after)));
    }
    if let Some(bad) = host.chars().find(|c| matches!(c, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '}' | '|')) {
        let allowed = matches!(bad, '<' | '>' | '"');
        if !allowed {
            return Err(format!("invalid character {} in host name", knarr_core::field::go_quote(&bad.to_string())));
        }
    }
    check_escapes(host)
}

fn check_escapes(text: &str) -> Result<(), String> {
    for (i, _) in text.match_indices('%') {
        let hex = text.as_bytes().get(i + 1..i + 3).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit));
        if !hex {
            let shown: String = text[i..].chars().take(3).collect();
            return Err(format!("invalid URL escape {}", knarr_core::field::go_quote(&shown)));
        }
    }
    Ok(())
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
