//! Servers of others, over TLS on this machine: identity providers and webhooks.

use std::{net::SocketAddr, sync::Arc};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use knarr_apiserver::pki::Pki;
use knarr_core::{Value, clock::Env, json};
use parking_lot::Mutex;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What somebody asked.
pub struct Asked {
    pub path: String,
    pub authorization: String,
    pub headers: http::HeaderMap,
    /// Null for what is no JSON.
    pub body: Value,
}

/// A server and the CA of its certificate. It ends with the test's runtime.
pub struct Outside {
    pub address: SocketAddr,
    pub ca: String,
}

impl Outside {
    /// Starts one whose answers (code, body) a function gives. A string is sent as it is.
    pub async fn start(answer: impl Fn(Asked) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::system();
        let pki = Pki::load_or_create(folder.path(), env.now()).unwrap();
        let identity = pki.serving(&["localhost".into()], &["127.0.0.1".parse().unwrap()], env.now()).unwrap();
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).map(|c| c.unwrap()).collect();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap())
            .unwrap();
        let (acceptor, answer) = (TlsAcceptor::from(Arc::new(tls)), Arc::new(answer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let answer = answer.clone();
                        async move {
                            let path = request.uri().path_and_query().unwrap().as_str().to_owned();
                            let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
                            let headers = request.headers().clone();
                            let body = request.into_body().collect().await?.to_bytes();
                            let (code, reply) = answer(Asked { path, authorization, headers, body: serde_json::from_slice(&body).unwrap_or_default() });
                            let reply = reply.as_str().map_or_else(|| reply.to_string(), str::to_owned);
                            let location = reply.strip_prefix("-> ").map(str::to_owned);
                            let mut response = Response::builder().status(code);
                            if let Some(location) = location {
                                response = response.header("location", location);
                            }
                            Ok::<_, hyper::Error>(response.body(Full::new(Bytes::from(reply))).unwrap())
                        }
                    });
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.unwrap_or_default();
                });
            }
        });
        Self { address, ca: pki.ca.certificate }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self, folder: &std::path::Path, path: &str) -> std::path::PathBuf {
        let config = json!({
            "kind": "Config", "apiVersion": "v1", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("{}{path}", self.url()), "certificate-authority-data": base64::engine::general_purpose::STANDARD.encode(&self.ca),
            }}],
            "users": [{"name": "c", "user": {"token": "of-the-server"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        let file = folder.join(format!("kubeconfig-{}", self.address.port()));
        std::fs::write(&file, config.to_string()).unwrap();
        file
    }
}

/// A key that signs tokens.
pub struct Signer {
    pair: EcdsaKeyPair,
    id: &'static str,
}

impl Signer {
    pub fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self { pair: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap(), id }
    }

    pub fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])})
    }

    pub fn sign(&self, claims: &Value) -> String {
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let text = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.id})), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// An identity provider.
pub struct FakeIssuer {
    pub server: Outside,
    /// What its key document holds; shared with the server.
    pub keys: Arc<Mutex<Vec<Value>>>,
    /// Paths that were asked for.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl FakeIssuer {
    /// `elsewhere` answers paths that are not the provider's own.
    pub async fn start(keys: Vec<Value>, elsewhere: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static) -> Self {
        let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(Mutex::new(Vec::new())));
        let url = Arc::new(Mutex::new(String::new()));
        let (shared_keys, shared_asked, own_url) = (keys.clone(), asked.clone(), url.clone());
        let server = Outside::start(move |request| {
            shared_asked.lock().push(request.path.clone());
            let url = own_url.lock().clone();
            match request.path.as_str() {
                "/.well-known/openid-configuration" | "/moved/discovery" => (200, json!({"issuer": url, "jwks_uri": format!("{url}/keys")})),
                "/keys" => (200, json!({"keys": shared_keys.lock().clone()})),
                _ => elsewhere(&request),
            }
        })
        .await;
        *url.lock() = server.url();
        Self { server, keys, asked }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }
}
