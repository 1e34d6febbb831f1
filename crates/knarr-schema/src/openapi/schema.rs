//! The definition of a type as a JSON schema, in either dialect. Definition names are the table's with `io.k8s.` before.

use knarr_core::{Map, Value, json};

use super::Dialect;
use super::descriptions::Descriptions;
use crate::types::{self, Field, ListType, Shape, Type};

/// The types with codecs of their own, and what each dialect says of them.
const SPECIAL: [(&str, Shape); 12] = [
    ("apimachinery.pkg.api.resource.Quantity", Shape::Quantity),
    ("apimachinery.pkg.util.intstr.IntOrString", Shape::IntOrString),
    ("apimachinery.pkg.apis.meta.v1.Time", Shape::Time),
    ("apimachinery.pkg.apis.meta.v1.MicroTime", Shape::MicroTime),
    ("apimachinery.pkg.apis.meta.v1.Duration", Shape::Duration),
    ("apimachinery.pkg.runtime.RawExtension", Shape::RawExtension),
    ("apimachinery.pkg.apis.meta.v1.FieldsV1", Shape::FieldsV1),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", Shape::Json),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", Shape::SchemaOrArray),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", Shape::SchemaOrBool),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", Shape::SchemaOrStrings),
    ("apimachinery.pkg.apis.meta.v1.Patch", Shape::TypeMeta),
];

/// Fields of `version.Info`, which is no API type but what `/version` answers; the last four may be absent.
const VERSION_INFO: [&str; 13] = [
    "major",
    "minor",
    "gitVersion",
    "gitCommit",
    "gitTreeState",
    "buildDate",
    "goVersion",
    "compiler",
    "platform",
    "emulationMajor",
    "emulationMinor",
    "minCompatibilityMajor",
    "minCompatibilityMinor",
];

/// Makes definitions for one document and remembers which others they refer to.
pub(super) struct Definitions {
    pub dialect: Dialect,
    /// The document's own group version: kinds that exist in every group version are listed for this one and for core.
    pub own: Option<(String, String)>,
    pub referred: Vec<String>,
    pub texts: Descriptions,
}

impl Definitions {
    pub fn new(dialect: Dialect, own: Option<(String, String)>) -> Self {
        Self { dialect, own, referred: Vec::new(), texts: Descriptions::load() }
    }

    /// A reference to a definition by its full name.
    pub fn reference(&mut self, name: &str) -> Value {
        self.referred.push(name.to_owned());
        let prefix = if self.dialect == Dialect::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({ "$ref": format!("{prefix}{name}") })
    }

    /// The definition with this full name.
    pub fn definition(&mut self, full_name: &str) -> Option<Value> {
        let name = full_name.strip_prefix("io.k8s.")?;
        let mut schema = if let Some((_, shape)) = SPECIAL.iter().find(|(special, _)| *special == name) {
            special(self.dialect, shape)
        } else if name == "apimachinery.pkg.version.Info" {
            version_info(self.dialect)
        } else {
            self.of_type(types::get(types::by_name(name)?))
        };
        if let (Some(text), Some(map)) = (self.texts.of_type(name), schema.as_object_mut()) {
            map.insert("description".to_owned(), text.into());
        }
        Some(schema)
    }

    fn of_type(&mut self, t: &'static Type) -> Value {
        if let Some(alias) = &t.alias {
            return self.of_shape(alias);
        }
        let mut properties = Map::new();
        if t.has_type_meta() {
            for name in ["apiVersion", "kind"] {
                properties.insert(name.to_owned(), described(json!({"type": "string"}), self.texts.of_type_meta(name)));
            }
        }
        let mut required = Vec::new();
        for field in t.json_fields() {
            properties.insert(field.json.to_owned(), self.of_field(t, field));
            if field.required {
                required.push(field.json);
            }
        }
        let mut schema = json!({"type": "object"});
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if t.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(unions) = t.unions {
            schema["x-kubernetes-unions"] = serde_json::from_str(unions).unwrap_or_default();
        }
        let kinds = self.kinds_of(t);
        if !kinds.is_empty() {
            schema["x-kubernetes-group-version-kind"] = kinds.into();
        }
        schema
    }

    /// `x-kubernetes-group-version-kind`.
    fn kinds_of(&self, t: &Type) -> Vec<Value> {
        let published = |k: &types::Kind| !matches!(k.group, "meta.k8s.io" | "metrics.k8s.io" | "apidiscovery.k8s.io");
        let kinds: Vec<types::Kind> = types::kinds().filter(|k| k.type_id == t.id && published(k)).collect();
        let everywhere = kinds.len() > 3;
        kinds
            .into_iter()
            .filter(|k| match &self.own {
                Some((group, version)) if everywhere => (k.group, k.version) == ("", "v1") || (k.group == group && k.version == version),
                _ => true,
            })
            .map(|k| json!({"group": k.group, "version": k.version, "kind": k.kind}))
            .collect()
    }

    fn of_field(&mut self, t: &Type, field: &'static Field) -> Value {
        let mut extras = Map::new();
        let mut add = |key: &str, value: Value| _ = extras.insert(key.to_owned(), value);
        if let Some(list_type) = field.list_type {
            let name = match list_type {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            };
            add("x-kubernetes-list-type", name.into());
        }
        if !field.map_keys.is_empty() {
            add("x-kubernetes-list-map-keys", field.map_keys.into());
        }
        if field.atomic || field.granular {
            add("x-kubernetes-map-type", if field.atomic { "atomic" } else { "granular" }.into());
        }
        for (key, text) in [("x-kubernetes-patch-strategy", field.patch_strategy), ("x-kubernetes-patch-merge-key", field.patch_merge_key)] {
            if !text.is_empty() {
                add(key, text.into());
            }
        }
        if let (Some(default), Dialect::V3) = (field.default, self.dialect) {
            add("default", serde_json::from_str(default).unwrap_or_default());
        }
        if !field.enum_values.is_empty() {
            add("enum", field.enum_values.into());
        }
        let mut schema = self.of_shape(&field.shape);
        self.add_to_items(field, &mut schema);
        let schema = self.extended(schema, extras);
        match self.texts.of_field(t.name, field.json) {
            Some(text) => self.extended(schema, Map::from_iter([("description".to_owned(), text.into())])),
            None => schema,
        }
    }

    fn add_to_items(&self, field: &Field, schema: &mut Value) {
        let key = if matches!(field.shape, Shape::Map(_)) { "additionalProperties" } else { "items" };
        let Some(items) = schema.get_mut(key) else { return };
        let mut extras = Map::new();
        if let (Some(default), Dialect::V3) = (field.item_default, self.dialect) {
            extras.insert("default".to_owned(), serde_json::from_str(default).unwrap_or_default());
        }
        if !field.item_enum_values.is_empty() {
            extras.insert("enum".to_owned(), field.item_enum_values.into());
        }
        *items = self.extended(items.take(), extras);
    }

    /// Adds members to a schema. OpenAPI 3 allows none beside a reference, so it is wrapped there.
    fn extended(&self, mut schema: Value, extras: Map<String, Value>) -> Value {
        if extras.is_empty() {
            return schema;
        }
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
            schema = json!({ "allOf": [schema] });
        }
        if let Value::Object(map) = &mut schema {
            map.extend(extras);
        }
        schema
    }

    fn of_shape(&mut self, shape: &'static Shape) -> Value {
        match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::List(item) => {
                let items = self.of_shape(item);
                json!({"type": "array", "items": items})
            }
            Shape::Map(item) => {
                let values = self.of_shape(item);
                json!({"type": "object", "additionalProperties": values})
            }
            Shape::NamedList(id) => types::get(*id).alias.as_ref().map_or(Value::Null, |alias| self.of_shape(alias)),
            Shape::Struct(id) => self.reference(&format!("io.k8s.{}", types::get(*id).name)),
            other => {
                let name = SPECIAL.iter().find(|(_, special)| special == other).map_or("", |(name, _)| name);
                self.reference(&format!("io.k8s.{name}"))
            }
        }
    }
}

fn described(mut schema: Value, text: Option<String>) -> Value {
    if let Some(text) = text {
        schema["description"] = text.into();
    }
    schema
}

fn version_info(dialect: Dialect) -> Value {
    let (required, optional) = VERSION_INFO.split_at(9);
    let mut properties: Map<String, Value> = optional.iter().map(|f| ((*f).to_owned(), json!({"type": "string"}))).collect();
    let value = if dialect == Dialect::V3 { json!({"type": "string", "default": ""}) } else { json!({"type": "string"}) };
    properties.extend(required.iter().map(|f| ((*f).to_owned(), value.clone())));
    json!({"type": "object", "properties": properties, "required": required})
}

fn special(dialect: Dialect, shape: &Shape) -> Value {
    match (shape, dialect) {
        (Shape::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Shape::IntOrString, Dialect::V3) => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        (Shape::IntOrString, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Shape::Time | Shape::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Shape::Quantity | Shape::Duration, _) => json!({"type": "string"}),
        (Shape::RawExtension | Shape::FieldsV1 | Shape::TypeMeta, _) => json!({"type": "object"}),
        _ => json!({}),
    }
}
