//! Calls of servers outside the cluster that the administrator has named: identity providers by URL, review webhooks by kubeconfig.
//! Each has a deadline, a bounded answer, and goes straight to its server, whatever proxy the environment names.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use knarr_client::kubeconfig::{Kubeconfig, Overrides};
use knarr_client::tls::{Config, TlsTransport};
use knarr_core::{Status, Value, ValueExt, field::go_quote};
use knarr_schema::codec;

/// Longest wait for a provider (upstream: 30 s).
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Redirects that are followed for documents of a provider (Go: 10).
const REDIRECTS_MAX: usize = 10;
/// How often a review is sent (upstream: `DefaultAuthWebhookRetryBackoff`), and the first pause between two, which grows by half.
const TRIES_MAX: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// Fetches a document over TLS; redirects lead to other TLS servers only.
///
/// # Errors
/// Why there is no good answer.
pub async fn get(url: &str, ca_pem: &str, bearer: &str) -> Result<Bytes, String> {
    let work = async {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let (status, headers, body) = get_once(&url, ca_pem, bearer).await?;
            match headers.get(header::LOCATION).and_then(|l| l.to_str().ok()).filter(|_| status.is_redirection()) {
                Some(location) => url = target(&url, location)?,
                None if status.is_success() => return Ok(body),
                None => return Err(format!("{status}: {}", String::from_utf8_lossy(&body).chars().take(200).collect::<String>())),
            }
        }
        Err(format!("stopped after {REDIRECTS_MAX} redirects"))
    };
    let failed = |why: String| format!("Get {}: {why}", go_quote(url));
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err("context deadline exceeded".into())).map_err(failed)
}

/// Where a redirect leads.
fn target(from: &str, location: &str) -> Result<String, String> {
    let (origin, _) = split(from)?;
    let to = if location.starts_with('/') && !location.starts_with("//") { format!("{origin}{location}") } else { location.to_owned() };
    if to.starts_with("https://") { Ok(to) } else { Err(format!("redirected to {}, which is not https", go_quote(location))) }
}

async fn get_once(url: &str, ca_pem: &str, bearer: &str) -> Result<(StatusCode, HeaderMap, Bytes), String> {
    let (origin, path) = split(url)?;
    let mut config = Config::new(origin);
    config.certificate_authority = (!ca_pem.is_empty()).then(|| ca_pem.as_bytes().to_vec());
    let mut request = Request::get(path).header(header::ACCEPT, "application/json");
    if !bearer.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let transport = TlsTransport::new(config).map_err(|e| e.to_string())?;
    let answer = transport.request(request.body(Bytes::new()).map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    let (head, body) = answer.into_parts();
    Ok((head.status, head.headers, read(body).await?))
}

async fn read(body: knarr_client::tls::Body) -> Result<Bytes, String> {
    Limited::new(body, ANSWER_BYTES_MAX).collect().await.map(|b| b.to_bytes()).map_err(|e| e.to_string())
}

/// Scheme and authority, and the path with its query.
fn split(url: &str) -> Result<(String, String), String> {
    let uri: http::Uri = url.parse().map_err(|e| format!("{}: {e}", go_quote(url)))?;
    let (scheme, authority) = (uri.scheme_str().unwrap_or("https"), uri.authority().ok_or_else(|| format!("{} has no host", go_quote(url)))?);
    Ok((format!("{scheme}://{authority}"), uri.path_and_query().map_or("/", |p| p.as_str()).to_owned()))
}

/// Why a review has no answer.
struct Failed {
    why: String,
    /// It may go better in a moment (upstream: `webhook.DefaultShouldRetry`).
    passes: bool,
}

/// A webhook that answers reviews (`TokenReview`, `SubjectAccessReview`): a POST to the very URL of a kubeconfig.
pub struct ReviewHook {
    transport: TlsTransport,
    url: String,
    path: String,
    timeout: Duration,
}

impl ReviewHook {
    /// # Errors
    /// A kubeconfig that cannot be read or names no server.
    pub fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let mut config = Kubeconfig::read(path).and_then(|k| k.client_config(&Overrides::default())).map_err(|e| e.to_string())?;
        let url = config.server.clone();
        let (origin, path) = split(&url)?;
        config.server = origin;
        config.timeout = timeout;
        Ok(Self { transport: TlsTransport::new(config).map_err(|e| e.to_string())?, url, path, timeout })
    }

    /// Sends a review and gives it as it comes back. What may pass is tried again.
    ///
    /// # Errors
    /// Why there is no answer, or that it is of another kind.
    pub async fn review(&self, review: &Value) -> Result<Value, String> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 1;
        loop {
            match self.once(review).await {
                Err(failed) if failed.passes && tries < TRIES_MAX => {
                    tracing::debug!(url = self.url, why = failed.why, "a webhook is asked again");
                    tokio::time::sleep(pause).await;
                    (pause, tries) = (pause * 3 / 2, tries + 1);
                }
                Err(failed) => return Err(failed.why),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    async fn once(&self, review: &Value) -> Result<Value, Failed> {
        let failed = |why: String, passes: bool| Failed {
            why: format!("Post {}: {why}", go_quote(&format!("{}?timeout={}s", self.url, self.timeout.as_secs()))),
            passes,
        };
        let fatal = |why: String| failed(why, false);
        let joint = if self.path.contains('?') { '&' } else { '?' };
        let request = Request::post(format!("{}{joint}timeout={}s", self.path, self.timeout.as_secs()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .body(Bytes::from(review.to_string()))
            .map_err(|e| fatal(e.to_string()))?;
        let work = async {
            let answer = self.transport.request(request).await.map_err(|e| {
                let reset = matches!(&e, knarr_client::tls::Error::Http(h) if h.is_incomplete_message() || h.is_canceled());
                failed(e.to_string(), reset)
            })?;
            let (head, body) = answer.into_parts();
            Ok((head, read(body).await.map_err(fatal)?))
        };
        let (head, body) = tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| Err(fatal("context deadline exceeded".into())))?;
        let code = head.status.as_u16();
        if !head.status.is_success() {
            let why = Status::from_json(&body).map_or_else(|| format!("the server responded with the status code {code}"), |s| s.message);
            return Err(Failed { why, passes: matches!(code, 429 | 500 | 504) || head.headers.contains_key(header::RETRY_AFTER) });
        }
        let answer = codec::parse_json(&body).map_err(|e| Failed { why: format!("couldn't get version/kind; json parse error: {e}"), passes: false })?;
        let same = |key: &str| answer.str_at(&[key]) == review.str_at(&[key]);
        if same("kind") && same("apiVersion") {
            return Ok(answer);
        }
        let text = |v: &Value| format!("{}, Kind={}", v.str_at(&["apiVersion"]).unwrap_or_default(), v.str_at(&["kind"]).unwrap_or_default());
        Err(Failed { why: format!("expected webhook response of {}, got {}", text(review), text(&answer)), passes: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_where_to_dial_and_what_to_ask_for() {
        let parts = |url: &str| split(url).unwrap();
        assert_eq!(parts("https://a.example:8443/x/y?z=1"), ("https://a.example:8443".into(), "/x/y?z=1".into()));
        assert_eq!(parts("https://[::1]"), ("https://[::1]".into(), "/".into()));
        assert!(split("/nonsense").is_err());
    }

    #[test]
    fn redirects_stay_on_tls() {
        assert_eq!(target("https://a.example/x", "/y"), Ok("https://a.example/y".into()));
        assert_eq!(target("https://a.example/x", "https://b.example/"), Ok("https://b.example/".into()));
        assert!(target("https://a.example/x", "http://169.254.169.254/").is_err());
        assert!(target("https://a.example/x", "//b.example/").is_err());
    }
}
