//! What dashboards, alerts and probes find: `/metrics`, `/metrics/slis`, `/livez`, `/readyz`, `/healthz`.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use knarr_apiserver::{
    admission::{self, Operation},
    metrics::{Called, Step},
    stored::Stored,
};
use knarr_core::json;
use support::Cluster;

/// One line of an exposition: name, labels in their order, value.
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: String,
}

/// Reads samples whose label values have no escapes.
fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let pairs = labels.strip_suffix('}').unwrap().split("\",").filter(|l| !l.is_empty());
    let labels = pairs.map(|pair| {
        let (label, text) = pair.split_once("=\"").unwrap();
        (label.to_owned(), text.trim_end_matches('"').to_owned())
    });
    Sample { name: name.to_owned(), labels: labels.collect(), value: value.to_owned() }
}

struct Exposition {
    types: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

impl Exposition {
    fn read(text: &str) -> Self {
        let mut read = Self { types: BTreeMap::new(), samples: Vec::new() };
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(read.types.insert(name.to_owned(), kind.to_owned()), None, "{name} twice");
            } else if !line.starts_with('#') {
                read.samples.push(sample(line));
            }
        }
        let all: BTreeSet<_> = read.samples.iter().map(|s| (&s.name, &s.labels)).collect();
        assert_eq!(all.len(), read.samples.len(), "a series twice");
        read
    }

    fn labels(&self, series: &str) -> BTreeSet<String> {
        let found: BTreeSet<Vec<&str>> =
            self.samples.iter().filter(|s| s.name == series).map(|s| s.labels.iter().map(|l| l.0.as_str()).filter(|l| *l != "le").collect()).collect();
        found.iter().map(|labels| labels.join(",")).collect()
    }

    fn buckets(&self, name: &str) -> String {
        let bucket = format!("{name}_bucket");
        let mut of_first = self.samples.iter().skip_while(|s| s.name != bucket);
        let bounds: Vec<&str> =
            of_first.by_ref().map_while(|s| s.labels.iter().find(|l| l.0 == "le")).map(|l| l.1.as_str()).take_while(|b| *b != "+Inf").collect();
        bounds.join(",")
    }
}

/// A cluster of which each metric has something to tell. The watch lasts as long as its lines are kept.
async fn busy() -> (Cluster, support::Lines) {
    let cluster = Cluster::start().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/configmaps", &map).await.code, 201);
    assert_eq!(cluster.get("/api/v1/endpoints").await.code, 200);
    let watch = cluster.open("/api/v1/configmaps?watch=1", &[]).await;
    cluster.server.metrics().admission.webhook("w", Step::Admit, Operation::Create, Called::Allowed, Duration::from_millis(1));
    assert_eq!(cluster.get("/readyz").await.text(), "ok");
    (cluster, watch)
}

#[tokio::test]
async fn all_stable_metrics_are_as_upstream_promises() {
    let (cluster, _watch) = busy().await;
    let text = cluster.get("/metrics").await.text() + &cluster.get("/metrics/slis").await.text();
    let found = Exposition::read(&text);
    let facts = include_str!("facts/stable-metrics.txt").lines().filter(|l| !l.starts_with('#'));
    for fact in facts {
        let [name, kind, labels, buckets] = fact.split(' ').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(found.types.get(name).map(String::as_str), Some(kind), "{name}");
        let series = if kind == "histogram" { format!("{name}_bucket") } else { name.to_owned() };
        assert_eq!(found.labels(&series), BTreeSet::from([labels.to_owned()]), "{name}");
        if kind == "histogram" {
            assert_eq!(found.buckets(name), buckets, "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_not_served_is_not_told_apart() {
    let cluster = Cluster::start().await;
    for i in 0..20 {
        cluster.get(&format!("/apis/made{i}.example/v1/ups{i}")).await;
        cluster.get(&format!("/api/v1/namespaces/default/pods/a/made{i}")).await;
        cluster.send(&format!("MADE{i}"), &format!("/made/{i}"), &[], "").await;
    }
    let text = cluster.get("/metrics").await.text();
    assert!(!text.contains("made") && !text.contains("MADE"), "{text}");
    let counted = Exposition::read(&text).samples;
    let others = counted.iter().filter(|s| s.name == "apiserver_request_total" && s.labels.iter().any(|l| l.1 == "other"));
    assert_eq!(others.map(|s| s.value.as_str()).collect::<Vec<_>>(), ["20", "20", "20"]);
}

#[tokio::test]
async fn plugins_are_measured_in_the_passes_they_have() {
    let (cluster, _watch) = busy().await;
    let text = cluster.get("/metrics").await.text();
    let count = |name: &str, step: &str| {
        let labels = format!("{{name=\"{name}\",operation=\"CREATE\",rejected=\"false\",type=\"{step}\"}}");
        text.contains(&format!("apiserver_admission_controller_admission_duration_seconds_count{labels} 1\n"))
    };
    assert!(count("NamespaceLifecycle", "validate") && !count("NamespaceLifecycle", "admit"), "{text}");
    assert!(text.contains("apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"admit\"}"), "{text}");
}

#[tokio::test]
async fn checks_have_paths_of_their_own() {
    let cluster = Cluster::start().await;
    cluster.server.health().add_ready("late", || Err("not yet".into()));
    let verbose = cluster.get("/livez?verbose").await;
    assert_eq!((verbose.code, verbose.text().as_str()), (200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n"));
    assert_eq!(verbose.headers["x-content-type-options"], "nosniff");
    let ready = cluster.get("/readyz").await;
    let told = "[+]ping ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]shutdown ok\n[-]late failed: reason withheld\nreadyz check failed\n";
    assert_eq!((ready.code, ready.text().as_str()), (500, told));
    assert_eq!(cluster.get("/readyz?exclude=late").await.text(), "ok");
    assert_eq!(cluster.get("/readyz/etcd").await.text(), "ok");
    let late = cluster.get("/readyz/late").await;
    assert_eq!((late.code, late.text().as_str()), (500, "internal server error: not yet\n"));
    assert_eq!(cluster.get("/livez/late").await.code, 404);
    assert_eq!(cluster.get("/healthz").await.text(), "ok");
}
