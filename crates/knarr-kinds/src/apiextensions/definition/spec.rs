//! The spec of a definition: group, names, versions, columns, subresources, conversion.

use knarr_core::{
    Value, ValueExt,
    field::ErrorList,
    names::{is_dns1035_label, is_dns1123_subdomain},
};

use super::{Lenient, Lifted, has, openapi, shown};
use crate::{
    admissionregistration::webhook,
    apiextensions::custom::{Schema, find_field_path},
    at::At,
};

const COLUMN_TYPES: &str = "must be one of boolean,date,integer,number,string";
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
/// Most selectable fields of a version.
const SELECTABLE_MAX: usize = 8;
const WARNING_MAX: usize = 256;

pub fn is_known_review(version: &Value) -> bool {
    version.as_str().is_some_and(|v| REVIEWS.contains(&v))
}

/// Several problems of one name are one error.
fn label(place: &At, text: &str, before: &str, e: &mut ErrorList) {
    let problems = is_dns1035_label(text);
    if !text.is_empty() && !problems.is_empty() {
        e.push(place.invalid(format!("{before}{}", problems.join(","))));
    }
}

pub fn validate(spec: &At, lenient: &Lenient, e: &mut ErrorList) {
    group(&spec.get("group"), e);
    let scope = spec.get("scope");
    if scope.is_empty() {
        e.push(scope.required(""))
    } else {
        scope.one_of(e, &["Cluster", "Namespaced"])
    }
    let (lifted, versions) = (Lifted::of(spec), spec.get("versions"));
    schemas_are_there(spec, &lifted, lenient, e);
    let keeps_unknown = spec.get("preserveUnknownFields").bool();
    let with_extensions = |v: &At| v.get("schema").get("openAPIV3Schema").value().is_some_and(|s| has(s, &openapi::is_extended));
    let with_defaults = |v: &At| v.get("schema").get("openAPIV3Schema").value().is_some_and(|s| has(s, &|s| s.get("default").is_some_and(|d| !d.is_null())));
    if keeps_unknown && versions.items().any(|v| with_defaults(&v)) {
        e.push(spec.get("preserveUnknownFields").invalid("must be false in order to use defaults in the schema"));
    }
    let must_be_structural = !lenient.structure || !keeps_unknown || versions.items().any(|v| with_extensions(&v) || with_defaults(&v));
    let lenient = &Lenient { structure: !must_be_structural, ..lenient.clone() };
    for version in versions.items() {
        self::version(&version, &lifted, lenient, e);
    }
    identical(&versions, &lifted, e);
    let first = spec.shown_as("version", versions.index(0).value().and_then(|v| v.get("name")));
    label(&first, first.str(), "", e);
    required_names(&spec.get("names"), e);
    names(&spec.get("names"), e);
    let first = versions.index(0);
    if lifted.schema {
        let any_status = versions.items().any(|v| v.get("subresources").get("status").is_set());
        openapi::validate(&spec.shown_as("validation", value_of(&first, "schema")), any_status, first.str_of("name"), lenient, e);
    }
    if lifted.subresources {
        subresources(&spec.shown_as("subresources", value_of(&first, "subresources")), e);
    }
    if lifted.columns {
        spec.shown_as("additionalPrinterColumns", value_of(&first, "additionalPrinterColumns")).items().for_each(|c| column(&c, e));
    }
    if lifted.selectable {
        let fields = spec.shown_as("selectableFields", value_of(&first, "selectableFields"));
        let schema = if lifted.schema { value_of(&first, "schema") } else { None };
        selectable_fields(&fields, schema, "may only be set when validations.schema is included", first.str_of("name"), lenient, e);
    }
    let conversion = spec.get("conversion");
    if conversion.is_set() && conversion.str_of("strategy") != "None" && keeps_unknown {
        e.push(conversion.get("strategy").invalid("must be None if spec.preserveUnknownFields is true"));
    }
    self::conversion(&conversion, lenient, e);
}

/// The value of a field, outliving the place.
fn value_of<'v>(at: &At<'v, '_>, key: &str) -> Option<&'v Value> {
    at.value().and_then(|v| v.get(key)).filter(|v| !v.is_null())
}

fn group(group: &At, e: &mut ErrorList) {
    let problems = is_dns1123_subdomain(group.str());
    if group.is_empty() {
        e.push(group.required(""));
    } else if !problems.is_empty() {
        e.push(group.invalid(problems.join(",")));
    } else if !group.str().contains('.') {
        e.push(group.invalid("should be a domain with at least one dot"));
    }
}

fn schemas_are_there(spec: &At, lifted: &Lifted, lenient: &Lenient, e: &mut ErrorList) {
    let versions = spec.get("versions");
    if lifted.schema && versions.index(0).get("schema").get("openAPIV3Schema").is_set() {
        return;
    }
    let keeps_unknown = spec.get("preserveUnknownFields").bool();
    for version in versions.items() {
        let outer = version.get("schema");
        let schema = outer.get("openAPIV3Schema");
        if schema.is_set() && !lifted.schema {
            continue;
        }
        if !lenient.schema {
            e.push(schema.required(""));
        } else if !keeps_unknown && version.get("served").bool() {
            e.push(schema.required("because otherwise all fields are pruned"));
        }
    }
}

fn version(version: &At, lifted: &Lifted, lenient: &Lenient, e: &mut ErrorList) {
    let name = version.get("name");
    let problems = is_dns1035_label(name.str());
    if !problems.is_empty() {
        e.push(name.invalid(problems.join(",")));
    }
    deprecation(version, e);
    let has_status = version.get("subresources").get("status").is_set();
    if !lifted.schema {
        openapi::validate(&version.get("schema"), has_status, name.str(), lenient, e);
    }
    if !lifted.subresources {
        subresources(&version.get("subresources"), e);
    }
    if !lifted.columns {
        version.get("additionalPrinterColumns").items().for_each(|c| column(&c, e));
    }
    if !lifted.selectable {
        let schema = if lifted.schema { None } else { value_of(version, "schema") };
        const WHY: &str = "may only be set when `version.schema.openAPIV3Schema` is not included";
        selectable_fields(&version.get("selectableFields"), schema, WHY, name.str(), lenient, e);
    }
}

fn deprecation(version: &At, e: &mut ErrorList) {
    let warning = version.get("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    if !version.get("deprecated").bool() {
        return e.push(warning.invalid("can only be set for deprecated versions"));
    }
    let text = warning.str();
    if text.len() > WARNING_MAX {
        e.push(warning.invalid(format!("must be <= {WARNING_MAX} characters long")));
    }
    if text.is_empty() {
        e.push(warning.invalid("must not be an empty string"));
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| c.is_control() || c.is_whitespace() && *c != ' ') {
        e.push(warning.invalid(format!("must only contain printable UTF-8 characters; non-printable character found at index {i}")));
    }
}

fn identical(versions: &At, lifted: &Lifted, e: &mut ErrorList) {
    let list: Vec<&Value> = versions.items().filter_map(|v| v.value()).collect();
    let mut names: Vec<&str> = list.iter().filter_map(|v| v.str_at(&["name"])).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    let shown = || if versions.is_set() { shown::versions(&list, lifted) } else { "null".to_owned() };
    if names.len() < count {
        e.push(versions.invalid("must contain unique version names").showing(shown()));
    }
    if list.iter().filter(|v| v.bool_at(&["storage"]) == Some(true)).count() != 1 {
        e.push(versions.invalid("must have exactly one version marked as storage version").showing(shown()));
    }
}

fn required_names(names: &At, e: &mut ErrorList) {
    for key in ["plural", "singular", "kind", "listKind"] {
        names.get(key).require(e);
    }
}

/// Names, of the spec or as they were accepted.
pub fn names(names: &At, e: &mut ErrorList) {
    for key in ["plural", "singular"] {
        label(&names.get(key), names.str_of(key), "", e);
    }
    for key in ["kind", "listKind"] {
        label(&names.get(key), &names.str_of(key).to_lowercase(), "may have mixed case, but should otherwise match: ", e);
    }
    let each = |key: &str, e: &mut ErrorList| {
        for name in names.get(key).items() {
            let problems = is_dns1035_label(name.str());
            if !problems.is_empty() {
                e.push(name.invalid(problems.join(",")));
            }
        }
    };
    each("shortNames", e);
    let kind = names.str_of("kind");
    if !kind.is_empty() && kind == names.str_of("listKind") {
        e.push(names.get("listKind").invalid("kind and listKind may not be the same"));
    }
    each("categories", e);
}

fn column(column: &At, e: &mut ErrorList) {
    column.get("name").require(e);
    let (kind, format) = (column.get("type"), column.get("format"));
    if kind.is_empty() {
        e.push(kind.required(COLUMN_TYPES));
    } else if !["boolean", "date", "integer", "number", "string"].contains(&kind.str()) {
        e.push(kind.invalid(COLUMN_TYPES));
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format.str()) {
        e.push(format.invalid(format!("must be one of {}", COLUMN_FORMATS.join(","))));
    }
    let path = column.shown_as("JSONPath", value_of(column, "jsonPath"));
    if path.is_empty() { e.push(path.required("")) } else { simple_path(&path, e) }
}

fn simple_path(path: &At, e: &mut ErrorList) {
    if !path.str().starts_with('.') {
        e.push(path.invalid("must be a simple json path starting with ."));
    }
}

fn subresources(subresources: &At, e: &mut ErrorList) {
    let scale = value_of(subresources, "scale");
    let Some(scale) = scale else { return };
    let path = |key: &str| scale.get(key);
    for (key, below) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status")] {
        let name = format!("scale.{key}");
        let place = subresources.shown_as(&name, path(key));
        match place.str() {
            "" => e.push(place.required("")),
            text if !text.starts_with('.') => simple_path(&place, e),
            text if !text.starts_with(&format!(".{below}.")) => e.push(place.invalid(format!("should be a json path under .{below}"))),
            _ => {}
        }
    }
    let place = subresources.shown_as("scale.labelSelectorPath", path("labelSelectorPath"));
    match place.str() {
        "" => {}
        text if !text.starts_with('.') => simple_path(&place, e),
        text if !text.starts_with(".spec.") && !text.starts_with(".status.") => e.push(place.invalid("should be a json path under either .spec or .status")),
        _ => {}
    }
}

fn selectable_fields(fields: &At, schema: Option<&Value>, missing: &str, version: &str, lenient: &Lenient, e: &mut ErrorList) {
    if fields.len() == 0 {
        return;
    }
    // One that the versions have in common may be empty.
    let nothing = Value::Object(Default::default());
    let is_common = missing.contains("validations.schema") && schema.is_some();
    let schema = schema.and_then(|s| s.at(&["openAPIV3Schema"])).or_else(|| is_common.then_some(&nothing));
    let Some(schema) = schema else { return e.push(fields.invalid_as("", missing)) };
    let schema = Schema::new(schema);
    let mut seen: Vec<String> = Vec::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if path.is_empty() {
            e.push(path.required(""));
            continue;
        }
        let found = match find_field_path(path.str(), &schema, false) {
            Ok(found) => found,
            Err(why) => {
                e.push(path.invalid(format!("is an invalid path: {why}")));
                continue;
            }
        };
        let name = found.path.to_string();
        if name.split(['.', '[']).next() == Some("metadata") {
            e.push(path.invalid("must not point to fields in metadata"));
        }
        if !found.schema.is_some_and(|s| matches!(s.type_name(), "string" | "boolean" | "integer")) {
            const ALLOWED: &str = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            e.push(path.invalid(ALLOWED));
        }
        if seen.contains(&name) { e.push(path.duplicate()) } else { seen.push(name) }
    }
    if seen.len() > SELECTABLE_MAX && !lenient.selectable.iter().any(|v| v == version) {
        e.push(knarr_core::field::Error::too_many(&fields.path(), seen.len(), SELECTABLE_MAX as i64));
    }
}

fn conversion(conversion: &At, lenient: &Lenient, e: &mut ErrorList) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    if strategy.is_empty() {
        e.push(strategy.required(""))
    } else {
        strategy.one_of(e, &["None", "Webhook"])
    }
    let webhook = value_of(conversion, "webhook");
    let part = |key: &str| webhook.and_then(|w| w.get(key));
    let config = conversion.shown_as("webhookClientConfig", part("clientConfig"));
    let reviews = conversion.shown_as("conversionReviewVersions", part("conversionReviewVersions"));
    if strategy.str() != "Webhook" {
        const UNWANTED: &str = "should not be set when strategy is not set to Webhook";
        if config.is_set() {
            e.push(config.forbidden(UNWANTED));
        }
        if reviews.len() > 0 {
            e.push(reviews.forbidden(UNWANTED));
        }
        return;
    }
    if config.is_set() {
        webhook::client_config(&config, e);
        ca_bundle(&config.get("caBundle"), lenient, e);
    } else {
        e.push(config.required("required when strategy is set to Webhook"));
    }
    review_versions(&reviews, lenient, e);
}

fn ca_bundle(bundle: &At, lenient: &Lenient, e: &mut ErrorList) {
    use base64::Engine;
    if bundle.is_empty() || lenient.ca_bundle {
        return;
    }
    let pem = base64::engine::general_purpose::STANDARD.decode(bundle.str()).unwrap_or_default();
    let mut certificates = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(&pem).flatten().filter(|b| b.label == "CERTIFICATE") {
        if block.parse_x509().is_err() {
            certificates = 0;
            break;
        }
        certificates += 1;
    }
    if certificates == 0 {
        const WHY: &str = "unable to load root certificates: unable to parse bytes as PEM block";
        e.push(bundle.invalid_as(knarr_core::field::Error::invalid_omitted(&bundle.path(), "").value, WHY));
    }
}

fn review_versions(versions: &At, lenient: &Lenient, e: &mut ErrorList) {
    if versions.len() == 0 {
        return e.push(versions.required(""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in versions.items() {
        let text = version.str();
        if seen.contains(&text) {
            e.push(version.invalid("duplicate version"));
            continue;
        }
        seen.push(text);
        version.problems(e, is_dns1035_label(text));
    }
    if !lenient.conversion_review && !seen.iter().any(|v| REVIEWS.contains(v)) {
        e.push(versions.invalid(format!("must include at least one of {}", REVIEWS.join(", "))));
    }
}
