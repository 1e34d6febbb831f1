//! The golden pairs: what a server of 1.37 wrote for one object in both encodings.

use std::path::{Path, PathBuf};

use knarr_core::json;

use super::*;

/// `(name, JSON, protobuf)` of every pair in a folder.
fn pairs(folder: &Path) -> Vec<(String, String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "pb")).collect();
    names.sort();
    let read = |path: &PathBuf| {
        let json = std::fs::read_to_string(path.with_extension("json")).ok()?;
        Some((path.file_stem()?.to_string_lossy().into_owned(), json, std::fs::read(path).ok()?))
    };
    names.iter().filter_map(read).collect()
}

pub(super) fn fixtures() -> Vec<(String, String, Vec<u8>)> {
    let found = pairs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures"));
    assert_eq!(found.len(), 99);
    found
}

/// The release's own round-trip fixtures, where its module has been downloaded.
fn published() -> Vec<(String, String, Vec<u8>)> {
    let cache = std::env::var("GOMODCACHE").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/go/pkg/mod"))).unwrap_or_default();
    let mut found = pairs(&Path::new(&cache).join("k8s.io/api@v0.37.2/testdata/HEAD"));
    // A bare message without a kind.
    found.retain(|(name, ..)| name != "core.v1.WatchEvent");
    found
}

fn object(protobuf: &[u8]) -> Object {
    Object { encoding: Encoding::Protobuf, resource_version: 0, bytes: Bytes::copy_from_slice(protobuf) }
}

/// JSON without space and, where protobuf cannot carry them, without the kinds of nested objects.
fn carried(json: &str, from_protobuf: &Value) -> Value {
    let mut tree: Value = serde_json::from_str(json).unwrap();
    if let Some(templates) = tree.at_mut(&["spec", "volumeClaimTemplates"]).and_then(Value::as_array_mut) {
        for (i, template) in templates.iter_mut().enumerate() {
            for key in ["kind", "apiVersion"] {
                template[key] = from_protobuf["spec"]["volumeClaimTemplates"][i][key].clone();
            }
        }
    }
    drop_nested_kinds(&mut tree, 0);
    whole_numbers(&mut tree);
    tree
}

/// `1.0` and `1` are one number to Go.
fn whole_numbers(tree: &mut Value) {
    match tree {
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Number(n) if n.is_f64() && n.as_f64().unwrap().fract() == 0.0 => *tree = json!(n.as_f64().unwrap() as i64),
        _ => {}
    }
}

/// Items of lists and embedded options show their kind in JSON, if it was set, and lose it in protobuf.
fn drop_nested_kinds(tree: &mut Value, depth: usize) {
    let Value::Object(map) = tree else { return };
    for (key, value) in map.iter_mut() {
        match value {
            Value::Array(items) if key == "items" && depth == 0 => items.iter_mut().for_each(|item| {
                item.as_object_mut().map(|m| (m.remove("kind"), m.remove("apiVersion")));
            }),
            Value::Object(options) if key == "deleteOptions" => drop((options.remove("kind"), options.remove("apiVersion"))),
            _ => drop_nested_kinds(value, depth + 1),
        }
    }
}

#[test]
fn every_pair_is_equal_both_ways() {
    let mut wrong = Vec::new();
    for (name, json, protobuf) in fixtures().into_iter().chain(published()) {
        let at_rest = object(&protobuf);
        let tree = to_value(&at_rest).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut written = Vec::new();
        write_json(&at_rest, &mut written);
        let written = String::from_utf8(written).unwrap();
        let from_json = carried(&json, &tree);
        let mut check = |what: &str, equal: bool| {
            if !equal {
                wrong.push(format!("{name}: {what}"));
            }
        };
        check("protobuf to tree", tree == from_json);
        check("protobuf to JSON", serde_json::from_str::<Value>(&written).is_ok_and(|v| v == tree));
        check("tree to JSON equals protobuf to JSON", String::from_utf8(encode_json(&tree)).unwrap() == written);
        check("tree to protobuf", encode_protobuf(&tree).unwrap() == protobuf);
        check("JSON to protobuf", encode_protobuf(&from_json).unwrap() == protobuf);
        if !json.contains('\n') && !written.contains("\"volumeClaimTemplates\"") && !json.contains("\"items\":[{\"kind\"") {
            check("JSON, byte for byte", written == json);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_resource_version_is_spliced_in_without_decoding() {
    for (name, _, protobuf) in fixtures() {
        let mut tree = to_value(&object(&protobuf)).unwrap();
        if tree.at(&["metadata"]).is_none() || name.contains("List") || name.ends_with("Status") {
            continue;
        }
        tree.set(&["metadata", "resourceVersion"], "18446744073709551615");
        let spliced = with_resource_version(&protobuf, u64::MAX);
        assert_eq!((spliced.encoding, spliced.resource_version), (Encoding::Protobuf, u64::MAX), "{name}");
        assert_eq!(spliced.bytes, encode_protobuf(&tree).unwrap(), "{name}");
        let kind = kind_of(&spliced);
        assert_eq!(kind.api_version(), tree["apiVersion"], "{name}");
        let registry = crate::registry::Registry::builtin();
        if let Some(resource) = registry.by_kind(&kind.group, &kind.version, &kind.kind) {
            tree.set(&["metadata", "resourceVersion"], "");
            assert_eq!(encode_stored(resource, &to_value(&spliced).unwrap()).unwrap(), encode_protobuf(&tree).unwrap(), "{name}");
        }
    }
}

#[test]
fn metadata_and_scalars_are_read_alike_from_both_encodings() {
    for (name, json, protobuf) in fixtures().into_iter().filter(|(name, ..)| !name.contains("List") && !name.ends_with("Status")) {
        let (at_rest, tree) = (object(&protobuf), to_value(&object(&protobuf)).unwrap());
        let in_json = Object { encoding: Encoding::Json, resource_version: 0, bytes: json.clone().into() };
        let view = meta(&at_rest);
        assert_eq!(view, meta(&in_json), "{name}");
        assert_eq!(view.name, tree.str_at(&["metadata", "name"]).unwrap_or_default(), "{name}");
        assert_eq!(view.labels.len(), tree.at(&["metadata", "labels"]).and_then(Value::as_object).map_or(0, |l| l.len()), "{name}");
        for path in [
            &["metadata", "name"][..],
            &["metadata", "creationTimestamp"],
            &["kind"],
            &["spec", "nodeName"],
            &["spec", "replicas"],
            &["data", "a"],
            &["status", "phase"],
        ] {
            assert_eq!(scalar(&at_rest, path), scalar(&in_json, path), "{name} {path:?}");
        }
    }
}

#[test]
fn typed_structs_are_read_straight_from_protobuf() {
    use k8s_openapi::api::{apps::v1::StatefulSet, autoscaling::v2::HorizontalPodAutoscaler, core::v1 as core, events::v1::Event, rbac::v1::ClusterRole};
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

    fn check<T: DeserializeOwned + PartialEq + std::fmt::Debug>(kind: &str) {
        let mut seen = 0;
        for (name, json, protobuf) in fixtures().into_iter().chain(published()).filter(|(name, ..)| name.split('-').next() == Some(kind)) {
            let from_json: T = serde_json::from_value(carried(&json, &to_value(&object(&protobuf)).unwrap())).unwrap();
            assert_eq!(to_typed::<T>(&object(&protobuf)).unwrap(), from_json, "{name}");
            seen += 1;
        }
        assert!(seen > 0, "{kind}");
    }
    check::<core::Pod>("core.v1.Pod");
    check::<core::Node>("core.v1.Node");
    check::<core::Secret>("core.v1.Secret");
    check::<core::Service>("core.v1.Service");
    check::<core::PersistentVolume>("core.v1.PersistentVolume");
    check::<StatefulSet>("apps.v1.StatefulSet");
    check::<HorizontalPodAutoscaler>("autoscaling.v2.HorizontalPodAutoscaler");
    check::<Event>("events.k8s.io.v1.Event");
    check::<ClusterRole>("rbac.authorization.k8s.io.v1.ClusterRole");
    check::<CustomResourceDefinition>("apiextensions.k8s.io.v1.CustomResourceDefinition");
}

#[test]
fn damaged_bytes_are_errors_and_no_panics() {
    for (name, _, protobuf) in fixtures().into_iter().step_by(7) {
        for at in (0..protobuf.len()).step_by(3) {
            let mut damaged = protobuf.clone();
            damaged[at] ^= 0x5f;
            for bytes in [&protobuf[..at], &damaged[..]] {
                let at_rest = object(bytes);
                drop((decode_protobuf(bytes), meta(&at_rest), kind_of(&at_rest), with_resource_version(bytes, 1)));
                let mut out = Vec::new();
                write_json(&at_rest, &mut out);
                assert!(!out.is_empty(), "{name}");
            }
        }
    }
}

#[test]
fn values_that_do_not_fit_are_named_by_their_path() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"priority": "high"}});
    assert_eq!(encode_protobuf(&pod).unwrap_err().message, "Internal error occurred: cannot encode spec.priority: not an integer");
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Pod"});
    assert!(encode_protobuf(&unknown).is_err());
}

#[test]
fn custom_resources_are_written_with_sorted_keys() {
    let tree = json!({"kind": "Widget", "apiVersion": "example.com/v1", "spec": {"b": "<&>", "a": 1.0}});
    assert_eq!(String::from_utf8(encode_json(&tree)).unwrap(), r#"{"apiVersion":"example.com/v1","kind":"Widget","spec":{"a":1,"b":"\u003c\u0026\u003e"}}"#);
}

#[test]
fn what_go_always_writes_is_written() {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": null}}}});
    assert_eq!(
        String::from_utf8(encode_json(&deployment)).unwrap(),
        r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"a"},"spec":{"selector":null,"template":{"metadata":{},"spec":{"containers":null}},"strategy":{}},"status":{}}"#
    );
}

/// Fields of a message in another order, maps unsorted, a field twice, a field of a newer release: none of it changes the JSON.
#[test]
fn messages_that_no_writer_of_ours_makes_are_read_too() {
    let pod = |labels: &[(&str, &str)], reversed: bool| {
        let mut meta = Back::with_capacity(0);
        let name = |out: &mut Back| out.bytes(1, b"n");
        if reversed {
            meta.bytes(1, b"old");
        } else {
            name(&mut meta);
        }
        meta.number(99, 7);
        for (key, value) in labels.iter().rev() {
            let before = meta.len();
            meta.bytes(2, value.as_bytes());
            meta.bytes(1, key.as_bytes());
            meta.close(11, before);
        }
        // A buffer is written from its end: this comes first on the wire.
        meta.bytes(3, b"ns");
        let mut pod = Back::with_capacity(0);
        pod.raw(envelope::TAIL);
        let tail = pod.len();
        pod.bytes(1, &meta.into_vec());
        envelope::close(&mut pod, tail, "v1", "Pod");
        pod.into_vec()
    };
    for (labels, reversed, name) in [(&[("a", "1"), ("b", "2")], false, "n"), (&[("b", "2"), ("a", "1")], true, "old")] {
        let at_rest = object(&pod(labels, reversed));
        let mut json = Vec::new();
        write_json(&at_rest, &mut json);
        let wanted = format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"ns","labels":{{"a":"1","b":"2"}}}},"spec":{{"containers":null}},"status":{{}}}}"#
        );
        assert_eq!(String::from_utf8(json).unwrap(), wanted);
        assert_eq!(to_value(&at_rest).unwrap(), serde_json::from_str::<Value>(&wanted).unwrap());
    }
}

/// Upstream: `Time.Unmarshal` makes a zero time of an empty message, `Time.MarshalJSON` writes it as null, `Time.Marshal` as an empty message.
#[test]
fn a_time_that_is_there_but_zero_is_written_as_it_came() {
    let registry = crate::registry::Registry::builtin();
    let pods = registry.by_resource("", "v1", "pods").unwrap();
    let read = |json: &Value| decode_json(pods, json.to_string().as_bytes(), FieldValidation::Strict).unwrap().value;
    let unset = read(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "deletionTimestamp": null}}));
    assert_eq!(unset.at(&["metadata", "deletionTimestamp"]), None, "null in JSON is a pointer to nothing");
    let mut zero = unset;
    zero.set(&["metadata", "deletionTimestamp"], Value::Null);
    let bytes = encode_protobuf(&zero).unwrap();
    assert_eq!(decode_protobuf(&bytes).unwrap().1, zero);
    assert_eq!(to_value(&object(&bytes)).unwrap(), zero);
    let mut text = Vec::new();
    write_json(&object(&bytes), &mut text);
    assert_eq!(String::from_utf8(text).unwrap(), String::from_utf8(encode_json(&zero)).unwrap());
    assert!(String::from_utf8(encode_json(&zero)).unwrap().contains(r#""deletionTimestamp":null"#));
}

/// Upstream: where an entry of a map has no value, the generated `Unmarshal` leaves empty bytes (`mapvalue := []byte{}`), not none.
#[test]
fn an_entry_without_a_value_has_empty_bytes() {
    let tree = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "binaryData": {"b": "", "c": "YQ=="}, "data": {"d": ""}});
    let mut bytes = encode_protobuf(&tree).unwrap();
    for entry in [b"\x0a\x01b\x12\0", b"\x0a\x01d\x12\0"] {
        let at = bytes.windows(entry.len()).position(|found| found == entry).unwrap();
        // What was the value is a field that nobody knows.
        bytes[at + 3] = 0x1a;
    }
    let read = decode_protobuf(&bytes).unwrap().1;
    assert_eq!((&read["binaryData"], &read["data"]), (&tree["binaryData"], &tree["data"]));
    let (object, mut text) = (with_resource_version(&bytes, 1), Vec::new());
    write_json(&object, &mut text);
    assert!(String::from_utf8(text).unwrap().contains(r#""data":{"d":""},"binaryData":{"b":"","c":"YQ=="}"#));
    assert_eq!(to_value(&object).unwrap()["binaryData"], tree["binaryData"]);
}
