//! Requests and limits of containers and of the pod as a whole, and the resource claims that they name.

use std::collections::BTreeSet;

use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt, names};

use super::Pod;
use super::annotations::MIRROR;
use crate::at::At;
use crate::pod::resources::{aggregate, is_pod_level};
use crate::resource_names::{amount, container_resource, is_divisible, is_huge_page, is_overcommit_allowed, resource};

/// What a container asks for.
pub fn container(pod: &Pod, resources: &At, e: &mut ErrorList) {
    requirements(pod, resources, container_resource, e);
}

/// What running the pod costs beside its containers.
pub fn overhead(pod: &Pod, e: &mut ErrorList) {
    let overhead = pod.spec.get("overhead");
    if overhead.is_set() {
        as_limits(&overhead, &overhead, pod.options.indivisible_huge_pages, e);
    }
}

/// Amounts that are checked as if they were a container's limits, and told as if they stood in `overhead.limits`.
pub fn amounts_as_limits(overhead: &At, amounts: &At, e: &mut ErrorList) {
    as_limits(overhead, amounts, false, e);
}

fn as_limits(overhead: &At, amounts: &At, any_huge_pages: bool, e: &mut ErrorList) {
    if let Some(amounts) = amounts.value() {
        let wrapped = knarr_core::json!({ "limits": amounts });
        let place = At::root(&wrapped);
        let mut found = ErrorList::new();
        requirements_of(&[], any_huge_pages, &place, container_resource, &mut found);
        let beside = |field: &Path| if *field == Path::root() { overhead.path() } else { Path::new(&format!("{}.{field}", overhead.path())) };
        e.extend(found.into_iter().map(|error| Error { field: beside(&error.field), ..error }));
    }
}

/// The pod's own requests and limits (upstream: `validatePodResources`).
pub fn pod_level(pod: &Pod, e: &mut ErrorList) {
    let resources = pod.spec.get("resources");
    if !resources.is_set() {
        return;
    }
    if pod.os() == "windows" {
        e.push(resources.forbidden("may not be set for a windows pod"));
        return;
    }
    if resources.get("claims").is_set() {
        e.push(resources.get("claims").forbidden("claims may not be set for Resources at pod-level"));
    }
    requirements(pod, &resources, pod_resource, e);
    cover_containers(pod, &resources, e);
}

fn pod_resource(name: &str, place: &At, e: &mut ErrorList) {
    let before = e.len();
    resource(name, place, e);
    if e.len() == before && !is_pod_level(name) {
        e.push(Error::not_supported(&place.path(), name, &["cpu", "hugepages-", "memory"]));
    }
}

/// What the pod has is no less than what its containers need.
fn cover_containers(pod: &Pod, resources: &At, e: &mut ErrorList) {
    let spec = pod.spec.value().unwrap_or(&Value::Null);
    for (kind, needed) in [("requests", aggregate(spec, "requests")), ("limits", aggregate(spec, "limits"))] {
        for (name, needed) in needed.iter().filter(|(name, _)| kind == "requests" || is_huge_page(name)) {
            let own = resources.get(kind);
            let place = own.key(name);
            if let Some(own) = place.value().and_then(Quantity::from_json).filter(|own| needed > own) {
                e.push(place.invalid_as(own.to_string(), format!("must be greater than or equal to aggregate container {kind} of {needed}")));
            }
        }
    }
    for (i, container) in pod.spec.get("containers").items().enumerate() {
        let resources_of_container = container.get("resources");
        for (name, limit) in resources_of_container.get("limits").entries() {
            let (own, limit) = (resources.get("limits").key(name).value().and_then(Quantity::from_json), limit.value().and_then(Quantity::from_json));
            if let (Some(own), Some(limit)) = (own, limit)
                && limit > own
            {
                let path = resources.get("containers").index(i).key(name).get("limits").path();
                e.push(Error::invalid(&path, limit.to_string(), format!("must be less than or equal to pod limits of {own}")));
            }
        }
    }
}

type NameRule = fn(&str, &At, &mut ErrorList);

fn requirements(pod: &Pod, resources: &At, rule: NameRule, e: &mut ErrorList) {
    requirements_of(&pod.claims, pod.options.indivisible_huge_pages, resources, rule, e);
}

/// Upstream: `validateResourceRequirements`.
fn requirements_of(pod_claims: &[&str], any_huge_pages: bool, resources: &At, rule: NameRule, e: &mut ErrorList) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    let (mut huge, mut compute) = (false, false);
    for list in [&limits, &requests] {
        for (name, place) in list.entries() {
            rule(name, &place, e);
            amount(name, &place, e);
            if std::ptr::eq(list, &requests) {
                request_within_limit(name, &place, &limits, &requests, e);
            }
            if is_huge_page(name) {
                huge = true;
                if !any_huge_pages && !place.value().is_some_and(|v| is_divisible(name, v)) {
                    let text = place.value().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).unwrap_or_default();
                    e.push(place.invalid_as(text.clone(), format!("{text} is not positive integer multiple of {name}")));
                }
            }
            compute |= name == "cpu" || name == "memory";
        }
    }
    if huge && !compute {
        e.push(resources.forbidden("HugePages require cpu or memory"));
    }
    claims(pod_claims, &resources.get("claims"), e);
}

fn request_within_limit(name: &str, request: &At, limits: &At, requests: &At, e: &mut ErrorList) {
    let Some(request) = request.value().and_then(Quantity::from_json) else { return };
    match limits.key(name).value().and_then(Quantity::from_json) {
        Some(limit) if request != limit && !is_overcommit_allowed(name) => {
            e.push(requests.invalid_as(request.to_string(), format!("must be equal to {name} limit of {limit}")));
        }
        Some(limit) if request > limit => {
            e.push(requests.invalid_as(request.to_string(), format!("must be less than or equal to {name} limit of {limit}")));
        }
        None if !is_overcommit_allowed(name) => e.push(limits.required("Limit must be set for non overcommitable resources")),
        _ => {}
    }
}

/// The claims of the pod that a container uses.
fn claims(pod_claims: &[&str], list: &At, e: &mut ErrorList) {
    let mut used: BTreeSet<String> = BTreeSet::new();
    for claim in list.items() {
        let (name, request) = (claim.str_of("name"), claim.str_of("request"));
        if name.is_empty() {
            e.push(claim.required(""));
        } else if used.contains(name) {
            e.push(claim.duplicate_as(name));
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                claim.get("request").problems(e, names::is_dns1123_label(request));
                key = format!("{name}/{request}");
            }
            let of_same_claim = || used.iter().any(|k| k.split_once('/').is_some_and(|(n, _)| n == name));
            if used.contains(&key) {
                e.push(claim.duplicate_as(key.clone()));
            } else if request.is_empty() && of_same_claim() {
                e.push(claim.duplicate_as(name));
            }
            used.insert(key);
        }
        if !name.is_empty() && !pod_claims.contains(&name) {
            let mut sorted = pod_claims.to_vec();
            sorted.sort_unstable();
            let which = if sorted.is_empty() { " which is empty".to_owned() } else { format!(": {}", sorted.join(", ")) };
            let mut error = Error::not_found(&claim.path(), name);
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            e.push(error);
        }
    }
}

/// The claims of the pod itself (upstream: `validatePodResourceClaims`).
pub fn pod_claims(pod: &Pod, e: &mut ErrorList) {
    let mirror = pod.metadata.is_some_and(|m| m.get("annotations").key(MIRROR).is_set());
    let mut names = BTreeSet::new();
    for claim in pod.spec.get("resourceClaims").items() {
        if mirror {
            e.push(Error::forbidden(&Path::new("[]"), "static pods do not support resource claims"));
            continue;
        }
        let name = claim.get("name");
        if name.is_empty() {
            e.push(name.required(""));
        } else if names.contains(name.str()) {
            e.push(name.duplicate());
        } else {
            name.problems(e, names::is_dns1123_label(name.str()));
            names.insert(name.str());
        }
        claim_source(&claim, e);
    }
}

fn claim_source(claim: &At, e: &mut ErrorList) {
    let sources = [claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName")];
    let shown = || {
        let field = |key: &str| claim.value().and_then(|c| c.at(&[key])).cloned().unwrap_or_default();
        knarr_core::json!({"Name": field("name"), "ResourceClaimName": field("resourceClaimName"), "ResourceClaimTemplateName": field("resourceClaimTemplateName")})
    };
    match sources.iter().filter(|s| s.is_set()).count() {
        2 => e.push(claim.invalid_as(shown(), "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")),
        0 => e.push(claim.invalid_as(shown(), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")),
        _ => {}
    }
    for source in sources.iter().filter(|s| s.is_set()) {
        source.problems(e, names::is_dns1123_subdomain(source.str()));
    }
}
