//! `/healthz`, `/livez`, `/readyz`: named checks, each with a path of its own, `?verbose` and `?exclude=`
//! (upstream: `server/healthz`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use knarr_core::field::go_quote;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::{metrics::HealthChecks, request::Query};

/// Says why not, when something is not well.
type Probe = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
struct Check {
    name: String,
    probe: Probe,
    /// Only `/readyz` asks it.
    ready_only: bool,
    /// Until then `/livez` takes it for well.
    live_until: Option<Instant>,
}

impl Check {
    fn new(name: &str, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), probe: Arc::new(probe), ready_only: false, live_until: None }
    }

    fn result(&self, endpoint: &str) -> Result<(), String> {
        if endpoint == "livez" && self.live_until.is_some_and(|until| Instant::now() <= until) { Ok(()) } else { (self.probe)() }
    }
}

/// The checks of one server.
#[derive(Default)]
pub struct Health {
    checks: RwLock<Vec<Check>>,
    /// What came of the checks.
    pub results: HealthChecks,
    live_until: Option<Instant>,
}

/// What an endpoint answers.
pub struct Report {
    pub healthy: bool,
    pub found: bool,
    pub text: String,
}

impl Health {
    /// For so long from now on `/livez` takes what is done at the start for done.
    pub fn new(livez_grace: Duration) -> Self {
        Self { live_until: (!livez_grace.is_zero()).then(|| Instant::now() + livez_grace), ..Self::default() }
    }

    /// Adds a check of something that is done at the start (upstream: `AddBootSequenceHealthChecks`).
    pub fn add_start(&self, name: &str, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.push(Check { live_until: self.live_until, ..Check::new(name, probe) });
    }

    /// Adds a check for all three endpoints.
    pub fn add(&self, name: &str, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.push(Check::new(name, probe));
    }

    /// Adds a check that only says whether the server is ready.
    pub fn add_ready(&self, name: &str, probe: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.push(Check { ready_only: true, ..Check::new(name, probe) });
    }

    fn push(&self, check: Check) {
        self.checks.write().push(check);
    }

    /// Answers `endpoint` (`healthz`, `livez`, `readyz`), or one check of it.
    pub fn report(&self, endpoint: &str, one: Option<&str>, query: &Query) -> Report {
        let checks: Vec<Check> = self.checks.read().iter().filter(|c| endpoint == "readyz" || !c.ready_only).cloned().collect();
        if let Some(name) = one {
            return match checks.iter().find(|c| c.name == name) {
                None => Report { healthy: false, found: false, text: String::new() },
                Some(check) => match check.result(endpoint) {
                    Ok(()) => Report { healthy: true, found: true, text: "ok".into() },
                    Err(why) => Report { healthy: false, found: true, text: format!("internal server error: {why}\n") },
                },
            };
        }
        let excluded: BTreeSet<&str> = query.all("exclude").collect();
        let (mut lines, mut failed) = (String::new(), false);
        for check in &checks {
            if excluded.contains(check.name.as_str()) {
                lines += &format!("[+]{} excluded: ok\n", check.name);
                continue;
            }
            let result = check.result(endpoint);
            self.results.observe(&check.name, endpoint, result.is_ok());
            match result {
                Ok(()) => lines += &format!("[+]{} ok\n", check.name),
                Err(why) => {
                    tracing::warn!(endpoint, check = check.name, why, "health check failed");
                    lines += &format!("[-]{} failed: reason withheld\n", check.name);
                    failed = true;
                }
            }
        }
        let unknown: Vec<String> = excluded.iter().filter(|e| !checks.iter().any(|c| c.name == **e)).map(|e| go_quote(e)).collect();
        if !unknown.is_empty() {
            lines += &format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(","));
        }
        if failed {
            return Report { healthy: false, found: true, text: format!("{lines}{endpoint} check failed\n") };
        }
        let text = if query.get("verbose").is_some() { format!("{lines}{endpoint} check passed\n") } else { "ok".into() };
        Report { healthy: true, found: true, text }
    }

    pub fn paths(&self) -> Vec<String> {
        let mut paths = vec!["/healthz".to_owned(), "/livez".into(), "/readyz".into()];
        for check in self.checks.read().iter() {
            let endpoints: &[&str] = if check.ready_only { &["readyz"] } else { &["healthz", "livez", "readyz"] };
            paths.extend(endpoints.iter().map(|e| format!("/{e}/{}", check.name)));
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_done_at_the_start_has_time_before_livez_counts_it() {
        let health = Health::new(Duration::from_secs(10));
        health.add_start("poststarthook/rbac", || Err("not yet".into()));
        let healthy = |endpoint| health.report(endpoint, None, &Query::default()).healthy;
        assert!(healthy("livez") && !healthy("readyz") && !healthy("healthz"));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!healthy("livez"));
        let strict = Health::default();
        strict.add_start("poststarthook/rbac", || Err("not yet".into()));
        assert!(!strict.report("livez", None, &Query::default()).healthy);
    }

    #[test]
    fn checks_are_told_one_by_one() {
        let health = Health::default();
        health.add("ping", || Ok(()));
        health.add_ready("poststarthook/rbac", || Err("not yet".into()));
        let report = |endpoint, one, query: &str| health.report(endpoint, one, &Query::parse(query)).text;
        assert_eq!(report("livez", None, ""), "ok");
        assert_eq!(report("livez", None, "verbose"), "[+]ping ok\nlivez check passed\n");
        assert_eq!(report("readyz", None, ""), "[+]ping ok\n[-]poststarthook/rbac failed: reason withheld\nreadyz check failed\n");
        assert_eq!(report("readyz", None, "exclude=poststarthook/rbac"), "ok");
        assert_eq!(report("readyz", Some("ping"), ""), "ok");
        assert_eq!(report("readyz", Some("poststarthook/rbac"), ""), "internal server error: not yet\n");
        let unknown = "[+]ping excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"a,b\",\"c\"\nlivez check passed\n";
        assert_eq!(report("livez", None, "verbose&exclude=c&exclude=a,b&exclude=ping"), unknown);
        let results = health.results.text();
        assert!(results.contains("kubernetes_healthcheck{name=\"poststarthook/rbac\",type=\"readyz\"} 0\n"), "{results}");
        assert!(results.contains("kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"livez\"} 2\n"), "{results}");
        assert!(!health.report("readyz", Some("nothing"), &Query::default()).found);
    }
}
