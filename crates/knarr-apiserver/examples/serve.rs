//! An API server without nodes or controllers on `127.0.0.1:PORT` (8001), open to everybody as an administrator, for trying and measuring
//! clients against it: plain and in memory, or, given a folder, with TLS and its objects on disk there, beside a `kubeconfig`.
//!
//!     cargo run -p knarr-apiserver --example serve -- 8001 [FOLDER]

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use knarr_apiserver::{
    ServerBuilder,
    admission::{self, Objects},
    authn::{Authenticator, Credentials, MASTERS, User},
    http::{Limits, Tls, serve},
    pki::Pki,
    stored::Stored,
};
use knarr_core::{Result, clock::Env};
use knarr_store::{Engine, LogEngine, MemoryEngine, Storage};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

type Failure = Box<dyn std::error::Error>;

struct Everybody;

#[async_trait]
impl Authenticator for Everybody {
    async fn authenticate(&self, _: &Credentials<'_>) -> Result<Option<User>> {
        Ok(Some(User { name: "admin".into(), groups: vec![MASTERS.into()], ..User::default() }))
    }
}

/// A certificate for this machine out of the folder's own authority.
fn tls(folder: &Path, port: u16, env: &Env) -> std::result::Result<Tls, Failure> {
    let pki = Pki::load_or_create(&folder.join("pki"), env.now())?;
    let identity = pki.serving(&["localhost".into()], &[[127, 0, 0, 1].into()], env.now())?;
    let chain = CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<std::result::Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let authority = folder.join("pki/ca.crt");
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "serve",
        "clusters": [{"name": "serve", "cluster": {"server": format!("https://127.0.0.1:{port}"), "certificate-authority": authority}}],
        "users": [{"name": "serve", "user": {"token": "anybody"}}],
        "contexts": [{"name": "serve", "context": {"cluster": "serve", "user": "serve"}}],
    });
    std::fs::write(folder.join("kubeconfig"), kubeconfig.to_string())?;
    Ok(Arc::new(tls).into())
}

#[tokio::main]
async fn main() -> std::result::Result<(), Failure> {
    let port: u16 = std::env::args().nth(1).map_or(Ok(8001), |p| p.parse())?;
    let folder = std::env::args().nth(2).map(std::path::absolute).transpose()?;
    let env = Env::system();
    let engine: Arc<dyn Engine> = match &folder {
        Some(folder) => Arc::new(LogEngine::at(&folder.join("store"), env.clock.clone())?),
        None => Arc::new(MemoryEngine::new(env.clock.clone())),
    };
    let tls = folder.as_deref().map(|f| tls(f, port, &env)).transpose()?;
    let storage = Storage::open(engine, env.clone())?;
    let objects: Arc<dyn Objects> = Arc::new(Stored(storage.clone()));
    let server = ServerBuilder::new(storage).env(env).authenticator(Arc::new(Everybody)).plugins(admission::default_plugins(&objects)).build();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    serve(server, listener, tls, Limits::default()).await?;
    Ok(())
}
