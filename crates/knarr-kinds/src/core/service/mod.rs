//! Services: defaulting and what a change of type clears (upstream: `pkg/registry/core/service`).
//!
//! Addresses and ports are given out by the server; [`allocation`] says for which Services, and how the fields that name them
//! stay consistent.

pub mod allocation;
pub mod cells;
pub mod validation;

use crate::cells::Cells;
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, json, names};

use crate::at;
use crate::separation::{keep, status_update};
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{default_if_zero, default_to, each, is_zero_at};
use allocation::{needs_cluster_ip, needs_health_check_node_port};

/// How long a client sticks to an endpoint: three hours.
const CLIENT_IP_SECONDS: i64 = 10_800;

pub struct Service;

impl Strategy for Service {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status().create_on_update()
    }

    fn default(&self, service: &mut Value) {
        default_spec(service.ensure(&["spec"]));
        if service.str_at(&["spec", "type"]) == Some("LoadBalancer") {
            each(service, &["status", "loadBalancer", "ingress"], |ingress| {
                if !is_zero_at(ingress, &["ip"]) {
                    default_to(ingress, "ipMode", "VIP");
                }
            });
        }
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, service: &mut Value) {
        service.remove(&["status"]);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, service: &mut Value, old: &Value) {
        keep(service, old, "status");
        drop_type_dependent(service, old);
    }

    fn prepare_for_status_update(&self, _cx: &Context<'_>, service: &mut Value, old: &Value) {
        status_update(self.shape(), service, old);
    }

    fn validate_create(&self, _cx: &Context<'_>, service: &Value) -> ErrorList {
        at::check(service, |root, e| validation::service(root, None, e))
    }

    fn validate_update(&self, _cx: &Context<'_>, service: &Value, old: &Value) -> ErrorList {
        at::check(service, |root, e| validation::update(root, old, e))
    }

    fn validate_status_update(&self, _cx: &Context<'_>, service: &Value, old: &Value) -> ErrorList {
        at::check(service, |root, e| validation::status(root, old, e))
    }

    fn warnings(&self, service: &Value, _old: Option<&Value>) -> Vec<String> {
        at::warn(service, validation::warn)
    }

    fn status_warnings(&self, service: &Value) -> Vec<String> {
        validation::warn_status(service)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::is_dns1123_label(name)
    }

    fn cells(&self, service: &Value, now: Timestamp) -> Cells {
        Some(cells::cells(service, now))
    }
}

fn default_spec(spec: &mut Value) {
    default_if_zero(spec, "sessionAffinity", "None");
    match spec.str_at(&["sessionAffinity"]) {
        Some("None") => {
            spec.remove(&["sessionAffinityConfig"]);
        }
        Some("ClientIP") if spec.at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() => {
            spec.set(&["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": CLIENT_IP_SECONDS}}));
        }
        _ => {}
    }
    default_if_zero(spec, "type", "ClusterIP");
    each(spec, &["ports"], |port| {
        let number = port.i64_at(&["port"]).unwrap_or(0);
        default_if_zero(port, "targetPort", number);
    });
    if is_externally_accessible(spec) {
        default_if_zero(spec, "externalTrafficPolicy", "Cluster");
    }
    let kind = service_type(spec).to_owned();
    if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind.as_str()) {
        default_to(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default_to(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn service_type(spec: &Value) -> &str {
    spec.str_at(&["type"]).unwrap_or_default()
}

/// Whether packets from outside reach it by node port, load balancer or external address (upstream: `ExternallyAccessible`).
pub fn is_externally_accessible(spec: &Value) -> bool {
    matches!(service_type(spec), "LoadBalancer" | "NodePort") || service_type(spec) == "ClusterIP" && !spec.list_at(&["externalIPs"]).is_empty()
}

/// Clears what the new type has no use for, where the user did not change it in the same breath.
fn drop_type_dependent(service: &mut Value, old: &Value) {
    let none = Value::Null;
    let old_spec = old.at(&["spec"]).unwrap_or(&none);
    let new_spec = service.at(&["spec"]).unwrap_or(&none).clone();
    let stops = |is: fn(&Value) -> bool| is(old_spec) && !is(&new_spec);
    let same = |field: &str| new_spec.at(&[field]) == old_spec.at(&[field]);
    let mut dropped: Vec<&str> = Vec::new();
    if stops(needs_cluster_ip) {
        if same("clusterIP") && same("clusterIPs") {
            dropped.extend(["clusterIP", "clusterIPs"]);
        }
        dropped.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| same(f)));
    }
    if stops(needs_health_check_node_port) && same("healthCheckNodePort") {
        dropped.push("healthCheckNodePort");
    }
    if stops(is_load_balancer) {
        dropped.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"].into_iter().filter(|f| same(f)));
    }
    if stops(is_externally_accessible) && same("externalTrafficPolicy") {
        dropped.push("externalTrafficPolicy");
    }
    for field in dropped {
        service.remove(&["spec", field]);
    }
    if stops(has_node_ports) && allocation::node_ports(&new_spec).is_subset(&allocation::node_ports(old_spec)) {
        each(service, &["spec", "ports"], |port| {
            port.remove(&["nodePort"]);
        });
    }
    if !is_load_balancer(&new_spec) {
        service.remove(&["status", "loadBalancer"]);
    }
}

fn is_load_balancer(spec: &Value) -> bool {
    service_type(spec) == "LoadBalancer"
}

fn has_node_ports(spec: &Value) -> bool {
    matches!(service_type(spec), "NodePort" | "LoadBalancer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::clock::Env;

    #[test]
    fn a_change_of_type_clears_what_the_old_one_had() {
        let old = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "allocateLoadBalancerNodePorts": true,
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30000}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}});
        let mut new = old.clone();
        new.set(&["spec", "type"], "ClusterIP");
        Service.prepare_for_update(&Context::internal(&Env::system(), ""), &mut new, &old);
        assert_eq!(new, json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80}]}, "status": {}}));
        new.set(&["spec", "type"], "ExternalName");
        Service.prepare_for_update(
            &Context::internal(&Env::system(), ""),
            &mut new,
            &json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}}),
        );
        assert_eq!(new["spec"], json!({"type": "ExternalName", "ports": [{"port": 80}]}));
    }
}
