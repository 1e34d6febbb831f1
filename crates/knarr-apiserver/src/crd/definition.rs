//! From a CustomResourceDefinition to lines of the registry.

use std::sync::Arc;

use knarr_core::{Value, ValueExt};
use knarr_schema::registry::{Column, Custom, CustomSchema, Resource, Subresource};

/// As discovery lists them.
const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const NAME_DESCRIPTION: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const AGE_DESCRIPTION: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The condition of this type, if it is there.
pub fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    definition.list_at(&["status", "conditions"]).iter().find(|c| c.str_at(&["type"]) == Some(kind))
}

pub fn is_true(definition: &Value, kind: &str) -> bool {
    condition(definition, kind).is_some_and(|c| c.str_at(&["status"]) == Some("True"))
}

pub fn is_terminating(definition: &Value) -> bool {
    definition.at(&["metadata", "deletionTimestamp"]).is_some() || is_true(definition, "Terminating")
}

/// The served versions of a definition.
pub fn resources(definition: &Value) -> Vec<Resource> {
    let versions = definition.list_at(&["spec", "versions"]);
    let storage = versions.iter().find(|v| v.bool_at(&["storage"]) == Some(true)).and_then(|v| v.str_at(&["name"])).unwrap_or_default();
    versions.iter().filter(|v| v.bool_at(&["served"]) == Some(true)).map(|v| resource(definition, v, storage)).collect()
}

fn resource(definition: &Value, version: &Value, storage: &str) -> Resource {
    let text = |path: &[&str]| definition.str_at(path).unwrap_or_default().to_owned();
    let names = |path: &[&str]| definition.list_at(path).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let group = text(&["spec", "group"]);
    let kind = text(&["status", "acceptedNames", "kind"]);
    let selectable: Vec<String> =
        version.list_at(&["selectableFields"]).iter().filter_map(|f| f.str_at(&["jsonPath"])).map(|p| p.trim_start_matches('.').to_owned()).collect();
    let mut fields = vec!["metadata.name".to_owned(), "metadata.namespace".to_owned()];
    fields.extend(selectable.iter().cloned());
    Resource {
        version: version.str_at(&["name"]).unwrap_or_default().to_owned(),
        plural: text(&["status", "acceptedNames", "plural"]),
        singular: text(&["status", "acceptedNames", "singular"]),
        list_kind: text(&["status", "acceptedNames", "listKind"]),
        namespaced: definition.str_at(&["spec", "scope"]) == Some("Namespaced"),
        verbs: VERBS.map(str::to_owned).to_vec(),
        short_names: names(&["status", "acceptedNames", "shortNames"]),
        categories: names(&["status", "acceptedNames", "categories"]),
        subresources: subresources(version, &kind),
        columns: columns(version),
        selectable_fields: fields,
        storage: (group.clone(), storage.to_owned()),
        type_id: None,
        deprecated: None,
        lenient: false,
        custom: Some(Arc::new(custom(definition, version, selectable))),
        group,
        kind,
    }
}

fn subresources(version: &Value, kind: &str) -> Vec<Subresource> {
    let has = |name: &str| version.at(&["subresources"]).and_then(|s| s.get(name)).is_some_and(|s| !s.is_null());
    let make = |name: &str, kind: &str, response: Option<(String, String)>| Subresource {
        name: name.to_owned(),
        kind: kind.to_owned(),
        verbs: ["get", "patch", "update"].map(str::to_owned).to_vec(),
        response,
        // A scale is shown by the columns of the resource.
        columns: Vec::new(),
    };
    let status = has("status").then(|| make("status", kind, None));
    let scale = has("scale").then(|| make("scale", "Scale", Some(("autoscaling".into(), "v1".into()))));
    status.into_iter().chain(scale).collect()
}

fn custom(definition: &Value, version: &Value, selectable_fields: Vec<String>) -> Custom {
    let scale = version.at(&["subresources", "scale"]).map(|scale| {
        let path = |key: &str| scale.str_at(&[key]).map(str::to_owned);
        (path("specReplicasPath").unwrap_or_default(), path("statusReplicasPath").unwrap_or_default(), path("labelSelectorPath"))
    });
    Custom {
        definition: definition.str_at(&["metadata", "name"]).unwrap_or_default().to_owned(),
        schema: Arc::new(CustomSchema::from(version.at(&["schema", "openAPIV3Schema"]).unwrap_or(&Value::Null))),
        selectable_fields,
        status_subresource: version.at(&["subresources", "status"]).is_some(),
        scale,
        preserve_unknown_fields: definition.bool_at(&["spec", "preserveUnknownFields"]) == Some(true),
    }
}

fn columns(version: &Value) -> Vec<Column> {
    let name =
        Column { name: "Name".into(), column_type: "string".into(), format: "name".into(), description: NAME_DESCRIPTION.into(), priority: 0, json_path: None };
    let age = Column {
        name: "Age".into(),
        column_type: "date".into(),
        format: String::new(),
        description: AGE_DESCRIPTION.into(),
        priority: 0,
        json_path: Some(".metadata.creationTimestamp".into()),
    };
    let listed = version.list_at(&["additionalPrinterColumns"]).iter().map(column);
    let mut columns: Vec<Column> = std::iter::once(name).chain(listed).collect();
    if columns.len() == 1 {
        columns.push(age);
    }
    columns
}

fn column(source: &Value) -> Column {
    let text = |key: &str| source.str_at(&[key]).unwrap_or_default().to_owned();
    let name = text("name");
    let description = match text("description") {
        none if none.is_empty() => format!("Custom resource definition column (in JSONPath format): {}", text("jsonPath")),
        some => some,
    };
    Column {
        name,
        column_type: text("type"),
        format: text("format"),
        description,
        priority: source.i64_at(&["priority"]).and_then(|p| i32::try_from(p).ok()).unwrap_or(0),
        json_path: Some(text("jsonPath")),
    }
}
