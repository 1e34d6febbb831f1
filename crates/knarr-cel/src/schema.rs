//! Schemas as expressions see them: the type of each node, how its JSON is read, and how large it may get
//! (upstream: `apiserver/pkg/cel/common/schemas.go`, `types.go` and `escaping.go`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::Value as Json;

use crate::{
    env::TypeProvider,
    parser::is_reserved,
    types::{self, Type},
    value::{Semantics, Text},
};

/// The largest request, in bytes; all sizes that nothing else bounds follow from it.
pub const REQUEST_BYTES_MAX: i64 = 3 * 1024 * 1024;
/// The longest name of an object.
const NAME_MAX: i64 = 253;

#[derive(Debug)]
pub enum DeclKind {
    /// Not known to expressions: read as plain JSON.
    Unknown,
    IntOrString,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Duration,
    Date,
    DateTime,
    List {
        items: Arc<Decl>,
        semantics: ListSemantics,
    },
    Map(Arc<Decl>),
    Object {
        fields: BTreeMap<String, Field>,
        escaped: HashMap<String, String>,
    },
}

/// `x-kubernetes-list-type`.
#[derive(Debug)]
pub enum ListSemantics {
    Atomic,
    Set,
    Map(Vec<String>),
}

impl ListSemantics {
    pub fn borrowed(&self) -> Semantics<'_> {
        match self {
            Self::Atomic => Semantics::Atomic,
            Self::Set => Semantics::Set,
            Self::Map(keys) => Semantics::Map(keys),
        }
    }
}

#[derive(Debug)]
pub struct Field {
    pub decl: Arc<Decl>,
    /// The name in expressions; none where it cannot be written.
    pub escaped: Option<String>,
}

/// One node.
#[derive(Debug)]
pub struct Decl {
    pub kind: DeclKind,
    /// None: expressions cannot name it.
    pub ty: Option<Type>,
    pub nullable: bool,
    /// Most characters, items or properties it can have; none for values of one size.
    pub max_elements: Option<u64>,
    /// Least bytes as JSON.
    pub min_size: i64,
}

impl Decl {
    fn new(kind: DeclKind, ty: Type, min_size: i64, max_elements: Option<i64>) -> Self {
        Self { kind, ty: Some(ty), nullable: false, min_size, max_elements: max_elements.map(|n| n.max(0).unsigned_abs()) }
    }

    fn unknown() -> Self {
        Self { kind: DeclKind::Unknown, ty: None, nullable: true, max_elements: None, min_size: 0 }
    }

    /// The name in the data of a name in an expression.
    pub fn json_name<'n>(&'n self, name: &'n str) -> &'n str {
        match &self.kind {
            DeclKind::Object { escaped, .. } => escaped.get(name).map_or(name, String::as_str),
            _ => name,
        }
    }

    pub fn of_json_name(&self, name: &str) -> Option<&Decl> {
        match &self.kind {
            DeclKind::Object { fields, .. } => fields.get(name).map(|f| &*f.decl),
            DeclKind::Map(of) => Some(of),
            _ => None,
        }
    }

    /// The name in expressions of a property.
    pub fn name_of<'a>(&'a self, json_name: &'a str) -> Text<'a> {
        match &self.kind {
            DeclKind::Object { fields, .. } => Text::Borrowed(fields.get(json_name).and_then(|f| f.escaped.as_deref()).unwrap_or(json_name)),
            _ => Text::Borrowed(json_name),
        }
    }

    pub fn items(&self) -> Option<&Decl> {
        match &self.kind {
            DeclKind::List { items, .. } => Some(items),
            _ => None,
        }
    }

    /// All object types in it, for the checker.
    pub fn collect(&self, into: &mut Types) {
        match &self.kind {
            DeclKind::List { items, .. } => items.collect(into),
            DeclKind::Map(of) => of.collect(into),
            DeclKind::Object { fields, .. } => {
                if let Some(Type::Struct(name)) = &self.ty {
                    let exposed = fields.values().filter_map(|f| Some((f.escaped.clone()?, f.decl.ty.clone()?)));
                    into.0.insert(name.to_string(), exposed.collect());
                }
                fields.values().for_each(|f| f.decl.collect(into));
            }
            _ => {}
        }
    }
}

/// Object types by name, each with its fields.
#[derive(Debug, Default)]
pub struct Types(pub HashMap<String, BTreeMap<String, Type>>);

impl Types {
    /// The object types of some schemas.
    pub fn of<'a>(decls: impl IntoIterator<Item = &'a Decl>) -> Self {
        let mut types = Self::default();
        decls.into_iter().for_each(|d| d.collect(&mut types));
        types
    }
}

impl TypeProvider for Types {
    fn has_type(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn field(&self, type_name: &str, field: &str) -> Option<Type> {
        let fields = self.0.get(type_name)?;
        fields.get(field).or_else(|| is_reserved(field).then(|| fields.get(&format!("__{field}__"))).flatten()).cloned()
    }
}

/// The name of a property in expressions (upstream: `Escape`). None where there is no way to write it.
pub fn escape(name: &str) -> Option<String> {
    let mut chars = name.chars();
    let first = chars.next()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
    if first.is_ascii_digit() || !allowed(first) || !chars.all(allowed) {
        return None;
    }
    if is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    Some(name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

/// The property that an escaped name stands for (upstream: `Unescape`). None where the name is no escaped one.
pub fn unescape(name: &str) -> Option<String> {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__")).filter(|w| is_reserved(w)) {
        return Some(word.to_owned());
    }
    let mut rest = name;
    let mut out = String::new();
    while let Some(at) = rest.find("__") {
        let (before, escape) = rest.split_at(at);
        let known = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
        let (written, plain) = known.into_iter().find(|(written, _)| escape.starts_with(written))?;
        out.push_str(before);
        out.push_str(plain);
        rest = &escape[written.len()..];
    }
    (!out.is_empty()).then(|| out + rest)
}

/// Finds what a `$ref` stands for.
pub type Resolve<'r> = &'r dyn Fn(&str) -> Option<&'r Json>;

/// References may be nested so deep; below, nothing is known.
const REFERENCES_MAX: usize = 24;

/// Reads schemas.
pub struct Builder<'r> {
    resolve: Resolve<'r>,
    references: Vec<String>,
}

impl Decl {
    /// Reads a schema without references. `root`: it is that of a whole resource.
    pub fn build(schema: &Json, root: bool, name: &str) -> Self {
        Self::build_with(schema, root, name, &|_| None)
    }

    /// Reads a schema whose references `resolve` finds.
    pub fn build_with<'r>(schema: &'r Json, root: bool, name: &str, resolve: Resolve<'r>) -> Self {
        Builder { resolve, references: Vec::new() }.build(schema, root, name)
    }
}

fn flag(schema: &Json, key: &str) -> bool {
    schema.get(key).and_then(Json::as_bool) == Some(true)
}

fn number(schema: &Json, key: &str) -> Option<i64> {
    schema.get(key).and_then(|n| n.as_i64().or_else(|| n.as_f64().map(|f| f as i64))).map(|n| n.max(0))
}

fn text<'a>(schema: &'a Json, key: &str) -> &'a str {
    schema.get(key).and_then(Json::as_str).unwrap_or_default()
}

impl Builder<'_> {
    fn build(&mut self, schema: &Json, root: bool, name: &str) -> Decl {
        let reference = text(schema, "$ref").to_owned();
        let reference = if reference.is_empty() {
            match schema.get("allOf").and_then(Json::as_array).map(Vec::as_slice) {
                Some([only]) if schema.get("type").is_none() => text(only, "$ref").to_owned(),
                _ => reference,
            }
        } else {
            reference
        };
        if !reference.is_empty() {
            let Some(found) = (self.resolve)(&reference).filter(|_| !self.references.contains(&reference) && self.references.len() < REFERENCES_MAX) else {
                return Decl::unknown();
            };
            let found = found.clone();
            self.references.push(reference);
            let built = self.build(&found, root, name);
            self.references.pop();
            return built;
        }
        let nullable = flag(schema, "nullable");
        let mut decl = self.of_type(schema, root || flag(schema, "x-kubernetes-embedded-resource"), name);
        decl.nullable |= nullable;
        decl
    }

    fn of_type(&mut self, schema: &Json, root: bool, name: &str) -> Decl {
        let union = schema.get("oneOf").is_some() && text(schema, "format") == "int-or-string" || text(schema, "format") == "int-or-string";
        if flag(schema, "x-kubernetes-int-or-string") || union {
            let max = number(schema, "maxLength").map_or(REQUEST_BYTES_MAX - 2, |n| n.saturating_mul(4));
            return Decl::new(DeclKind::IntOrString, Type::Dyn, 1, Some(max));
        }
        match text(schema, "type") {
            "array" => self.list(schema, name),
            "object" => self.object(schema, root, name),
            "string" => string(schema),
            "boolean" => Decl::new(DeclKind::Bool, Type::Bool, 4, None),
            "number" => Decl::new(DeclKind::Double, Type::Double, 1, None),
            "integer" => Decl::new(DeclKind::Int, Type::Int, 1, None),
            _ if root => self.object(schema, root, name),
            _ => Decl::unknown(),
        }
    }

    fn list(&mut self, schema: &Json, name: &str) -> Decl {
        let Some(items) = schema.get("items") else { return Decl::unknown() };
        let items = self.build(items, false, &format!("{name}.@idx"));
        let keys =
            || schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect();
        let semantics = match text(schema, "x-kubernetes-list-type") {
            "set" => ListSemantics::Set,
            "map" => ListSemantics::Map(keys()),
            _ => ListSemantics::Atomic,
        };
        let max = number(schema, "maxItems").unwrap_or((REQUEST_BYTES_MAX - 2) / (items.min_size + 1));
        let ty = items.ty.clone().map(types::list);
        let items = Arc::new(items);
        Decl { ty, ..Decl::new(DeclKind::List { items, semantics }, Type::Dyn, 2, Some(max)) }
    }

    fn object(&mut self, schema: &Json, root: bool, name: &str) -> Decl {
        if let Some(of) = schema.get("additionalProperties").filter(|a| a.is_object()) {
            let of = self.build(of, false, &format!("{name}.@elem"));
            let max = number(schema, "maxProperties").unwrap_or((REQUEST_BYTES_MAX - 2) / (of.min_size + 6));
            let ty = of.ty.clone().map(|t| types::map(Type::String, t));
            return Decl { ty, ..Decl::new(DeclKind::Map(Arc::new(of)), Type::Dyn, 2, Some(max)) };
        }
        let with_meta;
        let empty = serde_json::Map::new();
        let mut properties = schema.get("properties").and_then(Json::as_object).unwrap_or(&empty);
        if root && !has_type_and_meta(properties) {
            let mut all = properties.clone();
            let string = serde_json::json!({"type": "string"});
            all.insert("kind".into(), string.clone());
            all.insert("apiVersion".into(), string);
            let declared = schema.get("properties").and_then(|p| p.get("metadata")).and_then(|m| m.get("properties"));
            let name = |key: &str, max: i64| {
                let own = declared.and_then(|d| d.get(key)).and_then(|s| number(s, "maxLength"));
                serde_json::json!({"type": "string", "maxLength": own.map_or(max, |n| n.min(max))})
            };
            // A generated name has at least one more character.
            let names = serde_json::json!({"name": name("name", NAME_MAX), "generateName": name("generateName", NAME_MAX - 1)});
            all.insert("metadata".into(), serde_json::json!({"type": "object", "properties": names}));
            with_meta = all;
            properties = &with_meta;
        }
        let required: Vec<&str> = schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
        let (mut fields, mut escaped, mut min_size) = (BTreeMap::new(), HashMap::new(), 2);
        for (key, property) in properties {
            let written = escape(key);
            let decl = self.build(property, false, &format!("{name}.{}", written.as_deref().unwrap_or(key)));
            if decl.ty.is_some() && required.contains(&key.as_str()) && property.get("default").is_none_or(Json::is_null) {
                min_size += i64::try_from(key.len()).unwrap_or(0) + decl.min_size + 4;
            }
            if let Some(written) = written.as_ref().filter(|w| *w != key) {
                escaped.insert(written.clone(), key.clone());
            }
            fields.insert(key.clone(), Field { decl: Arc::new(decl), escaped: written });
        }
        Decl::new(DeclKind::Object { fields, escaped }, types::object(name), min_size, None)
    }
}

fn has_type_and_meta(properties: &serde_json::Map<String, Json>) -> bool {
    let is = |value: Option<&Json>, t: &str| value.is_some_and(|v| text(v, "type") == t);
    let meta = properties.get("metadata");
    let meta_property = |name: &str| meta.and_then(|m| m.get("properties")).and_then(|p| p.get(name));
    // A reference is the full metadata of built-in kinds.
    let referenced = meta.is_some_and(|m| m.get("$ref").is_some() || m.get("allOf").is_some());
    is(properties.get("kind"), "string")
        && is(properties.get("apiVersion"), "string")
        && (referenced || is(meta, "object") && is(meta_property("name"), "string") && is(meta_property("generateName"), "string"))
}

fn string(schema: &Json) -> Decl {
    let unbounded = REQUEST_BYTES_MAX - 2;
    match text(schema, "format") {
        "byte" => Decl::new(DeclKind::Bytes, Type::Bytes, 2, Some(number(schema, "maxLength").unwrap_or(unbounded))),
        "duration" => Decl::new(DeclKind::Duration, Type::Duration, 3, Some(32)),
        "date" => Decl::new(DeclKind::Date, Type::Timestamp, 12, Some(12)),
        "date-time" => Decl::new(DeclKind::DateTime, Type::Timestamp, 21, Some(32)),
        _ => {
            let longest_of = |values: &Vec<Json>| values.iter().filter_map(Json::as_str).map(|s| i64::try_from(s.len()).unwrap_or(i64::MAX)).max().unwrap_or(0);
            let enumerated = schema.get("enum").and_then(Json::as_array).filter(|e| !e.is_empty()).map(longest_of);
            let max = number(schema, "maxLength").map(|n| n.saturating_mul(4)).or(enumerated).unwrap_or(unbounded);
            Decl::new(DeclKind::String, Type::String, 2, Some(max))
        }
    }
}
