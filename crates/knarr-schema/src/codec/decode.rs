//! From JSON to a tree, guided by the type table: what Go has after it has read the JSON into a struct and writes again.
//! Unknown fields are dropped (and told), values are brought to their canonical form, what Go leaves out is left out and
//! what it always writes is there. Follows `sigs.k8s.io/json`, messages included.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use knarr_core::field::go_quote;
use knarr_core::{Map, Value};

use super::read::{Scanner, Syntax};
use super::{DEPTH_MAX, canonical, scalar, schema_props, tree_json};
use crate::types::{self, Field, Shape, Type, TypeId};

/// How many unknown and duplicate fields are told.
const STRICT_ERRORS_MAX: usize = 100;

/// Fields of which upstream tells an empty list or map from none at all, with the number of steps down to what has them: what is stored knows
/// no difference, so it counts only where an empty one is refused, or resets what is stored.
const KEPT_EMPTY: [(&str, &str, usize); 6] = [
    (".ObjectMeta", "managedFields", 1),
    (".v2.HPAScalingRules", "policies", 3),
    (".PodSpec", "overhead", 1),
    (".ResourceSliceSpec", "sharedCounters", 1),
    (".PersistentVolumeSpec", "capacity", 1),
    (".VolumeResourceRequirements", "requests", 2),
];

/// Why decoding ended early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Syntax(String),
    /// A value that upstream's own decoders refuse at once.
    Value(String),
}

impl From<Syntax> for Stop {
    fn from(e: Syntax) -> Self {
        Self::Syntax(e.0)
    }
}

type Result<T> = std::result::Result<T, Stop>;

/// One step of the way to the current value.
#[derive(Clone)]
enum Step<'a> {
    Field {
        of: &'static Type,
        name: &'static str,
        embedded: &'static [TypeId],
        go_type: &'static str,
    },
    /// `kind` or `apiVersion`, which Go embeds as `TypeMeta`.
    TypeMeta(&'static Type, &'static str),
    Key(Cow<'a, str>),
    Index(usize),
}

pub(super) struct Decoder<'a> {
    scanner: Scanner<'a>,
    path: Vec<Step<'a>>,
    depth: usize,
    /// How deep the text may be nested.
    depth_max: usize,
    /// Whether unknown and duplicate fields are told here.
    strict: bool,
    strict_errors: Vec<String>,
    /// The first value of a wrong type.
    type_error: Option<String>,
}

/// A tree, and what a strict decoder says of it.
pub(super) struct Read {
    pub tree: Value,
    pub strict_errors: Vec<String>,
}

/// Decodes the JSON of a type.
pub(super) fn typed(text: &str, t: &'static Type, strict: bool) -> Result<Read> {
    read(text, strict, DEPTH_MAX, |decoder| match decoder.scanner.peek() {
        b'{' => decoder.object(t, Map::new()),
        b'n' => decoder.untouched(t),
        _ => {
            decoder.mismatch(&Shape::Struct(t.id))?;
            Ok(Value::Object(Map::new()))
        }
    })
}

/// Decodes JSON of no known type.
pub(super) fn untyped(text: &str, strict: bool, depth_max: usize) -> Result<Read> {
    read(text, strict, depth_max, Decoder::any)
}

fn read<'a>(text: &'a str, strict: bool, depth_max: usize, value: impl FnOnce(&mut Decoder<'a>) -> Result<Value>) -> Result<Read> {
    let mut decoder = Decoder { scanner: Scanner::new(text), path: Vec::new(), depth: 0, depth_max, strict, strict_errors: Vec::new(), type_error: None };
    let tree = value(&mut decoder)?;
    decoder.scanner.end()?;
    match decoder.type_error {
        Some(message) => Err(Stop::Value(message)),
        None => Ok(Read { tree, strict_errors: decoder.strict_errors }),
    }
}

impl<'a> Decoder<'a> {
    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > self.depth_max {
            self.scanner.error("exceeded max depth")?;
        }
        self.scanner.open();
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    // ---- objects of a known type

    /// Null leaves the struct as Go has made it.
    fn untouched(&mut self, t: &'static Type) -> Result<Value> {
        self.scanner.literal("null")?;
        let mut map = Map::new();
        add_always_written(t, &mut map);
        Ok(Value::Object(map))
    }

    /// `map` is what a duplicate of the field has given before; Go decodes into the same struct again.
    fn object(&mut self, t: &'static Type, mut map: Map<String, Value>) -> Result<Value> {
        self.enter()?;
        let mut seen = 0_u128;
        let mut first = true;
        while let Some(key) = self.scanner.key(first)? {
            first = false;
            match t.flat(&key) {
                Some((position, flat)) => {
                    let again = seen & (1 << position) != 0;
                    if again {
                        self.tell("duplicate", &key);
                    }
                    seen |= 1 << position;
                    self.path.push(Step::Field { of: t, name: flat.field.json, embedded: flat.embedded, go_type: flat.field.go_type });
                    let before = if again { map.remove(flat.field.json) } else { None };
                    let value = self.field(flat.field, before)?;
                    self.path.pop();
                    match value.filter(|v| !tree_json::is_omitted(flat.field, v) || self.is_kept_empty(t, flat.field, v)) {
                        Some(value) => _ = map.insert(flat.field.json.to_owned(), value),
                        None => {}
                    }
                }
                None if t.has_type_meta() && (key == "kind" || key == "apiVersion") => self.type_meta(t, &key, &mut map)?,
                None => {
                    self.tell("unknown", &key);
                    self.scanner.skip_below(self.depth)?;
                }
            }
        }
        self.leave();
        add_always_written(t, &mut map);
        Ok(Value::Object(map))
    }

    /// Whether it makes a difference that a client sent an empty list or map: [`KEPT_EMPTY`].
    fn is_kept_empty(&self, t: &Type, field: &Field, value: &Value) -> bool {
        let here = |(name, json, depth): &(&str, &str, usize)| *json == field.json && self.path.len() == *depth && t.name.ends_with(name);
        !value.is_null() && KEPT_EMPTY.iter().any(here)
    }

    fn type_meta(&mut self, t: &'static Type, key: &str, map: &mut Map<String, Value>) -> Result<()> {
        if map.contains_key(key) {
            self.tell("duplicate", key);
        }
        self.path.push(Step::TypeMeta(t, if key == "kind" { "kind" } else { "apiVersion" }));
        let value = self.value(&Shape::String)?;
        self.path.pop();
        if let Some(value) = value.filter(|v| *v != "") {
            map.insert(key.to_owned(), value);
        }
        Ok(())
    }

    /// The value of a field; `None` for null. `before` is what a duplicate gave.
    fn field(&mut self, field: &'static Field, before: Option<Value>) -> Result<Option<Value>> {
        let null = self.scanner.peek() == b'n';
        let value = match (&field.shape, before) {
            (Shape::Struct(id), Some(Value::Object(map))) if self.scanner.peek() == b'{' => Some(self.object(types::get(*id), map)?),
            (Shape::Map(_), Some(Value::Object(mut map))) if self.scanner.peek() == b'{' => {
                if let Some(Value::Object(more)) = self.value(&field.shape)? {
                    map.extend(more);
                }
                Some(Value::Object(map))
            }
            // Null changes nothing in what cannot be nil.
            (Shape::Struct(_) | Shape::String | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString, before)
                if null && !field.pointer =>
            {
                self.value(&field.shape)?.or(before)
            }
            _ => self.value(&field.shape)?,
        };
        let Some(mut value) = value else { return Ok(None) };
        if let (Some((kind, api_version)), Some(items)) = (field.nested_kind, value.as_array_mut()) {
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.insert("kind".to_owned(), kind.into());
                item.insert("apiVersion".to_owned(), api_version.into());
            }
        }
        Ok(Some(value))
    }

    // ---- values of a known shape

    /// A value; `None` for null and for one of a wrong type, which is remembered.
    fn value(&mut self, shape: &'static Shape) -> Result<Option<Value>> {
        let next = self.scanner.peek();
        if next == b'n' {
            self.scanner.literal("null")?;
            return Ok(None);
        }
        match (shape, next) {
            (Shape::String, b'"') => Ok(Some(Value::String(self.scanner.string()?.into_owned()))),
            (Shape::Struct(id), b'{') => self.object(types::get(*id), Map::new()).map(Some),
            (Shape::List(item), b'[') => self.list(item).map(Some),
            (Shape::Map(item), b'{') => self.map(item).map(Some),
            (Shape::Bool, b't' | b'f') => self.boolean().map(Some),
            (Shape::Int32 | Shape::Int64, b'-' | b'0'..=b'9') => self.integer(shape),
            (Shape::NamedList(id), b'[') => match &types::get(*id).alias {
                Some(Shape::List(item)) => self.list(item).map(Some),
                _ => self.mismatch(shape),
            },
            (Shape::Double, b'-' | b'0'..=b'9') => self.double(),
            (Shape::Bytes, b'"') => self.bytes(),
            (Shape::Bytes, b'[') => self.bytes_in_list(),
            (Shape::RawExtension | Shape::FieldsV1 | Shape::Json, _) => self.lenient(Self::any).map(Some),
            (
                Shape::Time
                | Shape::MicroTime
                | Shape::Duration
                | Shape::Quantity
                | Shape::IntOrString
                | Shape::SchemaOrArray
                | Shape::SchemaOrBool
                | Shape::SchemaOrStrings,
                _,
            ) => self.special(shape, next),
            _ => self.mismatch(shape),
        }
    }

    fn list(&mut self, item: &'static Shape) -> Result<Value> {
        self.enter()?;
        let mut items = Vec::new();
        while self.scanner.item(items.is_empty())? {
            self.path.push(Step::Index(items.len()));
            let value = self.value(item)?;
            self.path.pop();
            items.push(value.unwrap_or_else(|| zero(item)));
        }
        self.leave();
        Ok(Value::Array(items))
    }

    fn map(&mut self, item: &'static Shape) -> Result<Value> {
        self.enter()?;
        let mut map = Map::new();
        let mut first = true;
        while let Some(key) = self.scanner.key(first)? {
            first = false;
            if self.strict && map.contains_key(&*key) {
                self.tell("duplicate", &key);
            }
            self.path.push(Step::Key(key.clone()));
            let value = self.value(item)?;
            self.path.pop();
            map.insert(key.into_owned(), value.unwrap_or_else(|| zero(item)));
        }
        self.leave();
        Ok(Value::Object(map))
    }

    fn boolean(&mut self) -> Result<Value> {
        let yes = self.scanner.peek() == b't';
        self.scanner.literal(if yes { "true" } else { "false" })?;
        Ok(Value::Bool(yes))
    }

    fn integer(&mut self, shape: &'static Shape) -> Result<Option<Value>> {
        let literal = self.scanner.number()?;
        let fits = |n: &i64| *shape == Shape::Int64 || i32::try_from(*n).is_ok();
        match literal.parse::<i64>().ok().filter(fits) {
            Some(n) => Ok(Some(n.into())),
            None => {
                self.wrong_type(&format!("number {literal}"), shape);
                Ok(None)
            }
        }
    }

    fn double(&mut self) -> Result<Option<Value>> {
        let literal = self.scanner.number()?;
        match literal.parse::<f64>().ok().filter(|x| x.is_finite()) {
            Some(x) if x.fract() == 0.0 && x.abs() < 9e15 => Ok(Some((x as i64).into())),
            Some(x) => Ok(Some(x.into())),
            None => {
                self.wrong_type(&format!("number {literal}"), &Shape::Double);
                Ok(None)
            }
        }
    }

    fn bytes(&mut self) -> Result<Option<Value>> {
        let given = self.scanner.string()?;
        match canonical::bytes(&given) {
            Ok(bytes) => Ok(Some(base64::engine::general_purpose::STANDARD.encode(bytes).into())),
            Err(at) => {
                self.type_error.get_or_insert_with(|| format!("illegal base64 data at input byte {at}"));
                Ok(None)
            }
        }
    }

    /// Bytes one by one, which Go takes too.
    fn bytes_in_list(&mut self) -> Result<Option<Value>> {
        self.enter()?;
        let mut bytes: Vec<u8> = Vec::new();
        while self.scanner.item(bytes.is_empty())? {
            let next = self.scanner.peek();
            let literal = self.scanner.skip_below(self.depth)?;
            if next != b'n' && literal.parse::<u8>().is_err() {
                let number = format!("number {literal}");
                let given = if matches!(next, b'-' | b'0'..=b'9') { &number } else { described(next) };
                let message = self.type_message_of(given, "uint8");
                self.type_error.get_or_insert(message);
            }
            bytes.push(literal.parse().unwrap_or(0));
        }
        self.leave();
        Ok(Some(base64::engine::general_purpose::STANDARD.encode(bytes).into()))
    }

    /// Values with decoders of their own, which know nothing of strictness and whose errors end all.
    fn special(&mut self, shape: &'static Shape, next: u8) -> Result<Option<Value>> {
        match (shape, next) {
            (Shape::Quantity, _) => {
                let raw = self.scanner.skip_below(self.depth)?;
                let text = raw.strip_prefix('"').and_then(|s| s.strip_suffix('"')).unwrap_or(raw);
                canonical::quantity(text.trim()).map(|q| Some(q.into())).map_err(Stop::Value)
            }
            (Shape::Time, b'"') => canonical::seconds(&self.scanner.string()?).map(|t| Some(t.into())).map_err(Stop::Value),
            (Shape::MicroTime, b'"') => canonical::micros(&self.scanner.string()?).map(|t| Some(t.into())).map_err(Stop::Value),
            (Shape::Duration, b'"') => {
                let given = self.scanner.string()?;
                let nanos = scalar::parse_duration(&given).ok_or_else(|| Stop::Value(format!("time: invalid duration {}", go_quote(&given))))?;
                let mut text = Vec::new();
                scalar::duration(&mut text, nanos);
                Ok(Some(String::from_utf8_lossy(&text).into()))
            }
            (Shape::IntOrString, b'"') => Ok(Some(Value::String(self.scanner.string()?.into_owned()))),
            (Shape::IntOrString, b'-' | b'0'..=b'9') => {
                let literal = self.scanner.number()?;
                match literal.parse::<i32>() {
                    Ok(n) => Ok(Some(n.into())),
                    Err(_) => self.refuse(&format!("number {literal}"), &Shape::Int32),
                }
            }
            (Shape::IntOrString, _) => self.refuse(described(next), &Shape::Int32),
            (Shape::SchemaOrBool | Shape::SchemaOrArray | Shape::SchemaOrStrings, b'{') => self.inner(|d| d.object(schema_props(), Map::new())).map(Some),
            (Shape::SchemaOrBool, b't' | b'f') => self.boolean().map(Some),
            (Shape::SchemaOrBool, _) => Err(Stop::Value("boolean or JSON schema expected".to_owned())),
            (Shape::SchemaOrArray, b'[') => {
                static SCHEMA: std::sync::LazyLock<Shape> = std::sync::LazyLock::new(|| Shape::Struct(schema_props().id));
                self.inner(|d| d.list(&SCHEMA)).map(Some)
            }
            (Shape::SchemaOrStrings, b'[') => self.inner(|d| d.list(&Shape::String)).map(Some),
            // Anything else leaves these as they are.
            (Shape::SchemaOrArray | Shape::SchemaOrStrings, _) => self.scanner.skip_below(self.depth).map(|_| None).map_err(Stop::from),
            _ => self.refuse(described(next), &Shape::String),
        }
    }

    fn lenient<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let strict = std::mem::replace(&mut self.strict, false);
        let value = read(self);
        self.strict = strict;
        value
    }

    /// Reads with a decoder of its own, whose errors end all.
    fn inner(&mut self, read: impl FnOnce(&mut Self) -> Result<Value>) -> Result<Value> {
        let before = self.type_error.take();
        let value = self.lenient(read)?;
        match std::mem::replace(&mut self.type_error, before) {
            Some(error) => Err(Stop::Value(error)),
            None => Ok(value),
        }
    }

    // ---- values of no known shape

    fn any(&mut self) -> Result<Value> {
        match self.scanner.peek() {
            b'{' => {
                self.enter()?;
                let mut map = Map::new();
                let mut first = true;
                while let Some(key) = self.scanner.key(first)? {
                    first = false;
                    if self.strict && map.contains_key(&*key) {
                        self.tell("duplicate", &key);
                    }
                    if self.strict {
                        self.path.push(Step::Key(key.clone()));
                    }
                    let value = self.any()?;
                    if self.strict {
                        self.path.pop();
                    }
                    map.insert(key.into_owned(), value);
                }
                self.leave();
                Ok(Value::Object(map))
            }
            b'[' => {
                self.enter()?;
                let mut items = Vec::new();
                while self.scanner.item(items.is_empty())? {
                    if self.strict {
                        self.path.push(Step::Index(items.len()));
                    }
                    let value = self.any()?;
                    if self.strict {
                        self.path.pop();
                    }
                    items.push(value);
                }
                self.leave();
                Ok(Value::Array(items))
            }
            b'"' => Ok(Value::String(self.scanner.string()?.into_owned())),
            b't' | b'f' => self.boolean(),
            b'n' => {
                self.scanner.literal("null")?;
                Ok(Value::Null)
            }
            b'-' | b'0'..=b'9' => self.any_number(),
            _ => self.scanner.error("looking for beginning of value").map_err(Stop::from),
        }
    }

    /// An integer where it has no fraction and fits 64 bits, else a float.
    fn any_number(&mut self) -> Result<Value> {
        let literal = self.scanner.number()?;
        if let Ok(n) = literal.parse::<i64>() {
            return Ok(n.into());
        }
        match literal.parse::<f64>().ok().filter(|x| x.is_finite()) {
            Some(x) => Ok(x.into()),
            None => {
                self.wrong_type(&format!("number {literal}"), &Shape::Double);
                Ok(Value::Null)
            }
        }
    }

    // ---- what is wrong

    fn tell(&mut self, what: &str, name: &str) {
        if !self.strict || self.strict_errors.len() >= STRICT_ERRORS_MAX {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            // Writing to a String cannot fail.
            _ = match step {
                Step::Index(i) => write!(path, "[{i}]"),
                Step::Field { name, .. } | Step::TypeMeta(_, name) if path.is_empty() => write!(path, "{name}"),
                Step::Field { name, .. } | Step::TypeMeta(_, name) => write!(path, ".{name}"),
                Step::Key(key) if path.is_empty() => write!(path, "{key}"),
                Step::Key(key) => write!(path, ".{key}"),
            };
        }
        if !path.is_empty() {
            path.push('.');
        }
        let message = format!("{what} field {}", go_quote(&(path + name)));
        if !self.strict_errors.contains(&message) {
            self.strict_errors.push(message);
        }
    }

    /// Reads over a value that its field cannot hold, and remembers the first.
    fn mismatch(&mut self, shape: &Shape) -> Result<Option<Value>> {
        let next = self.scanner.peek();
        self.scanner.skip_below(self.depth)?;
        self.wrong_type(described(next), shape);
        Ok(None)
    }

    fn wrong_type(&mut self, given: &str, shape: &Shape) {
        if self.type_error.is_none() {
            self.type_error = Some(self.type_message(given, shape, true));
        }
    }

    fn refuse<T>(&mut self, given: &str, shape: &Shape) -> Result<T> {
        Err(Stop::Value(self.type_message(given, shape, false)))
    }

    /// `is_declared` tells that the shape is the field's own, which may have a name in Go, and not what its decoder wants.
    fn type_message(&self, given: &str, shape: &Shape, is_declared: bool) -> String {
        let mut named = None;
        for step in &self.path {
            match step {
                Step::Field { go_type, .. } => named = Some(*go_type),
                Step::TypeMeta(..) => named = None,
                Step::Index(_) => named = named.and_then(|go_type| go_type.strip_prefix("[]")),
                Step::Key(_) => named = named.and_then(|go_type| go_type.split_once(']')).map(|(_, item)| item),
            }
        }
        match named.filter(|go_type| !go_type.is_empty() && is_declared) {
            Some(wanted) => self.type_message_of(given, wanted),
            None => self.type_message_of(given, &go_type(shape)),
        }
    }

    /// `encoding/json.UnmarshalTypeError`: the innermost struct, and the way to the field with the names of embedded structs.
    fn type_message_of(&self, given: &str, wanted: &str) -> String {
        let mut names: Vec<&str> = Vec::new();
        let mut holder = None;
        for step in &self.path {
            match step {
                Step::Field { of, name, embedded, .. } => {
                    names.extend(embedded.iter().map(|id| short_name(types::get(*id))));
                    names.push(name);
                    holder = Some(*of);
                }
                Step::TypeMeta(of, name) => {
                    names.extend(["TypeMeta", name]);
                    holder = Some(*of);
                }
                Step::Index(_) | Step::Key(_) => {}
            }
        }
        match holder {
            Some(of) => format!("json: cannot unmarshal {given} into Go struct field {}.{} of type {wanted}", short_name(of), names.join(".")),
            None => format!("json: cannot unmarshal {given} into Go value of type {wanted}"),
        }
    }
}

/// Puts in what Go writes even when nothing was given.
fn add_always_written(t: &'static Type, map: &mut Map<String, Value>) {
    for field in t.always_written() {
        if !map.contains_key(field.json) {
            let nullable = field.pointer || matches!(field.shape, Shape::List(_) | Shape::Map(_));
            map.insert(field.json.to_owned(), if nullable { Value::Null } else { zero(&field.shape) });
        }
    }
}

/// What Go has for a value that was null or absent.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::String => "".into(),
        Shape::Bool | Shape::SchemaOrBool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::Duration => "0s".into(),
        Shape::Struct(id) => {
            let mut map = Map::new();
            add_always_written(types::get(*id), &mut map);
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

/// What Go calls a value that begins with this byte.
pub(super) fn described(first: u8) -> &'static str {
    match first {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        _ => "number",
    }
}

/// `PodSpec`.
fn short_name(t: &Type) -> &'static str {
    t.name.rsplit('.').next().unwrap_or(t.name)
}

/// The type as Go's reflection names it, unless the table has a name for it.
fn go_type(shape: &Shape) -> String {
    let qualified = |id: &TypeId| {
        let t = types::get(*id);
        let mut parts = t.name.rsplitn(3, '.');
        let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{package}.{name}")
    };
    match shape {
        Shape::Bool => "bool".to_owned(),
        Shape::Int32 => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Double => "float64".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Struct(id) | Shape::NamedList(id) => qualified(id),
        Shape::List(item) => format!("[]{}", go_type(item)),
        Shape::Map(item) => format!("map[string]{}", go_type(item)),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::IntOrString => "intstr.IntOrString".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::MicroTime => "v1.MicroTime".to_owned(),
        Shape::Duration => "v1.Duration".to_owned(),
        Shape::RawExtension => "runtime.RawExtension".to_owned(),
        Shape::FieldsV1 => "v1.FieldsV1".to_owned(),
        Shape::Json => "v1.JSON".to_owned(),
        _ => "string".to_owned(),
    }
}
