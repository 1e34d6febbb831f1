//! How a value merges: the type table and a custom resource's schema seen through one type
//! (upstream: `k8s.io/kube-openapi/pkg/schemaconv`).

use std::sync::LazyLock;

use knarr_core::Value;

use super::fields::json_text;
use super::set::Element;
use crate::registry::Resource;
use crate::types::{self, Field, ListType, Shape, Type, TypeId};

/// The type of a value, as far as merging asks for it.
#[derive(Clone, Copy, Debug)]
pub enum Schema<'a> {
    /// A value of a built-in type; what the field adds to it (how a list merges) is in the field.
    Table(Shape, Option<&'static Field>),
    /// A value in a custom resource.
    Custom(Custom<'a>),
    /// Anything; maps merge field by field, lists are atomic (`__untyped_deduced_`).
    Deduced,
    /// Anything; maps and lists are atomic (`__untyped_atomic_`).
    Untyped,
}

/// A node of `openAPIV3Schema`, with what it inherits.
#[derive(Clone, Copy, Debug)]
pub struct Custom<'a> {
    node: &'a Value,
    preserves_unknown: bool,
    /// Whether `kind`, `apiVersion` and `metadata` stand here.
    is_resource: bool,
}

/// What a value of a type is handled as.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    Scalar(Scalar),
    List(List<'a>),
    Map(MapType<'a>),
}

impl Kind<'_> {
    pub fn is_same(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    Numeric,
    String,
    Boolean,
    Untyped,
}

#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    pub merge: ListMerge<'a>,
    pub item: Schema<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum ListMerge<'a> {
    Atomic,
    Set,
    Keys(&'static [&'static str]),
    Key(&'static str),
    CustomKeys(&'a [Value]),
}

#[derive(Clone, Copy, Debug)]
pub struct MapType<'a> {
    pub is_atomic: bool,
    fields: Fields<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Fields<'a> {
    Type(&'static Type),
    Each(Shape),
    Custom(Custom<'a>),
    Deduced,
    Untyped,
}

impl<'a> Schema<'a> {
    /// The type of a resource's objects.
    pub fn of(resource: &'a Resource) -> Self {
        match (&resource.type_id, &resource.custom) {
            (Some(id), _) => Self::Table(Shape::Struct(*id), None),
            (None, Some(custom)) => {
                let custom = Custom { node: custom.schema.merging(), preserves_unknown: custom.preserve_unknown_fields, is_resource: true };
                Self::Custom(custom.entered())
            }
            (None, None) => Self::Deduced,
        }
    }

    /// What a value is handled as. Of a type that may be several things the value decides; null and absent count as a map.
    pub fn kind(self, value: Option<&Value>) -> Kind<'a> {
        match self {
            Self::Table(shape, field) => table_kind(shape, field, value),
            Self::Custom(custom) => custom.kind(value),
            Self::Deduced => any(value, MapType { is_atomic: false, fields: Fields::Deduced }, None),
            Self::Untyped => any(value, MapType { is_atomic: true, fields: Fields::Untyped }, None),
        }
    }

    /// `metadata.managedFields`, which no comparison looks at.
    pub fn is_managed_fields(self) -> bool {
        static ENTRY: LazyLock<Option<TypeId>> = LazyLock::new(|| types::by_name("apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry"));
        matches!(self, Self::Table(Shape::List(Shape::Struct(id)), _) if Some(*id) == *ENTRY)
    }
}

fn any<'a>(value: Option<&Value>, map: MapType<'a>, list: Option<List<'a>>) -> Kind<'a> {
    match value {
        None | Some(Value::Null | Value::Object(_)) => Kind::Map(map),
        Some(Value::Array(_)) => Kind::List(list.unwrap_or(List { merge: ListMerge::Atomic, item: Schema::Untyped })),
        Some(_) => Kind::Scalar(Scalar::Untyped),
    }
}

fn table_kind<'a>(shape: Shape, field: Option<&'static Field>, value: Option<&Value>) -> Kind<'a> {
    let is_atomic = field.is_some_and(|f| f.atomic);
    match shape {
        Shape::String | Shape::Bytes | Shape::Duration => Kind::Scalar(Scalar::String),
        Shape::Bool => Kind::Scalar(Scalar::Boolean),
        Shape::Int32 | Shape::Int64 | Shape::Double => Kind::Scalar(Scalar::Numeric),
        Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime | Shape::TypeMeta => Kind::Scalar(Scalar::Untyped),
        Shape::Struct(id) => {
            let t = types::get(id);
            let fields = if t.fields.is_empty() { Fields::Deduced } else { Fields::Type(t) };
            let granular = field.is_some_and(|f| f.granular);
            Kind::Map(MapType { is_atomic: is_atomic || t.atomic && !granular, fields })
        }
        Shape::Map(item) => Kind::Map(MapType { is_atomic, fields: Fields::Each(*item) }),
        Shape::List(item) => Kind::List(List { merge: field.map_or(ListMerge::Atomic, list_merge), item: Schema::Table(*item, None) }),
        Shape::NamedList(id) => match types::get(id).alias {
            Some(alias) => table_kind(alias, None, value),
            None => Kind::List(List { merge: ListMerge::Atomic, item: Schema::Untyped }),
        },
        Shape::FieldsV1 => Kind::Map(MapType { is_atomic: false, fields: Fields::Deduced }),
        Shape::RawExtension => any(value, MapType { is_atomic: true, fields: Fields::Untyped }, None),
        Shape::Json | Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings => {
            any(value, MapType { is_atomic: false, fields: Fields::Deduced }, None)
        }
    }
}

/// The declared list type; where there is none, that which follows from strategic merge.
fn list_merge<'a>(field: &'static Field) -> ListMerge<'a> {
    match field.list_type {
        Some(ListType::Atomic) => ListMerge::Atomic,
        Some(ListType::Set) => ListMerge::Set,
        Some(ListType::Map) => ListMerge::Keys(field.map_keys),
        None if !matches!(field.patch_strategy, "merge" | "merge,retainKeys") => ListMerge::Atomic,
        None if field.patch_merge_key.is_empty() => ListMerge::Set,
        None => ListMerge::Key(field.patch_merge_key),
    }
}

impl<'a> Custom<'a> {
    fn flag(&self, name: &str) -> bool {
        self.node.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Notes what the node says for itself and those below it.
    fn entered(mut self) -> Self {
        self.preserves_unknown |= self.flag("x-kubernetes-preserve-unknown-fields");
        self.is_resource |= self.flag("x-kubernetes-embedded-resource");
        self
    }

    fn below(&self, node: &'a Value) -> Schema<'a> {
        Schema::Custom(Self { node, preserves_unknown: self.preserves_unknown, is_resource: false }.entered())
    }

    fn kind(self, value: Option<&Value>) -> Kind<'a> {
        let is_atomic = self.node.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic");
        let map = MapType { is_atomic, fields: Fields::Custom(self) };
        match self.node.get("type").and_then(Value::as_str) {
            Some("object") => Kind::Map(map),
            Some("array") => Kind::List(self.list()),
            Some("integer" | "number") => Kind::Scalar(Scalar::Numeric),
            Some("boolean") => Kind::Scalar(Scalar::Boolean),
            Some("string") => match self.node.get("format").and_then(Value::as_str) {
                None | Some("" | "byte") => Kind::Scalar(Scalar::String),
                Some(_) => Kind::Scalar(Scalar::Untyped),
            },
            _ if self.is_resource => Kind::Map(map),
            _ => any(value, map, Some(self.list())),
        }
    }

    fn list(&self) -> List<'a> {
        let merge = match self.node.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListMerge::Set,
            Some("map") => ListMerge::CustomKeys(self.node.get("x-kubernetes-list-map-keys").and_then(Value::as_array).map_or(&[], Vec::as_slice)),
            _ => ListMerge::Atomic,
        };
        List { merge, item: self.node.get("items").map_or(Schema::Untyped, |items| self.below(items)) }
    }

    fn property(&self, name: &str) -> Option<&'a Value> {
        self.node.get("properties")?.get(name)
    }

    /// The type of keys that are not declared.
    fn additional(&self) -> Option<Schema<'a>> {
        let has_properties = self.node.get("properties").and_then(Value::as_object).is_some_and(|p| !p.is_empty());
        match self.node.get("additionalProperties") {
            None | Some(Value::Null) => (self.preserves_unknown || !has_properties).then_some(Schema::Deduced),
            Some(Value::Bool(allows)) => allows.then_some(Schema::Deduced),
            Some(schema) => Some(self.below(schema)),
        }
    }
}

impl<'a> MapType<'a> {
    /// The type of the value under a key, and whether the key is a declared field. `None` for a key that may not be there.
    pub fn field(&self, name: &str) -> Option<(Schema<'a>, bool)> {
        match self.fields {
            Fields::Type(t) => match t.field(name) {
                Some(field) => Some((Schema::Table(field.shape, Some(field)), true)),
                None => (t.has_type_meta() && is_type_meta(name)).then_some((Schema::Table(Shape::String, None), true)),
            },
            Fields::Each(shape) => Some((Schema::Table(shape, None), false)),
            Fields::Custom(custom) if custom.is_resource && is_type_meta(name) => Some((Schema::Table(Shape::String, None), true)),
            Fields::Custom(custom) if custom.is_resource && name == "metadata" => Some((object_meta(), true)),
            Fields::Custom(custom) => match custom.property(name) {
                Some(node) => Some((custom.below(node), true)),
                None => Some((custom.additional()?, false)),
            },
            Fields::Deduced => Some((Schema::Deduced, false)),
            Fields::Untyped => Some((Schema::Untyped, false)),
        }
    }

    /// Whether nothing at all is declared about its fields.
    pub fn is_deduced(&self) -> bool {
        matches!(self.fields, Fields::Deduced)
    }

    /// The declared default of a field, as JSON.
    fn default(&self, name: &str) -> Option<String> {
        match self.fields {
            Fields::Type(t) => t.field(name)?.default.map(str::to_owned),
            Fields::Custom(custom) => custom.property(name)?.get("default").map(json_text),
            _ => None,
        }
    }
}

fn is_type_meta(name: &str) -> bool {
    matches!(name, "kind" | "apiVersion")
}

fn object_meta<'a>() -> Schema<'a> {
    static ID: LazyLock<Option<TypeId>> = LazyLock::new(|| types::by_name("apimachinery.pkg.apis.meta.v1.ObjectMeta"));
    ID.map_or(Schema::Deduced, |id| Schema::Table(Shape::Struct(id), None))
}

impl<'a> List<'a> {
    pub fn is_atomic(&self) -> bool {
        matches!(self.merge, ListMerge::Atomic)
    }

    /// The path element of an item of a set or of a list with keys.
    ///
    /// # Errors
    /// Upstream's words for an item that has none.
    pub fn element(&self, item: &Value) -> Result<Element<'a>, String> {
        match self.merge {
            ListMerge::Atomic => Err("invalid indexing of non-associative list".into()),
            ListMerge::Set => set_element(item),
            ListMerge::Key(key) => self.key_element(item, &[key]),
            ListMerge::Keys(keys) => self.key_element(item, keys),
            ListMerge::CustomKeys(keys) => {
                let keys: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
                self.key_element(item, &keys)
            }
        }
    }

    fn key_element(&self, item: &Value, keys: &[&str]) -> Result<Element<'a>, String> {
        let map = match item {
            Value::Object(map) => map,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let mut found: Vec<(&str, String)> = Vec::with_capacity(keys.len());
        for key in keys {
            let text = match map.get(*key) {
                Some(value) => Some(json_text(value)),
                None => match self.item.kind(Some(item)) {
                    Kind::Map(t) => t.default(key),
                    _ => return Err(format!("couldn't find default value for {key}: associative list may not have non-map types")),
                },
            };
            found.extend(text.map(|text| (*key, text)));
        }
        if found.is_empty() {
            let keys: Vec<String> = keys.iter().map(|k| knarr_core::field::go_quote(k)).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                keys.join(" ")
            ));
        }
        found.sort_unstable();
        let fields: Vec<String> = found.into_iter().map(|(key, text)| format!("\"{key}\":{text}")).collect();
        Ok(Element::Key(format!("{{{}}}", fields.join(",")).into()))
    }
}

fn set_element<'a>(item: &Value) -> Result<Element<'a>, String> {
    match item {
        Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
        Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
        Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
        scalar => Ok(Element::Value(json_text(scalar).into())),
    }
}
