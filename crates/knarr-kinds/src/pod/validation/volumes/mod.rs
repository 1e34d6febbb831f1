//! Volumes of a pod, and how containers mount them.

mod mounts;
mod projected;
mod sources;

use std::collections::BTreeSet;

use knarr_core::field::{ErrorList, go_quote};
use knarr_core::{Value, ValueExt, names};

use super::Pod;
use crate::at::At;

pub use mounts::{devices, mounts};
pub use sources::{csi_driver_name, sources};

/// All volumes of a spec. Gives those without an error: mounts of others are reported as not found.
pub fn validate<'v>(pod: &Pod<'v, '_>, e: &mut ErrorList) -> Vec<&'v Value> {
    let (mut names, mut good): (BTreeSet<&str>, Vec<&'v Value>) = (BTreeSet::new(), Vec::new());
    let pod_name = pod.metadata.map_or("", |m| m.str_of("name"));
    let volumes = pod.spec.get("volumes");
    let created: Vec<String> =
        volumes.items().filter(|v| v.get("ephemeral").is_set() && !pod_name.is_empty()).map(|v| format!("{pod_name}-{}", v.str_of("name"))).collect();
    for volume in volumes.items() {
        let before = e.len();
        sources::of_pod(pod, &volume, e);
        let name = volume.get("name");
        name.name(e, names::is_dns1123_label);
        if names.contains(name.str()) {
            e.push(name.duplicate());
        }
        if e.len() == before {
            names.insert(name.str());
            good.extend(volume.value());
        }
        let claim = volume.get("persistentVolumeClaim");
        let claim_name = claim.get("claimName");
        if claim.is_set() && created.iter().any(|c| c == claim_name.str()) {
            e.push(claim_name.invalid("must not reference a PVC that gets created for an ephemeral volume"));
        }
        ephemeral_claim_name(pod_name, &volume, e);
    }
    good
}

/// The claim of an ephemeral volume is called after pod and volume.
fn ephemeral_claim_name(pod_name: &str, volume: &At, e: &mut ErrorList) {
    let name = volume.str_of("name");
    if volume.get("ephemeral").is_set() && !pod_name.is_empty() && !name.is_empty() {
        let claim = format!("{pod_name}-{name}");
        let place = volume.get("name");
        e.extend(names::is_dns1123_subdomain(&claim).into_iter().map(|p| place.invalid(format!("PVC name {}: {p}", go_quote(&claim)))));
    }
}

/// A pod without a service account has no tokens of one.
pub fn no_service_account_tokens(spec: &At, e: &mut ErrorList) {
    for volume in spec.get("volumes").items() {
        let projected = volume.get("projected");
        for source in projected.get("sources").items() {
            if source.get("serviceAccountToken").is_set() {
                e.push(source.get("serviceAccountToken").forbidden("must not be specified when serviceAccountName is not set"));
            }
        }
    }
}

/// Whether a volume can be a block device.
fn is_claim(volume: &Value) -> bool {
    volume.at(&["persistentVolumeClaim"]).is_some() || volume.at(&["ephemeral"]).is_some()
}
