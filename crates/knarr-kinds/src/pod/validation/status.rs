//! Status of a pod as its node writes it (upstream: `ValidatePodStatusUpdate`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use knarr_core::field::{Error, ErrorList};
use knarr_core::{Value, ValueExt, ip, names};

use super::annotations;
use crate::at::At;
use crate::metadata::IMMUTABLE;
use crate::pod::resources::is_sidecar;
use crate::rules;

const MESSAGE_MAX: i64 = 1024;

pub fn validate(pod: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let root = At::root(pod);
    let (metadata, spec, status) = (root.get("metadata"), root.get("spec"), root.get("status"));
    annotations::update(&metadata.get("annotations"), old.at(&["metadata", "annotations"]), &mut e);
    annotations::validate(&metadata.get("annotations"), &spec, &super::Options::of_pod(pod, Some(old)), &mut e);
    conditions(&status.get("conditions"), &mut e);
    nominated_node(&status.get("nominatedNodeName"), old, &mut e);
    let observed = status.get("observedGeneration");
    if observed.int() < 0 {
        e.push(observed.invalid("must be a non-negative integer"));
    }
    if status.str_of("qosClass") != old.str_at(&["status", "qosClass"]).unwrap_or_default() {
        e.push(status.get("qosClass").invalid(IMMUTABLE));
    }
    transitions(&status, old, &mut e);
    claim_statuses(&status, &spec, &mut e);
    extended_claim(&status.get("extendedResourceClaimStatus"), &spec, &mut e);
    addresses(&status, old, "podIPs", "podIP", &mut e);
    if !status.get("hostIPs").is_empty() {
        addresses(&status, old, "hostIPs", "hostIP", &mut e);
    }
    let os = spec.get("os").str_of("name");
    for kind in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        status.get(kind).items().for_each(|s| user(&s.get("user"), os, &mut e));
    }
    for (kind, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        for container in status.get(kind).items() {
            allocated_resources(&container, pod.list_at(&["spec", containers]), &status, &mut e);
        }
    }
    for container in status.get("ephemeralContainerStatuses").items() {
        if !container.get("allocatedResourcesStatus").is_empty() {
            e.push(container.get("allocatedResourcesStatus").forbidden("must not be specified in container status"));
        }
    }
    e
}

fn conditions(conditions: &At, e: &mut ErrorList) {
    for condition in conditions.items() {
        let observed = condition.get("observedGeneration");
        if observed.int() < 0 {
            e.push(observed.invalid("must be a non-negative integer"));
        }
        let kind = condition.get("type");
        if !["PodScheduled", "Ready", "Initialized"].contains(&kind.str()) {
            condition.shown_as("Type", kind.value()).problems(e, names::is_qualified_name(kind.str()));
        }
    }
}

fn nominated_node(node: &At, old: &Value, e: &mut ErrorList) {
    let changed = node.str() != old.str_at(&["status", "nominatedNodeName"]).unwrap_or_default();
    if node.is_empty() || !changed {
        return;
    }
    node.problems(e, names::is_dns1123_subdomain(node.str()));
    if !old.str_at(&["spec", "nodeName"]).unwrap_or_default().is_empty() {
        e.push(node.forbidden("may not be set on pods that are already bound to a node"));
    }
}

/// A container that ended for good does not come back.
fn transitions(status: &At, old: &Value, e: &mut ErrorList) {
    let policy = old.str_at(&["spec", "restartPolicy"]).unwrap_or_default();
    for (kind, containers) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers"), ("ephemeralContainerStatuses", "")] {
        let now = status.get(kind);
        for (i, before) in old.list_at(&["status", kind]).iter().enumerate() {
            let Some(terminated) = before.at(&["state", "terminated"]) else { continue };
            let name = before.str_at(&["name"]).unwrap_or_default();
            let runs_again = now.items().any(|s| s.str_of("name") == name && s.get("state").value().is_none_or(|state| state.at(&["terminated"]).is_none()));
            let container = old.list_at(&["spec", containers]).iter().find(|c| c.str_at(&["name"]) == Some(name));
            let code = terminated.i64_at(&["exitCode"]).unwrap_or(0);
            let allowed = kind != "ephemeralContainerStatuses" && (restarts_all(old) || container.is_some_and(|c| restarts(c, policy, code)));
            if runs_again && !allowed {
                e.push(now.index(i).get("state").forbidden("may not be transitioned to non-terminated state"));
            }
        }
    }
}

/// A rule of some container restarts all of them.
fn restarts_all(pod: &Value) -> bool {
    let all = pod.list_at(&["spec", "containers"]).iter().chain(pod.list_at(&["spec", "initContainers"]));
    all.flat_map(|c| c.list_at(&["restartPolicyRules"])).any(|r| r.str_at(&["action"]) == Some("RestartAllContainers"))
}

/// Whether a container that ended with this code is started again (upstream: `ContainerShouldRestart`).
fn restarts(container: &Value, pod_policy: &str, code: i64) -> bool {
    if is_sidecar(container) {
        return true;
    }
    for rule in container.list_at(&["restartPolicyRules"]) {
        let listed = rule.list_at(&["exitCodes", "values"]).iter().any(|v| v.as_i64() == Some(code));
        let hit = match rule.str_at(&["exitCodes", "operator"]) {
            Some("In") => listed,
            Some("NotIn") => !listed,
            _ => false,
        };
        if hit && rule.str_at(&["action"]) == Some("Restart") {
            return true;
        }
    }
    match container.str_at(&["restartPolicy"]).unwrap_or(pod_policy) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn claim_statuses(status: &At, spec: &At, e: &mut ErrorList) {
    let claims = spec.get("resourceClaims");
    let mut names_seen = BTreeSet::new();
    for claim in status.get("resourceClaimStatuses").items() {
        let (name, of) = (claim.get("name"), claim.get("resourceClaimName"));
        if !claims.items().any(|c| c.str_of("name") == name.str()) {
            e.push(name.invalid("must match the name of an entry in `spec.resourceClaims`"));
        }
        if !names_seen.insert(name.str()) {
            e.push(name.duplicate());
        }
        if of.is_set() {
            of.problems(e, names::is_dns1123_subdomain(of.str()));
        }
    }
}

fn extended_claim(status: &At, spec: &At, e: &mut ErrorList) {
    if !status.is_set() {
        return;
    }
    let mappings = status.get("requestMappings");
    if mappings.is_empty() {
        e.push(mappings.required("at least one request mapping is required"));
    }
    let mut seen = BTreeSet::new();
    for mapping in mappings.items() {
        let (container, resource, request) = (mapping.get("containerName"), mapping.get("resourceName"), mapping.get("requestName"));
        let found =
            ["containers", "initContainers"].iter().find_map(|k| spec.value()?.list_at(&[k]).iter().find(|c| c.str_at(&["name"]) == Some(container.str())));
        match found {
            None => e.push(container.invalid("must match the name of an entry in spec.initContainers.name or spec.containers.name")),
            Some(c) if c.at(&["resources", "requests", resource.str()]).is_none() => {
                e.push(resource.invalid(
                    "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests",
                ));
            }
            Some(_) => {}
        }
        status.shown_as("requestName", request.value()).problems(e, names::is_dns1123_label(request.str()));
        if !seen.insert((container.str(), resource.str(), request.str())) {
            e.extend([container.duplicate(), resource.duplicate(), request.duplicate()]);
        }
    }
    status.get("resourceClaimName").name(e, names::is_dns1123_subdomain);
}

/// One address of each family; the single field is the first of the list.
fn addresses(status: &At, old: &Value, list_field: &'static str, single_field: &'static str, e: &mut ErrorList) {
    let (list, single) = (status.get(list_field), status.get(single_field));
    let before: BTreeSet<&str> = old.list_at(&["status", list_field]).iter().filter_map(|a| a.str_at(&["ip"])).collect();
    let of_host = list_field == "hostIPs";
    let first = list.index(0);
    let first_ip = first.get("ip");
    if of_host && first_ip.str() != single.str() {
        e.push(first_ip.invalid("must be equal to `hostIP`"));
    }
    for address in list.items() {
        let ip = address.str_of("ip");
        if !before.contains(ip) {
            e.extend(rules::ip(ip).into_iter().map(|p| address.invalid_as(ip, p)));
        }
    }
    if list.len() > 1 {
        let ips: Vec<IpAddr> = list.items().filter_map(|a| ip::parse_sloppy(a.str_of("ip"))).collect();
        if let Some((i, bad)) = list.items().enumerate().find(|(_, a)| ip::parse_sloppy(a.str_of("ip")).is_none()) {
            e.push(Error::internal(&list.path(), format!("failed to check for dual stack with error:invalid IP[{i}]: {}", bad.str_of("ip"))));
        }
        if ips.len() < list.len() || !rules::is_dual_stack(ips.into_iter()) || list.len() > 2 {
            e.push(list.invalid("may specify no more than one IP for each IP family"));
        }
    }
    if of_host {
        return;
    }
    if single.is_empty() != list.is_empty() {
        e.push(list.invalid("podIP and podIPs must either both be set or both be unset"));
    } else if first_ip.str() != single.str() {
        e.push(first_ip.invalid("must be equal to `podIP`"));
    }
}

fn user(user: &At, os: &str, e: &mut ErrorList) {
    let linux = user.get("linux");
    if !linux.is_set() {
        return;
    }
    if os == "windows" {
        e.push(linux.forbidden("cannot be set for a windows pod"));
        return;
    }
    linux.get("uid").in_range(e, 0, i64::from(u32::MAX));
    let gid = linux.get("gid");
    gid.problems(e, rules::user_id(gid.int()));
    for group in linux.get("supplementalGroups").items() {
        group.problems(e, rules::user_id(group.int()));
    }
}

fn allocated_resources(container: &At, specs: &[Value], status: &At, e: &mut ErrorList) {
    let spec = specs.iter().find(|c| c.str_at(&["name"]) == Some(container.str_of("name")));
    for resource in container.get("allocatedResourcesStatus").items() {
        let name = resource.get("name");
        if let Some(spec) = spec {
            resource_is_known(&name, spec, status, e);
        }
        let mut ids = BTreeSet::new();
        for health in resource.get("resources").items() {
            let state = health.get("health");
            if !["Healthy", "Unhealthy", "Unknown"].contains(&state.str()) {
                e.push(state.not_supported(&["Healthy", "Unhealthy", "Unknown"]));
            }
            let message = health.get("message");
            if message.is_set() && message.is_empty() {
                e.push(message.required("must be non-empty if specified"));
            } else if message.str().len() as i64 > MESSAGE_MAX {
                e.push(message.too_long(MESSAGE_MAX));
            }
            if !ids.insert(health.str_of("resourceID")) {
                e.push(health.get("resourceID").duplicate());
            }
        }
    }
}

fn resource_is_known(name: &At, spec: &Value, status: &At, e: &mut ErrorList) {
    let Some(claim) = name.str().strip_prefix("claim:") else {
        if spec.at(&["resources", "requests", name.str()]).is_none() {
            e.push(name.invalid("must match one of the container's resource requests"));
        }
        return;
    };
    let label = |c: &Value| match c.str_at(&["request"]).unwrap_or_default() {
        "" => c.str_at(&["name"]).unwrap_or_default().to_owned(),
        request => format!("{}/{request}", c.str_at(&["name"]).unwrap_or_default()),
    };
    let by_claim = spec.list_at(&["resources", "claims"]).iter().any(|c| label(c) == claim);
    if !by_claim && !by_extended_claim(claim, spec, status) {
        e.push(name.invalid("must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty"));
    }
}

fn by_extended_claim(claim: &str, spec: &Value, status: &At) -> bool {
    let extended = status.get("extendedResourceClaimStatus");
    let Some((claim, request)) = claim.split_once('/').filter(|(c, r)| !c.is_empty() && !r.is_empty()) else { return false };
    extended.str_of("resourceClaimName") == claim
        && extended.get("requestMappings").items().any(|m| {
            m.str_of("containerName") == spec.str_at(&["name"]).unwrap_or_default()
                && m.str_of("requestName") == request
                && spec
                    .at(&["resources", "requests", m.str_of("resourceName")])
                    .and_then(knarr_core::quantity::Quantity::from_json)
                    .is_some_and(|q| !q.is_zero())
        })
}
