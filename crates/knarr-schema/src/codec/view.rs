//! What can be read out of an object at rest without decoding it.

use knarr_core::{Encoding, GroupVersionKind, Object, go};

use super::envelope::{Envelope, group_version};
use super::scalar::{read_time, time_text};
use super::slots;
use super::wire::{Malformed, Reader, Wire, last, last_bytes, last_varint};
use super::{MetaView, skim};
use crate::types::{self, Field, Shape, Type};

pub(super) fn kind_of(object: &Object) -> GroupVersionKind {
    let (api_version, kind) = match object.encoding {
        Encoding::Protobuf => Envelope::open(&object.bytes).map_or(("", ""), |e| (e.api_version, e.kind)),
        Encoding::Json => {
            let text = |key| skim::member(&object.bytes, 0, key).map_or("", |m| skim::raw_text(m.value(&object.bytes)));
            (text("apiVersion"), text("kind"))
        }
    };
    let (group, version) = group_version(api_version);
    GroupVersionKind::new(group, version, kind)
}

pub(super) fn meta(object: &Object) -> MetaView<'_> {
    match object.encoding {
        Encoding::Protobuf => meta_of_protobuf(&object.bytes).unwrap_or_default(),
        Encoding::Json => meta_of_json(&object.bytes),
    }
}

/// The number of `metadata` in every kind that has it.
pub(super) const METADATA: u32 = 1;

/// Numbers of `ObjectMeta` and `OwnerReference`.
fn meta_of_protobuf(bytes: &[u8]) -> Result<MetaView<'_>, Malformed> {
    let mut reader = Reader::new(bytes.strip_prefix(super::envelope::MAGIC).ok_or(Malformed::Envelope)?);
    let mut message = &[][..];
    while let Some((number, wire)) = reader.next()? {
        if number == 2 {
            message = wire.bytes()?;
            break;
        }
    }
    let mut reader = Reader::new(first_bytes(message, METADATA)?);
    let mut view = MetaView::default();
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(b)) => view.name = text(b),
            (3, Wire::Bytes(b)) => view.namespace = text(b),
            (5, Wire::Bytes(b)) => view.uid = text(b),
            (7, Wire::Varint(n)) => view.generation = n as i64,
            (9, Wire::Bytes(_)) => view.deleting = true,
            (11, Wire::Bytes(_)) => {
                let (key, value) = slots::entry(&Shape::String, wire)?;
                view.labels.push((text(key), text(value.map_or(Ok(&[][..]), Wire::bytes)?)));
            }
            (13, Wire::Bytes(b)) => view.owners.push((text(last_bytes(b, 4)?), last_varint(b, 6)? != 0)),
            (14, Wire::Bytes(b)) => view.finalizers.push(text(b)),
            // managedFields, by far the longest, come last.
            (17, _) => break,
            _ => {}
        }
    }
    Ok(view)
}

fn first_bytes(message: &[u8], wanted: u32) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        if number == wanted {
            return wire.bytes();
        }
    }
    Ok(&[])
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn meta_of_json(json: &[u8]) -> MetaView<'_> {
    let mut view = MetaView::default();
    let Some(metadata) = skim::member(json, 0, "metadata") else { return view };
    for m in skim::members(json, metadata.value_start) {
        let value = m.value(json);
        match m.key {
            b"name" => view.name = skim::raw_text(value),
            b"namespace" => view.namespace = skim::raw_text(value),
            b"uid" => view.uid = skim::raw_text(value),
            b"generation" => view.generation = text(value).parse().unwrap_or_default(),
            b"deletionTimestamp" => view.deleting = value != b"null",
            b"labels" => view.labels = skim::members(json, m.value_start).map(|l| (text(l.key), skim::raw_text(l.value(json)))).collect(),
            b"finalizers" => view.finalizers = skim::items(json, m.value_start).map(|(from, to)| skim::raw_text(&json[from..to])).collect(),
            b"ownerReferences" => view.owners = skim::items(json, m.value_start).map(|(from, _)| owner(json, from)).collect(),
            _ => {}
        }
    }
    view
}

fn owner(json: &[u8], at: usize) -> (&str, bool) {
    let value = |key| skim::member(json, at, key).map_or(&[][..], |m| m.value(json));
    (skim::raw_text(value("uid")), value("controller") == b"true")
}

pub(super) fn scalar(object: &Object, path: &[&str]) -> String {
    match object.encoding {
        Encoding::Protobuf => scalar_of_protobuf(&object.bytes, path).ok().flatten().unwrap_or_default(),
        Encoding::Json => {
            let mut at = 0;
            for (i, key) in path.iter().enumerate() {
                match skim::member(&object.bytes, at, key) {
                    Some(m) if i + 1 == path.len() => return skim::scalar(m.value(&object.bytes)).into_owned(),
                    Some(m) => at = m.value_start,
                    None => break,
                }
            }
            String::new()
        }
    }
}

fn scalar_of_protobuf(bytes: &[u8], path: &[&str]) -> Result<Option<String>, Malformed> {
    let envelope = Envelope::open(bytes)?;
    match path {
        ["kind"] => return Ok(Some(envelope.kind.to_owned())),
        ["apiVersion"] => return Ok(Some(envelope.api_version.to_owned())),
        _ => {}
    }
    let (group, version) = envelope.group_version();
    let Some(id) = types::of_kind(group, version, envelope.kind) else { return Ok(None) };
    in_message(types::get(id), envelope.message, path)
}

fn in_message(t: &'static Type, message: &[u8], path: &[&str]) -> Result<Option<String>, Malformed> {
    let Some((name, rest)) = path.split_first() else { return Ok(None) };
    let Some(field) = holder(t, name) else { return Ok(None) };
    match (field.shape, rest) {
        (Shape::Struct(id), _) if field.inline => in_message(types::get(id), last_bytes(message, field.number)?, path),
        (Shape::Struct(id), [_, ..]) => in_message(types::get(id), last_bytes(message, field.number)?, rest),
        (Shape::Map(item), [key]) => in_map(message, field, item, key),
        (_, []) => match last(message, field.number)? {
            Some(wire) => scalar_text(&field.shape, wire),
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// The field with this name, or the inlined struct that has it.
fn holder(t: &'static Type, name: &str) -> Option<&'static Field> {
    t.fields.iter().find(|f| match f.shape {
        Shape::Struct(id) if f.inline => types::get(id).field(name).is_some(),
        _ => f.json == name && f.number != 0,
    })
}

fn in_map(message: &[u8], field: &Field, item: &Shape, wanted: &str) -> Result<Option<String>, Malformed> {
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        if number == field.number
            && let (key, Some(value)) = slots::entry(item, wire)?
            && key == wanted.as_bytes()
        {
            return scalar_text(item, value);
        }
    }
    Ok(None)
}

fn scalar_text(shape: &Shape, wire: Wire<'_>) -> Result<Option<String>, Malformed> {
    Ok(match (shape, wire) {
        (Shape::Bool, Wire::Varint(n)) => Some((n != 0).to_string()),
        (Shape::Int32, Wire::Varint(n)) => Some((n as i32).to_string()),
        (Shape::Int64, Wire::Varint(n)) => Some((n as i64).to_string()),
        (Shape::String, Wire::Bytes(b)) => Some(go::utf8(b).into_owned()),
        (Shape::Quantity, Wire::Bytes(b)) => Some(go::utf8(last_bytes(b, 1)?).into_owned()),
        (Shape::IntOrString, Wire::Bytes(b)) if last_varint(b, 1)? == 1 => Some(go::utf8(last_bytes(b, 3)?).into_owned()),
        (Shape::IntOrString, Wire::Bytes(b)) => Some((last_varint(b, 2)? as i32).to_string()),
        (Shape::Time | Shape::MicroTime, Wire::Bytes(b)) => read_time(b, shape)?.map(|(seconds, micros)| time_text(seconds, micros)),
        _ => None,
    })
}
