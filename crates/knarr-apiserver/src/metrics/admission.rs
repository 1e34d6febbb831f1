//! How long admission takes, and what webhooks say (upstream: `admission/metrics`).

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use knarr_core::metrics::{Counters, Histograms, Text};

use super::descs;
use crate::admission::Operation;

/// Codes beyond this one count as it.
const CODE_MAX: u16 = 600;

/// Whether something changes or refuses writes, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Admit,
    Validate,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }

    /// Webhooks that validate are named otherwise.
    fn of_webhook(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validating",
        }
    }
}

/// What came of the call of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    Allowed,
    Denied(u16),
    /// The call failed; `true` when the write went on all the same.
    Failed {
        code: u16,
        open: bool,
    },
    /// The fault was the server's own.
    OwnError,
}

/// See the module.
pub struct Admission {
    steps: Histograms,
    controllers: Histograms,
    webhooks: Histograms,
    requests: Counters,
    rejections: Counters,
    failed_open: Counters,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            steps: Histograms::new(&descs::STEPS),
            controllers: Histograms::new(&descs::CONTROLLERS),
            webhooks: Histograms::new(&descs::WEBHOOKS),
            requests: Counters::new(&descs::WEBHOOK_REQUESTS),
            rejections: Counters::new(&descs::WEBHOOK_REJECTIONS),
            failed_open: Counters::new(&descs::WEBHOOK_FAIL_OPEN),
        }
    }
}

impl Admission {
    /// A whole pass over all plugins.
    pub fn step(&self, step: Step, operation: Operation, rejected: bool, since: Instant) {
        self.steps.observe(&[operation.as_str(), truth(rejected), step.as_str()], since.elapsed().as_secs_f64());
    }

    /// One plugin.
    pub fn controller(&self, name: &str, step: Step, operation: Operation, rejected: bool, since: Instant) {
        self.controllers.observe(&[name, operation.as_str(), truth(rejected), step.as_str()], since.elapsed().as_secs_f64());
    }

    /// One webhook.
    pub fn webhook(&self, name: &str, step: Step, operation: Operation, called: Called, took: Duration) {
        let (operation, step) = (operation.as_str(), step.of_webhook());
        let (rejected, code, error) = match called {
            Called::Allowed => (false, 200, None),
            Called::Denied(code) => (true, code, Some("no_error")),
            Called::Failed { code, open: true } => (false, code, None),
            Called::Failed { code, open: false } => (true, code, Some("calling_webhook_error")),
            Called::OwnError => (true, 0, Some("apiserver_internal_error")),
        };
        let code = code.min(CODE_MAX).to_string();
        self.requests.add(&[&code, name, operation, truth(rejected), step]);
        self.webhooks.observe(&[name, operation, truth(rejected), step], took.as_secs_f64());
        if let Some(error) = error {
            self.rejections.add(&[error, name, operation, &code, step]);
        }
        if matches!(called, Called::Failed { open: true, .. }) {
            self.failed_open.add(&[name, step]);
        }
    }

    pub(super) fn write(&self, out: &mut Text) {
        for histograms in [&self.steps, &self.controllers, &self.webhooks] {
            histograms.write(out);
        }
        for counters in [&self.requests, &self.rejections, &self.failed_open] {
            counters.write(out);
        }
    }
}

fn truth(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

tokio::task_local! {
    static WAITED: Cell<Duration>;
}

/// Runs a request; gives beside its result the time that it waited for webhooks (upstream: `request.LatencyTrackers`).
pub async fn timed<F: Future>(work: F) -> (F::Output, Duration) {
    WAITED.scope(Cell::default(), async { (work.await, WAITED.with(Cell::get)) }).await
}

/// The request of this task has waited for webhooks. Where nobody asks for it, this is nothing.
pub fn waited(time: Duration) {
    let _ = WAITED.try_with(|sum| sum.set(sum.get() + time));
}
