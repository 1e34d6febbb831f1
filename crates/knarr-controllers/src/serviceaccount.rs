//! Service accounts: every namespace has one called `default`. Upstream: `pkg/controller/serviceaccount/serviceaccounts_controller.go`.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use knarr_client::{Key, Meta, Outcome};
use knarr_core::json;

use crate::batch::is_namespace_terminating;
use crate::context::{ControllerContext, enqueue_all};

const DEFAULT: &str = "default";

/// Keys are names of namespaces.
pub fn start(context: &ControllerContext) {
    let client = context.client("service-account-controller");
    let namespaces = context.informer::<Namespace, Meta>();
    let accounts = context.informer::<ServiceAccount, Meta>();
    let queue = context.queue("serviceaccount");
    enqueue_all(&namespaces, &queue);
    let changed = queue.clone();
    accounts.on_change(move |change| {
        if change.new.is_none() && change.key().name() == DEFAULT {
            changed.add(Key::new("", change.key().namespace()));
        }
    });
    context.run("serviceaccount", queue, move |key: Key| {
        let (client, namespaces, accounts) = (client.clone(), namespaces.clone(), accounts.clone());
        async move {
            // Upstream asks for the phase `Active`; a namespace that is being deleted is `Terminating`.
            let active = namespaces.store().get(&key).is_some_and(|n| !n.view.is_deleting());
            if !active || accounts.store().find(key.name(), DEFAULT).is_some() {
                return Ok(Outcome::Done);
            }
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": DEFAULT, "namespace": key.name()}});
            match client.within::<ServiceAccount>(key.name()).dynamic().create(account).await {
                Err(e) if !e.is_already_exists() && !e.is_not_found() && !is_namespace_terminating(&e) => Err(e),
                _ => Ok(Outcome::Done),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::testing::Harness;

    #[tokio::test(start_paused = true)]
    async fn the_default_account_appears_and_comes_back() {
        let harness = Harness::new();
        harness.api.seed(&serde_json::from_value::<Namespace>(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}})).unwrap());
        start(&harness.context);
        harness.api.until(|api| api.read::<ServiceAccount>("a", DEFAULT).is_some()).await;
        harness.api.client().within::<ServiceAccount>("a").delete(DEFAULT, &Default::default()).await.unwrap();
        harness.api.until(|api| api.read::<ServiceAccount>("a", DEFAULT).is_some()).await;
    }
}
