//! The numbers are upstream's.

use std::sync::Arc;

use serde_json::json;

use super::{estimate, uses};
use crate::{
    Env, compile,
    schema::{Decl, Types},
};

/// Most that an expression costs on the data of a schema.
fn most(schema: &serde_json::Value, is_root: bool, source: &str) -> u64 {
    let decl = Decl::build(schema, is_root, "selfType");
    let of_self = decl.ty.clone().unwrap();
    let env = Env::new([("self", of_self.clone()), ("oldSelf", of_self)], Arc::new(Types::of([&decl])));
    estimate(compile(source, &env).unwrap().checked(), &decl).max
}

#[test]
fn limits_of_the_schema_bound_the_cost() {
    let schema = json!({"type": "object", "properties": {
        "s": {"type": "string", "maxLength": 10}, "t": {"type": "string"}, "e": {"type": "string", "enum": ["ab", "abc"]}, "i": {"type": "integer"},
        "b": {"type": "boolean"},
        "l": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 5}}, "lu": {"type": "array", "items": {"type": "string"}},
        "li": {"type": "array", "maxItems": 7, "items": {"type": "integer"}},
        "m": {"type": "object", "maxProperties": 6, "additionalProperties": {"type": "string", "maxLength": 5}},
        "lo": {"type": "array", "maxItems": 5, "items": {"type": "object", "properties": {"k": {"type": "string", "maxLength": 8}, "v": {"type": "integer"}}}},
        "o": {"type": "object", "properties": {"namespace": {"type": "string", "maxLength": 4}, "b-c": {"type": "string", "maxLength": 4}}},
        "ios": {"x-kubernetes-int-or-string": true},
    }});
    for (source, wanted) in TABLE {
        assert_eq!(most(&schema, false, source), *wanted, "{source}");
    }
}

const TABLE: &[(&str, u64)] = &[
    ("self.i == 1", 2),
    ("self.s == 'abc'", 3),
    ("self.t == self.s", 8),
    ("self.s.startsWith(self.t)", 314_577),
    ("self.t.contains(self.e)", 314_577),
    ("self.t.matches('a+b*')", 314_575),
    ("self.s + self.s == self.t", 22),
    ("self.s in self.l", 14),
    ("has(self.s)", 1),
    ("self.l.all(x, x == 'a')", 53),
    ("self.lu.all(x, x == 'a')", 5_242_878),
    ("self.l.map(x, x + 'b').exists(y, y == 'ab')", 224),
    ("self.l.filter(x, x != '').size() == 1", 155),
    ("self.lo.exists(x, self.lo.exists(y, x.k == y.k))", 338),
    ("self.m.all(k, k == 'a')", 27),
    ("self.m.all(k, self.m[k] == 'a')", 51),
    ("self.m.all(k, v, v == k)", 33),
    ("self.o.namespace == 'x'", 4),
    ("self.o.b__dash__c == 'x'", 4),
    ("self.?s.optMap(x, x + 'y').orValue('x') == 'abc'", 1_844_674_407_370_955_284),
    ("(self.b ? self.s : self.t) == 'b'", 5),
    ("(self.b ? self.l : self.lu).all(x, x == 'a')", 4_194_305),
    ("self.b && self.s == 'x' || self.i == 1", 7),
    ("type(self.ios) == string && self.ios.matches('a')", 314_579),
    ("dyn(self.l) == self.l", 6),
    ("(self.l + self.lu).all(x, x == 'a')", 4_194_346),
    ("self.l.isSorted()", 32),
    ("self.lu.isSorted()", 329_854_432_052),
    ("self.s.indexOf('a') == 1", 7),
    ("self.s.lowerAscii() == self.t", 12),
    ("self.s.replace('a', 'bcd') == self.t", 24),
    ("self.s.replace(self.s, self.t).contains('a')", 12_897_495),
    ("self.s.split(',').all(x, x == 'a')", 171),
    ("self.s.split(',', 2).size() == 2", 12),
    ("self.l.join(',').contains('a')", 44),
    ("'%s %d'.format([self.s, self.i]) == 'b'", 16),
    ("self.s.findAll('[0-9]').size() == 1", 14),
    ("url(self.s) == url(self.t)", 629_154),
    ("cidr(self.s).containsIP(self.t)", 314_585),
    ("cidr(self.s).containsCIDR(self.s)", 19),
    ("quantity(self.s) == quantity(self.s)", 13),
    ("format.dns1123Label().validate(self.s).hasValue()", 132),
    ("sets.equivalent(self.l, self.l)", 205),
    ("self.l.slice(0, 2).all(x, x == 'a')", 24),
    ("lists.range(5).all(x, x < 6)", 42),
    ("self.l.distinct().size() == 1", 215),
    ("self.l.sort() == self.l", 226),
    ("self.li.sort()[0] == 1", 112),
    ("self.lo.sortBy(x, x.v)[0].v == 1", 159),
    ("self.l.transformList(i, v, v + 'a').size() == 1", 175),
    ("self.m.transformMapEntry(k, v, {v: k}).size() == 1", 239),
    ("[self.s, self.t].all(x, x == 'a')", 23),
    ("{'a': self.s}['a'] == self.t", 39),
    ("self == oldSelf", 2),
    ("oldSelf.l.all(x, x in self.l)", 163),
];

#[test]
fn names_of_resources_have_a_limit() {
    let schema = json!({"type": "object"});
    assert_eq!(most(&schema, true, "self.metadata.name.contains('x')"), 105);
    assert_eq!(most(&schema, true, "self.metadata.generateName == self.metadata.name"), 107);
}

#[test]
fn what_nothing_bounds_is_bounded_by_the_size_of_a_request() {
    let list = |items: serde_json::Value| json!({"type": "array", "items": items});
    assert_eq!(most(&list(json!({"type": "number"})), false, "self.all(x, true)"), 4_718_591);
    assert_eq!(most(&list(json!({"type": "string"})), false, "self.all(x, true)"), 3_145_727);
    assert_eq!(most(&json!({"type": "object", "additionalProperties": {"type": "number"}}), false, "self.all(x, true)"), 1_348_169);
    assert_eq!(most(&json!({"type": "string"}), false, "self.contains(self)"), 98_956_172_331);
}

#[test]
fn transition_rules_are_recognised() {
    let env = Env::new([("self", crate::Type::Int), ("oldSelf", crate::Type::Int)], Arc::new(crate::env::NoTypes));
    let transition = |source: &str| uses(compile(source, &env).unwrap().checked(), "oldSelf");
    assert!(transition("self >= oldSelf") && transition("[1].all(x, x < oldSelf)") && !transition("self == 1"));
}
