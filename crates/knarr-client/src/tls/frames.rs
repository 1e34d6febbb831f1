//! From bodies to objects, without trees: items of a protobuf list and objects of watch frames are cut out of the bytes
//! that came and put into an envelope of their own.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use knarr_core::api::{Event, EventType, List, Reply};
use knarr_core::status::{Cause, Details};
use knarr_core::{Encoding, Object, Reason, Result, Status, Value, ValueExt};

use super::Buffer;
use crate::client::json_object;

/// How every protobuf object begins.
const MAGIC: &[u8] = b"k8s\0";
/// Marks the bookmark that ends the first state of a watch.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// Largest watch frame we take (an object has at most 3 MiB, upstream's body limit).
const FRAME_MAX: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    Protobuf,
    Json,
    Other,
}

impl ContentType {
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default() {
            t if t.starts_with("application/vnd.kubernetes.protobuf") => Self::Protobuf,
            t if t.starts_with("application/json") => Self::Json,
            _ => Self::Other,
        }
    }
}

fn damaged(what: &str) -> Status {
    Status::internal(format!("the server's answer is damaged: {what}"))
}

/// One field of a protobuf message.
enum Wire {
    Number(u64),
    Bytes(Bytes),
}

impl Wire {
    fn text(&self) -> String {
        match self {
            Self::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
            Self::Number(n) => n.to_string(),
        }
    }

    fn message(self) -> Bytes {
        if let Self::Bytes(b) = self { b } else { Bytes::new() }
    }
}

/// The fields of a message, in order. Damaged bytes end it.
struct Fields(Bytes);

impl Iterator for Fields {
    type Item = (u64, Wire);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = varint(&mut self.0)?;
        let value = match tag & 7 {
            0 => Wire::Number(varint(&mut self.0)?),
            1 => Wire::Number(self.0.try_get_u64_le().ok()?),
            5 => Wire::Number(self.0.try_get_u32_le().ok()?.into()),
            2 => {
                let length = usize::try_from(varint(&mut self.0)?).ok().filter(|n| *n <= self.0.len())?;
                Wire::Bytes(self.0.split_to(length))
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

fn varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_bytes(out: &mut BytesMut, tag: u8, bytes: &[u8]) {
    out.put_u8(tag);
    put_varint(out, bytes.len());
    out.put_slice(bytes);
}

/// `runtime.Unknown`: what stands around every protobuf object.
struct Envelope {
    api_version: String,
    kind: String,
    raw: Bytes,
}

impl Envelope {
    fn open(body: &Bytes) -> Result<Self> {
        if !body.starts_with(MAGIC) {
            return Err(damaged("no protobuf envelope"));
        }
        let mut envelope = Self { api_version: String::new(), kind: String::new(), raw: Bytes::new() };
        for (number, value) in Fields(body.slice(MAGIC.len()..)) {
            match number {
                1 => {
                    for (number, value) in Fields(value.message()) {
                        match number {
                            1 => envelope.api_version = value.text(),
                            2 => envelope.kind = value.text(),
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = value.message(),
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// The beginning of every envelope of this kind, up to the object's length.
    fn head(api_version: &str, kind: &str) -> BytesMut {
        let mut meta = BytesMut::new();
        put_bytes(&mut meta, 0x0a, api_version.as_bytes());
        put_bytes(&mut meta, 0x12, kind.as_bytes());
        let mut head = BytesMut::from(MAGIC);
        put_bytes(&mut head, 0x0a, &meta);
        head
    }
}

/// Puts a bare object into an envelope.
fn wrap(head: &[u8], raw: &Bytes) -> Object {
    let mut out = BytesMut::with_capacity(head.len() + raw.len() + 10);
    out.put_slice(head);
    put_bytes(&mut out, 0x12, raw);
    out.put_slice(&[0x1a, 0, 0x22, 0]);
    Object { encoding: Encoding::Protobuf, resource_version: resource_version(raw), bytes: out.freeze() }
}

/// `metadata` is field 1 of every kind, `resourceVersion` field 6 of it.
fn resource_version(raw: &Bytes) -> u64 {
    let meta = Fields(raw.clone()).find(|(n, _)| *n == 1).map(|(_, v)| v.message()).unwrap_or_default();
    Fields(meta).find(|(n, _)| *n == 6).and_then(|(_, v)| v.text().parse().ok()).unwrap_or_default()
}

fn ends_initial_events(raw: &Bytes) -> bool {
    let meta = Fields(raw.clone()).find(|(n, _)| *n == 1).map(|(_, v)| v.message()).unwrap_or_default();
    let mut annotations = Fields(meta).filter(|(n, _)| *n == 12).map(|(_, v)| Fields(v.message()));
    annotations.any(|mut entry| entry.any(|(n, v)| n == 1 && v.text() == INITIAL_EVENTS_END))
}

fn parse(body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body).map_err(|e| damaged(&e.to_string()))
}

fn is_status(value: &Value) -> bool {
    value.str_at(&["kind"]) == Some("Status") && value.str_at(&["apiVersion"]) == Some("v1")
}

/// The answer to a call.
pub fn reply(content_type: ContentType, body: Bytes) -> Result<Reply> {
    if content_type == ContentType::Protobuf {
        let envelope = Envelope::open(&body)?;
        return Ok(Reply::Object(Object { encoding: Encoding::Protobuf, resource_version: resource_version(&envelope.raw), bytes: body }));
    }
    let value = parse(&body)?;
    let stored = value.at(&["metadata", "resourceVersion"]).is_some() && !is_status(&value);
    Ok(if stored { Reply::Object(Object { bytes: body, ..json_object(&value) }) } else { Reply::Value(value) })
}

/// The answer to a list.
pub fn list(content_type: ContentType, body: Bytes) -> Result<List> {
    if content_type == ContentType::Protobuf { protobuf_list(&body) } else { json_list(&body) }
}

fn protobuf_list(body: &Bytes) -> Result<List> {
    let envelope = Envelope::open(body)?;
    let kind = envelope.kind.strip_suffix("List").ok_or_else(|| damaged("not a list"))?;
    let head = Envelope::head(&envelope.api_version, kind);
    let mut list = List::default();
    for (number, value) in Fields(envelope.raw) {
        match number {
            1 => list_meta(&mut list, value.message()),
            2 => list.items.push(wrap(&head, &value.message())),
            _ => {}
        }
    }
    Ok(list)
}

fn list_meta(list: &mut List, meta: Bytes) {
    for (number, value) in Fields(meta) {
        match (number, value) {
            (2, value) => list.resource_version = value.text().parse().unwrap_or_default(),
            (3, value) => list.continue_token = value.text(),
            (4, Wire::Number(n)) => list.remaining_item_count = i64::try_from(n).ok(),
            _ => {}
        }
    }
}

fn json_list(body: &[u8]) -> Result<List> {
    let mut value = parse(body)?;
    let kind = value.str_at(&["kind"]).and_then(|k| k.strip_suffix("List")).unwrap_or_default().to_owned();
    let api_version = value["apiVersion"].clone();
    let mut list = List {
        resource_version: value.str_at(&["metadata", "resourceVersion"]).and_then(|v| v.parse().ok()).unwrap_or_default(),
        continue_token: value.str_at(&["metadata", "continue"]).unwrap_or_default().to_owned(),
        remaining_item_count: value.i64_at(&["metadata", "remainingItemCount"]),
        items: Vec::new(),
    };
    let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else { return Ok(list) };
    for mut item in items {
        if item.get("kind").is_none() {
            item.set(&["kind"], kind.as_str());
            item.set(&["apiVersion"], api_version.clone());
        }
        list.items.push(json_object(&item));
    }
    Ok(list)
}

/// The failure in a body, or one made of the code when there is no `Status` in it.
pub fn failure(content_type: ContentType, body: &Bytes, code: u16) -> Status {
    let told = match content_type {
        ContentType::Protobuf => Envelope::open(body).ok().filter(|e| e.kind == "Status").map(|e| protobuf_status(e.raw)),
        ContentType::Json => Status::from_json(body),
        ContentType::Other => None,
    };
    told.unwrap_or_else(|| {
        let reason = match code {
            400 => Reason::BadRequest,
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::NotFound,
            409 => Reason::Conflict,
            410 => Reason::Gone,
            429 => Reason::TooManyRequests,
            503 => Reason::ServiceUnavailable,
            504 => Reason::Timeout,
            500..=599 => Reason::InternalError,
            _ => Reason::Unknown,
        };
        Status::new(code, reason, String::from_utf8_lossy(body).trim().to_owned())
    })
}

fn protobuf_status(raw: Bytes) -> Status {
    let mut status = Status::new(0, Reason::Unknown, "");
    for (number, value) in Fields(raw) {
        match (number, value) {
            (3, value) => status.message = value.text(),
            (4, value) => status.reason = serde_json::from_value(Value::String(value.text())).unwrap_or(Reason::Other),
            (5, value) => status.details = Some(Box::new(protobuf_details(value.message()))),
            (6, Wire::Number(n)) => status.code = u16::try_from(n).unwrap_or_default(),
            _ => {}
        }
    }
    status
}

fn protobuf_details(raw: Bytes) -> Details {
    let mut details = Details::default();
    for (number, value) in Fields(raw) {
        match (number, value) {
            (1, v) => details.name = v.text(),
            (2, v) => details.group = v.text(),
            (3, v) => details.kind = v.text(),
            (4, v) => {
                let mut cause = Cause::default();
                for (number, value) in Fields(v.message()) {
                    match number {
                        1 => cause.reason = value.text(),
                        2 => cause.message = value.text(),
                        3 => cause.field = value.text(),
                        _ => {}
                    }
                }
                details.causes.push(cause);
            }
            (5, Wire::Number(n)) => details.retry_after_seconds = i32::try_from(n).unwrap_or_default(),
            (6, v) => details.uid = v.text(),
            _ => {}
        }
    }
    details
}

/// Cuts the body of a watch into events, whatever the chunks it comes in.
pub struct EventDecoder {
    content_type: ContentType,
    buffer: Buffer,
}

impl EventDecoder {
    pub fn new(content_type: ContentType) -> Self {
        Self { content_type, buffer: Buffer::new() }
    }

    /// Takes a chunk and gives the events that are whole now. After an error nothing sensible follows.
    pub fn feed(&mut self, chunk: Bytes) -> Vec<Result<Event>> {
        self.buffer.extend_from_slice(&chunk);
        let mut events = VecDeque::new();
        while let Some(event) = self.next() {
            let failed = event.is_err();
            events.push_back(event);
            if failed {
                self.buffer.clear();
            }
        }
        events.into()
    }

    fn next(&mut self) -> Option<Result<Event>> {
        if self.content_type == ContentType::Protobuf {
            let length = self.buffer.first_chunk::<4>().map(|head| u32::from_be_bytes(*head) as usize)?;
            if length > FRAME_MAX {
                return Some(Err(damaged("a watch frame of more than 16 MiB")));
            }
            if self.buffer.len() < 4 + length {
                return None;
            }
            self.buffer.advance(4);
            let frame = self.buffer.split_to(length).freeze();
            return Some(protobuf_event(frame));
        }
        let end = self.buffer.iter().position(|b| *b == b'\n')?;
        let line = self.buffer.split_to(end + 1);
        if line.trim_ascii().is_empty() { self.next() } else { Some(json_event(&line)) }
    }
}

fn event_type(text: &str) -> Result<EventType> {
    [EventType::Added, EventType::Modified, EventType::Deleted, EventType::Bookmark]
        .into_iter()
        .find(|t| t.as_str() == text)
        .ok_or_else(|| damaged(&format!("unknown event {text:?}")))
}

fn protobuf_event(frame: Bytes) -> Result<Event> {
    let (mut name, mut object) = (String::new(), Bytes::new());
    for (number, value) in Fields(frame) {
        match number {
            1 => name = value.text(),
            // RawExtension { raw = 1 }
            2 => object = Fields(value.message()).find(|(n, _)| *n == 1).map(|(_, v)| v.message()).unwrap_or_default(),
            _ => {}
        }
    }
    let envelope = Envelope::open(&object)?;
    if name == "ERROR" {
        return Err(protobuf_status(envelope.raw));
    }
    let event_type = event_type(&name)?;
    let initial_events_end = event_type == EventType::Bookmark && ends_initial_events(&envelope.raw);
    // A copy of its own: the frame's buffer would keep its neighbours alive.
    let bytes = Bytes::copy_from_slice(&object);
    Ok(Event { event_type, object: Object { encoding: Encoding::Protobuf, resource_version: resource_version(&envelope.raw), bytes }, initial_events_end })
}

fn json_event(line: &[u8]) -> Result<Event> {
    let value = parse(line)?;
    let object = value.get("object").cloned().unwrap_or_default();
    let name = value.str_at(&["type"]).unwrap_or_default();
    if name == "ERROR" {
        return Err(Status::from_json(object.to_string().as_bytes()).unwrap_or_else(|| damaged("an error without a status")));
    }
    let event_type = event_type(name)?;
    let initial_events_end = event_type == EventType::Bookmark && object.at(&["metadata", "annotations", INITIAL_EVENTS_END]).is_some();
    Ok(Event { event_type, object: json_object(&object), initial_events_end })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bare object with a resource version and perhaps an annotation.
    fn bare(version: &str, annotation: Option<&str>) -> Bytes {
        let mut meta = BytesMut::new();
        put_bytes(&mut meta, 0x32, version.as_bytes());
        if let Some(key) = annotation {
            let mut entry = BytesMut::new();
            put_bytes(&mut entry, 0x0a, key.as_bytes());
            put_bytes(&mut entry, 0x12, b"true");
            put_bytes(&mut meta, 0x62, &entry);
        }
        let mut raw = BytesMut::new();
        put_bytes(&mut raw, 0x0a, &meta);
        raw.freeze()
    }

    fn frame(event: &str, object: &Bytes) -> Bytes {
        let mut extension = BytesMut::new();
        put_bytes(&mut extension, 0x0a, object);
        let mut message = BytesMut::new();
        put_bytes(&mut message, 0x0a, event.as_bytes());
        put_bytes(&mut message, 0x12, &extension);
        let mut out = BytesMut::new();
        out.put_u32(u32::try_from(message.len()).unwrap());
        out.put_slice(&message);
        out.freeze()
    }

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let pod = wrap(&Envelope::head("v1", "Pod"), &bare("7", None));
        let mark = wrap(&Envelope::head("v1", "Pod"), &bare("9", Some(INITIAL_EVENTS_END)));
        let stream = [frame("ADDED", &pod.bytes), frame("BOOKMARK", &mark.bytes)].concat();
        let mut decoder = EventDecoder::new(ContentType::Protobuf);
        let events: Vec<Event> = stream.chunks(3).flat_map(|c| decoder.feed(Bytes::copy_from_slice(c))).map(Result::unwrap).collect();
        let seen: Vec<_> = events.iter().map(|e| (e.event_type, e.object.resource_version, e.initial_events_end)).collect();
        assert_eq!(seen, [(EventType::Added, 7, false), (EventType::Bookmark, 9, true)]);
        assert_eq!(events[0].object.bytes, pod.bytes);
    }

    #[test]
    fn an_item_of_a_list_gets_an_envelope_of_its_own() {
        let mut raw = BytesMut::new();
        put_bytes(&mut raw, 0x0a, b"\x12\x0242");
        put_bytes(&mut raw, 0x12, &bare("7", None));
        let list = wrap(&Envelope::head("v1", "PodList"), &raw.freeze());
        let list = super::list(ContentType::Protobuf, list.bytes).unwrap();
        assert_eq!((list.resource_version, list.items[0].resource_version), (42, 7));
        let item = Envelope::open(&list.items[0].bytes).unwrap();
        assert_eq!((item.api_version.as_str(), item.kind.as_str(), item.raw), ("v1", "Pod", bare("7", None)));
    }

    #[test]
    fn a_watch_error_is_a_status() {
        let mut decoder = EventDecoder::new(ContentType::Json);
        let line = br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
        let events = decoder.feed(Bytes::from([line.as_slice(), b"\n"].concat()));
        assert!(events[0].as_ref().unwrap_err().is_expired());
    }

    #[test]
    fn damaged_bytes_are_an_error_not_a_panic() {
        assert!(list(ContentType::Protobuf, Bytes::from_static(b"k8s\0\x0a\xff\xff\xff")).is_err());
        assert!(reply(ContentType::Protobuf, Bytes::from_static(b"garbage")).is_err());
    }
}
