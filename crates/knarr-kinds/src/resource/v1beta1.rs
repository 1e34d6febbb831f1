//! The kinds of this group in v1beta1, which lays out two structs in another way than the later versions (upstream:
//! `pkg/apis/resource/v1beta1/conversion.go`): what v1 says of a request under `exactly` stands in the request itself, and what v1 says
//! of a device itself stands under `basic`.

use knarr_core::{Map, Value, ValueExt};

use super::default_request;
use crate::tree::{default_to, each, is_zero_at, object, with};

/// What a request says of its one kind of device.
const REQUEST_FIELDS: [&str; 8] = ["deviceClassName", "selectors", "allocationMode", "count", "adminAccess", "tolerations", "capacity", "derivedAttributes"];

/// Where a kind has requests.
fn requests(kind: &str) -> &'static [&'static str] {
    match kind {
        "ResourceClaim" => &["spec", "devices", "requests"],
        "ResourceClaimTemplate" => &["spec", "spec", "devices", "requests"],
        _ => &[],
    }
}

/// From v1beta1 to v1 and v1beta2.
pub fn from_v1beta1(kind: &str, converted: &mut Value) {
    match requests(kind) {
        [] => {}
        path => each(converted, path, gather_request),
    }
    if kind == "ResourceSlice" {
        with(converted, &["spec"], |spec| {
            for field in ["nodeName", "allNodes"].iter().filter(|f| is_zero_at(spec, &[f])).collect::<Vec<_>>() {
                spec.remove(&[field]);
            }
            each(spec, &["devices"], open_device);
        });
    }
}

/// From v1 and v1beta2 to v1beta1.
pub fn to_v1beta1(kind: &str, converted: &mut Value) {
    match requests(kind) {
        [] => {}
        path => each(converted, path, open_request),
    }
    if kind == "ResourceSlice" {
        with(converted, &["spec"], |spec| {
            if is_zero_at(spec, &["allNodes"]) {
                spec.remove(&["allNodes"]);
            }
            each(spec, &["devices"], gather_device);
        });
    }
}

/// What the server fills into a request of this version (upstream: `pkg/apis/resource/v1beta1/defaults.go`). One without a class has a
/// list to choose from, or is wrong.
pub fn default_flat_request(request: &mut Value) {
    if !is_zero_at(request, &["deviceClassName"]) {
        default_request(request);
    }
}

fn gather_request(request: &mut Value) {
    let given = |field: &&str| match request.at(&[field]) {
        None | Some(Value::Null) => false,
        Some(_) => !["deviceClassName", "allocationMode", "count"].contains(field) || !is_zero_at(request, &[field]),
    };
    let is_any_set = REQUEST_FIELDS.iter().any(given);
    let exactly = take(request, &REQUEST_FIELDS);
    if is_any_set {
        request.set(&["exactly"], Value::Object(exactly));
    }
}

fn open_request(request: &mut Value) {
    if let Some(Value::Object(exactly)) = request.remove(&["exactly"]) {
        object(request).extend(exactly);
    }
    default_to(request, "deviceClassName", "");
}

fn open_device(device: &mut Value) {
    if let Some(Value::Object(basic)) = device.remove(&["basic"]) {
        object(device).extend(basic);
    }
}

/// All but its name.
fn gather_device(device: &mut Value) {
    let fields: Vec<String> = device.as_object().into_iter().flat_map(Map::keys).filter(|key| *key != "name").cloned().collect();
    let basic = take(device, &fields.iter().map(String::as_str).collect::<Vec<_>>());
    device.set(&["basic"], Value::Object(basic));
}

/// Takes fields out of an object.
fn take(from: &mut Value, fields: &[&str]) -> Map<String, Value> {
    fields.iter().filter_map(|field| Some(((*field).to_owned(), from.remove(&[field])?))).filter(|(_, value)| !value.is_null()).collect()
}

#[cfg(test)]
mod tests {
    use crate::convert;
    use knarr_core::{Value, json};

    const GROUP: &str = "resource.k8s.io";

    fn of(version: &str, kind: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{GROUP}/{version}"), "kind": kind, "metadata": {"name": "x"}, "spec": spec})
    }

    /// Both ways.
    fn same(kind: &str, beta: Value, stable: Value) {
        let (beta, stable) = (of("v1beta1", kind, beta), of("v1", kind, stable));
        assert_eq!(convert(beta.clone(), GROUP, "v1").unwrap(), stable);
        assert_eq!(convert(stable, GROUP, "v1beta1").unwrap(), beta);
    }

    #[test]
    fn a_request_says_exactly_what_it_wants() {
        let beta = json!([
            {"name": "a", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2, "selectors": [{"cel": {"expression": "true"}}]},
            {"name": "b", "deviceClassName": "", "firstAvailable": [{"name": "c", "deviceClassName": "gpu"}]},
        ]);
        let stable = json!([
            {"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2, "selectors": [{"cel": {"expression": "true"}}]}},
            {"name": "b", "firstAvailable": [{"name": "c", "deviceClassName": "gpu"}]},
        ]);
        same("ResourceClaim", json!({"devices": {"requests": beta}}), json!({"devices": {"requests": stable}}));
        same("ResourceClaimTemplate", json!({"spec": {"devices": {"requests": beta}}}), json!({"spec": {"devices": {"requests": stable}}}));
    }

    #[test]
    fn a_device_is_basic() {
        let facts =
            json!({"attributes": {"model": {"string": "m"}}, "capacity": {"memory": {"value": "1Gi"}}, "taints": [{"key": "k", "effect": "NoSchedule"}]});
        let mut device = facts.clone();
        device["name"] = "d".into();
        same(
            "ResourceSlice",
            json!({"driver": "x", "nodeName": "n", "devices": [{"name": "d", "basic": facts}, {"name": "e", "basic": {}}]}),
            json!({"driver": "x", "nodeName": "n", "devices": [device, {"name": "e"}]}),
        );
    }

    #[test]
    fn nothing_is_no_node() {
        let beta = of("v1beta1", "ResourceSlice", json!({"nodeName": "", "allNodes": false, "devices": [{"name": "d"}]}));
        assert_eq!(convert(beta, GROUP, "v1").unwrap()["spec"], json!({"devices": [{"name": "d"}]}));
        let stable = of("v1", "ResourceSlice", json!({"allNodes": false}));
        assert_eq!(convert(stable, GROUP, "v1beta1").unwrap()["spec"], json!({}));
    }

    #[test]
    fn other_versions_look_the_same() {
        let class = of("v1beta2", "DeviceClass", json!({"selectors": []}));
        assert_eq!(convert(class, GROUP, "v1").unwrap(), of("v1", "DeviceClass", json!({"selectors": []})));
    }
}
