//! What types and fields are for, in the words of the published API (`schema-tools/describe` tells where they come from).
//! A megabyte of text that only OpenAPI documents need: it rests compressed, is inflated for one document and dropped after it.

use std::collections::HashMap;
use std::io::Read as _;

use flate2::read::GzDecoder;

static TEXTS: &[u8] = include_bytes!("../../data/descriptions.json.gz");

pub(super) struct Descriptions {
    /// By definition name without `io.k8s.`, then by field; the text of the type itself has an empty field.
    by_type: HashMap<String, HashMap<String, String>>,
}

impl Descriptions {
    pub fn load() -> Self {
        let mut json = Vec::with_capacity(1 << 20);
        let by_type = match GzDecoder::new(TEXTS).read_to_end(&mut json) {
            Ok(_) => serde_json::from_slice(&json).unwrap_or_default(),
            Err(_) => HashMap::new(),
        };
        Self { by_type }
    }

    /// The text of a definition (name without `io.k8s.`). Lists, which are not described, say what they are.
    pub fn of_type(&self, name: &str) -> Option<String> {
        match self.text(name, "") {
            Some(text) => Some(text.to_owned()),
            None => item_of(name).map(|item| format!("{item}List is a list of {item} objects.")),
        }
    }

    /// The text of a field.
    pub fn of_field(&self, type_name: &str, field: &str) -> Option<String> {
        match (self.text(type_name, field), item_of(type_name), field) {
            (Some(text), ..) => Some(text.to_owned()),
            (None, Some(item), "items") => Some(format!("items is the list of {item} objects.")),
            (None, Some(_), "metadata") => Some("metadata is the metadata of the list.".to_owned()),
            _ => None,
        }
    }

    /// The text of `kind` or `apiVersion`.
    pub fn of_type_meta(&self, name: &str) -> Option<String> {
        self.text("TypeMeta", name).map(str::to_owned)
    }

    fn text(&self, type_name: &str, field: &str) -> Option<&str> {
        self.by_type.get(type_name)?.get(field).map(String::as_str)
    }
}

/// `Pod` for `api.core.v1.PodList`.
fn item_of(type_name: &str) -> Option<&str> {
    type_name.rsplit('.').next()?.strip_suffix("List").filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_served_kind_is_described() {
        let texts = Descriptions::load();
        for resource in crate::registry::Registry::everything().all() {
            let t = crate::types::get(resource.type_id.unwrap());
            assert!(texts.of_type(t.name).is_some(), "{}", t.name);
            for field in t.json_fields().filter(|f| f.json != "metadata") {
                assert!(texts.of_field(t.name, field.json).is_some(), "{}.{}", t.name, field.json);
            }
        }
        assert!(texts.of_field("api.core.v1.Probe", "httpGet").unwrap().starts_with("HTTPGet specifies"));
        assert!(texts.of_type_meta("kind").unwrap().starts_with("Kind is a string value"));
    }
}
