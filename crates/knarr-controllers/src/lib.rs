//! The controllers: what makes the state of the cluster follow what users declared. Upstream: `k8s.io/kubernetes/pkg/controller`.
//!
//! ```text
//! informer → index → queue of keys → reconcile: observed state → plan (a pure function) → API calls
//! ```
//!
//! One module per controller, each named as upstream names it. Each comes in as a user of its own
//! (`system:serviceaccount:kube-system:NAME`), so RBAC holds for it too. They share one set of informers; what informers
//! keep of an object beside its bytes are the projections [`pods::PodView`] and [`ownership::Owned`].
//!
//! Nothing here polls. A controller that must see its own writes before it decides again waits for them in the informer
//! ([`ledger::Ledger`]); that is what upstream's expectations are for.

pub mod context;
pub mod ledger;
pub mod ownership;
pub mod pods;

mod admission_policy_status;
mod batch;
mod bootstrap;
mod bootstrap_signer;
mod clusterrole_aggregation;
mod cronjob;
mod csr;
mod csr_approving;
mod csr_cleaner;
mod csr_signing;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbagecollector;
mod hash;
mod history;
mod job;
mod kubelet_serving;
mod legacy_token_cleaner;
mod namespace;
mod node_affinity;
mod node_ipam;
mod node_lifecycle;
mod nodes;
mod pod_certificate_cleaner;
mod pod_gc;
mod quantities;
mod replicaset;
mod resourcequota;
mod resources;
mod root_ca;
mod service;
mod serviceaccount;
mod serviceaccount_tokens;
mod statefulset;
mod storage_version_migrator;
mod taint_eviction;
mod templates;
mod token_cleaner;
mod trust_bundle_publisher;
mod ttl;
mod ttl_after_finished;
mod volumes;

pub use context::{ClusterKeys, Config, ControllerContext};

/// Starts every controller. They stop with the context's token.
pub fn start_all(context: &ControllerContext) {
    let census = garbagecollector::census::Census::start(context);
    garbagecollector::start(context, &census);
    namespace::start(context, &census);
    serviceaccount::start(context);
    root_ca::start(context);
    replicaset::start(context);
    deployment::start(context);
    statefulset::start(context);
    daemonset::start(context);
    endpoints::start(context);
    service::start(context);
    resourcequota::start(context, &census.resources);
    storage_version_migrator::start(context, &census.resources);
    pod_gc::start(context);
    node_ipam::start(context);
    node_lifecycle::start(context);
    taint_eviction::start(context);
    ttl::start(context);
    job::start(context);
    cronjob::start(context);
    disruption::start(context, &census.resources);
    ttl_after_finished::start(context);
    volumes::start(context);
    csr_approving::start(context);
    kubelet_serving::start(context);
    csr_signing::start(context);
    csr_cleaner::start(context);
    pod_certificate_cleaner::start(context);
    trust_bundle_publisher::start(context);
    clusterrole_aggregation::start(context);
    serviceaccount_tokens::start(context);
    legacy_token_cleaner::start(context);
    bootstrap_signer::start(context);
    token_cleaner::start(context);
    admission_policy_status::start(context, &census.resources);
}
