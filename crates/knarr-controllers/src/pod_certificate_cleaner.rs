//! PodCertificateRequests go a quarter of an hour after they were made, whatever became of them: nodes have taken by then what
//! was issued. Upstream: `pkg/controller/certificates/cleaner/pcrcleaner.go`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use knarr_client::{Deletion, Key, Outcome, Project, read};
use knarr_core::{Object, Result};
use serde::Deserialize;

use crate::context::{ControllerContext, enqueue_all};

const AGE: SignedDuration = SignedDuration::from_mins(15);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Age {
    uid: String,
    creation_timestamp: Timestamp,
}

impl Project for Age {
    fn project(object: &Object) -> Result<Self> {
        #[derive(Deserialize)]
        struct Whole {
            metadata: Age,
        }
        knarr_client::partial!(Whole);
        read::typed::<Whole>(object).map(|whole| whole.metadata)
    }
}

/// Keys are those of requests.
pub fn start(context: &ControllerContext) {
    let (client, env) = (context.client("podcertificaterequestcleaner"), context.env.clone());
    let requests = context.informer::<PodCertificateRequest, Age>();
    let queue = context.queue("podcertificaterequestcleaner");
    enqueue_all(&requests, &queue);
    context.run("podcertificaterequestcleaner", queue, move |key: Key| {
        let (client, env, requests) = (client.clone(), env.clone(), requests.clone());
        async move {
            let Some(item) = requests.store().get(&key) else { return Ok(Outcome::Done) };
            let left = (item.view.creation_timestamp + AGE).duration_since(env.now());
            if let Some(left) = Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
                return Ok(Outcome::After(left));
            }
            match client.within::<PodCertificateRequest>(key.namespace()).delete(key.name(), &Deletion::of_uid(&*item.view.uid)).await {
                Err(error) if error.is_not_found() || error.is_conflict() => Ok(Outcome::Done),
                other => other.map(|_| Outcome::Done),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::context::testing::Harness;

    #[tokio::test(start_paused = true)]
    async fn a_request_goes_after_a_quarter_of_an_hour() {
        let harness = Harness::new();
        start(&harness.context);
        let request: PodCertificateRequest = serde_json::from_value(json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
            "metadata": {"name": "r", "namespace": "a", "uid": "u", "creationTimestamp": harness.context.env.now().to_string()},
            "spec": {"signerName": "a.b/c", "podName": "p", "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "u", "nodeName": "n",
                "nodeUID": "u", "stubPKCS10Request": "eA=="}}))
        .unwrap();
        harness.api.seed(&request);
        tokio::time::sleep(Duration::from_secs(14 * 60)).await;
        assert_eq!(harness.api.read_all::<PodCertificateRequest>().len(), 1);
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert!(harness.api.read_all::<PodCertificateRequest>().is_empty());
    }
}
