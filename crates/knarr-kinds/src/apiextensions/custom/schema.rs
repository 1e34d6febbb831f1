//! A structural schema, read once from a definition and asked for each object (upstream:
//! `apiextensions-apiserver/pkg/apiserver/schema`). Patterns that cannot be compiled are refused with the definition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use knarr_core::{Value, ValueExt, formats};
use regex::Regex;

/// What `additionalProperties` says.
#[derive(Debug, Default)]
pub enum Additional {
    /// Nothing: other properties are unknown.
    #[default]
    Unsaid,
    /// `true`: they may be anything, and `false`: none may be.
    Any(bool),
    Of(Box<Schema>),
}

/// How a list is merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// One node of a schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; several for int-or-string, none for anything.
    pub types: Vec<String>,
    pub nullable: bool,
    pub preserves_unknown: bool,
    pub is_embedded_resource: bool,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Additional,
    pub items: Option<Box<Schema>>,
    pub default: Option<Value>,
    pub list_type: ListType,
    pub list_map_keys: Vec<String>,
    pub rules: Rules,
}

/// What a value must fulfil beside its type.
#[derive(Debug, Default)]
pub struct Rules {
    pub required: Vec<String>,
    pub enum_values: Vec<Value>,
    /// Empty where the type has no such format.
    pub format: String,
    pub pattern: Option<Pattern>,
    pub maximum: Option<f64>,
    pub minimum: Option<f64>,
    pub exclusive_maximum: bool,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

impl Schema {
    /// Reads `openAPIV3Schema`. Unknown keywords are passed over.
    pub fn new(source: &Value) -> Self {
        let flag = |key: &str| source.bool_at(&[key]) == Some(true);
        let text = |key: &str| source.str_at(&[key]).unwrap_or_default().to_owned();
        let types = match text("type") {
            _ if flag("x-kubernetes-int-or-string") => vec!["integer".into(), "string".into()],
            none if none.is_empty() => Vec::new(),
            one => vec![one],
        };
        let strings = |key: &str| source.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self {
            nullable: flag("nullable"),
            preserves_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            is_embedded_resource: flag("x-kubernetes-embedded-resource"),
            properties: source.at(&["properties"]).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.clone(), Self::new(v))).collect(),
            additional: match source.get("additionalProperties") {
                None | Some(Value::Null) => Additional::Unsaid,
                Some(Value::Bool(allowed)) => Additional::Any(*allowed),
                Some(schema) => Additional::Of(Box::new(Self::new(schema))),
            },
            items: source.at(&["items"]).map(|items| Box::new(Self::new(items))),
            default: source.get("default").filter(|d| !d.is_null()).cloned(),
            list_type: match source.str_at(&["x-kubernetes-list-type"]) {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            list_map_keys: strings("x-kubernetes-list-map-keys"),
            rules: Rules::new(source, &types),
            types,
        }
    }

    /// Whether a default is declared anywhere in it.
    pub fn has_defaults(&self) -> bool {
        let below = match &self.additional {
            Additional::Of(other) => Some(&**other),
            _ => None,
        };
        self.default.is_some() || self.properties.values().chain(below).chain(self.items.as_deref()).any(Self::has_defaults)
    }

    /// The type that the schema names; empty for int-or-string and for anything.
    pub fn type_name(&self) -> &str {
        match &self.types[..] {
            [one] => one,
            _ => "",
        }
    }

    /// The schema of all properties that have none of their own.
    pub fn additional_schema(&self) -> Option<&Schema> {
        match &self.additional {
            Additional::Of(other) => Some(other),
            _ => None,
        }
    }

    /// The schema of an object that any definition without one has: everything goes.
    pub fn anything() -> Self {
        Self { types: vec!["object".into()], preserves_unknown: true, ..Self::default() }
    }
}

impl Rules {
    fn new(source: &Value, types: &[String]) -> Self {
        let number = |key: &str| source.at(&[key]).and_then(Value::as_f64);
        let whole = |key: &str| source.i64_at(&[key]);
        let flag = |key: &str| source.bool_at(&[key]) == Some(true);
        let schemas = |key: &str| source.list_at(&[key]).iter().map(Schema::new).collect();
        Self {
            required: source.list_at(&["required"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            enum_values: source.list_at(&["enum"]).to_vec(),
            format: source.str_at(&["format"]).filter(|f| is_supported_format(f, types)).unwrap_or_default().to_owned(),
            pattern: source.str_at(&["pattern"]).filter(|p| !p.is_empty()).map(Pattern::of),
            maximum: number("maximum"),
            minimum: number("minimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            max_length: whole("maxLength"),
            min_length: whole("minLength"),
            max_items: whole("maxItems"),
            min_items: whole("minItems"),
            unique_items: flag("uniqueItems"),
            max_properties: whole("maxProperties"),
            min_properties: whole("minProperties"),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: source.at(&["not"]).map(|s| Box::new(Schema::new(s))),
        }
    }
}

/// A pattern, compiled when the first value comes, and once for all places that have it: definitions that embed a pod's template repeat one of
/// quantities a hundred times, and each takes more room compiled than all that stands around it.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    text: String,
    regex: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn of(text: &str) -> Self {
        static KNOWN: Mutex<BTreeMap<String, Weak<Compiled>>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = known.get(text).and_then(Weak::upgrade) {
            return Self(compiled);
        }
        known.retain(|_, pattern| pattern.strong_count() > 0);
        let compiled = Arc::new(Compiled { text: text.to_owned(), regex: OnceLock::new() });
        known.insert(text.to_owned(), Arc::downgrade(&compiled));
        Self(compiled)
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Absent for what cannot be compiled.
    pub fn regex(&self) -> Option<&Regex> {
        self.0.regex.get_or_init(|| compile(&self.0.text)).as_ref()
    }
}

/// Largest compiled pattern; the same for which a definition is refused.
const PATTERN_BYTES_MAX: usize = 10 << 20;

fn compile(pattern: &str) -> Option<Regex> {
    let translated = knarr_core::regexp::from_go(pattern).ok()?;
    regex::RegexBuilder::new(&translated).size_limit(PATTERN_BYTES_MAX).build().ok()
}

/// Whether a format means something for a type.
pub fn is_known_format(format: &str, of_type: &str) -> bool {
    is_supported_format(format, &if of_type.is_empty() { Vec::new() } else { vec![of_type.to_owned()] })
}

/// Formats of strings are compared without dashes; those of other types are two each
/// (upstream: `StripUnsupportedFormatsPostProcessorForVersion`).
fn is_supported_format(format: &str, types: &[String]) -> bool {
    match types {
        [one] if one == "integer" => matches!(format, "int32" | "int64"),
        [one] if one == "number" => matches!(format, "float" | "double"),
        [one] if one != "string" => false,
        _ => format.replace('-', "").is_empty() || formats::is_known(format),
    }
}
