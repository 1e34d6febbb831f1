//! Bootstrap tokens are deleted when their time is over. Upstream: `pkg/controller/bootstrap/tokencleaner.go`.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use knarr_client::{Deletion, Key, Outcome};

use crate::bootstrap::{self, Expiration};
use crate::context::{ControllerContext, enqueue_all};

/// Keys are those of Secrets.
pub fn start(context: &ControllerContext) {
    let (client, env) = (context.client("token-cleaner"), context.env.clone());
    let tokens = bootstrap::informer(context);
    let queue = context.queue("token_cleaner");
    enqueue_all(&tokens, &queue);
    context.run("token-cleaner", queue, move |key: Key| {
        let (client, env, tokens) = (client.clone(), env.clone(), tokens.clone());
        async move {
            let Some(item) = tokens.store().get(&key) else { return Ok(Outcome::Done) };
            match bootstrap::expiration(&item.typed()?, env.now()) {
                Expiration::Never => return Ok(Outcome::Done),
                Expiration::At(end) => return Ok(Outcome::After(Duration::try_from(end.duration_since(env.now())).unwrap_or_default())),
                Expiration::Over => {}
            }
            match client.within::<Secret>(key.namespace()).delete(key.name(), &Deletion::of_uid(&*item.view.uid)).await {
                Err(error) if error.is_not_found() || error.is_conflict() => Ok(Outcome::Done),
                other => other.map(|_| Outcome::Done),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::testing::token;
    use crate::context::testing::Harness;

    #[tokio::test(start_paused = true)]
    async fn a_token_goes_when_its_time_is_over() {
        let harness = Harness::new();
        start(&harness.context);
        let in_an_hour = (harness.context.env.now() + jiff::SignedDuration::from_hours(1)).to_string();
        harness.api.seed(&token("aaaaaa", &[("expiration", &in_an_hour)]));
        harness.api.seed(&token("bbbbbb", &[]));
        harness.api.seed(&token("cccccc", &[("expiration", "nonsense")]));
        let names = || harness.api.read_all::<Secret>().into_iter().filter_map(|s| s.metadata.name).collect::<Vec<_>>();
        tokio::time::sleep(Duration::from_secs(3590)).await;
        assert_eq!(names(), ["bootstrap-token-aaaaaa", "bootstrap-token-bbbbbb"]);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(names(), ["bootstrap-token-bbbbbb"]);
    }
}
