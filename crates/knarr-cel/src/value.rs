//! Values. JSON stays where it is: a value only points into it and is read with the help of its schema, if there is one
//! (upstream: `apiserver/pkg/cel/common/valuesunstructured.go`).

use std::{cmp::Ordering, collections::BTreeMap, net::IpAddr, sync::Arc};

use base64::Engine;
use jiff::Timestamp;
use knarr_core::quantity::Quantity;
use serde_json::Value as Json;

use crate::{
    authz::Check,
    library::{format::Format, semver::Semver, url::Url},
    schema::{Decl, DeclKind},
    time,
    types::{self, Type},
};

/// Why an evaluation ended without a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub message: String,
    /// Whether a limit ended it: such an error is never passed over.
    pub cancelled: bool,
}

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), cancelled: false }
    }

    pub fn no_overload() -> Self {
        Self::new("no such overload")
    }

    pub fn no_key(key: impl std::fmt::Display) -> Self {
        Self::new(format!("no such key: {key}"))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

pub type Res<'a> = Result<Value<'a>, Error>;

/// A text that is borrowed from the data or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(s) => s,
            Self::Shared(s) => s,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    List(List<'a>),
    Map(Map<'a>),
    /// An object that the expression made.
    Object(Arc<Made<'a>>),
    Type(Arc<Type>),
    Optional(Option<Arc<Value<'a>>>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Url(Arc<Url>),
    Quantity(Quantity),
    Semver(Arc<Semver>),
    Format(&'static Format),
    Authz(Arc<Check>),
    /// The object whose fields are the policy's variables.
    Variables,
}

/// An object made by `Type{field: value}`.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    pub type_name: Arc<str>,
    pub fields: BTreeMap<String, Value<'a>>,
}

/// How lists are compared and concatenated.
#[derive(Clone, Copy, Debug)]
pub enum Semantics<'a> {
    Atomic,
    Set,
    Map(&'a [String]),
}

#[derive(Clone, Debug)]
enum Items<'a> {
    Json(&'a [Json], Option<&'a Decl>),
    Values(Arc<Vec<Value<'a>>>),
}

#[derive(Clone, Debug)]
pub struct List<'a> {
    items: Items<'a>,
    pub semantics: Semantics<'a>,
}

impl<'a> List<'a> {
    pub fn new(items: Vec<Value<'a>>) -> Self {
        Self { items: Items::Values(Arc::new(items)), semantics: Semantics::Atomic }
    }

    pub fn len(&self) -> usize {
        match &self.items {
            Items::Json(items, _) => items.len(),
            Items::Values(items) => items.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at an index below the length.
    ///
    /// # Errors
    /// When the data does not fit its schema, or the index is out of bounds.
    pub fn get(&self, index: usize) -> Res<'a> {
        match &self.items {
            Items::Json(items, decl) => items.get(index).map(|item| Value::from_json(item, *decl)).ok_or_else(|| out_of_bounds(index))?,
            Items::Values(items) => items.get(index).cloned().ok_or_else(|| out_of_bounds(index)),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Res<'a>> + '_ {
        (0..self.len()).map(|i| self.get(i))
    }

    /// All items.
    ///
    /// # Errors
    /// When the data does not fit its schema.
    pub fn to_vec(&self) -> Result<Vec<Value<'a>>, Error> {
        self.iter().collect()
    }

    /// Appends without copying when nobody else holds the list.
    pub(crate) fn push_all(mut self, other: &Self) -> Result<Self, Error> {
        let mut values = match self.items {
            Items::Values(values) => Arc::try_unwrap(values).unwrap_or_else(|shared| (*shared).clone()),
            Items::Json(..) => self.to_vec()?,
        };
        for item in other.iter() {
            let item = item?;
            match self.semantics {
                Semantics::Atomic => values.push(item),
                Semantics::Set => {
                    if !values.iter().any(|v| v.equals(&item)) {
                        values.push(item);
                    }
                }
                Semantics::Map(keys) => match values.iter().position(|v| same_keys(v, &item, keys)) {
                    Some(at) => values[at] = item,
                    None => values.push(item),
                },
            }
        }
        self.items = Items::Values(Arc::new(values));
        Ok(self)
    }

    fn equals(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let (Ok(a), Ok(b)) = (self.to_vec(), other.to_vec()) else { return false };
        // The side that is asked decides how.
        match self.semantics {
            Semantics::Set => a.iter().all(|x| b.iter().any(|y| x.equals(y))),
            Semantics::Map(keys) => a.iter().all(|x| b.iter().any(|y| same_keys(x, y, keys) && x.equals(y))),
            Semantics::Atomic => a.iter().zip(&b).all(|(x, y)| x.equals(y)),
        }
    }
}

fn out_of_bounds(index: impl std::fmt::Display) -> Error {
    Error::new(format!("index out of bounds: {index}"))
}

fn same_keys(a: &Value<'_>, b: &Value<'_>, keys: &[String]) -> bool {
    let key = |v: &Value<'_>, name: &str| match v {
        Value::Map(m) => m.json(name).cloned(),
        _ => None,
    };
    keys.iter().all(|k| key(a, k) == key(b, k))
}

/// A key of a map; numbers of different types that are equal are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Number(i128),
    String(String),
}

impl Key {
    pub fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(n) => Self::Number((*n).into()),
            Value::Uint(n) => Self::Number((*n).into()),
            Value::Double(f) if f.fract() == 0.0 && f.abs() < 1e19 => Self::Number(*f as i128),
            Value::String(s) => Self::String((**s).to_owned()),
            _ => return None,
        })
    }
}

type Entries<'a> = BTreeMap<Key, (Value<'a>, Value<'a>)>;

#[derive(Clone, Debug)]
pub enum Map<'a> {
    Json(&'a serde_json::Map<String, Json>, Option<&'a Decl>),
    Values(Arc<Entries<'a>>),
}

impl<'a> Map<'a> {
    pub fn new(entries: Entries<'a>) -> Self {
        Self::Values(Arc::new(entries))
    }

    /// A map of texts to values.
    pub fn of_texts(entries: impl IntoIterator<Item = (String, Value<'a>)>) -> Self {
        Self::new(entries.into_iter().map(|(k, v)| (Key::String(k.clone()), (Value::text(k), v))).collect())
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Json(map, _) => map.len(),
            Self::Values(map) => map.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn json(&self, name: &str) -> Option<&'a Json> {
        match self {
            Self::Json(map, _) => map.get(name),
            Self::Values(_) => None,
        }
    }

    /// The value of a key, or of a field by the name that expressions use.
    ///
    /// # Errors
    /// When the data does not fit its schema.
    pub fn get(&self, key: &Value<'_>) -> Result<Option<Value<'a>>, Error> {
        match (self, key) {
            (Self::Json(map, decl), Value::String(name)) => {
                let Some(decl) = decl else { return Ok(map.get(&**name).map(Value::plain)) };
                let name = decl.json_name(name);
                // A field that is null is not there.
                let found = map.get(name).filter(|v| !(v.is_null() && matches!(decl.kind, DeclKind::Object { .. })));
                found.map(|v| Value::from_json(v, decl.of_json_name(name))).transpose()
            }
            (Self::Json(..), _) => Ok(None),
            (Self::Values(map), key) => Ok(Key::of(key).and_then(|k| map.get(&k)).map(|(_, v)| v.clone())),
        }
    }

    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(map, decl) => map.keys().map(|k| decl.map_or(Text::Borrowed(k), |d| d.name_of(k))).map(Value::String).collect(),
            Self::Values(map) => map.values().map(|(k, _)| k.clone()).collect(),
        }
    }

    /// # Errors
    /// When the data does not fit its schema.
    pub fn entries(&self) -> Result<Vec<(Value<'a>, Value<'a>)>, Error> {
        match self {
            Self::Json(map, decl) => map
                .iter()
                .map(|(k, v)| Ok((Value::String(decl.map_or(Text::Borrowed(k), |d| d.name_of(k))), Value::from_json(v, decl.and_then(|d| d.of_json_name(k)))?)))
                .collect(),
            Self::Values(map) => Ok(map.values().cloned().collect()),
        }
    }

    /// Adds entries without copying when nobody else holds the map.
    pub(crate) fn insert(self, key: Value<'a>, value: Value<'a>) -> Result<Self, Error> {
        let mut entries = match self {
            Self::Values(entries) => Arc::try_unwrap(entries).unwrap_or_else(|shared| (*shared).clone()),
            Self::Json(..) => self.entries()?.into_iter().filter_map(|(k, v)| Some((Key::of(&k)?, (k, v)))).collect(),
        };
        let k = Key::of(&key).ok_or_else(|| Error::new(format!("unsupported key type: {}", key.type_of())))?;
        if entries.contains_key(&k) {
            return Err(Error::new(format!("insert failed: key {} already exists", key.shown())));
        }
        entries.insert(k, (key, value));
        Ok(Self::new(entries))
    }

    fn equals(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let Ok(entries) = self.entries() else { return false };
        entries.iter().all(|(k, v)| matches!(other.get(k), Ok(Some(o)) if v.equals(&o)))
    }
}

impl<'a> Value<'a> {
    pub fn text(s: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(s.into()))
    }

    pub fn list(items: Vec<Value<'a>>) -> Self {
        Self::List(List::new(items))
    }

    pub fn texts(items: impl IntoIterator<Item = String>) -> Self {
        Self::list(items.into_iter().map(Self::text).collect())
    }

    pub fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    pub const NONE: Value<'static> = Value::Optional(None);

    /// JSON as a value: by its schema, or as it is.
    ///
    /// # Errors
    /// When the data does not fit the schema.
    pub fn from_json(json: &'a Json, decl: Option<&'a Decl>) -> Res<'a> {
        let Some(decl) = decl.filter(|d| !matches!(d.kind, DeclKind::Unknown)) else { return Ok(Self::plain(json)) };
        if json.is_null() {
            return if decl.nullable { Ok(Self::Null) } else { Err(Error::new("invalid data, got null for schema with nullable=false")) };
        }
        let wrong = |wanted: &str| Error::new(format!("invalid data, expected {wanted}, got {}", json_type(json)));
        Ok(match &decl.kind {
            DeclKind::Unknown | DeclKind::IntOrString => Self::plain(json),
            DeclKind::Bool => Self::Bool(json.as_bool().ok_or_else(|| wanted_error(&wrong, "a boolean"))?),
            DeclKind::Int => Self::Int(whole(json).ok_or_else(|| wrong("an integer"))?),
            DeclKind::Double => Self::Double(json.as_f64().ok_or_else(|| wrong("a number"))?),
            DeclKind::String => Self::String(Text::Borrowed(json.as_str().ok_or_else(|| wrong("a string"))?)),
            DeclKind::Bytes => Self::Bytes(bytes(json.as_str().ok_or_else(|| wrong("a string"))?)?),
            DeclKind::Duration => {
                let text = json.as_str().ok_or_else(|| wrong("a string"))?;
                Self::Duration(time::parse_duration(text).ok_or_else(|| Error::new(format!("Invalid duration {text} : time: invalid duration {text:?}")))?)
            }
            DeclKind::Date => {
                let text = json.as_str().ok_or_else(|| wrong("a string"))?;
                Self::Timestamp(time::parse_date(text).ok_or_else(|| Error::new(format!("Invalid date formatted string {text}")))?)
            }
            DeclKind::DateTime => {
                let text = json.as_str().ok_or_else(|| wrong("a string"))?;
                Self::Timestamp(time::parse_timestamp(text).ok_or_else(|| Error::new(format!("Invalid date-time formatted string {text}")))?)
            }
            DeclKind::List { items, semantics } => {
                Self::List(List { items: Items::Json(json.as_array().ok_or_else(|| wrong("an array"))?, Some(items)), semantics: semantics.borrowed() })
            }
            DeclKind::Map(_) | DeclKind::Object { .. } => Self::Map(Map::Json(json.as_object().ok_or_else(|| wrong("a map"))?, Some(decl))),
        })
    }

    /// JSON without a schema.
    pub fn plain(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => n.as_i64().map(Self::Int).or_else(|| n.as_u64().map(Self::Uint)).unwrap_or_else(|| Self::Double(n.as_f64().unwrap_or(f64::NAN))),
            Json::String(s) => Self::String(Text::Borrowed(s)),
            Json::Array(items) => Self::List(List { items: Items::Json(items, None), semantics: Semantics::Atomic }),
            Json::Object(map) => Self::Map(Map::Json(map, None)),
        }
    }

    /// The value as JSON, where it has such a form (upstream: conversion to `structpb.Value`).
    ///
    /// # Errors
    /// For values that JSON has no form for, and broken data.
    pub fn to_json(&self) -> Result<Json, Error> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(n) => (*n).into(),
            Self::Uint(n) => (*n).into(),
            Self::Double(f) => serde_json::Number::from_f64(*f).map(Json::Number).ok_or_else(|| Error::new("number has no form in JSON"))?,
            Self::String(s) => (**s).into(),
            Self::Bytes(b) => base64::engine::general_purpose::STANDARD.encode(b).into(),
            Self::Duration(n) => time::seconds(*n).into(),
            Self::Timestamp(t) => t.to_string().into(),
            Self::List(items) => Json::Array(items.iter().map(|i| i?.to_json()).collect::<Result<_, _>>()?),
            Self::Map(Map::Json(map, _)) => Json::Object((*map).clone()),
            Self::Map(map) => {
                let mut out = serde_json::Map::new();
                for (k, v) in map.entries()? {
                    out.insert(k.shown(), v.to_json()?);
                }
                Json::Object(out)
            }
            Self::Object(made) => Json::Object(made.fields.iter().map(|(k, v)| Ok((k.clone(), v.to_json()?))).collect::<Result<_, Error>>()?),
            Self::Optional(Some(inner)) => inner.to_json()?,
            Self::Optional(None) => Json::Null,
            other => return Err(Error::new(format!("type conversion error from '{}' to JSON", other.type_of()))),
        })
    }

    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::List(_) => types::list(Type::Dyn),
            Self::Map(Map::Json(_, Some(Decl { kind: DeclKind::Object { .. }, ty: Some(t), .. }))) => t.clone(),
            Self::Map(_) => types::map(Type::Dyn, Type::Dyn),
            Self::Object(made) => Type::Struct(made.type_name.clone()),
            Self::Type(_) => Type::Type(None),
            Self::Optional(_) => types::optional(Type::Dyn),
            Self::Ip(_) => Type::Opaque("net.IP".into(), Arc::new([])),
            Self::Cidr(..) => Type::Opaque("net.CIDR".into(), Arc::new([])),
            Self::Url(_) => types::object("kubernetes.URL"),
            Self::Quantity(_) => types::object("kubernetes.Quantity"),
            Self::Semver(_) => types::object("kubernetes.Semver"),
            Self::Format(_) => types::object("kubernetes.NamedFormat"),
            Self::Authz(check) => types::object(check.type_name()),
            Self::Variables => types::object("kubernetes.variables"),
        }
    }

    /// Equality across all types: numbers by value, different types never.
    pub fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Null, Value::Null) | (Self::Variables, Value::Variables) => true,
            (Self::Bool(a), Value::Bool(b)) => a == b,
            (Self::String(a), Value::String(b)) => **a == **b,
            (Self::Bytes(a), Value::Bytes(b)) => a == b,
            (Self::Duration(a), Value::Duration(b)) => a == b,
            (Self::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Self::List(a), Value::List(b)) => lists_equal(a, b),
            (Self::Map(a), Value::Map(b)) => maps_equal(a, b),
            (Self::Object(a), Value::Object(b)) => {
                a.type_name == b.type_name && a.fields.len() == b.fields.len() && a.fields.iter().all(|(k, v)| b.fields.get(k).is_some_and(|o| v.equals(o)))
            }
            (Self::Type(a), Value::Type(b)) => a.runtime_name() == b.runtime_name(),
            (Self::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (None, None) => true,
                _ => false,
            },
            (Self::Ip(a), Value::Ip(b)) => a == b,
            (Self::Cidr(a, n), Value::Cidr(b, m)) => a == b && n == m,
            (Self::Url(a), Value::Url(b)) => a.text == b.text,
            (Self::Quantity(a), Value::Quantity(b)) => a == b,
            (Self::Semver(a), Value::Semver(b)) => a.cmp(b) == Ordering::Equal,
            (Self::Format(a), Value::Format(b)) => a.name == b.name,
            (Self::Authz(a), Value::Authz(b)) => a == b,
            _ => self.compare_numbers(other) == Some(Ordering::Equal),
        }
    }

    fn compare_numbers(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Value::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Int(a), Value::Double(b)) => compare_with_double(i128::from(*a), *b),
            (Self::Uint(a), Value::Double(b)) => compare_with_double(i128::from(*a), *b),
            (Self::Double(a), Value::Int(b)) => compare_with_double(i128::from(*b), *a).map(Ordering::reverse),
            (Self::Double(a), Value::Uint(b)) => compare_with_double(i128::from(*b), *a).map(Ordering::reverse),
            _ => None,
        }
    }

    /// The order of two values that have one.
    ///
    /// # Errors
    /// When they have none.
    pub fn compare(&self, other: &Value<'_>) -> Result<Option<Ordering>, Error> {
        Ok(match (self, other) {
            (Self::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Value::String(b)) => Some((**a).cmp(&**b)),
            (Self::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (Self::Int(_) | Self::Uint(_) | Self::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => self.compare_numbers(other),
            _ => return Err(Error::no_overload()),
        })
    }

    /// What `size()` would say, or 1: the measure of costs.
    pub fn size(&self) -> u64 {
        match self {
            Self::String(s) => s.chars().count() as u64,
            Self::Bytes(b) => b.len() as u64,
            Self::List(l) => l.len() as u64,
            Self::Map(m) => m.len() as u64,
            Self::Optional(Some(inner)) => inner.size(),
            Self::Ip(ip) => ip_size(ip),
            Self::Cidr(ip, bits) => ip_size(ip).min(u64::from(bits.div_ceil(8))),
            _ => 1,
        }
    }

    /// As it appears in messages.
    pub fn shown(&self) -> String {
        match self {
            Self::String(s) => (**s).to_owned(),
            Self::Int(n) => n.to_string(),
            Self::Uint(n) => n.to_string(),
            Self::Bool(b) => b.to_string(),
            Self::Double(f) => time::go_float(*f),
            Self::Null => "null".into(),
            Self::Duration(n) => time::seconds(*n),
            Self::Timestamp(t) => t.to_string(),
            other => other.to_json().map_or_else(|_| other.type_of().to_string(), |j| j.to_string()),
        }
    }
}

fn ip_size(ip: &IpAddr) -> u64 {
    if ip.is_ipv4() { 4 } else { 16 }
}

fn wanted_error(wrong: &dyn Fn(&str) -> Error, wanted: &str) -> Error {
    wrong(wanted)
}

fn json_type(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_f64() => "float64",
        Json::Number(_) => "int64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}

fn whole(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| json.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.3e18).map(|f| f as i64))
}

fn bytes(text: &str) -> Result<Arc<[u8]>, Error> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.map(Arc::from).map_err(|_| Error::new(format!("Invalid byte formatted string {text}")))
}

fn lists_equal(a: &List<'_>, b: &List<'_>) -> bool {
    // Two lifetimes: the shorter one serves for both.
    fn same<'s>(a: &List<'s>, b: &List<'s>) -> bool {
        a.equals(b)
    }
    same(a, b)
}

fn maps_equal(a: &Map<'_>, b: &Map<'_>) -> bool {
    fn same<'s>(a: &Map<'s>, b: &Map<'s>) -> bool {
        a.equals(b)
    }
    same(a, b)
}

fn compare_with_double(a: i128, b: f64) -> Option<Ordering> {
    if b.is_nan() {
        None
    } else if b.abs() >= 1e30 {
        Some(if b > 0.0 { Ordering::Less } else { Ordering::Greater })
    } else {
        let whole = b.floor();
        Some(a.cmp(&(whole as i128)).then(if b > whole { Ordering::Less } else { Ordering::Equal }))
    }
}
