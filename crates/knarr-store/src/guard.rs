//! What several servers on one store must not give out twice in the same moment, though each write is of another object: node ports.
//! A write that gives some holds to a guard, a key that it replaces in its own transaction. Whoever was slower finds the guard moved,
//! looks at what there is now, and tries again. Nothing is taken before the write, so nothing can be left behind.
//!
//! The guard's value is the map that a kube-apiserver would keep under the same key (upstream: `RangeAllocation`).

use bytes::Bytes;
use prost::Message;

/// A key that must not have changed since it was read, and its next value.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Below `ranges/`.
    pub name: &'static str,
    /// The revision of its last change; 0: it is not there.
    pub expected: u64,
    pub value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// `core/v1.RangeAllocation`.
#[derive(Clone, PartialEq, Message)]
struct RangeAllocation {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Empty>,
    #[prost(string, tag = "2")]
    range: String,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

/// `runtime.TypeMeta`.
#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

/// `runtime.Unknown`.
#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

/// A map of what is given of a range, by places counted from its begin, as `big.Int` writes a set of bits.
pub fn range_allocation(range: &str, given: impl IntoIterator<Item = usize>) -> Bytes {
    let mut bits: Vec<u8> = Vec::new();
    for place in given {
        let at = place / 8;
        if bits.len() <= at {
            bits.resize(at + 1, 0);
        }
        bits[at] |= 1 << (place % 8);
    }
    bits.reverse();
    let raw = RangeAllocation { metadata: Some(Empty {}), range: range.to_owned(), data: bits }.encode_to_vec();
    let type_meta = TypeMeta { api_version: "v1".into(), kind: "RangeAllocation".into() };
    let mut out = b"k8s\0".to_vec();
    out.extend(Unknown { type_meta: Some(type_meta), raw }.encode_to_vec());
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_is_the_lowest_bit_of_the_last_byte() {
        let bytes = range_allocation("30000-32767", [0, 9, 80]);
        let unknown = Unknown::decode(&bytes[4..]).unwrap();
        let map = RangeAllocation::decode(&unknown.raw[..]).unwrap();
        assert_eq!((map.range.as_str(), map.data), ("30000-32767", vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1]));
        assert!(bytes.starts_with(b"k8s\0\x0a\x15\x0a\x02v1\x12\x0fRangeAllocation"));
    }
}
