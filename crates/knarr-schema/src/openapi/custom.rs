//! Definitions of custom resources: the schema of their CustomResourceDefinition with what every object has. OpenAPI 2
//! cannot say all of it, and kubectl stumbles over some of what it can; so it gets less
//! (`k8s.io/apiextensions-apiserver/pkg/controller/openapi/{builder,v2}`).

use knarr_core::{Map, Value, json};

use super::Dialect;
use super::schema::Definitions;
use crate::registry::{Custom, Registry, Resource};

const CONVENTIONS: &str = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
/// Keywords that OpenAPI 2 has not.
const NOT_IN_V2: [&str; 5] = ["allOf", "oneOf", "anyOf", "not", "nullable"];

/// `com.example.stable.v1.CronTab`.
pub(super) fn definition_name(resource: &Resource, kind: &str) -> String {
    let reversed: Vec<&str> = resource.group.split('.').rev().collect();
    format!("{}.{}.{kind}", reversed.join("."), resource.version)
}

/// The definition of a custom resource or of its list, by its full name.
pub(super) fn definition(definitions: &mut Definitions, registry: &Registry, name: &str) -> Option<Value> {
    registry.all().iter().find_map(|resource| {
        let custom = resource.custom.as_ref()?;
        if name == definition_name(resource, &resource.kind) {
            return Some(object(definitions, resource, custom));
        }
        (name == definition_name(resource, &resource.list_kind)).then(|| list(definitions, resource))
    })
}

fn kind_of(resource: &Resource, kind: &str) -> Value {
    json!([{"group": resource.group, "version": resource.version, "kind": kind}])
}

fn selectable(schema: &mut Value, resource: &Resource) {
    let fields = resource.custom.as_ref().map_or(&[][..], |c| &c.selectable_fields);
    if !fields.is_empty() {
        schema["x-kubernetes-selectable-fields"] = fields.iter().map(|path| json!({ "fieldPath": path })).collect();
    }
}

fn object(definitions: &mut Definitions, resource: &Resource, custom: &Custom) -> Value {
    let v2 = definitions.dialect == Dialect::V2;
    let source = custom.schema.whole();
    let open = custom.preserve_unknown_fields || source["x-kubernetes-preserve-unknown-fields"] == true;
    // Without a schema kubectl would take the three fields of every object for all there are.
    let mut schema = if !source.is_object() || (v2 && open) {
        json!({"type": "object"})
    } else {
        let mut schema = source;
        unfold(&mut schema);
        if v2 {
            reduce(&mut schema);
        }
        embed(&mut schema, definitions);
        add_object_fields(&mut schema, definitions);
        schema
    };
    schema["x-kubernetes-group-version-kind"] = kind_of(resource, &resource.kind);
    selectable(&mut schema, resource);
    schema
}

fn list(definitions: &mut Definitions, resource: &Resource) -> Value {
    let item = definitions.reference(&definition_name(resource, &resource.kind));
    let meta = metadata(definitions, "ListMeta", &format!("Standard list metadata. More info: {CONVENTIONS}#types-kinds"));
    let items = json!({"type": "array", "description": format!("List of {}. More info: {CONVENTIONS}", resource.plural), "items": item});
    let mut schema = json!({
        "type": "object",
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "required": ["items"],
        "properties": {"apiVersion": type_meta(definitions, "apiVersion"), "kind": type_meta(definitions, "kind"), "items": items, "metadata": meta},
        "x-kubernetes-group-version-kind": kind_of(resource, &resource.list_kind),
    });
    selectable(&mut schema, resource);
    schema
}

fn type_meta(definitions: &Definitions, name: &str) -> Value {
    let mut schema = json!({"type": "string"});
    if let Some(text) = definitions.texts.of_type_meta(name) {
        schema["description"] = text.into();
    }
    schema
}

/// A reference with a text of its own, which OpenAPI 3 allows only around it.
fn metadata(definitions: &mut Definitions, name: &str, text: &str) -> Value {
    let mut schema = definitions.reference(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
    if definitions.dialect == Dialect::V3 {
        schema = json!({ "allOf": [schema] });
    }
    schema["description"] = text.into();
    schema
}

fn add_object_fields(schema: &mut Value, definitions: &mut Definitions) {
    let meta = metadata(definitions, "ObjectMeta", &format!("Standard object's metadata. More info: {CONVENTIONS}#metadata"));
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    for (name, property) in [("apiVersion", type_meta(definitions, "apiVersion")), ("kind", type_meta(definitions, "kind")), ("metadata", meta)] {
        schema["properties"][name] = property;
    }
}

/// The schemas directly inside a schema.
fn inner(schema: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    schema.iter_mut().flat_map(|(key, value)| -> Box<dyn Iterator<Item = &mut Value>> {
        match (key.as_str(), value) {
            ("properties", Value::Object(map)) => Box::new(map.values_mut()),
            ("items" | "additionalProperties", value @ Value::Object(_)) => Box::new(std::iter::once(value)),
            _ => Box::new(std::iter::empty()),
        }
    })
}

/// Says in plain keywords what `x-kubernetes-int-or-string` means (`Structural.Unfold`).
fn unfold(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) && !map.contains_key("anyOf") && !map.contains_key("allOf") {
        map.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    inner(map).for_each(unfold);
}

/// Leaves out what OpenAPI 2 or kubectl cannot take.
fn reduce(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    let nullable = map.get("nullable") == Some(&Value::Bool(true));
    let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    map.retain(|key, _| !NOT_IN_V2.contains(&key.as_str()) && !(nullable && key == "type"));
    if nullable || open {
        map.retain(|key, _| key != "items" && key != "properties");
    }
    require_only(map);
    let of_type = |map: &Map<String, Value>, name: &str| map.get("type").is_some_and(|t| t == name);
    if (of_type(map, "array") && !map.contains_key("items")) || (open && of_type(map, "object")) {
        map.remove("type");
    }
    inner(map).for_each(reduce);
}

/// A client that does not know `null` cannot be asked for a field that may be null.
fn require_only(map: &mut Map<String, Value>) {
    let may_be_null = |schema: &Value| schema["nullable"] == true;
    let nullable: Vec<String> = match map.get("properties") {
        Some(Value::Object(properties)) => properties.iter().filter(|(_, schema)| may_be_null(schema)).map(|(name, _)| name.clone()).collect(),
        _ => Vec::new(),
    };
    let all = map.get("additionalProperties").is_some_and(may_be_null);
    let Some(Value::Array(required)) = map.get_mut("required") else { return };
    required.retain(|name| !all && !nullable.iter().any(|n| name == n));
    if required.is_empty() {
        map.remove("required");
    }
}

/// Gives embedded resources the fields of every object.
fn embed(schema: &mut Value, definitions: &mut Definitions) {
    let Value::Object(map) = schema else { return };
    for value in inner(map) {
        embed(value, definitions);
    }
    let is = |key: &str| map.get(key) == Some(&Value::Bool(true));
    if !is("x-kubernetes-embedded-resource") || (definitions.dialect == Dialect::V2 && is("x-kubernetes-preserve-unknown-fields")) {
        return;
    }
    add_object_fields(schema, definitions);
    let mut required: Vec<Value> = schema["required"].as_array().cloned().unwrap_or_default();
    for name in ["kind", "apiVersion"] {
        if !required.iter().any(|r| r == name) {
            required.push(name.into());
        }
    }
    schema["required"] = required.into();
}
