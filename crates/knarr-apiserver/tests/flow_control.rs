//! Priority and fairness through a server: how requests are classified, who waits and who is turned away, what the objects say.

mod support;

use std::{sync::Arc, time::Duration};

use knarr_apiserver::{
    Config,
    admission::{Operation, Plugin, Review},
    authn::{MASTERS, User},
    authz::Attributes,
    bootstrap,
};
use knarr_core::{Result, Value, api::Transport, json};
use support::{Answer, Cluster, config_map};
use tokio::sync::Semaphore;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

/// Creates of ConfigMaps wait here until the test lets them go on.
struct Gate(Arc<Semaphore>);

#[async_trait::async_trait]
impl Plugin for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }
    fn handles(&self, operation: Operation, attributes: &Attributes) -> bool {
        operation == Operation::Create && attributes.resource == "configmaps"
    }
    async fn validate(&self, _review: &Review<'_>) -> Result<()> {
        self.0.acquire().await.map(|permit| permit.forget()).map_err(knarr_core::Status::internal)
    }
}

fn level(name: &str, shares: u32, response: Value) -> Value {
    let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": 0, "borrowingLimitPercent": 0, "limitResponse": response});
    json!({"kind": "PriorityLevelConfiguration", "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}})
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let subjects = json!([{"kind": "User", "user": {"name": user}}]);
    let rule =
        json!({"subjects": subjects, "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]});
    json!({"kind": "FlowSchema", "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": name},
        "spec": {"matchingPrecedence": 500, "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"}, "rules": [rule]}})
}

/// A server on which the user `test` has a level of its own.
async fn cluster(seats: usize, response: Value) -> Cluster {
    let config = Config { read_inflight_max: seats, write_inflight_max: 0, request_timeout: Duration::from_secs(4), ..Config::default() };
    let cluster = Cluster::start_with(config).await;
    cluster.server.set_authorizer(Arc::new(knarr_apiserver::authz::Always(knarr_apiserver::authz::Decision::Allow)));
    assert_eq!(cluster.post(LEVELS, &level("tests", 95, response)).await.code, 201);
    assert_eq!(cluster.post(SCHEMAS, &schema("tests", "tests", "test")).await.code, 201);
    until(&cluster, &format!("{SCHEMAS}/tests"), |o| o["status"]["conditions"][0]["status"] == "False").await;
    cluster
}

/// Waits until an object is as it is to be.
async fn until(cluster: &Cluster, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..500 {
        let answer = cluster.get(path).await;
        if answer.code == 200 && is(&answer.json()) {
            return answer.json();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} is still {}", cluster.get(path).await.text());
}

fn managers(object: &Value) -> Vec<&str> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().filter_map(|m| m["manager"].as_str()).collect()
}

async fn as_user(cluster: &Cluster, user: &str, method: &str, path: &str, body: String) -> Answer {
    cluster.send(method, path, &[("x-user", user), ("content-type", "application/json")], body).await
}

async fn uid(cluster: &Cluster, path: &str) -> String {
    cluster.get(path).await.json()["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

async fn metric(cluster: &Cluster, line: &str) -> Option<String> {
    let text = cluster.get("/metrics").await.text();
    text.lines().find_map(|l| l.strip_prefix(line).and_then(|rest| rest.strip_prefix(' ')).map(str::to_owned))
}

#[tokio::test]
async fn answers_tell_how_their_request_was_classified() {
    let cluster = cluster(100, json!({"type": "Reject"})).await;
    let answer = as_user(&cluster, "test", "GET", "/api/v1/namespaces/default/configmaps", String::new()).await;
    assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], uid(&cluster, &format!("{SCHEMAS}/tests")).await.as_str());
    assert_eq!(answer.headers["x-kubernetes-pf-prioritylevel-uid"], uid(&cluster, &format!("{LEVELS}/tests")).await.as_str());
    assert_eq!(metric(&cluster, "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"tests\"}").await.as_deref(), Some("95"));
    let dispatched = "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"tests\",priority_level=\"tests\"}";
    assert_eq!(metric(&cluster, dispatched).await.as_deref(), Some("1"));
    // What there is no object for has no uid.
    assert_eq!(cluster.get("/version").await.headers["x-kubernetes-pf-flowschema-uid"], "");
    // A schema that loses its level says so, and takes nothing any more.
    assert_eq!(cluster.delete(&format!("{LEVELS}/tests")).await.code, 200);
    let dangling = until(&cluster, &format!("{SCHEMAS}/tests"), |o| o["status"]["conditions"][0]["status"] == "True").await;
    assert_eq!(dangling["status"]["conditions"][0]["reason"], "NotFound");
    assert!(managers(&dangling).contains(&"api-priority-and-fairness-config-consumer-v1"), "{dangling}");
    let answer = as_user(&cluster, "test", "GET", "/api/v1/namespaces/default/configmaps", String::new()).await;
    assert_eq!(answer.headers["x-kubernetes-pf-flowschema-uid"], "");
}

async fn held_up(cluster: &Arc<Cluster>, count: usize, done: usize) -> (Arc<Semaphore>, Vec<tokio::task::JoinHandle<Answer>>) {
    let gate = Arc::new(Semaphore::new(0));
    cluster.server.set_plugins(vec![Arc::new(Gate(gate.clone()))]);
    let mut tasks = Vec::new();
    for i in 0..count {
        let cluster = cluster.clone();
        let map = config_map(&format!("m{i}"), json!({})).to_string();
        tasks.push(tokio::spawn(async move { as_user(&cluster, "test", "POST", "/api/v1/namespaces/default/configmaps", map).await }));
    }
    let executing = "apiserver_flowcontrol_current_executing_requests{flow_schema=\"tests\",priority_level=\"tests\"}";
    while metric(cluster, executing).await != Some(done.to_string()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (gate, tasks)
}

#[tokio::test]
async fn who_may_not_wait_is_sent_away_with_upstreams_answer() {
    let cluster = Arc::new(cluster(2, json!({"type": "Reject"})).await);
    let (gate, tasks) = held_up(&cluster, 2, 2).await;
    let refused = as_user(&cluster, "test", "GET", "/api/v1/namespaces/default/configmaps", String::new()).await;
    assert_eq!((refused.code, refused.text().as_str()), (429, "Too many requests, please try again later.\n"));
    assert_eq!((refused.headers["retry-after"].as_bytes(), refused.headers["content-type"].as_bytes()), (&b"1"[..], &b"text/plain; charset=utf-8"[..]));
    assert_eq!(refused.headers["x-kubernetes-pf-prioritylevel-uid"], uid(&cluster, &format!("{LEVELS}/tests")).await.as_str());
    // Others have seats of their own.
    assert_eq!(as_user(&cluster, "other", "GET", "/api/v1/namespaces/default/configmaps", String::new()).await.code, 200);
    gate.add_permits(2);
    for task in tasks {
        assert_eq!(task.await.unwrap().code, 201);
    }
    let rejected = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"tests\",priority_level=\"tests\",reason=\"concurrency-limit\"}";
    assert_eq!(metric(&cluster, rejected).await.as_deref(), Some("1"));
    assert_eq!(as_user(&cluster, "test", "GET", "/api/v1/namespaces/default/configmaps", String::new()).await.code, 200);
}

#[tokio::test]
async fn who_waits_is_served_when_there_are_seats_and_sent_away_when_it_takes_too_long() {
    let queuing = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 5}});
    let cluster = Arc::new(cluster(2, queuing).await);
    let (gate, tasks) = held_up(&cluster, 4, 2).await;
    let waiting = "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"tests\",priority_level=\"tests\"}";
    while metric(&cluster, waiting).await.as_deref() != Some("2") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let queues = cluster.get("/debug/api_priority_and_fairness/dump_queues").await.text();
    assert!(queues.lines().any(|l| l.split(", ").map(str::trim).take(5).eq(["tests", "0", "2", "2", "2"])), "{queues}");
    let requests = cluster.get("/debug/api_priority_and_fairness/dump_requests?includeRequestDetails=1").await.text();
    assert_eq!(requests.lines().filter(|l| l.starts_with("tests,") && l.contains(" configmaps,")).count(), 4, "{requests}");
    gate.add_permits(2);
    // The two that waited are let in, and wait at the gate instead.
    while metric(&cluster, waiting).await.as_deref() != Some("0") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A quarter of the request's time is what it may wait.
    let late = as_user(&cluster, "test", "GET", "/api/v1/namespaces/default/configmaps", String::new()).await;
    assert_eq!(late.code, 429);
    gate.add_permits(2);
    for task in tasks {
        assert_eq!(task.await.unwrap().code, 201);
    }
    let timed_out = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"tests\",priority_level=\"tests\",reason=\"time-out\"}";
    assert_eq!(metric(&cluster, timed_out).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_watch_gives_its_seat_back_when_its_first_state_is_told() {
    let cluster = cluster(1, json!({"type": "Reject"})).await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        let mut watch = cluster
            .open(
                "/api/v1/namespaces/default/configmaps?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                &[("x-user", "test")],
            )
            .await;
        assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
        watches.push(watch);
        let executing = "apiserver_flowcontrol_current_executing_requests{flow_schema=\"tests\",priority_level=\"tests\"}";
        while metric(&cluster, executing).await.as_deref() != Some("0") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn the_default_objects_are_made_and_mandatory_ones_cannot_be_changed() {
    let cluster = Cluster::start().await;
    let own: Arc<dyn Transport> = Arc::new(cluster.server.transport(User { groups: vec![MASTERS.into()], ..User::component("system:apiserver") }));
    let config = bootstrap::Config {
        advertise: "127.0.0.1".parse().unwrap(),
        port: 6443,
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        alone: false,
        cluster_dns: None,
        client_ca: String::new(),
        front_proxy: None,
        node_port: None,
        endpoints: true,
    };
    bootstrap::run(&own, &cluster.server.registry(), &config).await.unwrap();
    let nodes = until(&cluster, &format!("{SCHEMAS}/system-nodes"), |o| o["status"]["conditions"][0]["status"] == "False").await;
    assert_eq!(managers(&nodes), ["api-priority-and-fairness-config-consumer-v1", "api-priority-and-fairness-config-producer-v1"]);
    assert_eq!(metric(&cluster, "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"}").await.as_deref(), Some("245"));
    let mut catch_all = cluster.get(&format!("{LEVELS}/catch-all")).await.json();
    catch_all["spec"]["limited"]["nominalConcurrencyShares"] = json!(77);
    let refused = cluster.put(&format!("{LEVELS}/catch-all"), &catch_all).await;
    assert_eq!(refused.code, 422);
    assert!(refused.text().contains("spec of 'catch-all' must equal the fixed value"), "{}", refused.text());
    // Started anew, it makes what is gone.
    assert_eq!(cluster.delete(&format!("{SCHEMAS}/probes")).await.code, 200);
    bootstrap::run(&own, &cluster.server.registry(), &config).await.unwrap();
    assert_eq!(cluster.get(&format!("{SCHEMAS}/probes")).await.code, 200);
}
