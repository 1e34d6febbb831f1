//! What an EndpointSlice may say (upstream: `pkg/apis/discovery/validation`).

use knarr_core::field::ErrorList;
use knarr_core::{Value, names};

use crate::at::At;
use crate::pod::validation::PROTOCOLS;
use crate::rules;

const ENDPOINTS_MAX: i64 = 1000;
const ADDRESSES_MAX: i64 = 100;
const PORTS_MAX: i64 = 20_000;
const HINTS_MAX: i64 = 8;

pub fn slice(root: &At, check_endpoints: bool, e: &mut ErrorList) {
    let kind = root.get("addressType");
    kind.one_of(e, &["FQDN", "IPv4", "IPv6"]);
    ports(&root.get("ports"), e);
    if check_endpoints {
        endpoints(&root.get("endpoints"), kind.str(), e);
    }
}

fn too_many(list: &At, max: i64, e: &mut ErrorList) {
    if list.len() as i64 > max {
        e.push(list.too_many(max));
    }
}

fn ports(list: &At, e: &mut ErrorList) {
    too_many(list, PORTS_MAX, e);
    let mut seen: Vec<&str> = Vec::new();
    for port in list.items() {
        let (name, application) = (port.get("name"), port.get("appProtocol"));
        name.optional_name(e, names::is_dns1123_label);
        if seen.contains(&name.str()) {
            e.push(name.duplicate_as(name.str()));
        }
        seen.push(name.str());
        let protocol = port.get("protocol");
        if !protocol.is_set() {
            e.push(protocol.required(""));
        }
        protocol.if_set_one_of(e, &PROTOCOLS);
        if application.is_set() {
            application.problems(e, names::is_qualified_name(application.str()));
        }
    }
}

fn endpoints(list: &At, kind: &str, e: &mut ErrorList) {
    too_many(list, ENDPOINTS_MAX, e);
    for endpoint in list.items() {
        let addresses = endpoint.get("addresses");
        if addresses.is_empty() {
            e.push(addresses.required(""));
        }
        too_many(&addresses, ADDRESSES_MAX, e);
        addresses.items().for_each(|address| validate_address(&addresses, &address, kind, e));
        let (node, host) = (endpoint.get("nodeName"), endpoint.get("hostname"));
        if node.is_set() {
            node.problems(e, names::is_dns1123_subdomain(node.str()));
        }
        if host.is_set() {
            host.problems(e, names::is_dns1123_label(host.str()));
        }
        let hints = endpoint.get("hints");
        hint(&hints.get("forZones"), names::is_label_value, e);
        hint(&hints.get("forNodes"), names::is_dns1123_subdomain, e);
    }
}

/// Upstream names the list when an address is of the wrong family.
fn validate_address(list: &At, address: &At, kind: &str, e: &mut ErrorList) {
    let text = address.str();
    let (problems, is_v6) = match kind {
        "IPv4" => (rules::ip(text), false),
        "IPv6" => (rules::canonical_ip(text), true),
        "FQDN" => return domain(address, e),
        _ => return,
    };
    if !problems.is_empty() {
        address.problems(e, problems);
        return;
    }
    if text.contains(':') != is_v6 {
        e.push(list.invalid_as(text, format!("must be an {kind} address")));
    }
    address.problems(e, rules::endpoint_ip(text));
}

/// A name of at least two labels (upstream: `IsFullyQualifiedDomainName`).
fn domain(place: &At, e: &mut ErrorList) {
    let name = place.str().strip_suffix('.').unwrap_or(place.str());
    if place.is_empty() {
        e.push(place.required(""));
        return;
    }
    let problems = names::is_dns1123_subdomain(name);
    if !problems.is_empty() {
        e.push(place.invalid_as(name, problems.join(",")));
    } else if !name.contains('.') {
        e.push(place.invalid_as(name, "should be a domain with at least two segments separated by dots"));
    } else if let Some((label, problems)) = name.split('.').map(|l| (l, names::is_dns1123_label(l))).find(|(_, p)| !p.is_empty()) {
        e.push(place.invalid_as(label, problems.join(",")));
    }
}

fn hint(list: &At, rule: fn(&str) -> Vec<String>, e: &mut ErrorList) {
    too_many(list, HINTS_MAX, e);
    let mut seen: Vec<&str> = Vec::new();
    for item in list.items() {
        let name = item.get("name");
        if seen.contains(&name.str()) {
            e.push(name.duplicate_as(name.str()));
        }
        seen.push(name.str());
        name.problems(e, rule(name.str()));
    }
}

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLERS: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

pub fn warn(root: &At, old: Option<&Value>, out: &mut Vec<String>) {
    if old.is_none() && root.str_of("addressType") == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".into());
    }
    let metadata = root.get("metadata");
    if CONTROLLERS.contains(&metadata.get("labels").key(MANAGED_BY).str()) {
        return;
    }
    for endpoint in root.get("endpoints").items() {
        endpoint.get("addresses").items().for_each(|address| crate::warnings::ip(&address, out));
    }
}
