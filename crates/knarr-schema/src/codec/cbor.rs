//! CBOR (KEP-4222), made from the tree that JSON has and read into it. Only what the type table knows beside that is told: bytes stand in a byte
//! string that says so, and not in base64, and numbers of Go's `float64` stay floats when they are whole.
//!
//! Upstream: `apimachinery/pkg/runtime/serializer/cbor`, whose options of encoding and decoding are named where they matter.

use ciborium::Value as Item;
use ciborium_ll::{Encoder, Header};
use knarr_core::{Map, Value};

use super::{DEPTH_MAX, canonical, schema_props, type_of};
use crate::types::{self, Shape, Type};

/// "Self-described CBOR": the tag that stands before every object.
const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];
/// Tags of RFC 8949, 3.4: times, and byte strings that are text in base64url, base64 or hex once they are JSON.
const TIME_TEXT: u64 = 0;
const TIME_SECONDS: u64 = 1;
const LATER_BASE64URL: u64 = 21;
const LATER_BASE64: u64 = 22;
const LATER_BASE16: u64 = 23;

// ---- writing

/// An object; the fields of a built-in kind are written by their types.
pub fn encode_cbor(tree: &Value) -> Vec<u8> {
    let mut out = SELF_DESCRIBED.to_vec();
    match (type_of(tree), tree) {
        (Some(t), Value::Object(map)) => fields(&mut out, t, map),
        _ => any(&mut out, tree),
    }
    out
}

/// An event of a watch; the object in it is one of its own.
pub fn encode_cbor_event(event_type: &str, object: &Value) -> Vec<u8> {
    let mut out = SELF_DESCRIBED.to_vec();
    head(&mut out, Header::Map(Some(2)));
    string(&mut out, "object");
    out.extend_from_slice(&encode_cbor(object));
    string(&mut out, "type");
    string(&mut out, event_type);
    out
}

fn head(out: &mut Vec<u8>, header: Header) {
    let Ok(()) = Encoder::from(out).push(header) else { unreachable!("memory takes all that is written") };
}

/// A byte string: its text need not be looked at again, and it is valid whatever it holds (`StringToByteString`, `FieldNameToByteString`).
fn string(out: &mut Vec<u8>, text: &str) {
    bytes(out, text.as_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, Header::Bytes(Some(bytes.len())));
    out.extend_from_slice(bytes);
}

fn any(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => head(out, Header::Simple(ciborium_ll::simple::NULL)),
        Value::Bool(b) => head(out, Header::Simple(if *b { ciborium_ll::simple::TRUE } else { ciborium_ll::simple::FALSE })),
        Value::String(text) => string(out, text),
        Value::Number(n) => match n.as_i64() {
            Some(n) if n < 0 => head(out, Header::Negative(!n as u64)),
            Some(n) => head(out, Header::Positive(n as u64)),
            // Of as many bytes as keep its value (`ShortestFloat16`).
            None => head(out, Header::Float(n.as_f64().unwrap_or_default())),
        },
        Value::Array(items) => {
            head(out, Header::Array(Some(items.len())));
            items.iter().for_each(|item| any(out, item));
        }
        Value::Object(map) => {
            head(out, Header::Map(Some(map.len())));
            map.iter().for_each(|(key, value)| {
                string(out, key);
                any(out, value);
            });
        }
    }
}

fn fields(out: &mut Vec<u8>, t: &'static Type, map: &Map<String, Value>) {
    head(out, Header::Map(Some(map.len())));
    for (key, value) in map {
        string(out, key);
        match t.field(key) {
            Some(field) => shaped(out, &field.shape, value),
            None => any(out, value),
        }
    }
}

fn shaped(out: &mut Vec<u8>, shape: &'static Shape, value: &Value) {
    match (shape, value) {
        (Shape::Struct(id), Value::Object(map)) => fields(out, types::get(*id), map),
        (Shape::SchemaOrArray | Shape::SchemaOrBool | Shape::SchemaOrStrings, Value::Object(map)) => fields(out, schema_props(), map),
        (Shape::List(item), Value::Array(items)) => {
            head(out, Header::Array(Some(items.len())));
            items.iter().for_each(|v| shaped(out, item, v));
        }
        (Shape::Map(item), Value::Object(map)) => {
            head(out, Header::Map(Some(map.len())));
            map.iter().for_each(|(key, v)| {
                string(out, key);
                shaped(out, item, v);
            });
        }
        (Shape::Double, Value::Number(n)) => head(out, Header::Float(n.as_f64().unwrap_or_default())),
        (Shape::Bytes, Value::String(text)) => match canonical::bytes(text) {
            Ok(decoded) => {
                head(out, Header::Tag(LATER_BASE64));
                bytes(out, &decoded);
            }
            Err(_) => string(out, text),
        },
        _ => any(out, value),
    }
}

// ---- reading

/// What a body holds, as JSON would have it.
///
/// # Errors
/// What is wrong with it: it is no CBOR, or nothing that JSON has a value for.
pub fn decode_cbor(body: &[u8]) -> Result<Value, String> {
    let mut rest = body;
    let item = read_item(&mut rest).map_err(|e| described(&e, body))?;
    match rest.len() {
        0 => tree(item),
        more => Err(format!("cbor: {more} bytes of extraneous data starting at index {}", body.len() - more)),
    }
}

/// How many bytes the first of several objects takes that follow each other; `None` for what is none.
pub fn cbor_length(sequence: &[u8]) -> Option<usize> {
    let mut rest = sequence;
    read_item(&mut rest).ok()?;
    Some(sequence.len() - rest.len())
}

fn read_item(rest: &mut &[u8]) -> Result<Item, ciborium::de::Error<std::io::Error>> {
    ciborium::de::from_reader_with_recursion_limit(rest, DEPTH_MAX)
}

fn described(error: &ciborium::de::Error<std::io::Error>, body: &[u8]) -> String {
    use ciborium::de::Error;
    match error {
        Error::Io(_) if body.is_empty() => "EOF".into(),
        Error::Io(_) => "unexpected EOF".into(),
        Error::RecursionLimitExceeded => format!("cbor: exceeded max nested level {DEPTH_MAX}"),
        Error::Syntax(at) => format!("cbor: what stands at index {at} is not well-formed"),
        Error::Semantic(_, why) => format!("cbor: {why}"),
    }
}

fn tree(item: Item) -> Result<Value, String> {
    match item {
        Item::Null => Ok(Value::Null),
        Item::Bool(b) => Ok(Value::Bool(b)),
        Item::Integer(n) => i64::try_from(n).map(Value::from).map_err(|_| format!("cbor: cannot unmarshal {} into Go value of type int64", i128::from(n))),
        Item::Float(x) if x.is_finite() => Ok(Value::from(x)),
        Item::Float(_) => Err("cbor: cannot unmarshal what is no finite number".into()),
        Item::Text(text) => Ok(Value::String(text)),
        Item::Bytes(bytes) => Ok(Value::String(text_of(bytes))),
        Item::Array(items) => items.into_iter().map(tree).collect::<Result<_, _>>().map(Value::Array),
        Item::Map(entries) => object(entries),
        Item::Tag(tag, inner) => tagged(tag, *inner),
        other => Err(format!("cbor: cannot unmarshal {other:?}")),
    }
}

/// JSON has only text: what is none is replaced, as Go does when it writes it.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Two equal keys are refused, not reported (`DupMapKeyEnforcedAPF`).
fn object(entries: Vec<(Item, Item)>) -> Result<Value, String> {
    let mut map = Map::with_capacity(entries.len());
    for (index, (key, value)) in entries.into_iter().enumerate() {
        let key = match key {
            Item::Text(text) => text,
            Item::Bytes(bytes) => text_of(bytes),
            _ => return Err("cbor: cannot unmarshal a map's key into Go value of type string".into()),
        };
        if map.contains_key(&key) {
            return Err(format!("cbor: found duplicate map key {key:?} at map element index {index}"));
        }
        map.insert(key, tree(value)?);
    }
    Ok(Value::Object(map))
}

/// A tag that says nothing to JSON leaves its content (`UnrecognizedTagContentToAny`).
fn tagged(tag: u64, inner: Item) -> Result<Value, String> {
    match (tag, inner) {
        (LATER_BASE64, Item::Bytes(bytes)) => Ok(Value::String(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes))),
        (LATER_BASE64URL, Item::Bytes(bytes)) => Ok(Value::String(base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes))),
        (LATER_BASE16, Item::Bytes(bytes)) => Ok(Value::String(knarr_core::hex::encode(&bytes))),
        (TIME_TEXT, inner) => match tree(inner)? {
            Value::String(text) if knarr_core::time::parse(&text).is_some() => Ok(Value::String(text)),
            other => Err(format!("cbor: cannot set {other} for time.Time")),
        },
        (TIME_SECONDS, inner) => seconds(&tree(inner)?),
        (_, inner) => tree(inner),
    }
}

/// Seconds since 1970 as RFC 3339, with as many digits of the fraction as it has (`TimeTagToRFC3339Nano`).
fn seconds(value: &Value) -> Result<Value, String> {
    let at = match (value.as_i64(), value.as_f64()) {
        (Some(whole), _) => jiff::Timestamp::from_second(whole).ok(),
        (_, Some(x)) => jiff::SignedDuration::try_from_secs_f64(x).ok().and_then(|d| jiff::Timestamp::from_duration(d).ok()),
        _ => None,
    };
    at.map(|at| Value::String(at.to_string())).ok_or_else(|| format!("cbor: cannot set {value} for time.Time"))
}

#[cfg(test)]
mod tests {
    use knarr_core::{deep, json};

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        knarr_core::hex::encode(bytes)
    }

    fn from_hex(text: &str) -> Vec<u8> {
        text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn read(text: &str) -> Result<Value, String> {
        decode_cbor(&from_hex(text))
    }

    /// What an API server of 1.37 sends with `CBORServingAndStorage`, the order of keys aside.
    #[test]
    fn strings_are_byte_strings_and_bytes_say_that_they_are_base64_in_json() {
        let secret = json!({"kind": "Secret", "apiVersion": "v1", "data": {"a": "aGVsbG8="}, "type": "Opaque"});
        let written = encode_cbor(&secret);
        assert_eq!(hex(&written), "d9d9f7a44a61706956657273696f6e4276314464617461a14161d64568656c6c6f446b696e64465365637265744474797065464f7061717565");
        assert_eq!(decode_cbor(&written).unwrap(), secret);
        // Of a kind that is not built in, base64 is a text like any other.
        let custom = json!({"kind": "Secret", "apiVersion": "example.com/v1", "data": {"a": "aGVsbG8="}});
        assert!(hex(&encode_cbor(&custom)).contains(&hex(b"aGVsbG8=")));
        assert_eq!(hex(&encode_cbor_event("ADDED", &json!({}))), "d9d9f7a2466f626a656374d9d9f7a04474797065454144444544");
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        let written = |value: Value| hex(&encode_cbor(&value)[3..]);
        for (value, wanted) in [
            (json!(0), "00"),
            (json!(-1), "20"),
            (json!(404), "190194"),
            (json!(i64::MIN), "3b7fffffffffffffff"),
            (json!(1.5), "f93e00"),
            (json!(0.1), "fb3fb999999999999a"),
            (json!(null), "f6"),
            (json!([true, false]), "82f5f4"),
        ] {
            assert_eq!(written(value), wanted);
        }
        let definition = json!({"kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1", "spec": {"versions": [
            {"schema": {"openAPIV3Schema": {"properties": {"a": {"maximum": 1, "maxLength": 1}}}}}]}});
        let written = hex(&encode_cbor(&definition));
        assert!(written.contains(&(hex(b"maximum") + "f93c00")), "{written}");
        assert!(written.contains(&(hex(b"maxLength") + "01")), "{written}");
    }

    #[test]
    fn what_other_encoders_write_is_read() {
        for (text, wanted) in [
            // Text strings, indefinite lengths, the tag in the middle.
            ("bf6161bf616201ffff", json!({"a": {"b": 1}})),
            ("d9d9f7a1616144d9d9f700", json!({"a": "\u{fffd}\u{fffd}\u{fffd}\0"})),
            ("7f61616162ff", json!("ab")),
            ("9f0102ff", json!([1, 2])),
            ("fa3fc00000", json!(1.5)),
            ("d64568656c6c6f", json!("aGVsbG8=")),
            ("d54568656c6c6f", json!("aGVsbG8")),
            ("d74568656c6c6f", json!("68656c6c6f")),
            ("c074323032362d30312d30325430333a30343a30355a", json!("2026-01-02T03:04:05Z")),
            ("c100", json!("1970-01-01T00:00:00Z")),
            ("c1f93e00", json!("1970-01-01T00:00:01.5Z")),
        ] {
            assert_eq!(read(text).as_ref(), Ok(&wanted), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, wanted) in [
            ("", "EOF"),
            ("78", "unexpected EOF"),
            ("a2616101616102", "cbor: found duplicate map key \"a\" at map element index 1"),
            ("0000", "cbor: 1 bytes of extraneous data starting at index 1"),
            ("a10101", "cbor: cannot unmarshal a map's key into Go value of type string"),
            ("1bffffffffffffffff", "cbor: cannot unmarshal 18446744073709551615 into Go value of type int64"),
            ("f97e00", "cbor: cannot unmarshal what is no finite number"),
            ("c06161", "cbor: cannot set \"a\" for time.Time"),
        ] {
            assert_eq!(read(text).unwrap_err(), wanted, "{text}");
        }
        assert!(read("62c328").is_err(), "a text string that is no UTF-8");
    }

    #[test]
    fn what_is_nested_as_deep_as_json_may_be_is_read() {
        let nested = |depth: usize| [vec![0x81; depth], vec![1]].concat();
        deep::run(|| {
            assert_eq!(deep::depth(&decode_cbor(&nested(10_000)).unwrap()), 10_000);
            for depth in [10_001, 100_000] {
                assert_eq!(decode_cbor(&nested(depth)).unwrap_err(), "cbor: exceeded max nested level 10000");
            }
        });
    }

    #[test]
    fn objects_of_a_sequence_are_told_apart() {
        let two = [encode_cbor_event("ADDED", &json!({"a": 1})), encode_cbor_event("DELETED", &json!({}))].concat();
        let first = cbor_length(&two).unwrap();
        assert_eq!(decode_cbor(&two[first..]).unwrap(), json!({"object": {}, "type": "DELETED"}));
        assert_eq!(cbor_length(&two[..first - 1]), None);
    }

    #[test]
    fn every_kind_is_the_same_there_and_back() {
        for (name, json, _) in super::super::tests::fixtures() {
            let tree: Value = serde_json::from_str(&json).unwrap();
            let again = decode_cbor(&encode_cbor(&tree)).unwrap();
            assert_eq!(super::super::encode_untyped(&again), super::super::encode_untyped(&tree), "{name}");
        }
    }
}
