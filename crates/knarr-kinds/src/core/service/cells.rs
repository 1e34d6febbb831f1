//! The table row of a Service (upstream: `printService`).

use std::collections::BTreeSet;

use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::cells::{NONE, age, labels, name, number, text};
use crate::tree::strings;

pub fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    let address = strings(service, &["spec", "clusterIPs"]).next();
    let ports = ports(service);
    vec![
        name(service),
        text(service, &["spec", "type"]).into(),
        address.unwrap_or(NONE).into(),
        external(service).into(),
        if ports.is_empty() { NONE.into() } else { ports.into() },
        age(service, now),
        labels(service.at(&["spec", "selector"])).into(),
    ]
}

fn external(service: &Value) -> String {
    let given: Vec<&str> = strings(service, &["spec", "externalIPs"]).collect();
    let or = |list: Vec<&str>, otherwise: &str| if list.is_empty() { otherwise.to_owned() } else { list.join(",") };
    match text(service, &["spec", "type"]) {
        "ClusterIP" | "NodePort" => or(given, NONE),
        "LoadBalancer" => or(load_balancer_addresses(service).into_iter().chain(given).collect(), "<pending>"),
        "ExternalName" => text(service, &["spec", "externalName"]).into(),
        _ => "<unknown>".into(),
    }
}

/// Addresses or names under which a load balancer is reached, sorted.
pub fn load_balancer_addresses(object: &Value) -> BTreeSet<&str> {
    let one = |ingress| [text(ingress, &["ip"]), text(ingress, &["hostname"])].into_iter().find(|s| !s.is_empty());
    object.list_at(&["status", "loadBalancer", "ingress"]).iter().filter_map(one).collect()
}

fn ports(service: &Value) -> String {
    let one = |port: &Value| {
        let (number_, node, protocol) = (number(port, &["port"]), number(port, &["nodePort"]), text(port, &["protocol"]));
        if node > 0 { format!("{number_}:{node}/{protocol}") } else { format!("{number_}/{protocol}") }
    };
    service.list_at(&["spec", "ports"]).iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_row_tells_where_a_service_is_reached() {
        let at = |spec: Value, status: Value| {
            let row = cells(&json!({"metadata": {"name": "s"}, "spec": spec, "status": status}), Timestamp::UNIX_EPOCH);
            row[1..5].iter().map(|c| c.as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            at(json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "TCP"}]}), json!({})),
            "ClusterIP 10.0.0.1 <none> 80/TCP"
        );
        assert_eq!(
            at(
                json!({"type": "LoadBalancer", "externalIPs": ["9.9.9.9"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}),
                json!({"loadBalancer": {"ingress": [{"hostname": "z"}, {"ip": "1.1.1.1"}]}})
            ),
            "LoadBalancer <none> 1.1.1.1,z,9.9.9.9 80:30080/TCP"
        );
        assert_eq!(at(json!({"type": "LoadBalancer"}), json!({})), "LoadBalancer <none> <pending> <none>");
        assert_eq!(at(json!({"type": "ExternalName", "externalName": "a.b"}), json!({})), "ExternalName <none> a.b <none>");
    }
}
