//! The server's own metrics, under upstream's names, in the text format of Prometheus
//! (upstream: `endpoints/metrics/metrics.go`).
//!
//! A request finds everything that it is counted in by one look-up, without allocating; the rest is atomic.

mod admission;
mod descs;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use knarr_core::metrics::{Counters, Gauges, Histogram, Text, Vector};
use parking_lot::RwLock;

use crate::flowcontrol::FlowControl;

pub use admission::{Admission, Called, Step, timed, waited};

/// What a request is counted under. All values are bounded: verbs and resources that are not served are [`OTHER`].
///
/// [`OTHER`]: knarr_core::metrics::OTHER
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels<'a> {
    pub verb: &'static str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub scope: &'static str,
    pub dry_run: &'static str,
}

const COMPONENT: &str = "apiserver";

impl<'a> Labels<'a> {
    /// In alphabetical order of their names.
    fn values(&self) -> [&'a str; 7] {
        [self.dry_run, self.group, self.resource, self.scope, self.subresource, self.verb, self.version]
    }
}

/// Counts by HTTP code: there are few, so they are searched one by one.
#[derive(Default)]
struct ByCode(RwLock<Vec<(u16, AtomicU64)>>);

impl ByCode {
    fn add(&self, code: u16) {
        if let Some((_, count)) = self.0.read().iter().find(|(c, _)| *c == code) {
            count.fetch_add(1, Relaxed);
            return;
        }
        let mut counts = self.0.write();
        match counts.iter().find(|(c, _)| *c == code) {
            Some((_, count)) => drop(count.fetch_add(1, Relaxed)),
            None => counts.push((code, AtomicU64::new(1))),
        }
    }

    fn all(&self) -> Vec<(u16, u64)> {
        let mut all: Vec<_> = self.0.read().iter().map(|(code, count)| (*code, count.load(Relaxed))).collect();
        all.sort_unstable();
        all
    }
}

/// All that is counted of the requests with the same labels.
pub struct Requests {
    by_code: ByCode,
    terminations: ByCode,
    duration: Histogram,
    sli: Histogram,
    sizes: Histogram,
    long_running: AtomicI64,
}

impl Requests {
    fn new() -> Self {
        Self {
            by_code: ByCode::default(),
            terminations: ByCode::default(),
            duration: Histogram::new(&descs::DURATION),
            sli: Histogram::new(&descs::SLI_DURATION),
            sizes: Histogram::new(&descs::SIZES),
            long_running: AtomicI64::new(0),
        }
    }

    /// Counts a finished request that took so long, and so long of it for webhooks.
    pub fn observe(&self, code: u16, took: Duration, webhooks: Duration) {
        self.by_code.add(code);
        self.duration.observe_time(took);
        self.sli.observe_time(took.saturating_sub(webhooks));
    }

    /// Counts the bytes of the answer to a read.
    pub fn sized(&self, bytes: u64) {
        self.sizes.observe(bytes as f64);
    }

    /// Counts a request that the server itself ended: a deadline, too many.
    pub fn terminate(&self, code: u16) {
        self.terminations.add(code);
    }

    /// Counts a watch, an exec or a log while the guard lives, and its whole time when it ends.
    pub fn long_running(self: &Arc<Self>, code: u16, since: Instant) -> LongRunning {
        self.long_running.fetch_add(1, Relaxed);
        LongRunning { requests: self.clone(), code, since }
    }
}

/// One request that lasts.
pub struct LongRunning {
    requests: Arc<Requests>,
    code: u16,
    since: Instant,
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.requests.long_running.fetch_sub(1, Relaxed);
        self.requests.observe(self.code, self.since.elapsed(), Duration::ZERO);
    }
}

/// The results of health checks, which are scraped at `/metrics/slis`.
pub struct HealthChecks {
    last: Gauges,
    all: Counters,
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self { last: Gauges::new(&descs::HEALTHCHECK), all: Counters::new(&descs::HEALTHCHECKS) }
    }
}

impl HealthChecks {
    /// Counts the result of the check `name` for the endpoint `kind`.
    pub fn observe(&self, name: &str, kind: &str, healthy: bool) {
        self.last.of(&[name, kind]).set(if healthy { 1.0 } else { 0.0 });
        self.all.add(&[name, if healthy { "success" } else { "error" }, kind]);
    }

    pub fn text(&self) -> String {
        let mut out = Text::default();
        self.last.write(&mut out);
        self.all.write(&mut out);
        out.into_string()
    }
}

/// What is known only when somebody asks.
pub struct Now<'a> {
    /// Requests under way: reading, writing.
    pub inflight: (usize, usize),
    pub flow: &'a FlowControl,
    /// Stored objects: group, resource, number.
    pub objects: &'a [(String, String, usize)],
    /// Bytes on disk, where the store is on disk.
    pub storage_size: Option<u64>,
    /// What `/version` says.
    pub version: &'a knarr_core::Value,
    /// The release that serves a resource (group, version, name) no more, where it is deprecated; empty where none is named.
    pub deprecated: &'a Deprecated<'a>,
}

type Deprecated<'a> = dyn Fn(&str, &str, &str) -> Option<String> + 'a;

/// Metrics of one server.
pub struct Metrics {
    requests: Vector<Requests>,
    certificates: Histogram,
    pub admission: Admission,
    pub connections: AtomicI64,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Vector::new(7, Requests::new),
            certificates: Histogram::new(&descs::CERTIFICATES),
            admission: Admission::default(),
            connections: AtomicI64::new(0),
        }
    }
}

type Counted = (Box<[Box<str>]>, Arc<Requests>);

impl Metrics {
    /// What a request with these labels is counted in.
    pub fn requests(&self, labels: &Labels<'_>) -> Arc<Requests> {
        self.requests.get(&labels.values())
    }

    /// A request was authenticated by a certificate that is valid for so many seconds more.
    pub fn certificate(&self, seconds: f64) {
        self.certificates.observe(seconds);
    }

    /// Writes everything.
    pub fn text(&self, now: &Now<'_>) -> String {
        let mut out = Text::default();
        let all = self.requests.all();
        write_requests(&mut out, &all);
        write_deprecated(&mut out, &all, now.deprecated);
        out.open(&descs::CERTIFICATES);
        out.histogram(&descs::CERTIFICATES, &[], &self.certificates);
        self.admission.write(&mut out);
        now.flow.write_metrics(&mut out);
        write_now(&mut out, now);
        out.single(&descs::CONNECTIONS, self.connections.load(Relaxed) as f64);
        knarr_core::metrics::write_process(&mut out, now.version);
        out.into_string()
    }
}

fn write_requests(out: &mut Text, all: &[Counted]) {
    out.open(&descs::REQUESTS);
    for (values, requests) in all {
        for (code, count) in requests.by_code.all() {
            out.sample(&descs::REQUESTS, &with_dry_run(values, Some(&code.to_string())), count as f64);
        }
    }
    out.open(&descs::DURATION);
    for (values, requests) in all.iter().filter(|(_, r)| r.duration.count() > 0) {
        out.histogram(&descs::DURATION, &with_dry_run(values, None), &requests.duration);
    }
    // Without a label for it, a dry run does not count: as upstream has it.
    let wet = || all.iter().filter(|(values, _)| values[0].is_empty());
    out.open(&descs::SLI_DURATION);
    for (values, requests) in wet().filter(|(_, r)| r.sli.count() > 0) {
        out.histogram(&descs::SLI_DURATION, &without_dry_run(values), &requests.sli);
    }
    out.open(&descs::SIZES);
    for (values, requests) in wet().filter(|(_, r)| r.sizes.count() > 0) {
        out.histogram(&descs::SIZES, &without_dry_run(values), &requests.sizes);
    }
    out.open(&descs::LONG_RUNNING);
    for (values, requests) in wet() {
        let count = requests.long_running.load(Relaxed);
        if count != 0 {
            out.sample(&descs::LONG_RUNNING, &without_dry_run(values), count as f64);
        }
    }
    out.open(&descs::TERMINATIONS);
    let mut ended: BTreeMap<(&[Box<str>], u16), u64> = BTreeMap::new();
    for (values, requests) in all {
        for (code, count) in requests.terminations.all() {
            *ended.entry((&values[1..], code)).or_default() += count;
        }
    }
    for ((values, code), count) in ended {
        let code = code.to_string();
        let values: Vec<&str> = [code.as_str(), COMPONENT].into_iter().chain(values.iter().map(AsRef::as_ref)).collect();
        out.sample(&descs::TERMINATIONS, &values, count as f64);
    }
}

/// Label values of a request with its component, and with the code when there is one.
fn with_dry_run<'a>(values: &'a [Box<str>], code: Option<&'a str>) -> Vec<&'a str> {
    code.into_iter().chain([COMPONENT]).chain(values.iter().map(AsRef::as_ref)).collect()
}

fn without_dry_run(values: &[Box<str>]) -> Vec<&str> {
    [COMPONENT].into_iter().chain(values[1..].iter().map(AsRef::as_ref)).collect()
}

fn write_deprecated(out: &mut Text, all: &[Counted], deprecated: &Deprecated<'_>) {
    out.open(&descs::DEPRECATED);
    let mut found: Vec<([&str; 4], String)> = Vec::new();
    for (values, requests) in all {
        let [_, group, resource, _, subresource, _, version] = &**values else { continue };
        if let Some(removed) = deprecated(group, version, resource).filter(|_| requests.duration.count() > 0) {
            found.push(([group, resource, subresource, version], removed));
        }
    }
    found.sort_unstable();
    found.dedup();
    for ([group, resource, subresource, version], removed) in &found {
        out.sample(&descs::DEPRECATED, &[group, removed, resource, subresource, version], 1.0);
    }
}

fn write_now(out: &mut Text, now: &Now<'_>) {
    out.open(&descs::INFLIGHT);
    out.sample(&descs::INFLIGHT, &["mutating"], now.inflight.1 as f64);
    out.sample(&descs::INFLIGHT, &["readOnly"], now.inflight.0 as f64);
    out.open(&descs::OBJECTS);
    for (group, resource, count) in now.objects {
        let name = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
        out.sample(&descs::OBJECTS, &[&name], *count as f64);
    }
    out.open(&descs::RESOURCE_OBJECTS);
    for (group, resource, count) in now.objects {
        out.sample(&descs::RESOURCE_OBJECTS, &[group, resource], *count as f64);
    }
    if let Some(bytes) = now.storage_size {
        out.open(&descs::STORAGE_SIZE);
        out.sample(&descs::STORAGE_SIZE, &["etcd-0"], bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Labels<'_> = Labels { verb: "LIST", group: "", version: "v1", resource: "pods", subresource: "", scope: "namespace", dry_run: "" };

    fn text(metrics: &Metrics) -> String {
        let objects = [("apps".to_owned(), "deployments".to_owned(), 3)];
        let deprecated = |group: &str, _: &str, resource: &str| ((group, resource) == ("", "endpoints")).then(String::new);
        let flow = FlowControl::new(600);
        metrics.text(&Now {
            inflight: (1, 2),
            flow: &flow,
            objects: &objects,
            storage_size: Some(4096),
            version: &knarr_core::json!({}),
            deprecated: &deprecated,
        })
    }

    fn assert_lines(text: &str, wanted: &[&str]) {
        for line in wanted {
            assert!(text.lines().any(|l| l == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_request_is_counted_under_upstreams_names() {
        let metrics = Metrics::default();
        let requests = metrics.requests(&PODS);
        requests.observe(200, Duration::from_millis(130), Duration::from_millis(100));
        requests.sized(1500);
        requests.terminate(504);
        metrics.requests(&Labels { resource: "endpoints", verb: "WATCH", ..PODS }).observe(200, Duration::ZERO, Duration::ZERO);
        let rest = "group=\"\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"";
        let wanted = [
            format!("apiserver_request_total{{code=\"200\",component=\"apiserver\",dry_run=\"\",{rest}}} 1"),
            format!("apiserver_request_duration_seconds_bucket{{component=\"apiserver\",dry_run=\"\",{rest},le=\"0.1\"}} 0"),
            format!("apiserver_request_duration_seconds_bucket{{component=\"apiserver\",dry_run=\"\",{rest},le=\"0.2\"}} 1"),
            format!("apiserver_request_sli_duration_seconds_bucket{{component=\"apiserver\",{rest},le=\"0.05\"}} 1"),
            format!("apiserver_response_sizes_bucket{{component=\"apiserver\",{rest},le=\"1000\"}} 0"),
            format!("apiserver_response_sizes_sum{{component=\"apiserver\",{rest}}} 1500"),
            format!("apiserver_request_terminations_total{{code=\"504\",component=\"apiserver\",{rest}}} 1"),
        ];
        let text = text(&metrics);
        assert_lines(&text, &wanted.iter().map(String::as_str).collect::<Vec<_>>());
        assert_lines(
            &text,
            &[
                "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1",
                "apiserver_current_inflight_requests{request_kind=\"mutating\"} 2",
                "apiserver_storage_objects{resource=\"deployments.apps\"} 3",
                "apiserver_storage_size_bytes{storage_cluster_id=\"etcd-0\"} 4096",
            ],
        );
    }

    #[test]
    fn what_lasts_is_counted_while_it_lasts() {
        let metrics = Metrics::default();
        let watching = metrics.requests(&PODS).long_running(200, Instant::now());
        let under_way = "apiserver_longrunning_requests{component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1";
        assert_lines(&text(&metrics), &[under_way]);
        drop(watching);
        assert!(!text(&metrics).contains("apiserver_longrunning_requests{"));
        assert!(text(&metrics).contains("apiserver_request_total{code=\"200\""));
    }

    #[test]
    fn sizes_of_answers_are_counted_under_the_labels_of_their_request() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            let requests = metrics.requests(&PODS);
            requests.observe(200, Duration::from_millis(1), Duration::ZERO);
            requests.sized(1000);
        }
        assert_eq!(metrics.requests(&PODS).sizes.count(), 3);
    }

    #[test]
    fn webhooks_are_counted_by_what_came_of_them() {
        let metrics = Metrics::default();
        let call = |called| metrics.admission.webhook("w", Step::Validate, crate::admission::Operation::Create, called, Duration::from_millis(30));
        [Called::Allowed, Called::Denied(700), Called::Failed { code: 500, open: true }, Called::OwnError].into_iter().for_each(call);
        assert_lines(
            &text(&metrics),
            &[
                "apiserver_admission_webhook_request_total{code=\"200\",name=\"w\",operation=\"CREATE\",rejected=\"false\",type=\"validating\"} 1",
                "apiserver_admission_webhook_rejection_count{error_type=\"no_error\",name=\"w\",operation=\"CREATE\",rejection_code=\"600\",type=\"validating\"} 1",
                "apiserver_admission_webhook_rejection_count{error_type=\"apiserver_internal_error\",name=\"w\",operation=\"CREATE\",rejection_code=\"0\",type=\"validating\"} 1",
                "apiserver_admission_webhook_fail_open_count{name=\"w\",type=\"validating\"} 1",
                "apiserver_admission_webhook_admission_duration_seconds_count{name=\"w\",operation=\"CREATE\",rejected=\"false\",type=\"validating\"} 2",
            ],
        );
    }
}
