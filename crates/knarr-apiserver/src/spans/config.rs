//! TracingConfiguration (`apiserver.config.k8s.io`), the file of `--tracing-config-file`. Read strictly, validated in upstream's words
//! (`component-base/tracing/api/v1`: `ValidateTracingConfiguration`).

use knarr_core::field::{Error, ErrorList, Path, go_quote};
use serde::Deserialize;

use crate::authn::jwt::config::read;

const VERSIONS: [&str; 3] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const RATE_MAX: i64 = 1_000_000;
/// Where a collector listens that was not told otherwise (OTLP over gRPC).
const ENDPOINT_DEFAULT: &str = "localhost:4317";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "kind and apiVersion are looked at before")]
struct Written {
    kind: String,
    api_version: String,
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i64>,
}

/// Who is told, and of how many requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracingConfiguration {
    /// `host:port` of the collector.
    pub endpoint: String,
    /// Of a million requests that nobody else traces, how many are.
    pub sampling_rate_per_million: u32,
}

impl TracingConfiguration {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it, in upstream's words.
    pub fn from_text(text: &str) -> Result<Self, String> {
        let written: Written = read(text, "TracingConfiguration", &VERSIONS).map_err(|why| format!("unable to decode tracing configuration data: {why}"))?;
        let mut errors = ErrorList::new();
        let rate = written.sampling_rate_per_million.unwrap_or(0);
        if rate < 0 {
            errors.push(Error::invalid(&Path::new("samplingRatePerMillion"), rate, "sampling rate must be positive"));
        }
        if rate > RATE_MAX {
            errors.push(Error::invalid(&Path::new("samplingRatePerMillion"), rate, "sampling rate per million must be less than or equal to one million"));
        }
        let endpoint = target(written.endpoint.as_deref().unwrap_or(ENDPOINT_DEFAULT), &mut errors);
        if let Some(first) = errors.first() {
            return Err(format!("failed to validate tracing configuration: {first}"));
        }
        Ok(Self { endpoint, sampling_rate_per_million: u32::try_from(rate).unwrap_or_default() })
    }
}

/// `host:port` of a gRPC target: `host:port`, `dns:///host:port` or `dns://server/host:port`.
fn target(text: &str, errors: &mut ErrorList) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    match scheme {
        "dns" => return rest.rsplit('/').next().unwrap_or_default().to_owned(),
        "unix" | "unix-abstract" => {
            errors.push(Error::invalid(&Path::new("endpoint"), text, "a collector is reached over TCP here: name it as host:port"));
        }
        _ => {
            let detail = format!(
                "unsupported scheme: {scheme}.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"
            );
            errors.push(Error::invalid(&Path::new("endpoint"), text, detail));
        }
    }
    String::new()
}

/// What the file at `path` says.
///
/// # Errors
/// It cannot be read, or [`TracingConfiguration::from_text`]'s.
pub fn load(path: &std::path::Path) -> Result<TracingConfiguration, String> {
    let quoted = go_quote(&path.display().to_string());
    let text = std::fs::read_to_string(path).map_err(|e| format!("unable to read tracing configuration from {quoted}: {e}"))?;
    TracingConfiguration::from_text(&text)
}
