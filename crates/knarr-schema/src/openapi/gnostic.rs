//! OpenAPI 2 as gnostic's protobuf (`openapi.v2.Document`), the one form in which client-go fetches it. Numbers of fields
//! follow `OpenAPIv2.proto` of gnostic-models; only what our documents hold is written. Order of fields does not matter
//! to a reader, so each message is written as it comes, from its end.

use knarr_core::{Map, Value};

use crate::codec::wire::Back;

pub(super) fn document(v2: &Value) -> Vec<u8> {
    let mut out = Back::with_capacity(1 << 20);
    text(&mut out, 1, &v2["swagger"]);
    nested(&mut out, 2, |out| {
        text(out, 1, &v2["info"]["title"]);
        text(out, 2, &v2["info"]["version"]);
    });
    nested(&mut out, 8, |out| named(out, 2, &v2["paths"], path_item));
    nested(&mut out, 9, |out| named(out, 1, &v2["definitions"], schema));
    nested(&mut out, 10, |out| named(out, 1, &v2["parameters"], parameter));
    for requirement in items(&v2["security"]) {
        nested(&mut out, 12, |out| named(out, 1, requirement, |out, scopes| texts(out, 1, scopes)));
    }
    nested(&mut out, 13, |out| named(out, 1, &v2["securityDefinitions"], |out, key| nested(out, 2, |out| api_key(out, key))));
    out.into_vec()
}

fn nested(out: &mut Back, number: u32, write: impl FnOnce(&mut Back)) {
    let before = out.len();
    write(out);
    out.close(number, before);
}

/// A map as a list of pairs of name and value.
fn named(out: &mut Back, number: u32, map: &Value, write: impl Fn(&mut Back, &Value)) {
    for (name, value) in map.as_object().into_iter().flatten().rev() {
        nested(out, number, |out| {
            nested(out, 2, |out| write(out, value));
            out.bytes(1, name.as_bytes());
        });
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten().rev()
}

fn text(out: &mut Back, number: u32, value: &Value) {
    if let Some(text) = value.as_str() {
        out.bytes(number, text.as_bytes());
    }
}

fn texts(out: &mut Back, number: u32, list: &Value) {
    items(list).for_each(|value| text(out, number, value));
}

fn boolean(out: &mut Back, number: u32, value: &Value) {
    if value == &Value::Bool(true) {
        out.number(number, 1);
    }
}

fn integer(out: &mut Back, number: u32, value: &Value) {
    if let Some(n) = value.as_i64() {
        out.number(number, n as u64);
    }
}

fn double(out: &mut Back, number: u32, value: &Value) {
    if let Some(x) = value.as_f64() {
        out.raw(&x.to_le_bytes());
        out.tag(number, 1);
    }
}

/// Any value, as YAML, of which JSON is a part.
fn any(out: &mut Back, number: u32, value: &Value) {
    if !value.is_null() {
        nested(out, number, |out| out.bytes(2, value.to_string().as_bytes()));
    }
}

/// Members whose names begin with `x-`.
fn extensions(out: &mut Back, number: u32, of: &Value) {
    for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        nested(out, number, |out| {
            nested(out, 2, |out| out.bytes(2, value.to_string().as_bytes()));
            out.bytes(1, name.as_bytes());
        });
    }
}

fn api_key(out: &mut Back, key: &Value) {
    for (number, name) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
        text(out, number, &key[name]);
    }
}

fn path_item(out: &mut Back, item: &Value) {
    for (number, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")] {
        if item[method].is_object() {
            nested(out, number, |out| operation(out, &item[method]));
        }
    }
    items(&item["parameters"]).for_each(|p| nested(out, 9, |out| parameter_or_reference(out, p)));
}

fn operation(out: &mut Back, operation: &Value) {
    for (number, list) in [(1, "tags"), (6, "produces"), (7, "consumes"), (10, "schemes")] {
        texts(out, number, &operation[list]);
    }
    text(out, 3, &operation["description"]);
    text(out, 5, &operation["operationId"]);
    items(&operation["parameters"]).for_each(|p| nested(out, 8, |out| parameter_or_reference(out, p)));
    nested(out, 9, |out| named(out, 1, &operation["responses"], |out, response| nested(out, 1, |out| answer(out, response))));
    extensions(out, 13, operation);
}

fn answer(out: &mut Back, response: &Value) {
    text(out, 1, &response["description"]);
    if response["schema"].is_object() {
        nested(out, 2, |out| nested(out, 1, |out| schema(out, &response["schema"])));
    }
}

fn parameter_or_reference(out: &mut Back, p: &Value) {
    match p.get("$ref") {
        Some(reference) => nested(out, 2, |out| text(out, 1, reference)),
        None => nested(out, 1, |out| parameter(out, p)),
    }
}

fn parameter(out: &mut Back, p: &Value) {
    if p["in"] == "body" {
        return nested(out, 1, |out| {
            for (number, name) in [(1, "description"), (2, "name"), (3, "in")] {
                text(out, number, &p[name]);
            }
            boolean(out, 4, &p["required"]);
            nested(out, 5, |out| schema(out, &p["schema"]));
        });
    }
    // Parameters in the query count `allowEmptyValue` too, so that their types have other numbers.
    let (place, kind, unique) = if p["in"] == "query" { (3, 6, 20) } else { (4, 5, 19) };
    nested(out, 2, |out| {
        nested(out, place, |out| {
            boolean(out, 1, &p["required"]);
            for (number, name) in [(2, "in"), (3, "description"), (4, "name"), (kind, "type")] {
                text(out, number, &p[name]);
            }
            boolean(out, unique, &p["uniqueItems"]);
        });
    });
}

fn schema(out: &mut Back, schema_: &Value) {
    let Value::Object(map) = schema_ else { return };
    let get = |name: &str| map.get(name).unwrap_or(&Value::Null);
    for (number, name) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description"), (13, "pattern")] {
        text(out, number, get(name));
    }
    for (number, name) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        boolean(out, number, get(name));
    }
    for (number, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        double(out, number, get(name));
    }
    for (number, name) in [(11, "maxLength"), (12, "minLength"), (14, "maxItems"), (15, "minItems"), (17, "maxProperties"), (18, "minProperties")] {
        integer(out, number, get(name));
    }
    any(out, 5, get("default"));
    any(out, 30, get("example"));
    texts(out, 19, get("required"));
    items(get("enum")).for_each(|value| any(out, 20, value));
    nested_schemas(out, map);
    extensions(out, 31, schema_);
}

fn nested_schemas(out: &mut Back, map: &Map<String, Value>) {
    match map.get("additionalProperties") {
        Some(Value::Bool(allowed)) => nested(out, 21, |out| out.number(2, u64::from(*allowed))),
        Some(values) => nested(out, 21, |out| nested(out, 1, |out| schema(out, values))),
        None => {}
    }
    if let Some(kind) = map.get("type") {
        nested(out, 22, |out| text(out, 1, kind));
    }
    if let Some(item) = map.get("items") {
        nested(out, 23, |out| nested(out, 1, |out| schema(out, item)));
    }
    items(map.get("allOf").unwrap_or(&Value::Null)).for_each(|part| nested(out, 24, |out| schema(out, part)));
    if let Some(properties) = map.get("properties") {
        nested(out, 25, |out| named(out, 1, properties, schema));
    }
}
