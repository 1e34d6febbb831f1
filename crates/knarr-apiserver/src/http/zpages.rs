//! `/statusz` and `/flagz`: what the server is and with which flags it was started, for people and, in versions of a kind, for programs
//! (upstream: `apiserver/pkg/server/statusz`, `flagz`). `/debug/flags` and `/debug/pprof` say what there is of them here.

use std::{collections::BTreeSet, fmt::Write as _, sync::LazyLock};

use http::{HeaderMap, HeaderValue, Response, header};
use jiff::{Timestamp, tz::TimeZone};
use knarr_core::{KUBERNETES_VERSION, Result, Value, json, time};
use knarr_schema::codec;

use super::{
    body::Body,
    negotiate::{Clause, not_acceptable},
    paths::version,
    respond::{self, answer},
};
use crate::server::Inner;

const COMPONENT: &str = "kube-apiserver";
const GROUP: &str = "config.k8s.io";
const OFFERED: &str = "application/json, application/yaml, text/plain";
const TEXT: &str = "text/plain; charset=utf-8";
/// Paths that are no help in finding a fault.
const NOT_FOR_DEBUGGING: [&str; 5] = ["/apis", "/api", "/openid", "/openapi", "/.well-known"];

/// When the process began, as near as it matters.
static STARTED: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

/// Remembers when the server began.
pub fn started() {
    LazyLock::force(&STARTED);
}

/// How a page is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Text,
    Json(&'static str),
    Yaml(&'static str),
}

/// Text where nothing is said; else a version of the page's kind, which must be named.
fn wanted(headers: &HeaderMap, kind: &str) -> Result<Wanted> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() {
        return Ok(Wanted::Text);
    }
    let choose = |clause: &Clause<'_>| {
        let unasked = clause.param("as").is_empty() && clause.param("g").is_empty() && clause.param("v").is_empty();
        let version = ["v1alpha1", "v1beta1"].into_iter().find(|v| *v == clause.param("v"));
        let version = version.filter(|_| clause.param("g") == GROUP && clause.param("as") == kind);
        [("application", "json"), ("application", "yaml"), ("text", "plain")].into_iter().filter(|(t, s)| clause.covers(t, s)).find_map(|(_, subtype)| {
            match (subtype, version) {
                ("plain", _) => unasked.then_some(Wanted::Text),
                ("json", Some(version)) => Some(Wanted::Json(version)),
                ("yaml", Some(version)) => Some(Wanted::Yaml(version)),
                _ => None,
            }
        })
    };
    Clause::all(accept).iter().find_map(choose).ok_or_else(|| not_acceptable(OFFERED))
}

fn page(headers: &HeaderMap, kind: &str, text: impl FnOnce() -> String, fields: impl FnOnce() -> Value) -> Result<Response<Body>> {
    let wanted = wanted(headers, kind)?;
    let (Wanted::Json(version) | Wanted::Yaml(version)) = wanted else { return Ok(answer(200, TEXT, text())) };
    let mut tree = json!({"kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {"name": COMPONENT}});
    if let (Some(tree), Value::Object(fields)) = (tree.as_object_mut(), fields()) {
        tree.extend(fields);
    }
    let mut response = match wanted {
        Wanted::Yaml(_) => answer(200, "application/yaml", knarr_core::yaml::to_string(&tree)),
        _ => answer(200, "application/json", codec::encode_json(&tree)),
    };
    if version == "v1alpha1" {
        let text = format!("299 - \"This version of the {} endpoint is deprecated. Please use a newer version.\"", kind.to_lowercase());
        response.headers_mut().extend(HeaderValue::try_from(text).ok().map(|text| (header::WARNING, text)));
    }
    Ok(response)
}

fn head(page: &str) -> String {
    format!(
        "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n"
    )
}

/// The first parts of paths that help in finding a fault.
fn debugging(paths: impl IntoIterator<Item = String>) -> Vec<String> {
    let first = |path: String| path.split('/').nth(1).filter(|p| !p.is_empty()).map(|p| format!("/{p}"));
    let all: BTreeSet<String> = paths.into_iter().filter_map(first).filter(|p| !NOT_FOR_DEBUGGING.contains(&p.as_str())).collect();
    all.into_iter().collect()
}

/// `/statusz`.
///
/// # Errors
/// 406 for who accepts nothing of it.
pub fn statusz(headers: &HeaderMap, paths: Vec<String>) -> Result<Response<Body>> {
    let seconds = Timestamp::now().as_second().saturating_sub(STARTED.as_second()).max(0);
    let (binary, version) = (KUBERNETES_VERSION.trim_start_matches('v'), version());
    let emulated = format!("{}.{}", version["emulationMajor"].as_str().unwrap_or_default(), version["emulationMinor"].as_str().unwrap_or_default());
    let (go, paths) = (version["goVersion"].as_str().unwrap_or_default().to_owned(), debugging(paths));
    let text = || {
        let started = STARTED.to_zoned(TimeZone::UTC).strftime("%a %b %e %H:%M:%S %Z %Y").to_string();
        let up = format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let paths = paths.join(" ");
        head("statusz")
            + &format!("\nStarted: {started}\nUp: {up}\nGo version: {go}\nBinary version: {binary}\nEmulation version: {emulated}\nPaths: {paths}\n")
    };
    let fields = || {
        json!({
            "startTime": time::format(*STARTED), "uptimeSeconds": seconds, "goVersion": go, "binaryVersion": binary,
            "emulationVersion": emulated, "paths": paths,
        })
    };
    page(headers, "Statusz", text, fields)
}

/// `/flagz`.
///
/// # Errors
/// 406 for who accepts nothing of it.
pub fn flagz(inner: &Inner, headers: &HeaderMap) -> Result<Response<Body>> {
    let flags = &inner.config.flags;
    let text = || {
        let mut text = head("flagz");
        for (name, value) in flags {
            // Writing into a string does not fail.
            writeln!(text, "{name}={value}").unwrap_or_default();
        }
        text
    };
    page(headers, "Flagz", text, || json!({"flags": flags}))
}

/// `/debug/…`: profiles are those of Go's runtime, which is not here; the one flag that upstream can change is set by `KNARR_LOG`.
pub fn debug(path: &str) -> Option<Response<Body>> {
    match path {
        "/debug/pprof" => {
            let mut response = answer(302, "text/html; charset=utf-8", "<a href=\"/debug/pprof/\">Found</a>.\n\n");
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/debug/pprof/"));
            Some(response)
        }
        "/debug/flags/v" => {
            let mut response = answer(406, "text/plain", "unsupported http method\n");
            response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            Some(response)
        }
        p if p.starts_with("/debug/pprof/") => Some(respond::plain_error(404, "Unknown profile")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(accept: &str) -> std::result::Result<Wanted, String> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        wanted(&headers, "Statusz").map_err(|e| e.message)
    }

    #[test]
    fn programs_name_the_version_that_they_read() {
        assert_eq!(asked(""), Ok(Wanted::Text));
        assert_eq!(asked("text/plain"), Ok(Wanted::Text));
        assert_eq!(asked("*/*"), Ok(Wanted::Text));
        assert_eq!(asked("application/json;v=v1beta1;g=config.k8s.io;as=Statusz"), Ok(Wanted::Json("v1beta1")));
        assert_eq!(asked("application/yaml;v=v1alpha1;g=config.k8s.io;as=Statusz"), Ok(Wanted::Yaml("v1alpha1")));
        for refused in ["application/json", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz", "application/vnd.kubernetes.protobuf"] {
            assert_eq!(asked(refused), Err(format!("only the following media types are accepted: {OFFERED}")));
        }
    }

    #[test]
    fn paths_are_told_by_their_first_part() {
        let paths = ["/", "/apis/apps", "/livez/ping", "/livez", "/metrics/slis"].map(str::to_owned);
        assert_eq!(debugging(paths), ["/livez", "/metrics"]);
    }

    #[test]
    fn an_old_version_is_told_to_be_old() {
        let headers = HeaderMap::from_iter([(header::ACCEPT, "application/json;v=v1alpha1;g=config.k8s.io;as=Statusz".parse().unwrap())]);
        let response = statusz(&headers, vec!["/livez".into()]).unwrap();
        assert_eq!(response.headers()[header::WARNING], "299 - \"This version of the statusz endpoint is deprecated. Please use a newer version.\"");
    }
}
