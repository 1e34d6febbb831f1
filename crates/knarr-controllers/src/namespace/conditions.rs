//! What is in the way of a deletion, as conditions of the namespace. Upstream: `deletion/status_condition_utils.go`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_core::Status;

use super::Remaining;
use crate::resources::ResourceInfo;

/// Each condition with the reason and the message that it has when all is well, in upstream's order.
const ALL_WELL: [(&str, &str, &str); 5] = [
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    ("NamespaceDeletionGroupVersionParsingFailure", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    ("NamespaceDeletionContentFailure", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// What a pass over the content found.
#[derive(Debug, Default)]
pub struct Findings {
    remaining: Vec<String>,
    finalizers: BTreeMap<String, usize>,
    errors: Vec<Status>,
}

impl Findings {
    pub fn remains(&mut self, resource: &ResourceInfo, remaining: &Remaining) {
        if remaining.count > 0 {
            self.remaining.push(format!("{}.{} has {} resource instances", resource.gvr.resource, resource.gvr.group, remaining.count));
        }
        for (finalizer, count) in &remaining.finalizers {
            *self.finalizers.entry(finalizer.clone()).or_default() += count;
        }
    }

    pub fn failed(&mut self, error: Status) {
        self.errors.push(error);
    }

    pub fn has_remains(&self) -> bool {
        !self.remaining.is_empty()
    }

    pub fn is_clean(&self) -> bool {
        !self.has_remains() && self.errors.is_empty()
    }

    pub fn first_error(&self) -> Option<Status> {
        self.errors.first().cloned()
    }

    fn problem(&self, kind: &str) -> Option<(&'static str, String)> {
        match kind {
            "NamespaceDeletionContentFailure" if !self.errors.is_empty() => {
                let mut texts: Vec<&str> = self.errors.iter().map(|e| e.message.as_str()).collect();
                texts.sort_unstable();
                Some(("ContentDeletionFailed", format!("Failed to delete all resource types, {} remaining: {}", texts.len(), texts.join(", "))))
            }
            "NamespaceContentRemaining" if self.has_remains() => {
                let mut texts = self.remaining.clone();
                texts.sort();
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", texts.join(", "))))
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => {
                let texts: Vec<String> = self.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
                Some(("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {}", texts.join(", "))))
            }
            _ => None,
        }
    }

    /// Brings the conditions up to date; false when nothing changed.
    pub fn apply(&self, namespace: &mut Namespace, now: Timestamp) -> bool {
        let conditions = namespace.status.get_or_insert_default().conditions.get_or_insert_default();
        let mut changed = false;
        for (kind, ok_reason, ok_message) in ALL_WELL {
            let (status, reason, message) = match self.problem(kind) {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", ok_reason, ok_message.to_owned()),
            };
            let wanted = NamespaceCondition {
                type_: kind.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            };
            match conditions.iter_mut().find(|c| c.type_ == kind) {
                None => conditions.push(wanted),
                Some(known) if known.status == wanted.status && known.reason == wanted.reason && known.message == wanted.message => continue,
                Some(known) => {
                    let since = if known.status == wanted.status { known.last_transition_time.clone() } else { wanted.last_transition_time.clone() };
                    *known = NamespaceCondition { last_transition_time: since, ..wanted };
                }
            }
            changed = true;
        }
        changed
    }
}
