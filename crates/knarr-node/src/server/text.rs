//! Metrics as Prometheus reads them: `/metrics`, `/metrics/resource`, `/metrics/cadvisor`.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use jiff::Timestamp;

use super::stats::{ContainerUse, PodUse, Use};
use super::{Body, full};
use crate::agent::Pods;
use crate::context::Context;
use crate::pod::spec::PodExt;
use crate::probes::counts::Counts;

pub fn page(text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// Labels in braces; values are escaped.
fn labels(pairs: &[(&str, &str)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let all: Vec<String> = pairs.iter().map(|(n, v)| format!("{n}=\"{}\"", escape(v))).collect();
    format!("{{{}}}", all.join(","))
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, pairs: &[(&str, &str)], value: f64, at: Option<Timestamp>) {
        let stamp = at.map(|t| format!(" {}", t.as_millisecond())).unwrap_or_default();
        self.0.push_str(&format!("{name}{} {value}{stamp}\n", labels(pairs)));
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

type OfContainer = fn(&ContainerUse) -> f64;

/// The few numbers that autoscaling and `kubectl top` live on.
pub fn resource(used: &Use) -> String {
    let mut page = Page(String::new());
    let families: [(&str, &str, &str, OfContainer); 3] = [
        ("container_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the container in core-seconds", |c| {
            seconds(c.stats.cpu_usage_nanos)
        }),
        ("container_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the container in bytes", |c| c.stats.memory_working_set_bytes as f64),
        ("container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds", |c| {
            c.started_at.as_millisecond() as f64 / 1e3
        }),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (pod, c) in used.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))) {
            let at = (name != "container_start_time_seconds").then_some(c.stats.at);
            page.sample(name, &[("container", &c.name), ("namespace", pod.view.pod.namespace()), ("pod", pod.view.pod.name())], value(c), at);
        }
    }
    page.family("node_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    page.sample("node_cpu_usage_seconds_total", &[], seconds(used.node_cpu_nanos), Some(used.at));
    page.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    page.sample("node_memory_working_set_bytes", &[], used.node_working_set as f64, Some(used.at));
    let of_pods: [(&str, &str, &str, OfContainer); 2] = [
        ("pod_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", |c| seconds(c.stats.cpu_usage_nanos)),
        ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes", |c| c.stats.memory_working_set_bytes as f64),
    ];
    for (name, kind, help, value) in of_pods {
        page.family(name, kind, help);
        for pod in &used.pods {
            let sum = pod.containers.iter().map(value).sum();
            page.sample(name, &[("namespace", pod.view.pod.namespace()), ("pod", pod.view.pod.name())], sum, Some(used.at));
        }
    }
    page.family("resource_scrape_error", "gauge", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise");
    page.sample("resource_scrape_error", &[], f64::from(u8::from(used.incomplete)), None);
    page.0
}

type OfInterface = fn(&super::stats::Interface) -> u64;

/// The names that dashboards made for cAdvisor ask for.
pub fn cadvisor(used: &Use) -> String {
    let mut page = Page(String::new());
    let families: [(&str, &str, &str, OfContainer); 7] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| seconds(c.stats.cpu_usage_nanos)),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory regardless of when it was accessed", |c| {
            c.stats.memory_usage_bytes as f64
        }),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| c.stats.memory_working_set_bytes as f64),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| c.stats.memory_rss_bytes as f64),
        ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.", |c| {
            c.stats.writable_layer_bytes as f64
        }),
        ("container_processes", "gauge", "Number of processes running inside the container.", |c| c.stats.process_count as f64),
        ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |c| c.started_at.as_second() as f64),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for (pod, c) in used.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c))) {
            page.sample(name, &container_labels(pod, c, &format!("/kubepods/pod{}/{}", pod.view.pod.uid(), c.id)), value(c), Some(c.stats.at));
        }
    }
    let of_network: [(&str, OfInterface); 8] = [
        ("container_network_receive_bytes_total", |i| i.received_bytes),
        ("container_network_receive_packets_total", |i| i.received_packets),
        ("container_network_receive_errors_total", |i| i.received_errors),
        ("container_network_receive_packets_dropped_total", |i| i.received_dropped),
        ("container_network_transmit_bytes_total", |i| i.sent_bytes),
        ("container_network_transmit_packets_total", |i| i.sent_packets),
        ("container_network_transmit_errors_total", |i| i.sent_errors),
        ("container_network_transmit_packets_dropped_total", |i| i.sent_dropped),
    ];
    for (name, value) in of_network {
        page.family(name, "counter", "Cumulative count of the pod's network interface");
        for (pod, i) in used.pods.iter().flat_map(|p| p.network.iter().map(move |i| (p, i))) {
            let own = [("interface", i.name.as_str()), ("namespace", pod.view.pod.namespace()), ("pod", pod.view.pod.name())];
            page.sample(name, &own, value(i) as f64, Some(used.at));
        }
    }
    page.0
}

fn container_labels<'a>(pod: &'a PodUse, c: &'a ContainerUse, path: &'a str) -> [(&'static str, &'a str); 6] {
    [("container", &c.name), ("id", path), ("image", &c.image), ("name", &c.id), ("namespace", pod.view.pod.namespace()), ("pod", pod.view.pod.name())]
}

/// `/metrics/probes`.
pub fn probes(counts: &Counts) -> String {
    let mut page = Page(String::new());
    page.family("prober_probe_total", "counter", "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.");
    for (s, n) in counts.all() {
        let pairs = [
            ("container", s.container.as_str()),
            ("namespace", s.namespace.as_str()),
            ("pod", s.pod.as_str()),
            ("pod_uid", s.uid.as_str()),
            ("probe_type", s.kind.as_str()),
            ("result", s.outcome.as_str()),
        ];
        page.sample("prober_probe_total", &pairs, n as f64, None);
    }
    page.0
}

/// `/metrics`.
pub fn own(context: &Context, pods: &Pods) -> String {
    let mut page = Page(String::new());
    let views: Vec<_> = pods.all().into_iter().map(|h| h.view.borrow().clone()).collect();
    page.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    page.sample("kubelet_node_name", &[("node", &context.config.node_name)], 1.0, None);
    page.family("kubelet_running_pods", "gauge", "[BETA] Number of pods that have a running pod sandbox");
    page.sample("kubelet_running_pods", &[], views.iter().filter(|v| v.observed.active_sandbox().is_some()).count() as f64, None);
    page.family("kubelet_running_containers", "gauge", "[BETA] Number of containers currently running");
    let states: [(&str, fn(&crate::pod::observed::Seen) -> bool); 2] = [("running", |c| c.is_running()), ("exited", |c| c.has_exited())];
    for (state, is) in states {
        let count = views.iter().flat_map(|v| &v.observed.containers).filter(|c| is(c)).count();
        page.sample("kubelet_running_containers", &[("container_state", state)], count as f64, None);
    }
    page.family("kubelet_desired_pods", "gauge", "[ALPHA] The number of pods the kubelet is being instructed to run.");
    page.sample("kubelet_desired_pods", &[("static", "")], views.len() as f64, None);
    page.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(labels(&[("a", "x\"y\\z\n")]), "{a=\"x\\\"y\\\\z\\n\"}");
        assert_eq!(labels(&[]), "");
    }
}
