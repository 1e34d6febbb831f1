//! Equality as the API means it (upstream: `apiequality.Semantic`): an empty list or map is an absent one, a value that Go cannot
//! leave out is its zero, quantities are equal when their amounts are. What is a pointer, and so differs when it is absent, the
//! type table knows.

use knarr_core::{GroupVersion, Map, Value, ValueExt, quantity::Quantity};
use knarr_schema::internal::Step;
use knarr_schema::types::{self, Field, Shape, TypeId};

use crate::tree::is_zero;

/// Whether two objects of one kind mean the same at a path. Without a type (custom resources) it is plain equality.
pub fn same_at(a: &Value, b: &Value, path: &[&str]) -> bool {
    let (x, y) = (a.at(path), b.at(path));
    match root_shape(a).or_else(|| root_shape(b)).and_then(|root| at(root, path)) {
        Some(found) => found.same(x, y),
        None => x == y,
    }
}

/// Whether two values at a place below an object of this type mean the same; `None` where the type has no such place.
pub fn same_below(root: TypeId, steps: &[Step<'_>], a: Option<&Value>, b: Option<&Value>) -> Option<bool> {
    let root = Place { shape: Shape::Struct(root), pointer: false };
    let place = steps.iter().try_fold(root, |place, step| match (place.shape, step) {
        (Shape::Struct(id), Step::Field(name)) => types::get(id).field(name).map(Place::of),
        (Shape::List(item), Step::Item) | (Shape::Map(item), Step::Entry) => Some(Place { shape: *item, pointer: false }),
        _ => None,
    })?;
    Some(place.same(a, b))
}

/// Whether two values mean the same, where nothing says of what type they are.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (present(a), present(b)) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => keys(a, b).all(|key| same(a.get(key), b.get(key))),
        (Some(Value::Array(a)), Some(Value::Array(b))) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b))),
        (a, b) => a == b,
    }
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null() && v.as_array().is_none_or(|list| !list.is_empty()))
}

fn keys<'a>(a: &'a Map<String, Value>, b: &'a Map<String, Value>) -> impl Iterator<Item = &'a String> {
    a.keys().chain(b.keys().filter(|k| !a.contains_key(*k)))
}

/// What stands at a place: a shape, behind a pointer or not.
#[derive(Clone, Copy)]
struct Place {
    shape: Shape,
    pointer: bool,
}

fn root_shape(object: &Value) -> Option<Place> {
    let version = GroupVersion::parse(object.str_at(&["apiVersion"])?)?;
    let id = types::of_kind(&version.group, &version.version, object.str_at(&["kind"])?)?;
    Some(Place { shape: Shape::Struct(id), pointer: false })
}

fn at(root: Place, path: &[&str]) -> Option<Place> {
    path.iter().try_fold(root, |place, key| match place.shape {
        Shape::Struct(id) => types::get(id).field(key).map(Place::of),
        Shape::Map(item) => Some(Place { shape: *item, pointer: false }),
        _ => None,
    })
}

impl Place {
    fn of(field: &'static Field) -> Self {
        Self { shape: field.shape, pointer: field.pointer }
    }

    fn same(self, a: Option<&Value>, b: Option<&Value>) -> bool {
        let (a, b) = (a.filter(|v| !v.is_null()), b.filter(|v| !v.is_null()));
        match (self.shape, a, b) {
            (Shape::List(_) | Shape::Map(_) | Shape::Bytes | Shape::NamedList(_), a, b) => {
                self.same_collections(a.filter(|v| !is_zero(v)), b.filter(|v| !is_zero(v)))
            }
            (_, None, None) => true,
            (_, Some(a), Some(b)) => self.same_values(a, b),
            (_, Some(only), None) | (_, None, Some(only)) => !self.pointer && self.is_zero(only),
        }
    }

    fn same_collections(self, a: Option<&Value>, b: Option<&Value>) -> bool {
        let item = |shape: &Shape| Place { shape: *shape, pointer: false };
        match (self.shape, a, b) {
            (_, None, None) => true,
            (Shape::List(shape), Some(Value::Array(a)), Some(Value::Array(b))) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| item(shape).same(Some(a), Some(b)))
            }
            (Shape::Map(shape), Some(Value::Object(a)), Some(Value::Object(b))) => {
                a.len() == b.len() && a.iter().all(|(key, x)| b.get(key).is_some_and(|y| item(shape).same(Some(x), Some(y))))
            }
            (_, a, b) => a == b,
        }
    }

    fn same_values(self, a: &Value, b: &Value) -> bool {
        match (self.shape, a, b) {
            (Shape::Struct(id), Value::Object(a), Value::Object(b)) => keys(a, b).all(|key| same_fields(types::get(id).field(key), a.get(key), b.get(key))),
            (Shape::Quantity, a, b) => a == b || Quantity::from_json(a).is_some_and(|a| Quantity::from_json(b) == Some(a)),
            (_, a, b) => a == b,
        }
    }

    /// Whether a value is what Go has there when nothing was said.
    fn is_zero(self, value: &Value) -> bool {
        match (self.shape, value) {
            (Shape::Struct(id), Value::Object(map)) => map.iter().all(|(key, v)| same_fields(types::get(id).field(key), Some(v), None)),
            (Shape::Quantity, value) => Quantity::from_json(value).is_some_and(|q| q.is_zero()),
            (_, value) => is_zero(value),
        }
    }
}

fn same_fields(field: Option<&'static Field>, a: Option<&Value>, b: Option<&Value>) -> bool {
    field.map_or_else(|| same(a, b), |field| Place::of(field).same(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: &str, path: &[&str], cases: &[(Value, Value, bool)]) {
        let object = |v: &Value| {
            let version = if kind == "Pod" { "v1" } else { "networking.k8s.io/v1" };
            let mut o = json!({"apiVersion": version, "kind": kind});
            o.set(path, v.clone());
            o
        };
        for (a, b, wanted) in cases {
            assert_eq!(same_at(&object(a), &object(b), path), *wanted, "{a} {b}");
        }
    }

    #[test]
    fn zero_values_are_absent_and_pointers_are_not() {
        check(
            "Pod",
            &["spec"],
            &[
                (json!({"containers": []}), json!({}), true),
                (json!({"hostNetwork": false, "nodeName": ""}), json!({}), true),
                (json!({"automountServiceAccountToken": false}), json!({}), false),
                (json!({"securityContext": {}}), json!({}), false),
                (json!({"containers": [{"resources": {}}]}), json!({"containers": [{}]}), true),
                (json!({"containers": [{"resources": {"limits": {"cpu": "1"}}}]}), json!({"containers": [{"resources": {"limits": {"cpu": "1000m"}}}]}), true),
                (json!({"containers": [{"resources": {"limits": {"cpu": "0"}}}]}), json!({"containers": [{"resources": {}}]}), false),
            ],
        );
        check(
            "NetworkPolicy",
            &["spec"],
            &[
                (json!({"podSelector": {}}), json!({}), true),
                (json!({"ingress": [{"from": [{"podSelector": {}}]}]}), json!({"ingress": [{"from": [{}]}]}), false),
            ],
        );
    }
}
