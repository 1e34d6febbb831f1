//! What strategic merge asks of a type: how a field is patched (`strategicpatch/meta.go`), and what may go wrong.

use knarr_core::{Map, Reason, Status, Value};

use crate::types::{self, Shape, Type, TypeId};

pub const DIRECTIVE: &str = "$patch";
pub const RETAIN_KEYS: &str = "$retainKeys";
pub const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
pub const SET_ORDER: &str = "$setElementOrder";

/// Why a patch cannot be made or applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// 400.
    BadRequest(String),
    /// 422, without a word about the reason.
    Unprocessable,
    /// 500 without a reason: upstream answers so whatever it has no better answer for.
    Plain(String),
}

pub type Result<T> = std::result::Result<T, PatchError>;

impl PatchError {
    pub fn bad_primitive_list() -> Self {
        Self::BadRequest("invalid patch format of primitive list".into())
    }

    pub fn bad_retain_keys() -> Self {
        Self::BadRequest("invalid patch format of retainKeys".into())
    }

    pub fn bad_set_order() -> Self {
        Self::BadRequest("invalid patch format of setElementOrder list".into())
    }

    pub fn no_merge_key(item: &Map<String, Value>, key: &str) -> Self {
        Self::Plain(format!("map: {} does not contain declared merge key: {key}", print_map(item)))
    }

    pub fn bad_type(expected: &str, found: &Value) -> Self {
        Self::Plain(format!("expected a {expected}, but received a {}", go_type(found)))
    }

    pub fn bad_directive(directive: &Value, item: &Map<String, Value>) -> Self {
        Self::Plain(format!("unknown patch type: {} in map: {}", print(directive), print_map(item)))
    }
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::BadRequest(why) => Self::bad_request(why),
            PatchError::Unprocessable => {
                Self::new(422, Reason::Invalid, "the server rejected our request due to an error in our request").with_details(Default::default())
            }
            PatchError::Plain(why) => Self::new(500, Reason::Unknown, why),
        }
    }
}

pub const MAP: &str = "map[string]interface {}";
pub const LIST: &str = "[]interface {}";

/// Go's `%T`.
pub fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => LIST,
        Value::Object(_) => MAP,
    }
}

/// Go's `%v`.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => print_map(map),
        scalar => scalar.to_string(),
    }
}

fn print_map(map: &Map<String, Value>) -> String {
    format!("map[{}]", map.iter().map(|(k, v)| format!("{k}:{}", print(v))).collect::<Vec<_>>().join(" "))
}

/// The type of a value, as far as a patch goes into it.
#[derive(Clone, Copy, Debug)]
pub struct Meta(Option<Shape>);

/// How one field is patched.
#[derive(Clone, Copy, Debug)]
pub struct FieldMeta {
    /// The type of the field's value; of a list's items.
    pub below: Meta,
    pub strategy: Strategy,
    pub retains_keys: bool,
    /// Empty when there is none.
    pub merge_key: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    Default,
    Merge,
    Replace,
}

impl Meta {
    pub fn of(type_id: TypeId) -> Self {
        Self(Some(Shape::Struct(type_id)))
    }

    /// Looks up a field whose value is a map.
    pub fn field(&self, name: &str) -> Result<FieldMeta> {
        let t = self.struct_type()?;
        let field = t.field(name).ok_or_else(|| {
            let short = t.name.rsplit('.').next().unwrap_or(t.name);
            PatchError::Plain(format!("unable to find api field in struct {short} for the json field {}", knarr_core::field::go_quote(name)))
        })?;
        let parts = || field.patch_strategy.split(',');
        let strategy = match parts().find(|s| !matches!(*s, "" | "retainKeys")) {
            Some("merge") => Strategy::Merge,
            Some("replace") => Strategy::Replace,
            _ => Strategy::Default,
        };
        let retains_keys = parts().any(|s| s == "retainKeys");
        Ok(FieldMeta { below: Self(Some(field.shape)), strategy, retains_keys, merge_key: field.patch_merge_key })
    }

    /// Looks up a field whose value is a list.
    pub fn list(&self, name: &str) -> Result<FieldMeta> {
        let field = self.field(name)?;
        let list = match field.below.0 {
            Some(Shape::NamedList(id)) => types::get(id).alias,
            shape => shape,
        };
        match list {
            Some(Shape::List(Shape::List(_))) => Err(PatchError::Plain("unexpected slice of slice".into())),
            Some(Shape::List(item)) => Ok(FieldMeta { below: Self(Some(*item)), ..field }),
            _ => Err(PatchError::Plain("expected slice or array type, but got: struct".into())),
        }
    }

    fn struct_type(&self) -> Result<&'static Type> {
        let other = match self.0 {
            Some(Shape::Struct(id)) => return Ok(types::get(id)),
            Some(Shape::Map(_)) => "map",
            Some(Shape::List(_) | Shape::NamedList(_) | Shape::Bytes) => "slice",
            Some(Shape::RawExtension | Shape::Json | Shape::FieldsV1 | Shape::Quantity | Shape::IntOrString) => "struct",
            _ => "interface",
        };
        Err(PatchError::Plain(format!("merging an object in json but data type is not struct, instead is: {other}")))
    }

    /// What messages call it.
    pub fn kind_name(&self) -> &'static str {
        match self.0 {
            Some(Shape::Struct(_)) => "struct",
            Some(Shape::Map(_)) => "map",
            _ => "string",
        }
    }
}

/// What the items of lists are: all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    Map,
    Scalar,
}

/// The kind of all items of these lists (`sliceElementType`).
pub fn item_kind(lists: &[&[Value]]) -> Result<ItemKind> {
    let mut first: Option<&Value> = None;
    for item in lists.iter().copied().flatten() {
        match first {
            None if item.is_array() => return Err(PatchError::Unprocessable),
            None => first = Some(item),
            Some(first) if go_type(first) != go_type(item) => {
                let all: Vec<String> = lists.iter().map(|l| print(&Value::Array(l.to_vec()))).collect();
                return Err(PatchError::Plain(format!("list element types are not identical: [{}]", all.join(" "))));
            }
            Some(_) => {}
        }
    }
    match first {
        None => Err(PatchError::Plain("no elements in any of the given slices".into())),
        Some(Value::Object(_)) => Ok(ItemKind::Map),
        Some(_) => Ok(ItemKind::Scalar),
    }
}
