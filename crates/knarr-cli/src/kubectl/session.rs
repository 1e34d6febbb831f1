//! Who talks to which server, in which namespace.

use std::fmt;
use std::path::PathBuf;

use bytes::Bytes;
use knarr_client::kubeconfig::{self, Kubeconfig, Overrides};
use knarr_client::{Client, TlsTransport};
use knarr_core::{Reason, Status, Value};

/// Flags that every verb takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Path to the kubeconfig file
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the kubeconfig context
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// Namespace of this request
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Address and port of the API server
    #[arg(short, long, global = true)]
    pub server: Option<String>,
    /// Bearer token
    #[arg(long, global = true)]
    pub token: Option<String>,
    /// Username to impersonate
    #[arg(long = "as", global = true)]
    pub impersonate: Option<String>,
    /// Group to impersonate; may be repeated
    #[arg(long = "as-group", global = true)]
    pub impersonate_groups: Vec<String>,
    /// Do not check the server's certificate
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
}

/// Why a verb failed, worded as kubectl does it.
#[derive(Debug)]
pub enum Failure {
    /// What the server said.
    Server(Status),
    /// Anything else, after `error: `.
    Other(String),
}

pub type Result<T> = std::result::Result<T, Failure>;

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Server(status)
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::Other(text.to_owned())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(s) if s.reason == Reason::Invalid => write!(f, "The {}", s.message),
            Self::Server(s) if s.reason == Reason::Unknown => f.write_str(&s.message),
            Self::Server(s) => write!(
                f,
                "Error from server ({}): {}",
                serde_json::to_value(s.reason).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
                s.message
            ),
            Self::Other(text) => write!(f, "error: {text}"),
        }
    }
}

/// A connection with what the flags say.
pub struct Session {
    pub transport: TlsTransport,
    pub client: Client,
    pub namespace: String,
    /// The namespace was named by a flag: objects that name another one are refused.
    pub namespace_named: bool,
}

impl Session {
    pub fn open(global: &Global) -> Result<Self> {
        let paths = kubeconfig::default_paths(global.kubeconfig.as_deref(), |name| std::env::var(name).ok());
        let config = Kubeconfig::load(&paths).map_err(|e| e.to_string())?;
        let overrides = Overrides {
            context: global.context.clone(),
            namespace: global.namespace.clone(),
            server: global.server.clone(),
            token: global.token.clone(),
            insecure_skip_tls_verify: global.insecure_skip_tls_verify.then_some(true),
            impersonate: global.impersonate.clone(),
            impersonate_groups: global.impersonate_groups.clone(),
            ..Overrides::default()
        };
        let context = config.context(&overrides).map_err(|e| e.to_string())?;
        let mut tls = config.client_config(&overrides).map_err(|e| e.to_string())?;
        tls.user_agent = format!("kubectl/{}", knarr_core::KUBERNETES_VERSION);
        let transport = TlsTransport::new(tls).map_err(|e| e.to_string())?;
        Ok(Self {
            client: transport.client(),
            transport,
            namespace: context.namespace.unwrap_or_else(|| "default".into()),
            namespace_named: global.namespace.is_some(),
        })
    }

    /// A GET whose answer is JSON.
    pub async fn get_json(&self, path: &str, accept: &str) -> Result<Value> {
        let request = http::Request::get(path).header(http::header::ACCEPT, accept).body(Bytes::new()).map_err(|e| e.to_string())?;
        let response = self.transport.fetch(request).await.map_err(|e| e.to_string())?;
        if !response.status().is_success() {
            let status = Status::from_json(response.body());
            return Err(status.unwrap_or_else(|| Status::new(response.status().as_u16(), Reason::Unknown, String::from_utf8_lossy(response.body()))).into());
        }
        serde_json::from_slice(response.body()).map_err(|e| format!("{path}: {e}").into())
    }
}
