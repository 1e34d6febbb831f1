//! The type table: 1,265 types of the API, as static data. A type is built from the table when it is first asked for and
//! lives as long as the process.

mod hash;
mod load;

pub(crate) use hash::of as name_hash;

/// One type of the API, by its OpenAPI definition name without `io.k8s.`.
#[derive(Debug)]
pub struct Type {
    pub id: TypeId,
    pub name: &'static str,
    /// In the order in which Go writes JSON. Protobuf is written in order of numbers.
    pub fields: &'static [Field],
    /// `mt: atomic`: apply takes the whole struct as one value.
    pub atomic: bool,
    /// A named list that protobuf wraps in a message `{repeated items = 1}`.
    pub alias: Option<Shape>,
    /// `x-kubernetes-unions`, as JSON text.
    pub unions: Option<&'static str>,
    index: FieldIndex,
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
    /// `mt: atomic`: apply takes the map or struct as one value.
    pub atomic: bool,
    /// `mt: granular`: apply goes into the struct field by field, whatever its type says.
    pub granular: bool,
    /// Strategic merge: `merge`, `replace`, `retainKeys`, joined by commas.
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    /// Declared defaults, as JSON text.
    pub default: Option<&'static str>,
    pub item_default: Option<&'static str>,
    pub enum_values: &'static [&'static str],
    pub item_enum_values: &'static [&'static str],
    /// `(kind, apiVersion)` that items of this list show in JSON, though protobuf carries none.
    pub nested_kind: Option<(&'static str, &'static str)>,
    /// The Go type where it is a named scalar, list or map (`v1.PullPolicy`), else empty.
    pub(crate) go_type: &'static str,
    /// The JSON name as it is written: in quotes, with a colon.
    pub(crate) key: &'static str,
}

impl Field {
    /// Whether Go leaves out this field when it holds the zero value of a scalar. It never leaves out a struct.
    pub(crate) fn omits_zero(&self) -> bool {
        self.omit_empty && !self.pointer
    }

    /// Whether Go tells nothing from a time that is there and zero: protobuf has an empty message for it, JSON null, and both write it again.
    pub(crate) fn may_be_zero_time(&self) -> bool {
        self.pointer && matches!(self.shape, Shape::Time | Shape::MicroTime) && !self.is_always_written()
    }

    /// Whether Go writes this field to JSON even when nothing was set.
    pub(crate) fn is_always_written(&self) -> bool {
        match self.shape {
            _ if self.pointer => !self.omit_empty && !self.omit_zero,
            Shape::List(_) | Shape::Map(_) | Shape::NamedList(_) => !self.omit_empty,
            Shape::String | Shape::Bytes | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Double => !self.omit_empty,
            _ => !self.omit_zero,
        }
    }
}

/// The type with this index.
pub fn get(id: TypeId) -> &'static Type {
    load::get(id)
}

/// The type behind a group, version and kind.
pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<TypeId> {
    load::of_kind(group, version, kind)
}

/// The type with this OpenAPI definition name (without `io.k8s.`).
pub fn by_name(name: &str) -> Option<TypeId> {
    load::by_name(name)
}

/// How many types there are; their ids are the numbers below.
pub fn count() -> usize {
    load::count()
}

/// One name under which a type is registered. Several kinds can have one type (`DeleteOptions` has one a group version).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub type_id: TypeId,
}

/// All registered kinds, sorted by group, version and kind.
pub fn kinds() -> impl Iterator<Item = Kind> {
    load::kinds()
}

impl Type {
    /// The field with this JSON name, those of inlined structs included.
    pub fn field(&self, json: &str) -> Option<&'static Field> {
        self.index.flat(json).map(|i| self.index.flat[i].field)
    }

    /// The field with this JSON name and its position among `json_fields`.
    pub(crate) fn flat(&self, json: &str) -> Option<(usize, &Flat)> {
        self.index.flat(json).map(|i| (i, &self.index.flat[i]))
    }

    /// The fields that Go writes to JSON even when nothing was set.
    pub(crate) fn always_written(&self) -> impl Iterator<Item = &'static Field> {
        self.index.always.iter().copied()
    }

    /// The field with this protobuf number (inlined structs are fields of their own here).
    pub fn field_by_number(&self, number: u32) -> Option<&'static Field> {
        self.position_of(number).map(|i| &self.fields[i])
    }

    /// Where in `fields` the field with this number stands.
    pub(crate) fn position_of(&self, number: u32) -> Option<usize> {
        match self.index.by_number.get(number as usize) {
            Some(&i) if i != NONE => Some(usize::from(i)),
            _ => None,
        }
    }

    /// The fields of its JSON object in the order in which Go writes them: inlined structs are opened, `kind` and
    /// `apiVersion` are not among them.
    pub fn json_fields(&self) -> impl Iterator<Item = &'static Field> {
        self.index.flat.iter().map(|f| f.field)
    }

    /// One bit for each of `fields`: lists and maps; and what JSON can show though nothing is on the wire.
    pub(crate) fn masks(&self) -> Masks {
        self.index.masks
    }

    /// Its fields in descending order of protobuf numbers.
    pub(crate) fn descending(&self) -> impl Iterator<Item = &'static Field> {
        self.index.by_number.iter().rev().filter(|i| **i != NONE).map(|i| &self.fields[usize::from(*i)])
    }

    /// Whether its JSON object begins with `kind` and `apiVersion`.
    pub fn has_type_meta(&self) -> bool {
        self.index.has_type_meta
    }
}

impl Shape {
    /// The struct that this is, or that its items are.
    pub fn struct_id(&self) -> Option<TypeId> {
        match self {
            Self::Struct(id) => Some(*id),
            Self::List(item) | Self::Map(item) => item.struct_id(),
            _ => None,
        }
    }
}

const NONE: u8 = u8::MAX;

/// Ways from a JSON name and from a protobuf number to a field, without a search.
#[derive(Debug)]
struct FieldIndex {
    flat: Vec<Flat>,
    /// Hash table over the names of `flat`; its length is a power of two.
    by_name: Box<[u8]>,
    by_number: Box<[u8]>,
    /// Fields that are written though nothing was set.
    always: Vec<&'static Field>,
    has_type_meta: bool,
    masks: Masks,
}

/// Properties of fields as sets of bits, so that a message is worked through without looking at fields it has not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Masks {
    pub repeated: u64,
    pub always: u64,
}

impl Masks {
    fn of(fields: &[Field]) -> Self {
        assert!(fields.len() <= 64, "a mask has a bit for each field");
        let bits = |wanted: fn(&Field) -> bool| fields.iter().enumerate().filter(|(_, f)| wanted(f)).map(|(i, _)| 1 << i).sum();
        Self {
            repeated: bits(|f| matches!(f.shape, Shape::List(_) | Shape::Map(_))),
            always: bits(|f| f.shape != Shape::TypeMeta && (f.inline || f.is_always_written())),
        }
    }
}

/// A field of the JSON object, and the inlined structs in which it is, outermost first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flat {
    pub field: &'static Field,
    pub embedded: &'static [TypeId],
}

impl FieldIndex {
    fn of(fields: &'static [Field]) -> Self {
        let mut flat = Vec::with_capacity(fields.len());
        for field in fields.iter().filter(|f| f.shape != Shape::TypeMeta) {
            match field.shape {
                Shape::Struct(id) if field.inline => flat.extend(get(id).index.flat.iter().map(|inner| {
                    let embedded: Vec<TypeId> = std::iter::once(id).chain(inner.embedded.iter().copied()).collect();
                    Flat { field: inner.field, embedded: embedded.leak() }
                })),
                _ => flat.push(Flat { field, embedded: &[] }),
            }
        }
        let mut by_name = vec![NONE; (flat.len() * 2).next_power_of_two()].into_boxed_slice();
        for (i, f) in flat.iter().enumerate() {
            let mut slot = name_hash(&[f.field.json]) as usize & (by_name.len() - 1);
            while by_name[slot] != NONE {
                slot = (slot + 1) & (by_name.len() - 1);
            }
            by_name[slot] = u8::try_from(i).expect("fewer than 255 fields");
        }
        let numbers = fields.iter().map(|f| f.number as usize + 1).max().unwrap_or(0);
        let mut by_number = vec![NONE; numbers].into_boxed_slice();
        for (i, f) in fields.iter().enumerate().filter(|(_, f)| f.number != 0) {
            by_number[f.number as usize] = u8::try_from(i).expect("fewer than 255 fields");
        }
        let always = flat.iter().map(|f| f.field).filter(|f| f.is_always_written()).collect();
        let has_type_meta = fields.iter().any(|f| f.shape == Shape::TypeMeta);
        Self { flat, by_name, by_number, always, has_type_meta, masks: Masks::of(fields) }
    }

    fn flat(&self, json: &str) -> Option<usize> {
        let mut slot = name_hash(&[json]) as usize & (self.by_name.len() - 1);
        loop {
            let i = self.by_name[slot];
            if i == NONE {
                return None;
            }
            if self.flat[usize::from(i)].field.json == json {
                return Some(usize::from(i));
            }
            slot = (slot + 1) & (self.by_name.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_kind_of_the_table_is_found() {
        for id in 0..count() {
            let t = get(TypeId::try_from(id).unwrap());
            assert_eq!(by_name(t.name), Some(t.id));
            for field in t.fields.iter().filter(|f| f.number != 0) {
                assert!(std::ptr::eq(t.field_by_number(field.number).unwrap(), field));
            }
            // The envelope has fields without names.
            for field in t.json_fields().filter(|f| !f.json.is_empty()) {
                assert!(std::ptr::eq(t.field(field.json).unwrap(), field));
            }
        }
        assert_eq!((count(), kinds().count()), (1265 + 5, 799 + 8));
        for k in kinds() {
            assert_eq!(of_kind(k.group, k.version, k.kind), Some(k.type_id));
        }
        assert_eq!(of_kind("apps", "v1", "Pod"), None);
        assert_eq!(by_name("Pod"), None);
    }

    #[test]
    fn fields_of_inlined_structs_are_found_by_name() {
        let volume = get(by_name("api.core.v1.Volume").unwrap());
        assert_eq!(volume.field("emptyDir").unwrap().number, 2);
        assert!(volume.field("emptydir").is_none());
        assert_eq!(volume.field_by_number(2).unwrap().json, "");
    }

    #[test]
    fn what_the_table_says_of_a_field_arrives() {
        let spec = get(by_name("api.core.v1.PodSpec").unwrap());
        let spread = spec.field("topologySpreadConstraints").unwrap();
        assert_eq!((spread.list_type, spread.map_keys), (Some(ListType::Map), &["topologyKey", "whenUnsatisfiable"][..]));
        assert_eq!((spread.patch_strategy, spread.patch_merge_key), ("merge", "topologyKey"));
        let port = get(by_name("api.core.v1.ContainerPort").unwrap()).field("protocol").unwrap();
        assert_eq!((port.default, port.enum_values), (Some("\"TCP\""), &["SCTP", "TCP", "UDP"][..]));
        assert!(spec.field("nodeSelector").unwrap().atomic && spec.field("priority").unwrap().pointer);
    }
}
