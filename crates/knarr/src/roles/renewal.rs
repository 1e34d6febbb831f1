//! The certificates of this process are made anew before they end, and taken into use without a restart.

use std::time::Duration;

use jiff::Timestamp;
use knarr_apiserver::pki::{self, Identity, renewal_due};
use knarr_core::clock::Env;

/// A clock that was set, or a machine that slept, is noticed after this time at the latest.
const LOOK_MAX: Duration = Duration::from_secs(3600);
/// Pause after a renewal that failed.
const RETRY: Duration = Duration::from_secs(600);

/// Keeps one certificate fresh: `make` gives the one on disk, or a new one when that is near its end; `show` takes it into use.
pub fn keep_fresh<M, S>(name: &str, env: &Env, first: &Identity, make: M, show: S)
where
    M: Fn(Timestamp) -> pki::Result<Identity> + Send + 'static,
    S: Fn(&Identity) -> Result<(), String> + Send + 'static,
{
    let (name, env, mut due) = (name.to_owned(), env.clone(), renewal_due(&first.certificate));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(pause(due, env.now())).await;
            if due.is_none_or(|due| env.now() < due) {
                continue;
            }
            match make(env.now()).map_err(|e| e.to_string()).and_then(|made| show(&made).map(|()| made)) {
                Ok(made) => {
                    due = renewal_due(&made.certificate);
                    tracing::info!(certificate = name, "renewed");
                }
                Err(error) => {
                    tracing::error!(certificate = name, error, "cannot be renewed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    });
}

/// Until the next look.
fn pause(due: Option<Timestamp>, now: Timestamp) -> Duration {
    due.and_then(|due| Duration::try_from(due.duration_since(now)).ok())
        .map_or(if due.is_some() { Duration::ZERO } else { LOOK_MAX }, |left| left.min(LOOK_MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use knarr_apiserver::pki::{Leaf, Pki};
    use parking_lot::Mutex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_exchanged_before_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::simulated(1, "2026-01-01T00:00:00Z".parse().unwrap());
        let pki = Pki::load_or_create(folder.path(), env.now()).unwrap();
        let make = move |now| pki.leaf("a", &Leaf { common_name: "a", organization: None, dns_names: &[], addresses: &[], client: true, server: false }, now);
        let first = make(env.now()).unwrap();
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = shown.clone();
        keep_fresh("a", &env, &first, make, move |made| {
            sink.lock().push(made.certificate.clone());
            Ok(())
        });
        let days = |days: u64| tokio::time::sleep(Duration::from_secs(days * 86_400));
        days(270).await;
        assert!(shown.lock().is_empty());
        days(10).await;
        assert_eq!(shown.lock().len(), 1);
        assert_ne!(shown.lock()[0], first.certificate);
        days(300).await;
        assert_eq!(shown.lock().len(), 2);
    }
}
