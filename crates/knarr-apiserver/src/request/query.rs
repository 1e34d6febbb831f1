//! Query parameters, decoded once.

use std::borrow::Cow;

/// The parameters of a query string, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes `a=b&c=d%20e`; `+` is a space.
    pub fn parse(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|p| !p.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(key, true).into_owned(), percent_decode(value, true).into_owned())
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A boolean parameter: everything but `false` and `0` is true, also the empty value
/// (upstream: `runtime.Convert_Slice_string_To_bool`).
pub fn parse_bool(value: &str) -> bool {
    !(value.eq_ignore_ascii_case("false") || value == "0")
}

/// Decodes `%XX`, and `+` in queries. Bad escapes stay as they are; bytes that are no UTF-8 become U+FFFD.
pub fn percent_decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || plus_is_space && b == b'+') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 2;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            (other, ..) => out.push(other),
        }
        i += 1;
    }
    Cow::Owned(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let q = Query::parse("labelSelector=a%3Db%2Cc+in+(d)&limit=5&watch&x=%zz");
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(q.get("limit"), Some("5"));
        assert_eq!(q.get("watch"), Some(""));
        assert_eq!(q.get("x"), Some("%zz"));
        assert!(parse_bool("") && parse_bool("1") && !parse_bool("False") && !parse_bool("0"));
    }
}
