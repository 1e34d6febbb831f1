//! Which Services get addresses and ports, and how the fields that name them follow each other. The pools themselves are the
//! server's (upstream: `pkg/registry/core/service/storage`).

use std::collections::{BTreeMap, BTreeSet};

use knarr_core::{Value, ValueExt, field, field::Path};

use crate::tree::{is_zero_at, list_mut, strings};

const NO_ADDRESS: &str = "None";

fn spec_type(spec: &Value) -> &str {
    spec.str_at(&["type"]).unwrap_or_default()
}

/// Whether a Service of this spec has cluster addresses (`None` counts as one).
pub fn needs_cluster_ip(spec: &Value) -> bool {
    spec_type(spec) != "ExternalName"
}

/// Whether its ports have node ports.
pub fn needs_node_ports(spec: &Value) -> bool {
    match spec_type(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.bool_at(&["allocateLoadBalancerNodePorts"]) != Some(false),
        _ => false,
    }
}

/// Whether it has a health check port on each node.
pub fn needs_health_check_node_port(spec: &Value) -> bool {
    spec_type(spec) == "LoadBalancer" && spec.str_at(&["externalTrafficPolicy"]) == Some("Local")
}

/// The node ports that a spec names.
pub fn node_ports(spec: &Value) -> BTreeSet<i64> {
    spec.list_at(&["ports"]).iter().filter_map(|p| p.i64_at(&["nodePort"])).filter(|&p| p != 0).collect()
}

/// Keeps what was allocated where an update does not name it (upstream: `patchAllocatedValues`).
pub fn keep_allocated(service: &mut Value, old: &Value) {
    let none = Value::Null;
    let old_spec = old.at(&["spec"]).unwrap_or(&none);
    let spec = service.ensure(&["spec"]);
    let both = |is: fn(&Value) -> bool, spec: &Value| is(old_spec) && is(spec);
    let fill = |spec: &mut Value, field: &str| {
        if is_zero_at(spec, &[field]) && !is_zero_at(old_spec, &[field]) {
            spec.set(&[field], old_spec[field].clone());
        }
    };
    if both(needs_cluster_ip, spec) {
        fill(spec, "clusterIP");
        fill(spec, "clusterIPs");
    }
    if both(needs_health_check_node_port, spec) {
        fill(spec, "healthCheckNodePort");
    }
    if both(needs_node_ports, spec) {
        keep_node_ports(spec, old_spec);
    }
}

/// A port keeps the node port of the port of its name, unless another port now names it.
fn keep_node_ports(spec: &mut Value, old_spec: &Value) {
    let taken: BTreeSet<i64> = node_ports(spec).intersection(&node_ports(old_spec)).copied().collect();
    let name = |port: &Value| port.str_at(&["name"]).unwrap_or_default().to_owned();
    let before: BTreeMap<String, i64> = old_spec.list_at(&["ports"]).iter().filter_map(|p| Some((name(p), p.i64_at(&["nodePort"])?))).collect();
    for port in list_mut(spec, &["ports"]) {
        if !is_zero_at(port, &["nodePort"]) {
            continue;
        }
        if let Some(&number) = before.get(&name(port)).filter(|n| **n != 0 && !taken.contains(n)) {
            port.set(&["nodePort"], number);
        }
    }
}

/// Brings `clusterIPs` in line with `clusterIP`, which old clients set alone (upstream: `normalizeClusterIPs`).
pub fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let single = |s: &Value| s.str_at(&["spec", "clusterIP"]).unwrap_or_default().to_owned();
    let plural = |s: &Value| s.list_at(&["spec", "clusterIPs"]).to_vec();
    let (new_ip, new_ips) = (single(service), plural(service));
    let Some(old) = old else {
        if !new_ip.is_empty() && new_ips.is_empty() {
            service.set(&["spec", "clusterIPs"], vec![new_ip]);
        }
        return;
    };
    let (old_ip, old_ips) = (single(old), plural(old));
    if !old_ips.is_empty() && new_ips.is_empty() && old_ip == new_ip {
        service.set(&["spec", "clusterIPs"], old_ips);
    } else if old_ip != new_ip && new_ips == old_ips {
        if new_ip.is_empty() {
            service.remove(&["spec", "clusterIPs"]);
        } else {
            service.set(&["spec", "clusterIPs"], vec![new_ip]);
        }
    }
}

/// `IPv4` or `IPv6`, by the look of the address.
pub fn family_of(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

fn other_family(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// Fills `ipFamilyPolicy` and `ipFamilies` before addresses are given out (upstream: `Allocators.initIPFamilyFields`).
/// `families` are those that the cluster has, the primary one first.
///
/// # Errors
/// What the cluster cannot give, or what contradicts itself.
pub fn init_ip_families(service: &mut Value, old: Option<&Value>, families: &[&str]) -> Result<(), field::ErrorList> {
    let primary = families.first().copied().unwrap_or("IPv4");
    if !needs_cluster_ip(service.at(&["spec"]).unwrap_or(&Value::Null)) || old.is_some_and(|old| is_unchanged_prefer_dual_stack(service, old)) {
        return Ok(());
    }
    let headless_without_selector = |s: &Value| s.str_at(&["spec", "clusterIP"]) == Some(NO_ADDRESS) && is_zero_at(s, &["spec", "selector"]);
    if is_zero_at(service, &["spec", "ipFamilyPolicy"]) {
        let before = old.and_then(|o| o.str_at(&["spec", "ipFamilyPolicy"])).filter(|p| !p.is_empty());
        let fallback = if headless_without_selector(service) { "RequireDualStack" } else { "SingleStack" };
        service.set(&["spec", "ipFamilyPolicy"], before.unwrap_or(fallback));
    }
    let policy = service.str_at(&["spec", "ipFamilyPolicy"]).unwrap_or_default().to_owned();
    let mut errors = check_reduction(service, old, &policy);
    let mut chosen = chosen_families(service, families, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    if headless_without_selector(service) {
        if chosen.is_empty() {
            chosen.push(primary.to_owned());
        }
        if chosen.len() < 2 && policy != "SingleStack" {
            chosen.push(other_family(&chosen[0]).to_owned());
        }
        service.set(&["spec", "ipFamilies"], chosen);
        return Ok(());
    }
    check_available(&policy, &chosen, families)?;
    if chosen.is_empty() {
        chosen.push(primary.to_owned());
    }
    if policy != "SingleStack" && chosen.len() == 1 && families.len() == 2 {
        chosen.push(other_family(&chosen[0]).to_owned());
    }
    service.set(&["spec", "ipFamilies"], chosen);
    Ok(())
}

fn policy_path() -> Path {
    Path::new("spec").child("ipFamilyPolicy")
}

/// On an update to one stack, what nobody changed is cut to one; else giving up an address must be told by the policy.
fn check_reduction(service: &mut Value, old: Option<&Value>, policy: &str) -> field::ErrorList {
    let mut errors = field::ErrorList::new();
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let count = |s: &Value| s.list_at(&["spec", field]).len();
        if let Some(old) = old {
            if policy == "SingleStack" {
                let same = service.at(&["spec", field]) == old.at(&["spec", field]);
                if same && count(service) > 1 {
                    let first = service.list_at(&["spec", field])[0].clone();
                    service.set(&["spec", field], vec![first]);
                }
            } else if count(service) != 0 && count(service) < count(old) {
                errors.push(field::Error::invalid(&policy_path(), policy, format!("must be 'SingleStack' to release the secondary {what}")));
            }
        }
        if policy == "SingleStack" && count(service) == 2 {
            let many = if what == "cluster IP" { "cluster IPs" } else { "IP families" };
            errors.push(field::Error::invalid(
                &policy_path(),
                policy,
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {many} are specified"),
            ));
        }
    }
    errors
}

/// The families that are named, or that follow from the addresses that are.
fn chosen_families(service: &Value, families: &[&str], errors: &mut field::ErrorList) -> Vec<String> {
    let mut chosen: Vec<String> = strings(service, &["spec", "ipFamilies"]).map(str::to_owned).collect();
    for (i, ip) in strings(service, &["spec", "clusterIPs"]).enumerate() {
        if ip == NO_ADDRESS {
            break;
        }
        if i < chosen.len() {
            continue;
        }
        let family = family_of(ip);
        if families.contains(&family) {
            chosen.push(family.to_owned());
        } else {
            let path = Path::new("spec").child("clusterIPs").index(i);
            errors.push(field::Error::invalid(
                &path,
                service.at(&["spec", "clusterIPs"]).cloned().unwrap_or_default(),
                format!("{family} is not configured on this cluster"),
            ));
        }
    }
    chosen
}

fn check_available(policy: &str, chosen: &[String], families: &[&str]) -> Result<(), field::ErrorList> {
    let mut errors = field::ErrorList::new();
    if policy == "RequireDualStack" && families.len() < 2 {
        errors.push(field::Error::invalid(&policy_path(), policy, "this cluster is not configured for dual-stack services"));
    }
    for (i, family) in chosen.iter().enumerate() {
        if !families.contains(&family.as_str()) {
            errors.push(field::Error::invalid(&Path::new("spec").child("ipFamilies").index(i), family.as_str(), "not configured on this cluster"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn is_unchanged_prefer_dual_stack(service: &Value, old: &Value) -> bool {
    let same = |field: &str| service.at(&["spec", field]) == old.at(&["spec", field]);
    let prefers = |s: &Value| s.str_at(&["spec", "ipFamilyPolicy"]).is_none_or(|p| p == "PreferDualStack");
    !is_zero_at(service, &["spec", "ipFamilyPolicy"])
        && prefers(service)
        && prefers(old)
        && ["type", "clusterIP", "clusterIPs", "ipFamilies"].iter().all(|f| same(f))
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn an_update_that_names_no_address_keeps_it() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"name": "a", "nodePort": 30001}, {"name": "b", "nodePort": 30002}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"name": "a"}, {"name": "b", "nodePort": 30001}]}});
        keep_allocated(&mut new, &old);
        assert_eq!(
            new,
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"name": "a"}, {"name": "b", "nodePort": 30001}]}})
        );
    }

    #[test]
    fn the_list_of_addresses_follows_the_single_one() {
        let mut new = json!({"spec": {"clusterIP": "None"}});
        normalize_cluster_ips(&mut new, None);
        assert_eq!(new["spec"]["clusterIPs"], json!(["None"]));
        let old = json!({"spec": {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}});
        let mut new = json!({"spec": {"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1"]}});
        normalize_cluster_ips(&mut new, Some(&old));
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.2"]));
    }

    #[test]
    fn families_follow_policy_and_cluster() {
        for (spec, families, wanted) in [
            (json!({"type": "ClusterIP"}), &["IPv4"][..], json!({"type": "ClusterIP", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]})),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), &["IPv4", "IPv6"][..], json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]})),
            (json!({"clusterIP": "None"}), &["IPv4"][..], json!({"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]})),
        ] {
            let mut service = json!({"spec": spec});
            init_ip_families(&mut service, None, families).unwrap();
            assert_eq!(service["spec"], wanted);
        }
        let mut service = json!({"spec": {"ipFamilyPolicy": "RequireDualStack"}});
        let errors = init_ip_families(&mut service, None, &["IPv4"]).unwrap_err();
        assert_eq!(errors[0].to_string(), "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services");
    }
}
