//! What controllers know of pods: the projection that the shared informer keeps, and how pods are made and removed.

pub mod control;
pub mod disruption;
pub mod ranking;
pub mod view;

pub use control::PodControl;
pub use view::{Phase, PodView};

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use knarr_client::{Informer, Item};

use crate::context::ControllerContext;
use crate::ownership;

/// The index of pods by the node they are bound to.
pub const BY_NODE: &str = "node";

/// The index of pods by the claims that they use, as `namespace/name`.
pub const BY_CLAIM: &str = "claim";

/// A pod as informers keep it.
pub type PodItem = Arc<Item<PodView>>;

/// The shared informer of all pods, with its indexes.
pub fn informer(context: &ControllerContext) -> Informer<PodView> {
    let pods = context.informer::<Pod, PodView>();
    ownership::index_by_controller(&pods);
    pods.store().add_index(BY_NODE, |item| item.view.node.iter().map(ToString::to_string).collect());
    pods.store().add_index(BY_CLAIM, |item| item.view.claims.iter().map(|c| format!("{}/{c}", item.key.namespace())).collect());
    pods
}

/// When the next of these pods becomes available, if one will.
pub fn next_available<'a>(pods: impl IntoIterator<Item = &'a PodItem>, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let waits = pods.into_iter().filter_map(|p| p.view.available_in(min_ready_seconds, now));
    waits.filter(|wait| !wait.is_zero()).min()
}
