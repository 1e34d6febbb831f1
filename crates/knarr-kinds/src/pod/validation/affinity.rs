//! Where a pod wants to run, and beside whom.

use knarr_core::field::{Error, ErrorList};
use knarr_core::names;

use super::Options;
use super::scheduling::label_selector_keys;
use crate::at::At;
use crate::metadata::label_selector_ratcheting;

/// `spec.affinity`.
pub fn validate(affinity: &At, options: &Options, e: &mut ErrorList) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, options.invalid_label_values_in_node_affinity, e);
    }
    for term in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&term.get("weight"), e);
        node_selector_term(&term.get("preference"), true, e);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = affinity.get(kind);
        for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term, options, e);
        }
        for weighted in affinity.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&weighted.get("weight"), e);
            pod_term(&weighted.get("podAffinityTerm"), options, e);
        }
    }
}

fn weight(weight: &At, e: &mut ErrorList) {
    if !(1..=100).contains(&weight.int()) {
        e.push(weight.invalid_as(weight.int(), "must be in the range 1-100"));
    }
}

/// Terms of which one must hold (upstream: `ValidateNodeSelector`).
pub fn node_selector(selector: &At, allow_invalid_values: bool, e: &mut ErrorList) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        e.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        node_selector_term(&term, allow_invalid_values, e);
    }
}

fn node_selector_term(term: &At, allow_invalid_values: bool, e: &mut ErrorList) {
    for requirement in term.get("matchExpressions").items() {
        node_selector_requirement(&requirement, allow_invalid_values, e);
    }
    for requirement in term.get("matchFields").items() {
        node_field_requirement(&requirement, e);
    }
}

/// Upstream: `ValidateNodeSelectorRequirement`.
pub fn node_selector_requirement(requirement: &At, allow_invalid_values: bool, e: &mut ErrorList) {
    let (operator, values) = (requirement.get("operator"), requirement.get("values"));
    match operator.str() {
        "In" | "NotIn" if values.is_empty() => e.push(values.required("must be specified when `operator` is 'In' or 'NotIn'")),
        "Exists" | "DoesNotExist" if !values.is_empty() => e.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")),
        "Gt" | "Lt" if values.len() != 1 => e.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'")),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => e.push(operator.invalid("not a valid selector operator")),
    }
    let key = requirement.get("key");
    key.problems(e, names::is_qualified_name(key.str()));
    if !allow_invalid_values {
        for value in values.items() {
            value.problems(e, names::is_label_value(value.str()));
        }
    }
}

fn node_field_requirement(requirement: &At, e: &mut ErrorList) {
    let (operator, values, key) = (requirement.get("operator"), requirement.get("values"), requirement.get("key"));
    match operator.str() {
        "In" | "NotIn" if values.len() != 1 => e.push(values.required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector")),
        "In" | "NotIn" => {}
        _ => e.push(operator.invalid("not a valid selector operator")),
    }
    if key.str() != "metadata.name" {
        e.push(key.invalid("not a valid field selector key"));
        return;
    }
    for value in values.items() {
        value.problems(e, names::is_dns1123_subdomain(value.str()));
    }
}

fn pod_term(term: &At, options: &Options, e: &mut ErrorList) {
    for field in ["labelSelector", "namespaceSelector"] {
        let selector = term.get(field);
        e.extend(label_selector_ratcheting(selector.value(), &selector.path(), options.invalid_label_values_in_selectors));
    }
    for name in term.get("namespaces").strings() {
        let place = term.shown_as("namespace", None);
        e.extend(names::is_dns1123_label(name).into_iter().map(|p| Error::invalid(&place.path(), name, p)));
    }
    label_selector_keys(term, e);
    let key = term.get("topologyKey");
    if key.is_empty() {
        e.push(key.required("can not be empty"));
    }
    key.problems(e, names::is_qualified_name(key.str()));
}
