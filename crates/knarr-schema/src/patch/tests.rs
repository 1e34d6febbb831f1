//! Patches as upstream's tests show them: text in, text out.

use knarr_core::{Status, Value, deep, json};

use super::*;
use crate::types;

fn kind(group: &str, version: &str, kind: &str) -> TypeId {
    types::of_kind(group, version, kind).unwrap()
}

fn patched(operations: Value) -> Result<Value, Status> {
    json_patch(&json!({"a": {"b": 1}, "list": ["x", "y"], "m~n": 0, "p/q": 0}), &operations)
}

fn op(op: &str, path: &str, rest: Value) -> Value {
    let mut operation = json!({"op": op, "path": path});
    operation.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    json!([operation])
}

#[test]
fn json_patches_do_what_rfc_6902_says() {
    let list = |operations| patched(operations).unwrap()["list"].clone();
    assert_eq!(list(op("add", "/list/-", json!({"value": "z"}))), json!(["x", "y", "z"]));
    assert_eq!(list(op("add", "/list/0", json!({"value": "z"}))), json!(["z", "x", "y"]));
    assert_eq!(list(op("add", "/list/-1", json!({"value": "z"}))), json!(["x", "y", "z"]));
    assert_eq!(list(op("remove", "/list/0", json!({}))), json!(["y"]));
    assert_eq!(list(op("replace", "/list/1", json!({"value": "z"}))), json!(["x", "z"]));
    assert_eq!(list(op("move", "/list/0", json!({"from": "/list/1"}))), json!(["y", "x"]));
    assert_eq!(list(op("copy", "/list/-", json!({"from": "/list/0"}))), json!(["x", "y", "x"]));
    let object = patched(json!([
        {"op": "replace", "path": "/m~0n", "value": 1}, {"op": "replace", "path": "/p~1q", "value": 2}, {"op": "test", "path": "/a/b", "value": 1},
        {"op": "remove", "path": "/list"}, {"op": "move", "from": "/a/b", "path": "/a/c"}
    ]));
    assert_eq!(object.unwrap(), json!({"a": {"c": 1}, "m~n": 1, "p/q": 2}));
}

#[test]
fn json_patches_that_do_not_apply_are_told_as_upstream_tells_them() {
    for operations in [
        op("remove", "/none", json!({})),
        op("replace", "/none", json!({"value": 1})),
        op("add", "/none/deeper", json!({"value": 1})),
        op("add", "/list/9", json!({"value": 1})),
        op("test", "/a/b", json!({"value": 2})),
        op("unknown", "/a", json!({})),
        op("copy", "/a", json!({})),
    ] {
        let status = patched(operations.clone()).expect_err(&operations.to_string());
        assert_eq!((status.code, status.message.as_str()), (422, "the server rejected our request due to an error in our request"), "{operations}");
    }
    let status = patched(json!({"op": "add"})).unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch"));
    let many: Value = (0..10_001).map(|_| json!({"op": "test", "path": "/a/b", "value": 1})).collect();
    let status = patched(many).unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (413, "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"));
}

#[test]
fn copies_of_a_json_patch_are_bounded() {
    let target = json!({"big": "x".repeat(1 << 20), "list": []});
    let copy = |n: usize| json_patch(&target, &(0..n).map(|_| json!({"op": "copy", "from": "/big", "path": "/list/-"})).collect());
    assert!(copy(2).is_ok());
    assert_eq!(copy(4).unwrap_err().code, 422);
}

/// Ten copies would make 10,240 levels of ten.
#[test]
fn a_json_patch_does_not_nest_copies_without_end() {
    let patch = |copies: usize| {
        let operations = (0..copies).scan(10_usize, |levels, _| {
            let path = "/a".repeat(*levels);
            *levels *= 2;
            Some(json!({"op": "copy", "from": "", "path": path}))
        });
        let target = (0..10).fold(json!({}), |inner, _| json!({ "a": inner }));
        json_patch(&target, &operations.collect())
    };
    deep::run(|| {
        assert_eq!(deep::depth(&patch(3).unwrap()), 81);
        assert_eq!(patch(10).unwrap_err().code, 422);
    });
}

#[test]
fn a_json_patch_moves_what_is_deep_as_long_as_it_fits() {
    deep::run(|| {
        let target = json!({"a": {}, "deep": (0..9_990).fold(json!(1), |inner, _| Value::Array(vec![inner]))});
        let moved = |path: &str| json_patch(&target, &json!([{"op": "move", "from": "/deep", "path": path}]));
        assert!(moved("/a/x").is_ok());
        let away = (0..20).fold(String::from("/a"), |path, _| path + "/b");
        let operations = (3..=away.len() / 2).map(|steps| json!({"op": "add", "path": away[..2 * steps - 2], "value": {}}));
        let patch: Value = operations.chain([json!({"op": "move", "from": "/deep", "path": away})]).collect();
        assert_eq!(json_patch(&target, &patch).unwrap_err().code, 422);
    });
}

#[test]
fn merge_patches_do_what_rfc_7386_says() {
    for (target, patch, wanted) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!({"e": null}), json!({"a": 1}), json!({"a": 1, "e": null})),
    ] {
        assert_eq!(merge_patch(&target, &patch), wanted, "{target} + {patch}");
    }
    let (original, modified) = (json!({"a": 1, "b": {"c": 1, "d": 2}, "l": [1]}), json!({"a": 2, "b": {"c": 1}, "l": [1, 2]}));
    assert_eq!(create_merge_patch(&original, &modified), json!({"a": 2, "b": {"d": null}, "l": [1, 2]}));
    let current = json!({"a": 1, "b": {"c": 5, "d": 2, "x": 1}, "l": [1], "other": true});
    let patch = create_three_way_merge_patch(&original, &modified, &current);
    assert_eq!(patch, json!({"a": 2, "b": {"c": 1, "d": null}, "l": [1, 2]}));
}

fn pod(containers: Value) -> Value {
    json!({"spec": {"containers": containers}})
}

fn merged(target: Value, patch: Value) -> Value {
    strategic_merge(kind("", "v1", "Pod"), &target, &patch).unwrap_or_else(|e| panic!("{patch}: {e}"))
}

#[test]
fn strategic_patches_merge_lists_by_key() {
    let target = || pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    assert_eq!(merged(target(), pod(json!([{"name": "b", "image": "2"}]))), pod(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}])));
    assert_eq!(
        merged(target(), pod(json!([{"name": "c", "image": "3"}, {"name": "a", "$patch": "delete"}]))),
        pod(json!([{"name": "c", "image": "3"}, {"name": "b", "image": "1"}]))
    );
    assert_eq!(merged(target(), pod(json!([{"name": "c"}, {"$patch": "replace"}]))), pod(json!([{"name": "c"}])));
    assert_eq!(merged(target(), json!({"spec": {"$patch": "replace", "nodeName": "n"}})), json!({"spec": {"nodeName": "n"}}));
    assert_eq!(merged(target(), json!({"spec": {"$patch": "delete"}})), json!({"spec": {}}));
    let ordered = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}});
    assert_eq!(merged(target(), ordered), pod(json!([{"name": "b", "image": "1"}, {"name": "c"}, {"name": "a", "image": "1"}])));
}

#[test]
fn strategic_patches_merge_and_delete_primitives() {
    let target = || json!({"metadata": {"finalizers": ["a", "b", "c"]}, "spec": {"tolerations": [{"key": "x"}]}});
    let finalizers = |patch: Value| merged(target(), json!({"metadata": patch}))["metadata"]["finalizers"].clone();
    assert_eq!(finalizers(json!({"finalizers": ["d", "a"]})), json!(["d", "a", "b", "c"]));
    assert_eq!(finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["b"]})), json!(["a", "c"]));
    assert_eq!(finalizers(json!({"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["c", "a"]})), json!(["c", "a"]));
    assert_eq!(
        merged(target(), json!({"spec": {"tolerations": [{"key": "y"}]}}))["spec"]["tolerations"],
        json!([{"key": "y"}]),
        "a list without strategy is replaced"
    );
    assert_eq!(merged(target(), json!({"metadata": {"labels": {"a": null, "b": "c"}}}))["metadata"]["labels"], json!({"b": "c"}));
}

#[test]
fn strategic_patches_retain_only_the_keys_they_list() {
    let deployment = kind("apps", "v1", "Deployment");
    let target = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(strategic_merge(deployment, &target, &patch).unwrap(), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let modified = json!({"spec": {"strategy": {"type": "Recreate"}}});
    assert_eq!(
        create_two_way(deployment, &target, &modified).unwrap(),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": null, "type": "Recreate"}}})
    );
    let bad = strategic_merge(deployment, &target, &json!({"spec": {"strategy": {"$retainKeys": ["type"], "rollingUpdate": {}}}})).unwrap_err();
    assert_eq!((bad.code, bad.message.as_str()), (400, "invalid patch format of retainKeys"));
}

#[test]
fn strategic_patches_that_do_not_fit_are_told_as_upstream_tells_them() {
    let refused = |patch: Value| {
        let status =
            strategic_merge(kind("", "v1", "Pod"), &json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}}), &patch).expect_err(&patch.to_string());
        (status.code, status.message)
    };
    assert_eq!(refused(pod(json!([{"image": "x"}]))), (500, "map: map[image:x] does not contain declared merge key: name".into()));
    assert_eq!(refused(json!({"spec": {"$patch": "bogus"}})), (500, "unknown patch type: bogus in map: map[$patch:bogus]".into()));
    assert_eq!(refused(json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "c"}]}})).0, 500);
    assert_eq!(refused(json!({"metadata": {"$deleteFromPrimitiveListfinalizers": []}})), (400, "invalid patch format of primitive list".into()));
}

#[test]
fn a_patch_that_was_made_leads_from_one_object_to_the_other() {
    let deployment = kind("apps", "v1", "Deployment");
    let original = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "finalizers": ["x", "y"]}, "spec": {"replicas": 1, "template": pod(json!([
        {"name": "a", "image": "1", "env": [{"name": "A", "value": "1"}], "args": ["p"]}, {"name": "b", "image": "1"}]))}});
    let modified = json!({"metadata": {"labels": {"a": "2"}, "finalizers": ["y", "z"]}, "spec": {"replicas": 2, "template": pod(json!([
        {"name": "c", "image": "3"}, {"name": "a", "image": "2", "env": [{"name": "B", "value": "2"}], "args": ["q"]}]))}});
    let patch = create_two_way(deployment, &original, &modified).unwrap();
    assert_eq!(strategic_merge(deployment, &original, &patch).unwrap(), modified);
    assert_eq!(create_two_way(deployment, &original, &original).unwrap(), json!({}));
}

#[test]
fn a_three_way_patch_keeps_what_others_have_set() {
    let deployment = kind("apps", "v1", "Deployment");
    let last = json!({"metadata": {"annotations": {"mine": "1", "gone": "1"}}, "spec": {"replicas": 1, "template": pod(json!([{"name": "a", "image": "1"}, {"name": "b"}]))}});
    let wanted = json!({"metadata": {"annotations": {"mine": "2"}}, "spec": {"template": pod(json!([{"name": "a", "image": "2"}]))}});
    let current = json!({"metadata": {"annotations": {"mine": "1", "gone": "1", "theirs": "1"}}, "spec": {"replicas": 5, "template": pod(json!([{"name": "a", "image": "1", "resources": {}}, {"name": "b"}, {"name": "sidecar"}]))}});
    let patch = create_three_way(deployment, &last, &wanted, &current).unwrap();
    let result = strategic_merge(deployment, &current, &patch).unwrap();
    assert_eq!(
        result,
        json!({"metadata": {"annotations": {"mine": "2", "theirs": "1"}}, "spec": {"template": pod(json!([{"name": "a", "image": "2", "resources": {}}, {"name": "sidecar"}]))}})
    );
}
