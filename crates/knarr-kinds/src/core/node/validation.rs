//! What a Node may say, and what may change of it (upstream: `ValidateNode…` in `pkg/apis/core/validation`).

use std::collections::BTreeSet;

use knarr_core::field::{Error, ErrorList, go_quote};
use knarr_core::{Value, ValueExt, names};

use crate::at::At;
use crate::pod::validation::taint_effect;
use crate::{resource_names, rules};

const ONE_PER_FAMILY: &str = "may specify no more than one CIDR for each IP family";
const CIDR_FIXED: &str = "node updates may not change podCIDR except from \"\" to valid";
const FEATURE_RULE: &str = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";

/// What holds of every Node.
pub fn node(root: &At, e: &mut ErrorList) {
    let (metadata, spec, status) = (root.get("metadata"), root.get("spec"), root.get("status"));
    taints(&metadata.shown_as("taints", spec.get("taints").value()), e);
    resources(&status, e);
    let info = status.get("nodeInfo");
    let swap = metadata.shown_as("nodeSwapStatus", info.get("swap").value());
    if swap.get("capacity").is_set() && swap.get("capacity").int() <= 0 {
        swap.get("capacity").positive(e);
    }
    features(&status.get("declaredFeatures"), e);
    pod_cidrs(&spec.get("podCIDRs"), e);
}

fn pod_cidrs(list: &At, e: &mut ErrorList) {
    for cidr in list.items() {
        cidr.problems(e, rules::cidr(cidr.str()));
    }
    if list.len() < 2 {
        return;
    }
    let parsed: Vec<_> = list.strings().map(rules::parse_cidr_sloppy).collect();
    if let Some(i) = parsed.iter().position(Option::is_none) {
        let text = list.index(i).str();
        let why = format!("invalid CIDR[{i}]: <nil> (invalid CIDR address: {text})");
        e.push(Error::internal(&list.path(), format!("invalid PodCIDRs. failed to check with dual stack with error:{why}")));
    }
    let all_good = parsed.iter().all(Option::is_some);
    if !all_good || !rules::is_dual_stack(parsed.iter().flatten().map(|c| c.addr())) || list.len() > 2 {
        e.push(list.invalid(ONE_PER_FAMILY));
    }
}

/// Upstream names the place of a resource with dots.
fn resources(status: &At, e: &mut ErrorList) {
    for kind in ["capacity", "allocatable"] {
        let list = status.get(kind);
        for (name, amount) in list.entries() {
            resource_names::amount(name, &list.shown_as(name, amount.value()), e);
        }
    }
}

fn taints(list: &At, e: &mut ErrorList) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        key.problems(e, names::is_qualified_name(key.str()));
        let problems = names::is_label_value(value.str());
        if !problems.is_empty() {
            e.push(value.invalid(problems.join(";")));
        }
        if effect.str().is_empty() {
            e.push(effect.required(""));
        } else {
            taint_effect(&effect, e);
        }
        if !seen.insert((effect.str(), key.str())) {
            let text = knarr_core::field::go_quote;
            let added = taint.get("timeAdded").value().map_or("null".into(), ToString::to_string);
            let shown = format!("{{\"Key\":{},\"Value\":{},\"Effect\":{},\"TimeAdded\":{added}}}", text(key.str()), text(value.str()), text(effect.str()));
            e.push(Error { detail: "taints must be unique by key and effect pair".into(), ..taint.duplicate() }.showing(shown));
        }
    }
}

fn features(list: &At, e: &mut ErrorList) {
    let names: Vec<&str> = list.strings().collect();
    for (i, feature) in list.items().enumerate() {
        let name = feature.str();
        if name.len() > names::DNS1123_SUBDOMAIN_MAX {
            e.push(feature.invalid(format!("invalid feature name {}: must be no more than {} characters", go_quote(name), names::DNS1123_SUBDOMAIN_MAX)));
        } else if !is_feature(name) {
            e.push(feature.invalid(format!("invalid feature name {}: {FEATURE_RULE}", go_quote(name))));
        }
        let Some(next) = names.get(i + 1) else { continue };
        let place = list.index(i + 1);
        match name.cmp(next) {
            std::cmp::Ordering::Equal => e.push(place.duplicate()),
            std::cmp::Ordering::Greater => e.push(place.invalid("list must be sorted alphabetically")),
            std::cmp::Ordering::Less => {}
        }
    }
}

fn is_feature(name: &str) -> bool {
    let segment = |s: &str| s.starts_with(|c: char| c.is_ascii_alphabetic()) && s.bytes().all(|b| b.is_ascii_alphanumeric());
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(segment)
}

/// What holds of a change of spec or status.
pub fn update(root: &At, old: &Value, e: &mut ErrorList) {
    let (metadata, spec, status) = (root.get("metadata"), root.get("spec"), root.get("status"));
    resources(&status, e);
    features(&status.get("declaredFeatures"), e);
    let mut addresses: Vec<(&str, &str)> = Vec::new();
    for address in status.get("addresses").items() {
        let pair = (address.str_of("type"), address.str_of("address"));
        if addresses.contains(&pair) {
            e.push(address.duplicate());
        }
        addresses.push(pair);
    }
    let before = old.list_at(&["spec", "podCIDRs"]);
    let cidrs = spec.get("podCIDRs");
    if !before.is_empty() && cidrs.value().is_none_or(|now| now.as_array().is_none_or(|now| now.as_slice() != before)) {
        e.push(cidrs.forbidden(CIDR_FIXED));
    }
    provider(&spec.get("providerID"), old.str_at(&["spec", "providerID"]).unwrap_or_default(), e);
    let source = spec.get("configSource");
    if source.is_set() {
        config_source(&source, false, e);
    }
    let config = status.get("config");
    for field in ["assigned", "active", "lastKnownGood"] {
        if config.get(field).is_set() {
            config_source(&config.get(field), true, e);
        }
    }
    taints(&metadata.shown_as("taints", spec.get("taints").value()), e);
    if spec.str_of("externalID") != old.str_at(&["spec", "externalID"]).unwrap_or_default() {
        e.push(spec.get("externalID").forbidden("may not be updated"));
    }
}

fn provider(id: &At, before: &str, e: &mut ErrorList) {
    if !before.is_empty() && id.is_empty() {
        e.push(id.invalid_as(Value::Null, "field cannot be cleared once set"));
    } else if !before.is_empty() && id.str() != before {
        e.push(id.invalid_as(Value::Null, "field cannot be modified once set"));
    }
}

/// Where an agent once took its configuration from; the feature is gone, the rules are not.
fn config_source(source: &At, in_status: bool, e: &mut ErrorList) {
    let map = source.get("configMap");
    if !map.is_set() {
        e.push(source.invalid("exactly one reference subfield must be non-nil"));
        return;
    }
    for field in ["uid", "resourceVersion"] {
        let place = map.get(field);
        if in_status {
            place.require(e);
        } else if !place.is_empty() {
            e.push(place.forbidden(format!("{field} must not be set in spec")));
        }
    }
    map.get("namespace").name(e, names::is_dns1123_label);
    map.get("name").name(e, names::is_dns1123_subdomain);
    map.get("kubeletConfigKey").name(e, rules::config_map_key);
}

/// Fields that nobody looks at any more, and ranges that are not written as they should be.
pub fn warn(root: &At, out: &mut Vec<String>) {
    let spec = root.get("spec");
    if spec.get("configSource").is_set() {
        out.push("spec.configSource: the feature is removed".into());
    }
    if !spec.get("externalID").is_empty() {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
    }
    spec.get("podCIDRs").items().for_each(|cidr| crate::warnings::cidr(&cidr, out));
}
