//! Named formats (upstream: `library/format.go`).

use knarr_core::{formats, names};

use super::{Impl, no_overload, url};
use crate::value::Value;

/// A named format.
#[derive(Debug)]
pub struct Format {
    pub name: &'static str,
    /// Length of its pattern, for costs.
    pub pattern_size: u64,
    validate: fn(&str) -> Vec<String>,
}

/// A prefix of a name: a name may follow its last dash (upstream: `maskTrailingDash`).
fn prefix(text: &str, rule: fn(&str) -> Vec<String>) -> Vec<String> {
    let mut before: Vec<char> = text.chars().collect();
    if before.len() > 1 && before.pop_if(|c| *c == '-').is_some() {
        before.pop();
        return rule(&format!("{}a", before.into_iter().collect::<String>()));
    }
    rule(text)
}

/// A format that schemas have, too.
fn schema(format: &str, text: &str, why: &str) -> Vec<String> {
    if formats::is_valid(format, text) { Vec::new() } else { vec![why.to_owned()] }
}

static FORMATS: [(&str, Format); 13] = [
    ("dns1123Label", Format { name: "DNS1123Label", pattern_size: 30, validate: names::is_dns1123_label }),
    ("dns1123Subdomain", Format { name: "DNS1123Subdomain", pattern_size: 60, validate: names::is_dns1123_subdomain }),
    ("dns1035Label", Format { name: "DNS1035Label", pattern_size: 30, validate: names::is_dns1035_label }),
    ("qualifiedName", Format { name: "QualifiedName", pattern_size: 60, validate: names::is_qualified_name }),
    ("dns1123LabelPrefix", Format { name: "DNS1123LabelPrefix", pattern_size: 30, validate: |s| prefix(s, names::is_dns1123_label) }),
    ("dns1123SubdomainPrefix", Format { name: "DNS1123SubdomainPrefix", pattern_size: 60, validate: |s| prefix(s, names::is_dns1123_subdomain) }),
    ("dns1035LabelPrefix", Format { name: "DNS1035LabelPrefix", pattern_size: 30, validate: |s| prefix(s, names::is_dns1035_label) }),
    ("labelValue", Format { name: "LabelValue", pattern_size: 40, validate: names::is_label_value }),
    ("uri", Format { name: "URI", pattern_size: 1103, validate: |s| url::check(s).err().into_iter().collect() }),
    ("uuid", Format { name: "uuid", pattern_size: 70, validate: |s| schema("uuid", s, "does not match the UUID format") }),
    ("byte", Format { name: "byte", pattern_size: 84, validate: |s| schema("byte", s, "invalid base64") }),
    ("date", Format { name: "date", pattern_size: 71, validate: |s| schema("date", s, "invalid date") }),
    ("datetime", Format { name: "datetime", pattern_size: 71, validate: |s| schema("datetime", s, "invalid datetime") }),
];

fn named(name: &str) -> Option<Value<'static>> {
    FORMATS.iter().find(|(n, _)| *n == name).map(|(_, format)| Value::Format(format))
}

macro_rules! constants {
    ($name:expr, $($format:literal),*) => {
        match $name {
            $(concat!("format.", $format) => |_, _| named($format).map_or_else(no_overload, Ok),)*
            _ => return None,
        }
    };
}

pub fn find(name: &str) -> Option<Impl> {
    Some(match name {
        "format.named" => |_, a| match &a[..] {
            [Value::String(s)] => Ok(named(s).map_or(Value::NONE, Value::some)),
            _ => no_overload(),
        },
        "validate" => |_, a| match &a[..] {
            [Value::Format(format), Value::String(s)] => {
                let wrong = (format.validate)(s);
                Ok(if wrong.is_empty() { Value::NONE } else { Value::some(Value::texts(wrong)) })
            }
            _ => no_overload(),
        },
        _ => constants!(
            name,
            "dns1123Label",
            "dns1123Subdomain",
            "dns1035Label",
            "qualifiedName",
            "dns1123LabelPrefix",
            "dns1123SubdomainPrefix",
            "dns1035LabelPrefix",
            "labelValue",
            "uri",
            "uuid",
            "byte",
            "date",
            "datetime"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_good(format: &str, text: &str) -> bool {
        FORMATS.iter().find(|(name, _)| *name == format).is_some_and(|(_, format)| (format.validate)(text).is_empty())
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        for (format, text, good) in [
            ("dns1123LabelPrefix", "ab-", true),
            ("dns1123LabelPrefix", "-", false),
            ("dns1123LabelPrefix", "Ab-", false),
            ("dns1123Label", "ab-", false),
            // What stands before the dash is not looked at.
            ("dns1123SubdomainPrefix", "a.-", true),
            ("dns1035LabelPrefix", "1-", true),
            ("dns1035LabelPrefix", "12-", false),
        ] {
            assert_eq!(is_good(format, text), good, "{format} {text}");
        }
    }

    #[test]
    fn formats_of_schemas_are_the_same_here() {
        assert!(is_good("date", "2024-02-29") && !is_good("date", "2026-02-29"));
        assert!(is_good("datetime", "2026-01-02t03:04:05z") && !is_good("datetime", "2026-01-02"));
        assert!(is_good("byte", "aB==") && !is_good("byte", ""));
        assert!(is_good("uuid", "123e4567-e89b12d3-a456426614174000") && !is_good("uuid", "x"));
        assert!(is_good("uri", "mailto:a") && !is_good("uri", "a"));
    }
}
