//! Reads over the wire: representations, lists in pages, watches.

mod support;

use knarr_apiserver::{Config, http::Codecs};
use knarr_core::{ValueExt, json};
use knarr_schema::codec;
use support::{Cluster, config_map};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn what_was_created_is_read_back() {
    let cluster = Cluster::start().await;
    let created = cluster.post(MAPS, &config_map("a", json!({"k": "v"}))).await;
    assert_eq!(created.code, 201, "{}", created.text());
    let got = cluster.get(&format!("{MAPS}/a")).await;
    assert_eq!((got.code, got.json()), (200, created.json()));
    assert!(got.text().starts_with(r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"default","uid":""#), "{}", got.text());
    assert!(got.headers.contains_key("audit-id"));
    assert_eq!(got.headers["cache-control"], "no-cache, private");
    let missing = cluster.get(&format!("{MAPS}/b")).await;
    assert_eq!(missing.code, 404);
    assert_eq!(missing.json().str_at(&["message"]), Some("configmaps \"b\" not found"));
    assert_eq!(cluster.get("/apis/nothing/v1/here").await.text(), "404 page not found\n");
    assert_eq!(cluster.send("POST", &format!("{MAPS}/a"), &[], "").await.code, 405);
}

#[tokio::test]
async fn a_list_comes_in_pages_of_one_state() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        assert_eq!(cluster.post(MAPS, &config_map(name, json!({}))).await.code, 201);
    }
    let first = cluster.get(&format!("{MAPS}?limit=2")).await.json();
    assert_eq!(first.i64_at(&["metadata", "remainingItemCount"]), Some(3));
    let names =
        |list: &knarr_core::Value| list.list_at(&["items"]).iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join("");
    assert_eq!(names(&first), "ab");
    assert!(first["items"][0].get("kind").is_none());
    cluster.delete(&format!("{MAPS}/d")).await;
    let token = first.str_at(&["metadata", "continue"]).unwrap();
    let second = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await.json();
    assert_eq!((names(&second).as_str(), second.i64_at(&["metadata", "remainingItemCount"])), ("cd", Some(1)));
    assert_eq!(second.str_at(&["metadata", "resourceVersion"]), first.str_at(&["metadata", "resourceVersion"]));
    let token = second.str_at(&["metadata", "continue"]).unwrap();
    let third = cluster.get(&format!("{MAPS}?limit=2&continue={token}")).await.json();
    assert_eq!((names(&third).as_str(), third.str_at(&["metadata", "continue"])), ("e", None));
    assert_eq!(names(&cluster.get(MAPS).await.json()), "abce");
    assert_eq!(cluster.get(&format!("{MAPS}?continue=zzz")).await.code, 400);
    assert_eq!(cluster.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dc")).await.json().list_at(&["items"]).len(), 1);
    let refused = cluster.get(&format!("{MAPS}?fieldSelector=spec.x%3Dc")).await;
    let why = "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
    assert_eq!((refused.code, refused.json()["message"].as_str().unwrap()), (400, why));
}

#[tokio::test]
async fn a_watch_shows_what_happens_to_what_it_selects() {
    let cluster = Cluster::start().await;
    let mut labelled = config_map("a", json!({}));
    labelled.set(&["metadata", "labels"], json!({"app": "web"}));
    let created = cluster.post(MAPS, &labelled).await.json();
    let mut all = cluster.open(&format!("{MAPS}?watch=1&resourceVersion={}", created["metadata"]["resourceVersion"].as_str().unwrap()), &[]).await;
    let mut web = cluster.open(&format!("{MAPS}?watch=1&labelSelector=app%3Dweb"), &[]).await;
    assert_eq!(web.short().await, "ADDED a");
    let mut changed = created.clone();
    changed.set(&["metadata", "labels"], json!({"app": "db"}));
    assert_eq!(cluster.put(&format!("{MAPS}/a"), &changed).await.code, 200);
    assert_eq!(all.short().await, "MODIFIED a");
    assert_eq!(web.short().await, "DELETED a");
    cluster.delete(&format!("{MAPS}/a")).await;
    assert_eq!(all.short().await, "DELETED a");
    cluster.post(MAPS, &labelled).await;
    assert_eq!(web.short().await, "ADDED a");
    cluster.server.stop();
    assert_eq!(web.short().await, "end");
}

#[tokio::test]
async fn a_watch_list_ends_its_first_state_with_a_marked_bookmark() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", json!({}))).await;
    let path = format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let mut watch = cluster.open(&path, &[]).await;
    assert_eq!(watch.short().await, "ADDED a");
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let refused = cluster.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn every_representation_is_served() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", json!({"k": "v"}))).await;
    let get = async |path: &str, accept: &str| cluster.send("GET", path, &[("accept", accept)], "").await;
    let one = format!("{MAPS}/a");
    let table = get(MAPS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await.json();
    assert_eq!((table["kind"].as_str(), table["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("a")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = get(&one, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await.json();
    assert_eq!((partial["kind"].as_str(), partial["metadata"]["name"].as_str(), partial.get("data")), (Some("PartialObjectMetadata"), Some("a"), None));
    let list = get(MAPS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await.json();
    assert_eq!((list["kind"].as_str(), list["items"][0]["metadata"]["name"].as_str()), (Some("PartialObjectMetadataList"), Some("a")));
    let proto = get(&one, "application/vnd.kubernetes.protobuf").await;
    assert_eq!(proto.headers["content-type"], "application/vnd.kubernetes.protobuf");
    assert!(proto.body.starts_with(b"k8s\0"));
    let list = get(MAPS, "application/vnd.kubernetes.protobuf").await;
    let (kind, tree) = knarr_schema::codec::decode_protobuf(&list.body).unwrap();
    assert_eq!((kind.kind.as_str(), tree["items"][0]["data"]["k"].as_str()), ("ConfigMapList", Some("v")));
    assert_eq!(get(&one, "application/cbor").await.code, 406);
    assert!(get(&format!("{one}?pretty=1"), "application/json").await.text().starts_with("{\n  \"kind\": \"ConfigMap\",\n"));
    let error = get(&format!("{MAPS}/zzz"), "application/vnd.kubernetes.protobuf").await;
    assert_eq!(knarr_schema::codec::decode_protobuf(&error.body).unwrap().1["code"], 404);
}

#[tokio::test]
async fn an_expired_token_can_go_on_inconsistently() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.post(MAPS, &config_map(name, json!({}))).await;
    }
    // A page of a revision that is no longer known: kube-apiserver's token for revision 1, after "a".
    let unknown = base64_url(r#"{"v":"meta.k8s.io/v1","rv":999999,"start":"a\u0000"}"#);
    let expired = cluster.get(&format!("{MAPS}?limit=1&continue={unknown}")).await;
    assert_eq!((expired.code, expired.json()["reason"].as_str()), (410, Some("Expired")));
    let token = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = cluster.get(&format!("{MAPS}?limit=1&continue={token}")).await.json();
    assert_eq!((rest.list_at(&["items"]).len(), rest["items"][0]["metadata"]["name"].as_str()), (1, Some("b")));
    let gone = cluster.get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")).await;
    assert!(matches!(gone.code, 200 | 410), "{}", gone.text());
    let late = cluster.get(&format!("{MAPS}?resourceVersion=99999")).await;
    assert_eq!((late.code, late.json()["details"]["causes"][0]["reason"].as_str()), (504, Some("ResourceVersionTooLarge")));
}

fn base64_url(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// What a list says in each of its forms; compressed answers are read as gzip, of which there must be one member.
async fn large_list(cluster: &Cluster) -> String {
    let get = async |accept: &str, encoding: &str| {
        let answer = cluster.send("GET", MAPS, &[("accept", accept), ("accept-encoding", encoding)], "").await;
        assert_eq!(answer.code, 200);
        assert_eq!(answer.headers["content-length"].to_str().unwrap().parse(), Ok(answer.body.len()));
        if encoding != "gzip" {
            assert!(!answer.headers.contains_key("content-encoding"));
            return answer.body.to_vec();
        }
        assert_eq!((&answer.headers["content-encoding"], &answer.headers["vary"]), (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap()));
        let mut plain = Vec::new();
        let mut rest = flate2::bufread::GzDecoder::new(&answer.body[..]);
        std::io::Read::read_to_end(&mut rest, &mut plain).unwrap();
        assert!(rest.into_inner().is_empty());
        plain
    };
    let (json, protobuf) = ("application/json", "application/vnd.kubernetes.protobuf");
    for round in 0..2 {
        for form in [json, protobuf] {
            assert!(get(form, "gzip").await == get(form, "identity").await, "{form} in round {round}");
        }
    }
    let text = String::from_utf8(get(json, "identity").await).unwrap();
    assert!(text.ends_with("]}\n"));
    let mut list: knarr_core::Value = serde_json::from_str(&text).unwrap();
    let mut binary = knarr_schema::codec::decode_protobuf(&get(protobuf, "gzip").await).unwrap().1;
    // Items of a list show no kind in JSON and have none in protobuf.
    assert_eq!((list["kind"].take(), list["apiVersion"].take()), (json!("ConfigMapList"), json!("v1")));
    (binary["kind"], binary["apiVersion"]) = (json!(null), json!(null));
    assert!(list == binary);
    // Pages that are encoded as a whole, and such as are put together but not compressed.
    assert!(list.list_at(&["items"]) == pages(cluster, 40).await);
    let pages = pages(cluster, 12).await;
    assert!(list.list_at(&["items"]) == pages);
    pages.iter().map(|i| i["data"]["n"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

/// All objects, so many at a time.
async fn pages(cluster: &Cluster, limit: usize) -> Vec<knarr_core::Value> {
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let path = format!("{MAPS}?limit={limit}&continue={token}");
        let (page, other) = tokio::join!(cluster.get(&path), cluster.send("GET", &path, &[("accept-encoding", "gzip")], ""));
        if !other.headers.contains_key("content-encoding") {
            assert_eq!(page.body, other.body);
        }
        let page = page.json();
        pages.extend(page.list_at(&["items"]).to_vec());
        match page.str_at(&["metadata", "continue"]) {
            Some(next) => next.clone_into(&mut token),
            None => return pages,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_list_is_the_same_in_every_form_whatever_was_kept_of_the_one_before() {
    let cluster = Cluster::start().await;
    let of = |name: &str, n: usize| config_map(name, json!({"n": n.to_string(), "v": format!("<{n}>").repeat(600)}));
    let mut wanted: Vec<usize> = (0..220).collect();
    for n in &wanted {
        assert_eq!(cluster.post(MAPS, &of(&format!("m{n:03}"), *n)).await.code, 201);
    }
    let said = |wanted: &[usize]| wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(large_list(&cluster).await, said(&wanted));
    // One changes, one goes, one comes first and one in between.
    assert_eq!(cluster.put(&format!("{MAPS}/m100"), &of("m100", 1000)).await.code, 200);
    assert_eq!(cluster.delete(&format!("{MAPS}/m150")).await.code, 200);
    assert_eq!(cluster.post(MAPS, &of("a", 7)).await.code, 201);
    assert_eq!(cluster.post(MAPS, &of("m050a", 51)).await.code, 201);
    wanted[100] = 1000;
    wanted.remove(150);
    wanted.insert(51, 51);
    wanted.insert(0, 7);
    // Who asks at once shares the work.
    let lists = futures::future::join_all((0..8).map(|_| cluster.get(MAPS))).await;
    assert!(lists.iter().all(|list| list.code == 200 && list.body == lists[0].body));
    assert_eq!(large_list(&cluster).await, said(&wanted));
}

/// Of the answer to a request, what a client sees first.
async fn told(cluster: &Cluster, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let answer = cluster.send(method, path, headers, body.to_owned()).await;
    let json: knarr_core::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    (answer.code, json.str_at(&["message"]).unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_path_without_a_route_is_not_found_whatever_is_asked_of_it() {
    let cluster = Cluster::start().await;
    const NOTHING: &str = "the server could not find the requested resource";
    for path in ["a/nosuch", "a/status/more"] {
        for method in ["GET", "PUT", "POST", "OPTIONS", "FOO"] {
            let path = format!("/api/v1/namespaces/default/pods/{path}");
            assert_eq!(told(&cluster, method, &path, &[("Accept", "text/html")], "{").await, (404, NOTHING.to_owned()), "{method} {path}");
        }
    }
    for (path, code) in [("a", 405), ("a/log", 405), ("a/status", 405), ("a/nosuch", 404), ("a/log/more", 404)] {
        assert_eq!(told(&cluster, "HEAD", &format!("/api/v1/namespaces/default/pods/{path}"), &[], "").await.0, code, "{path}");
    }
}

#[tokio::test]
async fn a_watch_learns_of_bad_options_before_it_learns_of_its_form() {
    let cluster = Cluster::start().await;
    let yaml = [("Accept", "application/yaml;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")];
    assert_eq!(told(&cluster, "GET", &format!("{MAPS}?watch=1&resourceVersion=x"), &yaml, "").await.0, 500);
    let (code, why) = told(&cluster, "GET", &format!("{MAPS}?watch=1"), &yaml, "").await;
    assert_eq!((code, why.contains(";stream=watch")), (406, true), "{why}");
    let (code, why) = told(&cluster, "GET", &format!("{MAPS}?watch=1&continue=x"), &[], "").await;
    assert_eq!((code, why.contains("resourceVersionMatch is forbidden when continue is provided")), (422, true), "{why}");
    // A watch from no version is told where its first state ends, if it wants bookmarks.
    let mut lines = cluster.open(&format!("{MAPS}?watch=1&allowWatchBookmarks=true&fieldSelector=metadata.name%3Dnone"), &[]).await;
    assert_eq!(lines.next().await.unwrap()["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn what_is_asked_for_in_the_wrong_number_is_named_by_its_go_type() {
    let cluster = Cluster::start().await;
    cluster.post(MAPS, &config_map("a", json!({}))).await;
    let one = [("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")];
    let many = [("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
    assert!(told(&cluster, "GET", MAPS, &one, "").await.1.ends_with("is a list (*core.ConfigMapList)"));
    assert!(told(&cluster, "GET", &format!("{MAPS}/a"), &many, "").await.1.ends_with("is not a list (*core.ConfigMap)"));
    assert_eq!(cluster.send("GET", &format!("{MAPS}?labelSelector=none"), &many, "").await.json()["items"], knarr_core::Value::Null);
}

#[tokio::test]
async fn flow_schemas_are_shown_in_the_order_in_which_they_are_asked() {
    let cluster = Cluster::start().await;
    const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
    for (name, precedence) in [("a", 900), ("b", 7)] {
        let spec = json!({"matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": "exempt"}});
        let schema = json!({"kind": "FlowSchema", "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "metadata": {"name": name}, "spec": spec});
        assert_eq!(cluster.post(SCHEMAS, &schema).await.code, 201);
    }
    let table = cluster.send("GET", SCHEMAS, &[("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1")], "").await.json();
    let names: Vec<&str> = table.list_at(&["rows"]).iter().filter_map(|row| row["cells"][0].as_str()).collect();
    let place = |name: &str| names.iter().position(|n| *n == name).unwrap();
    assert!(place("b") < place("a"), "{names:?}");
}

/// What a browser hears that begins a watch: the head of the answer, and then messages, each with its first byte.
struct Heard {
    head: String,
    messages: Vec<(u8, Vec<u8>)>,
    _stream: BufReader<TcpStream>,
}

async fn watch_over_a_socket(cluster: &Cluster, headers: &str, messages: usize) -> Heard {
    let mut stream = BufReader::new(TcpStream::connect(cluster.address).await.unwrap());
    let request = format!(
        "GET /api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        stream.read_line(&mut head).await.unwrap();
    }
    let mut heard = Vec::new();
    for _ in 0..messages {
        let (first, mut length) = (stream.read_u8().await.unwrap(), u64::from(stream.read_u8().await.unwrap()));
        if length == 126 {
            length = stream.read_u16().await.unwrap().into();
        }
        let mut message = vec![0; length as usize];
        stream.read_exact(&mut message).await.unwrap();
        heard.push((first, message));
    }
    Heard { head: head.to_ascii_lowercase(), messages: heard, _stream: stream }
}

#[tokio::test]
async fn a_browser_watches_over_a_socket() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        assert_eq!(cluster.post("/api/v1/namespaces/default/configmaps", &object).await.code, 201);
    }
    let watch = watch_over_a_socket(&cluster, "Origin: http://localhost\r\nSec-WebSocket-Protocol: base64.binary.k8s.io\r\n", 2).await;
    let head = &watch.head;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=") && head.contains("sec-websocket-protocol: base64.binary.k8s.io"), "{head}");
    for ((first, message), name) in watch.messages.iter().zip(["a", "b"]) {
        let event: serde_json::Value = serde_json::from_slice(message).unwrap();
        assert_eq!((*first, &event["type"], &event["object"]["metadata"]["name"]), (0x81, &json!("ADDED"), &json!(name)));
    }
    let protobuf = watch_over_a_socket(&cluster, "Origin: http://localhost\r\nAccept: application/vnd.kubernetes.protobuf;stream=watch\r\n", 1).await;
    assert_eq!(protobuf.messages[0].0, 0x82);
    assert!(protobuf.messages[0].1.starts_with(b"\n\x05ADDED"), "{:?}", protobuf.messages);
    let head = watch_over_a_socket(&cluster, "", 0).await.head;
    assert!(head.starts_with("http/1.1 403 "), "{head}");
    let head = watch_over_a_socket(&cluster, "Origin: http://localhost\r\nSec-WebSocket-Protocol: a, b\r\n", 0).await.head;
    assert!(head.starts_with("http/1.1 400 "), "{head}");

    let under_way = async || {
        let metrics = cluster.get("/metrics").await.text();
        let line = metrics.lines().find(|l| l.starts_with("apiserver_longrunning_requests{") && l.contains("resource=\"configmaps\"")).unwrap_or_default();
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    };
    assert_eq!(under_way().await, "2", "they count as long as they last");
    drop((watch, protobuf));
    while !under_way().await.is_empty() {}
}

const CBOR: (&str, &str) = ("accept", "application/cbor");
const SENDS_CBOR: (&str, &str) = ("content-type", "application/cbor");

#[tokio::test]
async fn behind_its_gate_cbor_is_an_encoding_like_the_others() {
    let cluster = Cluster::start_with(Config { codecs: Codecs { cbor: true }, ..Config::default() }).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"k": "aGVsbG8="}});
    let created = cluster.send("POST", secrets, &[CBOR, SENDS_CBOR], codec::encode_cbor(&secret)).await;
    assert_eq!((created.code, &created.headers["content-type"]), (201, &"application/cbor".parse().unwrap()), "{}", created.text());
    // The bytes themselves, under the tag that says how JSON has them.
    assert!(created.body.windows(9).any(|w| w == b"\x41k\xd6\x45hello"), "{}", created.text());
    assert_eq!(codec::decode_cbor(&created.body).unwrap(), cluster.get(&format!("{secrets}/a")).await.json());
    let listed = cluster.send("GET", secrets, &[CBOR], "").await;
    assert_eq!(codec::decode_cbor(&listed.body).unwrap(), cluster.get(secrets).await.json());
    let missing = cluster.send("GET", &format!("{secrets}/b"), &[CBOR], "").await;
    assert_eq!((missing.code, codec::decode_cbor(&missing.body).unwrap()["reason"].as_str()), (404, Some("NotFound")));
    for path in ["/api", "/apis", "/apis/apps", "/apis/apps/v1"] {
        assert_eq!(codec::decode_cbor(&cluster.send("GET", path, &[CBOR], "").await.body).unwrap(), cluster.get(path).await.json(), "{path}");
    }

    let applied = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"x": "y"}}});
    let apply = ("content-type", "application/apply-patch+cbor");
    let answer = cluster.send("PATCH", &format!("{secrets}/a?fieldManager=me"), &[apply], codec::encode_cbor(&applied)).await;
    assert_eq!((answer.code, answer.json()["metadata"]["labels"]["x"].as_str()), (200, Some("y")), "{}", answer.text());
    let deleted = cluster
        .send("DELETE", &format!("{secrets}/a"), &[SENDS_CBOR], codec::encode_cbor(&json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]})))
        .await;
    assert_eq!((deleted.code, cluster.get(&format!("{secrets}/a")).await.code), (200, 200), "{}", deleted.text());

    let bad = |body: &'static [u8]| cluster.send("POST", secrets, &[SENDS_CBOR], body);
    let cut = bad(b"\x78").await;
    let why = "the object provided is unrecognized (must be of type Secret): unable to determine group/version/kind: unexpected EOF (78)";
    assert_eq!((cut.code, cut.json()["message"].as_str()), (400, Some(why)));
    let twice = bad(b"\xa2\x61a\x01\x61a\x02").await;
    assert!(twice.code == 400 && twice.text().contains("found duplicate map key"), "{}", twice.text());
}

#[tokio::test]
async fn a_watch_in_cbor_is_a_sequence() {
    let cluster = Cluster::start_with(Config { codecs: Codecs { cbor: true }, ..Config::default() }).await;
    for name in ["a", "b"] {
        assert_eq!(cluster.post(MAPS, &config_map(name, json!({}))).await.code, 201);
    }
    let watched = cluster.send("GET", &format!("{MAPS}?watch=1&resourceVersion=0&timeoutSeconds=1"), &[CBOR], "").await;
    assert_eq!((watched.code, &watched.headers["content-type"]), (200, &"application/cbor-seq".parse().unwrap()));
    let (mut rest, mut told) = (&watched.body[..], Vec::new());
    while let Some(length) = codec::cbor_length(rest) {
        let event = codec::decode_cbor(&rest[..length]).unwrap();
        told.push(format!("{} {}", event["type"].as_str().unwrap(), event["object"]["metadata"]["name"].as_str().unwrap()));
        rest = &rest[length..];
    }
    assert_eq!((told.join(", ").as_str(), rest.len()), ("ADDED a, ADDED b", 0));
}

#[tokio::test]
async fn without_its_gate_nobody_knows_cbor() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.send("GET", MAPS, &[CBOR], "").await.code, 406);
    let body = codec::encode_cbor(&config_map("a", json!({})));
    assert_eq!(cluster.send("POST", MAPS, &[SENDS_CBOR], body.clone()).await.code, 415);
    assert_eq!(cluster.send("PATCH", &format!("{MAPS}/a?fieldManager=me"), &[("content-type", "application/apply-patch+cbor")], body).await.code, 415);
}
