//! Endpoints, the older sibling of EndpointSlices (upstream: `pkg/registry/core/endpoint`).

use crate::cells::{Cells, NONE, age, name, number, text};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, names};

use crate::at::{self, At};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, each};
use crate::{pod, rules, semantic, warnings};

pub struct Endpoints;

impl Strategy for Endpoints {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update().judges_prefix_again()
    }

    fn default(&self, object: &mut Value) {
        each(object, &["subsets"], |subset| each(subset, &["ports"], |port| default_if_zero(port, "protocol", "TCP")));
    }

    fn validate_create(&self, _cx: &Context<'_>, object: &Value) -> ErrorList {
        at::check(object, |root, e| subsets(&root.get("subsets"), e))
    }

    /// Subsets that do not change are not looked at.
    fn validate_update(&self, _cx: &Context<'_>, object: &Value, old: &Value) -> ErrorList {
        if semantic::same_at(object, old, &["subsets"]) { ErrorList::new() } else { at::check(object, |root, e| subsets(&root.get("subsets"), e)) }
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        if object.str_at(&["metadata", "labels", MANAGED_BY]) == Some(CONTROLLER) {
            return Vec::new();
        }
        at::warn(object, |root, out| {
            for subset in root.get("subsets").items() {
                for list in ADDRESSES {
                    subset.get(list).items().for_each(|address| warnings::ip(&address.get("ip"), out));
                }
            }
        })
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Cells {
        Some(vec![name(object), addresses(object).into(), age(object, now)])
    }
}

/// The label that says who made the object, and what the controller of Endpoints says there.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";
const ADDRESSES: [&str; 2] = ["addresses", "notReadyAddresses"];

fn subsets(list: &At, e: &mut ErrorList) {
    for subset in list.items() {
        if ADDRESSES.iter().all(|list| subset.get(list).is_empty()) {
            e.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for list in ADDRESSES {
            subset.get(list).items().for_each(|address| validate_address(&address, e));
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            validate_port(&port, ports.len() > 1, e);
        }
    }
}

fn validate_address(address: &At, e: &mut ErrorList) {
    let (ip, node) = (address.get("ip"), address.get("nodeName"));
    ip.problems(e, rules::ip(ip.str()));
    address.get("hostname").optional_name(e, names::is_dns1123_label);
    if node.is_set() {
        node.problems(e, names::is_dns1123_subdomain(node.str()));
    }
    ip.problems(e, rules::endpoint_ip(ip.str()));
}

fn validate_port(port: &At, needs_name: bool, e: &mut ErrorList) {
    let (name, number, application) = (port.get("name"), port.get("port"), port.get("appProtocol"));
    if needs_name && name.is_empty() {
        e.push(name.required(""));
    }
    name.optional_name(e, names::is_dns1123_label);
    e.extend(rules::port_number(number.int()).into_iter().map(|p| number.invalid_as(number.int(), p)));
    port.get("protocol").one_of(e, &pod::validation::PROTOCOLS);
    if application.is_set() {
        application.problems(e, names::is_qualified_name(application.str()));
    }
}

/// How many addresses a cell shows before it says "more".
const SHOWN: usize = 3;

fn addresses(endpoints: &Value) -> String {
    let subsets = endpoints.list_at(&["subsets"]);
    if subsets.is_empty() {
        return NONE.into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || subset.list_at(&["addresses"]).iter().map(|a| text(a, &["ip"]));
        let ports = subset.list_at(&["ports"]);
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| join_host_port(ip, number(port, &["port"]))));
        }
    }
    if all.len() > SHOWN { format!("{} + {} more...", all[..SHOWN].join(","), all.len() - SHOWN) } else { all.join(",") }
}

fn join_host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
