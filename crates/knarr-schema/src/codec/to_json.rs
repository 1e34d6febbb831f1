//! From protobuf to JSON in one pass, without a tree: the hot path of every get, list and watch.
//!
//! A member is written with a comma behind it; what closes the object or list replaces the last one.

use super::envelope::{Envelope, MAGIC};
use super::slots::{self, Repeated, Slot};
use super::wire::{Malformed, Reader, Wire, last_bytes, last_varint};
use super::{DEPTH_MAX, scalar, schema_props, text};
use crate::types::{self, Field, Shape, Type};

pub(super) struct Writer<'o> {
    pub out: &'o mut Vec<u8>,
    /// Slots of all messages that are open, the innermost last.
    slots: Vec<Slot>,
    depth: usize,
}

impl<'o> Writer<'o> {
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, slots: Vec::with_capacity(128), depth: 0 }
    }

    /// An object with its envelope; `type_meta` false leaves `kind` and `apiVersion` out, as lists do for their items.
    pub fn object(&mut self, bytes: &[u8], type_meta: bool) -> Result<(), Malformed> {
        let envelope = Envelope::open(bytes)?;
        let (group, version) = envelope.group_version();
        let id = types::of_kind(group, version, envelope.kind).ok_or(Malformed::Envelope)?;
        let shown = if type_meta { Some((envelope.kind, envelope.api_version)) } else { None };
        self.message(types::get(id), envelope.message, shown)
    }

    /// One message as a JSON object.
    pub fn message(&mut self, t: &'static Type, message: &[u8], type_meta: Option<(&str, &str)>) -> Result<(), Malformed> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Malformed::Depth);
        }
        self.out.push(b'{');
        if let Some((kind, api_version)) = type_meta {
            self.type_meta(kind, api_version);
        }
        self.members(t, message)?;
        self.close(b'}');
        self.depth -= 1;
        Ok(())
    }

    fn type_meta(&mut self, kind: &str, api_version: &str) {
        for (key, value) in [(&b"\"kind\":"[..], kind), (&b"\"apiVersion\":"[..], api_version)] {
            if !value.is_empty() {
                self.out.extend_from_slice(key);
                text::string(self.out, value.as_bytes());
                self.out.push(b',');
            }
        }
    }

    fn close(&mut self, bracket: u8) {
        match self.out.last_mut() {
            Some(last @ b',') => *last = bracket,
            _ => self.out.push(bracket),
        }
    }

    fn members(&mut self, t: &'static Type, message: &[u8]) -> Result<(), Malformed> {
        let base = self.slots.len();
        self.slots.resize(base + t.fields.len(), Slot::default());
        let present = slots::find(t, message, &mut self.slots[base..])?;
        let mut shown = present | t.masks().always;
        while shown != 0 {
            let i = shown.trailing_zeros() as usize;
            shown &= shown - 1;
            let field = &t.fields[i];
            let slot = (present & (1 << i) != 0).then(|| self.slots[base + i]);
            match field.shape {
                Shape::TypeMeta => {}
                Shape::List(item) => self.list(field, item, message, slot)?,
                Shape::Map(item) => self.map(field, item, message, slot)?,
                Shape::Struct(id) if field.inline => {
                    let inner = slots::single(message, slot)?.map_or(Ok(&[][..]), Wire::bytes)?;
                    self.members(types::get(id), inner)?;
                }
                _ => self.single(field, slots::single(message, slot)?)?,
            }
        }
        self.slots.truncate(base);
        Ok(())
    }

    fn key(&mut self, field: &Field) {
        self.out.extend_from_slice(field.key.as_bytes());
    }

    fn null(&mut self, field: &Field) {
        if !field.omit_empty && !field.omit_zero {
            self.key(field);
            self.out.extend_from_slice(b"null,");
        }
    }

    fn list(&mut self, field: &'static Field, item: &'static Shape, message: &[u8], slot: Option<Slot>) -> Result<(), Malformed> {
        let Some(slot) = slot else {
            self.null(field);
            return Ok(());
        };
        self.key(field);
        self.out.push(b'[');
        let mut items = Repeated::new(message, slot, field);
        while let Some(wire) = items.next()? {
            match (item, field.nested_kind) {
                (Shape::Struct(id), Some(kind)) => self.message(types::get(*id), wire.bytes()?, Some(kind))?,
                _ => self.value(item, wire)?,
            }
            self.out.push(b',');
        }
        self.close(b']');
        self.out.push(b',');
        Ok(())
    }

    fn map(&mut self, field: &'static Field, item: &'static Shape, message: &[u8], slot: Option<Slot>) -> Result<(), Malformed> {
        let Some(slot) = slot else {
            self.null(field);
            return Ok(());
        };
        self.key(field);
        self.out.push(b'{');
        let start = self.out.len();
        let entries = Repeated::new(message, slot, field);
        let mut unsorted = entries.clone();
        let mut last: Option<&[u8]> = None;
        while let Some(wire) = unsorted.next()? {
            let (key, value) = slots::entry(item, wire)?;
            if last.is_some_and(|last| last >= key) {
                self.out.truncate(start);
                for (key, value) in slots::sorted_entries(item, entries)? {
                    self.entry(item, key, value)?;
                }
                break;
            }
            self.entry(item, key, value)?;
            last = Some(key);
        }
        self.close(b'}');
        self.out.push(b',');
        Ok(())
    }

    fn entry(&mut self, item: &'static Shape, key: &[u8], value: Option<Wire<'_>>) -> Result<(), Malformed> {
        text::string(self.out, key);
        self.out.push(b':');
        match value {
            Some(wire) => self.value(item, wire)?,
            None => self.zero(item)?,
        }
        self.out.push(b',');
        Ok(())
    }

    #[inline]
    fn single(&mut self, field: &'static Field, wire: Option<Wire<'_>>) -> Result<(), Malformed> {
        let Some(wire) = wire else { return self.absent(field) };
        if !field.pointer && (field.omit_empty || field.omit_zero) && is_omitted(field, wire)? {
            return Ok(());
        }
        self.key(field);
        self.value(&field.shape, wire)?;
        self.out.push(b',');
        Ok(())
    }

    fn absent(&mut self, field: &'static Field) -> Result<(), Malformed> {
        if field.pointer {
            self.null(field);
            return Ok(());
        }
        if !field.is_always_written() {
            return Ok(());
        }
        self.key(field);
        self.zero(&field.shape)?;
        self.out.push(b',');
        Ok(())
    }

    fn zero(&mut self, shape: &'static Shape) -> Result<(), Malformed> {
        let text: &[u8] = match shape {
            Shape::String => b"\"\"",
            Shape::Bool | Shape::SchemaOrBool => b"false",
            Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => b"0",
            Shape::Quantity => b"\"0\"",
            Shape::Duration => b"\"0s\"",
            Shape::Struct(id) => return self.message(types::get(*id), &[], None),
            _ => b"null",
        };
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn value(&mut self, shape: &'static Shape, wire: Wire<'_>) -> Result<(), Malformed> {
        match shape {
            Shape::String => text::string(self.out, wire.bytes()?),
            Shape::Struct(id) => return self.message(types::get(*id), wire.bytes()?, None),
            Shape::Bool => self.out.extend_from_slice(if wire.varint()? != 0 { b"true" } else { b"false" }),
            Shape::Int32 => text::integer(self.out, i64::from(wire.varint()? as i32)),
            Shape::Int64 => text::integer(self.out, wire.varint()? as i64),
            Shape::Double => text::float(self.out, wire.double()?),
            Shape::Bytes => text::base64(self.out, wire.bytes()?),
            Shape::NamedList(id) => return self.named_list(types::get(*id), wire.bytes()?),
            _ => return self.special(shape, wire.bytes()?),
        }
        Ok(())
    }

    fn named_list(&mut self, t: &'static Type, message: &[u8]) -> Result<(), Malformed> {
        self.out.push(b'[');
        let mut reader = Reader::new(message);
        while let (Some((_, wire)), Some(Shape::List(item))) = (reader.next()?, &t.alias) {
            self.value(item, wire)?;
            self.out.push(b',');
        }
        self.close(b']');
        Ok(())
    }

    fn special(&mut self, shape: &'static Shape, message: &[u8]) -> Result<(), Malformed> {
        match shape {
            Shape::Time | Shape::MicroTime => match scalar::read_time(message, shape)? {
                None => self.out.extend_from_slice(b"null"),
                Some((seconds, micros)) => {
                    self.out.push(b'"');
                    scalar::time(self.out, seconds, micros);
                    self.out.push(b'"');
                }
            },
            Shape::Quantity => match last_bytes(message, 1)? {
                b"" => self.out.extend_from_slice(b"\"0\""),
                quantity => text::string(self.out, quantity),
            },
            Shape::IntOrString => match last_varint(message, 1)? {
                1 => text::string(self.out, last_bytes(message, 3)?),
                _ => text::integer(self.out, i64::from(last_varint(message, 2)? as i32)),
            },
            Shape::Duration => {
                self.out.push(b'"');
                scalar::duration(self.out, last_varint(message, 1)? as i64);
                self.out.push(b'"');
            }
            _ => return self.json_or_schema(shape, message),
        }
        Ok(())
    }

    fn json_or_schema(&mut self, shape: &'static Shape, message: &[u8]) -> Result<(), Malformed> {
        let first = last_bytes(message, 1);
        match shape {
            Shape::SchemaOrBool if last_bytes(message, 2)?.is_empty() => {
                self.out.extend_from_slice(if last_varint(message, 1)? != 0 { b"true" } else { b"false" });
                Ok(())
            }
            Shape::SchemaOrBool => self.message(schema_props(), last_bytes(message, 2)?, None),
            Shape::SchemaOrArray | Shape::SchemaOrStrings => self.schema_or_list(shape, message),
            _ => match first? {
                b"" => {
                    self.out.extend_from_slice(b"null");
                    Ok(())
                }
                raw if raw.starts_with(MAGIC) => self.object(raw, true),
                raw => {
                    text::raw_json(self.out, raw);
                    Ok(())
                }
            },
        }
    }

    fn schema_or_list(&mut self, shape: &'static Shape, message: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(message);
        let (mut schema, start) = (None, self.out.len());
        self.out.push(b'[');
        while let Some((number, wire)) = reader.next()? {
            match (number, shape) {
                (1, _) => schema = Some(wire.bytes()?),
                (2, Shape::SchemaOrArray) => {
                    self.message(schema_props(), wire.bytes()?, None)?;
                    self.out.push(b',');
                }
                (2, _) => {
                    text::string(self.out, wire.bytes()?);
                    self.out.push(b',');
                }
                _ => {}
            }
        }
        if self.out.len() > start + 1 {
            self.close(b']');
            return Ok(());
        }
        self.out.truncate(start);
        match schema {
            Some(schema) => self.message(schema_props(), schema, None),
            None => {
                self.out.extend_from_slice(b"null");
                Ok(())
            }
        }
    }
}

/// Whether Go leaves this value out (`omitempty` of scalars, `omitzero` of times). Structs are never left out.
#[inline]
pub(super) fn is_omitted(field: &Field, wire: Wire<'_>) -> Result<bool, Malformed> {
    Ok(match (&field.shape, wire) {
        (Shape::String | Shape::Bytes | Shape::NamedList(_), Wire::Bytes(b)) => field.omit_empty && b.is_empty(),
        (Shape::Bool | Shape::Int32 | Shape::Int64, Wire::Varint(n)) => field.omit_empty && n == 0,
        (Shape::Double, Wire::Fixed64(n)) => field.omit_empty && f64::from_bits(n) == 0.0,
        (shape @ (Shape::Time | Shape::MicroTime), Wire::Bytes(b)) => field.omit_zero && scalar::read_time(b, shape)?.is_none(),
        _ => false,
    })
}
