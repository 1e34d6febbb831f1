//! Comparing pod templates: what a server filled in or left out must not count as a difference.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use knarr_core::Value;

/// The label that tells the replica sets of one Deployment apart; it is no part of the template.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Whether two templates are equal but for the hash label (upstream: `EqualIgnoreHash`). Empty and absent are the same.
pub fn same(a: Option<&PodTemplateSpec>, b: Option<&PodTemplateSpec>) -> bool {
    a == b || bare(a) == bare(b)
}

fn bare(template: Option<&PodTemplateSpec>) -> Option<Value> {
    let mut template = template?.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let mut value = knarr_client::client::tree(&template).ok()?;
    prune(&mut value);
    Some(value)
}

/// Takes out what is empty: lists, null, and the maps of metadata. An empty object elsewhere may mean something
/// (`emptyDir: {}`).
fn prune(value: &mut Value) {
    const MAPS: [&str; 4] = ["labels", "annotations", "metadata", "nodeSelector"];
    let is_empty = |key: &str, v: &Value| match v {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && MAPS.contains(&key),
        _ => false,
    };
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|key, v| !is_empty(key, v));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;

    #[test]
    fn empty_and_absent_are_the_same_but_an_empty_source_is_not() {
        let template =
            |spec: Value, labels: Value| -> PodTemplateSpec { serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": spec})).unwrap() };
        let a = template(json!({"containers": [{"name": "c"}]}), json!({}));
        let b = template(json!({"containers": [{"name": "c", "env": []}], "volumes": []}), json!({HASH_LABEL: "x"}));
        assert!(same(Some(&a), Some(&b)));
        let with = template(json!({"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}), json!({}));
        let without = template(json!({"containers": [], "volumes": [{"name": "v"}]}), json!({}));
        assert!(!same(Some(&with), Some(&without)));
    }
}
