use knarr_core::{Value, ValueExt, json};

use super::{validate, validate_status, warnings};
use crate::strategy::Strategy;

/// A definition with this schema, as it comes to validation.
fn definition(schema: Value) -> Value {
    let mut definition = json!({"kind": "CustomResourceDefinition", "metadata": {"name": "foos.e.com"}, "spec": {
        "group": "e.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }});
    super::super::CustomResourceDefinition.default(&mut definition);
    definition
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn with_rules(mut schema: Value, rules: Value) -> Value {
    schema.set(&["x-kubernetes-validations"], rules);
    schema
}

fn errors(definition: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors: Vec<String> = validate(definition, old).iter().map(ToString::to_string).collect();
    errors.sort();
    errors
}

#[track_caller]
fn refused(schema: Value, wanted: &[&str]) {
    let wanted: Vec<String> = wanted.iter().map(|w| w.replace("SCHEMA", "spec.validation.openAPIV3Schema")).collect();
    assert_eq!(errors(&definition(schema), None), wanted);
}

const TRY: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";

#[test]
fn rules_must_compile_and_say_whether() {
    let spec = object(json!({"a": {"type": "string"}}));
    let rules = json!([
        {"rule": "self.b == 1"}, {"rule": "self.a"}, {"rule": "true", "messageExpression": "1"}, {"rule": "true", "optionalOldSelf": true},
        {"rule": "oldSelf.a == self.a", "optionalOldSelf": true},
    ]);
    let rule = |rule: &str, message: &str, optional: &str| {
        format!(r#"{{"Rule":"{rule}","Message":"","MessageExpression":"{message}","Reason":null,"FieldPath":"","OptionalOldSelf":{optional}}}"#)
    };
    let at = "SCHEMA.properties[spec].x-kubernetes-validations";
    refused(
        object(json!({"spec": with_rules(spec, rules)})),
        &[
            &format!(
                "{at}[0].rule: Invalid value: {}: compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b == 1\n | ....^",
                rule("self.b == 1", "", "null")
            ),
            &format!("{at}[1].rule: Invalid value: {}: cel expression must evaluate to a bool", rule("self.a", "", "null")),
            &format!("{at}[2].messageExpression: Invalid value: {}: messageExpression must evaluate to a string", rule("true", "1", "null")),
            &format!("{at}[3].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"),
            &format!("{at}[4].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"),
            &format!(
                "{at}[4].rule: Invalid value: {}: compilation failed: ERROR: <input>:1:11: found no matching overload for '_==_' applied to '(optional_type(string), string)'\n | oldSelf.a == self.a\n | ..........^",
                rule("oldSelf.a == self.a", "", "true")
            ),
        ],
    );
}

#[test]
fn rules_have_a_form() {
    let rules = json!([
        {"rule": " "}, {"rule": "true", "message": " "}, {"rule": "true", "message": "a\nb"}, {"rule": "true\n && true"}, {"rule": "true", "messageExpression": " "},
        {"rule": "true", "reason": "X"}, {"rule": "true", "fieldPath": ".z"}, {"rule": "true", "fieldPath": " "},
    ]);
    let at = "SCHEMA.properties[spec].x-kubernetes-validations";
    refused(
        object(json!({"spec": with_rules(object(json!({"a": {"type": "string"}})), rules)})),
        &[
            &format!("{at}[0].rule: Required value: rule is not specified"),
            &format!("{at}[1].message: Invalid value: \" \": must be non-empty if specified"),
            &format!("{at}[2].message: Invalid value: \"a\\nb\": must not contain line breaks"),
            &format!("{at}[3].message: Required value: message must be specified if rule contains line breaks"),
            &format!("{at}[4].messageExpression: Required value: messageExpression must be non-empty if specified"),
            &format!(
                "{at}[5].reason: Unsupported value: \"X\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
            &format!("{at}[6].fieldPath: Invalid value: \".z\": must be a valid path"),
            &format!("{at}[7].fieldPath: Invalid value: \" \": must be a valid path"),
            &format!("{at}[7].fieldPath: Invalid value: \" \": must be non-empty if specified"),
        ],
    );
}

#[test]
fn rules_cost_no_more_than_they_may() {
    let twice = json!([{"rule": "self.all(x, self.all(y, x == y))"}]);
    let list = json!({"type": "array", "items": {"type": "string"}});
    refused(
        object(json!({"l": with_rules(list.clone(), twice.clone())})),
        &[
            "SCHEMA.properties[l].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
            &format!("SCHEMA.properties[l].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {TRY}"),
            &format!(
                "SCHEMA: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {TRY}"
            ),
        ],
    );
    let short = json!({"type": "array", "maxItems": 100, "items": {"type": "string", "maxLength": 10}});
    refused(object(json!({"l": with_rules(short, twice)})), &[]);
    // What stands in a list runs for each of its items.
    let item = with_rules(json!({"type": "string", "maxLength": 1000}), json!([{"rule": "self.contains(self)"}]));
    refused(
        object(json!({"l": {"type": "array", "items": item, "maxItems": 100}})),
        &[&format!("SCHEMA.properties[l].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of 1.6x {TRY}")],
    );
}

#[test]
fn what_costs_too_much_may_stay_as_it_is() {
    let expensive = object(json!({"s": with_rules(json!({"type": "string", "maxLength": 20000}), json!([{"rule": "self.contains(self)"}]))}));
    let old = definition(expensive.clone());
    assert_eq!(errors(&old, None).len(), 1, "{:?}", errors(&old, None));
    let mut new = old.clone();
    new.set(&["metadata", "labels"], json!({"a": "b"}));
    assert_eq!(errors(&new, Some(&old)), [""; 0]);
    new.ensure(&["spec", "versions"])[0].set(&["schema", "openAPIV3Schema", "description"], "changed");
    assert_eq!(errors(&new, Some(&old)).len(), 1);
}

#[test]
fn transition_rules_need_something_to_compare_with() {
    let item = with_rules(json!({"type": "string", "maxLength": 5}), json!([{"rule": "self != oldSelf"}]));
    refused(
        object(json!({"l": {"type": "array", "maxItems": 5, "items": item}})),
        &[
            "SCHEMA.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self != oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within SCHEMA.properties[l]",
        ],
    );
    let item = with_rules(json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}}}), json!([{"rule": "self == oldSelf"}]));
    let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "maxItems": 5, "items": item});
    refused(object(json!({"l": list})), &[]);
}

#[test]
fn patterns_are_read_as_go_reads_them() {
    let with = |pattern: &str| object(json!({"name": {"type": "string", "pattern": pattern}}));
    refused(with(r#"^[^()<>@,;:\\"\/[\]?={} \t\x7f\x00]+$"#), &[]);
    refused(
        with("a{1001}"),
        &[
            "SCHEMA.properties[name].pattern: Invalid value: \"a{1001}\": must be a valid regular expression, but isn't: error parsing regexp: invalid repeat count: `{1001}`",
        ],
    );
}

#[test]
fn schemas_are_structural() {
    refused(json!({"type": "string"}), &["SCHEMA.type: Invalid value: \"string\": must be object at the root"]);
    refused(
        object(json!({"l": {"type": "array"}, "x": {}, "y": {"type": "foo"}, "z": {"type": "string", "pattern": "("}})),
        &[
            "SCHEMA.properties[l].items: Required value: must be specified",
            "SCHEMA.properties[x].type: Required value: must not be empty for specified object fields",
            "SCHEMA.properties[y].type: Unsupported value: \"foo\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            "SCHEMA.properties[z].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
        ],
    );
    refused(
        object(json!({"a": {"type": "object", "anyOf": [{"type": "string", "description": "x"}, {"properties": {"q": {"minimum": 1}}}]}})),
        &[
            "SCHEMA.properties[a].anyOf[0].description: Forbidden: must be empty to be structural",
            "SCHEMA.properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
        ],
    );
    refused(
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"properties": {"q": {"minimum": 1}}}]}),
        &["SCHEMA.properties[q]: Required value: because it is defined in SCHEMA.anyOf[0].properties[q]"],
    );
    refused(
        object(json!({"metadata": object(json!({"labels": {"type": "object", "additionalProperties": {"type": "string"}}}))})),
        &["SCHEMA.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"],
    );
    refused(object(json!({"i": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}})), &[]);
}

#[test]
fn defaults_are_what_the_schema_asks_for() {
    refused(
        object(json!({
            "a": {"type": "string", "default": 1},
            "b": {"type": "object", "properties": {"c": {"type": "string"}}, "default": {"d": 2}},
            "e": with_rules(json!({"type": "string", "maxLength": 5, "default": "x"}), json!([{"rule": "self != 'x'"}])),
        })),
        &[
            "SCHEMA.properties[a].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
            "SCHEMA.properties[b].default: Invalid value: {\"d\":2}: must not have unknown fields",
            "SCHEMA.properties[e].default: Invalid value: \"x\": failed rule: self != 'x'",
        ],
    );
}

#[test]
fn a_prefix_is_told_before_the_name() {
    let mut crd = definition(object(json!({"a": {"type": "string"}})));
    crd.set(&["metadata", "generateName"], "Gen_");
    crd.set(&["metadata", "name"], "Gen_abcde");
    let (form, wanted) = ("a lowercase RFC 1123 subdomain must consist", "must be spec.names.plural+\".\"+spec.group");
    let found: Vec<String> = validate(&crd, None).iter().map(ToString::to_string).filter(|e| e.starts_with("metadata.")).collect();
    let expected = [("generateName", form), ("generateName", wanted), ("name", form), ("name", wanted)];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, (field, why)) in found.iter().zip(expected) {
        assert!(found.starts_with(&format!("metadata.{field}: ")) && found.contains(why), "{found}");
    }
}

#[test]
fn names_scope_versions_and_columns() {
    let mut crd = definition(object(json!({"a": {"type": "string"}})));
    crd.set(&["spec", "group"], "x");
    crd.set(&["spec", "scope"], "World");
    crd.set(&["spec", "names", "listKind"], "Foo");
    crd.set(&["spec", "conversion"], json!({"strategy": "Webhook"}));
    let version = &mut crd.ensure(&["spec", "versions"])[0];
    version.set(&["additionalPrinterColumns"], json!([{"name": "", "type": "x", "jsonPath": "q"}]));
    version.set(&["selectableFields"], json!([{"jsonPath": ".b"}, {"jsonPath": ".a"}, {"jsonPath": ".a"}]));
    version.set(&["subresources"], json!({"scale": {"specReplicasPath": "x", "statusReplicasPath": ".spec.x"}}));
    assert_eq!(
        errors(&crd, None),
        [
            "metadata.name: Invalid value: \"foos.e.com\": must be spec.names.plural+\".\"+spec.group",
            "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"q\": must be a simple json path starting with .",
            "spec.additionalPrinterColumns[0].name: Required value",
            "spec.additionalPrinterColumns[0].type: Invalid value: \"x\": must be one of boolean,date,integer,number,string",
            "spec.conversion.conversionReviewVersions: Required value",
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
            "spec.group: Invalid value: \"x\": should be a domain with at least one dot",
            "spec.names.listKind: Invalid value: \"Foo\": kind and listKind may not be the same",
            "spec.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespaced\"",
            "spec.selectableFields[0].jsonPath: Invalid value: \".b\": is an invalid path: does not refer to a valid field",
            "spec.selectableFields[2].jsonPath: Duplicate value: \".a\"",
            "spec.subresources.scale.specReplicasPath: Invalid value: \"x\": must be a simple json path starting with .",
            "spec.subresources.scale.statusReplicasPath: Invalid value: \".spec.x\": should be a json path under .status",
        ]
    );
}

#[test]
fn an_established_definition_keeps_its_names_and_versions_with_data() {
    let mut old = definition(object(json!({"a": {"type": "string"}})));
    old.set(&["status", "conditions"], json!([{"type": "Established", "status": "True"}]));
    let mut new = old.clone();
    new.set(&["spec", "scope"], "Cluster");
    new.set(&["spec", "names", "plural"], "bars");
    new.ensure(&["spec", "versions"])[0].set(&["name"], "v2");
    new.set(&["status", "storedVersions"], json!(["v1", "v2"]));
    assert_eq!(
        errors(&new, Some(&old)),
        [
            "spec.names.plural: Invalid value: \"bars\": field is immutable",
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
            "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions",
        ]
    );
    new.set(&["status", "acceptedNames"], json!({"kind": "-"}));
    assert_eq!(validate_status(&new).len(), 1);
}

#[test]
fn groups_of_the_community_want_a_reason() {
    let mut crd = definition(object(json!({})));
    crd.set(&["spec", "group"], "x.k8s.io");
    crd.set(&["metadata", "name"], "foos.x.k8s.io");
    let missing = "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
    assert_eq!(errors(&crd, None), [missing]);
    for (text, fine) in [("unapproved, a test", true), ("https://github.com/kubernetes/enhancements/pull/1", true), ("yes", false)] {
        crd.set(&["metadata", "annotations"], json!({"api-approved.kubernetes.io": text}));
        assert_eq!(errors(&crd, None).is_empty(), fine, "{text}");
    }
    let told = |text: &str| {
        let mut crd = crd.clone();
        crd.set(&["metadata", "annotations"], json!({"api-approved.kubernetes.io": text}));
        super::approval_condition(&crd).map(|(status, reason, message)| format!("{status} {reason} {message}"))
    };
    assert_eq!(told("https://example.com/1").as_deref(), Some("True ApprovedAnnotation approved in https://example.com/1"));
    assert_eq!(told("unapproved, a test").as_deref(), Some("False UnapprovedAnnotation not approved: \"unapproved, a test\""));
    assert!(super::approval_condition(&definition(object(json!({})))).is_none());
}

#[test]
fn what_means_nothing_is_warned_of() {
    let crd = definition(object(json!({
        "a": {"type": "string", "format": "colour"}, "b": {"type": "integer", "format": "int32"},
        "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object", "x-kubernetes-map-type": "atomic"}},
    })));
    assert_eq!(
        warnings(&crd, None),
        [
            "unrecognized format \"colour\"",
            "x-kubernetes-list-type: set for items of type \"object\" is not supported by server-side apply or CEL validation rules"
        ]
    );
    assert_eq!(warnings(&crd, Some(&crd)), [""; 0]);
}
