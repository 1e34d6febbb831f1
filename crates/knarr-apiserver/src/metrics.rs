//! The server's own metrics, under upstream's names, in the text format of Prometheus
//! (upstream: `endpoints/metrics/metrics.go`).

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Upper bounds of `apiserver_request_duration_seconds`.
const DURATION_BUCKETS: [f64; 25] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0];
/// Most different combinations of labels, so that no client can fill the memory with paths it made up.
const SERIES_MAX: usize = 10_000;

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    pub verb: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub scope: &'static str,
    pub dry_run: bool,
}

impl Labels {
    fn text(&self) -> String {
        let dry_run = if self.dry_run { "All" } else { "" };
        format!(
            "component=\"apiserver\",dry_run=\"{dry_run}\",group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.group, self.resource, self.scope, self.subresource, self.verb, self.version
        )
    }
}

#[derive(Default)]
struct Series {
    by_code: BTreeMap<u16, u64>,
    buckets: [u64; DURATION_BUCKETS.len()],
    count: u64,
    seconds: f64,
    long_running: i64,
}

/// One request that lasts.
pub struct LongRunning {
    metrics: Arc<Metrics>,
    labels: Option<Labels>,
    code: u16,
    since: Instant,
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        if let Some(labels) = self.labels.take() {
            self.metrics.with(labels.clone(), |s| s.long_running -= 1);
            self.metrics.observe(labels, self.code, self.since.elapsed());
        }
    }
}

/// Counters of one server.
#[derive(Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<Labels, Series>>,
    terminations: Mutex<BTreeMap<(Labels, u16), u64>>,
    pub connections: AtomicI64,
}

impl Metrics {
    fn with(&self, labels: Labels, change: impl FnOnce(&mut Series)) {
        let mut series = self.series.lock();
        if series.len() < SERIES_MAX || series.contains_key(&labels) {
            change(series.entry(labels).or_default());
        }
    }

    /// Counts a finished request.
    pub fn observe(&self, labels: Labels, code: u16, took: Duration) {
        let seconds = took.as_secs_f64();
        self.with(labels, |s| {
            *s.by_code.entry(code).or_default() += 1;
            s.count += 1;
            s.seconds += seconds;
            if let Some(bucket) = DURATION_BUCKETS.iter().position(|bound| seconds <= *bound) {
                s.buckets[bucket] += 1;
            }
        });
    }

    /// Counts a request that the server itself ended: a deadline, a panic, too many.
    pub fn terminate(&self, labels: Labels, code: u16) {
        let mut terminations = self.terminations.lock();
        if terminations.len() < SERIES_MAX {
            *terminations.entry((labels, code)).or_default() += 1;
        }
    }

    /// Counts a watch, an exec or a log while the guard lives, and its whole time when it ends.
    pub fn long_running(self: &Arc<Self>, labels: Labels, code: u16) -> LongRunning {
        self.with(labels.clone(), |s| s.long_running += 1);
        LongRunning { metrics: self.clone(), labels: Some(labels), code, since: Instant::now() }
    }

    /// Writes everything. `inflight` are the requests under way (reading, writing), `objects` the stored objects by resource.
    pub fn text(&self, inflight: (usize, usize), objects: &[(String, usize)]) -> String {
        let mut out = String::new();
        self.write_requests(&mut out);
        self.write_terminations(&mut out);
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
        );
        line(&mut out, "apiserver_current_inflight_requests", "request_kind=\"mutating\"", inflight.1);
        line(&mut out, "apiserver_current_inflight_requests", "request_kind=\"readOnly\"", inflight.0);
        for name in ["apiserver_storage_objects", "apiserver_resource_objects"] {
            head(&mut out, name, "gauge", "Number of stored objects at the time of last check split by kind.");
            for (resource, count) in objects {
                let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
                let labels =
                    if name == "apiserver_storage_objects" { format!("resource=\"{resource}\"") } else { format!("group=\"{group}\",resource=\"{plural}\"") };
                line(&mut out, name, &labels, count);
            }
        }
        head(&mut out, "apiserver_open_connections", "gauge", "Number of open client connections.");
        line(&mut out, "apiserver_open_connections", "", self.connections.load(Relaxed));
        out
    }

    fn write_requests(&self, out: &mut String) {
        let series = self.series.lock();
        head(
            out,
            "apiserver_request_total",
            "counter",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for (labels, s) in series.iter() {
            for (code, count) in &s.by_code {
                line(out, "apiserver_request_total", &format!("code=\"{code}\",{}", labels.text()), count);
            }
        }
        for name in ["apiserver_request_duration_seconds", "apiserver_request_sli_duration_seconds"] {
            head(
                out,
                name,
                "histogram",
                "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
            );
            for (labels, s) in series.iter().filter(|(_, s)| s.count > 0) {
                write_histogram(out, name, &labels.text(), s);
            }
        }
        head(
            out,
            "apiserver_longrunning_requests",
            "gauge",
            "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
        );
        for (labels, s) in series.iter().filter(|(_, s)| s.long_running != 0) {
            line(out, "apiserver_longrunning_requests", &labels.text(), s.long_running);
        }
    }

    fn write_terminations(&self, out: &mut String) {
        head(out, "apiserver_request_terminations_total", "counter", "Number of requests which apiserver terminated in self-defense.");
        for ((labels, code), count) in self.terminations.lock().iter() {
            line(out, "apiserver_request_terminations_total", &format!("code=\"{code}\",{}", labels.text()), count);
        }
    }
}

fn write_histogram(out: &mut String, name: &str, labels: &str, s: &Series) {
    let mut total = 0;
    let bucket = format!("{name}_bucket");
    for (bound, count) in DURATION_BUCKETS.iter().zip(s.buckets) {
        total += count;
        line(out, &bucket, &format!("{labels},le=\"{bound}\""), total);
    }
    line(out, &bucket, &format!("{labels},le=\"+Inf\""), s.count);
    line(out, &format!("{name}_sum"), labels, s.seconds);
    line(out, &format!("{name}_count"), labels, s.count);
}

/// Opens a metric.
fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").unwrap_or_default();
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let written = if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") };
    written.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_under_upstreams_names() {
        let metrics = Metrics::default();
        let labels = Labels {
            verb: "LIST".into(),
            group: String::new(),
            version: "v1".into(),
            resource: "pods".into(),
            subresource: String::new(),
            scope: "namespace",
            dry_run: false,
        };
        metrics.observe(labels, 200, Duration::from_millis(30));
        let text = metrics.text((1, 2), &[("deployments.apps".into(), 3)]);
        for wanted in [
            "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1\n",
            "verb=\"LIST\",version=\"v1\",le=\"0.025\"} 0\n",
            "verb=\"LIST\",version=\"v1\",le=\"0.05\"} 1\n",
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 2\n",
            "apiserver_storage_objects{resource=\"deployments.apps\"} 3\n",
        ] {
            assert!(text.contains(wanted), "{wanted}\n{text}");
        }
    }
}
