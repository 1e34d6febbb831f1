//! `apiserver_audit_*` (upstream: `audit/metrics.go`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use knarr_core::metrics::{Counters, Desc, Text};

use super::policy::Level;

static EVENTS: Desc = Desc::counter("apiserver_audit_event_total", "Audit events that were made and handed to the backends.", &[]);
static ERRORS: Desc = Desc::counter("apiserver_audit_error_total", "Audit events that a plugin failed to write down, by plugin.", &["plugin"]);
static LEVELS: Desc = Desc::counter("apiserver_audit_level_total", "Requests by the level that the audit policy gives them.", &["level"]);
static REJECTED: Desc = Desc::counter("apiserver_audit_requests_rejected_total", "Requests that were refused because they could not be written down.", &[]);

/// What an auditor counts.
pub struct Counts {
    events: AtomicU64,
    errors: Counters,
    levels: Counters,
    rejected: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { events: AtomicU64::new(0), errors: Counters::new(&ERRORS), levels: Counters::new(&LEVELS), rejected: AtomicU64::new(0) }
    }
}

impl Counts {
    pub fn event(&self) {
        self.events.fetch_add(1, Relaxed);
    }

    pub fn level(&self, level: Level) {
        self.levels.add(&[level.as_str()]);
    }

    pub fn reject(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// A plugin failed: told in the server's log, so that the events are not lost without a trace.
    pub fn error<'a>(&self, plugin: &str, why: &str, events: impl Iterator<Item = &'a super::sink::Sent>) {
        for sent in events {
            self.errors.add(&[plugin]);
            tracing::error!(plugin, why, event = sent.event.to_line(), "an audit event could not be written down");
        }
    }

    pub fn write(&self, out: &mut Text) {
        out.single(&EVENTS, self.events.load(Relaxed) as f64);
        self.errors.write(out);
        self.levels.write(out);
        out.single(&REJECTED, self.rejected.load(Relaxed) as f64);
    }
}
