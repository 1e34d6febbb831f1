//! Pulling from a registry that behaves well or badly, and what containers see of the layers. Needs root.

mod world;

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use knarr_runtime::cri::{Auth, Error};
use knarr_runtime::image::Digest;
use knarr_runtime::{Hosts, Images, Runtime};
use parking_lot::Mutex;
use world::{World, image_config, layer, second_layer, tarball};

/// How the registry misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mood {
    #[default]
    Kind,
    /// Wants a bearer token, which it gives for user and password.
    Token,
    /// Wants user and password with each request.
    Basic,
    /// Sends for blobs to another address, which refuses credentials.
    Redirects,
    /// Breaks off in the middle of each blob.
    BreaksOff,
    /// Says 429 first.
    Busy,
    /// Changes a byte of each layer.
    Lies,
}

#[derive(Default)]
struct Shared {
    mood: Mutex<Mood>,
    blobs: Mutex<HashMap<String, Bytes>>,
    manifests: Mutex<HashMap<String, (String, Bytes)>>,
    requests: Mutex<Vec<String>>,
    address: Mutex<String>,
    other: Mutex<String>,
}

/// A registry on this machine.
struct Registry(Arc<Shared>);

type Body = BoxBody<Bytes, std::io::Error>;

fn answer(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed());
    *response.status_mut() = status;
    response
}

async fn listen(shared: Arc<Shared>, other: bool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let shared = shared.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let response = if other { shared.serve_other(&request) } else { shared.serve(&request) };
                async { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(stream), service));
        }
    });
    address
}

impl Registry {
    async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        *shared.address.lock() = listen(shared.clone(), false).await;
        *shared.other.lock() = listen(shared.clone(), true).await;
        Self(shared)
    }

    fn mood(&self, mood: Mood) {
        *self.0.mood.lock() = mood;
        self.0.requests.lock().clear();
    }

    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.0.address.lock())
    }

    fn add_blob(&self, bytes: Vec<u8>) -> serde_json::Value {
        let (digest, size) = (Digest::of(&bytes).to_string(), bytes.len());
        self.0.blobs.lock().insert(digest.clone(), bytes.into());
        serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
    }

    fn add_manifest(&self, tag: &str, kind: &str, manifest: &serde_json::Value) -> serde_json::Value {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = Digest::of(&bytes).to_string();
        let entry = (format!("application/vnd.oci.image.{kind}.v1+json"), Bytes::from(bytes.clone()));
        self.0.manifests.lock().extend([(tag.to_owned(), entry.clone()), (digest.clone(), entry)]);
        serde_json::json!({"mediaType": "m", "digest": digest, "size": bytes.len(), "platform": {"os": "linux", "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }}})
    }

    /// An image of these layers, each packed as told; gives its manifest's descriptor.
    fn add_image(&self, tag: &str, layers: &[(Vec<u8>, Packing)]) -> serde_json::Value {
        let plain: Vec<Vec<u8>> = layers.iter().map(|(l, _)| l.clone()).collect();
        let config = self.add_blob(image_config(r#"{"Cmd": ["/bin/cat", "/data/second"], "User": "app", "Env": ["FROM=image"]}"#, &plain));
        let layers: Vec<serde_json::Value> = layers.iter().map(|(l, packing)| self.add_blob(packing.pack(l))).collect();
        self.add_manifest(tag, "manifest", &serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers}))
    }

    fn asked(&self, what: &str) -> usize {
        self.0.requests.lock().iter().filter(|r| r.contains(what)).count()
    }
}

#[derive(Clone, Copy)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    fn pack(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => data.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(data).unwrap();
                encoder.finish().unwrap()
            }
            Self::Zstd => ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest),
        }
    }
}

impl Shared {
    fn serve(&self, request: &Request<Incoming>) -> Response<Body> {
        let (path, mood) = (request.uri().path().to_owned(), *self.mood.lock());
        let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let query = request.uri().query().unwrap_or_default();
        self.requests.lock().push(format!("{} {path} {} {query}", request.method(), header("range").unwrap_or_default()));
        let basic = header("authorization").is_some_and(|v| v == "Basic dXNlcjpwYXNz");
        if path == "/token" && request.method() == http::Method::POST {
            return if header("authorization").is_none() {
                answer(StatusCode::OK, r#"{"access_token":"granted"}"#)
            } else {
                answer(StatusCode::BAD_REQUEST, "")
            };
        }
        if path == "/token" {
            let scope = request.uri().query().unwrap_or_default().contains("scope=repository:");
            return if basic && scope { answer(StatusCode::OK, r#"{"token":"granted"}"#) } else { answer(StatusCode::UNAUTHORIZED, "") };
        }
        let allowed = match mood {
            Mood::Token => header("authorization").is_some_and(|v| v == "Bearer granted"),
            Mood::Basic => basic,
            _ => true,
        };
        if !allowed {
            let mut refusal = answer(StatusCode::UNAUTHORIZED, r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#);
            let challenge = if mood == Mood::Basic {
                "Basic realm=\"r\"".to_owned()
            } else {
                format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.address.lock())
            };
            refusal.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return refusal;
        }
        if mood == Mood::Busy && self.requests.lock().len() % 2 == 1 {
            let mut busy = answer(StatusCode::TOO_MANY_REQUESTS, "");
            busy.headers_mut().insert("retry-after", "0".parse().unwrap());
            return busy;
        }
        let last = path.rsplit('/').next().unwrap();
        if path.contains("/manifests/") {
            return match self.manifests.lock().get(last) {
                Some((kind, bytes)) => {
                    let mut found = answer(StatusCode::OK, bytes.clone());
                    found.headers_mut().insert("content-type", kind.parse().unwrap());
                    found.headers_mut().insert("docker-content-digest", Digest::of(bytes).to_string().parse().unwrap());
                    found
                }
                None => answer(StatusCode::NOT_FOUND, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
            };
        }
        if mood == Mood::Redirects {
            let mut elsewhere = answer(StatusCode::TEMPORARY_REDIRECT, "");
            elsewhere.headers_mut().insert("location", format!("http://{}/{last}", self.other.lock()).parse().unwrap());
            return elsewhere;
        }
        self.blob(last, header("range"), mood)
    }

    fn serve_other(&self, request: &Request<Incoming>) -> Response<Body> {
        if request.headers().contains_key("authorization") {
            return answer(StatusCode::IM_A_TEAPOT, "credentials leaked");
        }
        self.blob(request.uri().path().trim_start_matches('/'), None, Mood::Kind)
    }

    fn blob(&self, digest: &str, range: Option<String>, mood: Mood) -> Response<Body> {
        let Some(bytes) = self.blobs.lock().get(digest).cloned() else { return answer(StatusCode::NOT_FOUND, "") };
        let from = range.map_or(0, |r| r.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse::<usize>().unwrap());
        let mut rest = bytes.slice(from..);
        if mood == Mood::Lies && rest.len() > 1000 {
            let mut changed = rest.to_vec();
            let middle = changed.len() / 2;
            changed[middle] ^= 1;
            rest = changed.into();
        }
        let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if mood == Mood::BreaksOff && rest.len() > 1000 {
            let some = rest.slice(..rest.len() * 2 / 3);
            let frames = [Ok(Frame::data(some)), Err(std::io::Error::other("broken"))];
            let mut cut = answer(status, "");
            cut.headers_mut().insert("content-length", rest.len().into());
            // What was sent before the break is to arrive.
            let slowly = futures::StreamExt::then(futures::stream::iter(frames), async |frame| {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                frame
            });
            *cut.body_mut() = BodyExt::boxed(StreamBody::new(Box::pin(slowly)));
            return cut;
        }
        answer(status, rest)
    }
}

fn layers() -> [(Vec<u8>, Packing); 2] {
    [(layer(), Packing::Gzip), (second_layer(), Packing::Zstd)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_found_run_and_removed() {
    let world = World::new().await;
    let registry = Registry::start().await;
    let manifest = registry.add_image("one", &layers());
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "m", "digest": Digest::of(b"x").to_string(), "size": 1, "platform": {"os": "windows", "architecture": "amd64"}}, manifest]});
    let index = registry.add_manifest("1.0", "index", &index);
    let name = registry.name("some/app:1.0");
    let id = world.runtime.pull_image(&name, None).await.unwrap();
    let image = world.runtime.image_status(&name).await.unwrap().unwrap();
    let by_digest = format!("{}@{}", registry.name("some/app"), index["digest"].as_str().unwrap());
    assert_eq!((&image.id, &image.repo_tags, &image.repo_digests), (&id, &vec![name.clone()], &vec![by_digest.clone()]));
    assert_eq!((image.uid, image.username.as_str()), (None, "app"));
    assert!(image.size > 1000);
    assert_eq!(world.runtime.image_status(&id).await.unwrap().unwrap(), image);
    assert_eq!(world.runtime.image_status(&by_digest).await.unwrap().unwrap(), image);
    assert_eq!(world.runtime.image_status("nothing:1").await.unwrap(), None);

    // What is here is not fetched again.
    registry.mood(Mood::Kind);
    assert_eq!(world.runtime.pull_image(&by_digest, None).await.unwrap(), id);
    assert_eq!(registry.asked("/blobs/"), 0);

    let pod = world.sandbox("pod").await;
    let mut config = world.shell("");
    (config.image, config.command) = (id.clone(), Vec::new());
    assert_eq!(world.run(&pod, &config).await, (0, "stdout F layer two".to_owned()));
    config.command = ["sh", "-c", "ls /data; echo $FROM; id -u"].map(String::from).into();
    assert_eq!(world.run(&pod, &config).await.1, "stdout F second\nstdout F image\nstdout F 1000", "the lower layer's file is gone");

    let running = world
        .start(&pod, &{
            let mut c = config.clone();
            c.command = ["sleep", "1000"].map(String::from).into();
            c
        })
        .await;
    world.runtime.remove_image(&id).await.unwrap();
    assert_eq!(world.runtime.image_status(&id).await.unwrap(), None);
    let output = world.runtime.exec_sync(&running, &["cat".into(), "/data/second".into()], world::PATIENCE).await.unwrap();
    assert_eq!(output.stdout, b"layer two\n", "a container keeps its layers");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registries_are_met_as_they_are() {
    let world = World::new().await;
    let registry = Registry::start().await;
    let auth = Auth { username: "user".into(), password: "pass".into(), ..Auth::default() };
    for (at, mood) in [Mood::Token, Mood::Basic, Mood::Redirects, Mood::BreaksOff, Mood::Busy].into_iter().enumerate() {
        registry.mood(mood);
        let extra = tarball(&BTreeMap::from([("unique".to_owned(), vec![at as u8; 40_000])]));
        registry.add_image("1", &[(layer(), Packing::Plain), (extra, Packing::Plain)]);
        let auth = matches!(mood, Mood::Token | Mood::Basic).then_some(&auth);
        world.runtime.pull_image(&registry.name(&format!("mood{at}:1")), auth).await.unwrap_or_else(|e| panic!("{mood:?}: {e}"));
        if mood == Mood::BreaksOff {
            assert!(registry.asked("bytes=") > 0, "it goes on where it stopped");
        }
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pulled_says_why_and_leaves_nothing() {
    let world = World::new().await;
    let registry = Registry::start().await;
    let fails = async |name: &str, auth: Option<&Auth>| match world.runtime.pull_image(name, auth).await {
        Err(Error::Image(text)) => text,
        other => panic!("{other:?}"),
    };
    let missing = registry.name("a/b:nope");
    assert_eq!(
        fails(&missing, None).await,
        format!("failed to pull and unpack image \"{missing}\": failed to resolve reference \"{missing}\": {missing}: not found")
    );
    assert!(fails("UPPER/case", None).await.starts_with("invalid reference format") || fails("a:b:c", None).await.contains("invalid reference format"));

    registry.add_image("1", &[(layer(), Packing::Gzip), (second_layer(), Packing::Gzip)]);
    let name = registry.name("a/b:1");
    registry.mood(Mood::Token);
    let wrong = Auth { username: "user".into(), password: "wrong".into(), ..Auth::default() };
    assert!(fails(&name, Some(&wrong)).await.contains("failed to authorize"));
    registry.mood(Mood::Basic);
    assert!(fails(&name, None).await.contains("no basic auth credentials"));
    assert!(
        fails(&name, Some(&wrong))
            .await
            .contains("pull access denied, repository does not exist or may require authorization: server message: unauthorized: authentication required")
    );

    registry.mood(Mood::Lies);
    let extra = tarball(&BTreeMap::from([("unique".to_owned(), vec![9; 40_000])]));
    registry.add_image("2", &[(extra.clone(), Packing::Plain)]);
    let lied = fails(&registry.name("a/b:2"), None).await;
    assert!(lied.contains("has digest sha256:"), "{lied}");
    assert_eq!(world.runtime.image_status(&registry.name("a/b:2")).await.unwrap(), None);
    assert!(!world.folder.join("root/images/layers").join(Digest::of(&extra).hex()).exists(), "half a layer is never used");

    registry.mood(Mood::Kind);
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{"mediaType": "m", "digest": Digest::of(b"x").to_string(), "size": 1, "platform": {"os": "plan9", "architecture": "amd64"}}]});
    registry.add_manifest("3", "index", &index);
    assert!(fails(&registry.name("a/b:3"), None).await.ends_with("no match for platform in manifest: not found"));
    let closed = "127.0.0.1:1/a:b";
    assert!(fails(closed, None).await.contains("failed to do request: Get \"http://127.0.0.1:1/v2/a/manifests/b\": dial tcp 127.0.0.1:1: "));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oci_layout_is_loaded() {
    let world = World::new().await;
    let plain = [layer(), second_layer()];
    let packed = [Packing::Gzip.pack(&plain[0]), Packing::Zstd.pack(&plain[1])];
    let config = image_config("", &plain);
    let mut files = BTreeMap::from([("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())]);
    let mut blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
        serde_json::json!({"mediaType": "m", "digest": digest.to_string(), "size": bytes.len()})
    };
    let manifest = serde_json::json!({"schemaVersion": 2, "config": blob(&config), "layers": [blob(&packed[0]), blob(&packed[1])]});
    let mut entry = blob(&serde_json::to_vec(&manifest).unwrap());
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "latest", "io.containerd.image.name": "layout.test/app:7"});
    files.insert("index.json".into(), serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [entry]})).unwrap());
    let archive = world.folder.join("layout.tar");
    std::fs::write(&archive, tarball(&files)).unwrap();
    assert_eq!(world.runtime.load_images(&archive).await.unwrap(), ["layout.test/app:7"]);
    let image = world.runtime.image_status("layout.test/app:7").await.unwrap().unwrap();
    assert_eq!(image.id, Digest::of(&config).to_string());
    assert!(image.pinned, "nobody could give it back");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_archive_is_named_with_its_cause() {
    let world = World::new().await;
    let file = world.folder.join("notes.txt");
    std::fs::write(&file, "root:x:0:0:root:/root:/bin/bash\n".repeat(40)).unwrap();
    let error = world.runtime.load_images(&file).await.unwrap_err().to_string();
    assert!(error.contains("notes.txt: no tar archive") && error.contains("docker save") && !error.contains("bash"), "{error}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_stand_in_for_registries() {
    let world = World::new().await;
    let registry = Registry::start().await;
    registry.add_image("1", &layers());
    let yaml = format!(
        "mirrors:\n  quay.io:\n    endpoint: ['http://127.0.0.1:1', 'http://{}']\n    rewrite: {{'^a/(.*)': 'mirrored/$1'}}\n",
        registry.0.address.lock()
    );
    let images = Images::open(&world.folder.join("mirrored"), Box::new(Hosts::parse(&yaml).unwrap()), None).await.unwrap();
    images.pull("quay.io/a/b:1", None).await.unwrap();
    assert_eq!(images.list().await.unwrap()[0].repo_tags, ["quay.io/a/b:1"]);
    assert!(registry.asked("/v2/mirrored/b/manifests/1  ns=quay.io") == 1);

    registry.mood(Mood::Token);
    let auth = Auth { identity_token: "long lived".into(), ..Auth::default() };
    world.runtime.pull_image(&registry.name("a/b:1"), Some(&auth)).await.unwrap();
    assert_eq!(registry.asked("POST /token"), 1);
    world.close().await;
}
