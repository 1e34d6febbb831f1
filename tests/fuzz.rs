//! Bad input for every decoder and patcher that can be reached from outside its crate; those of the store's files and of DNS are
//! fed in theirs. What `knarr-fuzz` does with a target is told there; here stand seeds and what must hold of what comes out.

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use knarr_cel::Env;
use knarr_cel::env::NoTypes;
use knarr_cel::types::Type;
use knarr_client::Kubeconfig;
use knarr_core::quantity::Quantity;
use knarr_core::selector::{FieldSelector, LabelSelector};
use knarr_core::{Value, formats, go, names, time, yaml};
use knarr_fuzz::{Form, Target, fuzz, seeds, told};
use knarr_node::streams::spdy::frame::{Decoder, Encoder, Frame};
use knarr_node::streams::websocket::{COMMAND_PROTOCOLS, Channels};
use knarr_runtime::image::manifest::{Compression, Document, ImageConfig, Index, Manifest, Platform};
use knarr_runtime::image::unpack::{Bounds, unpack};
use knarr_schema::apply::{self, Manager};
use knarr_schema::codec::{self, FieldValidation};
use knarr_schema::registry::{Registry, Resource};
use knarr_schema::{patch, types};
use serde_json::json;

/// Objects of many kinds: those by which defaults are compared with upstream's, and some full of lists and maps.
static OBJECTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let probes =
        include_str!("../crates/knarr-schema/data/probes.jsonl").lines().map(|line| serde_json::from_str::<Value>(line).expect("a probe")["object"].take());
    let meta = json!({"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "7", "generation": 2, "creationTimestamp": "2026-01-02T03:04:05Z",
        "labels": {"app": "web", "tier": "x"}, "annotations": {"k": "v"}, "finalizers": ["a/b"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}],
        "managedFields": [{"manager": "m", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:k": {}, ".": {}}, "f:metadata": {"f:labels": {"f:app": {}}}}}]});
    let more = [
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta, "data": {"k": "v", "l": ""}, "binaryData": {"b": "AAEC"}, "immutable": true}),
        json!({"kind": "Service", "apiVersion": "v1", "metadata": meta, "spec": {"selector": {"a": "b"}, "clusterIPs": ["10.0.0.1"], "ports": [
            {"name": "p", "port": 80, "targetPort": "http", "protocol": "TCP"}, {"name": "q", "port": 80, "targetPort": 8080, "protocol": "UDP"}]}}),
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": {"nodeName": "n", "containers": [
            {"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}], "env": [{"name": "A", "value": "1"}],
             "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}, "requests": {"cpu": 1}}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}], "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}]}}),
        json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "metadata": {"name": "w.e.com"}, "spec": {"group": "e.com",
            "names": {"plural": "w", "kind": "W"}, "scope": "Namespaced", "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "default": {"a": [1, 2.5, null]}, "x-kubernetes-validations": [{"rule": "self.a > 1"}]}}}}}]}}),
        json!({"kind": "Event", "apiVersion": "events.k8s.io/v1", "metadata": meta, "eventTime": "2026-01-02T03:04:05.123456Z", "series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:05.000001Z"}}),
        json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": meta, "spec": {"renewTime": "2026-01-02T03:04:05.000000Z", "leaseDurationSeconds": 40}}),
    ];
    probes.chain(more).collect()
});

const WORDS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "kind",
    "apiVersion",
    "managedFields",
    "fieldsV1",
    "f:",
    "k:{\"name\":\"c\"}",
    "v:1",
    "i:0",
    ".",
    "$patch",
    "delete",
    "replace",
    "merge",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "containers",
    "ports",
    "op",
    "path",
    "value",
    "from",
    "add",
    "remove",
    "test",
    "move",
    "copy",
    "/metadata/labels/app",
    "/spec/containers/0",
    "/-",
    "~0",
    "~1",
    "2026-01-02T03:04:05Z",
    "1Gi",
    "100m",
    "resourceVersion",
    "ConfigMap",
    "Pod",
    "v1",
    "apps/v1",
    "Deployment",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "data",
    "binaryData",
];

fn registry() -> &'static Registry {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);
    &REGISTRY
}

fn resource_of(object: &Value) -> Option<&'static Arc<Resource>> {
    let version = object.get("apiVersion")?.as_str()?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    registry().by_kind(group, version, object.get("kind")?.as_str()?)
}

fn pods() -> &'static Arc<Resource> {
    registry().by_resource("", "v1", "pods").expect("pods")
}

/// What is told of an object: what is null or empty may be left out.
fn told_by(json: &[u8]) -> Value {
    fn strip(tree: &mut Value) {
        match tree {
            Value::Array(items) => items.iter_mut().for_each(strip),
            Value::Object(members) => {
                members.values_mut().for_each(strip);
                members.retain(|_, v| !matches!(v, Value::Null) && *v != json!([]) && *v != json!({}));
            }
            _ => {}
        }
    }
    let mut tree = codec::parse_json(json).expect("JSON");
    strip(&mut tree);
    tree
}

#[test]
fn fuzz_json_bodies() {
    let target = Target { name: "JSON bodies", form: Form::Json, seeds: seeds(OBJECTS.iter().map(Value::to_string)), words: WORDS };
    fuzz(target, |input| {
        let named = serde_json::from_slice::<Value>(input).ok().and_then(|tree| resource_of(&tree));
        let resource = named.unwrap_or_else(|| pods());
        let strict = codec::decode_json(resource, input, FieldValidation::Strict);
        let Ok(read) = codec::decode_json(resource, input, FieldValidation::Warn) else {
            assert!(strict.is_err(), "refused when lenient, taken when strict");
            return told(&strict.map_err(|e| e.message));
        };
        assert_eq!(strict.is_ok(), read.warnings.is_empty(), "{:?}", read.warnings);
        let written = codec::encode_json(&read.value);
        let again = codec::decode_json(resource, &written, FieldValidation::Strict).unwrap_or_else(|e| panic!("what was written is not read: {}", e.message));
        let shown = |json: &[u8]| json.escape_ascii().to_string();
        assert_eq!(shown(&codec::encode_json(&again.value)), shown(&written), "written and read again it differs");
        // At rest and back.
        let stored = codec::encode_stored(resource, &read.value).expect("what was read can be stored");
        let object = codec::with_resource_version(&stored, 7);
        codec::meta(&object);
        let mut text = Vec::new();
        codec::write_json(&object, &mut text);
        let kept = codec::to_value(&object).expect("what was stored can be read");
        assert_eq!(told_by(&text), told_by(&codec::encode_json(&kept)));
        read.warnings.join(";")
    });
}

#[test]
fn fuzz_protobuf_bodies() {
    let encode = |object: &Value| {
        let read = codec::decode_json(resource_of(object)?, object.to_string().as_bytes(), FieldValidation::Ignore).ok()?;
        codec::encode_protobuf(&read.value).ok()
    };
    let target = Target {
        name: "protobuf bodies",
        form: Form::Protobuf,
        seeds: OBJECTS.iter().filter_map(encode).collect(),
        words: &["k8s\0", "\x0a\x02", "v1", "Pod", "\x12\x7f"],
    };
    fuzz(target, |input| {
        // As it comes over the wire, and as it lies in a store that somebody else has written.
        let object = codec::with_resource_version(input, 7);
        let at_rest = codec::to_value(&object);
        codec::meta(&object);
        codec::scalar(&object, &["spec", "nodeName"]);
        codec::write_json(&object, &mut Vec::new());
        codec::write_metadata_json(&object, &mut Vec::new());
        match codec::decode_protobuf(input) {
            Ok((kind, value)) => {
                let written = codec::encode_json(&value);
                let told = told_by(&written);
                match codec::decode_json_kind(&kind, &written, FieldValidation::Ignore) {
                    Ok(json) => assert_eq!(told_by(&codec::encode_json(&json.value)), told, "as JSON it differs"),
                    // Protobuf has years that Go writes as JSON, but does not read.
                    Err(error) => assert!(error.message.contains("parsing time"), "as JSON it is not read: {}", error.message),
                }
                let stored = codec::encode_protobuf(&value).unwrap_or_else(|e| panic!("what was read is not written: {}", e.message));
                let (_, again) = codec::decode_protobuf(&stored).unwrap_or_else(|e| panic!("what was written is not read: {}", e.message));
                let (object, mut text) = (codec::with_version_text(&stored, ""), Vec::new());
                codec::write_json(&object, &mut text);
                let tree = codec::to_value(&object).unwrap_or_else(|e| panic!("what was written is not read at rest: {}", e.message));
                assert_eq!(told_by(&text), told_by(&codec::encode_json(&tree)), "at rest it reads otherwise as a tree");
                assert_eq!(told_by(&codec::encode_json(&again)), told, "written and read again it differs");
                kind.kind
            }
            Err(error) => format!("{} {}", error.message, at_rest.is_ok()),
        }
    });
}

#[test]
fn fuzz_cbor() {
    let object = |object: &Value| codec::encode_cbor(object);
    let target = Target {
        name: "CBOR",
        form: Form::Bytes,
        seeds: OBJECTS.iter().map(object).chain([b"\xbf\x61a\xbf\x61b\x01\xff\xff".to_vec(), b"\xc1\xf9\x3e\x00".to_vec()]).collect(),
        words: &["\u{0}", "v1", "kind", "apiVersion"],
    };
    fuzz(target, |input| {
        codec::cbor_length(input);
        match codec::decode_cbor(input) {
            Ok(tree) => {
                // Whole floats of fields that are not known to be floats are integers from then on, as in JSON.
                let again = codec::decode_cbor(&codec::encode_cbor(&tree)).expect("what was written is read");
                assert_eq!(go::json_compact(&again), go::json_compact(&tree));
                let resource = resource_of(&tree).unwrap_or_else(|| pods());
                codec::decode_value(resource, &tree, FieldValidation::Warn).map_or_else(|e| e.message, |read| read.warnings.join(";"))
            }
            Err(why) => why,
        }
    });
}

#[test]
fn fuzz_json_texts() {
    let texts = [
        "{\"a\":[1,2.5,-0,1e5,\"\\u00e9\\ud83d\\ude00\",null,true]}",
        "[1,2",
        "{\"a\":1,\"a\":2}",
        "\"\\ud800\"",
        "1e309",
        "-",
        "[[[[]]]]",
        "{\"a\\u0000b\":1}",
        "9223372036854775808",
    ];
    let words = ["\\u", "\\ud83d", "[", "{", "}", "]", ":", ",", "\"", "-0", "1e999", "0.1", "null", "true", "\u{feff}"];
    fuzz(Target { name: "JSON texts", form: Form::Bytes, seeds: seeds(texts), words: &words }, |input| match codec::parse_json(input) {
        Ok(tree) => {
            // Numbers that are whole are written as such, as Go writes them, and are integers from then on.
            let written = go::json_compact(&tree);
            let again = codec::parse_json(written.as_bytes()).expect("what was written is read");
            assert_eq!(go::json_compact(&again), written);
            go::json_indent(&tree);
            go::sprint(&tree);
            "ok".into()
        }
        Err(why) => why,
    });
}

#[test]
fn fuzz_yaml() {
    let texts = [
        "a: 1\nb: [x, y]\nc: {d: 'e', f: \"g\\n\"}\n",
        "- |\n  text\n  more\n- >-\n  folded\n",
        "a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n",
        "--- 1\n---\na: b\n...\n---\n- c\n",
        "!!str 1",
        "? a\n: b\n",
        "a: 0x1F\nb: 0o17\nc: 1_000\nd: .inf\ne: ~\nf: yes\ng: 2026-01-02\nh: 1e3\n",
        "%YAML 1.2\n---\n\"a\": 'b'\n",
        "a:\n- b\n-  c: d\n   e: f\n# note\n",
        "a: &a [x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\nd: [*c, *c, *c]\n",
    ];
    let words = [
        "- ",
        ": ",
        "? ",
        "|",
        ">-",
        "&a ",
        "*a",
        "!!binary ",
        "!!int ",
        "<<: ",
        "---\n",
        "...\n",
        "\n  ",
        "\t",
        "'",
        "\"",
        "[",
        "{",
        "}",
        "]",
        "# ",
        "\\x",
        "\\u263a",
        "~",
        "%",
    ];
    fuzz(Target { name: "YAML", form: Form::Bytes, seeds: seeds(texts), words: &words }, |input| {
        let text = String::from_utf8_lossy(input);
        let all = yaml::parse_all(&text);
        let document = yaml::parse_document(&text);
        match yaml::parse(&text) {
            Ok(tree) => {
                let written = yaml::to_string(&tree);
                let again = yaml::parse(&written).unwrap_or_else(|why| panic!("what was written is not read: {why}\n{written}"));
                assert_eq!(again, tree, "{written}");
                format!("ok {} {}", all.is_ok(), document.is_ok())
            }
            Err(why) => why,
        }
    });
}

/// A target and a patch, one after the other in a list.
fn two(input: &[u8]) -> Option<(Value, Value)> {
    let tree: Value = serde_json::from_slice(input).ok()?;
    Some((tree.get(0)?.clone(), tree.get(1)?.clone()))
}

#[test]
fn fuzz_patches() {
    let pod = OBJECTS.iter().filter(|o| o["kind"] == "Pod").next_back().expect("a pod");
    let pairs = [
        json!([pod, {"metadata": {"labels": {"app": null, "x": "y"}}, "spec": {"containers": [{"name": "c", "$patch": "delete"}, {"name": "d", "image": "j"}]}}]),
        json!([pod, [{"op": "add", "path": "/metadata/labels/z", "value": "1"}, {"op": "move", "from": "/spec/volumes/0", "path": "/spec/volumes/-"},
            {"op": "test", "path": "/spec/nodeName", "value": "n"}, {"op": "copy", "from": "/spec", "path": "/status/x"}, {"op": "remove", "path": "/metadata/finalizers/0"}]]),
        json!([pod, {"spec": {"$setElementOrder/containers": [{"name": "d"}, {"name": "c"}], "containers": [{"name": "d"}], "$retainKeys": ["containers"],
            "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]},
            "metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"], "$setElementOrder/finalizers": ["c"]}}]),
        json!([pod, {"$patch": "replace", "metadata": {"name": "z"}}]),
    ];
    // Objects that are patched by one another.
    let others = OBJECTS.iter().zip(OBJECTS.iter().skip(1).chain(&OBJECTS[..1])).map(|(a, b)| json!([a, b]));
    let pairs: Vec<Value> = pairs.into_iter().chain(others).collect();
    let pod_type = types::of_kind("", "v1", "Pod").expect("a type");
    fuzz(Target { name: "patches", form: Form::Json, seeds: seeds(pairs.iter().map(Value::to_string)), words: WORDS }, |input| {
        let Some((target, change)) = two(input) else { return String::new() };
        let object_type = resource_of(&target).and_then(|r| r.type_id).unwrap_or(pod_type);
        let merged = patch::merge_patch(&target, &change);
        assert_eq!(patch::merge_patch(&merged, &change), merged, "a merge patch twice");
        let strategic = patch::strategic_merge(object_type, &target, &change).map_err(|e| e.message);
        let json = patch::json_patch(&target, &change).map_err(|e| e.message);
        let two_way = patch::create_two_way(object_type, &target, &change).map_err(|e| e.message);
        let three_way = patch::create_three_way(object_type, &target, &change, &merged).map_err(|e| e.message);
        if target.is_object() && change.is_object() {
            patch::create_merge_patch(&target, &change);
            patch::create_three_way_merge_patch(&target, &merged, &change);
        }
        [told(&strategic), told(&json), told(&two_way), told(&three_way)].join("; ")
    });
}

#[test]
fn fuzz_apply() {
    let pairs: Vec<String> = OBJECTS.iter().filter(|o| resource_of(o).is_some()).map(|o| json!([o, o]).to_string()).collect();
    fuzz(Target { name: "apply", form: Form::Json, seeds: seeds(pairs), words: WORDS }, |input| {
        let Some((live, config)) = two(input) else { return String::new() };
        let resource = resource_of(&config).unwrap_or_else(|| pods());
        let manager = Manager { name: "fuzz", subresource: "", now: "2026-01-02T03:04:05Z" };
        let checked = apply::check_managed_fields(&live);
        let Ok(live) = codec::decode_value(resource, &live, FieldValidation::Ignore) else { return told(&checked) };
        let merged = apply::merge_configuration(resource, &live.value, &config);
        let careful = apply::apply(resource, Some(&live.value), &config, manager, false).map_err(|e| e.message);
        let forced = apply::apply(resource, Some(&live.value), &config, manager, true).map_err(|e| e.message);
        if let Ok(applied) = &forced {
            let again = apply::apply(resource, Some(applied), &config, manager, false).unwrap_or_else(|e| panic!("applied again it is refused: {}", e.message));
            let twice = apply::apply(resource, Some(&again), &config, manager, false).expect("and a third time");
            assert_eq!(twice, again, "applied a third time it differs");
        }
        let mut new = live.value.clone();
        apply::track_update(resource, None, &mut new, manager);
        apply::track_update(resource, Some(&live.value), &mut new, manager);
        [told(&checked), told(&merged), told(&careful), told(&forced)].join("; ")
    });
}

#[test]
fn fuzz_selectors() {
    let texts = ["a=b,c!=d,e in (f,g),h notin (i),j,!k", "x>1,y<2", "metadata.name=a,spec.nodeName!=b", "a==b", "a in ()", "a\\,b=c\\=d", " a = b , c "];
    let words = ["in", "notin", "(", ")", ",", "!", "=", "==", "!=", ">", "<", "\\", "a.b/c", " "];
    fuzz(Target { name: "selectors", form: Form::Bytes, seeds: seeds(texts), words: &words }, |input| {
        let text = String::from_utf8_lossy(input);
        let (labels, fields) = (LabelSelector::parse(&text), FieldSelector::parse(&text));
        let some = json!({"a": "b", "e": "f", "x": "5"});
        if let Ok(selector) = &labels {
            let again = LabelSelector::parse(&selector.to_string()).unwrap_or_else(|why| panic!("{selector} is not read: {why}"));
            assert_eq!(again.to_string(), selector.to_string());
            assert_eq!(again.matches(Some(&some)), selector.matches(Some(&some)));
        }
        if let Ok(selector) = &fields {
            let again = FieldSelector::parse(&selector.to_string()).unwrap_or_else(|why| panic!("{selector} is not read: {why}"));
            assert_eq!(again.to_string(), selector.to_string());
        }
        format!("{} {}", told(&labels), told(&fields))
    });
}

#[test]
fn fuzz_quantities_times_and_names() {
    let texts = [
        "1",
        "100m",
        "1.5Gi",
        "1e3",
        "-1E",
        "0.000000001n",
        "12345678901234567890",
        "1h30m",
        "2026-01-02T03:04:05.123456Z",
        "1.5h",
        "a.b.c",
        "-",
        "+5k",
        "9223372036854775807",
        "http://u:p@[fe80::1%25a]:80/a%20b?c",
        "A (b) <\"c\"@[1.2.3.4]>",
        "=?utf-8?q?a=20?= <a@b>",
        "978-0321751041",
        "00:00:5e:00:53:01",
    ];
    let words = ["Ki", "Mi", "Ei", "m", "u", "n", "k", "e", "E", "+", "-", ".", "h", "ms", "µs", "T", "Z", "+01:00", "0", "9"];
    fuzz(Target { name: "quantities, times and names", form: Form::Bytes, seeds: seeds(texts), words: &words }, |input| {
        let text = String::from_utf8_lossy(input);
        let quantity = Quantity::from_str(&text);
        if let Ok(q) = &quantity {
            let written = q.to_string();
            let again = Quantity::from_str(&written).unwrap_or_else(|_| panic!("{written} is not read"));
            assert!(again == *q && again.to_string() == written, "{text} {written} {again}");
            (q.value(), q.millis(), q.as_f64(), -q.clone() + q.clone() - q.clone());
        }
        if let Some(d) = go::duration(&text) {
            let written = go::duration_text(d);
            assert_eq!(go::duration(&written), Some(d), "{written}");
        }
        let at = time::parse(&text);
        if let Some(at) = at {
            let written = time::format_nano(at);
            // An offset can lead to before the year 0, which Go cannot read either.
            assert!(written.starts_with('-') || time::parse(&written) == Some(at), "{written}");
            time::human_duration(std::time::Duration::from_secs(at.as_second().unsigned_abs()));
        }
        for format in ["uri", "email", "hostname", "ipv4", "cidr", "mac", "uuid4", "isbn", "creditcard", "rgbcolor", "date", "duration", "datetime"] {
            formats::is_valid(format, &text);
        }
        names::is_dns1123_label(&text);
        names::is_dns1123_subdomain(&text);
        names::is_qualified_name(&text);
        names::is_label_value(&text);
        names::is_path_segment(&text);
        go::unquote(&text, '"');
        format!("{} {}", quantity.is_ok(), at.is_some())
    });
}

#[test]
fn fuzz_cel() {
    let texts = [
        "x.a.all(i, i > 0) && s.startsWith('a') || n in [1, 2]",
        "[1, 2].map(i, i * 2).filter(i, i > 2)",
        "has(x.m.k) ? x.m['k'] : 'none'",
        "s.matches('^[a-z]+$') && size(s) < 10",
        "quantity('1Gi').isGreaterThan(quantity('1Mi'))",
        "url('https://a/b').getHost() == 'a'",
        "ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.1.1')",
        "duration('1h') > duration('1m') && timestamp('2026-01-02T03:04:05Z').getFullYear() == 2026",
        "s.split(',').join('-').replace('a', 'b').substring(0, 1)",
        "x.?a[?0].orValue(1)",
        "cel.bind(y, n + 1, y * y)",
        "'%d %s %v'.format([n, s, x])",
        "semver('1.2.3').major() == 1",
        "{'a': 1, 'b': 2u, 'c': 3.5, 'd': b'x', 'e': null}",
        "-(1 - -2) % 3 == int('7')",
        "lists.range(5).sum() == 10",
        "'\\",
        "sets.contains([1], [1])",
        "s.lowerAscii().trim().charAt(0)",
        "x.f + 1.5e300 * 2.0",
        "!(true && false)",
        "[[1], [2]][0][0]",
        "type(n) == int",
    ];
    let words = [
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        "?",
        ":",
        "&&",
        "||",
        "!",
        "-",
        "in",
        "x",
        "s",
        "n",
        "x.a",
        ".all(i, ",
        ".map(i, ",
        ".exists(i, ",
        ".matches('",
        "'",
        "\"",
        "\\u00e9",
        "r'",
        "b'",
        "0x",
        "1u",
        "9223372036854775807",
        "null",
        "has(",
        "size(",
        "string(",
        "dyn(",
        ".format([",
        ".?",
        "[?",
        "'''",
        "//",
        ".reverse()",
        ".sort()",
        ".flatten()",
        "(.*)*",
        "{100}",
        "'a'+",
    ];
    let env = Env::new([("x", Type::Dyn), ("n", Type::Int), ("s", Type::String)], Arc::new(NoTypes));
    let x = json!({"a": [1, 2, 3], "m": {"k": "v", "in": 1}, "f": 1.5, "n": null, "name": "pod-1"});
    fuzz(Target { name: "CEL", form: Form::Bytes, seeds: seeds(texts), words: &words }, |input| {
        let source = String::from_utf8_lossy(input);
        match knarr_cel::compile(&source, &env) {
            Err(why) => why.lines().next().unwrap_or_default().to_owned(),
            Ok(program) => {
                let variables = [("x", knarr_cel::Value::plain(&x)), ("n", knarr_cel::Value::Int(7)), ("s", knarr_cel::Value::text("text"))];
                let outcome = program.eval(&variables, None, knarr_cel::PER_CALL_LIMIT);
                let json = outcome.value.and_then(|v| v.to_json());
                format!("evaluated: {}", told(&json.map_err(|e| e.message)))
            }
        }
    });
}

#[test]
fn fuzz_kubeconfigs() {
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: c\n  cluster:\n    server: https://h:6443\n    certificate-authority-data: AAAA\n    proxy-url: http://p\nusers:\n- name: u\n  user:\n    token: t\n    client-certificate-data: AAAA\n    client-key-data: AAAA\n    exec:\n      command: x\n      args: [a]\n      env: [{name: A, value: b}]\n      apiVersion: client.authentication.k8s.io/v1\n      interactiveMode: Never\ncontexts:\n- name: a\n  context: {cluster: c, user: u, namespace: n}\n";
    let words = ["name:", "cluster:", "user:", "context:", "server:", "- ", "https://", "null", "[]", "{}", "insecure-skip-tls-verify: true", "extensions:"];
    fuzz(Target { name: "kubeconfigs", form: Form::Bytes, seeds: seeds([text]), words: &words }, |input| {
        match Kubeconfig::parse(&String::from_utf8_lossy(input), None) {
            Ok(config) => {
                let written = config.to_yaml();
                let again = Kubeconfig::parse(&written, None).unwrap_or_else(|why| panic!("what was written is not read: {why}\n{written}"));
                assert_eq!(again.to_yaml(), written);
                let client = config.client_config(&knarr_client::kubeconfig::Overrides::default());
                told(&client)
            }
            Err(why) => why,
        }
    });
}

fn layer() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let items: &[(tar::EntryType, &str, &str)] = &[
        (tar::EntryType::Directory, "etc/", ""),
        (tar::EntryType::Regular, "etc/passwd", "root:x:0:0"),
        (tar::EntryType::Symlink, "etc/link", "../bin"),
        (tar::EntryType::Link, "etc/hard", "etc/passwd"),
        (tar::EntryType::Regular, "etc/.wh.gone", ""),
        (tar::EntryType::Regular, "var/.wh..wh..opq", ""),
        (tar::EntryType::Fifo, "run/fifo", ""),
    ];
    for (kind, name, content) in items {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        if matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink) {
            header.set_size(0);
            builder.append_link(&mut header, name, content).expect("a link");
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_bytes()).expect("an entry");
        }
    }
    builder.append_pax_extensions([("path", &b"etc/pax"[..]), ("SCHILY.xattr.user.a", b"b")]).expect("an extension");
    builder.into_inner().expect("a layer")
}

/// Everything below a folder but one folder in it.
fn names_in(folder: &Path, but: &str) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).expect("a folder").filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|n| n != but).collect();
    names.sort();
    names
}

/// The checksum of a header that was changed is put right: else hardly any would be read.
fn mend_checksums(input: &mut [u8]) {
    for header in input.chunks_exact_mut(512).filter(|h| &h[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn fuzz_image_layers() {
    let words =
        ["../", "/", "..", ".wh.", ".wh..wh..opq", "etc/passwd", "etc/link/x", "\0", "ustar", "7777777", "17 path=../../x\n", "2", "1", "5", "x", "L", "K"];
    let home = tempfile::tempdir().expect("a folder");
    std::fs::write(home.path().join("secret"), "as it was").expect("a file");
    fuzz(Target { name: "image layers", form: Form::Bytes, seeds: vec![layer()], words: &words }, |input| {
        let mut input = input.to_vec();
        mend_checksums(&mut input);
        let folder = home.path().join("layer");
        std::fs::create_dir(&folder).expect("a folder");
        let unpacked = unpack(&input[..], &folder, Bounds { entries: 500, bytes: 1 << 20 });
        knarr_sys::tree::remove(&folder).expect("what was unpacked can be removed");
        assert_eq!(names_in(home.path(), "layer"), ["secret"], "something was written outside");
        assert_eq!(std::fs::read(home.path().join("secret")).expect("the file"), b"as it was");
        told(&unpacked)
    });
}

#[test]
fn fuzz_image_manifests() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let texts = [
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {"digest": digest, "size": 1, "mediaType": "x"}, "layers": [{"digest": digest, "size": 5, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}]}),
        json!({"schemaVersion": 2, "manifests": [{"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": "amd64", "variant": "v8"}}]}),
        json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}, "config": {"User": "1:2", "Env": ["A=b"], "Cmd": ["x"], "Entrypoint": ["y"], "WorkingDir": "/"}}),
    ];
    fuzz(
        Target {
            name: "image manifests",
            form: Form::Json,
            seeds: seeds(texts.iter().map(Value::to_string)),
            words: &["manifests", "layers", "digest", "sha256:", "platform", "size"],
        },
        |input| {
            Compression::sniff(input);
            let config = ImageConfig::parse(input);
            let manifest = Document::parse(input);
            if let Ok(Document::Index(index)) = &manifest {
                let _: &Index = index;
                drop(index.select(&Platform::host()));
            }
            if let Ok(Document::Manifest(manifest)) = &manifest {
                let _: &Manifest = manifest;
            }
            let reference = knarr_runtime::image::Reference::from_str(&String::from_utf8_lossy(input));
            format!("{} {} {}", told(&config), told(&manifest), reference.is_ok())
        },
    );
}

#[test]
fn fuzz_image_references() {
    let texts = [
        "nginx",
        "docker.io/library/nginx:1.2",
        "localhost:5000/a/b@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "a.b/c_d/e--f:latest",
        "[::1]:5000/x",
    ];
    fuzz(Target { name: "image references", form: Form::Bytes, seeds: seeds(texts), words: &["/", ":", "@", "sha256:", ".", "-", "__"] }, |input| {
        let read = knarr_runtime::image::Reference::from_str(&String::from_utf8_lossy(input));
        if let Ok(reference) = &read {
            let written = reference.tagged().unwrap_or_else(|| reference.name());
            let again = knarr_runtime::image::Reference::from_str(&written).unwrap_or_else(|e| panic!("{written} is not read: {e}"));
            assert_eq!(again.name(), reference.name());
            reference.selector();
        }
        told(&read)
    });
}

#[test]
fn fuzz_spdy_frames() {
    let headers = |n: usize| (0..n).map(|i| (format!("name-{i}"), "value".to_owned())).collect::<Vec<_>>();
    let frames = [
        Frame::SynStream { id: 1, fin: false, headers: headers(3) },
        Frame::Data { id: 1, fin: true, data: b"abc".as_slice().into() },
        Frame::Ping { id: 7 },
        Frame::Headers { id: 5, fin: false, headers: headers(200) },
        Frame::Reset { id: 3, status: 5 },
        Frame::GoAway { last: 5 },
    ];
    let mut wire = BytesMut::new();
    let mut encoder = Encoder::default();
    frames.iter().for_each(|f| encoder.encode(f, &mut wire).expect("a frame"));
    fuzz(Target { name: "SPDY frames", form: Form::Bytes, seeds: vec![wire.to_vec()], words: &["\u{80}\u{3}", "\0\0\0\0"] }, |input| {
        let (mut decoder, mut left, mut count) = (Decoder::default(), BytesMut::from(input), 0);
        loop {
            match decoder.decode(&mut left) {
                Ok(Some(frame)) => {
                    count += 1;
                    if !matches!(frame, Frame::Ignored) {
                        let mut again = BytesMut::new();
                        if Encoder::default().encode(&frame, &mut again).is_ok() {
                            assert_eq!(Decoder::default().decode(&mut again), Ok(Some(frame)));
                        }
                    }
                }
                Ok(None) => return format!("{}", "f".repeat(count)),
                Err(error) => return error.to_string(),
            }
        }
    });
}

#[test]
fn fuzz_websocket_messages() {
    // Masked by zeros: a text, a binary message in two parts, a ping, a close.
    let wire: &[&[u8]] = &[
        b"\x82\x84\0\0\0\0\x00abc",
        b"\x02\x82\0\0\0\0\x00a\x80\x81\0\0\0\0b",
        b"\x89\x81\0\0\0\0p",
        b"\x81\x85\0\0\0\x000YWJj",
        b"\x82\x82\0\0\0\0\xff\x00",
        b"\x88\x82\0\0\0\0\x03\xe8",
    ];
    // Nothing here waits for anything outside: the clock stands until nobody has anything to do, so that a busy machine is no failure.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    let all = vec![wire.concat()].into_iter().chain(wire.iter().map(|w| w.to_vec())).collect();
    fuzz(Target { name: "WebSocket messages", form: Form::Bytes, seeds: all, words: &["\u{7f}", "\0\0\0\0"] }, |input| {
        runtime.block_on(async {
            let protocol = COMMAND_PROTOCOLS[input.len() % COMMAND_PROTOCOLS.len()];
            let (near, mut far) = tokio::io::duplex(256 << 10);
            let mut channels = Channels::start(near, protocol, &[0, 4]).await;
            for channel in [0, 4] {
                let mut reader = channels.reader(channel).expect("asked once");
                tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
            }
            tokio::io::AsyncWriteExt::write_all(&mut far, input).await.expect("there is room");
            tokio::io::AsyncWriteExt::shutdown(&mut far).await.expect("it can be ended");
            let ended = tokio::time::timeout(std::time::Duration::from_secs(5), channels.closed()).await;
            assert!(ended.is_ok(), "the connection is over, but nobody says so");
            let mut answer = Vec::new();
            drop(channels);
            tokio::time::timeout(std::time::Duration::from_secs(5), tokio::io::AsyncReadExt::read_to_end(&mut far, &mut answer)).await.ok();
            format!("{}", answer.escape_ascii().to_string().chars().take(20).collect::<String>())
        })
    });
}
