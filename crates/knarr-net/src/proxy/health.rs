//! What the proxy tells about itself: its own health (10256), metrics (10249), and for each load balancer with the traffic
//! policy `Local` whether this node has endpoints (upstream: `k8s.io/kubernetes/pkg/proxy/healthcheck`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use knarr_client::read::Key as ServiceKey;
use knarr_core::clock::Env;
use knarr_core::json;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::{Answer, serve};

/// An update that waits longer than this makes the proxy unhealthy (upstream: twice the sync period).
const UPDATE_LATE: Duration = Duration::from_secs(60);

/// Counters and times of one proxy.
pub(super) struct Health {
    env: Env,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_updated: Option<jiff::Timestamp>,
    oldest_pending: Option<jiff::Timestamp>,
    last_queued: Option<jiff::Timestamp>,
    sync: Histogram,
    programming: Histogram,
    failures: u64,
    /// Answers of `/healthz` and `/livez` by code.
    answered: BTreeMap<(&'static str, u16), u64>,
}

#[derive(Default)]
struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, bounds: &[f64], value: f64) {
        self.counts.resize(bounds.len(), 0);
        if let Some(slot) = bounds.iter().position(|b| value <= *b) {
            self.counts[slot] += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    fn write(&self, out: &mut String, name: &str, help: &str, bounds: &[f64]) {
        let mut total = 0;
        // Writing to a string cannot fail.
        let mut line = |text: std::fmt::Arguments<'_>| out.write_fmt(text).unwrap_or_default();
        line(format_args!("# HELP {name} {help}\n# TYPE {name} histogram\n"));
        for (index, bound) in bounds.iter().enumerate() {
            total += self.counts.get(index).copied().unwrap_or_default();
            line(format_args!("{name}_bucket{{ip_family=\"IPv4\",le=\"{bound}\"}} {total}\n"));
        }
        line(format_args!("{name}_bucket{{ip_family=\"IPv4\",le=\"+Inf\"}} {}\n", self.count));
        line(format_args!("{name}_sum{{ip_family=\"IPv4\"}} {}\n{name}_count{{ip_family=\"IPv4\"}} {}\n", self.sum, self.count));
    }
}

fn sync_bounds() -> Vec<f64> {
    (0..15).map(|n| 0.001 * f64::from(1 << n)).collect()
}

fn programming_bounds() -> Vec<f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from)).collect()
}

impl Health {
    pub fn new(env: Env) -> Arc<Self> {
        Arc::new(Self { env, state: Mutex::new(State::default()) })
    }

    /// A change came in.
    pub fn queued(&self) {
        let now = self.env.now();
        let mut state = self.state.lock();
        state.oldest_pending.get_or_insert(now);
        state.last_queued = Some(now);
    }

    /// Everything up to here is in the kernel. `triggered_at` are the times when its causes happened.
    pub fn synced(&self, took: Duration, triggered_at: &[jiff::Timestamp]) {
        let now = self.env.now();
        let mut state = self.state.lock();
        state.oldest_pending = None;
        state.last_updated = Some(now);
        state.sync.observe(&sync_bounds(), took.as_secs_f64());
        for at in triggered_at {
            state.programming.observe(&programming_bounds(), now.duration_since(*at).as_secs_f64().max(0.0));
        }
    }

    pub fn failed(&self) {
        self.state.lock().failures += 1;
    }

    pub fn is_healthy(&self) -> bool {
        let pending = self.state.lock().oldest_pending;
        pending.is_none_or(|since| self.env.now().duration_since(since).as_secs_f64() < UPDATE_LATE.as_secs_f64())
    }

    fn answer(&self, endpoint: &'static str) -> Answer {
        let (healthy, now) = (self.is_healthy(), self.env.now());
        let status = if healthy { 200 } else { 503 };
        let mut state = self.state.lock();
        *state.answered.entry((endpoint, status)).or_default() += 1;
        let updated = state.last_updated.unwrap_or(now);
        // While healthy, upstream calls itself updated just now.
        let mut body = json!({
            "lastUpdated": knarr_core::time::format_nano(if healthy { now } else { updated }),
            "currentTime": knarr_core::time::format_nano(now),
            "healthy": healthy,
            "status": {"IPv4": {"lastUpdated": knarr_core::time::format_nano(updated), "healthy": healthy}},
        });
        if endpoint == "healthz" {
            body["nodeEligible"] = true.into();
        }
        Answer::json(status, body.to_string())
    }

    fn metrics(&self) -> String {
        let state = self.state.lock();
        let mut out = String::new();
        state.sync.write(&mut out, "kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", &sync_bounds());
        let programming = "kubeproxy_network_programming_duration_seconds";
        state.programming.write(&mut out, programming, "In Cluster Network Programming Latency in seconds", &programming_bounds());
        let seconds = |at: Option<jiff::Timestamp>| at.map_or(0.0, |t| t.as_duration().as_secs_f64());
        let family = "{ip_family=\"IPv4\"}";
        for (name, kind, value) in [
            ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", seconds(state.last_updated)),
            ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge", seconds(state.last_queued)),
            ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "counter", state.failures as f64),
        ] {
            out += &format!("# TYPE {name} {kind}\n{name}{family} {value}\n");
        }
        for ((endpoint, code), count) in &state.answered {
            out += &format!("kubeproxy_proxy_{endpoint}_total{{code=\"{code}\"}} {count}\n");
        }
        out
    }
}

/// Serves `/healthz` and `/livez`.
pub(super) async fn serve_health(address: SocketAddr, health: Arc<Health>, stop: CancellationToken) {
    let answer = move |path: &str| match path {
        "/healthz" => health.answer("healthz"),
        "/livez" => health.answer("livez"),
        _ => Answer::text(404, "404 page not found\n"),
    };
    listen(address, answer, stop).await;
}

/// Serves `/metrics`, and `/healthz` and `/proxyMode` as upstream's metrics port does.
pub(super) async fn serve_metrics(address: SocketAddr, health: Arc<Health>, stop: CancellationToken) {
    let answer = move |path: &str| match path {
        "/metrics" => Answer { content_type: "text/plain; version=0.0.4; charset=utf-8", ..Answer::text(200, health.metrics()) },
        "/healthz" => Answer::text(200, "ok"),
        "/proxyMode" => Answer::text(200, "nftables"),
        _ => Answer::text(404, "404 page not found\n"),
    };
    listen(address, answer, stop).await;
}

async fn listen(address: SocketAddr, answer: impl Fn(&str) -> Answer + Send + Sync + 'static, stop: CancellationToken) {
    match TcpListener::bind(address).await {
        Ok(listener) => serve(listener, answer, stop).await,
        Err(error) => tracing::warn!(%address, %error, "the service proxy cannot serve its health or metrics there"),
    }
}

/// The servers on `healthCheckNodePort`s.
pub(super) struct HealthCheckPorts {
    health: Arc<Health>,
    stop: CancellationToken,
    open: BTreeMap<ServiceKey, Open>,
}

struct Open {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl HealthCheckPorts {
    pub fn new(health: Arc<Health>, stop: CancellationToken) -> Self {
        Self { health, stop, open: BTreeMap::new() }
    }

    /// Tells a Service's port and number of local endpoints; without them, its server ends.
    pub fn set(&mut self, service: &ServiceKey, wanted: Option<(u16, usize)>) {
        if let Some(open) = self.open.get(service) {
            match wanted {
                Some((port, endpoints)) if port == open.port => return open.endpoints.store(endpoints, Ordering::Relaxed),
                _ => open.stop.cancel(),
            }
            self.open.remove(service);
        }
        let Some((port, count)) = wanted else { return };
        let (endpoints, stop) = (Arc::new(AtomicUsize::new(count)), self.stop.child_token());
        let (health, of, counter) = (self.health.clone(), service.clone(), endpoints.clone());
        let answer = move |_: &str| health_check(&of, counter.load(Ordering::Relaxed), health.is_healthy());
        tokio::spawn(listen((Ipv4Addr::UNSPECIFIED, port).into(), answer, stop.clone()));
        self.open.insert(service.clone(), Open { port, endpoints, stop });
    }
}

fn health_check(service: &ServiceKey, endpoints: usize, proxy_healthy: bool) -> Answer {
    let quoted = |text: &str| knarr_core::Value::from(text).to_string();
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {proxy_healthy}\n}}",
        quoted(service.namespace()),
        quoted(service.name()),
    );
    let mut answer = Answer::json(if endpoints > 0 && proxy_healthy { 200 } else { 503 }, body);
    answer.headers.push(("x-load-balancing-endpoint-weight", endpoints.to_string()));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_update_that_waits_too_long_makes_the_proxy_unhealthy() {
        let health = Health::new(Env::simulated(1, jiff::Timestamp::UNIX_EPOCH));
        assert!(health.is_healthy());
        health.queued();
        tokio::time::sleep(UPDATE_LATE / 2).await;
        health.queued();
        assert!(health.is_healthy());
        tokio::time::sleep(UPDATE_LATE / 2).await;
        assert_eq!(health.answer("healthz").status, 503);
        health.synced(Duration::from_millis(3), &[jiff::Timestamp::UNIX_EPOCH]);
        assert_eq!(health.answer("healthz").status, 200);
        let metrics = health.metrics();
        assert!(metrics.contains("kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1\n"), "{metrics}");
        assert!(metrics.contains("kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"59\"} 0\n"), "{metrics}");
        assert!(metrics.contains("kubeproxy_proxy_healthz_total{code=\"503\"} 1\n"), "{metrics}");
    }

    #[test]
    fn a_health_check_counts_local_endpoints() {
        let service = ServiceKey::new("a", "b");
        let (with, without) = (health_check(&service, 2, true), health_check(&service, 0, true));
        assert_eq!((with.status, without.status, health_check(&service, 2, false).status), (200, 503, 503));
        assert!(with.body.contains("\"namespace\": \"a\"") && with.headers.contains(&("x-load-balancing-endpoint-weight", "2".into())));
    }
}
