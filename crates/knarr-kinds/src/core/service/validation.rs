//! What a Service may say, and what may change of it (upstream: `ValidateService…` in `pkg/apis/core/validation`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, ValueExt, ip, names};

use super::allocation::needs_health_check_node_port;
use super::is_externally_accessible;
use crate::at::At;
use crate::metadata::IMMUTABLE;
use crate::pod::validation::PROTOCOLS;
use crate::{rules, warnings};

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITIES: [&str; 2] = ["ClientIP", "None"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
const AFFINITY_SECONDS_MAX: i64 = 86_400;
const BALANCERS_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const ONE_PER_FAMILY: &str = "may specify no more than one IP for each IP family";
const FOR_CLIENT_IP: &str = "when session affinity type is ClientIP";
const SET_ONCE: &str = "may not change once set";

/// A Service as a whole, new or after an update.
pub fn service(root: &At, old: Option<&Value>, e: &mut ErrorList) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let annotations = metadata.get("annotations");
    topology(&annotations, e);
    let headless = is_headless(spec.value());
    let kind = spec.str_of("type");
    if spec.get("ports").is_empty() && !headless && kind != "ExternalName" {
        e.push(spec.get("ports").required(""));
    }
    if headless && matches!(kind, "LoadBalancer" | "NodePort") {
        e.push(spec.get("clusterIPs").index(0).invalid(format!("may not be set to 'None' for {kind} services")));
    }
    if kind == "ExternalName" {
        external_name(&spec, e);
    }
    ports(&spec.get("ports"), e);
    spec.get("selector").labels(e);
    session_affinity(&spec, e);
    cluster_ips(&spec, old, e);
    external_ips(&spec.get("externalIPs"), old, e);
    spec.get("type").one_of(e, &TYPES);
    node_ports(&spec, e);
    source_ranges(&spec, &annotations, old, e);
    let allocates = spec.get("allocateLoadBalancerNodePorts");
    if kind == "LoadBalancer" && !allocates.is_set() {
        e.push(root.shown_as("allocateLoadBalancerNodePorts", None).required(""));
    } else if kind != "LoadBalancer" && allocates.is_set() {
        e.push(allocates.forbidden(BALANCERS_ONLY));
    }
    balancer_class(&spec, e);
    traffic(&spec, e);
}

fn topology(annotations: &At, e: &mut ErrorList) {
    let (hints, mode) = (annotations.key(TOPOLOGY_HINTS), annotations.key(TOPOLOGY_MODE));
    if hints.is_set() && mode.is_set() && hints.str() != mode.str() {
        e.push(mode.invalid(format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified")));
    }
}

fn is_headless(spec: Option<&Value>) -> bool {
    spec.is_some_and(|s| matches!(s.list_at(&["clusterIPs"]), [one] if one == "None"))
}

fn external_name(spec: &At, e: &mut ErrorList) {
    for (field, set) in
        ["clusterIPs", "ipFamilies"].map(|f| (f, !spec.get(f).is_empty())).into_iter().chain([("ipFamilyPolicy", spec.get("ipFamilyPolicy").is_set())])
    {
        if set {
            e.push(spec.get(field).forbidden("may not be set for ExternalName services"));
        }
    }
    let name = spec.get("externalName");
    match name.str().strip_suffix('.').unwrap_or(name.str()) {
        "" => e.push(name.required("")),
        domain => e.extend(names::is_dns1123_subdomain(domain).into_iter().map(|p| name.invalid_as(domain, p))),
    }
}

fn ports(ports: &At, e: &mut ErrorList) {
    let mut port_names: BTreeSet<&str> = BTreeSet::new();
    let mut pairs: Vec<(&str, i64)> = Vec::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            name.problems(e, names::is_dns1123_label(name.str()));
            if !port_names.insert(name.str()) {
                e.push(name.duplicate());
            }
        } else if ports.len() > 1 {
            e.push(name.required(""));
        }
        let number = port.get("port");
        e.extend(rules::port_number(number.int()).into_iter().map(|p| number.invalid_as(number.int(), p)));
        port.get("protocol").one_of(e, &PROTOCOLS);
        crate::pod::validation::port_number_or_name(&port.get("targetPort"), e);
        if port.get("appProtocol").is_set() {
            port.get("appProtocol").problems(e, names::is_qualified_name(port.str_of("appProtocol")));
        }
    }
    for port in ports.items() {
        let pair = (port.str_of("protocol"), port.get("port").int());
        if pairs.contains(&pair) {
            // Upstream shows its own struct, with what the port is not known by empty.
            let protocol = knarr_core::field::go_quote(pair.0);
            let shown = format!(r#"{{"Name":"","Protocol":{protocol},"AppProtocol":null,"Port":{},"TargetPort":0,"NodePort":0}}"#, pair.1);
            e.push(port.duplicate().showing(shown));
        }
        pairs.push(pair);
    }
}

fn session_affinity(spec: &At, e: &mut ErrorList) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    affinity.one_of(e, &AFFINITIES);
    if affinity.str() == "None" && config.is_set() {
        e.push(config.forbidden("must not be set when session affinity is None"));
    }
    if affinity.str() != "ClientIP" {
        return;
    }
    let client = config.get("clientIP");
    let seconds = client.get("timeoutSeconds");
    if let Some(missing) = [config, client, seconds].iter().find(|p| !p.is_set()) {
        e.push(missing.required(FOR_CLIENT_IP));
    } else if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds.int()) {
        e.push(seconds.invalid(format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}")));
    }
}

/// The same before addresses are given out (upstream asks for it there, too).
pub fn cluster_addresses(service: &Value, old: Option<&Value>) -> ErrorList {
    crate::at::check(service, |root, e| cluster_ips(&root.get("spec"), old, e))
}

/// Cluster addresses and their families belong together.
fn cluster_ips(spec: &At, old: Option<&Value>, e: &mut ErrorList) {
    if spec.str_of("type") == "ExternalName" {
        return;
    }
    let (single, list, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    if single.is_empty() {
        if !list.is_empty() {
            e.push(list.invalid("must be empty when `clusterIP` is not specified"));
        }
    } else if list.is_empty() {
        e.push(list.required(""));
    } else if list.index(0).str() != single.str() {
        e.push(list.invalid("first value must match `clusterIP`"));
    }
    let mut seen = BTreeSet::new();
    for family in families.items() {
        family.if_set_one_of(e, &["IPv4", "IPv6"]);
        if !seen.insert(family.str()) {
            e.push(family.duplicate());
        }
    }
    spec.get("ipFamilyPolicy").if_set_one_of(e, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    if !addresses(&list, old, e) {
        return;
    }
    if list.len() > 1 && !rules::is_dual_stack(list.strings().filter_map(ip::parse_sloppy)) {
        e.push(list.invalid(ONE_PER_FAMILY));
    }
    if is_headless(spec.value()) {
        return;
    }
    for (i, (ip, family)) in list.items().zip(families.strings()).enumerate() {
        let is_v6 = matches!(ip::parse_sloppy(ip.str()), Some(IpAddr::V6(_)));
        if (family == "IPv4" && is_v6) || (family == "IPv6" && !is_v6) {
            e.push(ip.invalid(format!("expected an {family} value as indicated by `ipFamilies[{i}]`")));
        }
    }
}

/// Whether each is an address.
fn addresses(list: &At, old: Option<&Value>, e: &mut ErrorList) -> bool {
    let before = e.len();
    let known = old.map_or(&[][..], |o| o.list_at(&["spec", "clusterIPs"]));
    for (i, ip) in list.items().enumerate() {
        if i == 0 && ip.str() == "None" {
            if list.len() > 1 {
                e.push(list.invalid("'None' must be the first and only value"));
            }
        } else if !known.iter().any(|k| k == ip.str()) {
            ip.problems(e, rules::ip(ip.str()));
        }
    }
    let good = e.len() == before;
    if list.len() > 2 {
        e.push(list.invalid("may only hold up to 2 values"));
    }
    good
}

fn external_ips(list: &At, old: Option<&Value>, e: &mut ErrorList) {
    let known = old.map_or(&[][..], |o| o.list_at(&["spec", "externalIPs"]));
    for ip in list.items() {
        let problems = if known.iter().any(|k| k == ip.str()) { Vec::new() } else { rules::ip(ip.str()) };
        let problems = if problems.is_empty() { rules::endpoint_ip(ip.str()) } else { problems };
        ip.problems(e, problems);
    }
}

fn node_ports(spec: &At, e: &mut ErrorList) {
    let ports = spec.get("ports");
    let mut seen: Vec<(&str, i64)> = Vec::new();
    for port in ports.items().filter(|p| p.get("nodePort").int() != 0) {
        let place = port.get("nodePort");
        if spec.str_of("type") == "ClusterIP" {
            e.push(place.forbidden("may not be used when `type` is 'ClusterIP'"));
        }
        let pair = (port.str_of("protocol"), place.int());
        if seen.contains(&pair) {
            e.push(place.duplicate());
        }
        seen.push(pair);
    }
}

/// Who may reach a load balancer; an annotation says it where there is no field.
fn source_ranges(spec: &At, annotations: &At, old: Option<&Value>, e: &mut ErrorList) {
    let is_balancer = spec.str_of("type") == "LoadBalancer";
    let ranges = spec.get("loadBalancerSourceRanges");
    let place = spec.shown_as("LoadBalancerSourceRanges", ranges.value());
    if !ranges.is_empty() {
        if !is_balancer {
            e.push(place.forbidden(BALANCERS_ONLY));
        }
        let known: Vec<&str> =
            old.map_or(&[][..], |o| o.list_at(&["spec", "loadBalancerSourceRanges"])).iter().filter_map(Value::as_str).map(str::trim).collect();
        for range in place.items() {
            let text = range.str().trim();
            if !known.contains(&text) {
                e.extend(rules::cidr(text).into_iter().map(|p| range.invalid_as(text, p)));
            }
        }
        return;
    }
    let noted = annotations.key(SOURCE_RANGES);
    if !noted.is_set() {
        return;
    }
    if !is_balancer {
        e.push(noted.forbidden(BALANCERS_ONLY));
    }
    let text = noted.str().trim();
    let as_before = old.is_some_and(|o| o.str_at(&["metadata", "annotations", SOURCE_RANGES]) == Some(noted.str()));
    if !as_before && !text.is_empty() {
        for range in text.split(',').map(str::trim) {
            e.extend(rules::cidr(range).into_iter().map(|p| noted.invalid_as(range, p)));
        }
    }
}

fn balancer_class(spec: &At, e: &mut ErrorList) {
    let class = spec.get("loadBalancerClass");
    if !class.is_set() {
        return;
    }
    if spec.str_of("type") == "LoadBalancer" {
        class.problems(e, names::is_qualified_name(class.str()));
    } else {
        e.push(class.forbidden(BALANCERS_ONLY));
    }
}

fn traffic(spec: &At, e: &mut ErrorList) {
    let none = Value::Null;
    let value = spec.value().unwrap_or(&none);
    let (external, check, internal) = (spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort"), spec.get("internalTrafficPolicy"));
    if is_externally_accessible(value) {
        external.one_of(e, &POLICIES);
    } else if !external.is_empty() {
        e.push(external.invalid("may only be set for externally-accessible services"));
    }
    match (needs_health_check_node_port(value), check.int()) {
        (false, 0) => {}
        (false, _) => e.push(check.invalid("may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")),
        (true, 0) => e.push(check.required("")),
        (true, port) => check.problems(e, rules::port_number(port)),
    }
    if !internal.is_set() && matches!(spec.str_of("type"), "NodePort" | "LoadBalancer" | "ClusterIP") {
        e.push(internal.required(""));
    }
    internal.if_set_one_of(e, &POLICIES);
    spec.get("trafficDistribution").if_set_one_of(e, &DISTRIBUTIONS);
}

/// What holds of a change.
pub fn update(root: &At, old: &Value, e: &mut ErrorList) {
    let (spec, none) = (root.get("spec"), Value::Null);
    let before = old.at(&["spec"]).unwrap_or(&none);
    let after = spec.value().unwrap_or(&none);
    let is = |spec: &Value, kind: &str| spec.str_at(&["type"]) == Some(kind);
    if !is(before, "ExternalName") && !is(after, "ExternalName") {
        let (was_headless, headless) = (is_headless(Some(before)), is_headless(Some(after)));
        if !(was_headless && headless) {
            cluster_ips_update(&spec, before, e);
        }
        if !was_headless && !headless {
            families_update(&spec, before, e);
        }
    }
    if is(before, "LoadBalancer") && is(after, "LoadBalancer") && before.at(&["loadBalancerClass"]) != after.at(&["loadBalancerClass"]) {
        e.push(spec.get("loadBalancerClass").invalid_as(after.at(&["loadBalancerClass"]).cloned().unwrap_or_default(), SET_ONCE));
    }
    let port = |spec: &Value| spec.i64_at(&["healthCheckNodePort"]);
    if needs_health_check_node_port(before) && needs_health_check_node_port(after) && port(before) != port(after) {
        e.push(spec.get("healthCheckNodePort").forbidden(IMMUTABLE));
    }
    service(root, Some(old), e);
}

fn released(spec: &At, what: &str, e: &mut ErrorList) {
    let policy = spec.get("ipFamilyPolicy");
    if policy.str() != "SingleStack" {
        let shown = policy.value().cloned().unwrap_or_default();
        e.push(policy.invalid_as(shown, format!("must be set to 'SingleStack' when releasing the secondary {what}")));
    }
}

fn cluster_ips_update(spec: &At, before: &Value, e: &mut ErrorList) {
    let (list, old) = (spec.get("clusterIPs"), before.list_at(&["clusterIPs"]));
    let refuse = |i: usize, text: &str| Error::invalid(&list.path().index(i), list.value().cloned().unwrap_or_default(), text);
    if old.len() == list.len() {
        let changed = list.items().zip(old).enumerate().filter(|(_, (new, old))| new.value() != Some(*old));
        e.extend(changed.map(|(i, _)| refuse(i, SET_ONCE)));
        return;
    }
    if list.is_empty() {
        e.push(refuse(0, "primary clusterIP can not be unset"));
    } else if old.first().is_some_and(|first| list.index(0).value() != Some(first)) {
        e.push(refuse(0, SET_ONCE));
    }
    if old.len() > list.len() && list.len() == 1 {
        released(spec, "clusterIP", e);
    }
}

fn families_update(spec: &At, before: &Value, e: &mut ErrorList) {
    let (list, ips, old) = (spec.get("ipFamilies"), spec.get("clusterIPs"), before.list_at(&["ipFamilies"]));
    let place = list.path().index(0);
    let shown = |of: &At| of.value().cloned().unwrap_or_default();
    if old.len() == list.len() {
        let changed = list.items().zip(old).filter(|(new, old)| new.value() != Some(*old)).count();
        e.extend((0..changed).map(|_| Error::invalid(&place, shown(&list), SET_ONCE)));
        return;
    }
    if old.len() > list.len() && ips.is_empty() {
        e.push(Error::invalid(&place, shown(&list), "primary ipFamily can not be unset"));
    }
    if !list.is_empty() && old.first().is_some_and(|first| list.index(0).value() != Some(first)) {
        e.push(Error::invalid(&place, shown(&ips), SET_ONCE));
    }
    if old.len() > list.len() && list.len() == 1 {
        released(spec, "ipFamily", e);
    }
}

/// Addresses of the load balancer.
pub fn status(root: &At, old: &Value, e: &mut ErrorList) {
    let (status, spec) = (root.get("status"), root.get("spec"));
    let balancer = status.get("loadBalancer");
    let list = balancer.get("ingress");
    if spec.str_of("type") != "LoadBalancer" && !list.is_empty() {
        e.push(list.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        return;
    }
    let known = old.list_at(&["status", "loadBalancer", "ingress"]);
    for ingress in list.items() {
        let (ip, mode) = (ingress.get("ip"), ingress.get("ipMode"));
        if !ip.is_empty() && !known.iter().any(|k| k.str_at(&["ip"]) == Some(ip.str())) {
            ip.problems(e, rules::ip(ip.str()));
        }
        match (mode.is_set(), ip.is_empty()) {
            (false, false) => e.push(mode.required("must be specified when `ip` is set")),
            (true, true) => e.push(mode.forbidden("may not be specified when `ip` is not set")),
            _ => mode.if_set_one_of(e, &["Proxy", "VIP"]),
        }
        host_name(&ingress.get("hostname"), e);
    }
}

/// A name that is no address.
pub fn host_name(name: &At, e: &mut ErrorList) {
    name.optional_name(e, names::is_dns1123_subdomain);
    if ip::parse_sloppy(name.str()).is_some() {
        e.push(name.invalid("must be a DNS name, not an IP address"));
    }
}

/// What works, but should not be done (upstream: `GetWarningsForService`).
pub fn warn(root: &At, out: &mut Vec<String>) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    if metadata.get("annotations").key(TOPOLOGY_HINTS).is_set() {
        out.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let (ip, kind, external) = (spec.str_of("clusterIP"), spec.str_of("type"), spec.get("externalIPs"));
    if !matches!(ip, "" | "None") {
        spec.get("clusterIPs").items().for_each(|ip| warnings::ip(&ip, out));
    }
    let headless = kind == "ClusterIP" && ip == "None";
    if headless {
        let ignored = [
            (!spec.get("loadBalancerIP").is_empty(), "loadBalancerIP"),
            (!external.is_empty(), "externalIPs"),
            (spec.str_of("sessionAffinity") != "None", "SessionAffinity"),
        ];
        out.extend(ignored.iter().filter(|(set, _)| *set).map(|(_, field)| format!("spec.{field} is ignored for headless services")));
    }
    external.items().for_each(|ip| warnings::ip(&ip, out));
    if !external.is_empty() && !headless && kind != "ExternalName" {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    warnings::ip(&spec.get("loadBalancerIP"), out);
    spec.get("loadBalancerSourceRanges").items().for_each(|range| warnings::cidr(&range, out));
    if kind == "ExternalName" && !external.is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && !spec.get("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec.str_of("trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
}

/// Warnings about addresses in the status.
pub fn warn_status(service: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let path = Path::new("status.loadBalancer.ingress");
    for (i, ingress) in service.list_at(&["status", "loadBalancer", "ingress"]).iter().enumerate() {
        let place = path.index(i);
        let root = At::root(service);
        warnings::ip(&root.shown_as(place.as_str(), ingress.at(&["ip"])), &mut out);
    }
    out
}
