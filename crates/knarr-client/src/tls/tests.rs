//! The transport against a small server of its own, on loopback.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// A server that answers each GET with a ConfigMap, puts the first request off once, and echoes upgraded connections.
struct Server {
    config: Config,
    counts: Arc<Counts>,
    listener: Arc<TcpListener>,
    acceptor: tokio_rustls::TlsAcceptor,
}

impl Server {
    async fn start(alpn: &[&[u8]]) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new(format!("https://localhost:{}", listener.local_addr().unwrap().port()));
        config.certificate_authority = Some(made.cert.pem().into_bytes());
        config.identity = Identity::Token("t".into());
        Self { config, counts: Arc::default(), listener: Arc::new(listener), acceptor: Arc::new(tls).into() }
    }

    /// Serves until the returned set is dropped, which breaks all connections.
    fn serve(&self) -> JoinSet<()> {
        let (listener, acceptor, counts) = (self.listener.clone(), self.acceptor.clone(), self.counts.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                counts.connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, counts) = (acceptor.clone(), counts.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |request| answer(request, counts.clone()));
                    drop(auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await);
                });
            }
        });
        tasks
    }

    fn transport(&self) -> TlsTransport {
        TlsTransport::new(self.config.clone()).unwrap()
    }
}

async fn answer(mut request: http::Request<hyper::body::Incoming>, counts: Arc<Counts>) -> std::result::Result<http::Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.headers()["authorization"], "Bearer t");
    if request.headers().contains_key(http::header::UPGRADE) {
        tokio::spawn(async move {
            let mut stream = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
            let mut four = [0; 4];
            stream.read_exact(&mut four).await.unwrap();
            stream.write_all(&four).await.unwrap();
        });
        return Ok(http::Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo").body(Full::default()).unwrap());
    }
    if counts.requests.fetch_add(1, Ordering::SeqCst) == 0 {
        return Ok(http::Response::builder().status(429).header("retry-after", "0").body(Full::default()).unwrap());
    }
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","resourceVersion":"5"}}}}"#);
    Ok(http::Response::builder().header("content-type", "application/json").body(body.into()).unwrap())
}

async fn name_of(client: &Client, name: &str) -> Result<String> {
    let map = client.within::<ConfigMap>("a").get(name).await?;
    Ok(map.metadata.name.unwrap_or_default())
}

#[tokio::test]
async fn many_requests_share_one_connection_and_a_put_off_one_comes_again() {
    let server = Server::start(&[b"h2"]).await;
    let _serving = server.serve();
    let client = server.transport().client();
    let names: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
    let got = futures::future::try_join_all(names.iter().map(|n| name_of(&client, n))).await.unwrap();
    assert_eq!(got, names);
    assert_eq!(server.counts.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn idle_connections_of_http_1_are_used_again() {
    let server = Server::start(&[b"http/1.1"]).await;
    let _serving = server.serve();
    let client = server.transport().client();
    for _ in 0..5 {
        assert_eq!(name_of(&client, "a").await.unwrap(), "a");
    }
    assert_eq!(server.counts.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_came_back_is_found_again() {
    for alpn in [&b"h2"[..], b"http/1.1"] {
        let server = Server::start(&[alpn]).await;
        let client = server.transport().client();
        let serving = server.serve();
        name_of(&client, "a").await.unwrap();
        drop(serving);
        let _serving = server.serve();
        // The first request after the break may still meet the old connection; the API calls that retriable.
        let first = name_of(&client, "b").await;
        assert!(first.as_ref().err().is_none_or(Status::is_retriable), "{first:?}");
        assert_eq!(name_of(&client, "c").await.unwrap(), "c");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_a_stream() {
    let server = Server::start(&[b"h2", b"http/1.1"]).await;
    let _serving = server.serve();
    let request = http::Request::post("/api/v1/namespaces/a/pods/p/exec?command=ls")
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Bytes::new())
        .unwrap();
    let (response, stream) = server.transport().upgrade(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut stream = stream.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
}

#[tokio::test]
async fn nobody_listening_is_told_in_words_that_users_know() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let transport = TlsTransport::new(Config::new(format!("https://{free}"))).unwrap();
    let error = transport.fetch(http::Request::get("/version").body(Bytes::new()).unwrap()).await.unwrap_err();
    assert!(error.is_refused());
    assert!(error.to_string().starts_with(&format!("dial tcp {free}: ")), "{error}");
}
