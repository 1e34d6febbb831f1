//! Parts of a definition as errors show them: upstream prints its internal structures, whose fields have other names, an
//! order, and are all there.

use knarr_core::{Value, ValueExt};

use super::Lifted;

/// How a field is written.
#[derive(Clone, Copy)]
enum Kind {
    /// A text; empty when absent.
    Text,
    /// A flag; false when absent.
    Flag,
    /// Anything; null when absent.
    Plain,
    Schema,
    Schemas,
    SchemaMap,
    /// A schema or a flag.
    SchemaOrBool,
    /// A schema or a list of schemas.
    SchemaOrList,
    Rules,
}

use Kind::{Flag, Plain, Rules, Schema, SchemaMap, SchemaOrBool, SchemaOrList, Schemas, Text};

const SCHEMA: [(&str, &str, Kind); 44] = [
    ("ID", "id", Text),
    ("Schema", "$schema", Text),
    ("Ref", "$ref", Plain),
    ("Description", "description", Text),
    ("Type", "type", Text),
    ("Nullable", "nullable", Flag),
    ("Format", "format", Text),
    ("Title", "title", Text),
    ("Default", "default", Plain),
    ("Maximum", "maximum", Plain),
    ("ExclusiveMaximum", "exclusiveMaximum", Flag),
    ("Minimum", "minimum", Plain),
    ("ExclusiveMinimum", "exclusiveMinimum", Flag),
    ("MaxLength", "maxLength", Plain),
    ("MinLength", "minLength", Plain),
    ("Pattern", "pattern", Text),
    ("MaxItems", "maxItems", Plain),
    ("MinItems", "minItems", Plain),
    ("UniqueItems", "uniqueItems", Flag),
    ("MultipleOf", "multipleOf", Plain),
    ("Enum", "enum", Plain),
    ("MaxProperties", "maxProperties", Plain),
    ("MinProperties", "minProperties", Plain),
    ("Required", "required", Plain),
    ("Items", "items", SchemaOrList),
    ("AllOf", "allOf", Schemas),
    ("OneOf", "oneOf", Schemas),
    ("AnyOf", "anyOf", Schemas),
    ("Not", "not", Schema),
    ("Properties", "properties", SchemaMap),
    ("AdditionalProperties", "additionalProperties", SchemaOrBool),
    ("PatternProperties", "patternProperties", SchemaMap),
    ("Dependencies", "dependencies", Plain),
    ("AdditionalItems", "additionalItems", SchemaOrBool),
    ("Definitions", "definitions", SchemaMap),
    ("ExternalDocs", "externalDocs", Plain),
    ("Example", "example", Plain),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields", Plain),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", Flag),
    ("XIntOrString", "x-kubernetes-int-or-string", Flag),
    ("XListMapKeys", "x-kubernetes-list-map-keys", Plain),
    ("XListType", "x-kubernetes-list-type", Plain),
    ("XMapType", "x-kubernetes-map-type", Plain),
    ("XValidations", "x-kubernetes-validations", Rules),
];

/// A rule.
pub fn rule(rule: &Value) -> String {
    let fields = [
        ("Rule", "rule", Text),
        ("Message", "message", Text),
        ("MessageExpression", "messageExpression", Text),
        ("Reason", "reason", Plain),
        ("FieldPath", "fieldPath", Text),
        ("OptionalOldSelf", "optionalOldSelf", Plain),
    ];
    object(rule, &fields)
}

/// A schema.
pub fn schema(schema: &Value) -> String {
    object(schema, &SCHEMA)
}

fn object(value: &Value, fields: &[(&str, &str, Kind)]) -> String {
    let written: Vec<String> = fields.iter().map(|(name, key, kind)| format!("\"{name}\":{}", field(value.get(key), *kind))).collect();
    format!("{{{}}}", written.join(","))
}

fn list(value: &Value, one: impl Fn(&Value) -> String) -> String {
    let items: Vec<String> = value.as_array().into_iter().flatten().map(one).collect();
    format!("[{}]", items.join(","))
}

fn field(value: Option<&Value>, kind: Kind) -> String {
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return match kind {
            Text => "\"\"".into(),
            Flag => "false".into(),
            _ => "null".into(),
        };
    };
    match kind {
        Text | Flag | Plain => value.to_string(),
        Schema => schema(value),
        Schemas => list(value, schema),
        Rules => list(value, rule),
        SchemaMap => {
            let entries: Vec<String> = value.as_object().into_iter().flatten().map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), schema(v))).collect();
            format!("{{{}}}", entries.join(","))
        }
        SchemaOrBool => match value.as_bool() {
            Some(allows) => format!("{{\"Allows\":{allows},\"Schema\":null}}"),
            None => format!("{{\"Allows\":true,\"Schema\":{}}}", schema(value)),
        },
        SchemaOrList if value.is_array() => format!("{{\"Schema\":null,\"JSONSchemas\":{}}}", list(value, schema)),
        SchemaOrList => format!("{{\"Schema\":{},\"JSONSchemas\":null}}", schema(value)),
    }
}

/// The versions, without what stands at the top.
pub fn versions(versions: &[&Value], lifted: &Lifted) -> String {
    let one = |version: &&Value| {
        let part = |key: &str, is_lifted: bool| version.get(key).filter(|v| !is_lifted && !v.is_null());
        let of_schema = part("schema", lifted.schema).map_or("null".into(), |s| format!("{{\"OpenAPIV3Schema\":{}}}", field(s.get("openAPIV3Schema"), Schema)));
        let of_subresources = part("subresources", lifted.subresources).map_or("null".into(), subresources);
        let columns = part("additionalPrinterColumns", lifted.columns).map_or("null".into(), |c| list(c, column));
        let selectable = part("selectableFields", lifted.selectable).map_or("null".into(), |f| list(f, |f| object(f, &[("JSONPath", "jsonPath", Text)])));
        let head = [
            ("Name", "name", Text),
            ("Served", "served", Flag),
            ("Storage", "storage", Flag),
            ("Deprecated", "deprecated", Flag),
            ("DeprecationWarning", "deprecationWarning", Plain),
        ];
        let head = object(version, &head);
        format!(
            "{},\"Schema\":{of_schema},\"Subresources\":{of_subresources},\"AdditionalPrinterColumns\":{columns},\"SelectableFields\":{selectable}}}",
            head.trim_end_matches('}')
        )
    };
    format!("[{}]", versions.iter().map(one).collect::<Vec<_>>().join(","))
}

fn subresources(value: &Value) -> String {
    let status = if value.at(&["status"]).is_some() { "{}" } else { "null" };
    let scale =
        [("SpecReplicasPath", "specReplicasPath", Text), ("StatusReplicasPath", "statusReplicasPath", Text), ("LabelSelectorPath", "labelSelectorPath", Plain)];
    let scale = value.at(&["scale"]).map_or("null".into(), |s| object(s, &scale));
    format!("{{\"Status\":{status},\"Scale\":{scale}}}")
}

fn column(value: &Value) -> String {
    let fields = [
        ("Name", "name", Text),
        ("Type", "type", Text),
        ("Format", "format", Text),
        ("Description", "description", Text),
        ("Priority", "priority", Plain),
        ("JSONPath", "jsonPath", Text),
    ];
    object(value, &fields).replace("\"Priority\":null", "\"Priority\":0")
}
