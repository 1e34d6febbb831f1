//! What the kinds of `networking.k8s.io` may say (upstream: `pkg/apis/networking/validation`).

use knarr_core::field::{Error, ErrorList};
use knarr_core::{Value, ValueExt, ip, names};

use crate::at::At;
use crate::core::service::validation::host_name;
use crate::metadata::IMMUTABLE;
use crate::rules;
use crate::tree::strings;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const CONTROLLER_MAX: i64 = 250;
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_SUFFIXES: [&str; 2] = ["/..", "/."];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const BOTH_FAMILIES: &str = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";

/// The spec of a NetworkPolicy.
pub fn policy(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    let lenient = old.is_some_and(|o| !crate::metadata::label_selector(o.at(&["spec", "podSelector"]), &knarr_core::field::Path::root()).is_empty());
    let known: Vec<&str> = old.map_or(Vec::new(), ranges);
    spec.get("podSelector").label_selector_ratcheting(lenient, e);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            rule.get("ports").items().for_each(|port| policy_port(&port, e));
            rule.get(peers).items().for_each(|peer| policy_peer(&peer, lenient, &known, e));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        e.push(types.invalid("may not specify more than two policyTypes"));
    }
    types.items().for_each(|kind| kind.if_set_one_of(e, &["Ingress", "Egress"]));
}

/// All ranges of addresses in a policy.
fn ranges(policy: &Value) -> Vec<&str> {
    let peers = [("ingress", "from"), ("egress", "to")]
        .into_iter()
        .flat_map(|(direction, peers)| policy.list_at(&["spec", direction]).iter().flat_map(move |r| r.list_at(&[peers])));
    peers.filter_map(|p| p.at(&["ipBlock"])).flat_map(|b| b.str_at(&["cidr"]).into_iter().chain(strings(b, &["except"]))).collect()
}

fn policy_port(port: &At, e: &mut ErrorList) {
    port.get("protocol").if_set_one_of(e, &PROTOCOLS);
    let (number, end) = (port.get("port"), port.get("endPort"));
    match number.value() {
        None if end.is_set() => e.push(end.invalid("may not be specified when `port` is not specified")),
        None => {}
        Some(Value::String(name)) => {
            if end.is_set() {
                e.push(end.invalid("may not be specified when `port` is non-numeric"));
            }
            number.problems(e, rules::port_name(name));
        }
        Some(_) => {
            number.problems(e, rules::port_number(number.int()));
            if end.is_set() {
                if end.int() < number.int() {
                    e.push(end.invalid("must be greater than or equal to `port`"));
                }
                end.problems(e, rules::port_number(end.int()));
            }
        }
    }
}

fn policy_peer(peer: &At, lenient: bool, known: &[&str], e: &mut ErrorList) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    pods.label_selector_ratcheting(lenient, e);
    namespaces.label_selector_ratcheting(lenient, e);
    if block.is_set() {
        ip_block(&block, known, e);
    }
    match [&pods, &namespaces, &block].iter().filter(|p| p.is_set()).count() {
        0 => e.push(peer.required("must specify a peer")),
        1 => {}
        _ if block.is_set() => e.push(peer.forbidden("may not specify both ipBlock and another peer")),
        _ => {}
    }
}

fn ip_block(block: &At, known: &[&str], e: &mut ErrorList) {
    let cidr = block.get("cidr");
    if cidr.is_empty() {
        e.push(cidr.required(""));
        return;
    }
    let good = |place: &At, e: &mut ErrorList| {
        if !known.contains(&place.str()) {
            e.extend(rules::cidr(place.str()).into_iter().map(|p| place.invalid_as(place.str(), p)));
        }
    };
    good(&cidr, e);
    let Some(whole) = rules::parse_cidr_sloppy(cidr.str()) else { return };
    for except in block.get("except").items() {
        good(&except, e);
        let Some(part) = rules::parse_cidr_sloppy(except.str()) else { continue };
        let inside = whole.trunc().contains(&part.network()) && whole.prefix_len() < part.prefix_len();
        if !inside {
            e.push(except.invalid("must be a strict subset of `cidr`"));
        }
    }
}

/// Ranges of a policy that are not written as they should be.
pub fn warn_policy(root: &At, out: &mut Vec<String>) {
    let spec = root.get("spec");
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            for peer in rule.get(peers).items() {
                let block = peer.get("ipBlock");
                crate::warnings::cidr(&block.get("cidr"), out);
                block.get("except").items().for_each(|except| crate::warnings::cidr(&except, out));
            }
        }
    }
}

/// What an Ingress that stands did wrong.
struct Lenient {
    secret_names: bool,
    wildcard_rules: bool,
}

/// An Ingress, new or after an update.
pub fn ingress(root: &At, old: Option<&Value>, e: &mut ErrorList) {
    let spec = root.get("spec");
    let lenient = Lenient {
        secret_names: old
            .is_some_and(|o| o.list_at(&["spec", "tls"]).iter().any(|tls| !secret_name(tls.str_at(&["secretName"]).unwrap_or_default()).is_empty())),
        wildcard_rules: old.is_some_and(|o| o.list_at(&["spec", "rules"]).iter().any(is_bad_wildcard_rule)),
    };
    let (backend, rules) = (spec.get("defaultBackend"), spec.get("rules"));
    if rules.is_empty() && !backend.is_set() {
        e.push(spec.invalid_as(Value::Null, "either `defaultBackend` or `rules` must be specified"));
    }
    if backend.is_set() {
        ingress_backend(&backend, e);
    }
    for rule in rules.items() {
        let host = rule.get("host");
        if ip::parse_sloppy(host.str()).is_some() {
            e.push(host.invalid("must be a DNS name, not an IP address"));
        }
        host_or_wildcard(&host, e);
        if !(host.str().contains('*') && lenient.wildcard_rules) {
            ingress_paths(&rule, e);
        }
    }
    for tls in spec.get("tls").items() {
        tls.get("hosts").items().for_each(|host| if host.is_empty() { host.problems(e, names::is_dns1123_subdomain("")) } else { host_or_wildcard(&host, e) });
        if !lenient.secret_names {
            let name = tls.get("secretName");
            name.problems(e, secret_name(name.str()));
        }
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        class.problems(e, names::is_dns1123_subdomain(class.str()));
    }
    let metadata = root.get("metadata");
    let noted = root.shown_as("annotations", metadata.get("annotations").value());
    let noted = noted.get(CLASS_ANNOTATION);
    if old.is_none() && noted.is_set() && class.is_set() && noted.str() != class.str() {
        e.push(noted.invalid("must match `ingressClassName` when both are specified"));
    }
}

fn secret_name(name: &str) -> Vec<String> {
    if name.is_empty() { Vec::new() } else { names::is_dns1123_subdomain(name) }
}

fn is_bad_wildcard_rule(rule: &Value) -> bool {
    let mut e = ErrorList::new();
    ingress_paths(&At::root(rule), &mut e);
    !e.is_empty() && rule.str_at(&["host"]).is_some_and(|h| h.contains('*'))
}

fn host_or_wildcard(host: &At, e: &mut ErrorList) {
    host.optional_name(e, if host.str().contains('*') { rules::wildcard_dns_subdomain } else { names::is_dns1123_subdomain });
}

fn ingress_paths(rule: &At, e: &mut ErrorList) {
    let http = rule.get("http");
    if !http.is_set() {
        return;
    }
    let paths = http.get("paths");
    if paths.is_empty() {
        e.push(paths.required(""));
    }
    paths.items().for_each(|path| ingress_path(&path, e));
}

fn ingress_path(place: &At, e: &mut ErrorList) {
    let (kind, path) = (place.get("pathType"), place.get("path"));
    if !kind.is_set() {
        e.push(kind.required("pathType must be specified"));
        return;
    }
    let relative = !path.str().starts_with('/');
    match kind.str() {
        "Exact" | "Prefix" => {
            if relative {
                e.push(path.invalid("must be an absolute path"));
            }
            e.extend(BAD_SEQUENCES.iter().filter(|s| path.str().contains(**s)).map(|s| path.invalid(format!("must not contain '{s}'"))));
            e.extend(BAD_SUFFIXES.iter().filter(|s| path.str().ends_with(**s)).map(|s| path.invalid(format!("cannot end with '{s}'"))));
        }
        "ImplementationSpecific" if relative && !path.is_empty() => e.push(path.invalid("must be an absolute path")),
        "ImplementationSpecific" => {}
        _ => e.push(kind.not_supported(&["Exact", "ImplementationSpecific", "Prefix"])),
    }
    ingress_backend(&place.get("backend"), e);
}

fn ingress_backend(backend: &At, e: &mut ErrorList) {
    let (resource, service) = (backend.get("resource"), backend.get("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => e.push(backend.invalid_as("", "cannot set both resource and service backends")),
        (true, false) => reference(&resource, e),
        (false, true) => service_backend(backend, &service, e),
        (false, false) => e.push(backend.invalid_as("", "resource or service backend is required")),
    }
}

fn service_backend(backend: &At, service: &At, e: &mut ErrorList) {
    service.get("name").name(e, names::is_dns1123_label);
    let port = service.get("port");
    let (name, number) = (port.get("name"), port.get("number"));
    match (!name.is_empty(), number.int() != 0) {
        (true, true) => e.push(backend.invalid_as("", "cannot set both port name & port number")),
        (true, false) => name.problems(e, rules::port_name(name.str())),
        (false, true) => number.problems(e, rules::port_number(number.int())),
        (false, false) => e.push(backend.required("port name or number is required")),
    }
}

/// A reference to an object of any kind, here or wherever its scope says.
fn reference(reference: &At, e: &mut ErrorList) {
    let group = reference.get("apiGroup");
    if group.is_set() {
        group.problems(e, names::is_dns1123_subdomain(group.str()));
    }
    reference.get("kind").name(e, names::is_path_segment);
    reference.get("name").name(e, names::is_path_segment);
}

/// Addresses that a controller says an Ingress has.
pub fn ingress_status(root: &At, old: &Value, e: &mut ErrorList) {
    let status = root.get("status");
    let known = old.list_at(&["status", "loadBalancer", "ingress"]);
    for ingress in status.get("loadBalancer").get("ingress").items() {
        let ip = ingress.get("ip");
        if !ip.is_empty() && !known.iter().any(|k| k.str_at(&["ip"]) == Some(ip.str())) {
            ip.problems(e, rules::ip(ip.str()));
        }
        host_name(&ingress.get("hostname"), e);
    }
}

pub fn warn_ingress(ingress: &Value, old: Option<&Value>) -> Vec<String> {
    let noted = ingress.at(&["metadata", "annotations", CLASS_ANNOTATION]).is_some();
    if old.is_none() && noted && ingress.at(&["spec", "ingressClassName"]).is_none() {
        vec![format!("annotation \"{CLASS_ANNOTATION}\" is deprecated, please use 'spec.ingressClassName' instead")]
    } else {
        Vec::new()
    }
}

/// An IngressClass, new or after an update.
pub fn ingress_class(root: &At, old: Option<&Value>, e: &mut ErrorList) {
    let spec = root.get("spec");
    let (controller, parameters) = (spec.get("controller"), spec.get("parameters"));
    if let Some(old) = old
        && controller.str() != old.str_at(&["spec", "controller"]).unwrap_or_default()
    {
        e.push(controller.invalid(IMMUTABLE));
    }
    if controller.str().len() as i64 > CONTROLLER_MAX {
        e.push(controller.too_long(CONTROLLER_MAX));
    }
    crate::batch::validation::domain_prefixed_path(&controller, e);
    if !parameters.is_set() {
        return;
    }
    reference(&parameters, e);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    if !scope.is_set() {
        e.push(scope.required(""));
    }
    match scope.str() {
        "Namespace" if !namespace.is_set() => e.push(namespace.required("`parameters.scope` is set to 'Namespace'")),
        "Namespace" => namespace.problems(e, names::is_dns1123_label(namespace.str())),
        "Cluster" if namespace.is_set() => e.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'")),
        "Cluster" => {}
        _ => e.push(scope.not_supported(&["Cluster", "Namespace"])),
    }
}

/// An IPAddress, new or after an update.
pub fn ip_address(root: &At, old: Option<&Value>, e: &mut ErrorList) {
    let spec = root.get("spec");
    let parent = spec.get("parentRef");
    if parent.is_set() {
        parent.get("group").optional_name(e, names::is_dns1123_subdomain);
        parent.get("resource").name(e, names::is_path_segment);
        parent.get("name").name(e, names::is_path_segment);
        parent.get("namespace").optional_name(e, names::is_path_segment);
    } else {
        e.push(parent.required(""));
    }
    if let Some(old) = old {
        parent.immutable_untold(old.at(&["spec", "parentRef"]), e);
    }
}

/// Ranges of a ServiceCIDR.
pub fn service_cidrs(list: &At, e: &mut ErrorList) {
    if list.is_empty() {
        e.push(list.required("at least one CIDR required"));
    }
    if list.len() > 2 {
        e.push(list.invalid_as(knarr_core::json!({"CIDRs": list.value()}), "may only hold up to 2 values"));
    }
    for cidr in list.items() {
        cidr.problems(e, rules::canonical_cidr(cidr.str()));
    }
    let parsed: Vec<_> = list.strings().filter_map(rules::parse_cidr_sloppy).collect();
    if let [a, b] = parsed[..]
        && list.len() == 2
        && a.addr().is_ipv4() == b.addr().is_ipv4()
    {
        e.push(list.invalid(BOTH_FAMILIES));
    }
}

/// A ServiceCIDR may get a second family, nothing else.
pub fn service_cidrs_update(list: &At, old: &Value, e: &mut ErrorList) {
    let before = old.list_at(&["spec", "cidrs"]);
    let changed = |i: usize| list.index(i).value() != before.get(i);
    match (before.len(), list.len()) {
        (old, new) if old == new => e.extend((0..new).filter(|i| changed(*i)).map(|i| list.index(i).invalid(IMMUTABLE))),
        (1, 2) => {
            if changed(0) {
                e.push(list.index(0).invalid(IMMUTABLE));
            }
            service_cidrs(list, e);
        }
        _ => e.push(Error::invalid(&list.path(), list.value().cloned().unwrap_or_default(), IMMUTABLE)),
    }
}
