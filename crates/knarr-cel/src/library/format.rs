//! Named formats (upstream: `library/format.go`).

use base64::Engine;
use knarr_core::names;

use super::{Impl, no_overload, url};
use crate::{time, value::Value};

/// A named format.
#[derive(Debug)]
pub struct Format {
    pub name: &'static str,
    /// Length of its pattern, for costs.
    pub pattern_size: u64,
    validate: fn(&str) -> Vec<String>,
}

/// A prefix of a name: a name may follow its last dash.
fn prefix(text: &str, rule: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(bare) if !bare.is_empty() => rule(&format!("{bare}-a")),
        _ => rule(text),
    }
}

fn unless(ok: bool, why: &str) -> Vec<String> {
    if ok { Vec::new() } else { vec![why.to_owned()] }
}

fn is_uuid(text: &str) -> bool {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let shape = text.split('-').map(str::len).collect::<Vec<_>>();
    hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit()) && (shape == [8, 4, 4, 4, 12] || shape == [32])
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
    ("uri", Format { name: "URI", pattern_size: 600, validate: |s| url::parse(s).err().into_iter().collect() }),
    ("uuid", Format { name: "uuid", pattern_size: 75, validate: |s| unless(is_uuid(s), "does not match the UUID format") }),
    ("byte", Format { name: "byte", pattern_size: 84, validate: |s| unless(base64::engine::general_purpose::STANDARD.decode(s).is_ok(), "invalid base64") }),
    ("date", Format { name: "date", pattern_size: 121, validate: |s| unless(time::parse_date(s).is_some(), "invalid date") }),
    ("datetime", Format { name: "datetime", pattern_size: 121, validate: |s| unless(time::parse_timestamp(s).is_some(), "invalid datetime") }),
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
