//! Reads types out of `types.bin` (written by `build.rs`) when they are first asked for. A process that serves pods never
//! builds the types of resource claims; one that only prints its version builds none.

use std::sync::OnceLock;

use super::{Field, FieldIndex, Kind, ListType, Shape, Type, TypeId, hash};

include!(concat!(env!("OUT_DIR"), "/layout.rs"));

static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/types.bin"));
static TYPES: [OnceLock<Type>; TYPE_COUNT] = [const { OnceLock::new() }; TYPE_COUNT];

const NAMES_AT: usize = TYPE_COUNT * 4;
const KINDS_AT: usize = NAMES_AT + NAME_SLOTS * 2;

pub(super) fn count() -> usize {
    TYPE_COUNT
}

pub(super) fn get(id: TypeId) -> &'static Type {
    TYPES[usize::from(id)].get_or_init(|| record(id).one_type(id))
}

pub(super) fn by_name(name: &str) -> Option<TypeId> {
    let mut slot = hash::of(&[name]) as usize & (NAME_SLOTS - 1);
    loop {
        let id = Reader { at: NAMES_AT + slot * 2 }.u16();
        if id == u16::MAX {
            return None;
        }
        if record(id).text() == name {
            return Some(id);
        }
        slot = (slot + 1) & (NAME_SLOTS - 1);
    }
}

pub(super) fn of_kind(group: &str, version: &str, kind: &str) -> Option<TypeId> {
    let mut slot = hash::of(&[group, version, kind]) as usize & (KIND_SLOTS - 1);
    loop {
        let at = Reader { at: KINDS_AT + slot * 4 }.u32();
        if at == u32::MAX {
            return None;
        }
        let found = Reader { at: at as usize }.kind();
        if (found.group, found.version, found.kind) == (group, version, kind) {
            return Some(found.type_id);
        }
        slot = (slot + 1) & (KIND_SLOTS - 1);
    }
}

pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    let mut reader = Reader { at: KINDS_START };
    (0..KIND_COUNT).map(move |_| reader.kind())
}

fn record(id: TypeId) -> Reader {
    Reader { at: Reader { at: usize::from(id) * 4 }.u32() as usize }
}

/// A position in the table. The table is part of the program, so a read past its end is a bug and may panic.
struct Reader {
    at: usize,
}

impl Reader {
    fn take(&mut self, n: usize) -> &'static [u8] {
        self.at += n;
        &BLOB[self.at - n..self.at]
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        let b = self.take(2);
        u16::from_le_bytes([b[0], b[1]])
    }

    fn u32(&mut self) -> u32 {
        let b = self.take(4);
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }

    fn text(&mut self) -> &'static str {
        let n = self.u16();
        std::str::from_utf8(self.take(usize::from(n))).expect("the table is UTF-8")
    }

    fn texts(&mut self) -> &'static [&'static str] {
        match self.u8() {
            0 => &[],
            n => (0..n).map(|_| self.text()).collect::<Vec<_>>().leak(),
        }
    }

    fn optional(&mut self) -> Option<&'static str> {
        (self.u8() != 0).then(|| self.text())
    }

    fn kind(&mut self) -> Kind {
        Kind { group: self.text(), version: self.text(), kind: self.text(), type_id: self.u16() }
    }

    fn shape(&mut self) -> Shape {
        match self.u8() {
            b's' => Shape::String,
            b'y' => Shape::Bytes,
            b'b' => Shape::Bool,
            b'i' => Shape::Int32,
            b'l' => Shape::Int64,
            b'd' => Shape::Double,
            b'@' => Shape::Struct(self.u16()),
            b'*' => Shape::NamedList(self.u16()),
            b'[' => Shape::List(Box::leak(Box::new(self.shape()))),
            b'{' => Shape::Map(Box::leak(Box::new(self.shape()))),
            b'T' => Shape::Time,
            b'M' => Shape::TypeMeta,
            b'Q' => Shape::Quantity,
            b'I' => Shape::IntOrString,
            b'U' => Shape::MicroTime,
            b'D' => Shape::Duration,
            b'R' => Shape::RawExtension,
            b'F' => Shape::FieldsV1,
            b'J' => Shape::Json,
            b'A' => Shape::SchemaOrArray,
            b'O' => Shape::SchemaOrBool,
            b'P' => Shape::SchemaOrStrings,
            code => unreachable!("shape {code} is in no table"),
        }
    }

    fn one_type(&mut self, id: TypeId) -> Type {
        let name = self.text();
        let atomic = self.u8() != 0;
        let unions = self.optional();
        if self.u8() != 0 {
            let index = FieldIndex::of(&[]);
            return Type { id, name, fields: &[], atomic, alias: Some(self.shape()), unions, index };
        }
        let fields: &'static [Field] = (0..self.u8()).map(|_| self.field()).collect::<Vec<_>>().leak();
        Type { id, name, fields, atomic, alias: None, unions, index: FieldIndex::of(fields) }
    }

    fn field(&mut self) -> Field {
        let key = self.text();
        let nested_kind = Some((self.text(), self.text())).filter(|(kind, _)| !kind.is_empty());
        let number = u32::from(self.u8());
        let shape = self.shape();
        let flags = self.u8();
        Field {
            json: &key[1..key.len() - 2],
            key,
            nested_kind,
            number,
            shape,
            required: flags & 1 != 0,
            pointer: flags & 2 != 0,
            omit_empty: flags & 4 != 0,
            inline: flags & 8 != 0,
            omit_zero: flags & 16 != 0,
            atomic: flags & 128 != 0,
            granular: flags & 64 != 0,
            list_type: match self.u8() {
                b'a' => Some(ListType::Atomic),
                b's' => Some(ListType::Set),
                b'm' => Some(ListType::Map),
                _ => None,
            },
            map_keys: self.texts(),
            patch_strategy: self.text(),
            patch_merge_key: self.text(),
            go_type: self.text(),
            default: self.optional(),
            item_default: self.optional(),
            enum_values: self.texts(),
            item_enum_values: self.texts(),
        }
    }
}
