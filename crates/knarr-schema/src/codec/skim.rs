//! Reads parts of JSON that is known to be valid and compact (we wrote it) without parsing the rest.

use std::borrow::Cow;

/// The end of the value that starts at `at`. On bytes that are no JSON it stops somewhere within them.
pub(crate) fn skip(json: &[u8], at: usize) -> usize {
    match json.get(at) {
        Some(b'"') => skip_string(json, at),
        Some(b'{' | b'[') => skip_nested(json, at),
        _ => json[at.min(json.len())..].iter().position(|b| matches!(b, b',' | b'}' | b']')).map_or(json.len(), |n| at + n),
    }
}

fn skip_string(json: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(n) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        if json[at + n] == b'"' {
            return at + n + 1;
        }
        at += n + 2;
    }
    json.len()
}

fn skip_nested(json: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(b) = json.get(at) {
        match b {
            b'"' => {
                at = skip_string(json, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    json.len()
}

/// A member of an object: where its key (without quotes) and its value are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub key: &'a [u8],
    /// Where the quote before the key stands.
    pub start: usize,
    pub value_start: usize,
    pub value_end: usize,
}

impl<'a> Member<'a> {
    pub fn value(&self, json: &'a [u8]) -> &'a [u8] {
        &json[self.value_start..self.value_end]
    }
}

/// The members of the object that starts at `at`; none when there is no object.
pub(crate) fn members(json: &[u8], at: usize) -> impl Iterator<Item = Member<'_>> {
    let mut at = if json.get(at) == Some(&b'{') { at + 1 } else { json.len() };
    std::iter::from_fn(move || {
        if json.get(at) != Some(&b'"') {
            return None;
        }
        let start = at;
        let key_end = skip_string(json, start);
        let value_start = key_end + 1;
        let value_end = skip(json, value_start);
        at = value_end + 1;
        (value_end <= json.len() && value_start < value_end).then(|| Member { key: &json[start + 1..key_end - 1], start, value_start, value_end })
    })
}

pub(crate) fn member<'a>(json: &'a [u8], at: usize, key: &str) -> Option<Member<'a>> {
    members(json, at).find(|m| m.key == key.as_bytes())
}

/// The items of the list that starts at `at`, as `(start, end)`.
pub(crate) fn items(json: &[u8], at: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = if json.get(at) == Some(&b'[') { at + 1 } else { json.len() };
    std::iter::from_fn(move || {
        if at >= json.len() || json[at] == b']' {
            return None;
        }
        let start = at;
        let end = skip(json, start);
        at = end + 1;
        (end > start).then_some((start, end))
    })
}

/// What is between the quotes of a string, escapes and all; empty for anything else.
pub(crate) fn raw_text(value: &[u8]) -> &str {
    match value {
        [b'"', inner @ .., b'"'] => std::str::from_utf8(inner).unwrap_or_default(),
        _ => "",
    }
}

/// A scalar as text: a string without quotes and escapes, a number or a boolean as it stands, nothing for the rest.
pub(crate) fn scalar(value: &[u8]) -> Cow<'_, str> {
    match value {
        [b'"', inner @ .., b'"'] if memchr::memchr(b'\\', inner).is_none() => String::from_utf8_lossy(inner),
        [b'"', ..] => serde_json::from_slice::<String>(value).unwrap_or_default().into(),
        [b'{' | b'[' | b'n', ..] | [] => "".into(),
        other => String::from_utf8_lossy(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_past_nested_values_and_escapes() {
        let json = br#"{"a":{"x":[1,{"}":"\"]"}]},"b\"":"q\\","c":-1.5,"d":[true,"e",{}],"f":null}"#;
        let found: Vec<_> = members(json, 0).map(|m| (String::from_utf8_lossy(m.key), String::from_utf8_lossy(m.value(json)))).collect();
        assert_eq!(found.len(), 5);
        assert_eq!((&*found[1].0, &*found[1].1), (r#"b\""#, r#""q\\""#));
        assert_eq!(scalar(member(json, 0, "c").unwrap().value(json)), "-1.5");
        let d = member(json, 0, "d").unwrap();
        assert_eq!(items(json, d.value_start).map(|(a, b)| &json[a..b]).collect::<Vec<_>>(), [&b"true"[..], b"\"e\"", b"{}"]);
        assert_eq!(scalar(br#""a\nb""#), "a\nb");
    }

    #[test]
    fn broken_json_ends_the_walk() {
        for json in [&b"{\"a\":"[..], b"{\"a", b"{\"a\":{", b"[1,", b"{\"a\"}", b""] {
            assert!(members(json, 0).count() <= 1 && items(json, 0).count() <= 1, "{json:?}");
        }
    }
}
