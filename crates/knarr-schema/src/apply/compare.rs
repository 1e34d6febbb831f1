//! Which fields differ between two objects of one type (`typed/compare.go`), and which fields an object has
//! (`typed/tofieldset.go`).

use knarr_core::{Map, Value};

use super::schema::{Kind, List, MapType, Schema};
use super::set::{Element, Set};

/// The fields that only the right side has, that differ, and that only the left side has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison<'a> {
    pub added: Set<'a>,
    pub modified: Set<'a>,
    pub removed: Set<'a>,
}

impl<'a> Comparison<'a> {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Leaves out these fields and everything below them.
    pub fn without(self, ignored: &Set<'_>) -> Self {
        Self {
            added: self.added.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            removed: self.removed.recursive_difference(ignored),
        }
    }

    fn insert(&mut self, element: &Element<'a>, child: Self) {
        for (set, child) in [(&mut self.added, child.added), (&mut self.modified, child.modified), (&mut self.removed, child.removed)] {
            if !child.is_empty() {
                set.insert(element.clone(), child);
            }
        }
    }
}

/// So many levels are asked whether they are equal before they are walked through: each asks all that lies below it.
const ASKED_LEVELS_MAX: usize = 32;

/// Compares two objects of a type.
pub fn compare<'a>(schema: Schema<'a>, left: &'a Value, right: &'a Value) -> Comparison<'a> {
    step(schema, Some(left), Some(right), 0)
}

fn step<'a>(schema: Schema<'a>, left: Option<&'a Value>, right: Option<&'a Value>, level: usize) -> Comparison<'a> {
    // Most of an object does not change, and plain equality is several times faster than the walk.
    if level < ASKED_LEVELS_MAX && left.is_some() && left == right {
        return Comparison::default();
    }
    let mut walk = Walk { left, right, below: level + 1, out: Comparison::default() };
    let is_leaf = match (left, right) {
        (Some(l), Some(r)) => {
            let (was, is) = (schema.kind(left), schema.kind(right));
            if !was.is_same(&is) && !l.is_null() && !r.is_null() {
                walk.handle(was);
            }
            walk.handle(if r.is_null() { was } else { is })
        }
        _ => walk.handle(schema.kind(left.or(right))),
    };
    if !is_leaf {
        walk.out.added.member |= left.is_none();
        walk.out.removed.member |= right.is_none();
    }
    walk.out
}

struct Walk<'a> {
    left: Option<&'a Value>,
    right: Option<&'a Value>,
    /// The level of what lies below.
    below: usize,
    out: Comparison<'a>,
}

impl<'a> Walk<'a> {
    /// True when the value was taken as a whole.
    fn handle(&mut self, kind: Kind<'a>) -> bool {
        match kind {
            Kind::Scalar(_) => self.leaf(),
            Kind::List(list) => {
                let (left, right) = (items(self.left), items(self.right));
                if list.is_atomic() || left.is_empty() && right.is_empty() {
                    return self.leaf();
                }
                self.list(&list, left, right);
                false
            }
            Kind::Map(map) => {
                let (left, right) = (entries(self.left), entries(self.right));
                if map.is_atomic || left.is_none() && right.is_none() {
                    return self.leaf();
                }
                self.map(&map, left, right);
                false
            }
        }
    }

    fn leaf(&mut self) -> bool {
        match (self.left, self.right) {
            (None, _) => self.out.added.member = true,
            (_, None) => self.out.removed.member = true,
            (Some(l), Some(r)) => self.out.modified.member |= !is_equal(l, r),
        }
        true
    }

    fn map(&mut self, map: &MapType<'a>, left: Option<&'a Map<String, Value>>, right: Option<&'a Map<String, Value>>) {
        let mut left = left.into_iter().flatten().peekable();
        let mut right = right.into_iter().flatten().peekable();
        loop {
            let (name, l, r) = match (left.peek(), right.peek()) {
                (None, None) => return,
                (Some((k, _)), Some((j, _))) if k == j => {
                    let name = *k;
                    (name, left.next().map(|(_, v)| v), right.next().map(|(_, v)| v))
                }
                (Some((k, _)), j) if j.is_none_or(|(j, _)| k < j) => {
                    let name = *k;
                    (name, left.next().map(|(_, v)| v), None)
                }
                (_, Some((j, _))) => {
                    let name = *j;
                    (name, None, right.next().map(|(_, v)| v))
                }
                (Some(_), None) => return,
            };
            let Some((schema, _)) = map.field(name) else { continue };
            if schema.is_managed_fields() {
                continue;
            }
            let child = step(schema, l, r, self.below);
            if !child.is_same() {
                self.out.insert(&Element::Field(name.as_str().into()), child);
            }
        }
    }

    fn list(&mut self, list: &List<'a>, left: &'a [Value], right: &'a [Value]) {
        let mut all: Vec<(Element<'a>, bool, &'a Value)> = Vec::with_capacity(left.len() + right.len());
        for (is_right, items) in [(false, left), (true, right)] {
            all.extend(items.iter().filter_map(|item| Some((list.element(item).ok()?, is_right, item))));
        }
        all.sort_by(|(a, i, _), (b, j, _)| a.cmp(b).then(i.cmp(j)));
        for same in all.chunk_by(|(a, ..), (b, ..)| a == b) {
            let (left, right) = same.split_at(same.partition_point(|(_, is_right, _)| !is_right));
            let values = |side: &[(Element<'a>, bool, &'a Value)]| side.iter().map(|(.., value)| *value).collect::<Vec<_>>();
            self.items(list, &same[0].0, &values(left), &values(right));
        }
    }

    /// The items under one key. More than one on a side are taken as a whole.
    fn items(&mut self, list: &List<'a>, element: &Element<'a>, left: &[&'a Value], right: &[&'a Value]) {
        let first = |side: &[&'a Value]| side.first().copied();
        match (left.len(), right.len()) {
            (0..=1, 0..=1) => self.out.insert(element, step(list.item, first(left), first(right), self.below)),
            (2.., 2..) => {
                if left.len() != right.len() || !left.iter().zip(right).all(|(l, r)| is_equal(l, r)) {
                    self.out.modified.insert(element.clone(), Set::leaf());
                }
            }
            (2.., _) => {
                if let Some(only) = first(right) {
                    self.out.insert(element, step(list.item, None, Some(only), self.below));
                }
                self.out.removed.insert(element.clone(), Set::leaf());
            }
            (_, 2..) => {
                if let Some(only) = first(left) {
                    self.out.insert(element, step(list.item, Some(only), None, self.below));
                }
                self.out.added.insert(element.clone(), Set::leaf());
            }
        }
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of a map that is not empty.
fn entries(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}

/// `value.Equals`: 1 and 1.0 are equal.
pub fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64() && (x.is_f64() || y.is_f64()),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| is_equal(x, y)),
        (Value::Object(x), Value::Object(y)) => x.len() == y.len() && x.iter().zip(y).all(|((k, x), (l, y))| k == l && is_equal(x, y)),
        _ => a == b,
    }
}

/// All fields that an object has.
pub fn field_set<'a>(schema: Schema<'a>, value: &'a Value) -> Set<'a> {
    match schema.kind(Some(value)) {
        Kind::Scalar(_) => Set::leaf(),
        Kind::List(list) if list.is_atomic() => Set::leaf(),
        Kind::Map(map) if map.is_atomic => Set::leaf(),
        Kind::List(list) => list_set(&list, items(Some(value))),
        Kind::Map(map) => map_set(&map, value),
    }
}

fn list_set<'a>(list: &List<'a>, items: &'a [Value]) -> Set<'a> {
    let mut all: Vec<_> = items.iter().filter_map(|item| Some((list.element(item).ok()?, item))).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut set = Set::new();
    for same in all.chunk_by(|(a, _), (b, _)| a == b) {
        let child = match same {
            [(_, only)] => field_set(list.item, only),
            _ => Set::leaf(),
        };
        set.insert(same[0].0.clone(), child.with_member(true));
    }
    set
}

fn map_set<'a>(map: &MapType<'a>, value: &'a Value) -> Set<'a> {
    let mut set = Set::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let Some((schema, is_declared)) = map.field(name) else { continue };
        let mut child = field_set(schema, value);
        let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        child.member |= is_empty || !is_declared;
        set.insert(Element::Field(name.as_str().into()), child);
    }
    set
}
