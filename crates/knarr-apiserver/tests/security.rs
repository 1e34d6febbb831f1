//! What others have fallen to: a test for each row of `docs/security.md` that a server alone can show.

mod support;

use std::{io::Write, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use knarr_apiserver::{
    ServerBuilder, admission,
    authn::{ClientCertificates, Lifetimes, ServiceAccountAuthenticator, ServiceAccountKey, Union, User},
    authz::{self, Always, Decision, feed, node::NodeAuthorizer, rbac::Rbac},
    bootstrap,
    http::{Limits, serve},
    pki::Pki,
    stored::Stored,
};
use knarr_core::{Value, ValueExt, clock::Env, json};
use knarr_store::{MemoryEngine, Storage};
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use support::{Cluster, config_map, cpu, outside::Outside, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A server that counts who asks it, and whom nobody should ask.
async fn canary() -> (Outside, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let shared = asked.clone();
    let server = Outside::start(move |request| {
        shared.lock().push(request.path);
        (200, json!({}))
    })
    .await;
    (server, asked)
}

/// A cluster with an API server behind it, whose answers a function gives.
async fn with_remote(answer: impl Fn(&str) -> (u16, Value) + Send + Sync + 'static) -> (Cluster, Arc<Mutex<Vec<String>>>) {
    let users = Arc::new(Mutex::new(Vec::new()));
    let shared = users.clone();
    let remote = Outside::start(move |request| {
        if request.path == "/apis/x.example.com/v1" {
            return (200, json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "x.example.com/v1", "resources": []}));
        }
        let user = request.headers.get("x-remote-user").and_then(|v| v.to_str().ok()).unwrap_or("nobody").to_owned();
        shared.lock().push(format!("{user} {}", request.path));
        answer(&request.path)
    })
    .await;
    let cluster = Cluster::start().await;
    let service = json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "x"},
        "spec": {"clusterIP": "None", "ports": [{"port": 443, "protocol": "TCP", "targetPort": remote.address.port()}]}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/services", &service).await.code, 201);
    // Straight into the store: a loopback address would be refused.
    let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": "IPv4",
        "metadata": {"name": "x-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "x"}},
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}], "ports": [{"name": "", "port": remote.address.port(), "protocol": "TCP"}]});
    let resource = knarr_schema::registry::Registry::builtin().by_resource("discovery.k8s.io", "v1", "endpointslices").unwrap().clone();
    let bytes = knarr_schema::codec::encode_stored(&resource, &slice).unwrap();
    let (key, place) = (knarr_store::ResourceKey::new("discovery.k8s.io", "endpointslices"), knarr_store::ObjectKey::new("default", "x-1"));
    cluster.storage.create(&key, &place, bytes, None).await.unwrap();
    let api = json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1", "metadata": {"name": "v1.x.example.com"},
        "spec": {"group": "x.example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
            "service": {"namespace": "default", "name": "x"}}});
    assert_eq!(cluster.post(SERVICES, &api).await.code, 201);
    cluster.until("/apis/x.example.com/v1", 200).await;
    (cluster, users)
}

/// Reads one answer with a `Content-Length` off a connection.
async fn answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(|n| n.parse::<usize>().unwrap()));
        if read == 0 || body.len() >= length.unwrap_or(0) {
            return text;
        }
    }
}

/// CVE-2018-1002105.
#[tokio::test]
async fn a_backend_that_refuses_an_upgrade_leaves_no_tunnel() {
    let (cluster, users) = with_remote(|_| (400, json!("no upgrade here"))).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let things = "/apis/x.example.com/v1/namespaces/default/things";
    stream.write_all(format!("GET {things}/a HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").as_bytes()).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 400"));
    // In a tunnel, this would reach the backend as it is.
    stream
        .write_all(format!("GET {things}/smuggled HTTP/1.1\r\nHost: k\r\nX-Remote-User: mallory\r\nX-Remote-Group: system:masters\r\n\r\n").as_bytes())
        .await
        .unwrap();
    answer(&mut stream).await;
    assert_eq!(*users.lock(), [format!("admin {things}/a"), format!("admin {things}/smuggled")]);
}

/// CVE-2020-8559, CVE-2022-3172.
#[tokio::test]
async fn a_backend_redirects_nobody() {
    let (canary, asked) = canary().await;
    let elsewhere = format!("-> {}/apis/x", canary.url());
    let (cluster, _) = with_remote(move |_| (302, json!(elsewhere))).await;
    for upgrade in [&[][..], &[("connection", "upgrade"), ("upgrade", "websocket")]] {
        let refused = cluster.send("GET", "/apis/x.example.com/v1/namespaces/default/things/a", upgrade, "").await;
        assert_eq!((refused.code, refused.headers.get("location")), (502, None), "{}", refused.text());
    }
    assert!(asked.lock().is_empty());
}

/// CVE-2020-8561.
#[tokio::test]
async fn a_webhook_redirects_nobody_and_its_answer_is_not_shown() {
    let (canary, asked) = canary().await;
    let elsewhere = format!("-> {}/secret-answer", canary.url());
    let webhook = Outside::start(move |_| (302, json!(elsewhere))).await;
    let cluster = Cluster::start().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    let ca = base64::engine::general_purpose::STANDARD.encode(&webhook.ca);
    let configuration = json!({"kind": "ValidatingWebhookConfiguration", "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "c"}, "webhooks": [{
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": webhook.url(), "caBundle": ca},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]});
    assert_eq!(cluster.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &configuration).await.code, 201);
    let refused = cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await;
    assert_eq!((refused.code, refused.text().contains("secret-answer")), (500, false), "{}", refused.text());
    assert!(asked.lock().is_empty());
}

/// CVE-2021-25737: whoever may write slices must not reach the server's own machine by them.
#[tokio::test]
async fn endpoints_lead_to_no_machine_of_the_control_plane() {
    let cluster = Cluster::start().await;
    for address in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"] {
        let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": []});
        assert_eq!(cluster.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice).await.code, 422, "{address}");
        let endpoints =
            json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {"name": "x"}, "subsets": [{"addresses": [{"ip": address}], "ports": [{"port": 1}]}]});
        assert_eq!(cluster.post("/api/v1/namespaces/default/endpoints", &endpoints).await.code, 422, "{address}");
    }
}

/// Lets RBAC alone decide; gives jane everything in the namespace `default`.
async fn with_rbac(cluster: &Cluster) {
    let (rbac, node) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::new(&bootstrap::system_node_role())));
    feed::start(&cluster.storage, &rbac, &node).await;
    cluster.server.set_authorizer(Arc::new(authz::Union(vec![rbac])));
    let role = json!({"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "all"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    assert_eq!(cluster.post(&format!("{RBAC}/namespaces/default/roles"), &role).await.code, 201);
    let binding = json!({"kind": "RoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "all"}, "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    assert_eq!(cluster.post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding).await.code, 201);
    until("jane may read", async || cluster.send("GET", CONFIG_MAPS, &[("x-user", "jane")], "").await.code != 403).await;
}

/// CVE-2019-11247, CVE-2022-3162.
#[tokio::test]
async fn a_namespaced_role_ends_at_its_namespace_whatever_the_path() {
    let cluster = Cluster::start().await;
    let definition = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "wides.x.example.com"},
        "spec": {"group": "x.example.com", "scope": "Cluster", "names": {"plural": "wides", "singular": "wide", "kind": "Wide"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    assert_eq!(cluster.post(DEFINITIONS, &definition).await.code, 201);
    cluster.until("/apis/x.example.com/v1/wides", 200).await;
    let wide = json!({"kind": "Wide", "apiVersion": "x.example.com/v1", "metadata": {"name": "a"}});
    assert_eq!(cluster.post("/apis/x.example.com/v1/wides", &wide).await.code, 201);
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "stringData": {"k": "hidden"}});
    assert_eq!(cluster.post("/api/v1/namespaces/kube-system/secrets", &secret).await.code, 201);
    with_rbac(&cluster).await;
    for path in [
        "/apis/x.example.com/v1/wides/a",
        "/apis/x.example.com/v1/namespaces/default/wides/a",
        "/apis/x.example.com/v1/namespaces/default/wides",
        "/apis/apiextensions.k8s.io/v1/namespaces/default/customresourcedefinitions/wides.x.example.com",
        "/api/v1/namespaces/kube-system/secrets/s",
        "/api/v1/namespaces/default/../kube-system/secrets/s",
        "/api/v1/namespaces/default/secrets/..%2f..%2fkube-system%2fsecrets%2fs",
        "/api/v1/namespaces/default/secrets/%2e%2e/kube-system/s",
        "/api/v1/namespaces/default%2f..%2fkube-system/secrets/s",
        "/api/v1/namespaces/default/secrets/..%252f..%252fkube-system%252fs",
        "//api/v1/namespaces/kube-system//secrets/s",
        "/api/v1/namespaces/default/pods/../../../namespaces/kube-system/secrets/s",
    ] {
        let refused = cluster.send("GET", path, &[("x-user", "jane")], "").await;
        assert!((400..500).contains(&refused.code) && !refused.text().contains("aGlkZGVu"), "{path}: {} {}", refused.code, refused.text());
    }
}

/// More than a request may take, whatever is in it: of what an ordinary one of fifty thousand small values takes, a hundred times.
async fn too_much(cluster: &Cluster) -> Duration {
    let data: Value = (0..50_000).map(|i| (format!("k{i}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    let before = cpu();
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("ordinary", data)).await.code, 201);
    100 * (cpu() - before)
}

/// CVE-2019-11253, CVE-2019-11254, CVE-2019-1002100.
#[tokio::test]
async fn bombs_are_refused_at_once_and_the_next_request_is_answered() {
    let cluster = Cluster::start().await;
    let too_much = too_much(&cluster).await;
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("a", json!({"k": "v"}))).await.code, 201);
    let mut aliases = String::from("kind: ConfigMap\napiVersion: v1\nmetadata: {name: bomb}\na: &a [x, x, x, x, x, x, x, x, x]\n");
    for (from, to) in ["a", "b", "c", "d", "e", "f", "g", "h"].iter().zip(["b", "c", "d", "e", "f", "g", "h", "i"]) {
        aliases.push_str(&format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(", ")));
    }
    let deep = format!("{{\"kind\": \"ConfigMap\", \"apiVersion\": \"v1\", \"metadata\": {}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let large = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "b"}, "data": {"k": "x".repeat(4 << 20)}}).to_string();
    let operations = json!(vec![json!({"op": "test", "path": "/kind", "value": "ConfigMap"}); 10_001]).to_string();
    let copies: Vec<Value> = (0..40).map(|_| json!({"op": "copy", "from": "/data", "path": "/data/more"})).collect();
    let one = format!("{CONFIG_MAPS}/a");
    for (method, path, media, body) in [
        ("POST", CONFIG_MAPS, "application/yaml", aliases),
        ("POST", CONFIG_MAPS, "application/json", deep),
        ("POST", CONFIG_MAPS, "application/json", large),
        ("PATCH", one.as_str(), "application/json-patch+json", operations),
        ("PATCH", one.as_str(), "application/json-patch+json", json!(copies).to_string()),
    ] {
        let before = cpu();
        let shown: String = body.chars().take(60).collect();
        let refused = cluster.send(method, path, &[("content-type", media)], body).await;
        assert!((400..500).contains(&refused.code), "{shown}: {} {}", refused.code, refused.text());
        let takes = cpu() - before;
        assert!(takes < too_much, "{shown} takes {takes:?} of a processor");
        assert_eq!(cluster.get(&one).await.code, 200, "after {shown}");
    }
}

#[tokio::test]
async fn strange_bodies_get_upstreams_answer_and_never_a_failure() {
    let cluster = Cluster::start().await;
    let too_much = too_much(&cluster).await;
    let map = |name: &str, rest: &str| format!("{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{name}\"}}{rest}}}").into_bytes();
    let meta = |name: &str, rest: &str| format!("{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{name}\"{rest}}}}}").into_bytes();
    let many = |count: usize, name: &str| (0..count).map(|i| format!("\"{name}{i}\":\"v\"")).collect::<Vec<_>>().join(",");
    let mut invalid = map("invalid", ",\"data\":{\"k\":\"X\"}");
    let at = invalid.iter().position(|b| *b == b'X').unwrap();
    invalid[at] = 0xff;
    let json = "application/json";
    let cases: Vec<(&str, u16, &str, Vec<u8>)> = vec![
        ("a byte that is no UTF-8", 201, json, invalid),
        ("a NUL", 201, json, map("nul", ",\"data\":{\"k\":\"\\u0000\"}")),
        ("half a surrogate", 201, json, map("half", ",\"data\":{\"k\":\"\\ud800\"}")),
        ("a key twice", 201, json, map("twice", ",\"data\":{\"k\":\"1\",\"k\":\"2\"}")),
        ("minus zero", 201, json, meta("zero", ",\"generation\":-0")),
        ("one more than an int64", 400, json, meta("large", ",\"generation\":9223372036854775808")),
        ("a float that is too large", 400, json, meta("float", ",\"generation\":1e400")),
        ("a mark of byte order", 400, json, [b"\xef\xbb\xbf", &map("bom", "")[..]].concat()),
        ("nothing", 400, json, Vec::new()),
        ("null", 422, json, b"null".to_vec()),
        ("a list", 400, json, b"[]".to_vec()),
        ("two documents", 400, json, [map("two", ""), map("too", "")].concat()),
        ("a hundred thousand labels", 0, json, meta("labels", &format!(",\"labels\":{{{}}}", many(100_000, "l")))),
        ("annotations beyond 256 KiB", 422, json, meta("annotations", &format!(",\"annotations\":{{{}}}", many(60_000, "a")))),
        ("a key of almost 3 MiB", 0, json, map("key", &format!(",\"{}\":1", "k".repeat(3_000_000)))),
        ("many unknown fields", 0, json, map("fields", &format!(",{}", many(25_000, "a-field-of-which-nobody-has-ever-heard-and-that-is-warned-of-")))),
        ("gzip", 400, json, vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]),
        ("deep YAML", 400, "application/yaml", format!("kind: ConfigMap\napiVersion: v1\nx: {}", "[".repeat(20_000)).into_bytes()),
        ("broken protobuf", 400, "application/vnd.kubernetes.protobuf", b"k8s\0\x0a\xff\xff\xff\xff\x0f".to_vec()),
    ];
    for (what, code, media, body) in cases {
        let before = cpu();
        let answer = cluster.send("POST", CONFIG_MAPS, &[("content-type", media), ("content-encoding", if what == "gzip" { "gzip" } else { "" })], body).await;
        let text: String = answer.text().chars().take(300).collect();
        assert!(if code == 0 { answer.code < 500 } else { answer.code == code }, "{what}: {} {text}", answer.code);
        let takes = cpu() - before;
        assert!(takes < too_much, "{what} takes {takes:?} of a processor");
        assert_eq!(cluster.get("/version").await.code, 200, "after {what}");
    }
    let terms = |count: usize| (0..count).map(|i| format!("k{i}!=v")).collect::<Vec<_>>().join(",");
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?labelSelector={}", terms(5000))).await.code, 200);
    let values = (0..5000).map(|i| format!("v{i}")).collect::<Vec<_>>().join(",");
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?labelSelector=a%20in%20({values})")).await.code, 200);
    // Groups come in a line each.
    let names: Vec<String> = (0..400).map(|i| format!("x-line-{i}")).collect();
    let lines: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    assert_eq!(cluster.send("GET", CONFIG_MAPS, &lines, "").await.code, 200);
    let names: Vec<String> = (0..1500).map(|i| format!("x-line-{i}")).collect();
    let lines: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    assert_eq!(cluster.send("GET", CONFIG_MAPS, &lines, "").await.code, 431);
}

/// CVE-2021-25735: what is validated is what will be stored.
#[tokio::test]
async fn validation_sees_what_mutation_made() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = seen.clone();
    let webhook = Outside::start(move |request| {
        let review = &request.body;
        let patch = base64::engine::general_purpose::STANDARD.encode(json!([{"op": "add", "path": "/data", "value": {"bad": "yes"}}]).to_string());
        let mutating = request.path.starts_with("/mutate");
        if !mutating {
            shared.lock().push(review["request"]["object"]["data"].clone());
        }
        let mut response = json!({"uid": review["request"]["uid"], "allowed": mutating});
        if mutating {
            response.set(&["patchType"], "JSONPatch");
            response.set(&["patch"], patch);
        }
        (200, json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}))
    })
    .await;
    let cluster = Cluster::start().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    for (kind, path) in [("Mutating", "mutate"), ("Validating", "validate")] {
        let ca = base64::engine::general_purpose::STANDARD.encode(&webhook.ca);
        let configuration = json!({"kind": format!("{kind}WebhookConfiguration"), "apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": "c"}, "webhooks": [{
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"], "clientConfig": {"url": format!("{}/{path}", webhook.url()), "caBundle": ca},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]});
        let plural = format!("{}webhookconfigurations", kind.to_lowercase());
        assert_eq!(cluster.post(&format!("/apis/admissionregistration.k8s.io/v1/{plural}"), &configuration).await.code, 201);
    }
    assert_eq!(cluster.post(CONFIG_MAPS, &config_map("a", json!({"good": "yes"}))).await.code, 400);
    assert_eq!(*seen.lock(), [json!({"bad": "yes"})]);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
}

async fn short_lived(tls: bool) -> std::net::SocketAddr {
    let env = Env::system();
    let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone()).unwrap();
    let server = ServerBuilder::new(storage).env(env.clone()).authenticator(Arc::new(Union::new(vec![Arc::new(ClientCertificates::default())], true))).build();
    let folder = tempfile::tempdir().unwrap();
    let identity = Pki::load_or_create(folder.path(), env.now()).unwrap().serving(&["localhost".into()], &[], env.now()).unwrap();
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(|c| c.unwrap()).collect();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { handshake: Duration::from_millis(50), headers: Duration::from_millis(50), ..Limits::default() };
    tokio::spawn(serve(server, listener, tls.then(|| Arc::new(config).into()), limits));
    address
}

/// CVE-2026-73500 of etcd, slowloris.
#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    for (tls, said) in [(true, &b""[..]), (true, b"\x16\x03\x01"), (false, b"GET / HTTP/1.1\r\nHost: "), (false, b"GET / HTT")] {
        let mut stream = TcpStream::connect(short_lived(tls).await).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        // Ends when the server closes; a reset is as good.
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "tls {tls}: {said:?}");
    }
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut all = length[1..].to_vec();
    all.extend([kind, flags]);
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

/// Speaks HTTP/2 to the server, and gives the kinds and payloads of the frames that come back until it closes or falls silent.
async fn http2(address: std::net::SocketAddr, frames: Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    let (mut read, mut write) = stream.split();
    let sent = async {
        // The server may close before it has read all.
        write.write_all(&preface).await.and(write.write_all(&frames).await).unwrap_or_default();
    };
    let mut all = Vec::new();
    let received = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(Ok(n)) = tokio::time::timeout(Duration::from_secs(2), read.read(&mut buffer)).await {
            if n == 0 {
                break;
            }
            all.extend_from_slice(&buffer[..n]);
        }
    };
    tokio::join!(sent, received);
    let (mut frames, mut rest) = (Vec::new(), &all[..]);
    while rest.len() >= 9 {
        let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
        let end = (9 + length).min(rest.len());
        frames.push((rest[3], rest[9..end].to_vec()));
        rest = &rest[end..];
    }
    frames
}

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
/// `GET http:/livez` by indices of the static table.
const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'k'];

/// CVE-2023-44487 and its like (RUSTSEC-2024-0003, 2024-0332).
#[tokio::test]
async fn http2_floods_end_their_connection_and_no_other() {
    let cluster = Cluster::start().await;
    let settings = http2(cluster.address, Vec::new()).await;
    let (_, first) = settings.iter().find(|(kind, _)| *kind == SETTINGS).unwrap();
    let streams = first.chunks(6).find(|s| s[..2] == [0, 3]).map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]]));
    assert_eq!(streams, Some(Limits::default().streams_max));
    let id = |n: u32| 2 * n + 1;
    let resets: Vec<u8> = (0..20_000).flat_map(|n| [frame(HEADERS, 0x5, id(n), REQUEST), frame(RST_STREAM, 0, id(n), &[0, 0, 0, 8])].concat()).collect();
    let empties: Vec<u8> = std::iter::once(frame(HEADERS, 0, 1, REQUEST)).chain((0..100_000).map(|_| frame(CONTINUATION, 0, 1, &[]))).flatten().collect();
    let name = [&[0x00, 0x7f, 0x81, 0x07][..], &[b'a'; 256], &[0x01, b'x']].concat();
    let long: Vec<u8> = std::iter::once(frame(HEADERS, 0, 1, REQUEST)).chain((0..20_000).map(|_| frame(CONTINUATION, 0, 1, &name))).flatten().collect();
    for (what, flood) in [("resets", resets), ("empty continuations", empties), ("endless headers", long)] {
        let frames = http2(cluster.address, flood).await;
        assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{what}");
        assert_eq!(cluster.get("/livez").await.code, 200, "after {what}");
    }
}

async fn bootstrapped() -> Cluster {
    let cluster = Cluster::start().await;
    let own: Arc<dyn knarr_core::api::Transport> =
        Arc::new(cluster.server.transport(User { name: "system:apiserver".into(), groups: vec!["system:masters".into()], ..User::default() }));
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
    let (rbac, node) = (Arc::new(Rbac::default()), Arc::new(NodeAuthorizer::new(&bootstrap::system_node_role())));
    feed::start(&cluster.storage, &rbac, &node).await;
    cluster.server.set_authorizer(Arc::new(authz::Union(vec![node, rbac])));
    cluster
}

#[tokio::test]
async fn who_has_no_credential_learns_that_the_server_lives() {
    let cluster = bootstrapped().await;
    // CVE-2021-25740: writing Endpoints would lead others' traffic astray.
    for role in ["system:aggregate-to-edit", "system:aggregate-to-admin"] {
        let role = cluster.get(&format!("{RBAC}/clusterroles/{role}")).await.json();
        for rule in role.list_at(&["rules"]) {
            let about = |r: &Value| r.list_at(&["resources"]).iter().any(|r| r == "endpoints" || r == "endpointslices");
            let writes = |r: &Value| r.list_at(&["verbs"]).iter().any(|v| ["*", "create", "update", "patch"].contains(&v.as_str().unwrap()));
            assert!(!(about(rule) && writes(rule)), "{rule}");
        }
    }
    cluster.server.set_authenticator(Arc::new(Union::new(vec![], true)));
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(cluster.get(path).await.code, 200, "{path}");
    }
    for path in ["/", "/api", "/apis", "/metrics", "/openapi/v2", "/openapi/v3", "/api/v1/namespaces", "/api/v1/nodes", "/openid/v1/jwks"] {
        assert_eq!(cluster.get(path).await.code, 403, "{path}");
    }
}

/// Service account tokens are good while what they are bound to is there.
#[tokio::test]
async fn a_token_dies_with_its_account_at_once() {
    let cluster = Cluster::start().await;
    let env = Env::system();
    let key = Arc::new(ServiceAccountKey::from_pem(&rcgen::KeyPair::generate().unwrap().serialize_pem(), "https://own.example").unwrap());
    cluster.server.set_tokens(key.clone());
    let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "a"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(cluster.post(accounts, &account).await.code, 201);
    let asked = |audiences: Value| json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"audiences": audiences}});
    let token = async |audiences: Value| {
        let answer = cluster.post(&format!("{accounts}/a/token"), &asked(audiences)).await;
        assert_eq!(answer.code, 201, "{}", answer.text());
        answer.json()["status"]["token"].as_str().unwrap().to_owned()
    };
    let (good, foreign) = (token(json!([])).await, token(json!(["vault"])).await);
    let (objects, audiences, uses) = (Arc::new(Stored(cluster.storage.clone())), vec!["https://own.example".into()], knarr_apiserver::authn::Uses::default());
    let authenticator = ServiceAccountAuthenticator { key, objects, audiences, env, uses, lookup: true };
    cluster.server.set_authenticator(Arc::new(Union::new(vec![Arc::new(authenticator)], false)));
    cluster.server.set_authorizer(Arc::new(Always(Decision::Allow)));
    let code = async |method: &str, path: &str, token: &str| cluster.send(method, path, &[("authorization", &format!("Bearer {token}"))], "").await.code;
    assert_eq!(code("GET", CONFIG_MAPS, &good).await, 200);
    assert_eq!(code("GET", CONFIG_MAPS, &foreign).await, 401, "it is for somebody else");
    let (text, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{text}.{}", signature.chars().rev().collect::<String>());
    assert_eq!(code("GET", CONFIG_MAPS, &forged).await, 401);
    assert_eq!(code("DELETE", &format!("{accounts}/a"), &good).await, 200);
    assert_eq!(code("GET", CONFIG_MAPS, &good).await, 401, "the account is gone");
}

/// Old programs read their pod's token once (upstream: `--service-account-extend-token-expiration`).
#[tokio::test]
async fn a_pods_own_token_lives_as_long_as_the_pod_if_nothing_forbids_it() {
    let cluster = Cluster::start().await;
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let serve = |lifetimes: Lifetimes| {
        let mut key = ServiceAccountKey::from_pem(&pem, "https://own.example").unwrap();
        key.lifetimes = lifetimes;
        cluster.server.set_tokens(Arc::new(key));
    };
    let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "a"}});
    let pod =
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": {"serviceAccountName": "a", "containers": [{"name": "c", "image": "i"}]}});
    for (path, object) in [("serviceaccounts", &account), ("pods", &pod)] {
        let answer = cluster.post(&format!("/api/v1/namespaces/default/{path}"), object).await;
        assert_eq!(answer.code, 201, "{}", answer.text());
    }
    let ask = async |spec: Value| {
        let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec});
        let answer = cluster.post("/api/v1/namespaces/default/serviceaccounts/a/token", &request).await;
        assert_eq!(answer.code, 201, "{}", answer.text());
        let payload = URL_SAFE_NO_PAD.decode(answer.json()["status"]["token"].as_str().unwrap().split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&payload).unwrap();
        let from_birth = |at: &Value| at.as_i64().map(|at| at - claims["iat"].as_i64().unwrap());
        let warning = answer.headers.get("warning").map(|w| w.to_str().unwrap().to_owned());
        (
            from_birth(&claims["exp"]).unwrap(),
            from_birth(&claims["kubernetes.io"]["warnafter"]),
            answer.json()["spec"]["expirationSeconds"].as_i64().unwrap(),
            warning,
        )
    };
    let of_pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "p"});
    serve(Lifetimes::default());
    let year = 365 * 24 * 60 * 60;
    assert_eq!(ask(json!({"expirationSeconds": 3607, "boundObjectRef": of_pod})).await, (year, Some(3607), 3607, None));
    assert_eq!(ask(json!({"expirationSeconds": 3607})).await, (3607, None, 3607, None), "it is not bound to a pod");
    assert_eq!(ask(json!({"expirationSeconds": 3600, "boundObjectRef": of_pod})).await, (3600, None, 3600, None), "it was asked for by somebody else");
    assert_eq!(ask(json!({"expirationSeconds": 3607, "audiences": ["vault"], "boundObjectRef": of_pod})).await, (3607, None, 3607, None), "it is for others");
    serve(Lifetimes { extends: false, ..Lifetimes::default() });
    assert_eq!(ask(json!({"expirationSeconds": 3607, "boundObjectRef": of_pod})).await, (3607, None, 3607, None));
    serve(Lifetimes { seconds_max: Some(3600), ..Lifetimes::default() });
    let shortened = Some("299 - \"requested expiration of 7200 seconds shortened to 3600 seconds\"".to_owned());
    assert_eq!(ask(json!({"expirationSeconds": 7200, "boundObjectRef": of_pod})).await, (3600, None, 3600, shortened));
}

/// What a test's log holds.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// CVE-2019-11250, CVE-2020-8565.
#[tokio::test]
async fn no_log_holds_a_secret_however_much_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let cluster = Cluster::start().await;
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "stringData": {"k": "hidden-value"}});
    let headers = [("content-type", "application/json"), ("authorization", "Bearer hidden-token")];
    let created = cluster.send("POST", "/api/v1/namespaces/default/secrets", &headers, secret.to_string()).await;
    assert_eq!(created.code, 201);
    let review = json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": "hidden-token"}});
    assert_eq!(cluster.send("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &headers, review.to_string()).await.code, 201);
    cluster.server.set_authenticator(Arc::new(Union::new(vec![], true)));
    assert_eq!(cluster.send("GET", "/livez", &headers, "").await.code, 401);
    let text = String::from_utf8_lossy(&log.0.lock()).into_owned();
    assert!(text.contains("could not be authenticated"), "the log was read");
    // The test's own client and server share the process: what the client writes is not the server's.
    let ours: Vec<&str> = text.lines().filter(|l| l.contains("knarr_")).collect();
    for hidden in ["hidden-token", "hidden-value", "aGlkZGVuLXZhbHVl"] {
        assert!(!ours.iter().any(|l| l.contains(hidden)), "{hidden}");
        assert!(!text.contains(hidden), "{hidden}");
    }
}

/// CVE-2023-2727, CVE-2023-2728, CVE-2024-3177.
#[tokio::test]
async fn only_the_secrets_of_its_account_reach_a_pod() {
    let cluster = Cluster::start().await;
    let objects: Arc<dyn admission::Objects> = Arc::new(Stored(cluster.storage.clone()));
    cluster.server.set_plugins(admission::default_plugins(&objects));
    let account = json!({"kind": "ServiceAccount", "apiVersion": "v1", "secrets": [{"name": "own"}],
        "metadata": {"name": "a", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/serviceaccounts", &account).await.code, 201);
    let code = async |place: &str, container: Value, secret: &str| {
        let mut pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": format!("p-{secret}")},
            "spec": {"serviceAccountName": "a", "containers": [{"name": "c", "image": "i"}]}});
        pod["spec"][place] = json!([container]);
        cluster.post("/api/v1/namespaces/default/pods?dryRun=All", &pod).await.code
    };
    for secret in ["own", "other"] {
        let from = json!({"name": "x", "image": "i", "envFrom": [{"secretRef": {"name": secret}}]});
        let env = json!({"name": "x", "image": "i", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]});
        let wanted = if secret == "own" { 201 } else { 403 };
        for (place, part) in [("containers", &from), ("initContainers", &from), ("containers", &env), ("initContainers", &env)] {
            assert_eq!(code(place, part.clone(), secret).await, wanted, "{place} {part}");
        }
        assert_eq!(code("volumes", json!({"name": "v", "secret": {"secretName": secret}}), secret).await, wanted);
    }
    let pod =
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": {"serviceAccountName": "a", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(cluster.post("/api/v1/namespaces/default/pods", &pod).await.code, 201);
    for (secret, wanted) in [("own", 200), ("other", 403)] {
        let debug = json!({"spec": {"ephemeralContainers": [{"name": format!("d-{secret}"), "image": "i", "envFrom": [{"secretRef": {"name": secret}}]}]}});
        let patched =
            cluster.patch("/api/v1/namespaces/default/pods/p/ephemeralcontainers", "application/strategic-merge-patch+json", &debug.to_string()).await;
        assert_eq!(patched.code, wanted, "{}", patched.text());
    }
}

/// CVE-2024-0793: annotations of one version are no way to break another.
#[tokio::test]
async fn nonsense_in_an_old_version_breaks_nothing() {
    let cluster = Cluster::start().await;
    let scaler = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v1", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let scalers = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    assert_eq!(cluster.post(scalers, &scaler).await.code, 201);
    for value in ["null", "[{}]", "nonsense", "[{\"type\":\"Resource\"}]", "{\"scaleUp\":null}"] {
        for key in ["metrics", "behavior", "conditions", "current-metrics"] {
            let patch = json!({"metadata": {"annotations": {format!("autoscaling.alpha.kubernetes.io/{key}"): value}}});
            let answer = cluster.patch(&format!("{scalers}/h"), "application/merge-patch+json", &patch.to_string()).await;
            assert!(answer.code < 500, "{key} {value}: {}", answer.text());
            for version in ["v1", "v2"] {
                assert_eq!(cluster.get(&format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers/h")).await.code, 200, "{key} {value}");
            }
        }
    }
}
