//! TLS, HTTP/2 and client certificates.

mod support;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_apiserver::{
    Config, ServerBuilder,
    authn::{ClientCertificates, Union},
    authz,
    http::{Limits, serve},
    pki::{Leaf, Pki},
};
use knarr_core::clock::Env;
use knarr_store::{MemoryEngine, Storage};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::client::TlsStream;

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.unwrap()).collect()
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(pem));
    roots
}

/// A server with a CA of its own, and a connection of `alice` of the group `dev`, agreed on HTTP/2.
async fn alices_connection(folder: &Path) -> TlsStream<TcpStream> {
    alices_connection_to(folder, Config::default(), Limits::default()).await
}

async fn alices_connection_to(folder: &Path, config: Config, limits: Limits) -> TlsStream<TcpStream> {
    let env = Env::system();
    let pki = Pki::load_or_create(folder, env.now()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let identity = pki.serving(&["localhost".into()], &[[127, 0, 0, 1].into()], env.now()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&pki.ca.certificate)), provider.clone()).allow_unauthenticated().build().unwrap();
    let mut tls = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&identity.certificate), PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone()).unwrap();
    let authenticator = Arc::new(Union::new(vec![Arc::new(ClientCertificates::default())], true));
    let server = ServerBuilder::new(storage).config(config).env(env.clone()).authenticator(authenticator).authorizer(Arc::new(authz::Union(vec![]))).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(server, listener, Some(Arc::new(tls).into()), limits));

    let leaf = Leaf { common_name: "alice", organization: Some("dev"), dns_names: &[], addresses: &[], client: true, server: false };
    let alice = pki.leaf("alice", &leaf, env.now()).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(&pki.ca.certificate))
        .with_client_auth_cert(certificates(&alice.certificate), PrivateKeyDer::from_pem_slice(alice.key.as_bytes()).unwrap())
        .unwrap();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(client)).connect("localhost".try_into().unwrap(), tcp).await.unwrap()
}

#[tokio::test]
async fn a_client_certificate_names_its_user_over_http2() {
    let folder = tempfile::tempdir().unwrap();
    let stream = alices_connection(folder.path()).await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().uri("https://localhost/api/v1/namespaces").body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (Version::HTTP_2, 403));
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("User \\\"alice\\\" cannot list resource \\\"namespaces\\\""), "{body:?}");
}

#[tokio::test]
async fn who_agreed_on_http2_and_speaks_otherwise_gets_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut stream = alices_connection(folder.path()).await;
    stream.write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // It may end without a farewell.
    stream.read_to_end(&mut answer).await.unwrap_or_default();
    assert!(!answer.starts_with(b"HTTP/1"), "{:?}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_client_of_http2_is_sent_away_by_chance() {
    for (goaway_chance, is_sent_away) in [(1.0, true), (0.0, false)] {
        let folder = tempfile::tempdir().unwrap();
        let stream = alices_connection_to(folder.path(), Config { goaway_chance, ..Config::default() }, Limits::default()).await;
        let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let mut ask = async || {
            let request = Request::builder().uri("https://localhost/api/v1/namespaces").body(Empty::new()).unwrap();
            sender.send_request(request).await.map(|answer| answer.status().as_u16())
        };
        // The request itself is answered.
        assert_eq!(ask().await.unwrap(), 403);
        if is_sent_away {
            connection.await.unwrap().unwrap();
            assert!(ask().await.is_err());
        } else {
            assert_eq!(ask().await.unwrap(), 403);
        }
    }
}

#[tokio::test]
async fn nobody_speaks_http2_where_it_is_off() {
    let env = Env::system();
    let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(ServerBuilder::new(storage).env(env).build(), listener, None, Limits { http2: false, ..Limits::default() }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    // What HTTP/2 begins with, and a version that HTTP/1 does not have.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap_or_default();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
}
