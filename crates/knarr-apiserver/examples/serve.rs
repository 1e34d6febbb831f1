//! An API server without disk, nodes or controllers on `127.0.0.1:PORT` (8001), open to everybody as an administrator:
//! for trying clients against it.
//!
//!     cargo run -p knarr-apiserver --example serve -- 8001

use std::sync::Arc;

use async_trait::async_trait;
use knarr_apiserver::{
    ServerBuilder,
    admission::{self, Objects},
    authn::{Authenticator, Credentials, MASTERS, User},
    http::{Limits, serve},
    stored::Stored,
};
use knarr_core::{Result, clock::Env};
use knarr_store::{MemoryEngine, Storage};

struct Everybody;

#[async_trait]
impl Authenticator for Everybody {
    async fn authenticate(&self, _: &Credentials<'_>) -> Result<Option<User>> {
        Ok(Some(User { name: "admin".into(), groups: vec![MASTERS.into()], ..User::default() }))
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).map_or(Ok(8001), |p| p.parse())?;
    let env = Env::system();
    let storage = Storage::open(Arc::new(MemoryEngine::new(env.clock.clone())), env.clone())?;
    let objects: Arc<dyn Objects> = Arc::new(Stored(storage.clone()));
    let server = ServerBuilder::new(storage).env(env).authenticator(Arc::new(Everybody)).plugins(admission::default_plugins(&objects)).build();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    serve(server, listener, None, Limits::default()).await?;
    Ok(())
}
