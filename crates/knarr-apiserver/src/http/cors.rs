//! Pages of other origins that may call this server from a browser (upstream: `server/filters/cors.go`, `--cors-allowed-origins`), and what
//! browsers are told of speaking TLS only (`server/filters/hsts.go`, `--strict-transport-security-directives`).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use knarr_core::regexp;
use regex::Regex;

use super::body::Body;

/// What a page of an allowed origin may do and read.
const GRANTED: [(HeaderName, HeaderValue); 4] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE, PATCH")),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since"),
    ),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date")),
    (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")),
];

/// The origins that are let in. By default none is.
#[derive(Clone, Debug, Default)]
pub struct Cors(Vec<Regex>);

impl Cors {
    /// Reads patterns in Go's language. Each must say where the host begins and ends, or a longer name would pass as well
    /// (CVE-2022-1996; upstream: `validateCorsAllowedOriginList`).
    ///
    /// # Errors
    /// Why a pattern cannot be taken.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        patterns.into_iter().map(pattern).collect::<Result<_, _>>().map(Self)
    }

    /// The origin of a request that comes from an allowed one.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok().filter(|text| !text.is_empty())?;
        self.0.iter().any(|pattern| pattern.is_match(text)).then(|| origin.clone())
    }
}

fn pattern(text: &str) -> Result<Regex, String> {
    let good = "anchor each expression, such as '//example\\.com(:|$)' or '^https://example\\.com(:|$)'";
    if text.is_empty() {
        return Err(format!("empty value in --cors-allowed-origins; {good}"));
    }
    let refused = |why: String| format!("--cors-allowed-origins has an invalid regular expression: {why}; {good}");
    let translated = regexp::from_go(text).map_err(|why| refused(format!("error parsing regexp: {why}")))?;
    let regex = Regex::new(&translated).map_err(|why| refused(format!("error parsing regexp: `{text}`: {why}")))?;
    let pins = |marks: [&str; 2]| marks.iter().any(|mark| text.contains(mark));
    if pins(["^", "//"]) && pins(["$", ":"]) {
        Ok(regex)
    } else {
        Err(refused("regular expression does not pin to start/end of host in the origin header".into()))
    }
}

/// Tells the browser that the origin may read the answer.
pub(super) fn grant(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in GRANTED {
        headers.insert(name, value);
    }
}

/// The answer to a browser that asks beforehand.
pub(super) fn preflight(method: &Method) -> Option<Response<Body>> {
    if *method != Method::OPTIONS {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Some(response)
}

/// Reads directives for browsers that are to speak TLS only; none: they are told nothing (upstream: `validateHSTSDirectives`).
///
/// # Errors
/// One that there is not.
pub fn transport_security<'a>(directives: impl IntoIterator<Item = &'a str>) -> Result<Option<HeaderValue>, String> {
    let directives: Vec<&str> = directives.into_iter().collect();
    for directive in &directives {
        if directive.trim().is_empty() {
            return Err("empty value in strict-transport-security-directives".into());
        }
        let is_age = || matches!(directive.split('=').collect::<Vec<_>>()[..], ["max-age", _]);
        if !matches!(*directive, "includeSubDomains" | "preload") && !is_age() {
            return Err("--strict-transport-security-directives invalid, allowed values: max-age=expireTime, includeSubDomains, preload. see https://tools.ietf.org/html/rfc6797#section-6.1 for more information".into());
        }
    }
    let value = (!directives.is_empty()).then(|| HeaderValue::try_from(directives.join("; "))).transpose();
    value.map_err(|why| format!("--strict-transport-security-directives: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_let_in_by_a_pattern_that_says_where_its_host_ends() {
        let cors = Cors::new([r"//example\.com(:|$)"]).unwrap();
        let origin = |value: &'static str| cors.origin(&HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(value))])).is_some();
        assert!(origin("https://example.com") && origin("https://example.com:8443"));
        assert!(!origin("https://example.com.evil.org") && !origin(""));
        assert!(Cors::default().origin(&HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("https://example.com"))])).is_none());
        for (bad, why) in
            [("", "empty value in --cors-allowed-origins"), ("example.com", "does not pin to start/end of host"), ("^a($", "error parsing regexp")]
        {
            assert!(Cors::new([bad]).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn directives_are_those_of_the_rfc() {
        let wanted = HeaderValue::from_static("max-age=31536000; includeSubDomains; preload");
        assert_eq!(transport_security(["max-age=31536000", "includeSubDomains", "preload"]), Ok(Some(wanted)));
        assert_eq!(transport_security([]), Ok(None));
        assert_eq!(transport_security([" "]), Err("empty value in strict-transport-security-directives".into()));
        assert!(transport_security(["max-age"]).unwrap_err().starts_with("--strict-transport-security-directives invalid"));
    }
}
