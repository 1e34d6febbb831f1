//! The `scale` subresource: one small view of everything that has replicas (upstream: `scaleFromDeployment` and its siblings,
//! `scaleFromCustomResource`).

use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Result, Status, Value, ValueExt, json};

use crate::cells;
use crate::tree::is_zero_at;

/// Where a resource keeps what its scale shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths<'a> {
    /// `.spec.replicas`
    pub spec_replicas: &'a str,
    /// `.status.replicas`
    pub status_replicas: &'a str,
    /// Of a custom resource: where the text of its selector stands.
    pub selector: Option<&'a str>,
}

const BUILT_IN: ScalePaths<'static> = ScalePaths { spec_replicas: ".spec.replicas", status_replicas: ".status.replicas", selector: None };

/// The Scale of an object. `custom` holds the paths that a definition declares; built-in workloads have none.
///
/// # Errors
/// `BadRequest` for a selector that is none; `InternalError` for a custom resource without replicas.
pub fn to_scale(object: &Value, custom: Option<&ScalePaths<'_>>) -> Result<Value> {
    let paths = custom.unwrap_or(&BUILT_IN);
    let at = |path: &str| steps(path).try_fold(object, |v, key| v.get(key)).filter(|v| !v.is_null());
    let wanted = at(paths.spec_replicas).and_then(Value::as_i64);
    if custom.is_some() && wanted.is_none() {
        return Err(Status::internal(format!("the spec replicas field \"{}\" does not exist", paths.spec_replicas)));
    }
    let selector = match (custom, paths.selector) {
        (Some(_), path) => path.and_then(at).and_then(Value::as_str).unwrap_or_default().to_owned(),
        (None, _) => built_in_selector(object)?,
    };
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", key]) {
            metadata.set(&[key], value.clone());
        }
    }
    let mut scale = json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
        "spec": {"replicas": wanted.unwrap_or(0)},
        "status": {"replicas": at(paths.status_replicas).and_then(Value::as_i64).unwrap_or(0)},
    });
    if !selector.is_empty() {
        scale.set(&["status", "selector"], selector);
    }
    Ok(scale)
}

/// ReplicationControllers select by a map, the others by a LabelSelector.
fn built_in_selector(object: &Value) -> Result<String> {
    let selector = object.at(&["spec", "selector"]);
    if object.str_at(&["kind"]) == Some("ReplicationController") {
        return Ok(selector.filter(|s| s.as_object().is_some_and(|m| !m.is_empty())).map_or(String::new(), |s| cells::labels(Some(s))));
    }
    cells::selector_text(selector).ok_or_else(|| Status::bad_request("the selector is not a valid label selector"))
}

/// Writes what a Scale wants into the object: replicas, and the resourceVersion it was read at.
///
/// # Errors
/// `BadRequest` when it wants no number.
pub fn apply_scale(object: &mut Value, scale: &Value, custom: Option<&ScalePaths<'_>>) -> Result<()> {
    let paths = custom.unwrap_or(&BUILT_IN);
    let replicas = match scale.at(&["spec", "replicas"]) {
        Some(number) => number.as_i64(),
        None if custom.is_none() => Some(0),
        None => None,
    };
    let Some(replicas) = replicas else {
        return Err(Status::bad_request(format!("the spec replicas field \"{}\" cannot be empty", paths.spec_replicas)));
    };
    let path: Vec<&str> = steps(paths.spec_replicas).collect();
    object.set(&path, replicas);
    if !is_zero_at(scale, &["metadata", "resourceVersion"]) {
        object.set(&["metadata", "resourceVersion"], scale["metadata"]["resourceVersion"].clone());
    }
    Ok(())
}

/// A Scale never wants less than nothing (upstream: `ValidateScale`).
pub fn validate_scale(scale: &Value) -> ErrorList {
    let path = Path::new("spec").child("replicas");
    match scale.i64_at(&["spec", "replicas"]) {
        Some(n) if n < 0 => vec![Error::invalid(&path, n, "must be greater than or equal to 0")],
        _ => ErrorList::new(),
    }
}

fn steps(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('.').split('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_shows_its_scale() {
        let d = json!({"kind": "Deployment", "metadata": {"name": "d", "resourceVersion": "7", "labels": {"a": "b"}}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 1}});
        let scale = to_scale(&d, None).unwrap();
        assert_eq!(
            scale,
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "resourceVersion": "7"}, "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "a=b"}})
        );
        let rc = json!({"kind": "ReplicationController", "spec": {"selector": {"x": "y"}}});
        assert_eq!(to_scale(&rc, None).unwrap()["status"]["selector"], json!("x=y"));
    }

    #[test]
    fn a_custom_resource_is_scaled_along_its_paths() {
        let paths = ScalePaths { spec_replicas: ".spec.n", status_replicas: ".status.n", selector: Some(".status.s") };
        let mut object = json!({"spec": {"n": 3}, "status": {"n": 2, "s": "a=b"}});
        let mut scale = to_scale(&object, Some(&paths)).unwrap();
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("a=b")));
        scale.set(&["spec", "replicas"], 9);
        apply_scale(&mut object, &scale, Some(&paths)).unwrap();
        assert_eq!(object["spec"]["n"], json!(9));
        assert!(to_scale(&json!({}), Some(&paths)).is_err());
        scale.set(&["spec", "replicas"], -1);
        assert_eq!(validate_scale(&scale)[0].to_string(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    }
}
