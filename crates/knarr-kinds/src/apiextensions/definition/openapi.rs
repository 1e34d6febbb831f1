//! The schema of a version: what OpenAPI allows and Kubernetes does not, list and map types, and the rules in CEL
//! (upstream: `ValidateCustomResourceDefinitionOpenAPISchema`).

use knarr_core::{Value, ValueExt, field::ErrorList};

use super::{
    Lenient, defaults,
    rules::{self, Node, Total},
    shown, structural,
};
use crate::{at::At, tree::is_zero};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const KEEPS_UNKNOWN: &str = "x-kubernetes-preserve-unknown-fields";

/// What may stand at the root of the schema of a kind whose status is a subresource, as upstream names it and as it is called.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", KEEPS_UNKNOWN),
    ("XValidations", "x-kubernetes-validations"),
];

fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema.str_at(&[key]).unwrap_or_default()
}

/// Whether a schema uses what Kubernetes added to OpenAPI.
pub fn is_extended(schema: &Value) -> bool {
    let flag = |key: &str| schema.bool_at(&[key]) == Some(true);
    flag("x-kubernetes-embedded-resource")
        || schema.at(&[KEEPS_UNKNOWN]).is_some()
        || flag("x-kubernetes-int-or-string")
        || !schema.list_at(&[LIST_KEYS]).is_empty()
        || schema.at(&[LIST_TYPE]).is_some()
        || !schema.list_at(&["x-kubernetes-validations"]).is_empty()
}

pub fn has_unknown_type(schema: &Value) -> bool {
    let name = text(schema, "type");
    !name.is_empty() && !TYPES.contains(&name)
}

/// A set of things that can be equal in part.
pub fn is_compound_set(schema: &Value) -> bool {
    let Some(items) = schema.at(&["items"]).filter(|_| text(schema, LIST_TYPE) == "set") else { return false };
    match text(items, "type") {
        "array" => items.at(&[LIST_TYPE]).is_some() && text(items, LIST_TYPE) != "atomic",
        "object" => text(items, MAP_TYPE) != "atomic",
        _ => false,
    }
}

/// A list whose keys may be missing.
pub fn has_loose_keys(schema: &Value) -> bool {
    let mut errors = ErrorList::new();
    list_keys(&At::root(schema), &mut errors);
    !errors.is_empty()
}

/// Validates `schema`, an object with `openAPIV3Schema`.
pub fn validate(outer: &At, has_status: bool, version: &str, lenient: &Lenient, e: &mut ErrorList) {
    let schema = outer.get("openAPIV3Schema");
    let Some(source) = schema.value() else { return };
    let mut errors = ErrorList::new();
    if has_status {
        root_with_status(outer, &schema, source, &mut errors);
    }
    if schema.get("nullable").bool() {
        errors.push(outer.get("openAPIV3Schema.nullable").forbidden("nullable cannot be true at the root"));
    }
    let mut unsupported = None;
    let mut with_rules = false;
    if !lenient.structure {
        unsupported = structural::unsupported(source);
        if unsupported.is_none() {
            let mut found = structural::validate(&schema);
            if found.is_empty() {
                found = defaults::validate(&schema, !lenient.unpruned_defaults);
            }
            with_rules = found.is_empty();
            errors.extend(found);
        }
    }
    let costs_may_stay = lenient.same_schema.iter().any(|v| v == version);
    let mut walk = Walk { lenient, costs_may_stay, total: Total::default() };
    let node = with_rules.then(|| Node::root(source));
    let found = walk.schema(&schema, Inside::default(), true, node.as_ref());
    errors.extend(found.schema);
    errors.extend(found.rules);
    if let (true, Some(why)) = (errors.is_empty(), unsupported) {
        errors.push(schema.invalid_as("", why));
    }
    walk.total.errors(&schema.path(), &mut errors);
    e.extend(errors);
}

fn root_with_status(outer: &At, schema: &At, source: &Value, e: &mut ErrorList) {
    let kind = outer.get("openAPIV3Schema.type");
    if text(source, "type") != "object" && !text(source, "type").is_empty() {
        return e.push(
            kind.invalid_as(text(source, "type"), "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled"),
        );
    }
    let set = source.as_object().into_iter().flatten().filter(|(_, v)| !is_zero(v));
    if set.into_iter().any(|(key, _)| !AT_ROOT.iter().any(|(_, allowed)| allowed == key)) {
        let names: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
        let why = format!("only [{}] fields are allowed at the root of the schema if the status subresource is enabled", names.join(" "));
        e.push(schema.invalid(why).showing(shown::schema(source)));
    }
}

/// What holds for a place because of what stands above it.
#[derive(Clone, Copy, Default)]
struct Inside<'p> {
    /// Why there may be no defaults.
    no_defaults: Option<&'p str>,
    /// In the metadata, kind or apiVersion of a resource.
    meta: bool,
    /// The list or map from where on old and new cannot be told to be the same.
    uncorrelated: Option<&'p str>,
}

#[derive(Default)]
struct Found {
    schema: ErrorList,
    rules: ErrorList,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.schema.extend(other.schema);
        self.rules.extend(other.rules);
    }
}

struct Walk<'o> {
    lenient: &'o Lenient,
    costs_may_stay: bool,
    total: Total,
}

impl Walk<'_> {
    fn schema(&mut self, at: &At, inside: Inside<'_>, is_root: bool, node: Option<&Node<'_>>) -> Found {
        let Some(schema) = at.value() else { return Found::default() };
        let mut found = Found::default();
        self.standard(at, inside, &mut found.schema);
        if at.get("uniqueItems").bool() {
            found.schema.push(at.get("uniqueItems").forbidden("uniqueItems cannot be set to true since the runtime complexity becomes quadratic"));
        }
        self.additional(at, inside, node, &mut found);
        self.properties(at, inside, is_root, node, &mut found);
        for key in ["not", "allOf", "oneOf", "anyOf", "definitions"] {
            let place = at.get(key);
            match place.value() {
                Some(Value::Array(_)) => place.items().for_each(|s| found.add(self.schema(&s, inside, false, None))),
                Some(Value::Object(_)) if key == "definitions" => place.entries().for_each(|(_, s)| found.add(self.schema(&s, inside, false, None))),
                _ => found.add(self.schema(&place, inside, false, None)),
            }
        }
        self.items(at, inside, node, &mut found);
        types(at, &mut found.schema);
        if !self.lenient.compound_sets {
            compound_set(at, &mut found.schema);
        }
        map_list(at, &mut found.schema);
        if !self.lenient.list_keys {
            list_keys(at, &mut found.schema);
        }
        rules::form(at, schema, &mut found.schema);
        // With a broken schema the errors of rules would not help.
        if let (true, Some(node)) = (found.schema.is_empty(), node) {
            rules::check(at, schema, node, inside.uncorrelated, self.costs_may_stay, &mut self.total, &mut found.rules);
        }
        found
    }

    fn additional(&mut self, at: &At, inside: Inside<'_>, node: Option<&Node<'_>>, found: &mut Found) {
        let additional = at.get("additionalProperties");
        if !additional.is_set() {
            return;
        }
        let allows_any = additional.value().and_then(Value::as_bool) == Some(true);
        if at.get("properties").len() > 0 && !allows_any {
            found.schema.push(additional.forbidden("additionalProperties and properties are mutual exclusive"));
        }
        if !additional.value().is_some_and(Value::is_object) {
            return;
        }
        // Which default would be meant, nobody could say.
        let reason = inside.meta.then_some("inside additionalProperties applying to object metadata");
        let inside = Inside { no_defaults: reason.or(inside.no_defaults), ..inside };
        let below = node.and_then(|n| additional.value().map(|s| n.additional(s)));
        found.add(self.schema(&additional, inside, false, below.as_ref()));
    }

    fn properties(&mut self, at: &At, inside: Inside<'_>, is_root: bool, node: Option<&Node<'_>>, found: &mut Found) {
        let properties = at.get("properties");
        let is_resource = is_root || at.get("x-kubernetes-embedded-resource").bool();
        for (name, property) in properties.entries() {
            let is_meta = is_resource && matches!(name, "metadata" | "kind" | "apiVersion");
            let reason = format!("in top-level {name}");
            let inside = Inside { meta: inside.meta || is_meta, no_defaults: if is_meta && is_root { Some(&reason) } else { inside.no_defaults }, ..inside };
            let below = node.and_then(|n| property.value().map(|s| n.property(name, s)));
            found.add(self.schema(&property, inside, false, below.as_ref()));
        }
    }

    fn items(&mut self, at: &At, inside: Inside<'_>, node: Option<&Node<'_>>, found: &mut Found) {
        let items = at.get("items");
        if !items.is_set() {
            return;
        }
        let here = at.path().to_string();
        let is_map = at.str_of(LIST_TYPE) == "map";
        let inside = Inside { uncorrelated: inside.uncorrelated.or((!is_map).then_some(here.as_str())), ..inside };
        if items.value().is_some_and(Value::is_array) {
            items.items().for_each(|s| found.add(self.schema(&s, inside, false, None)));
            return;
        }
        let below = node.and_then(|n| items.value().map(|s| n.items(s)));
        found.add(self.schema(&items, inside, false, below.as_ref()));
    }

    /// Keywords that there are in OpenAPI and not in Kubernetes (upstream: `specStandardValidatorV3`).
    fn standard(&self, at: &At, inside: Inside<'_>, e: &mut ErrorList) {
        let kind = at.get("type");
        if !self.lenient.types && !kind.str().is_empty() && !TYPES.contains(&kind.str()) {
            e.push(kind.not_supported(&TYPES));
        }
        if let (Some(reason), true) = (inside.no_defaults, at.get("default").is_set()) {
            e.push(at.get("default").forbidden(format!("must not be set {reason}")));
        }
        for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
            let place = at.get(key);
            let used = if matches!(key, "id" | "patternProperties" | "definitions") { !place.is_empty() } else { place.is_set() };
            if used {
                e.push(place.forbidden(format!("{key} is not supported")));
            }
        }
        if kind.str() == "null" {
            e.push(kind.forbidden("type cannot be set to null, use nullable as an alternative"));
        }
        if at.get("items").value().is_some_and(|i| i.as_array().is_some_and(|list| !list.is_empty())) {
            e.push(at.get("items").forbidden("items must be a schema object and not an array"));
        }
        let embedded = at.get("x-kubernetes-embedded-resource");
        if inside.meta && embedded.bool() {
            e.push(embedded.forbidden("must not be used inside of resource meta"));
        }
    }
}

fn types(at: &At, e: &mut ErrorList) {
    let keeps = at.get(KEEPS_UNKNOWN);
    if keeps.is_set() && !keeps.bool() {
        e.push(keeps.invalid("must be true or undefined"));
    }
    let kind = at.get("type");
    let mut of_type = |key: &str, wanted: &str, allowed: &[&str]| {
        let place = at.get(key);
        if !place.is_set() {
            return;
        }
        if kind.str() != wanted {
            let why = format!("must be {wanted} if {key} is specified");
            e.push(if kind.is_empty() { kind.required(&why) } else { kind.invalid(why) });
        }
        if !allowed.contains(&place.str()) {
            e.push(place.not_supported(allowed));
        }
    };
    of_type(MAP_TYPE, "object", &["atomic", "granular"]);
    of_type(LIST_TYPE, "array", &["atomic", "set", "map"]);
}

fn compound_set(at: &At, e: &mut ErrorList) {
    if at.str_of("type") != "array" || !at.value().is_some_and(is_compound_set) {
        return;
    }
    let items = at.get("items");
    let key = if items.str_of("type") == "array" { LIST_TYPE } else { MAP_TYPE };
    // The value that is shown is that of the list type in both cases.
    let value = items.get(LIST_TYPE).value().cloned().unwrap_or(Value::Null);
    e.push(items.get(key).invalid_as(value, "must be atomic as item of a list with x-kubernetes-list-type=set"));
}

fn map_list(at: &At, e: &mut ErrorList) {
    let (list_type, keys, items) = (at.get(LIST_TYPE), at.get(LIST_KEYS), at.get("items"));
    if keys.len() > 0 && list_type.str() != "map" {
        const WHY: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        e.push(if list_type.is_set() { list_type.invalid(WHY) } else { list_type.required(WHY) });
    }
    if list_type.str() != "map" {
        return;
    }
    if keys.len() == 0 {
        e.push(keys.required("must not be empty if x-kubernetes-list-type is map"));
    }
    if !items.is_set() {
        return e.push(items.required("must have a schema if x-kubernetes-list-type is map"));
    }
    if items.str_of("type") != "object" {
        return e.push(items.get("type").invalid_as(items.str_of("type"), "must be object if parent array's x-kubernetes-list-type is map"));
    }
    let mut seen: Vec<&str> = Vec::new();
    let properties = items.get("properties");
    for key in keys.strings() {
        let property = properties.key(key);
        if !property.is_set() {
            e.push(keys.invalid("entries must all be names of item properties"));
        } else if matches!(property.str_of("type"), "array" | "object") {
            e.push(property.get("type").invalid_as(items.str_of("type"), "must be a scalar type if parent array's x-kubernetes-list-type is map"));
        }
        if seen.contains(&key) {
            e.push(keys.invalid("must not contain duplicate entries"));
        }
        seen.push(key);
    }
}

/// Items of sets and maps are never null, and keys are always there.
fn list_keys(at: &At, e: &mut ErrorList) {
    let (list_type, items) = (at.str_of(LIST_TYPE), at.get("items"));
    if !matches!(list_type, "set" | "map") || !items.value().is_some_and(Value::is_object) {
        return;
    }
    if items.get("nullable").bool() {
        e.push(items.get("nullable").forbidden(format!("cannot be nullable when x-kubernetes-list-type is {list_type}")));
    }
    if list_type != "map" {
        return;
    }
    let (required, properties) = (items.get("required"), items.get("properties"));
    for key in at.get(LIST_KEYS).strings() {
        let property = properties.key(key);
        if !property.is_set() {
            continue;
        }
        let default = property.get("default");
        if !default.is_set() && !required.strings().any(|r| r == key) {
            e.push(default.required("this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"));
        }
        let nullable = property.get("nullable");
        if nullable.bool() {
            e.push(nullable.forbidden("this property is in x-kubernetes-list-map-keys, so it cannot be nullable"));
        }
    }
}
