//! What Go takes for a URI (`net/url` of Go 1.26, RFC 3986 and 6874). Errors are in Go's words, but for what is wrong with an IPv6 address in brackets.

use std::net::Ipv6Addr;

use crate::field::go_quote;

/// An absolute URI or an absolute path (`url.ParseRequestURI`). A fragment is part of it like anything else.
///
/// # Errors
/// Why it is none.
pub fn check(text: &str) -> Result<(), String> {
    let (scheme, path, _) = cut(text)?;
    match path.strip_prefix("//").filter(|_| !scheme.is_empty()) {
        _ if !path.starts_with('/') => Ok(()),
        Some(after) => after_slashes(scheme, after).map(drop),
        None => check_escapes(path),
    }
}

/// A URI in its parts, none of them unescaped. What has neither host nor path (`mailto:a@b.c`) is left without both.
#[derive(Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    pub scheme: &'a str,
    /// With the port, and without a user.
    pub host: &'a str,
    pub path: &'a str,
    pub query: &'a str,
}

/// Reads what [`check`] takes, where a host may come without a scheme, and a fragment after all (`url.Parse`).
///
/// # Errors
/// Why it is none.
pub fn parse(text: &str) -> Result<Uri<'_>, String> {
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (scheme, rest, query) = cut(text)?;
    let (host, path) = match rest.strip_prefix("//").filter(|after| !scheme.is_empty() || !after.starts_with('/')) {
        _ if !rest.starts_with('/') => ("", ""),
        Some(after) => after_slashes(scheme, after)?,
        None => {
            check_escapes(rest)?;
            ("", rest)
        }
    };
    check_escapes(fragment)?;
    Ok(Uri { scheme, host, path, query })
}

/// The scheme, which may be missing, what comes before the query, and the query.
fn cut(text: &str) -> Result<(&str, &str, &str), String> {
    if text.bytes().any(|b| b.is_ascii_control()) {
        return Err("net/url: invalid control character in URL".into());
    }
    if text.is_empty() {
        return Err("empty url".into());
    }
    let (scheme, rest) = split_scheme(text).ok_or("missing protocol scheme")?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if scheme.is_empty() && !path.starts_with('/') && text != "*" {
        return Err("invalid URI for request".into());
    }
    Ok((scheme, path, query))
}

/// The scheme, if there is one, and the rest; `None` when a colon stands first.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')));
    match end {
        Some(0) if text.starts_with(':') => None,
        Some(end) if text[end..].starts_with(':') && text.as_bytes()[0].is_ascii_alphabetic() => Some((&text[..end], &text[end + 1..])),
        _ => Some(("", text)),
    }
}

/// The host and the path.
fn after_slashes<'a>(scheme: &str, text: &'a str) -> Result<(&'a str, &'a str), String> {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    check_host(scheme, host)?;
    check_user(user)?;
    check_escapes(path)?;
    Ok((host, path))
}

fn check_user(user: &str) -> Result<(), String> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    if !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b)) {
        return Err("net/url: invalid userinfo".into());
    }
    check_escapes(name)?;
    check_escapes(password)
}

fn check_host(scheme: &str, host: &str) -> Result<(), String> {
    match host.rfind('[') {
        Some(0) => {
            let end = host.rfind(']').ok_or("missing ']' in host")?;
            check_port(&host[end + 1..])?;
            check_literal(&host[1..end])
        }
        Some(_) => Err("invalid IP-literal".into()),
        None => {
            // Databases have several hosts with their ports here; the web has not.
            let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
            let colon = if is_web { host.find(':') } else { host.rfind(':') };
            check_port(colon.map_or("", |at| &host[at..]))?;
            check_text_of_host(host, false)
        }
    }
}

/// Nothing, or a colon and digits, or a colon alone.
fn check_port(text: &str) -> Result<(), String> {
    let fits = text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    if fits { Ok(()) } else { Err(format!("invalid port {} after host", go_quote(text))) }
}

/// An IPv6 address with or without a zone, which begins with `%25`.
fn check_literal(text: &str) -> Result<(), String> {
    let (address, zone) = text.split_at(text.find("%25").unwrap_or(text.len()));
    check_text_of_host(address, false)?;
    check_text_of_host(zone, true)?;
    let unreadable = |why: &str| Err(format!("invalid host: ParseAddr({}): {why}", go_quote(&text.replacen("%25", "%", 1))));
    match address.parse::<Ipv6Addr>() {
        Ok(_) if zone == "%25" => unreadable("zone must be a non-empty string"),
        Ok(address) if !zone.is_empty() && address.to_ipv4_mapped().is_some() => unreadable("IPv4-mapped address must not have a zone"),
        Ok(_) => Ok(()),
        Err(_) if address.parse::<std::net::Ipv4Addr>().is_ok() => Err("invalid IP-literal".into()),
        Err(_) => unreadable("unable to parse IP"),
    }
}

/// What a host may have: only what is not ASCII may be escaped, and in a zone also what need not be, and spaces.
fn check_text_of_host(text: &str, is_zone: bool) -> Result<(), String> {
    let bytes = text.as_bytes();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&b);
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        if *b != b'%' {
            if b.is_ascii() && !plain(*b) {
                return Err(format!("invalid character {} in host name", go_quote(&text[at..=at])));
            }
            at += 1;
            continue;
        }
        let escaped = escaped(text, at)?;
        let fits = if is_zone { escaped == b' ' || plain(escaped) } else { !escaped.is_ascii() };
        if !fits && escaped != b'%' {
            return Err(bad_escape(&text[at..at + 3]));
        }
        at += 3;
    }
    Ok(())
}

fn bad_escape(escape: &str) -> String {
    format!("invalid URL escape {}", go_quote(escape))
}

/// The byte that the escape at this place stands for.
fn escaped(text: &str, at: usize) -> Result<u8, String> {
    let digit = |at: usize| text.as_bytes().get(at).and_then(|b| char::from(*b).to_digit(16));
    let byte = digit(at + 1).zip(digit(at + 2)).map(|(high, low)| (high * 16 + low) as u8);
    byte.ok_or_else(|| bad_escape(&String::from_utf8_lossy(&text.as_bytes()[at..text.len().min(at + 3)])))
}

/// Two digits must follow each `%`.
fn check_escapes(text: &str) -> Result<(), String> {
    text.match_indices('%').try_for_each(|(at, _)| escaped(text, at).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Asked of Go.
    #[test]
    fn what_is_wrong_is_told_as_go_tells_it() {
        for (text, wanted) in [
            ("", "empty url"),
            ("a b", "invalid URI for request"),
            (":a", "missing protocol scheme"),
            ("/\x7f", "net/url: invalid control character in URL"),
            ("/a/b%2", "invalid URL escape \"%2\""),
            ("/a/b%zz", "invalid URL escape \"%zz\""),
            ("http://[::1", "missing ']' in host"),
            ("http://a[::1]/", "invalid IP-literal"),
            ("http://[1.2.3.4]/", "invalid IP-literal"),
            ("http://a:b:c/", "invalid port \":b:c\" after host"),
            ("foo://a:b:c/", "invalid port \":c\" after host"),
            ("http://a:80a/", "invalid port \":80a\" after host"),
            ("http://a b/", "invalid character \" \" in host name"),
            ("http://a%20b/", "invalid URL escape \"%20\""),
            ("http://u^@h/", "net/url: invalid userinfo"),
            ("http://u%4@h/", "invalid URL escape \"%4\""),
            ("http://[fe80::1%25]/", "invalid host: ParseAddr(\"fe80::1%\"): zone must be a non-empty string"),
        ] {
            assert_eq!(check(text), Err(wanted.to_owned()), "{text}");
        }
        for good in ["*", "mailto:a@b.c", "http:", "//a b/", "/?a=%zz", "foo://a:1:2/"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(parse("//a b/"), Err("invalid character \" \" in host name".into()));
        assert_eq!(parse("http://a/#%zz"), Err("invalid URL escape \"%zz\"".into()));
        assert_eq!(parse("mailto:a@b.c#d"), Ok(Uri { scheme: "mailto", host: "", path: "", query: "" }));
        assert_eq!(parse("a://u:p@h:1/b?c#d"), Ok(Uri { scheme: "a", host: "h:1", path: "/b", query: "c" }));
    }
}
