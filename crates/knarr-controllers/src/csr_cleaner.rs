//! CertificateSigningRequests go some time after they were decided, signed or forgotten. Upstream looks at all of them every hour;
//! here each has a timer. Upstream: `pkg/controller/certificates/cleaner/cleaner.go`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use knarr_client::{Deletion, Key, Meta, Outcome};
use knarr_kinds::certificates::not_after;

use crate::context::{ControllerContext, enqueue_all};
use crate::csr;

/// After the decision.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// Without a decision, or without the certificate that was approved.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// Keys are names of requests.
pub fn start(context: &ControllerContext) {
    let (client, env) = (context.client("certificate-controller"), context.env.clone());
    let requests = context.informer::<CertificateSigningRequest, Meta>();
    let queue = context.queue("csrcleaner");
    enqueue_all(&requests, &queue);
    context.run("csrcleaner", queue, move |key: Key| {
        let (client, env, requests) = (client.clone(), env.clone(), requests.clone());
        async move {
            let Some(item) = requests.store().get(&key) else { return Ok(Outcome::Done) };
            let Some(end) = end(&item.typed()?) else { return Ok(Outcome::Done) };
            // What is exactly as old as it may be stays for a moment.
            if let Ok(left) = Duration::try_from(end.duration_since(env.now())) {
                return Ok(Outcome::After(left + Duration::from_millis(1)));
            }
            match client.all::<CertificateSigningRequest>().delete(key.name(), &Deletion::of_uid(&*item.view.uid)).await {
                Err(error) if error.is_not_found() || error.is_conflict() => Ok(Outcome::Done),
                other => other.map(|_| Outcome::Done),
            }
        }
    });
}

/// When a request has been there for long enough.
fn end(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let issued = csr::is_issued(request);
    let conditions = request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let after = |age: SignedDuration, time: Option<Timestamp>| time.and_then(|t| t.checked_add(age).ok());
    let of_condition = conditions.iter().filter_map(|c| {
        let at = c.last_update_time.as_ref().map(|t| t.0);
        match c.type_.as_str() {
            "Denied" | "Failed" => after(DECIDED, at),
            "Approved" if issued => {
                let expiry = not_after(csr::certificate(request)).and_then(|s| Timestamp::from_second(s).ok());
                after(DECIDED, at).into_iter().chain(expiry).min()
            }
            "Approved" => after(PENDING, at),
            _ => None,
        }
    });
    let created = request.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let pending = if conditions.is_empty() { after(PENDING, created) } else { None };
    of_condition.chain(pending).min()
}

#[cfg(test)]
mod tests {
    use knarr_core::{Value, json};

    use super::*;
    use crate::context::testing::Harness;
    use crate::csr::testing::{CLIENT, conditions, csr as request};

    fn hours(status: Value) -> Option<i64> {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        end(&request(CLIENT, "a.b/c", &[], status)).map(|end| end.duration_since(start).as_hours())
    }

    #[test]
    fn each_state_has_its_time() {
        assert_eq!(hours(json!({})), Some(24));
        assert_eq!(hours(conditions(&["Denied"])), Some(1));
        assert_eq!(hours(conditions(&["Failed"])), Some(1));
        assert_eq!(hours(conditions(&["Approved"])), Some(24));
        assert_eq!(hours(conditions(&["Approved", "Failed"])), Some(1));
        assert_eq!(hours(conditions(&["Other"])), None);
        let mut issued = conditions(&["Approved"]);
        issued["certificate"] = json!("eA==");
        assert_eq!(hours(issued), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_denied_request_goes_after_an_hour_and_one_that_waits_stays() {
        let harness = Harness::new();
        start(&harness.context);
        harness.api.seed(&request(CLIENT, "a.b/c", &[], conditions(&["Denied"])));
        let mut waiting = request(CLIENT, "a.b/c", &[], json!({}));
        waiting.metadata.name = Some("waiting".into());
        harness.api.seed(&waiting);
        let names = || harness.api.read_all::<CertificateSigningRequest>().into_iter().filter_map(|c| c.metadata.name).collect::<Vec<_>>();
        tokio::time::sleep(Duration::from_secs(3500)).await;
        assert_eq!(names(), ["c", "waiting"]);
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(names(), ["waiting"]);
    }
}
