//! What a part of an object was before an update. Rules do not blame anybody for what was there already
//! (upstream: `apiserver/pkg/cel/common/equality.go`, KEP-4008).

use std::cell::OnceCell;

use knarr_core::Value;

use super::schema::{Additional, ListType, Schema};

/// A part of the new object beside the same part of the old one.
pub struct Correlated<'a> {
    new: &'a Value,
    old: &'a Value,
    schema: &'a Schema,
    equal: OnceCell<bool>,
}

impl<'a> Correlated<'a> {
    fn new(new: &'a Value, old: &'a Value, schema: &'a Schema) -> Self {
        Self { new, old, schema, equal: OnceCell::new() }
    }

    /// The property, if both have it and the schema knows it.
    fn key(&self, name: &str) -> Option<Self> {
        let schema = self.schema.properties.get(name).or(match &self.schema.additional {
            Additional::Of(other) => Some(other),
            _ => None,
        });
        Some(Self::new(self.new.get(name)?, self.old.get(name)?, schema?))
    }

    /// The item, if the list is a map and the old one has an item with the same keys.
    fn index(&self, at: usize) -> Option<Self> {
        let item = self.new.as_array()?.get(at)?;
        let before = same_item(self.schema, self.old, item)?;
        Some(Self::new(item, before, self.schema.items.as_deref()?))
    }

    fn is_equal(&self) -> bool {
        *self.equal.get_or_init(|| match (self.new, self.old) {
            (Value::Array(new), Value::Array(old)) if self.schema.list_type == ListType::Map => {
                new.len() == old.len() && (0..new.len()).all(|i| self.index(i).is_some_and(|item| item.is_equal()))
            }
            (Value::Object(new), Value::Object(old)) => new.len() == old.len() && new.keys().all(|k| self.key(k).is_some_and(|property| property.is_equal())),
            (new, old) => new == old,
        })
    }
}

/// The item of an old list that has the keys of a new one.
pub fn same_item<'a>(schema: &Schema, old: &'a Value, item: &Value) -> Option<&'a Value> {
    if schema.list_type != ListType::Map || schema.list_map_keys.is_empty() {
        return None;
    }
    let key = |of: &Value, name: &str| of.get(name).filter(|v| !v.is_object() && !v.is_array() && !v.is_null()).cloned();
    let same = |other: &&Value| schema.list_map_keys.iter().all(|k| key(item, k).is_some() && key(item, k) == key(other, k));
    old.as_array()?.iter().find(same)
}

/// The way down an object: this part's own correlation, and that of the nearest part above which has one.
#[derive(Clone, Copy, Default)]
pub struct Correlation<'p, 'a> {
    own: Option<&'p Correlated<'a>>,
    above: Option<&'p Correlated<'a>>,
}

/// What stands below a [`Correlation`]; it must live as long as one that refers to it.
pub struct Below<'p, 'a> {
    found: Option<Correlated<'a>>,
    came_from: Correlation<'p, 'a>,
}

impl<'p, 'a> Correlation<'p, 'a> {
    /// Whether nothing changed here, or in the nearest part above that can be compared.
    pub fn is_unchanged(&self) -> bool {
        self.own.or(self.above).is_some_and(Correlated::is_equal)
    }

    fn below(self, found: impl FnOnce(&Correlated<'a>) -> Option<Correlated<'a>>) -> Below<'p, 'a> {
        match self.own {
            Some(own) => Below { found: found(own), came_from: Self { own: None, above: Some(own) } },
            None => Below { found: None, came_from: self },
        }
    }

    pub fn key(self, name: &str) -> Below<'p, 'a> {
        // Old and new are always of one version, so nothing can be said about these two.
        if self.own.is_some() && self.above.is_none() && matches!(name, "apiVersion" | "kind") {
            return Below { found: None, came_from: Self::default() };
        }
        self.below(|own| own.key(name))
    }

    pub fn index(self, at: usize) -> Below<'p, 'a> {
        self.below(|own| own.index(at))
    }
}

impl<'a> Below<'_, 'a> {
    /// The start of the way: a whole object and what it was.
    pub fn root(new: &'a Value, old: Option<&'a Value>, schema: &'a Schema) -> Self {
        Self { found: old.map(|old| Correlated::new(new, old, schema)), came_from: Correlation::default() }
    }

    pub fn correlation(&self) -> Correlation<'_, 'a> {
        match &self.found {
            Some(found) => Correlation { own: Some(found), above: self.came_from.above },
            None => self.came_from,
        }
    }
}
