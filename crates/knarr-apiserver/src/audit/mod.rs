//! The audit log: who did what, when, and what came of it (upstream: `audit`, `endpoints/filters/audit.go`).
//!
//! ```text
//!  request ─▶ policy ─▶ a Record, or nothing ─▶ an Event at each stage ─▶ sinks: a file (log_file), a webhook
//!             (policy)   annotations, objects     (event)                  (sink: batch, blocking, blocking-strict)
//! ```
//!
//! Without a policy there is no [`Auditor`] and a request pays nothing. With one, a request that is not written down pays for the
//! rules that it is held against.

mod event;
mod log_file;
mod metrics;
mod policy;
mod record;
mod settings;
mod sink;
mod webhook;

use std::{path::Path, sync::Arc};

use knarr_core::{clock::Env, metrics::Text};

use self::{event::Event, metrics::Counts, policy::Policy, sink::Sink};
pub use record::{Beginning, Ending, Record};
pub use settings::{BatchSettings, FLAGS, Format, LogSettings, Mode, Settings, TruncateSettings, WebhookSettings};

/// What writes down. One for each server.
pub struct Auditor {
    policy: Policy,
    sinks: Vec<Sink>,
    counts: Arc<Counts>,
    env: Env,
}

impl Auditor {
    /// Opens what the settings name. Without a policy, or with nowhere to write, there is nothing to do.
    ///
    /// # Errors
    /// A policy or a kubeconfig that cannot be read, a file that cannot be written.
    pub fn open(settings: &Settings, env: Env) -> Result<Option<Arc<Self>>, String> {
        settings.validate()?;
        let Some(path) = &settings.policy_file else {
            if settings.log.is_on() || settings.webhook.is_on() {
                tracing::info!("no audit policy file is given, so nothing is written to the audit log");
            }
            return Ok(None);
        };
        let policy = read_policy(path).map_err(|why| format!("loading audit policy file: {why}"))?;
        let counts = Arc::new(Counts::default());
        let mut sinks = Vec::new();
        if settings.log.is_on() {
            sinks.push(Sink::log(&settings.log, &counts, env.clone())?);
        }
        if settings.webhook.is_on() {
            sinks.push(Sink::webhook(&settings.webhook, &counts, env.clone())?);
        }
        Ok((!sinks.is_empty()).then(|| Arc::new(Self { policy, sinks, counts, env })))
    }

    /// Hands an event to all sinks. `false` when one that must not lose any could not take it.
    async fn process(&self, event: Event) -> bool {
        self.counts.event();
        let sent = Arc::new(sink::Sent::new(event));
        let mut good = true;
        for sink in &self.sinks {
            good &= sink.process(&sent).await;
        }
        good
    }

    /// Whether an event can be handed over without waiting for anybody.
    fn is_immediate(&self) -> bool {
        self.sinks.iter().all(Sink::is_immediate)
    }

    pub fn write_metrics(&self, out: &mut Text) {
        self.counts.write(out);
    }

    /// Sends what is still in buffers. Events that come later are lost.
    pub async fn shut_down(&self) {
        for sink in &self.sinks {
            sink.shut_down().await;
        }
    }
}

fn read_policy(path: &Path) -> Result<Policy, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("failed to read file path {:?}: {e}", path.display().to_string()))?;
    Policy::read(&text).map_err(|why| format!("{why}: from file {}", path.display()))
}
