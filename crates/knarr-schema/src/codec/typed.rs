//! A serde `Deserializer` over protobuf, guided by the type table: it shows an object as its JSON would be, so that trees
//! and the structs of `k8s-openapi` can be made from the bytes without JSON in between.

use std::fmt;

use base64::Engine as _;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::envelope::{Envelope, MAGIC};
use super::slots::{self, Repeated, Slot};
use super::to_json::is_omitted;
use super::wire::{Malformed, Reader, Wire, last_bytes, last_varint};
use super::{DEPTH_MAX, scalar, schema_props};
use crate::types::{self, Field, Shape, Type};

#[derive(Debug)]
pub(super) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl From<Malformed> for Error {
    fn from(e: Malformed) -> Self {
        Self(e.to_string())
    }
}

/// A message, shown as a map.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    t: &'static Type,
    bytes: &'a [u8],
    /// Kind and apiVersion to show.
    type_meta: Option<(&'a str, &'a str)>,
    depth: usize,
}

impl<'a> Message<'a> {
    pub fn new(t: &'static Type, bytes: &'a [u8], type_meta: Option<(&'a str, &'a str)>) -> Self {
        Self { t, bytes, type_meta, depth: 0 }
    }

    fn inner(t: &'static Type, bytes: &'a [u8], depth: usize) -> Self {
        Self { t, bytes, type_meta: None, depth: depth + 1 }
    }
}

impl<'de> Deserializer<'de> for Message<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.depth > DEPTH_MAX {
            return Err(Malformed::Depth.into());
        }
        let meta = self.type_meta.map_or([("", ""); 2], |(kind, api_version)| [("apiVersion", api_version), ("kind", kind)]);
        visitor.visit_map(Members { frames: vec![Frame::open(self.t, self.bytes)?], meta, depth: self.depth, pending: None })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

/// A message whose fields are being shown; inlined structs open one of their own.
struct Frame<'a> {
    t: &'static Type,
    bytes: &'a [u8],
    slots: Vec<Slot>,
    present: u64,
    /// Fields that are still to be shown.
    left: u64,
}

impl<'a> Frame<'a> {
    fn open(t: &'static Type, bytes: &'a [u8]) -> Result<Self, Error> {
        let mut slots = vec![Slot::default(); t.fields.len()];
        let present = slots::find(t, bytes, &mut slots)?;
        Ok(Self { t, bytes, slots, present, left: present | t.masks().always })
    }
}

struct Members<'a> {
    frames: Vec<Frame<'a>>,
    /// What is left to show of kind and apiVersion, last first.
    meta: [(&'static str, &'a str); 2],
    depth: usize,
    pending: Option<Node<'a>>,
}

impl<'a> Members<'a> {
    /// The next field that JSON would show.
    fn advance(&mut self) -> Result<Option<(&'static str, Node<'a>)>, Error> {
        for (key, value) in self.meta.iter_mut().rev() {
            let shown = std::mem::take(value);
            if !shown.is_empty() {
                return Ok(Some((key, Node { source: Source::Text(shown), shape: &Shape::String, depth: self.depth })));
            }
        }
        while let Some(frame) = self.frames.last_mut() {
            if frame.left == 0 {
                self.frames.pop();
                continue;
            }
            let i = frame.left.trailing_zeros() as usize;
            frame.left &= frame.left - 1;
            let (bytes, field) = (frame.bytes, &frame.t.fields[i]);
            let slot = (frame.present & (1 << i) != 0).then(|| frame.slots[i]);
            match field.shape {
                Shape::TypeMeta => {}
                Shape::Struct(id) if field.inline => {
                    let inner = slots::single(bytes, slot)?.map_or(Ok(&[][..]), Wire::bytes)?;
                    self.frames.push(Frame::open(types::get(id), inner)?);
                }
                _ => {
                    if let Some(source) = Source::of(field, bytes, slot)? {
                        return Ok(Some((field.json, Node { source, shape: &field.shape, depth: self.depth })));
                    }
                }
            }
        }
        Ok(None)
    }
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, node)) = self.advance()? else { return Ok(None) };
        self.pending = Some(node);
        seed.deserialize(BorrowedStrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.pending.take().ok_or_else(|| Error::custom("a value was asked for before its key"))?)
    }
}

/// Where the value of a field comes from.
enum Source<'a> {
    Null,
    /// The zero value of the shape.
    Zero,
    Wire(Wire<'a>),
    Repeated(Repeated<'a>, &'static Field),
    Text(&'a str),
}

impl<'a> Source<'a> {
    /// `None` when JSON would not show the field.
    fn of(field: &'static Field, message: &'a [u8], slot: Option<Slot>) -> Result<Option<Self>, Error> {
        let repeated = matches!(field.shape, Shape::List(_) | Shape::Map(_));
        let Some(slot) = slot else {
            let null = repeated || field.pointer;
            return Ok(field.is_always_written().then_some(if null { Self::Null } else { Self::Zero }));
        };
        if repeated {
            return Ok(Some(Self::Repeated(Repeated::new(message, slot, field), field)));
        }
        let Some(wire) = slots::single(message, Some(slot))? else { return Ok(None) };
        let omitted = !field.pointer && is_omitted(field, wire)?;
        Ok((!omitted).then_some(Self::Wire(wire)))
    }
}

/// A value, shown as its JSON would be.
struct Node<'a> {
    source: Source<'a>,
    shape: &'static Shape,
    depth: usize,
}

impl<'de> Node<'de> {
    fn wire<V: Visitor<'de>>(self, wire: Wire<'de>, visitor: V) -> Result<V::Value, Error> {
        match self.shape {
            Shape::String => visit_text(wire.bytes()?, visitor),
            Shape::Bytes => visitor.visit_string(base64::engine::general_purpose::STANDARD.encode(wire.bytes()?)),
            Shape::Bool => visitor.visit_bool(wire.varint()? != 0),
            Shape::Int32 => visitor.visit_i64(i64::from(wire.varint()? as i32)),
            Shape::Int64 => visitor.visit_i64(wire.varint()? as i64),
            Shape::Double => visit_double(wire.double()?, visitor),
            Shape::Struct(id) => Message::inner(types::get(*id), wire.bytes()?, self.depth).deserialize_any(visitor),
            Shape::NamedList(id) => visitor.visit_seq(Alias { reader: Reader::new(wire.bytes()?), t: types::get(*id), depth: self.depth }),
            _ => self.special(wire.bytes()?, visitor),
        }
    }

    fn special<V: Visitor<'de>>(self, message: &'de [u8], visitor: V) -> Result<V::Value, Error> {
        match self.shape {
            Shape::Time | Shape::MicroTime => match scalar::seconds_and_nanos(message)? {
                None => visitor.visit_unit(),
                Some((seconds, nanos)) => {
                    let mut text = Vec::with_capacity(27);
                    scalar::time(&mut text, seconds, (*self.shape == Shape::MicroTime).then_some(nanos / 1000));
                    visitor.visit_str(&String::from_utf8_lossy(&text))
                }
            },
            Shape::Quantity => visit_text(Some(last_bytes(message, 1)?).filter(|q| !q.is_empty()).unwrap_or(b"0"), visitor),
            Shape::IntOrString if last_varint(message, 1)? == 1 => visit_text(last_bytes(message, 3)?, visitor),
            Shape::IntOrString => visitor.visit_i64(i64::from(last_varint(message, 2)? as i32)),
            Shape::Duration => {
                let mut text = Vec::new();
                scalar::duration(&mut text, last_varint(message, 1)? as i64);
                visitor.visit_str(&String::from_utf8_lossy(&text))
            }
            Shape::SchemaOrBool if last_bytes(message, 2)?.is_empty() => visitor.visit_bool(last_varint(message, 1)? != 0),
            Shape::SchemaOrBool => Message::inner(schema_props(), last_bytes(message, 2)?, self.depth).deserialize_any(visitor),
            Shape::SchemaOrArray | Shape::SchemaOrStrings => self.schema_or_list(message, visitor),
            _ => self.raw(last_bytes(message, 1)?, visitor),
        }
    }

    fn schema_or_list<V: Visitor<'de>>(self, message: &'de [u8], visitor: V) -> Result<V::Value, Error> {
        let mut reader = Reader::new(message);
        let (mut schema, mut items) = (None, Vec::new());
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => schema = Some(wire.bytes()?),
                2 => items.push(wire.bytes()?),
                _ => {}
            }
        }
        match schema {
            _ if !items.is_empty() => {
                visitor.visit_seq(SchemaItems { items: items.into_iter(), texts: *self.shape == Shape::SchemaOrStrings, depth: self.depth })
            }
            Some(schema) => Message::inner(schema_props(), schema, self.depth).deserialize_any(visitor),
            None => visitor.visit_unit(),
        }
    }

    fn raw<V: Visitor<'de>>(self, raw: &'de [u8], visitor: V) -> Result<V::Value, Error> {
        if raw.is_empty() {
            return visitor.visit_unit();
        }
        if raw.starts_with(MAGIC) {
            let envelope = Envelope::open(raw)?;
            let (group, version) = envelope.group_version();
            let id = types::of_kind(group, version, envelope.kind).ok_or(Malformed::Envelope)?;
            let type_meta = Some((envelope.kind, envelope.api_version));
            return Message { type_meta, ..Message::inner(types::get(id), envelope.message, self.depth) }.deserialize_any(visitor);
        }
        let tree = super::parse_json(raw).map_err(Error)?;
        tree.deserialize_any(visitor).map_err(Error::custom)
    }

    fn zero<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.shape {
            Shape::String => visitor.visit_borrowed_str(""),
            Shape::Bool | Shape::SchemaOrBool => visitor.visit_bool(false),
            Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => visitor.visit_i64(0),
            Shape::Quantity => visitor.visit_borrowed_str("0"),
            Shape::Duration => visitor.visit_borrowed_str("0s"),
            Shape::Struct(id) => Message::inner(types::get(*id), &[], self.depth).deserialize_any(visitor),
            _ => visitor.visit_unit(),
        }
    }

    fn is_null(&self) -> Result<bool, Error> {
        let null_when_zero = !matches!(
            self.shape,
            Shape::String
                | Shape::Bool
                | Shape::SchemaOrBool
                | Shape::Int32
                | Shape::Int64
                | Shape::Double
                | Shape::IntOrString
                | Shape::Quantity
                | Shape::Duration
                | Shape::Struct(_)
        );
        Ok(match (&self.source, self.shape) {
            (Source::Null, _) => true,
            (Source::Zero, _) => null_when_zero,
            (Source::Wire(wire), Shape::Time | Shape::MicroTime) => scalar::seconds_and_nanos(wire.bytes()?)?.is_none(),
            (Source::Wire(wire), Shape::RawExtension | Shape::Json | Shape::FieldsV1) => matches!(last_bytes(wire.bytes()?, 1)?, b"" | b"null"),
            (Source::Wire(wire), Shape::SchemaOrArray | Shape::SchemaOrStrings) => wire.bytes()?.is_empty(),
            _ => false,
        })
    }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match (self.source, self.shape) {
            (Source::Null, _) => visitor.visit_unit(),
            (Source::Text(text), _) => visitor.visit_borrowed_str(text),
            (Source::Repeated(items, field), Shape::List(item)) => visitor.visit_seq(Items { items, item, field, depth: self.depth }),
            (Source::Repeated(items, _), Shape::Map(item)) => {
                visitor.visit_map(Entries { entries: slots::sorted_entries(items)?.into_iter(), item, depth: self.depth, pending: None })
            }
            (Source::Repeated(..), _) => Err(Malformed::WireType.into()),
            (Source::Zero, shape) => Node { source: Source::Zero, shape, depth: self.depth }.zero(visitor),
            (Source::Wire(wire), shape) => Node { source: Source::Null, shape, depth: self.depth }.wire(wire, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null()? { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

fn visit_text<'de, V: Visitor<'de>>(bytes: &'de [u8], visitor: V) -> Result<V::Value, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => visitor.visit_borrowed_str(text),
        Err(_) => visitor.visit_string(String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// A whole number is shown as one, so that trees from JSON and from protobuf are equal.
fn visit_double<'de, V: Visitor<'de>>(x: f64, visitor: V) -> Result<V::Value, Error> {
    if x.fract() == 0.0 && x.abs() < 9e15 { visitor.visit_i64(x as i64) } else { visitor.visit_f64(x) }
}

struct Items<'a> {
    items: Repeated<'a>,
    item: &'static Shape,
    field: &'static Field,
    depth: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(wire) = self.items.next()? else { return Ok(None) };
        match (self.item, self.field.nested_kind) {
            (Shape::Struct(id), Some(kind)) => {
                seed.deserialize(Message { type_meta: Some(kind), ..Message::inner(types::get(*id), wire.bytes()?, self.depth) }).map(Some)
            }
            _ => seed.deserialize(Node { source: Source::Wire(wire), shape: self.item, depth: self.depth }).map(Some),
        }
    }
}

struct Entries<'a> {
    entries: std::vec::IntoIter<(&'a [u8], Option<Wire<'a>>)>,
    item: &'static Shape,
    depth: usize,
    pending: Option<Option<Wire<'a>>>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.pending = Some(value);
        seed.deserialize(String::from_utf8_lossy(key).into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let source = match self.pending.take() {
            Some(Some(wire)) => Source::Wire(wire),
            _ => Source::Zero,
        };
        seed.deserialize(Node { source, shape: self.item, depth: self.depth })
    }
}

/// The items of a named list.
struct Alias<'a> {
    reader: Reader<'a>,
    t: &'static Type,
    depth: usize,
}

impl<'de> SeqAccess<'de> for Alias<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let (Some((_, wire)), Some(Shape::List(item))) = (self.reader.next()?, &self.t.alias) else { return Ok(None) };
        seed.deserialize(Node { source: Source::Wire(wire), shape: item, depth: self.depth }).map(Some)
    }
}

/// The items of a JSON schema's `items` or `dependencies` where they are a list.
struct SchemaItems<'a> {
    items: std::vec::IntoIter<&'a [u8]>,
    texts: bool,
    depth: usize,
}

impl<'de> SeqAccess<'de> for SchemaItems<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(bytes) = self.items.next() else { return Ok(None) };
        if self.texts {
            return seed.deserialize(Node { source: Source::Wire(Wire::Bytes(bytes)), shape: &Shape::String, depth: self.depth }).map(Some);
        }
        seed.deserialize(Message::inner(schema_props(), bytes, self.depth)).map(Some)
    }
}
