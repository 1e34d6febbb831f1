//! What a client's JSON becomes, and what it is told when it is wrong.

use knarr_core::{deep, json};

use super::*;
use crate::registry::Registry;

fn resource(plural: &str) -> &'static Resource {
    static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);
    REGISTRY.all().iter().find(|r| r.plural == plural).unwrap()
}

fn decode(plural: &str, body: &str, validation: FieldValidation) -> Result<Decoded> {
    decode_json(resource(plural), body.as_bytes(), validation)
}

#[track_caller]
fn refused(plural: &str, body: &str, wanted: &str) {
    let error = decode(plural, body, FieldValidation::Strict).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, wanted));
}

#[test]
fn a_body_becomes_what_go_would_write_again() {
    let body = r#"{"metadata":{"name":"p","creationTimestamp":null,"labels":{}},"spec":{"hostNetwork":false,"priority":0,
        "containers":[{"name":"c","resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}},"readinessProbe":{"httpGet":{"port":"web"}},"ports":[]},null],
        "volumes":null,"activeDeadlineSeconds":null}}"#;
    assert_eq!(
        decode("pods", body, FieldValidation::Strict).unwrap().value,
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "status": {}, "spec": {"priority": 0, "containers": [
            {"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}, "readinessProbe": {"httpGet": {"port": "web"}}}, {"name": "", "resources": {}}]}})
    );
}

#[test]
fn what_was_read_back_from_protobuf_is_read_alike_from_its_json() {
    for (name, json, protobuf) in super::tests::fixtures() {
        let kind = Envelope::open(&protobuf).unwrap();
        let (group, version) = kind.group_version();
        let at_rest = Object { encoding: Encoding::Protobuf, resource_version: 0, bytes: protobuf.clone().into() };
        let tree = to_value(&at_rest).unwrap();
        if kind.kind == "List" || kind.kind.ends_with("List") {
            continue;
        }
        let decoded = decode_json_kind(&GroupVersionKind::new(group, version, kind.kind), json.as_bytes(), FieldValidation::Strict);
        assert_eq!(decoded.map(|d| d.value).map_err(|e| e.message), Ok(tree), "{name}");
    }
}

#[test]
fn unknown_and_duplicate_fields_are_told_with_their_paths() {
    let body = r#"{"kind":"Deployment","apiVersion":"apps/v1","spec":{"replicas":1,"replicas":2,"foo":{"a":[1]},"template":{"spec":{"containers":[{"name":"a"},{"Name":"b","env":[{"bar":1}]}]}}},"Kind":"x"}"#;
    let told = [
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "spec.foo""#,
        r#"unknown field "spec.template.spec.containers[1].Name""#,
        r#"unknown field "spec.template.spec.containers[1].env[0].bar""#,
        r#"unknown field "Kind""#,
    ];
    let warned = decode("deployments", body, FieldValidation::Warn).unwrap();
    assert_eq!(warned.warnings, told);
    assert_eq!(warned.value["spec"]["replicas"], 2);
    assert!(decode("deployments", body, FieldValidation::Ignore).unwrap().warnings.is_empty());
    refused("deployments", body, &format!(r#"Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: {}"#, told.join(", ")));
}

#[test]
fn an_empty_list_is_kept_where_it_is_refused_and_nowhere_else() {
    let tree = |plural: &str, body: &str| decode(plural, body, FieldValidation::Ignore).unwrap().value;
    assert_eq!(tree("pods", r#"{"spec":{"overhead":{},"nodeSelector":{}}}"#)["spec"].get("overhead"), Some(&json!({})));
    assert_eq!(tree("pods", r#"{"spec":{"overhead":{},"nodeSelector":{}}}"#)["spec"].get("nodeSelector"), None);
    assert_eq!(tree("deployments", r#"{"spec":{"template":{"spec":{"overhead":{}}}}}"#)["spec"]["template"]["spec"].get("overhead"), None);
}

#[test]
fn values_of_a_wrong_type_are_refused_in_gos_words() {
    let deployment = r#"Deployment in version "v1" cannot be handled as a Deployment: "#;
    for (spec, wanted) in [
        (r#"{"replicas":"a"}"#, "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"replicas":1.5}"#, "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"replicas":3000000000}"#, "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32"),
        (r#"{"paused":[]}"#, "json: cannot unmarshal array into Go struct field DeploymentSpec.spec.paused of type bool"),
        (
            r#"{"template":{"spec":{"containers":{}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            r#"{"template":{"spec":{"nodeSelector":{"a":1}}}}"#,
            "json: cannot unmarshal number into Go struct field PodSpec.spec.template.spec.nodeSelector of type string",
        ),
        (
            r#"{"template":{"spec":{"volumes":[{"emptyDir":1}]}}}"#,
            "json: cannot unmarshal number into Go struct field Volume.spec.template.spec.volumes.VolumeSource.emptyDir of type v1.EmptyDirVolumeSource",
        ),
        (
            r#"{"strategy":{"rollingUpdate":{"maxSurge":true}}}"#,
            "json: cannot unmarshal bool into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32",
        ),
        (r#"{"template":{"spec":{"overhead":{"cpu":"1x"}}}}"#, "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        (r#"{"template":{"metadata":{"creationTimestamp":"x"}}}"#, r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#),
        (
            r#"{"template":{"spec":{"containers":[{"imagePullPolicy":1}]}}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        (
            r#"{"template":{"spec":{"containers":[{"resources":{"limits":[]}}]}}}"#,
            "json: cannot unmarshal array into Go struct field ResourceRequirements.spec.template.spec.containers.resources.limits of type v1.ResourceList",
        ),
        (
            r#"{"template":{"spec":{"containers":[{"securityContext":{"capabilities":{"add":[1]}}}]}}}"#,
            "json: cannot unmarshal number into Go struct field Capabilities.spec.template.spec.containers.securityContext.capabilities.add of type v1.Capability",
        ),
        ("3", "json: cannot unmarshal number into Go struct field Deployment.spec of type v1.DeploymentSpec"),
    ] {
        refused("deployments", &format!(r#"{{"spec":{spec}}}"#), &format!("{deployment}{wanted}"));
    }
    refused("secrets", r#"{"data":{"a":"b!"}}"#, r#"Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 1"#);
}

#[test]
fn a_body_that_is_something_else_is_refused_in_upstreams_words() {
    let unrecognized = "the object provided is unrecognized (must be of type Pod): ";
    refused("pods", "", &format!("{unrecognized}couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"));
    refused(
        "pods",
        "{\"spec\":{\"containers\":[}, and more",
        &format!(
            "{unrecognized}couldn't get version/kind; json parse error: invalid character '}}' looking for beginning of value ({{\"spec\":{{\"containers\":[}}, and  ...)"
        ),
    );
    refused(
        "pods",
        "[]",
        &format!(
            r#"{unrecognized}couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct {{ APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }} (5b5d)"#
        ),
    );
    refused("pods", r#"{"apiVersion":"a/b/c"}"#, &format!(r#"{unrecognized}unexpected GroupVersion string: a/b/c ({{"apiVersion":"a/b/c"}})"#));
    refused(
        "pods",
        r#"{"kind":"Service","apiVersion":"v1"}"#,
        r#"Service in version "v1" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion"#,
    );
    refused(
        "pods",
        r#"{"kind":"Nope"}"#,
        r#"Nope in version "v1" cannot be handled as a Pod: no kind "Nope" is registered for version "v1" in scheme "pkg/runtime/scheme.go:111""#,
    );
    refused(
        "deployments",
        r#"{"kind":"Deployment","apiVersion":"apps/v1beta1"}"#,
        "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)",
    );
}

#[test]
fn custom_resources_keep_everything_and_tell_duplicates() {
    let registry = Registry::builtin();
    let mut resource = (**registry.by_resource("", "v1", "pods").unwrap()).clone();
    (resource.group, resource.kind, resource.type_id) = ("example.com".into(), "Widget".into(), None);
    resource.custom = Some(std::sync::Arc::new(crate::registry::Custom {
        definition: String::new(),
        schema: std::sync::Arc::new((&Value::Null).into()),
        selectable_fields: vec![],
        status_subresource: false,
        scale: None,
        preserve_unknown_fields: true,
    }));
    let body = r#"{"kind":"Widget","apiVersion":"example.com/v1","spec":{"n":1,"x":1.0,"big":18446744073709551615,"l":[{"a":1,"a":null}]}}"#;
    let decoded = decode_json(&resource, body.as_bytes(), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, [r#"duplicate field "spec.l[0].a""#]);
    assert_eq!(decoded.value["spec"], json!({"n": 1, "x": 1.0, "big": 18446744073709551615_f64, "l": [{"a": null}]}));
    let missing = decode_json(&resource, b"{\"a\":1}", FieldValidation::Ignore).unwrap_err();
    assert_eq!(missing.message, r#"the object provided is unrecognized (must be of type Widget): Object 'Kind' is missing in '{"a":1}' ({"a":1})"#);
}

/// A value within so many lists or objects.
fn nested(open: &str, depth: usize) -> String {
    let close = if open == "[" { "]" } else { "}" };
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

#[test]
fn bodies_are_nested_as_deep_as_go_reads_them() {
    deep::run(|| {
        for open in ["[", "{\"a\":"] {
            for (depth, is_read) in [(9_998, true), (9_999, false), (100_000, false)] {
                let unknown = format!(r#"{{"spec":{{"unknown":{}}}}}"#, nested(open, depth));
                let kept = format!("{{\"data\":{}}}", nested(open, depth + 1));
                for (kind, body) in [("pods", unknown), ("controllerrevisions", kept)] {
                    let read = decode(kind, &body, FieldValidation::Ignore);
                    assert_eq!(read.is_ok(), is_read, "{kind} {open} {depth}");
                    assert_eq!((parse_json(body.as_bytes()).is_ok(), is_json(body.as_bytes())), (is_read, is_read), "{open} {depth}");
                    if let Ok(read) = read {
                        assert!(!encode_stored(resource(kind), &read.value).unwrap().is_empty());
                    }
                }
            }
        }
        let error = decode("controllerrevisions", &format!("{{\"data\":{}}}", nested("[", 10_000)), FieldValidation::Strict).unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.contains("couldn't get version/kind; json parse error: invalid character '[' exceeded max depth"), "{}", error.message);
    });
}

#[test]
fn what_was_written_with_managed_fields_is_read_again() {
    deep::run(|| {
        let json = nested("{\"f:a\":", DEPTH_MAX + 4);
        assert_eq!(parse_json(json.as_bytes()).unwrap_err(), "invalid character '{' exceeded max depth");
        assert_eq!(deep::depth(&parse_at_rest(json.as_bytes()).unwrap()), DEPTH_MAX + 4);
    });
}

#[test]
fn null_is_an_object_without_fields() {
    assert_eq!(decode("configmaps", "null", FieldValidation::Strict).unwrap().value, decode("configmaps", "{}", FieldValidation::Strict).unwrap().value);
}

#[test]
fn options_are_read_by_a_decoder_of_few_words() {
    let kind = GroupVersionKind::new("", "v1", "DeleteOptions");
    let read = |body: &str| decode_options(&kind, body.as_bytes());
    for body in ["null", "{}", r#"{"apiVersion":"apps/v1","kind":"DeleteOptions","unknown":1e400}"#] {
        assert_eq!(read(body).unwrap(), serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1"}), "{body}");
    }
    let wanted = r#"Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    assert_eq!(read("true").unwrap_err().message, format!("couldn't get version/kind; json parse error: json: cannot unmarshal bool into {wanted}"));
    assert!(read(r#"{"kind":"Pod","apiVersion":"v1"}"#).unwrap_err().message.starts_with("no kind \"Pod\" is registered for version \"v1\""));
    assert!(read(r#"{"gracePeriodSeconds":"x"}"#).unwrap_err().message.starts_with("json: cannot unmarshal string into Go struct field"));
}

#[test]
fn what_is_as_deep_as_allowed_survives_all_ways() {
    // Object, spec, versions, item, schema, openAPIV3Schema are levels too.
    let schema = format!("{}{{}}{}", r#"{"items":"#.repeat(250), "}".repeat(250));
    let body = format!(r#"{{"spec":{{"versions":[{{"schema":{{"openAPIV3Schema":{schema}}}}}]}}}}"#);
    let tree = decode("customresourcedefinitions", &body, FieldValidation::Strict).unwrap().value;
    let at_rest = with_resource_version(&encode_protobuf(&tree).unwrap(), 1);
    let mut json = Vec::new();
    write_json(&at_rest, &mut json);
    assert_eq!(json, encode_json(&to_value(&at_rest).unwrap()));
    let data = format!("{{\"data\":{}1{}}}", "[".repeat(250), "]".repeat(250));
    let tree = decode("controllerrevisions", &data, FieldValidation::Strict).unwrap().value;
    assert_eq!(to_value(&with_resource_version(&encode_protobuf(&tree).unwrap(), 1)).unwrap()["data"], tree["data"]);
}

#[test]
fn declared_defaults_fill_what_is_absent() {
    let id = types::of_kind("", "v1", "Service").unwrap();
    let mut service = json!({"spec": {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}});
    apply_declared_defaults(id, &mut service);
    assert_eq!(service, json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}));
    let id = types::of_kind("", "v1", "ReplicationController").unwrap();
    let mut scaled_to_zero = json!({"spec": {"replicas": 0}});
    apply_declared_defaults(id, &mut scaled_to_zero);
    assert_eq!(scaled_to_zero, json!({"spec": {"replicas": 0}}));
}
