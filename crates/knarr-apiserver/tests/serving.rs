//! How requests are served as flags of kube-apiserver would have it: browsers, deadlines, the end of a server, what is left out.

mod support;

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use knarr_apiserver::{
    Config,
    authn::{FrontProxy, MASTERS, User},
    bootstrap,
    http::{Cors, transport_security},
};
use knarr_core::{api::Transport, json};
use support::{Cluster, config_map};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_and_one_of_another_may_not() {
    let cluster = Cluster::start_with(Config { cors: Cors::new([r"^https://pages\.example$"]).unwrap(), ..Config::default() }).await;
    let allowed = [("origin", "https://pages.example")];
    let answer = cluster.send("OPTIONS", MAPS, &allowed, "").await;
    assert_eq!((answer.code, answer.text().as_str()), (204, ""));
    assert!(answer.headers.contains_key("audit-id"));
    for answer in [answer, cluster.send("GET", MAPS, &allowed, "").await, cluster.send("GET", "/api/v1/nonsense", &allowed, "").await] {
        let header = |name: &str| answer.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        assert_eq!(header("access-control-allow-origin"), "https://pages.example");
        assert_eq!(header("access-control-allow-methods"), "POST, GET, OPTIONS, PUT, DELETE, PATCH");
        assert_eq!(
            header("access-control-allow-headers"),
            "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since"
        );
        assert_eq!((header("access-control-expose-headers"), header("access-control-allow-credentials")), ("Date".into(), "true".into()));
    }
    for headers in [&[("origin", "https://pages.example.evil")][..], &[]] {
        let answer = cluster.send("GET", MAPS, headers, "").await;
        assert_eq!(answer.code, 200);
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{:?}", answer.headers);
    }
    assert_ne!(cluster.send("OPTIONS", MAPS, &[("origin", "https://pages.example.evil")], "").await.code, 204);
}

#[tokio::test]
async fn browsers_are_told_to_speak_tls_only_by_every_answer() {
    let cluster = Cluster::start_with(Config { transport_security: transport_security(["max-age=5", "preload"]).unwrap(), ..Config::default() }).await;
    for path in [MAPS, "/nonsense", "/livez"] {
        assert_eq!(cluster.get(path).await.headers.get("strict-transport-security"), Some(&HeaderValue::from_static("max-age=5; preload")), "{path}");
    }
    assert!(!Cluster::start().await.get("/livez").await.headers.contains_key("strict-transport-security"));
}

/// Begins a request whose body does not come, and returns once the server waits for it.
async fn begun(cluster: &Cluster, query: &str) -> TcpStream {
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let head = format!("POST {MAPS}{query} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_request_may_take_as_long_as_the_server_or_it_itself_says() {
    let brief = Cluster::start_with(Config { request_timeout: Duration::from_millis(50), ..Config::default() }).await;
    // An hour is more than the server gives, and nothing is no wish.
    for query in ["", "?timeout=1h", "?timeout=0s", "?timeout=-1s"] {
        assert_eq!(first_line(&mut begun(&brief, query).await).await, "HTTP/1.1 504 Gateway Timeout", "{query}");
    }
    let cluster = Cluster::start().await;
    assert_eq!(first_line(&mut begun(&cluster, "?timeout=50ms").await).await, "HTTP/1.1 504 Gateway Timeout");
    let refused = cluster.get(&format!("{MAPS}?timeout=x")).await;
    assert_eq!((refused.code, refused.json()["message"].as_str()), (400, Some("invalid timeout specified in the request URL - time: invalid duration \"x\"")));
}

#[tokio::test]
async fn who_leaves_serves_on_and_refuses_at_last_until_all_is_done() {
    let cluster = Cluster::start_with(Config { shutdown_refuses: true, ..Config::default() }).await;
    let mut under_way = begun(&cluster, "").await;
    let server = cluster.server.clone();
    let leaving = tokio::spawn(async move { server.leave().await });
    let refused = loop {
        let answer = cluster.get(MAPS).await;
        if answer.code != 200 {
            break answer;
        }
    };
    assert_eq!((refused.code, refused.text().as_str()), (429, "The apiserver is shutting down, please try again later.\n"));
    assert_eq!((refused.headers.get("retry-after"), refused.headers.get("connection")), (Some(&"5".parse().unwrap()), Some(&"close".parse().unwrap())));
    assert_eq!((cluster.get("/livez").await.code, cluster.get("/readyz").await.code), (200, 500));
    assert_eq!(cluster.send("GET", MAPS, &[("user-agent", "kube-apiserver/v1.37.0")], "").await.code, 200);
    assert!(!leaving.is_finished());
    under_way.write_all(b"{}").await.unwrap();
    assert!(first_line(&mut under_way).await.starts_with("HTTP/1.1 4"), "an empty object is none");
    leaving.await.unwrap();
}

#[tokio::test]
async fn what_is_not_to_be_told_is_not() {
    let disabled = ["apiserver_request_duration_seconds".to_owned()].into();
    let cluster = Cluster::start_with(Config { disabled_metrics: disabled, profiling: false, ..Config::default() }).await;
    let metrics = cluster.get("/metrics").await.text();
    assert!(metrics.contains("apiserver_request_total{") && !metrics.contains("apiserver_request_duration_seconds"), "{metrics}");
    let told = Cluster::start().await;
    assert!(told.get("/metrics").await.text().contains("apiserver_request_duration_seconds_bucket"));
    for path in ["/debug/pprof", "/debug/flags/v"] {
        assert_eq!((cluster.get(path).await.code, told.get(path).await.code == 404), (404, false), "{path}");
    }
}

#[tokio::test]
async fn nothing_waits_for_a_collector_that_is_not_there() {
    for (collects_garbage, code_after) in [(true, 200), (false, 404)] {
        let cluster = Cluster::start_with(Config { collects_garbage, ..Config::default() }).await;
        assert_eq!(cluster.post(MAPS, &config_map("a", json!({}))).await.code, 201);
        assert_eq!(cluster.delete(&format!("{MAPS}/a?propagationPolicy=Foreground")).await.code, 200);
        assert_eq!(cluster.get(&format!("{MAPS}/a")).await.code, code_after);
    }
}

#[tokio::test]
async fn what_is_told_of_the_server_is_what_its_flags_say() {
    let cluster = Cluster::start().await;
    let own: Arc<dyn Transport> = Arc::new(cluster.server.transport(User { groups: vec![MASTERS.into()], ..User::component("system:apiserver") }));
    let config = bootstrap::Config {
        advertise: "192.0.2.1".parse().unwrap(),
        port: 6443,
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        alone: true,
        cluster_dns: None,
        client_ca: String::new(),
        front_proxy: None,
        node_port: Some(30443),
        endpoints: false,
    };
    bootstrap::run(&own, &cluster.server.registry(), &config).await.unwrap();
    let service = cluster.get("/api/v1/namespaces/default/services/kubernetes").await.json();
    assert_eq!((&service["spec"]["type"], &service["spec"]["ports"][0]["nodePort"]), (&json!("NodePort"), &json!(30443)));
    assert_eq!(cluster.get("/api/v1/namespaces/default/endpoints/kubernetes").await.code, 404);
    let proxy = FrontProxy { ca: "PEM".into(), username_headers: vec!["X-User".into()], ..FrontProxy::default() };
    let config = bootstrap::Config { endpoints: true, front_proxy: Some(proxy), ..config };
    bootstrap::run(&own, &cluster.server.registry(), &config).await.unwrap();
    assert_eq!(cluster.get("/api/v1/namespaces/default/endpoints/kubernetes").await.code, 200);
    let believed = |users: &str| {
        json!({
            "requestheader-client-ca-file": "PEM", "requestheader-allowed-names": "[]", "requestheader-username-headers": users,
            "requestheader-group-headers": "[]", "requestheader-extra-headers-prefix": "[]",
        })
    };
    let told = async || cluster.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.json()["data"].clone();
    assert_eq!(told().await, believed("[\"X-User\"]"));
    // A server that is started with other flags says so.
    let proxy = FrontProxy { ca: "PEM".into(), username_headers: vec!["X-Remote-User".into()], ..FrontProxy::default() };
    bootstrap::run(&own, &cluster.server.registry(), &bootstrap::Config { front_proxy: Some(proxy), ..config }).await.unwrap();
    assert_eq!(told().await, believed("[\"X-Remote-User\"]"));
}
