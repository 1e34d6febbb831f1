//! A value together with where it stands, so that validation reads as a list of rules and an error can name its field.
//!
//! Places are links in a chain on the stack: walking down costs nothing, and the path is written only when there is an error.

use knarr_core::field::{Error, ErrorList, ErrorType, Path};
use knarr_core::{GroupVersion, Value, ValueExt};
use knarr_schema::internal;
use knarr_schema::types::{self, TypeId};

use crate::metadata;
use crate::tree::is_zero;

/// One place in an object. `'v` is the object's life, `'p` that of the places above.
#[derive(Clone, Copy)]
pub struct At<'v, 'p> {
    value: Option<&'v Value>,
    step: Step<'p>,
    parent: Option<&'p At<'v, 'p>>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

impl<'v, 'p> At<'v, 'p> {
    /// The whole object.
    pub fn root(value: &'v Value) -> Self {
        Self { value: Some(value), step: Step::Root, parent: None }
    }

    fn child<'q>(&'q self, step: Step<'q>, value: Option<&'v Value>) -> At<'v, 'q>
    where
        'p: 'q,
    {
        At { value: value.filter(|v| !v.is_null()), step, parent: Some(self) }
    }

    /// The field of this name.
    pub fn get<'q>(&'q self, name: &'q str) -> At<'v, 'q> {
        self.child(Step::Field(name), self.value.and_then(|v| v.get(name)))
    }

    /// The entry of a map: `limits[cpu]`.
    pub fn key<'q>(&'q self, key: &'q str) -> At<'v, 'q> {
        self.child(Step::Key(key), self.value.and_then(|v| v.get(key)))
    }

    /// Another value, shown as a field of this one: where upstream names a field other than it is.
    pub fn shown_as<'q>(&'q self, name: &'q str, value: Option<&'v Value>) -> At<'v, 'q> {
        self.child(Step::Field(name), value)
    }

    /// Another value in this very place: where upstream names the place of something else.
    pub fn with_value(&self, value: Option<&'v Value>) -> Self {
        Self { value, ..*self }
    }

    /// Item `i` of a list.
    pub fn index<'q>(&'q self, i: usize) -> At<'v, 'q> {
        self.child(Step::Index(i), self.value.and_then(|v| v.get(i)))
    }

    /// The items of a list; none when it is absent.
    pub fn items<'q>(&'q self) -> impl DoubleEndedIterator<Item = At<'v, 'q>> {
        let list = self.value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter().enumerate().map(|(i, v)| self.child(Step::Index(i), Some(v)))
    }

    /// The entries of a map, each with its key.
    pub fn entries<'q>(&'q self) -> impl Iterator<Item = (&'q str, At<'v, 'q>)> {
        let map = self.value.and_then(Value::as_object);
        map.into_iter().flatten().map(|(k, v)| (k.as_str(), self.child(Step::Key(k), Some(v))))
    }

    /// The value, when there is one.
    pub fn value(&self) -> Option<&'v Value> {
        self.value
    }

    /// The text, empty when absent.
    pub fn str(&self) -> &'v str {
        self.value.and_then(Value::as_str).unwrap_or_default()
    }

    /// The text of a field, empty when absent.
    pub fn str_of(&self, name: &str) -> &'v str {
        self.value.and_then(|v| v.str_at(&[name])).unwrap_or_default()
    }

    /// The number, 0 when absent.
    pub fn int(&self) -> i64 {
        self.value.and_then(Value::as_i64).unwrap_or(0)
    }

    pub fn bool(&self) -> bool {
        self.value.and_then(Value::as_bool).unwrap_or(false)
    }

    /// The strings of a list.
    pub fn strings(&self) -> impl Iterator<Item = &'v str> {
        self.value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// How many items or entries there are.
    pub fn len(&self) -> usize {
        match self.value {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }

    /// There is a value, be it empty: a pointer that is set.
    pub fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// Absent, or empty, or zero.
    pub fn is_empty(&self) -> bool {
        self.value.is_none_or(is_zero)
    }

    /// The same value elsewhere.
    pub fn same(&self, other: Option<&Value>) -> bool {
        let typed = self.steps().and_then(|(root, steps)| crate::semantic::same_below(root, &steps, self.value, other));
        typed.unwrap_or_else(|| crate::semantic::same(self.value, other))
    }

    pub fn path(&self) -> Path {
        let mut text = String::new();
        self.write(&mut text);
        if text.is_empty() { Path::root() } else { Path::new(&text) }
    }

    fn write(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(out);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) if out.is_empty() => out.push_str(name),
            Step::Field(name) => {
                out.push('.');
                out.push_str(name);
            }
            Step::Index(i) => {
                out.push('[');
                out.push_str(&i.to_string());
                out.push(']');
            }
            Step::Key(key) => {
                out.push('[');
                out.push_str(key);
                out.push(']');
            }
        }
    }

    /// The value for an error's text; an absent one is what Go has there.
    fn bad(&self) -> Value {
        self.value.cloned().unwrap_or_else(|| "".into())
    }

    /// The type of the whole object and the steps down to this place.
    pub fn steps(&self) -> Option<(TypeId, Vec<internal::Step<'_>>)> {
        let mut steps = Vec::new();
        let mut at = self;
        while let Some(parent) = at.parent {
            steps.push(match at.step {
                Step::Root => return None,
                Step::Field(name) => internal::Step::Field(name),
                Step::Index(_) => internal::Step::Item,
                Step::Key(_) => internal::Step::Entry,
            });
            at = parent;
        }
        steps.reverse();
        let root = type_of(at.value?)?;
        // Upstream names some fields of a spec as if they were the object's own.
        if let [internal::Step::Field(name)] = steps[..]
            && types::get(root).field(name).is_none()
            && types::get(root).field("spec").is_some()
        {
            steps.insert(0, internal::Step::Field("spec"));
        }
        Some((root, steps))
    }

    /// An error about a struct, a list or a map shows it as upstream has it inside.
    fn showing(&self, error: Error) -> Error {
        let compound = |value: Option<&Value>| value.is_none_or(|v| v.is_object() || v.is_array());
        if !compound(self.value) {
            return error;
        }
        let shown =
            self.steps().filter(|(root, steps)| internal::is_compound(*root, steps)).and_then(|(root, steps)| internal::shown(root, &steps, self.value));
        match shown {
            Some(text) => error.showing(text),
            None => error,
        }
    }

    pub fn required(&self, detail: &str) -> Error {
        Error::required(&self.path(), detail)
    }

    /// The value is wrong; an absent one shows as an empty text.
    pub fn invalid(&self, detail: impl Into<String>) -> Error {
        self.showing(Error::invalid(&self.path(), self.bad(), detail))
    }

    /// Wrong, with another value shown.
    pub fn invalid_as(&self, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        Error::invalid(&self.path(), value, detail)
    }

    pub fn forbidden(&self, detail: impl Into<String>) -> Error {
        Error::forbidden(&self.path(), detail)
    }

    pub fn not_supported(&self, supported: &[&str]) -> Error {
        self.showing(Error::not_supported(&self.path(), self.bad(), supported))
    }

    pub fn duplicate(&self) -> Error {
        self.showing(Error::duplicate(&self.path(), self.bad()))
    }

    pub fn duplicate_as(&self, value: impl Into<Value>) -> Error {
        Error::duplicate(&self.path(), value)
    }

    pub fn not_found(&self) -> Error {
        Error::not_found(&self.path(), self.bad())
    }

    pub fn too_long(&self, max: i64) -> Error {
        Error::too_long(&self.path(), max)
    }

    pub fn too_many(&self, max: i64) -> Error {
        Error::too_many(&self.path(), self.len(), max)
    }

    pub fn too_few(&self, min: usize) -> Error {
        let items = if min == 1 { "item" } else { "items" };
        Error { kind: ErrorType::TooFew, field: self.path(), value: self.len().into(), detail: format!("must have at least {min} {items}"), shown: None }
    }

    /// One error for each problem that a rule for names found.
    pub fn problems(&self, e: &mut ErrorList, problems: Vec<String>) {
        e.extend(problems.into_iter().map(|p| self.invalid(p)));
    }

    /// Required, or as the rule for names says.
    pub fn name(&self, e: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        if self.is_empty() {
            e.push(self.required(""));
        } else {
            self.problems(e, rule(self.str()));
        }
    }

    /// As the rule for names says, if there is a text.
    pub fn optional_name(&self, e: &mut ErrorList, rule: fn(&str) -> Vec<String>) {
        if !self.str().is_empty() {
            self.problems(e, rule(self.str()));
        }
    }

    /// Required.
    pub fn require(&self, e: &mut ErrorList) {
        if self.is_empty() {
            e.push(self.required(""));
        }
    }

    /// One of these texts; an empty one is missing.
    pub fn one_of(&self, e: &mut ErrorList, supported: &[&str]) {
        if self.str().is_empty() {
            e.push(self.required(""));
        } else {
            self.if_set_one_of(e, supported);
        }
    }

    /// One of these texts, if there is one.
    pub fn if_set_one_of(&self, e: &mut ErrorList, supported: &[&str]) {
        if self.is_set() && !supported.contains(&self.str()) {
            e.push(self.not_supported(supported));
        }
    }

    /// Not below zero.
    pub fn nonnegative(&self, e: &mut ErrorList) {
        self.at_least(e, 0);
    }

    pub fn at_least(&self, e: &mut ErrorList, min: i64) {
        if self.int() < min {
            e.push(self.invalid_as(self.int(), format!("must be greater than or equal to {min}")));
        }
    }

    /// A map of labels.
    pub fn labels(&self, e: &mut ErrorList) {
        e.extend(metadata::labels(self.value, &self.path()));
    }

    /// A map of annotations.
    pub fn annotations(&self, e: &mut ErrorList) {
        e.extend(metadata::annotations(self.value, &self.path()));
    }

    /// A label selector, if there is one.
    pub fn label_selector(&self, e: &mut ErrorList) {
        self.label_selector_ratcheting(false, e);
    }

    /// The same, where label values that were wrong before may stay.
    pub fn label_selector_ratcheting(&self, allow_invalid_values: bool, e: &mut ErrorList) {
        if self.is_set() {
            e.extend(metadata::label_selector_ratcheting(self.value, &self.path(), allow_invalid_values));
        }
    }

    /// As it was in the old object.
    pub fn immutable(&self, old: Option<&Value>, e: &mut ErrorList) {
        if !self.same(old) {
            let error = Error::invalid(&self.path(), self.value.cloned().unwrap_or_default(), metadata::IMMUTABLE);
            // What is absent is shown as the zero of its type.
            let zero = self.steps().filter(|_| self.value.is_none()).and_then(|(root, steps)| internal::shown(root, &steps, None));
            e.push(match zero {
                Some(text) => error.showing(text),
                None => self.showing(error),
            });
        }
    }

    /// As it was in the old object; the error shows no value (upstream's declarative validation: `validate.Immutable`).
    pub fn immutable_untold(&self, old: Option<&Value>, e: &mut ErrorList) {
        if !self.same(old) {
            e.push(self.invalid_as(Value::Null, metadata::IMMUTABLE));
        }
    }

    /// Above zero.
    pub fn positive(&self, e: &mut ErrorList) {
        if self.int() <= 0 {
            e.push(self.invalid_as(self.int(), "must be greater than zero"));
        }
    }

    pub fn in_range(&self, e: &mut ErrorList, low: i64, high: i64) {
        if !(low..=high).contains(&self.int()) {
            e.push(self.invalid_as(self.int(), range_text(low, high)));
        }
    }
}

/// The type of a whole object.
pub fn type_of(object: &Value) -> Option<TypeId> {
    let version = GroupVersion::parse(object.str_at(&["apiVersion"])?)?;
    types::of_kind(&version.group, &version.version, object.str_at(&["kind"])?)
}

/// The errors that a list of rules finds in an object.
pub fn check(object: &Value, rules: impl FnOnce(&At, &mut ErrorList)) -> ErrorList {
    let mut e = ErrorList::new();
    rules(&At::root(object), &mut e);
    e
}

/// The warnings that a list of rules has for an object.
pub fn warn(object: &Value, rules: impl FnOnce(&At, &mut Vec<String>)) -> Vec<String> {
    let mut out = Vec::new();
    rules(&At::root(object), &mut out);
    out
}

/// The text of a number outside its range (upstream: `InclusiveRangeError`).
pub fn range_text(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_place_knows_its_path() {
        let object = json!({"spec": {"containers": [{"ports": [{"name": "x"}]}], "limits": {"a/b": 1}}});
        let root = At::root(&object);
        let spec = root.get("spec");
        let containers = spec.get("containers");
        let first = containers.index(0);
        let mut e = ErrorList::new();
        for port in first.get("ports").items() {
            port.get("name").if_set_one_of(&mut e, &["a"]);
            port.get("protocol").require(&mut e);
        }
        let texts: Vec<String> = e.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            ["spec.containers[0].ports[0].name: Unsupported value: \"x\": supported values: \"a\"", "spec.containers[0].ports[0].protocol: Required value"]
        );
        assert_eq!(spec.get("limits").key("a/b").path().to_string(), "spec.limits[a/b]");
        assert_eq!(root.path().to_string(), "<nil>");
    }
}
