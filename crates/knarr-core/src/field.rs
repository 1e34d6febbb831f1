//! Errors that name a field, as upstream's `k8s.io/apimachinery/pkg/util/validation/field` words them.

use std::fmt;

use crate::Value;

/// The path of a field: `spec.containers[0].ports[1].name`, `data[a/b]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(String);

impl Path {
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of no field: errors on it print `<nil>`.
    pub fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "<nil>" } else { &self.0 }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with a field. The text of each is the `reason` of a `StatusCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooShort,
    TooMany,
    TooFew,
    Internal,
    TypeInvalid,
}

impl ErrorType {
    /// `reason` in a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::Internal)
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    pub kind: ErrorType,
    pub field: Path,
    pub value: Value,
    pub detail: String,
    /// The value as it is shown, when its fields have an order.
    pub shown: Option<String>,
}

pub type ErrorList = Vec<Error>;

/// Stands for a value that is not shown.
const OMITTED: &str = "<value omitted>";

impl Error {
    fn new(kind: ErrorType, field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind, field: field.clone(), value: value.into(), detail: detail.into(), shown: None }
    }

    /// Shows the value as this text.
    #[must_use]
    pub fn showing(mut self, text: String) -> Self {
        self.shown = Some(text);
        self
    }

    pub fn not_found(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::NotFound, field, value, "")
    }

    pub fn required(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, field, "", detail)
    }

    pub fn duplicate(field: &Path, value: impl Into<Value>) -> Self {
        Self::new(ErrorType::Duplicate, field, value, "")
    }

    /// Without the value, which would say too much.
    pub fn duplicate_omitted(field: &Path) -> Self {
        Self::new(ErrorType::Duplicate, field, OMITTED, "")
    }

    pub fn invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, field, value, detail)
    }

    /// Without the value, which would say too much or nothing.
    pub fn invalid_omitted(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, field, OMITTED, detail)
    }

    pub fn type_invalid(field: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, field, value, detail)
    }

    /// `supported` is listed in the order given; upstream sorts it for most callers.
    pub fn not_supported(field: &Path, value: impl Into<Value>, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| go_quote(s)).collect();
        let detail = if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
        Self::new(ErrorType::NotSupported, field, value, detail)
    }

    pub fn forbidden(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, field, "", detail)
    }

    /// `max` in bytes; below zero when there is no number to tell.
    pub fn too_long(field: &Path, max: i64) -> Self {
        let detail = if max < 0 { "value is too long".to_owned() } else { format!("may not be more than {max} {}", if max == 1 { "byte" } else { "bytes" }) };
        Self::new(ErrorType::TooLong, field, OMITTED, detail)
    }

    pub fn too_many(field: &Path, actual: usize, max: i64) -> Self {
        let detail = if max < 0 { "has too many items".to_owned() } else { format!("must have at most {max} {}", if max == 1 { "item" } else { "items" }) };
        Self::new(ErrorType::TooMany, field, actual, detail)
    }

    pub fn internal(field: &Path, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Internal, field, "", detail)
    }

    /// The text without the field: the `message` of a `StatusCause` (upstream: `Error.ErrorBody`).
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if self.kind.shows_value() && self.value != OMITTED {
            text += ": ";
            text += &self.shown.clone().unwrap_or_else(|| go_value(&self.value));
        }
        if !self.detail.is_empty() {
            text += ": ";
            text += &self.detail;
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A string as Go's `%q` prints it.
pub fn go_quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if is_printed(c) => out.push(c),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push('"');
    out
}

/// `unicode.IsPrint`: no blanks but the space, and nothing that is not seen.
fn is_printed(c: char) -> bool {
    // Behind a letter, Rust shows also what stands above one.
    c.is_ascii() || ['a', c].iter().collect::<String>().escape_debug().eq(['a', c])
}

/// A bad value as upstream shows it: strings quoted, numbers bare, everything else as JSON.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(s) => go_quote(s),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Error, wanted: &str) {
        assert_eq!(error.to_string(), wanted);
    }

    #[test]
    fn strings_are_quoted_as_go_quotes_them() {
        assert_eq!(go_quote("a\"\\\n\x01é e\u{301}😀"), "\"a\\\"\\\\\\n\\x01é e\u{301}😀\"");
        assert_eq!(go_quote("\u{85}\u{a0}\u{ad}\u{2028}\u{feff}\u{e000}\u{e0001}"), r#""\u0085\u00a0\u00ad\u2028\ufeff\ue000\U000e0001""#);
    }

    #[test]
    fn errors_read_as_upstream_words_them() {
        let path = Path::new("spec").child("containers").index(0);
        check(Error::required(&path.child("image"), ""), "spec.containers[0].image: Required value");
        check(Error::invalid(&Path::new("metadata").child("name"), "A", "must be lower"), "metadata.name: Invalid value: \"A\": must be lower");
        check(Error::not_supported(&path.child("x"), "q", &["a", "b"]), "spec.containers[0].x: Unsupported value: \"q\": supported values: \"a\", \"b\"");
        check(
            Error::invalid(&Path::new("spec").child("replicas"), -1, "must be greater than or equal to 0"),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        );
        check(Error::forbidden(&Path::root(), "no"), "<nil>: Forbidden: no");
        check(Error::too_long(&Path::new("data").key("a"), 5), "data[a]: Too long: may not be more than 5 bytes");
    }
}
