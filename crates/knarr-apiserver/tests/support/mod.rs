//! A server of this process on a port of its own, and a small HTTP client for it.
#![allow(dead_code)]

pub mod outside;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use knarr_apiserver::{
    Config, Server, ServerBuilder,
    audit::Auditor,
    authn::{Authenticator, Credentials, MASTERS, User},
    http::{Limits, serve},
};
use knarr_core::{Result, Value, clock::Env, deep, json};
use knarr_schema::codec;
use knarr_store::Storage;
use knarr_store::etcd::testing::{self, Etcd};
use tokio::net::TcpListener;

/// Lets everybody in as an administrator, or as the user that the header `x-user` names.
pub struct Everybody;

#[async_trait]
impl Authenticator for Everybody {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Option<User>> {
        let name = credentials.headers.get("x-user").and_then(|v| v.to_str().ok());
        let groups = if name.is_some() { vec![] } else { vec![MASTERS.to_owned()] };
        Ok(Some(User { name: name.unwrap_or("admin").into(), groups, ..User::default() }))
    }
}

/// Asks again and again until it is so.
///
/// # Panics
/// When it does not become so, even on a machine that is busy.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(60);
    let begun = std::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        tokio::task::yield_now().await;
    }
}

pub struct Cluster {
    pub server: Server,
    pub storage: Arc<Storage>,
    pub address: SocketAddr,
    /// Where the objects lie, if not in memory.
    etcd: Option<Etcd>,
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    pub async fn start_with(config: Config) -> Self {
        Self::start_built(config, |builder| builder).await
    }

    pub async fn start_audited(auditor: Option<Arc<Auditor>>) -> Self {
        Self::start_built(Config::default(), |builder| builder.auditor(auditor)).await
    }

    /// With what else a test wants of the server.
    pub async fn start_built(config: Config, build: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let env = Env::system();
        let (storage, etcd) = testing::open(&env).await;
        let cluster = Self::serve_on(env, storage, etcd, config, build).await;
        for namespace in ["default", "kube-system"] {
            let body = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": namespace}});
            assert_eq!(cluster.post("/api/v1/namespaces", &body).await.code, 201);
        }
        cluster
    }

    /// Several servers on one etcd.
    pub async fn start_several<const N: usize>() -> ([Self; N], Etcd) {
        let etcd = Etcd::start();
        let mut servers = Vec::new();
        for _ in 0..N {
            servers.push(Self::join(&etcd).await);
        }
        let body = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "default"}});
        assert_eq!(servers[0].post("/api/v1/namespaces", &body).await.code, 201);
        (servers.try_into().unwrap_or_else(|_| unreachable!("as many as were started")), etcd)
    }

    /// One more server on an etcd.
    pub async fn join(etcd: &Etcd) -> Self {
        let env = Env::system();
        let storage = Storage::open(Arc::new(etcd.engine().await), env.clone()).unwrap();
        Self::serve_on(env, storage, None, Config::default(), |builder| builder).await
    }

    async fn serve_on(env: Env, storage: Arc<Storage>, etcd: Option<Etcd>, config: Config, build: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let builder = ServerBuilder::new(storage.clone()).env(env).config(config);
        let server = build(builder.authenticator(Arc::new(Everybody)).storage_size(Arc::new(|| 4096))).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(server.clone(), listener, None, Limits::default()));
        Self { server, storage, address, etcd, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(format!("http://{}{path}", self.address));
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let response = self.client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { code: parts.status.as_u16(), headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    /// Starts a watch and gives its body, to be read frame by frame.
    pub async fn open(&self, path: &str, headers: &[(&str, &str)]) -> Lines {
        let mut request = Request::builder().uri(format!("http://{}{path}", self.address));
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let response = self.client.request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Lines { body: response.into_body(), buffer: Vec::new() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// Asks until the code of the answer is as wanted.
    pub async fn until(&self, path: &str, code: u16) {
        for _ in 0..2000 {
            if self.get(path).await.code == code {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{path}: {}", self.get(path).await.text());
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], "").await
    }

    pub async fn patch(&self, path: &str, content_type: &str, body: &str) -> Answer {
        self.send("PATCH", path, &[("content-type", content_type)], body.to_owned()).await
    }
}

/// A body that is read line by line.
pub struct Lines {
    body: hyper::body::Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event of a watch; `None` at its end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(codec::parse_json(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(frame.data_ref().unwrap());
        }
    }

    /// The next event in short: `ADDED name`.
    pub async fn short(&mut self) -> String {
        match self.next().await {
            None => "end".into(),
            Some(event) => format!("{} {}", event["type"].as_str().unwrap(), event["object"]["metadata"]["name"].as_str().unwrap_or("-")),
        }
    }
}

/// Does it on a thread with the stack that those of a server have.
pub fn with_deep_stack(work: impl AsyncFnOnce() + Send) {
    deep::run(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.thread_stack_size(deep::STACK_BYTES).enable_all().build().unwrap().block_on(work());
    });
}

/// How long this thread has had a processor: also where others want it, this tells what a piece of work takes.
pub fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

pub fn config_map(name: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data})
}
