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

/// A field with less than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

fn enveloped(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let kind = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &kind), field(2, message)].concat()
}

/// Upstream: `Quantity.Unmarshal` reads what stands in the message, and refuses what is no quantity; no message is zero.
#[test]
fn quantities_of_a_client_are_read_and_brought_into_their_form() {
    let kind = GroupVersionKind::new("", "v1", "ResourceQuota");
    let quota = |amount: &[u8]| {
        let entry = [field(1, b"pods"), field(2, amount)].concat();
        decode_protobuf_kind(&kind, &enveloped("v1", "ResourceQuota", &field(2, &field(1, &entry))))
    };
    for (amount, wanted) in [(&b"\x0a\x03123"[..], "123"), (b"\x0a\x041000", "1k"), (b"\x0a\x031.5", "1500m"), (b"", "0")] {
        assert_eq!(quota(amount).unwrap()["spec"]["hard"]["pods"], wanted);
    }
    for amount in [&b"\x0a\x03abc"[..], b"\x0a\x00", b"\x0a\x02 1", b"\x0a\x03\x00\x1a\x00"] {
        let why = "ResourceQuota in version \"v1\" cannot be handled as a ResourceQuota: quantities must match the regular expression";
        let error = quota(amount).unwrap_err();
        assert!(error.code == 400 && error.message.starts_with(why), "{}", error.message);
    }
}

/// Upstream checks what stands on the wire as it comes, and reads managed fields later.
#[test]
fn what_does_not_count_is_refused_only_where_upstream_looks_at_it() {
    let kind = GroupVersionKind::new("", "v1", "ConfigMap");
    let read = |message: &[u8]| decode_protobuf_kind(&kind, &enveloped("v1", "ConfigMap", message));
    let metadata = field(1, &field(1, b"a"));
    // metadata is no number, and data no list of numbers; 99 is no field.
    for wrong in [&b"\x08\x01"[..], b"\x10\x01"] {
        let error = read(&[wrong, &metadata].concat()).unwrap_err();
        assert_eq!((error.code, error.message.ends_with("proto: illegal wireType")), (400, true), "{}", error.message);
    }
    assert_eq!(read(&[b"\x98\x06\x01", &metadata[..]].concat()).unwrap()["metadata"]["name"], "a");
    let manager = |fields: &[u8]| [field(1, b"m"), field(7, &field(1, fields))].concat();
    let managed = |fields: &[u8]| field(1, &[b"\x8a\x01".to_vec(), field(0, &manager(fields))[1..].to_vec()].concat());
    assert_eq!(read(&managed(b"{\"f:data\":{}}")).unwrap()["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:data": {}}));
    assert_eq!(read(&managed(b"{\"f:da")).unwrap()["metadata"]["managedFields"][0]["fieldsV1"], Value::Null);
}

#[test]
fn a_protobuf_body_of_another_kind_is_refused_in_upstreams_words() {
    let wanted = GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler");
    let read = |body: Vec<u8>| decode_protobuf_kind(&wanted, &body).map_err(|e| e.message);
    for named in [enveloped("autoscaling/v2", "HorizontalPodAutoscaler", b""), enveloped("", "", b""), enveloped("", "HorizontalPodAutoscaler", b"")] {
        assert_eq!((&read(named.clone()).unwrap()["kind"], &read(named).unwrap()["apiVersion"]), (&json!("HorizontalPodAutoscaler"), &json!("autoscaling/v2")));
    }
    let refused = |given: &str, why: &str| Err(format!("{given} cannot be handled as a HorizontalPodAutoscaler: {why}"));
    let unrecognized = |why: &str| Err(format!("the object provided is unrecognized (must be of type HorizontalPodAutoscaler): {why}"));
    let prefix = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";
    for (body, error) in [
        (enveloped("v1", "Pod", b""), refused("Pod in version \"v1\"", "converting (v1.Pod) to (autoscaling.HorizontalPodAutoscaler): unknown conversion")),
        (enveloped("v1", "Pod", b"\xff"), refused("Pod in version \"v1\"", "unexpected EOF")),
        (
            enveloped("v1", "Nope", b""),
            refused("Nope in version \"v1\"", "no kind \"Nope\" is registered for version \"v1\" in scheme \"pkg/runtime/scheme.go:111\""),
        ),
        (
            enveloped("autoscaling/v1", "HorizontalPodAutoscaler", b""),
            Err("the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)".into()),
        ),
        (b"k8s\0\xff".to_vec(), unrecognized("unexpected EOF (6b387300ff)")),
        (b"k8s\0".to_vec(), unrecognized("empty body (6b387300)")),
        (b"abc".to_vec(), unrecognized(&format!("{prefix} (616263)"))),
    ] {
        assert_eq!(read(body), error);
    }
}
