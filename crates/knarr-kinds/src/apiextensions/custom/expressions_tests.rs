use knarr_core::{Value, ValueExt, field::Path, json};

use super::*;

/// Errors, warnings and cost of an object, as upstream has them.
fn evaluated(schema: &Value, object: &Value, old: Option<&Value>) -> (Vec<String>, Vec<String>, u64) {
    let rules = Expressions::new(schema, false).expect("there are rules");
    let found = rules.evaluate(&Path::root(), object, old, &Schema::new(schema), true);
    (found.errors.iter().map(ToString::to_string).collect(), found.warnings, found.cost)
}

fn errors(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    evaluated(schema, object, old).0
}

fn with_rules(mut schema: Value, rules: Value) -> Value {
    schema.set(&["x-kubernetes-validations"], rules);
    schema
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

#[test]
fn a_broken_rule_is_told_as_it_wants() {
    let numbers = object(json!({"a": {"type": "integer"}, "b": {"type": "integer"}}));
    let rules = json!([
        {"rule": "self.a > self.b"}, {"rule": "self.a < 3", "message": "too large "}, {"rule": "self.a != 5", "messageExpression": "'a is ' + string(self.a)"},
        {"rule": "self.b == 0", "reason": "FieldValueForbidden", "fieldPath": ".b"}, {"rule": "false", "reason": "FieldValueRequired"},
        {"rule": "false", "reason": "FieldValueDuplicate"}, {"rule": "false", "messageExpression": "string(1 / 0)", "message": "instead"},
        {"rule": "self.a / 0 == 1"},
    ]);
    let (found, _, cost) = evaluated(&with_rules(numbers, rules), &json!({"a": 5, "b": 9}), None);
    assert_eq!(
        found,
        [
            "<nil>: Invalid value: failed rule: self.a > self.b",
            "<nil>: Invalid value: too large",
            "<nil>: Invalid value: a is 5",
            "b: Forbidden: failed rule: self.b == 0",
            "<nil>: Required value: failed rule: false",
            "<nil>: Duplicate value",
            "<nil>: Invalid value: instead",
            "<nil>: Invalid value: \"object\": division by zero evaluating rule: self.a / 0 == 1",
        ]
    );
    assert_eq!(cost, 24);
    let text = object(
        json!({"a": with_rules(json!({"type": "string"}), json!([{"rule": "self == 'x'"}, {"rule": "size(self) < 2", "reason": "FieldValueDuplicate"}]))}),
    );
    assert_eq!(errors(&text, &json!({"a": "yy"}), None), ["a: Invalid value: \"yy\": failed rule: self == 'x'", "a: Duplicate value: \"yy\""]);
}

#[test]
fn transition_rules_wait_for_something_old() {
    let same = json!([{"rule": "self == oldSelf", "message": "may not change"}]);
    let first = json!([{"rule": "oldSelf.hasValue() ? self == oldSelf.value() : self == 'new'", "optionalOldSelf": true, "message": "begins as new"}]);
    let schema = object(json!({"a": with_rules(json!({"type": "string"}), same), "b": with_rules(json!({"type": "string"}), first)}));
    let new = json!({"a": "x", "b": "y"});
    assert_eq!(errors(&schema, &new, None), ["b: Invalid value: \"y\": begins as new"]);
    assert_eq!(errors(&schema, &new, Some(&json!({"a": "z", "b": "y"}))), ["a: Invalid value: \"x\": may not change"]);
    assert_eq!(errors(&schema, &new, Some(&new)), [""; 0]);
}

#[test]
fn what_did_not_change_may_stay_wrong() {
    let bad = json!([{"rule": "self == 'x'"}]);
    let schema = object(json!({"a": with_rules(json!({"type": "string"}), bad), "b": {"type": "string"}}));
    let (found, warnings, _) = evaluated(&schema, &json!({"a": "bad", "b": "1"}), Some(&json!({"a": "bad", "b": "0"})));
    assert_eq!((found.len(), &warnings[..]), (0, &["a: Invalid value: \"bad\": failed rule: self == 'x'".to_owned()][..]));
    let whole = with_rules(object(json!({"a": {"type": "string"}, "b": {"type": "string"}})), json!([{"rule": "self.a == 'x'"}]));
    assert_eq!(errors(&whole, &json!({"a": "bad", "b": "1"}), Some(&json!({"a": "bad", "b": "0"}))).len(), 1);
    // Items of a map are known by their keys, those of other lists only as a whole.
    let item = with_rules(object(json!({"k": {"type": "string"}, "v": {"type": "integer"}})), json!([{"rule": "self.v > 3"}, {"rule": "self.v >= oldSelf.v"}]));
    let list = object(json!({"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item}}));
    let new = json!({"l": [{"k": "a", "v": 1}, {"k": "b", "v": 2}, {"k": "c", "v": 1}]});
    let (found, warnings, _) = evaluated(&list, &new, Some(&json!({"l": [{"k": "b", "v": 2}, {"k": "a", "v": 2}]})));
    assert_eq!(
        (found, warnings),
        (
            vec![
                "l[0]: Invalid value: failed rule: self.v > 3".to_owned(),
                "l[0]: Invalid value: failed rule: self.v >= oldSelf.v".to_owned(),
                "l[2]: Invalid value: failed rule: self.v > 3".to_owned(),
            ],
            vec!["l[1]: Invalid value: failed rule: self.v > 3".to_owned()]
        )
    );
    let plain = object(json!({"l": {"type": "array", "items": with_rules(json!({"type": "integer"}), json!([{"rule": "self > 3"}]))}}));
    let old = json!({"l": [1, 2]});
    assert_eq!((errors(&plain, &json!({"l": [1, 2]}), Some(&old)).len(), errors(&plain, &json!({"l": [1, 2, 3]}), Some(&old)).len()), (0, 3));
}

#[track_caller]
fn holds(schema: Value, object: Value, rules: &[&str]) {
    for rule in rules {
        assert_eq!(errors(&with_rules(schema.clone(), json!([{"rule": rule}])), &object, None), [""; 0], "{rule}");
    }
}

#[test]
fn values_are_read_by_their_schema() {
    let text = || json!({"type": "string"});
    holds(
        object(
            json!({"ios": {"x-kubernetes-int-or-string": true}, "b-c": {"type": "integer"}, "namespace": text(), "a.b/c": text(), "x__y": text(), "n": {"type": "number"},
            "d": {"type": "string", "format": "duration"}, "t": {"type": "string", "format": "date-time"}, "y": {"type": "string", "format": "byte"},
            "o": {"type": "object", "nullable": true, "properties": {"a": text()}}}),
        ),
        json!({"ios": "5%", "b-c": 1, "namespace": "n", "a.b/c": "x", "x__y": "z", "n": 1, "d": "2h", "t": "2020-01-01T00:00:00Z", "y": "aGk=", "o": null}),
        &[
            "type(self.ios) == string && self.ios.endsWith('%')",
            "self.b__dash__c == 1 && self.namespace == 'n' && self.__namespace__ == 'n' && self.a__dot__b__slash__c == 'x' && self.x__underscores__y == 'z'",
            "self.n == 1.0 && self.d > duration('1h') && self.t.getFullYear() == 2020 && self.y == b'hi'",
            "!has(self.o) && !self.?o.hasValue()",
        ],
    );
    let set = |kind: &str| json!({"type": "array", "x-kubernetes-list-type": kind, "items": text()});
    holds(
        object(json!({"s": set("set"), "t": set("set"), "a": set("atomic")})),
        json!({"s": ["a", "b"], "t": ["b", "a"], "a": ["b", "a"]}),
        &["self.s == self.t && self.s + self.t == self.s && self.a != self.s && self.s == self.a", "size(self.s + ['a']) == 2 && size(self.a + ['a']) == 3"],
    );
    let map = with_rules(
        object(
            json!({"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": object(json!({"k": text(), "v": {"type": "integer"}}))}}),
        ),
        json!([{"rule": "self.l == oldSelf.l"}, {"rule": "(oldSelf.l + self.l)[0].v == 1 && size(oldSelf.l + self.l) == 2"}]),
    );
    let (a, b) = (json!({"k": "a", "v": 1}), json!({"k": "b", "v": 2}));
    assert_eq!(
        errors(&map, &json!({"l": [a, b]}), Some(&json!({"l": [b, a]}))),
        ["<nil>: Invalid value: failed rule: (oldSelf.l + self.l)[0].v == 1 && size(oldSelf.l + self.l) == 2"]
    );
}

#[test]
fn roots_and_embedded_resources_show_their_names() {
    let schema = with_rules(
        object(
            json!({"e": with_rules(json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}), json!([{"rule": "self.metadata.name == 'p'"}]))}),
        ),
        json!([{"rule": "self.kind == 'Foo' && self.apiVersion == 'g/v1' && self.metadata.name.startsWith('n') && !has(self.metadata.generateName) && self.e.kind == 'Pod'"}]),
    );
    let foo = json!({"kind": "Foo", "apiVersion": "g/v1", "metadata": {"name": "n", "labels": {}}, "e": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "q"}, "spec": {}}});
    let rules = Expressions::new(&schema, true).unwrap();
    let found = rules.evaluate(&Path::root(), &foo, None, &Schema::new(&schema), true);
    assert_eq!(found.errors.iter().map(ToString::to_string).collect::<Vec<_>>(), ["e: Invalid value: failed rule: self.metadata.name == 'p'"]);
}

#[test]
fn rules_end_when_they_cost_too_much() {
    let list = json!(vec!["x".repeat(50); 2000]);
    let squares = with_rules(
        object(json!({"l": {"type": "array", "items": {"type": "string"}}})),
        json!([{"rule": "self.l.all(x, self.l.all(y, x == y))"}, {"rule": "false"}]),
    );
    assert_eq!(
        errors(&squares, &json!({"l": list}), None),
        [
            "<nil>: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.l.all(x, self.l.all(y, x == y))"
        ]
    );
    // Each is cheap, together they are not.
    let each = object(
        json!({"l": {"type": "array", "items": with_rules(json!({"type": "string"}), json!([{"rule": "self.matches('^(a|b|x|y|z)*(a|b|x|y|z)*$')"}]))}}),
    );
    let (found, _, cost) = evaluated(&each, &json!({"l": vec!["x".repeat(2000); 9000]}), None);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].ends_with("]: Invalid value: \"string\": validation failed due to running out of cost budget, no further validation rules will be run"),
        "{found:?}"
    );
    assert!(cost <= RUNTIME_BUDGET);
}
