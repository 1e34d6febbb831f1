//! Makes new inputs of old ones.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use crate::wire;

/// How inputs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Bytes,
    /// Mostly changed as trees, as is protobuf.
    Json,
    Protobuf,
}

pub struct Mutator<'a> {
    pub form: Form,
    pub words: &'a [&'a str],
}

const NUMBERS: &[i64] = &[0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, i32::MAX as i64, i32::MIN as i64, u32::MAX as i64, i64::MAX, i64::MIN];
const TEXTS: &[&str] = &["", " ", "a", "-1", "1e999", "0.1", "null", "é", "\u{0}", "\u{fffd}", "../..", "a/b", "~1", "💥", "\"", "9223372036854775808", "1Ki"];
/// How deep something is nested in one step.
const NESTING_MAX: usize = 2000;

impl Mutator<'_> {
    /// A new input of one and parts of another.
    pub fn make(&self, input: &[u8], other: &[u8], random: &mut StdRng, bytes_max: usize) -> Vec<u8> {
        let rounds = 1 + (random.random::<u32>() % 6);
        let tree = if random.random_ratio(5, 6) { self.change_as_tree(input, other, rounds, random) } else { None };
        let mut input = tree.unwrap_or_else(|| {
            let mut input = input.to_vec();
            (0..rounds).for_each(|_| self.change_bytes(&mut input, other, random));
            input
        });
        input.truncate(bytes_max);
        input
    }

    /// Nothing if the form has no trees, or the input is none.
    fn change_as_tree(&self, input: &[u8], other: &[u8], rounds: u32, random: &mut StdRng) -> Option<Vec<u8>> {
        match self.form {
            Form::Bytes => None,
            Form::Protobuf => wire::change(input, other, self.words, rounds, random),
            Form::Json => {
                let mut tree = serde_json::from_slice::<Value>(input).ok()?;
                let other = serde_json::from_slice(other).unwrap_or(Value::Null);
                (0..rounds).for_each(|_| self.change_tree(&mut tree, &other, random));
                serde_json::to_vec(&tree).ok()
            }
        }
    }

    fn change_bytes(&self, input: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
        let len = input.len();
        let at = random.random_range(0..=len);
        let range = |random: &mut StdRng, of: usize| {
            let from = random.random_range(0..=of);
            from..random.random_range(from..=of.min(from + 1 + of / 4).max(from))
        };
        match random.random_range(0..12) {
            0 if at < len => input[at] ^= 1 << random.random_range(0..8),
            1 if at < len => input[at] = random.random(),
            2 => drop(input.drain(range(random, len))),
            3 => {
                let part = input[range(random, len)].to_vec();
                insert(input, at, &part);
            }
            4 => insert(input, at, &other[range(random, other.len())]),
            5 if !self.words.is_empty() => {
                let word = self.words[random.random_range(0..self.words.len())];
                insert(input, at, word.as_bytes());
            }
            6 if !self.words.is_empty() => {
                let word = self.words[random.random_range(0..self.words.len())];
                let end = (at + word.len()).min(len);
                input.splice(at..end, word.bytes());
            }
            7 => {
                let number = NUMBERS[random.random_range(0..NUMBERS.len())];
                match random.random_range(0..4) {
                    0 => insert(input, at, number.to_string().as_bytes()),
                    1 => overwrite(input, at, &number.to_be_bytes()[4..]),
                    2 => overwrite(input, at, &number.to_le_bytes()),
                    _ => overwrite(input, at, &number.to_be_bytes()[6..]),
                }
            }
            8 => {
                let from = range(random, len);
                let part = input[from.start..from.end.min(from.start + 16)].to_vec();
                let times = random.random_range(0..NESTING_MAX).min(40_000 / part.len().max(1));
                insert(input, at, &part.repeat(times));
            }
            9 => input.truncate(at),
            10 => insert(input, at, TEXTS[random.random_range(0..TEXTS.len())].as_bytes()),
            _ => {
                let tail = other[random.random_range(0..=other.len())..].to_vec();
                input.truncate(at);
                input.extend(tail);
            }
        }
    }

    fn change_tree(&self, tree: &mut Value, other: &Value, random: &mut StdRng) {
        let count = size(tree);
        let Some(place) = nth(tree, &mut random.random_range(0..count)) else { return };
        let donor = {
            let mut at = random.random_range(0..size(other));
            nth_of(other, &mut at).cloned().unwrap_or_default()
        };
        match random.random_range(0..10) {
            0 => *place = donor,
            1 => *place = Value::Null,
            2 => *place = NUMBERS[random.random_range(0..NUMBERS.len())].into(),
            3 => *place = TEXTS[random.random_range(0..TEXTS.len())].into(),
            4 => *place = self.word(random).into(),
            5 => *place = [json!({}), json!([]), json!(true), json!(1.5), json!(1e300)][random.random_range(0..5)].clone(),
            6 => {
                let deep = 1 + random.random_range(0..NESTING_MAX) / if random.random_ratio(9, 10) { 1000 } else { 20 };
                for _ in 0..deep.min(100) {
                    let inner = place.take();
                    *place = if random.random() { json!([inner]) } else { json!({"a": inner}) };
                }
            }
            _ => match place {
                Value::Array(list) if !list.is_empty() && random.random() => {
                    let at = random.random_range(0..list.len());
                    match random.random_range(0..4) {
                        0 => drop(list.remove(at)),
                        1 => list.push(list[at].clone()),
                        2 => list.reverse(),
                        _ => list.insert(at, donor),
                    }
                }
                Value::Array(list) => list.push(donor),
                Value::Object(map) => self.change_map(map, donor, random),
                Value::String(text) => *text = format!("{text}{}", self.word(random)),
                Value::Number(n) => *place = n.as_i64().map_or(json!(0), |n| n.wrapping_add(1).into()),
                _ => *place = donor,
            },
        }
    }

    fn change_map(&self, map: &mut Map<String, Value>, donor: Value, random: &mut StdRng) {
        let key = map.keys().nth(random.random_range(0..map.len().max(1))).cloned();
        match (random.random_range(0..4), key) {
            (0, Some(key)) => drop(map.remove(&key)),
            (1, Some(key)) => {
                let value = map.remove(&key).unwrap_or_default();
                map.insert(self.word(random), value);
            }
            (2, Some(key)) => drop(map.insert(key, donor)),
            _ => match donor {
                Value::Object(more) => map.extend(more.into_iter().take(3)),
                donor => drop(map.insert(self.word(random), donor)),
            },
        }
    }

    fn word(&self, random: &mut StdRng) -> String {
        match self.words.len() {
            0 => TEXTS[random.random_range(0..TEXTS.len())].to_owned(),
            n => self.words[random.random_range(0..n)].to_owned(),
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    input.splice(at..at, part.iter().copied());
}

fn overwrite(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    let end = (at + part.len()).min(input.len());
    input.splice(at..end, part.iter().copied());
}

fn size(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// The value at a place, counted from the root.
fn nth<'a>(tree: &'a mut Value, at: &mut usize) -> Option<&'a mut Value> {
    if *at == 0 {
        return Some(tree);
    }
    *at -= 1;
    match tree {
        Value::Array(list) => list.iter_mut().find_map(|v| nth(v, at)),
        Value::Object(map) => map.values_mut().find_map(|v| nth(v, at)),
        _ => None,
    }
}

fn nth_of<'a>(tree: &'a Value, at: &mut usize) -> Option<&'a Value> {
    if *at == 0 {
        return Some(tree);
    }
    *at -= 1;
    match tree {
        Value::Array(list) => list.iter().find_map(|v| nth_of(v, at)),
        Value::Object(map) => map.values().find_map(|v| nth_of(v, at)),
        _ => None,
    }
}
