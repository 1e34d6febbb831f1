//! What a CustomResourceDefinition must look like (upstream: `apiextensions-apiserver/pkg/apis/apiextensions/validation`).
//!
//! Upstream validates an internal form, in which what all versions have in common stands once, at the top. Errors name
//! their fields there, so [`Lifted`] tells where each part stands.

mod defaults;
mod openapi;
mod rules;
mod shown;
mod spec;
mod structural;
mod warnings;

use knarr_core::{
    Value, ValueExt,
    field::{Error, ErrorList, Path, go_quote},
};

pub use warnings::warnings;

use crate::at::At;

/// Annotation by which a group of the community shows that it was reviewed.
const APPROVED: &str = "api-approved.kubernetes.io";

/// What an update need not fulfil, because the definition did not before.
#[derive(Clone, Debug, Default)]
struct Lenient {
    conversion_review: bool,
    names: bool,
    schema: bool,
    types: bool,
    structure: bool,
    unpruned_defaults: bool,
    compound_sets: bool,
    list_keys: bool,
    ca_bundle: bool,
    preserve_unknown: bool,
    /// Versions whose schema is as it was: each of their rules may cost what it does.
    same_schema: Vec<String>,
    /// Versions that go on having more selectable fields than may be.
    selectable: Vec<String>,
}

impl Lenient {
    fn on_create() -> Self {
        Self { names: true, ca_bundle: true, ..Self::default() }
    }

    fn on_update(new: &Value, old: &Value) -> Self {
        let schemas: Vec<&Value> = schemas(old).collect();
        let any = |wrong: fn(&Value) -> bool| schemas.iter().any(|s| has(s, &wrong));
        let established = old.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Established" && c["status"] == "True");
        let reviews = old.list_at(&["spec", "conversion", "webhook", "conversionReviewVersions"]);
        let version = |definition: &'_ Value, name: &str| definition.list_at(&["spec", "versions"]).iter().find(|v| v["name"] == name).cloned();
        let unchanged = |key: &str| -> Vec<String> {
            let names = new.list_at(&["spec", "versions"]).iter().filter_map(|v| v.str_at(&["name"]));
            let same = |name: &&str| match (version(new, name), version(old, name)) {
                (Some(a), Some(b)) => crate::semantic::same(a.get(key), b.get(key)),
                _ => false,
            };
            names.filter(same).map(str::to_owned).collect()
        };
        Self {
            conversion_review: !reviews.is_empty() && !reviews.iter().any(spec::is_known_review),
            names: !established,
            schema: old.list_at(&["spec", "versions"]).iter().any(|v| v.at(&["schema", "openAPIV3Schema"]).is_none()),
            types: any(openapi::has_unknown_type),
            structure: schemas.iter().any(|s| !structural::is_structural(s)),
            unpruned_defaults: schemas.iter().any(|s| defaults::are_unpruned(s)),
            compound_sets: any(openapi::is_compound_set),
            list_keys: any(openapi::has_loose_keys),
            ca_bundle: !established,
            preserve_unknown: old.bool_at(&["spec", "preserveUnknownFields"]) == Some(true),
            same_schema: unchanged("schema"),
            selectable: unchanged("selectableFields"),
        }
    }
}

/// All schemas of a definition.
fn schemas(definition: &Value) -> impl Iterator<Item = &Value> {
    definition.list_at(&["spec", "versions"]).iter().filter_map(|v| v.at(&["schema", "openAPIV3Schema"]))
}

/// Whether something holds for a schema or for one in it.
fn has(schema: &Value, predicate: &dyn Fn(&Value) -> bool) -> bool {
    const ONE: [&str; 4] = ["items", "additionalProperties", "not", "additionalItems"];
    const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
    const MAPS: [&str; 3] = ["properties", "patternProperties", "definitions"];
    let below = || {
        let one = ONE.into_iter().filter_map(|key| schema.get(key).filter(|s| s.is_object()));
        let lists = LISTS.into_iter().flat_map(|key| schema.list_at(&[key]));
        let maps = MAPS.into_iter().filter_map(|key| schema.get(key).and_then(Value::as_object)).flat_map(|m| m.values());
        one.chain(lists).chain(maps)
    };
    predicate(schema) || below().any(|s| has(s, predicate))
}

/// Where the parts stand that versions may have in common.
struct Lifted {
    schema: bool,
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Lifted {
    fn of(spec: &At) -> Self {
        let versions = spec.get("versions");
        let versions: Vec<At> = versions.items().collect();
        let same = |key: &str| !versions.is_empty() && versions.iter().all(|v| v.get(key).same(versions[0].get(key).value()));
        Self { schema: same("schema"), subresources: same("subresources"), columns: same("additionalPrinterColumns"), selectable: same("selectableFields") }
    }
}

/// Validates a new definition, or, with `old`, a changed one.
pub fn validate(definition: &Value, old: Option<&Value>) -> ErrorList {
    let lenient = old.map_or_else(Lenient::on_create, |old| Lenient::on_update(definition, old));
    crate::at::check(definition, |root, e| {
        if old.is_none() {
            name(root, e);
        }
        let spec = root.get("spec");
        spec::validate(&spec, &lenient, e);
        if let Some(old) = old {
            immutable(&spec, old, &lenient, e);
        }
        status(root, e);
        stored_versions(root, e);
        approval(root, old, e);
        let keeps = spec.get("preserveUnknownFields");
        if keeps.bool() && !lenient.preserve_unknown {
            e.push(keeps.invalid("cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"));
        }
    })
}

/// Validates a changed status.
pub fn validate_status(definition: &Value) -> ErrorList {
    crate::at::check(definition, status)
}

fn name(root: &At, e: &mut ErrorList) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let (name, prefix, names) = (metadata.get("name"), metadata.get("generateName"), spec.get("names"));
    let wanted = format!("{}.{}", names.str_of("plural"), spec.str_of("group"));
    const WRONG: &str = "must be spec.names.plural+\".\"+spec.group";
    if !prefix.is_empty() {
        prefix.problems(e, knarr_core::names::is_dns1123_subdomain(&crate::metadata::mask_trailing_dash(prefix.str())));
        if prefix.str() != wanted {
            e.push(prefix.invalid(WRONG));
        }
    }
    if name.is_empty() {
        return;
    }
    name.problems(e, knarr_core::names::is_dns1123_subdomain(name.str()));
    if name.str() != wanted {
        e.push(name.invalid(WRONG));
    }
}

fn immutable(spec: &At, old: &Value, lenient: &Lenient, e: &mut ErrorList) {
    let names = spec.get("names");
    if !lenient.names {
        spec.get("scope").immutable(old.at(&["spec", "scope"]), e);
        names.get("kind").immutable(old.at(&["spec", "names", "kind"]), e);
    }
    spec.get("group").immutable(old.at(&["spec", "group"]), e);
    names.get("plural").immutable(old.at(&["spec", "names", "plural"]), e);
}

fn status(root: &At, e: &mut ErrorList) {
    spec::names(&root.get("status").get("acceptedNames"), e);
}

fn stored_versions(root: &At, e: &mut ErrorList) {
    let (spec, status) = (root.get("spec"), root.get("status"));
    let stored = status.get("storedVersions");
    if stored.len() == 0 {
        return e.push(stored.invalid_as(Value::Null, "must have at least one stored version"));
    }
    let versions = spec.get("versions");
    // One that was found is found no second time.
    let mut left: Vec<&str> = stored.strings().collect();
    for version in versions.items() {
        let name = version.str_of("name");
        if version.get("storage").bool() && !left.contains(&name) {
            e.push(stored.invalid(format!("must have the storage version {name}")));
        }
        left.retain(|s| *s != name);
    }
    for name in stored.items().filter(|s| !versions.items().any(|v| v.str_of("name") == s.str())) {
        let text = name.str();
        e.push(name.invalid(format!(
            "missing from spec.versions; {text} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {text} and removes {text} from status.storedVersions"
        )));
    }
}

#[derive(PartialEq)]
enum Approval {
    Invalid,
    Approved,
    Bypassed,
    Missing,
}

const SEE: &str = ", see https://github.com/kubernetes/enhancements/pull/1111";

impl Approval {
    /// Upstream: `GetAPIApprovalState`.
    fn of(definition: &Value) -> Self {
        let text = annotation(definition);
        match text.split_once("://") {
            _ if text.is_empty() => Self::Missing,
            _ if text.starts_with("unapproved") => Self::Bypassed,
            Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/') => Self::Approved,
            _ => Self::Invalid,
        }
    }

    fn message(&self, annotation: &str) -> String {
        match self {
            Self::Missing => format!("protected groups must have approval annotation \"{APPROVED}\"{SEE}"),
            Self::Invalid => {
                format!("protected groups must have approval annotation \"{APPROVED}\" with either a URL or a reason starting with \"unapproved\"{SEE}")
            }
            Self::Approved => format!("approved in {annotation}"),
            Self::Bypassed => format!("not approved: {}", go_quote(annotation)),
        }
    }
}

fn annotation(definition: &Value) -> &str {
    definition.str_at(&["metadata", "annotations", APPROVED]).unwrap_or_default()
}

fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].into_iter().any(|domain| group == domain || group.ends_with(&format!(".{domain}")))
}

/// Status, reason and message of the condition `KubernetesAPIApprovalPolicyConformant`, which definitions of the community's
/// groups have (upstream: `apiapproval.calculateCondition`).
pub fn approval_condition(definition: &Value) -> Option<(&'static str, &'static str, String)> {
    if !is_protected(definition.str_at(&["spec", "group"])?) {
        return None;
    }
    let state = Approval::of(definition);
    let (status, reason) = match state {
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
    };
    Some((status, reason, state.message(annotation(definition))))
}

/// Groups of the community want a reason.
fn approval(root: &At, old: Option<&Value>, e: &mut ErrorList) {
    let Some(definition) = root.value().filter(|_| is_protected(root.get("spec").str_of("group"))) else { return };
    let state = Approval::of(definition);
    if old.is_some_and(|old| Approval::of(old) == state) {
        return;
    }
    let (place, text) = (Path::new("metadata").child("annotations").key(APPROVED), annotation(definition));
    match state {
        Approval::Missing => e.push(Error::required(&place, state.message(text))),
        Approval::Invalid => e.push(Error::invalid(&place, text, state.message(text))),
        Approval::Approved | Approval::Bypassed => {}
    }
}

#[cfg(test)]
mod tests;
