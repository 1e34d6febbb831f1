//! Protobuf as a tree of fields, to be changed without breaking all lengths around the place: of changed bytes a decoder reads little.

use rand::Rng;
use rand::rngs::StdRng;

/// What bodies begin with.
const MAGIC: &[u8] = b"k8s\0";
const DEPTH_MAX: usize = 40;
const NUMBERS: &[u64] = &[0, 1, 2, 127, 128, 255, 65535, i32::MAX as u64, u32::MAX as u64, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];

#[derive(Clone, Debug, PartialEq)]
struct Field {
    number: u64,
    value: Item,
}

#[derive(Clone, Debug, PartialEq)]
enum Item {
    Varint(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(Vec<u8>),
    /// Bytes that can be read as fields, also if they are none.
    Fields(Vec<Field>),
}

/// Changes an input some times, with parts of another; nothing if it cannot be read as fields.
pub fn change(input: &[u8], other: &[u8], words: &[&str], rounds: u32, random: &mut StdRng) -> Option<Vec<u8>> {
    let bare = |input: &'_ [u8]| input.strip_prefix(MAGIC).unwrap_or(input).to_vec();
    let mut fields = parse(&bare(input), 0)?;
    let donors = parse(&bare(other), 0).unwrap_or_default();
    for _ in 0..rounds {
        let donor = nth(&donors, random.random_range(0..count(&donors).max(1))).cloned();
        change_one(&mut fields, donor, words, random);
    }
    let mut out = if input.starts_with(MAGIC) { MAGIC.to_vec() } else { Vec::new() };
    write(&fields, &mut out);
    Some(out)
}

fn change_one(fields: &mut Vec<Field>, donor: Option<Field>, words: &[&str], random: &mut StdRng) {
    let mut at = random.random_range(0..count(fields).max(1));
    let Some((list, at)) = place(fields, &mut at) else {
        fields.extend(donor);
        return;
    };
    let text = |random: &mut StdRng| words.get(random.random_range(0..words.len().max(1))).map_or_else(Vec::new, |w| w.as_bytes().to_vec());
    match random.random_range(0..14) {
        0 => drop(list.remove(at)),
        1 => list.insert(at, list[at].clone()),
        2 => {
            let with = random.random_range(0..list.len());
            list.swap(at, with);
        }
        3 => list[at].number = random.random_range(1..20),
        4 => list[at].value = Item::Varint(NUMBERS[random.random_range(0..NUMBERS.len())]),
        5 => list[at].value = Item::Bytes(text(random)),
        6 => list[at].value = donor.map_or(Item::Fields(Vec::new()), |d| d.value),
        7 => list[at].value = Item::Fields(Vec::new()),
        8 => list.insert(at, donor.unwrap_or(Field { number: 1, value: Item::Bytes(text(random)) })),
        9 => list[at].value = [Item::Eight(random.random()), Item::Four(random.random())][random.random_range(0..2)].clone(),
        10 => {
            let inner = list[at].clone();
            list[at].value = Item::Fields(vec![inner]);
        }
        11 => list.truncate(at),
        12 => list[at].number = NUMBERS[random.random_range(0..NUMBERS.len())],
        _ => change_value(&mut list[at].value, random),
    }
}

fn change_value(value: &mut Item, random: &mut StdRng) {
    match value {
        Item::Varint(n) => *n = n.wrapping_add(random.random_range(0..3)).wrapping_sub(1),
        Item::Eight(bytes) => bytes[random.random_range(0..8)] = random.random(),
        Item::Four(bytes) => bytes[random.random_range(0..4)] = random.random(),
        Item::Bytes(bytes) if bytes.is_empty() => bytes.push(random.random()),
        Item::Bytes(bytes) => {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        Item::Fields(fields) => fields.reverse(),
    }
}

fn parse(mut input: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !input.is_empty() {
        let tag = varint(&mut input)?;
        let value = match tag & 7 {
            0 => Item::Varint(varint(&mut input)?),
            1 => Item::Eight(take(&mut input, 8)?.try_into().ok()?),
            2 => {
                let len = varint(&mut input)?;
                let bytes = take(&mut input, usize::try_from(len).ok()?)?;
                let inner = if depth < DEPTH_MAX && !bytes.is_empty() { parse(bytes, depth + 1) } else { None };
                inner.map_or_else(|| Item::Bytes(bytes.to_vec()), Item::Fields)
            }
            5 => Item::Four(take(&mut input, 4)?.try_into().ok()?),
            _ => return None,
        };
        fields.push(Field { number: tag >> 3, value });
    }
    Some(fields)
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(taken)
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for Field { number, value } in fields {
        let mut tag = |kind: u64| write_varint(number << 3 | kind, out);
        match value {
            Item::Varint(n) => {
                tag(0);
                write_varint(*n, out);
            }
            Item::Eight(bytes) => {
                tag(1);
                out.extend(bytes);
            }
            Item::Four(bytes) => {
                tag(5);
                out.extend(bytes);
            }
            Item::Bytes(bytes) => {
                tag(2);
                write_varint(bytes.len() as u64, out);
                out.extend(bytes);
            }
            Item::Fields(fields) => {
                tag(2);
                let mut inner = Vec::new();
                write(fields, &mut inner);
                write_varint(inner.len() as u64, out);
                out.extend(inner);
            }
        }
    }
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn count(fields: &[Field]) -> usize {
    fields
        .iter()
        .map(|f| match &f.value {
            Item::Fields(inner) => 1 + count(inner),
            _ => 1,
        })
        .sum()
}

/// The list that the field at a place is in, counted from the root, and where in it.
fn place<'a>(fields: &'a mut Vec<Field>, at: &mut usize) -> Option<(&'a mut Vec<Field>, usize)> {
    let mut here = 0;
    loop {
        let field = fields.get(here)?;
        if *at == 0 {
            return Some((fields, here));
        }
        *at -= 1;
        let inside = if let Item::Fields(inner) = &field.value { count(inner) } else { 0 };
        if *at < inside {
            let Item::Fields(inner) = &mut fields[here].value else { return None };
            return place(inner, at);
        }
        *at -= inside;
        here += 1;
    }
}

fn nth(fields: &[Field], mut at: usize) -> Option<&Field> {
    for field in fields {
        if at == 0 {
            return Some(field);
        }
        at -= 1;
        if let Item::Fields(inner) = &field.value {
            let inside = count(inner);
            if at < inside {
                return nth(inner, at);
            }
            at -= inside;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn what_is_read_is_written_alike() {
        // 1: {2: 300, 3: "x"}, 4: four bytes, 5: eight bytes, 6: "".
        let bytes = b"\x0a\x06\x10\xac\x02\x1a\x01x\x25abcd\x29abcdefgh\x32\x00";
        let fields = parse(bytes, 0).expect("fields");
        assert_eq!((fields.len(), count(&fields)), (4, 6));
        assert_eq!(nth(&fields, 1), Some(&Field { number: 2, value: Item::Varint(300) }));
        let mut written = Vec::new();
        write(&fields, &mut written);
        assert_eq!(written, bytes);
        assert_eq!(parse(b"\x0a\x06\x10", 0), None);
    }

    #[test]
    fn every_place_is_found() {
        let mut fields = parse(b"\x0a\x06\x10\xac\x02\x1a\x01x\x25abcd", 0).expect("fields");
        let numbers: Vec<u64> = (0..count(&fields)).map(|mut at| place(&mut fields, &mut at).map(|(list, at)| list[at].number).expect("a place")).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
    }

    #[test]
    fn what_is_changed_can_still_be_read() {
        let mut random = StdRng::seed_from_u64(5);
        let mut input = b"k8s\0\x0a\x06\x10\xac\x02\x1a\x01x\x25abcd".to_vec();
        let other = input.clone();
        for _ in 0..1000 {
            let changed = change(&input, &other, &["a"], 2, &mut random).expect("fields");
            assert!(changed.starts_with(MAGIC) && parse(&changed[4..], 0).is_some(), "{}", changed.escape_ascii());
            input = if changed.len() > 4 && changed.len() < 4000 { changed } else { other.clone() };
        }
    }
}
