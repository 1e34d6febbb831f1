//! Whether a pod can be run here at all (upstream: `pkg/kubelet/lifecycle/predicate.go`).

use k8s_openapi::api::core::v1::Pod;

use crate::agent::Pods;
use crate::context::Context;

/// Reason and message of a refusal.
pub fn check(_context: &Context, _pods: &Pods, _pod: &Pod) -> Option<(String, String)> {
    None
}
