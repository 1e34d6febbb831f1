//! Warnings that several kinds share: what still works, but should be written otherwise.

use std::net::IpAddr;

use knarr_core::field::go_quote;
use knarr_core::{Value, ValueExt, ip, names};

use crate::at::At;
use crate::rules;

/// Node labels that nobody should select by any more (upstream: `pkg/api/node/util.go`).
const DEPRECATED_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What to say about a node label that is deprecated.
pub fn deprecated_node_label(key: &str) -> Option<&'static str> {
    DEPRECATED_LABELS.iter().find(|(label, _)| *label == key).map(|(_, text)| *text)
}

/// Deprecated labels, and values that no label can have, in a node selector term.
pub fn node_selector_term(term: &At, check_values: bool, out: &mut Vec<String>) {
    for expression in term.get("matchExpressions").items() {
        let key = expression.get("key");
        if let Some(text) = deprecated_node_label(key.str()) {
            out.push(format!("{}: {} is {text}", key.path(), key.str()));
        }
        if !check_values {
            continue;
        }
        for value in expression.get("values").items() {
            out.extend(names::is_label_value(value.str()).into_iter().map(|p| format!("{}: {} is invalid, {p}", value.path(), value.str())));
        }
    }
}

/// An address that is not written as it should be.
pub fn ip(place: &At, out: &mut Vec<String>) {
    let value = place.str();
    let Some(parsed) = ip::parse_sloppy(value) else { return };
    let shown = |text: &str| format!("{}: {text}", place.path());
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_none() => {
            if ip.to_string() != value {
                out.push(shown(&format!("IPv6 address {} should be in RFC 5952 canonical format (\"{ip}\")", go_quote(value))));
            }
        }
        Ok(IpAddr::V4(_)) => {}
        _ => out.push(shown(&format!("non-standard IP address {} is invalid: use \"{}\"", go_quote(value), parsed.to_canonical()))),
    }
}

/// A range that is not written as it should be.
pub fn cidr(place: &At, out: &mut Vec<String>) {
    let value = place.str();
    let Some(range) = rules::parse_cidr_sloppy(value) else { return };
    let shown = |text: String| format!("{}: {text}", place.path());
    let (quoted, proper) = (go_quote(value), range.trunc());
    let before = out.len();
    if range.addr() != proper.addr() {
        out.push(shown(format!(
            "CIDR value {quoted} is ambiguous in this context (should be \"{proper}\" or \"{}/{}\"?)",
            range.addr(),
            range.max_prefix_len()
        )));
    }
    let mapped = matches!(range.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    if mapped || value.parse::<ipnet::IpNet>().is_err() || value.contains("/0") && !value.ends_with("/0") {
        out.push(shown(format!("non-standard CIDR value {quoted} is invalid: use \"{proper}\"")));
    }
    if out.len() == before && range.addr().is_ipv6() && range.to_string() != value {
        out.push(shown(format!("IPv6 CIDR value {quoted} should be in RFC 5952 canonical format (\"{range}\")")));
    }
}

/// A name that becomes part of the host names of pods.
pub fn host_name_of_pods(object: &Value, of: &str, out: &mut Vec<String>) {
    let problems = names::is_dns1123_label(object.str_at(&["metadata", "name"]).unwrap_or_default());
    if !problems.is_empty() {
        out.push(format!("metadata.name: this is used in {of}, which can result in surprising behavior; a DNS label is recommended: [{}]", problems.join(" ")));
    }
}
