//! The node's lease: renewed every ten seconds, so that the control plane knows within forty when the node is gone.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use knarr_core::Status;

use crate::context::Context;

const NAMESPACE: &str = "kube-node-lease";
const LIFE_SECONDS: i32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);

/// Renews the lease for ever.
pub async fn keep(context: Arc<Context>) {
    let mut held: Option<Lease> = None;
    let mut pause = RETRY;
    loop {
        match renew(&context, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                pause = RETRY;
                tokio::time::sleep(RENEW_EVERY).await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot renew the node's lease");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn renew(context: &Context, held: Option<Lease>) -> Result<Lease, Status> {
    let name = &context.config.node_name;
    let leases = context.client.within::<Lease>(NAMESPACE);
    let mut lease = match held {
        Some(lease) => lease,
        None => match leases.find(name).await? {
            Some(lease) => lease,
            None => {
                let mut fresh =
                    Lease { metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(NAMESPACE.into()), ..Default::default() }, spec: None };
                hold(context, &mut fresh).await;
                return leases.create(&fresh).await;
            }
        },
    };
    hold(context, &mut lease).await;
    leases.update(&lease).await
}

async fn hold(context: &Context, lease: &mut Lease) {
    let name = &context.config.node_name;
    let spec = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LIFE_SECONDS),
        renew_time: Some(MicroTime(context.env.now())),
        ..spec
    });
    if lease.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)
        && let Ok(Some(node)) = context.client.all::<Node>().find(name).await
    {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..Default::default()
        };
        lease.metadata.owner_references = Some(vec![owner]);
    }
}
