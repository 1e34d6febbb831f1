//! The audit log through a server: what is written down of which request, at which stage, and where it goes.

mod support;

use std::{path::Path, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use knarr_apiserver::{
    admission::{Operation, Plugin, Review},
    audit::{Auditor, Mode, Settings},
    authn::User,
    authz::{Always, Attributes, Decision},
};
use knarr_core::{
    GroupVersionResource, Result, Value,
    api::{Request, Transport, Verb},
    clock::Env,
    json,
};
use support::{Cluster, config_map};
use tokio::sync::mpsc;

const ALL: &str = "- {level: RequestResponse}";

/// A cluster with this policy, and the file that it writes.
async fn cluster(folder: &Path, rules: &str, change: impl FnOnce(&mut Settings)) -> (Cluster, std::path::PathBuf) {
    let (policy, log) = (folder.join("policy.yaml"), folder.join("audit.log"));
    std::fs::write(&policy, format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}\n")).unwrap();
    let mut settings = Settings { policy_file: Some(policy), ..Settings::default() };
    settings.log.path = log.display().to_string();
    change(&mut settings);
    let auditor = Auditor::open(&settings, Env::system()).unwrap();
    let cluster = Cluster::start_audited(auditor).await;
    cluster.server.set_authorizer(Arc::new(Always(Decision::Allow)));
    (cluster, log)
}

/// The events of one request, by its id.
fn events(log: &Path, id: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).filter(|e| e["auditID"] == id).collect()
}

fn stages(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|e| e["stage"].as_str()).collect()
}

#[tokio::test]
async fn a_write_is_written_down_with_all_that_its_level_tells() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, log) = cluster(folder.path(), ALL, |_| {}).await;
    let body = config_map("m", json!({"a": "1"})).to_string();
    let headers = [("content-type", "application/json"), ("audit-id", "my-id"), ("user-agent", "test/1"), ("x-forwarded-for", "10.1.1.1"), ("x-user", "jane")];
    let answer = cluster.send("POST", "/api/v1/namespaces/default/configmaps?fieldManager=t&x=1", &headers, body).await;
    assert_eq!((answer.code, answer.headers["audit-id"].as_bytes()), (201, &b"my-id"[..]));
    let events = events(&log, "my-id");
    assert_eq!(stages(&events), ["RequestReceived", "ResponseComplete"]);
    assert_eq!((events[0].get("requestObject"), events[0].get("responseStatus")), (None, None));
    let event = &events[1];
    let picked = json!([event["level"], event["verb"], event["requestURI"], event["user"], event["sourceIPs"], event["userAgent"], event["responseStatus"]]);
    let wanted = json!(["RequestResponse", "create", "/api/v1/namespaces/default/configmaps?fieldManager=t&x=1", {"username": "jane"}, ["10.1.1.1", "127.0.0.1"], "test/1", {"metadata": {}, "code": 201}]);
    assert_eq!(picked, wanted);
    assert_eq!(event["objectRef"], json!({"resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1"}));
    assert_eq!((&event["requestObject"]["data"], &event["requestObject"]["kind"]), (&json!({"a": "1"}), &json!("ConfigMap")));
    assert_eq!(event["responseObject"], answer.json());
    assert_eq!(event["annotations"], json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}));
}

#[tokio::test]
async fn each_level_tells_what_it_is_to_tell() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "- {level: None, users: [silent]}\n- {level: Metadata, users: [meta], omitStages: [RequestReceived]}\n- {level: Request, users: [request]}\n- {level: RequestResponse, omitManagedFields: true}";
    let (cluster, log) = cluster(folder.path(), rules, |_| {}).await;
    for user in ["silent", "meta", "request", "all"] {
        let headers = [("content-type", "application/merge-patch+json"), ("audit-id", user), ("x-user", user)];
        assert_eq!(cluster.post("/api/v1/namespaces/default/configmaps", &config_map(user, json!({}))).await.code, 201);
        let path = format!("/api/v1/namespaces/default/configmaps/{user}");
        assert_eq!(cluster.send("PATCH", &path, &headers, r#"{"data":{"b":"2"}}"#).await.code, 200);
    }
    assert!(events(&log, "silent").is_empty());
    let meta = events(&log, "meta");
    assert_eq!((stages(&meta), meta[0].get("requestObject"), meta[0].get("responseObject")), (vec!["ResponseComplete"], None, None));
    let request = &events(&log, "request")[1];
    assert_eq!((&request["requestObject"], request.get("responseObject")), (&json!({"data": {"b": "2"}}), None));
    let all = &events(&log, "all")[1];
    assert_eq!((&all["responseObject"]["data"], all["responseObject"]["metadata"].get("managedFields")), (&json!({"b": "2"}), None));
    let list =
        cluster.send("GET", "/api/v1/namespaces/default/configmaps", &[("audit-id", "list"), ("accept", "application/vnd.kubernetes.protobuf")], "").await;
    assert_eq!(list.code, 200);
    let items = events(&log, "list")[1]["responseObject"]["items"].as_array().unwrap().clone();
    assert!(items.len() == 4 && items.iter().all(|i| i["metadata"].get("managedFields").is_none()), "{items:?}");
    let metrics = cluster.get("/metrics").await.text();
    assert!(metrics.contains("apiserver_audit_level_total{level=\"None\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn refusals_are_written_down_as_their_clients_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, log) = cluster(folder.path(), "- {level: Metadata}", |_| {}).await;
    cluster.server.set_authorizer(Arc::new(Always(Decision::Deny)));
    let path = "/api/v1/namespaces/default/configmaps/m";
    assert_eq!(cluster.send("DELETE", path, &[("audit-id", "forbidden"), ("x-user", "joe")], "").await.code, 403);
    let forbidden = &events(&log, "forbidden")[1];
    assert_eq!(forbidden["annotations"]["authorization.k8s.io/decision"], "forbid");
    let status = &forbidden["responseStatus"];
    assert_eq!(
        (&status["status"], &status["reason"], &status["code"], &status["details"]["kind"]),
        (&json!("Failure"), &json!("Forbidden"), &json!(403), &json!("configmaps"))
    );
    cluster.server.set_authenticator(Arc::new(knarr_apiserver::authn::Union::new(Vec::new(), false)));
    assert_eq!(cluster.send("GET", path, &[("audit-id", "nobody"), ("authorization", "Bearer x")], "").await.code, 401);
    let nobody = events(&log, "nobody");
    assert_eq!((stages(&nobody), &nobody[0]["user"], &nobody[0]["responseStatus"]["code"]), (vec!["ResponseStarted"], &json!({}), &json!(401)));
}

struct Panics;

#[async_trait::async_trait]
impl Plugin for Panics {
    fn name(&self) -> &'static str {
        "Panics"
    }
    fn handles(&self, operation: Operation, attributes: &Attributes) -> bool {
        operation == Operation::Create && attributes.resource == "configmaps"
    }
    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        review.notes.annotate("example.com/seen", "yes");
        panic!("deliberately")
    }
}

#[tokio::test]
async fn watches_and_panics_have_stages_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, log) = cluster(folder.path(), ALL, |_| {}).await;
    let mut watch = cluster.open("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1", &[("audit-id", "watch")]).await;
    let started = events(&log, "watch");
    assert_eq!((stages(&started), &started[1]["responseStatus"]), (vec!["RequestReceived", "ResponseStarted"], &json!({"metadata": {}, "code": 200})));
    assert_eq!(watch.next().await, None);
    assert_eq!(stages(&events(&log, "watch")), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    cluster.server.set_plugins(vec![Arc::new(Panics)]);
    let headers = [("audit-id", "panic"), ("content-type", "application/json")];
    let answer = cluster.send("POST", "/api/v1/namespaces/default/configmaps", &headers, config_map("p", json!({})).to_string()).await;
    assert_eq!(answer.code, 500);
    let panic = events(&log, "panic");
    assert_eq!((stages(&panic), &panic[1]["responseStatus"]["message"]), (vec!["RequestReceived", "Panic"], &json!("APIServer panic'd: deliberately")));
}

#[tokio::test]
async fn components_of_the_same_process_are_written_down_too() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, log) = cluster(folder.path(), "- {level: Metadata, userGroups: ['system:serviceaccounts']}", |_| {}).await;
    let own = cluster.server.transport(User::service_account("kube-system", "deployment-controller"));
    let mut request = Request::new(Verb::Get, GroupVersionResource::new("", "v1", "configmaps"));
    (request.namespace, request.name) = (Some("default".into()), Some("none".into()));
    assert!(own.call(request).await.unwrap_err().is_not_found());
    let text = std::fs::read_to_string(&log).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["requestURI"], &last["responseStatus"]["code"]), (&json!("/api/v1/namespaces/default/configmaps/none"), &json!(404)));
    assert_eq!(
        (&last["userAgent"], &last["sourceIPs"]),
        (&json!("kube-controller-manager/v1.37.2/system:serviceaccount:kube-system:deployment-controller"), &json!(["127.0.0.1"]))
    );
}

#[tokio::test]
async fn what_cannot_be_written_down_is_refused_in_the_strict_mode_only() {
    let folder = tempfile::tempdir().unwrap();
    let full = |mode| move |s: &mut Settings| (s.log.path, s.log.max_size_mb, s.log.batch.mode) = ("/dev/full".into(), 0, mode);
    let (lenient, _) = cluster(folder.path(), "- {level: Metadata, users: [jane]}", full(Mode::Blocking)).await;
    assert_eq!(lenient.send("GET", "/version", &[("x-user", "jane")], "").await.code, 200);
    let (strict, _) = cluster(folder.path(), "- {level: Metadata, users: [jane]}", full(Mode::BlockingStrict)).await;
    let refused = strict.send("GET", "/version", &[("x-user", "jane")], "").await;
    assert_eq!((refused.code, refused.text().contains("failed to store audit event")), (500, true), "{}", refused.text());
    assert!(strict.get("/metrics").await.text().contains("apiserver_audit_requests_rejected_total 1\n"));
}

/// A server that takes batches of events, and refuses the first.
async fn collector() -> (String, mpsc::UnboundedReceiver<Value>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    let refused = Arc::new(std::sync::atomic::AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (sender, refused) = (sender.clone(), refused.clone());
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (sender, refused) = (sender.clone(), refused.clone());
                async move {
                    assert_eq!(request.uri().path(), "/events");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let first = !refused.swap(true, std::sync::atomic::Ordering::Relaxed);
                    if !first {
                        sender.send(serde_json::from_slice(&body).unwrap()).unwrap();
                    }
                    let code = if first { 503 } else { 200 };
                    Ok::<_, std::convert::Infallible>(http::Response::builder().status(code).body(http_body_util::Full::<bytes::Bytes>::default()).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
        }
    });
    (format!("http://{address}/events"), receiver)
}

#[tokio::test]
async fn a_webhook_gets_events_in_batches_and_again_when_it_refused_them() {
    let folder = tempfile::tempdir().unwrap();
    let (url, mut batches) = collector().await;
    let config = folder.path().join("webhook.yaml");
    std::fs::write(&config, format!("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: '{url}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n")).unwrap();
    let (cluster, _) = cluster(folder.path(), "- {level: Metadata, users: [jane], omitStages: [RequestReceived]}", |settings| {
        settings.log.path.clear();
        settings.webhook.config_file = Some(config);
        settings.webhook.initial_backoff = Duration::from_millis(1);
        settings.webhook.batch.max_size = 3;
    })
    .await;
    for _ in 0..3 {
        assert_eq!(cluster.send("GET", "/version", &[("x-user", "jane")], "").await.code, 200);
    }
    let list = tokio::time::timeout(Duration::from_secs(20), batches.recv()).await.unwrap().unwrap();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("audit.k8s.io/v1")));
    let uris: Vec<&str> = list["items"].as_array().unwrap().iter().filter_map(|e| e["requestURI"].as_str()).collect();
    assert_eq!(uris, ["/version"; 3]);
}
