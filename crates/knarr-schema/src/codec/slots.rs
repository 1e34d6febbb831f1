//! Where the fields of a message are. JSON shows fields in another order than protobuf holds them, so a message is looked
//! through once to find them and then written in the order wanted. Nothing is decoded before it is asked for.

use super::wire::{Malformed, Reader, Wire};
use crate::types::{Field, Shape, Type};

/// The part of a message in which the occurrences of one field are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    start: u32,
    end: u32,
}

/// Fills in the slots of those fields that the message has, and tells which they are: one bit for each of the type's fields.
#[inline]
pub(super) fn find(t: &'static Type, message: &[u8], slots: &mut [Slot]) -> Result<u64, Malformed> {
    if message.len() > u32::MAX as usize {
        return Err(Malformed::Truncated);
    }
    let repeated = t.masks().repeated;
    let mut present = 0_u64;
    let mut reader = Reader::new(message);
    loop {
        let start = reader.at as u32;
        let number = reader.skip()?;
        if number == 0 {
            return Ok(present);
        }
        if let Some(position) = t.position_of(number) {
            let (bit, slot) = (1 << position, &mut slots[position]);
            // Of a repeated field the first, of any other the last occurrence counts.
            if present & repeated & bit == 0 {
                slot.start = start;
            }
            slot.end = reader.at as u32;
            present |= bit;
        }
    }
}

/// Sees to it that each occurrence of a known field has its kind on the wire, as upstream's decoders do, also where another one counts.
pub(super) fn check(t: &'static Type, message: &[u8]) -> Result<(), Malformed> {
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        if t.position_of(number).is_some_and(|position| !fits(&t.fields[position].shape, wire)) {
            return Err(Malformed::WireType);
        }
    }
    Ok(())
}

fn fits(shape: &Shape, wire: Wire<'_>) -> bool {
    match shape {
        Shape::Bool | Shape::Int32 | Shape::Int64 => matches!(wire, Wire::Varint(_)),
        Shape::Double => matches!(wire, Wire::Fixed64(_)),
        // A list of numbers may be packed.
        Shape::List(item) => matches!(wire, Wire::Bytes(_)) || fits(item, wire),
        _ => matches!(wire, Wire::Bytes(_)),
    }
}

/// The value of a field that is not repeated.
#[inline(always)]
pub(super) fn single<'a>(message: &'a [u8], slot: Option<Slot>) -> Result<Option<Wire<'a>>, Malformed> {
    let Some(slot) = slot else { return Ok(None) };
    Ok(Reader { buf: message, at: slot.start as usize }.next()?.map(|(_, value)| value))
}

/// The values of a repeated field. Other fields may stand between them.
#[derive(Clone, Debug)]
pub(super) struct Repeated<'a> {
    reader: Reader<'a>,
    end: usize,
    number: u32,
    field: &'static Field,
    /// What is left of a packed list.
    packed: Option<Reader<'a>>,
}

impl<'a> Repeated<'a> {
    pub fn new(message: &'a [u8], slot: Slot, field: &'static Field) -> Self {
        Self { reader: Reader { buf: message, at: slot.start as usize }, end: slot.end as usize, number: field.number, field, packed: None }
    }

    #[inline]
    pub fn next(&mut self) -> Result<Option<Wire<'a>>, Malformed> {
        if let Some(packed) = &mut self.packed {
            if packed.at < packed.buf.len() {
                return packed.varint().map(|n| Some(Wire::Varint(n)));
            }
            self.packed = None;
        }
        while self.reader.at < self.end {
            let Some((number, value)) = self.reader.next()? else { break };
            if number == self.number {
                return match (value, self.field.shape) {
                    // Upstream writes no packed lists, but every protobuf reader must take them.
                    (Wire::Bytes(packed), Shape::List(Shape::Bool | Shape::Int32 | Shape::Int64)) => {
                        self.packed = Some(Reader::new(packed));
                        self.next()
                    }
                    _ => Ok(Some(value)),
                };
            }
        }
        Ok(None)
    }
}

/// Key and value of an entry of a map of `item`s. Where an entry has no value, bytes are there and empty in Go (`mapvalue := []byte{}`).
#[inline]
pub(super) fn entry<'a>(item: &Shape, wire: Wire<'a>) -> Result<(&'a [u8], Option<Wire<'a>>), Malformed> {
    let mut reader = Reader::new(wire.bytes()?);
    let (mut key, mut value) = (&[][..], matches!(item, Shape::Bytes).then_some(Wire::Bytes(&[])));
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => key = wire.bytes()?,
            2 => value = Some(wire),
            _ => {}
        }
    }
    Ok((key, value))
}

/// The entries of a map, sorted by key; of two with one key the last. They come sorted from every writer we know.
pub(super) fn sorted_entries<'a>(item: &Shape, mut entries: Repeated<'a>) -> Result<Vec<(&'a [u8], Option<Wire<'a>>)>, Malformed> {
    let mut found: Vec<(&[u8], Option<Wire<'_>>)> = Vec::new();
    while let Some(wire) = entries.next()? {
        found.push(entry(item, wire)?);
    }
    if !found.is_sorted_by(|a, b| a.0 < b.0) {
        found.reverse();
        found.sort_by_key(|e| e.0);
        found.dedup_by_key(|e| e.0);
    }
    Ok(found)
}
