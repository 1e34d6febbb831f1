//! Events by POST to a server that a kubeconfig names (upstream: `plugin/pkg/audit/webhook`). Whatever goes wrong, it is tried
//! again: there is hardly an error after which a log should be given up.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use knarr_client::{
    kubeconfig::{Kubeconfig, Overrides},
    tls::TlsTransport,
};
use knarr_core::clock::Env;

use super::{
    event,
    settings::WebhookSettings,
    sink::{Backend, Sent},
};

/// How often a batch is sent, and how the pauses between grow (upstream: `DefaultRetryBackoffWithInitialDelay`).
const TRIES_MAX: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;
/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Webhook {
    transport: TlsTransport,
    path: String,
    backoff: Duration,
    env: Env,
}

impl Webhook {
    /// # Errors
    /// A kubeconfig that cannot be read or names no server.
    pub fn new(settings: &WebhookSettings, env: Env) -> Result<Self, String> {
        let file = settings.config_file.clone().unwrap_or_default();
        let mut config = Kubeconfig::read(&file).and_then(|k| k.client_config(&Overrides::default())).map_err(|e| e.to_string())?;
        let uri: http::Uri = config.server.parse().map_err(|e| format!("{}: {e}", config.server))?;
        let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        // The transport dials a server; what to ask it for is the request's.
        let authority = uri.authority().ok_or_else(|| format!("{} has no host", config.server))?;
        config.server = format!("{}://{authority}", uri.scheme_str().unwrap_or("https"));
        Ok(Self { transport: TlsTransport::new(config).map_err(|e| e.to_string())?, path, backoff: settings.initial_backoff, env })
    }

    async fn once(&self, body: Bytes) -> Result<(), String> {
        let request = Request::post(&self.path).header(header::CONTENT_TYPE, "application/json").header(header::ACCEPT, "application/json, */*");
        let request = request.body(body).map_err(|e| e.to_string())?;
        let answer = tokio::time::timeout(PATIENCE, self.transport.fetch(request)).await.map_err(|_| "context deadline exceeded".to_owned())?;
        let status = answer.map_err(|e| e.to_string())?.status();
        if status.is_success() { Ok(()) } else { Err(format!("the server responded with the status code {}", status.as_u16())) }
    }
}

#[async_trait]
impl Backend for Webhook {
    fn plugin(&self) -> &'static str {
        "webhook"
    }

    async fn send(&self, events: &[Arc<Sent>]) -> Result<(), String> {
        let body = Bytes::from(event::list(events.iter().map(|sent| &*sent.json)));
        let mut pause = self.backoff;
        for _ in 1..TRIES_MAX {
            match self.once(body.clone()).await {
                Ok(()) => return Ok(()),
                Err(why) => tracing::debug!(why, "audit events are sent again"),
            }
            let jitter = self.env.below(1000) as f64 / 1000.0 * JITTER;
            tokio::time::sleep(pause.mul_f64(1.0 + jitter)).await;
            pause = pause.mul_f64(FACTOR);
        }
        self.once(body).await
    }
}
