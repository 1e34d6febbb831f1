//! Conversion between the versions of a kind that 1.37 serves or stores.
//!
//! The type table does not hold the v1beta1 of CustomResourceDefinitions, which is stored but served no more.
//!
//! Most kinds look the same in all their versions, so that only `apiVersion` changes. Those that do not have a function each.

use knarr_core::{GroupVersion, Result, Status, Value, ValueExt};
use knarr_schema::types;

use crate::apiextensions::conversion as definition;
use crate::autoscaling::conversion as autoscaler;
use crate::certificates;
use crate::core::event;
use crate::resource::v1beta1 as devices;

/// Converts an object between two versions of its kind: `autoscaling/v1` and `v2`, `v1` and `events.k8s.io/v1`, ….
/// Equal versions give the object back.
///
/// # Errors
/// A version that the kind does not have.
pub fn convert(mut object: Value, to_group: &str, to_version: &str) -> Result<Value> {
    let from = object.str_at(&["apiVersion"]).unwrap_or_default().to_owned();
    let to = GroupVersion::new(to_group, to_version).to_string();
    if from == to {
        return Ok(object);
    }
    let kind = object.str_at(&["kind"]).unwrap_or_default().to_owned();
    let stored_definition = kind == "CustomResourceDefinition" && to == "apiextensions.k8s.io/v1beta1";
    if types::of_kind(to_group, to_version, &kind).is_none() && !stored_definition {
        return Err(Status::bad_request(format!("{kind} in version {from:?} cannot be handled as a {kind}: no version {to:?}")));
    }
    match (kind.as_str(), from.as_str(), to.as_str()) {
        ("Event", "v1", _) => event::to_events_group(&mut object),
        ("Event", _, "v1") => event::to_core_group(&mut object),
        ("HorizontalPodAutoscaler", "autoscaling/v1", _) => autoscaler::from_v1(&mut object),
        ("HorizontalPodAutoscaler", _, "autoscaling/v1") => autoscaler::to_v1(&mut object),
        ("CustomResourceDefinition", "apiextensions.k8s.io/v1", _) => definition::to_v1beta1(&mut object),
        ("CustomResourceDefinition", "apiextensions.k8s.io/v1beta1", _) => definition::from_v1beta1(&mut object),
        ("PodCertificateRequest", "certificates.k8s.io/v1beta1", _) => certificates::from_v1beta1(&mut object),
        (kind, "resource.k8s.io/v1beta1", _) => devices::from_v1beta1(kind, &mut object),
        (kind, _, "resource.k8s.io/v1beta1") => devices::to_v1beta1(kind, &mut object),
        _ => {}
    }
    object.set(&["apiVersion"], to);
    Ok(object)
}
