//! Printers: tables as the server gives them, YAML, JSON, names.

pub mod table;
pub mod yaml;

use knarr_core::{Value, ValueExt};

use super::session::Result;

/// `-o`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Output {
    #[default]
    Table,
    Wide,
    Name,
    Yaml,
    Json,
}

impl std::str::FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "" => Ok(Self::Table),
            "wide" => Ok(Self::Wide),
            "name" => Ok(Self::Name),
            "yaml" => Ok(Self::Yaml),
            "json" => Ok(Self::Json),
            other => Err(format!("unable to match a printer suitable for the output format \"{other}\", allowed formats are: json,name,wide,yaml")),
        }
    }
}

/// Prints an object in full. `managedFields` is left out unless asked for.
pub fn whole(object: &Value, output: &Output, managed_fields: bool) -> Result<String> {
    let mut object = object.clone();
    if !managed_fields {
        strip_managed_fields(&mut object);
    }
    Ok(if *output == Output::Json { json(&object) } else { yaml::to_string(&object) })
}

fn strip_managed_fields(object: &mut Value) {
    object.remove(&["metadata", "managedFields"]);
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(strip_managed_fields);
    }
}

/// JSON as kubectl writes it: four spaces, sorted keys.
pub fn json(object: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // A tree always serializes into memory.
    serde::Serialize::serialize(object, &mut serializer).unwrap_or_default();
    String::from_utf8_lossy(&out).into_owned() + "\n"
}
