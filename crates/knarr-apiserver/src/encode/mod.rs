//! Objects, lists and events as bytes for one client. The common cases copy bytes or make one pass; nothing that a client
//! did not ask for is decoded.

pub mod json;
pub mod metadata;
pub mod pieces;
pub mod proto;
pub mod table;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use knarr_core::{Encoding, Object, Reason, Result, Status, Value, api::EventType};
use knarr_schema::codec;

use crate::{
    catalog::Served,
    http::{Accepted, Convert, Media},
};
use table::{Include, ListMeta};

/// How a client wants its answer.
#[derive(Clone, Debug)]
pub struct Format {
    pub accepted: Accepted,
    pub include: Include,
    pub now: Timestamp,
}

impl Format {
    fn table(&self, headers: bool) -> table::Format {
        table::Format { version: self.accepted.version, include: self.include, headers, now: self.now }
    }

    fn finish(&self, json: Vec<u8>) -> Bytes {
        text(json, &self.accepted)
    }
}

/// JSON as the client wants it: on one line, indented, as YAML or as CBOR. As in upstream, one line ends with a newline and indented text
/// does not.
pub fn text(mut json: Vec<u8>, accepted: &Accepted) -> Bytes {
    if matches!(accepted.media, Media::Yaml | Media::Cbor)
        && let Ok(value) = codec::parse_at_rest(&json)
    {
        return if accepted.media == Media::Cbor { codec::encode_cbor(&value).into() } else { knarr_core::yaml::to_string(&value).into() };
    }
    if accepted.pretty {
        return json::pretty(&json).into();
    }
    json.push(b'\n');
    json.into()
}

/// A tree that is not stored: a review, a scale, a `Status`.
///
/// # Errors
/// When it has no protobuf form.
pub fn value(value: &Value, accepted: &Accepted) -> Result<Bytes> {
    match accepted.media {
        Media::Protobuf => Ok(codec::encode_protobuf(value)?.into()),
        Media::Json | Media::Yaml | Media::Cbor => Ok(text(codec::encode_json(value), accepted)),
    }
}

/// A scale of an object of this resource.
///
/// # Errors
/// When the client wants it as a list.
pub fn scale(served: &Served, scale: &Value, format: &Format) -> Result<Bytes> {
    let Some(convert) = format.accepted.convert else { return value(scale, &format.accepted) };
    let object = Object { encoding: Encoding::Json, resource_version: 0, bytes: codec::encode_json(scale).into() };
    let mut out = Vec::new();
    match convert {
        Convert::Table => table::put_scale(&mut out, served, scale, &object, format.table(true)),
        Convert::PartialMetadata if format.accepted.media == Media::Protobuf => return Ok(metadata::protobuf(&object, format.accepted.version)),
        Convert::PartialMetadata => metadata::put_json(&mut out, &object, format.accepted.version),
        _ => return Err(no_list(served)),
    }
    Ok(format.finish(out))
}

/// One stored object.
///
/// # Errors
/// When it cannot be read or converted, or the client wants it as a list.
pub fn object(served: &Served, object: &Object, format: &Format) -> Result<Bytes> {
    let version = format.accepted.version;
    match format.accepted.convert {
        None => {
            let object = served.present(object)?;
            if format.accepted.media == Media::Protobuf && object.encoding == Encoding::Protobuf {
                return Ok(object.bytes.clone());
            }
            let mut out = Vec::with_capacity(object.bytes.len() * 2 + 256);
            codec::write_json(&object, &mut out);
            Ok(format.finish(out))
        }
        Some(Convert::Table) => {
            let mut out = Vec::new();
            let meta = ListMeta { resource_version: object.resource_version, ..ListMeta::default() };
            table::put(&mut out, served, &meta, std::iter::once(object), format.table(true))?;
            Ok(format.finish(out))
        }
        Some(Convert::PartialMetadata) if format.accepted.media == Media::Protobuf => Ok(metadata::protobuf(object, version)),
        Some(Convert::PartialMetadata) => {
            let mut out = Vec::new();
            metadata::put_json(&mut out, object, version);
            Ok(format.finish(out))
        }
        Some(_) => Err(no_list(served)),
    }
}

/// A list of stored objects.
///
/// # Errors
/// When an object cannot be read or converted, or the client wants it as one object.
pub fn list<'a>(served: &Served, meta: &ListMeta, objects: impl Iterator<Item = &'a Object> + Clone, format: &Format) -> Result<Bytes> {
    let protobuf = format.accepted.media == Media::Protobuf;
    match format.accepted.convert {
        None if protobuf => protobuf_list(served, meta, objects),
        None => Ok(format.finish(json_list(served, meta, objects)?)),
        Some(Convert::Table) => {
            let mut out = Vec::new();
            match served.strategy.row_rank() {
                Some(rank) => table::put(&mut out, served, meta, ranked(served, objects, rank)?.into_iter(), format.table(true))?,
                None => table::put(&mut out, served, meta, objects, format.table(true))?,
            }
            Ok(format.finish(out))
        }
        Some(Convert::PartialMetadataList) if protobuf => Ok(protobuf_metadata_list(meta, objects, format.accepted.version)),
        Some(Convert::PartialMetadataList) => Ok(format.finish(json_metadata_list(meta, objects, format.accepted.version))),
        Some(_) => {
            let shown = go_type(served, &served.resource.list_kind);
            Err(Status::not_acceptable(format!("you requested PartialObjectMetadata, but the requested object is a list ({shown})")))
        }
    }
}

/// Objects by rank; those of one rank stay in their order.
fn ranked<'a>(served: &Served, objects: impl Iterator<Item = &'a Object>, rank: fn(&Value) -> i64) -> Result<Vec<&'a Object>> {
    let mut ranked = objects.map(|object| Ok((rank(&served.read(object)?), object))).collect::<Result<Vec<_>>>()?;
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, object)| object).collect())
}

/// What stands before the items of a list in JSON, and after them. Lists of custom resources are trees upstream: their keys are sorted.
fn list_ends(served: &Served, meta: &ListMeta) -> (Vec<u8>, Vec<u8>) {
    let resource = &served.resource;
    let (mut head, mut tail) = (Vec::new(), b"]".to_vec());
    if resource.custom.is_some() {
        head.extend_from_slice(b"{\"apiVersion\":");
        json::put_string(&mut head, &resource.api_version());
        head.extend_from_slice(b",\"items\":[");
        tail.extend_from_slice(b",\"kind\":");
        json::put_string(&mut tail, &resource.list_kind);
        tail.extend_from_slice(b",\"metadata\":");
        meta.put_unstructured_json(&mut tail);
    } else {
        put_list_head(&mut head, &resource.list_kind, &resource.api_version(), meta);
    }
    tail.push(b'}');
    (head, tail)
}

fn put_list_head(out: &mut Vec<u8>, kind: &str, api_version: &str, meta: &ListMeta) {
    out.extend_from_slice(b"{\"kind\":");
    json::put_string(out, kind);
    out.extend_from_slice(b",\"apiVersion\":");
    json::put_string(out, api_version);
    out.extend_from_slice(b",\"metadata\":");
    meta.put_json(out);
    out.extend_from_slice(b",\"items\":[");
}

/// The Go type that upstream has an object or list of this kind in, as some of its messages show it: the package is that of the
/// group's internal types.
fn go_type(served: &Served, kind: &str) -> String {
    if served.resource.custom.is_some() {
        return "*unstructured.UnstructuredList".to_owned();
    }
    let package = match served.resource.group.split('.').next().unwrap_or_default() {
        "" | "events" => "core",
        "internal" => "apiserverinternal",
        first => first,
    };
    format!("*{package}.{kind}")
}

/// What is one object is no list, in the words of whatever type upstream has it in.
fn no_list(served: &Served) -> Status {
    if served.resource.custom.is_some() {
        return Status::new(500, Reason::Unknown, "content is not a list");
    }
    let shown = go_type(served, &served.resource.kind);
    Status::not_acceptable(format!("you requested PartialObjectMetadataList, but the requested object is not a list ({shown})"))
}

/// JSON takes about this many times the bytes of protobuf.
const JSON_GROWTH: usize = 2;

fn json_list<'a>(served: &Served, meta: &ListMeta, objects: impl Iterator<Item = &'a Object> + Clone) -> Result<Vec<u8>> {
    let at_rest: usize = objects.clone().map(|o| o.bytes.len() + 16).sum();
    let (head, tail) = list_ends(served, meta);
    let mut out = Vec::with_capacity(at_rest * JSON_GROWTH + 256);
    out.extend_from_slice(&head);
    put_json_items(served, objects, true, &mut out)?;
    out.extend_from_slice(&tail);
    Ok(out)
}

/// Items of a list with a comma before each; `is_first` leaves out that before the first.
fn put_json_items<'a>(served: &Served, objects: impl Iterator<Item = &'a Object>, is_first: bool, out: &mut Vec<u8>) -> Result<()> {
    for (i, object) in objects.enumerate() {
        if i > 0 || !is_first {
            out.push(b',');
        }
        codec::write_json_item(&*served.present(object)?, out);
    }
    Ok(())
}

/// The same in protobuf.
fn put_protobuf_items<'a>(served: &Served, objects: impl Iterator<Item = &'a Object>, out: &mut Vec<u8>) -> Result<()> {
    for object in objects {
        proto::put_bytes(out, 2, proto::raw(&served.present(object)?.bytes));
    }
    Ok(())
}

fn json_metadata_list<'a>(meta: &ListMeta, objects: impl Iterator<Item = &'a Object>, version: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_list_head(&mut out, "PartialObjectMetadataList", &format!("meta.k8s.io/{version}"), meta);
    let mut objects = objects.peekable();
    if objects.peek().is_none() {
        // Upstream collects items into a list that is not there at first.
        out.pop();
        out.extend_from_slice(b"null}");
        return out;
    }
    for (i, object) in objects.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        metadata::put_json(&mut out, object, version);
    }
    out.extend_from_slice(b"]}");
    out
}

/// `metav1.ListMeta {1: selfLink, 2: resourceVersion, 3: continue, 4: remainingItemCount}`.
fn list_meta_message(meta: &ListMeta) -> BytesMut {
    let mut out = BytesMut::new();
    proto::put_bytes(&mut out, 1, b"");
    proto::put_bytes(&mut out, 2, meta.resource_version.to_string().as_bytes());
    proto::put_bytes(&mut out, 3, meta.continue_token.as_bytes());
    if let Some(n) = meta.remaining_item_count {
        out.extend_from_slice(&[4 << 3]);
        proto::put_varint(&mut out, n as u64);
    }
    out
}

/// `XList {1: metadata, 2: items…}`: the items are the stored messages, copied once.
fn protobuf_list<'a>(served: &Served, meta: &ListMeta, objects: impl Iterator<Item = &'a Object> + Clone) -> Result<Bytes> {
    if served.converts() {
        let converted = objects.map(|o| served.present(o).map(std::borrow::Cow::into_owned)).collect::<Result<Vec<_>>>()?;
        return Ok(splice(served, meta, converted.iter()));
    }
    Ok(splice(served, meta, objects))
}

fn splice<'a>(served: &Served, meta: &ListMeta, objects: impl Iterator<Item = &'a Object> + Clone) -> Bytes {
    let meta = list_meta_message(meta);
    let items: usize = objects.clone().map(|o| proto::field_len(proto::raw(&o.bytes).len())).sum();
    let raw_len = proto::field_len(meta.len()) + items;
    let mut out = BytesMut::with_capacity(raw_len + 128);
    proto::envelope_head(&served.resource.api_version(), &served.resource.list_kind, raw_len, &mut out);
    proto::put_bytes(&mut out, 1, &meta);
    for object in objects {
        proto::put_bytes(&mut out, 2, proto::raw(&object.bytes));
    }
    out.extend_from_slice(proto::ENVELOPE_TAIL);
    out.freeze()
}

/// The fields of `v1beta1` are numbered the other way round.
fn protobuf_metadata_list<'a>(meta: &ListMeta, objects: impl Iterator<Item = &'a Object>, version: &str) -> Bytes {
    let (meta_number, items_number) = if version == "v1" { (1, 2) } else { (2, 1) };
    let mut message = BytesMut::new();
    let meta = list_meta_message(meta);
    if meta_number == 1 {
        proto::put_bytes(&mut message, meta_number, &meta);
    }
    for object in objects {
        proto::put_bytes(&mut message, items_number, &metadata::raw(object));
    }
    if meta_number == 2 {
        proto::put_bytes(&mut message, meta_number, &meta);
    }
    proto::envelope(&format!("meta.k8s.io/{version}"), "PartialObjectMetadataList", &message).freeze()
}

/// One event of a watch, framed: a line of JSON, length and message of protobuf, or CBOR, which tells its own length.
///
/// # Errors
/// When the object cannot be read or converted.
pub fn event(served: &Served, event_type: EventType, object_: &Object, format: &Format, headers: bool) -> Result<Bytes> {
    let protobuf = format.accepted.media == Media::Protobuf;
    let mut plain = Format { include: format.include, now: format.now, accepted: format.accepted.clone() };
    plain.accepted.pretty = false;
    if protobuf {
        return Ok(protobuf_frame(event_type.as_str(), &object(served, object_, &plain)?));
    }
    let cbor = format.accepted.media == Media::Cbor;
    let mut out = Vec::with_capacity(object_.bytes.len() * JSON_GROWTH + 256);
    if !cbor {
        put_event_head(&mut out, event_type.as_str());
    }
    match format.accepted.convert {
        None => codec::write_json(&*served.present(object_)?, &mut out),
        Some(Convert::Table) => {
            let meta = ListMeta { resource_version: object_.resource_version, ..ListMeta::default() };
            table::put(&mut out, served, &meta, std::iter::once(object_), format.table(headers))?;
        }
        Some(_) => metadata::put_json(&mut out, object_, format.accepted.version),
    }
    if cbor {
        let tree = codec::parse_at_rest(&out).map_err(Status::internal)?;
        return Ok(codec::encode_cbor_event(event_type.as_str(), &tree).into());
    }
    out.extend_from_slice(b"}\n");
    Ok(out.into())
}

fn put_event_head(out: &mut Vec<u8>, event_type: &str) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event_type.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

/// Four bytes of length, then a bare `WatchEvent {1: type, 2: {1: raw}}`.
fn protobuf_frame(event_type: &str, object: &[u8]) -> Bytes {
    let raw_extension = proto::field_len(object.len());
    let length = proto::field_len(event_type.len()) + proto::field_len(raw_extension);
    let mut out = BytesMut::with_capacity(4 + length);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    proto::put_bytes(&mut out, 1, event_type.as_bytes());
    proto::put_head(&mut out, 2, raw_extension);
    proto::put_bytes(&mut out, 1, object);
    out.freeze()
}

/// The event that ends a watch which cannot go on.
pub fn error_event(status: &Status, media: Media) -> Bytes {
    match media {
        Media::Protobuf => protobuf_frame("ERROR", &codec::encode_protobuf(&status.to_value()).unwrap_or_default()),
        Media::Cbor => codec::encode_cbor_event("ERROR", &status.to_value()).into(),
        Media::Json | Media::Yaml => {
            let mut out = Vec::new();
            put_event_head(&mut out, "ERROR");
            out.extend_from_slice(&status.to_json());
            out.extend_from_slice(b"}\n");
            out.into()
        }
    }
}
