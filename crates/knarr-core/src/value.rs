//! Short ways into a tree of JSON. A missing step is `None`, never a panic.

use crate::Value;

/// Reads along a path of object keys; `&["metadata", "name"]`.
pub trait ValueExt {
    fn at(&self, path: &[&str]) -> Option<&Value>;
    fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value>;
    /// Makes objects along the path where there are none (or null) and gives the last value.
    fn ensure(&mut self, path: &[&str]) -> &mut Value;
    fn str_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).and_then(Value::as_str)
    }
    fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }
    fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.at(path).and_then(Value::as_bool)
    }
    /// The list there, or an empty one.
    fn list_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    /// Sets the value at the end of the path, making objects on the way.
    fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        *self.ensure(path) = value.into();
    }
    /// Takes the last key of the path out.
    fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.at_mut(parents)?.as_object_mut()?.remove(*last)
    }
}

impl ValueExt for Value {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |v, key| v.get(key)).filter(|v| !v.is_null())
    }

    fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        path.iter().try_fold(self, |v, key| v.get_mut(key))
    }

    fn ensure(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(self, |v, key| {
            if !v.is_object() {
                *v = Value::Object(Default::default());
            }
            match v {
                Value::Object(map) => map.entry(*key).or_insert(Value::Null),
                _ => unreachable!("made an object above"),
            }
        })
    }
}
