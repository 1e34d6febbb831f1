//! A serde `Deserializer` over protobuf, guided by the type table: it shows an object as its JSON would be, so that trees
//! and the structs of `k8s-openapi` can be made from the bytes without JSON in between. Trees are read through it as well.
//!
//! The code that fills a struct is generated anew for each `Deserializer`, `MapAccess` and `SeqAccess` that it meets, and the structs are
//! many and large. So there is one of each, [`Node`], [`Members`] and [`Sequence`], and what does not depend on the struct is decided
//! before in [`Node::event`], which is compiled once.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use jiff::Timestamp;
use knarr_core::{Map, Value, go};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::envelope::{Envelope, MAGIC};
use super::slots::{self, Repeated, Slot};
use super::to_json::is_omitted;
use super::wire::{Malformed, Reader, Wire, last_bytes, last_varint};
use super::{DEPTH_MAX, canonical, scalar, schema_props};
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

/// A value, shown as its JSON would be.
pub(super) struct Node<'a> {
    source: Source<'a>,
    place: Place,
}

/// Where a value stands.
#[derive(Clone, Copy)]
struct Place {
    /// How many messages stand around it.
    depth: usize,
    purpose: Purpose,
}

/// What a value is read for.
#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    /// To be shown as it lies.
    Tree,
    /// For a struct, whose times have an end.
    Struct,
    /// A client sent it: what upstream reads as it decodes is read, and brought into the form in which it is kept.
    Input,
}

impl Place {
    fn at_root(purpose: Purpose) -> Self {
        Self { depth: 0, purpose }
    }

    fn below(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

/// Where a value comes from.
enum Source<'a> {
    Null,
    /// The zero value of the shape.
    Zero(&'static Shape),
    Wire(Wire<'a>, &'static Shape),
    Repeated(Repeated<'a>, &'static Field),
    Text(&'a str),
    /// With the kind and apiVersion to show.
    Message(&'static Type, &'a [u8], Option<(&'a str, &'a str)>),
    Tree(Value),
}

/// What a visitor is told of a value.
enum Event<'a> {
    Unit,
    Bool(bool),
    I64(i64),
    U64(u64),
    F64(f64),
    Borrowed(&'a str),
    Text(String),
    Seq(Sequence<'a>),
    Map(Members<'a>),
}

impl<'a> Source<'a> {
    /// `None` when JSON would not show the field.
    fn of(field: &'static Field, message: &'a [u8], slot: Option<Slot>) -> Result<Option<Self>, Error> {
        let repeated = matches!(field.shape, Shape::List(_) | Shape::Map(_));
        let Some(slot) = slot else {
            let null = repeated || field.pointer;
            return Ok(field.is_always_written().then_some(if null { Self::Null } else { Self::Zero(&field.shape) }));
        };
        if repeated {
            return Ok(Some(Self::Repeated(Repeated::new(message, slot, field), field)));
        }
        let Some(wire) = slots::single(message, Some(slot))? else { return Ok(None) };
        let omitted = !field.pointer && is_omitted(field, wire)?;
        Ok((!omitted).then_some(Self::Wire(wire, &field.shape)))
    }
}

impl<'a> Node<'a> {
    /// A whole object at rest.
    ///
    /// # Errors
    /// `Malformed::Envelope` for a kind that has no message.
    pub fn object(envelope: &Envelope<'a>) -> Result<Self, Malformed> {
        Self::enveloped(envelope, Place::at_root(Purpose::Tree))
    }

    /// The same for a struct.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn for_struct(envelope: &Envelope<'a>) -> Result<Self, Malformed> {
        Self::enveloped(envelope, Place::at_root(Purpose::Struct))
    }

    /// A whole object as a client sent it, shown with this kind and apiVersion.
    pub fn input(t: &'static Type, message: &'a [u8], type_meta: (&'a str, &'a str)) -> Self {
        Self { source: Source::Message(t, message, Some(type_meta)), place: Place::at_root(Purpose::Input) }
    }

    /// A tree.
    pub fn tree(tree: Value) -> Self {
        Self { source: Source::Tree(tree), place: Place::at_root(Purpose::Tree) }
    }

    fn enveloped(envelope: &Envelope<'a>, place: Place) -> Result<Self, Malformed> {
        let (group, version) = envelope.group_version();
        let id = types::of_kind(group, version, envelope.kind).ok_or(Malformed::Envelope)?;
        let source = Source::Message(types::get(id), envelope.message, Some((envelope.kind, envelope.api_version)));
        Ok(Self { source, place })
    }

    /// A message in one that stands at `place`.
    fn message(t: &'static Type, bytes: &'a [u8], place: Place) -> Self {
        Self { source: Source::Message(t, bytes, None), place: place.below() }
    }

    fn event(self) -> Result<Event<'a>, Error> {
        let place = self.place;
        match self.source {
            Source::Null => Ok(Event::Unit),
            Source::Text(text) => Ok(Event::Borrowed(text)),
            Source::Zero(shape) => zero(shape, place),
            Source::Wire(wire, shape) => scalar_or_message(wire, shape, place),
            Source::Repeated(items, field) => repeated(items, field, place),
            Source::Message(t, bytes, type_meta) => Members::of_message(t, bytes, type_meta, place).map(Event::Map),
            Source::Tree(tree) => Ok(of_tree(tree)),
        }
    }

    fn is_null(&self) -> Result<bool, Error> {
        Ok(match &self.source {
            Source::Null => true,
            Source::Zero(shape) => is_null_when_zero(shape),
            Source::Wire(wire, shape @ (Shape::Time | Shape::MicroTime)) => scalar::read_time(wire.bytes()?, shape)?.is_none(),
            Source::Wire(wire, Shape::RawExtension | Shape::Json | Shape::FieldsV1) => matches!(last_bytes(wire.bytes()?, 1)?, b"" | b"null"),
            Source::Wire(wire, Shape::SchemaOrArray | Shape::SchemaOrStrings) => wire.bytes()?.is_empty(),
            Source::Tree(tree) => tree.is_null(),
            _ => false,
        })
    }
}

fn is_null_when_zero(shape: &Shape) -> bool {
    !matches!(
        shape,
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
    )
}

fn zero<'a>(shape: &Shape, place: Place) -> Result<Event<'a>, Error> {
    Ok(match shape {
        Shape::String => Event::Borrowed(""),
        Shape::Bool | Shape::SchemaOrBool => Event::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Event::I64(0),
        Shape::Quantity => Event::Borrowed("0"),
        Shape::Duration => Event::Borrowed("0s"),
        Shape::Struct(id) => return Node::message(types::get(*id), &[], place).event(),
        _ => Event::Unit,
    })
}

fn scalar_or_message<'a>(wire: Wire<'a>, shape: &'static Shape, place: Place) -> Result<Event<'a>, Error> {
    Ok(match shape {
        Shape::String => text(wire.bytes()?),
        Shape::Bytes => Event::Text(base64::engine::general_purpose::STANDARD.encode(wire.bytes()?)),
        Shape::Bool => Event::Bool(wire.varint()? != 0),
        Shape::Int32 => Event::I64(i64::from(wire.varint()? as i32)),
        Shape::Int64 => Event::I64(wire.varint()? as i64),
        Shape::Double => double(wire.double()?),
        Shape::Struct(id) => return Node::message(types::get(*id), wire.bytes()?, place).event(),
        Shape::NamedList(id) => Event::Seq(Sequence { items: Items::Alias(Reader::new(wire.bytes()?), types::get(*id)), place }),
        _ => return special(wire.bytes()?, shape, place),
    })
}

fn special<'a>(message: &'a [u8], shape: &Shape, place: Place) -> Result<Event<'a>, Error> {
    Ok(match shape {
        Shape::Time | Shape::MicroTime => match scalar::read_time(message, shape)? {
            None => Event::Unit,
            Some((seconds, micros)) if place.purpose == Purpose::Struct => Event::Text(scalar::time_text(within_timestamps(seconds), micros)),
            Some((seconds, micros)) => Event::Text(scalar::time_text(seconds, micros)),
        },
        Shape::Quantity if place.purpose == Purpose::Input => input_quantity(message)?,
        Shape::Quantity => text(Some(last_bytes(message, 1)?).filter(|q| !q.is_empty()).unwrap_or(b"0")),
        Shape::IntOrString if last_varint(message, 1)? == 1 => text(last_bytes(message, 3)?),
        Shape::IntOrString => Event::I64(i64::from(last_varint(message, 2)? as i32)),
        Shape::Duration => {
            let mut text = Vec::new();
            scalar::duration(&mut text, last_varint(message, 1)? as i64);
            owned_text(text)
        }
        Shape::SchemaOrBool if last_bytes(message, 2)?.is_empty() => Event::Bool(last_varint(message, 1)? != 0),
        Shape::SchemaOrBool => return Node::message(schema_props(), last_bytes(message, 2)?, place).event(),
        Shape::SchemaOrArray | Shape::SchemaOrStrings => return schema_or_list(message, *shape == Shape::SchemaOrStrings, place),
        // What a client says of its managers is not refused, but counts for nothing, if it cannot be read.
        Shape::FieldsV1 if place.purpose == Purpose::Input => return Ok(raw(last_bytes(message, 1)?, place).unwrap_or(Event::Unit)),
        _ => return raw(last_bytes(message, 1)?, place),
    })
}

/// The nearest second that a `Timestamp` can hold.
fn within_timestamps(seconds: i64) -> i64 {
    seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second())
}

/// A quantity is zero where there is no message at all, and is read where there is one.
fn input_quantity<'a>(message: &[u8]) -> Result<Event<'a>, Error> {
    if message.is_empty() {
        return Ok(Event::Borrowed("0"));
    }
    canonical::quantity(&go::utf8(last_bytes(message, 1)?)).map(Event::Text).map_err(Error)
}

fn schema_or_list(message: &[u8], texts: bool, place: Place) -> Result<Event<'_>, Error> {
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
        _ if !items.is_empty() => Ok(Event::Seq(Sequence { items: Items::Schemas(items.into_iter(), texts), place })),
        Some(schema) => Node::message(schema_props(), schema, place).event(),
        None => Ok(Event::Unit),
    }
}

fn raw(raw: &[u8], place: Place) -> Result<Event<'_>, Error> {
    if raw.is_empty() {
        return Ok(Event::Unit);
    }
    if raw.starts_with(MAGIC) {
        return Node::enveloped(&Envelope::open(raw)?, place.below())?.event();
    }
    super::parse_at_rest(raw).map(of_tree).map_err(Error)
}

fn repeated<'a>(items: Repeated<'a>, field: &'static Field, place: Place) -> Result<Event<'a>, Error> {
    match &field.shape {
        Shape::List(item) => Ok(Event::Seq(Sequence { items: Items::Repeated(items, item, field), place })),
        Shape::Map(item) => {
            let fields = Fields::Entries(slots::sorted_entries(item, items)?.into_iter(), item);
            Ok(Event::Map(Members { fields, place, pending: None }))
        }
        _ => Err(Malformed::WireType.into()),
    }
}

fn of_tree<'a>(tree: Value) -> Event<'a> {
    match tree {
        Value::Null => Event::Unit,
        Value::Bool(b) => Event::Bool(b),
        Value::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => Event::U64(n),
            (None, Some(n)) => Event::I64(n),
            (None, None) => Event::F64(n.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Event::Text(text),
        Value::Array(items) => Event::Seq(Sequence { items: Items::Trees(items.into_iter()), place: Place::at_root(Purpose::Tree) }),
        Value::Object(members) => Event::Map(Members::of_tree(members)),
    }
}

fn text(bytes: &[u8]) -> Event<'_> {
    match go::utf8(bytes) {
        Cow::Borrowed(text) => Event::Borrowed(text),
        Cow::Owned(text) => Event::Text(text),
    }
}

fn owned_text<'a>(bytes: Vec<u8>) -> Event<'a> {
    Event::Text(String::from_utf8_lossy(&bytes).into_owned())
}

/// A whole number is shown as one, so that trees from JSON and from protobuf are equal.
fn double<'a>(x: f64) -> Event<'a> {
    if x.fract() == 0.0 && x.abs() < 9e15 { Event::I64(x as i64) } else { Event::F64(x) }
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.event()? {
            Event::Unit => visitor.visit_unit(),
            Event::Bool(b) => visitor.visit_bool(b),
            Event::I64(n) => visitor.visit_i64(n),
            Event::U64(n) => visitor.visit_u64(n),
            Event::F64(n) => visitor.visit_f64(n),
            Event::Borrowed(text) => visitor.visit_borrowed_str(text),
            Event::Text(text) => visitor.visit_string(text),
            Event::Seq(items) => visitor.visit_seq(items),
            Event::Map(members) => visitor.visit_map(members),
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

    fn deserialize_enum<V: Visitor<'de>>(self, _name: &'static str, _variants: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        match self.event()? {
            Event::Borrowed(text) => visitor.visit_enum(BorrowedStrDeserializer::new(text)),
            Event::Text(text) => visitor.visit_enum(text.into_deserializer()),
            _ => Err(Error::custom("expected a string")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
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
    fn open(t: &'static Type, bytes: &'a [u8], purpose: Purpose) -> Result<Self, Error> {
        if purpose == Purpose::Input {
            slots::check(t, bytes)?;
        }
        let mut slots = vec![Slot::default(); t.fields.len()];
        let present = slots::find(t, bytes, &mut slots)?;
        Ok(Self { t, bytes, slots, present, left: present | t.masks().always })
    }
}

/// The members of a map: of a message, of a map field, of a tree.
struct Members<'a> {
    fields: Fields<'a>,
    place: Place,
    pending: Option<Node<'a>>,
}

enum Fields<'a> {
    /// What is left to show of kind and apiVersion (last first), and the messages.
    Message([(&'static str, &'a str); 2], Vec<Frame<'a>>),
    Entries(std::vec::IntoIter<(&'a [u8], Option<Wire<'a>>)>, &'static Shape),
    Tree(serde_json::map::IntoIter),
}

impl<'a> Members<'a> {
    fn of_message(t: &'static Type, bytes: &'a [u8], type_meta: Option<(&'a str, &'a str)>, place: Place) -> Result<Self, Error> {
        if place.depth > DEPTH_MAX {
            return Err(Malformed::Depth.into());
        }
        let meta = type_meta.map_or([("", ""); 2], |(kind, api_version)| [("apiVersion", api_version), ("kind", kind)]);
        Ok(Self { fields: Fields::Message(meta, vec![Frame::open(t, bytes, place.purpose)?]), place, pending: None })
    }

    fn of_tree(members: Map<String, Value>) -> Self {
        Self { fields: Fields::Tree(members.into_iter()), place: Place::at_root(Purpose::Tree), pending: None }
    }

    /// The next member that JSON would show.
    fn advance(&mut self) -> Result<Option<(Cow<'a, str>, Node<'a>)>, Error> {
        let place = self.place;
        let next = match &mut self.fields {
            Fields::Message(meta, frames) => next_field(meta, frames, place.purpose)?.map(|(key, source)| (Cow::Borrowed(key), source)),
            Fields::Entries(entries, item) => entries.next().map(|(key, value)| {
                let source = value.map_or(Source::Zero(item), |wire| Source::Wire(wire, item));
                (go::utf8(key), source)
            }),
            Fields::Tree(members) => members.next().map(|(key, value)| (Cow::Owned(key), Source::Tree(value))),
        };
        Ok(next.map(|(key, source)| (key, Node { source, place })))
    }
}

/// The next field of a message that JSON would show.
fn next_field<'a>(meta: &mut [(&'static str, &'a str); 2], frames: &mut Vec<Frame<'a>>, purpose: Purpose) -> Result<Option<(&'static str, Source<'a>)>, Error> {
    for (key, value) in meta.iter_mut().rev() {
        let shown = std::mem::take(value);
        if !shown.is_empty() {
            return Ok(Some((key, Source::Text(shown))));
        }
    }
    while let Some(frame) = frames.last_mut() {
        if frame.left == 0 {
            frames.pop();
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
                frames.push(Frame::open(types::get(id), inner, purpose)?);
            }
            _ => {
                if let Some(source) = Source::of(field, bytes, slot)? {
                    return Ok(Some((field.json, source)));
                }
            }
        }
    }
    Ok(None)
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, node)) = self.advance()? else { return Ok(None) };
        self.pending = Some(node);
        seed.deserialize(Key(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(self.pending.take().ok_or_else(|| Error::custom("a value was asked for before its key"))?)
    }
}

/// The name of a member.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Cow::Borrowed(key) => visitor.visit_borrowed_str(key),
            Cow::Owned(key) => visitor.visit_string(key),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// The items of a list: of a field, of a named list, of a tree, or of a JSON schema's `items` or `dependencies` where they are a list.
struct Sequence<'a> {
    items: Items<'a>,
    place: Place,
}

enum Items<'a> {
    Repeated(Repeated<'a>, &'static Shape, &'static Field),
    Alias(Reader<'a>, &'static Type),
    /// Whether they are texts.
    Schemas(std::vec::IntoIter<&'a [u8]>, bool),
    Trees(std::vec::IntoIter<Value>),
}

impl<'a> Sequence<'a> {
    fn advance(&mut self) -> Result<Option<Node<'a>>, Error> {
        let place = self.place;
        let source = match &mut self.items {
            Items::Repeated(items, item, field) => match (items.next()?, item, field.nested_kind) {
                (None, ..) => return Ok(None),
                (Some(wire), Shape::Struct(id), Some(kind)) => {
                    return Ok(Some(Node { source: Source::Message(types::get(*id), wire.bytes()?, Some(kind)), place: place.below() }));
                }
                (Some(wire), item, _) => Source::Wire(wire, item),
            },
            Items::Alias(reader, t) => match (reader.next()?, &t.alias) {
                (Some((_, wire)), Some(Shape::List(item))) => Source::Wire(wire, item),
                _ => return Ok(None),
            },
            Items::Schemas(items, texts) => match items.next() {
                None => return Ok(None),
                Some(bytes) if *texts => Source::Wire(Wire::Bytes(bytes), &Shape::String),
                Some(bytes) => return Ok(Some(Node::message(schema_props(), bytes, place))),
            },
            Items::Trees(items) => match items.next() {
                None => return Ok(None),
                Some(tree) => Source::Tree(tree),
            },
        };
        Ok(Some(Node { source, place }))
    }
}

impl<'de> SeqAccess<'de> for Sequence<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.advance()?.map(|node| seed.deserialize(node)).transpose()
    }
}
