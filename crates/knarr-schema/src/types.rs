//! The type table: 1,265 types of the API, as static data.

/// One type of the API, by its OpenAPI definition name without `io.k8s.`.
#[derive(Debug)]
pub struct Type {
    pub name: &'static str,
    /// In the order in which Go writes JSON. Protobuf is written in order of numbers.
    pub fields: &'static [Field],
    /// `mt: atomic`: apply takes the whole struct as one value.
    pub atomic: bool,
    /// A named list that protobuf wraps in a message `{repeated items = 1}`.
    pub alias: Option<Shape>,
}

/// Index of a [`Type`] in the table.
pub type TypeId = u16;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Struct(TypeId),
    /// A named list, see [`Type::alias`].
    NamedList(TypeId),
    List(&'static Shape),
    Map(&'static Shape),
    /// `kind` and `apiVersion` stand here.
    TypeMeta,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    RawExtension,
    FieldsV1,
    Json,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
}

/// How apply merges a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

/// One field.
#[derive(Debug)]
pub struct Field {
    pub json: &'static str,
    pub number: u32,
    pub shape: Shape,
    pub required: bool,
    pub pointer: bool,
    pub omit_empty: bool,
    /// Its fields appear in the parent's JSON object; in protobuf it is a message of its own.
    pub inline: bool,
    pub omit_zero: bool,
    pub list_type: Option<ListType>,
    pub map_keys: &'static [&'static str],
    pub atomic: bool,
    /// Strategic merge: `merge`, `replace`, `retainKeys`, joined by commas.
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    /// Declared defaults, as JSON text.
    pub default: Option<&'static str>,
    pub item_default: Option<&'static str>,
    pub enum_values: &'static [&'static str],
    pub item_enum_values: &'static [&'static str],
}

/// The type with this index.
pub fn get(_id: TypeId) -> &'static Type {
    todo!()
}

/// The type behind a group, version and kind.
pub fn of_kind(_group: &str, _version: &str, _kind: &str) -> Option<TypeId> {
    todo!()
}

/// The type with this OpenAPI definition name (without `io.k8s.`).
pub fn by_name(_name: &str) -> Option<TypeId> {
    todo!()
}
