//! The pages of nodes, namespaces, quotas, limits, configuration.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use knarr_core::quantity::Quantity;
use knarr_core::{Value, ValueExt};

use super::Asker;
use super::page::{Page, date, format_labels, int, or, since, text, texts, yes};
use crate::kubectl::failure::Result;
use crate::kubectl::print::go;
use crate::kubectl::resources::known;

fn bytes_of(value: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

pub fn secret(object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    let kind = text(object, &["type"]);
    page.line(0, format!("\nType:\t{kind}"));
    page.line(0, "\nData\n====");
    for (key, value) in object.at(&["data"]).and_then(Value::as_object).into_iter().flatten() {
        let bytes = bytes_of(value);
        if key == "token" && kind == "kubernetes.io/service-account-token" {
            page.field(0, key, String::from_utf8_lossy(&bytes));
        } else {
            page.field(0, key, format!("{} bytes", bytes.len()));
        }
    }
    page.finish()
}

pub async fn config_map(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    page.line(0, "\nData\n====");
    for (key, value) in object.at(&["data"]).and_then(Value::as_object).into_iter().flatten() {
        page.line(0, format!("{key}:\n----\n{}\n", value.as_str().unwrap_or_default()));
    }
    page.line(0, "\nBinaryData\n====");
    for (key, value) in object.at(&["binaryData"]).and_then(Value::as_object).into_iter().flatten() {
        page.line(0, format!("{key}: {} bytes", bytes_of(value).len()));
    }
    page.line(0, "");
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn priority_class(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Value", int(object, &["value"]));
    page.field(0, "GlobalDefault", yes(object, &["globalDefault"]));
    page.field(0, "PreemptionPolicy", text(object, &["preemptionPolicy"]));
    page.field(0, "Description", text(object, &["description"]));
    page.field(0, "Annotations", format_labels(object.at(&["metadata", "annotations"])));
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

fn limits(page: &mut Page, object: &Value, prefix: &str) {
    for item in object.list_at(&["spec", "limits"]) {
        let columns = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
        let names: BTreeSet<&String> = columns.iter().filter_map(|c| item.at(&[c])?.as_object()).flat_map(|m| m.keys()).collect();
        for name in names {
            let cells: Vec<String> = columns.iter().map(|c| or(item, &[c, name], "-")).collect();
            page.line(0, format!("{prefix}{}\t{name}\t{}", text(item, &["type"]), cells.join("\t")));
        }
    }
}

pub fn limit_range(object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.line(0, "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    page.line(0, "----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    limits(&mut page, object, "");
    page.finish()
}

fn scope_help(scope: &str) -> Option<&'static str> {
    match scope {
        "Terminating" => {
            Some("Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system.")
        }
        "NotTerminating" => Some(
            "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate.",
        ),
        "BestEffort" => Some("Matches all pods that do not have resource requirements set. These pods have a best effort quality of service."),
        "NotBestEffort" => {
            Some("Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service.")
        }
        _ => None,
    }
}

fn scopes(page: &mut Page, level: usize, bullet: &str, object: &Value) {
    let mut all = texts(object, &["spec", "scopes"]);
    all.sort();
    if all.is_empty() {
        return;
    }
    page.field(level, "Scopes", all.join(", "));
    all.iter().filter_map(|s| scope_help(s)).for_each(|help| page.line(level, format!("{bullet}* {help}")));
}

fn hard(page: &mut Page, level: usize, object: &Value) {
    for (name, hard) in object.at(&["status", "hard"]).and_then(Value::as_object).into_iter().flatten() {
        page.line(level, format!("{name}\t{}\t{}", or(object, &["status", "used", name], "0"), go::sprint(hard)));
    }
}

pub fn quota(object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    scopes(&mut page, 0, " ", object);
    page.line(0, "Resource\tUsed\tHard");
    page.line(0, "--------\t----\t----");
    hard(&mut page, 0, object);
    page.finish()
}

pub async fn namespace(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let name = text(object, &["metadata", "name"]);
    let mut quotas = asker.list(&known("resourcequotas").path(Some(name), None), &[]).await?;
    let ranges = asker.list(&known("limitranges").path(Some(name), None), &[]).await?;
    let mut page = Page::default();
    page.cluster_head(object);
    page.field(0, "Status", text(object, &["status", "phase"]));
    let conditions = object.list_at(&["status", "conditions"]);
    if !conditions.is_empty() {
        page.conditions(conditions);
    }
    page.line(0, "");
    if quotas.is_empty() {
        page.line(0, "No resource quota.");
    } else {
        page.line(0, "Resource Quotas");
        quotas.sort_by_key(|q| text(q, &["metadata", "name"]).to_owned());
    }
    for quota in &quotas {
        page.field(1, "Name", text(quota, &["metadata", "name"]));
        scopes(&mut page, 1, "", quota);
        page.line(1, "Resource\tUsed\tHard");
        page.line(1, "--------\t---\t---");
        hard(&mut page, 1, quota);
    }
    page.line(0, "");
    if ranges.is_empty() {
        page.line(0, "No LimitRange resource.");
    } else {
        page.line(0, "Resource Limits\n Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
        page.line(0, " ----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
        ranges.iter().for_each(|r| limits(&mut page, r, " "));
    }
    Ok(page.finish())
}

pub async fn node(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let name = text(object, &["metadata", "name"]);
    let selector = format!("spec.nodeName={name},status.phase!=Failed,status.phase!=Succeeded");
    let pods = match asker.list(&known("pods").path(None, None), &[("fieldSelector", selector)]).await {
        Err(crate::kubectl::failure::Failure::Server(s)) if s.code == 403 => None,
        other => Some(other?),
    };
    let lease = asker.session.get(&known("leases").path(Some("kube-node-lease"), Some(name))).await;
    let mut page = Page::default();
    page.field(0, "Name", name);
    page.field(0, "Roles", roles(object));
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    page.field(0, "CreationTimestamp", date(object.str_at(&["metadata", "creationTimestamp"])));
    page.several("Taints", &taints(object));
    page.field(0, "Unschedulable", yes(object, &["spec", "unschedulable"]));
    match lease {
        Ok(lease) => {
            page.line(0, "Lease:");
            page.field(1, "HolderIdentity", or(&lease, &["spec", "holderIdentity"], "<unset>"));
            for (title, key) in [("AcquireTime", "acquireTime"), ("RenewTime", "renewTime")] {
                page.field(1, title, lease.str_at(&["spec", key]).map_or_else(|| "<unset>".into(), |t| date(Some(t))));
            }
        }
        Err(e) => page.field(0, "Lease", format!("Failed to get lease: {}", e.message())),
    }
    let conditions = object.list_at(&["status", "conditions"]);
    if !conditions.is_empty() {
        page.line(0, "Conditions:");
        page.line(1, "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
        page.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
        for c in conditions {
            let (seen, changed) = (date(c.str_at(&["lastHeartbeatTime"])), date(c.str_at(&["lastTransitionTime"])));
            page.line(
                1,
                format!("{} \t{} \t{seen} \t{changed} \t{} \t{}", text(c, &["type"]), text(c, &["status"]), text(c, &["reason"]), text(c, &["message"])),
            );
        }
    }
    page.line(0, "Addresses:");
    object.list_at(&["status", "addresses"]).iter().for_each(|a| page.field(1, text(a, &["type"]), text(a, &["address"])));
    for (title, key) in [("Capacity:", "capacity"), ("Allocatable:", "allocatable")] {
        let map = object.at(&["status", key]).and_then(Value::as_object).filter(|m| !m.is_empty());
        if map.is_some() {
            page.line(0, title);
        }
        map.into_iter().flatten().for_each(|(name, value)| page.field(1, name, go::sprint(value)));
    }
    page.line(0, "System Info:");
    for (title, key) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        page.field(1, title, text(object, &["status", "nodeInfo", key]));
    }
    page.some(0, "PodCIDR", object.str_at(&["spec", "podCIDR"]).filter(|t| !t.is_empty()));
    page.some(0, "PodCIDRs", Some(texts(object, &["spec", "podCIDRs"]).join(",")).filter(|t| !t.is_empty()));
    page.some(0, "ProviderID", object.str_at(&["spec", "providerID"]).filter(|t| !t.is_empty()));
    match pods {
        Some(pods) => resources(&mut page, object, &pods),
        None => page.field(0, "Pods", "not authorized"),
    }
    let mut events = asker.events(object).await;
    if let (Some(events), Some(more)) = (&mut events, asker.events_about(object, "Node", name).await) {
        events.extend(more);
    }
    page.events(events.as_deref());
    Ok(page.finish())
}

fn roles(object: &Value) -> String {
    let labels = object.at(&["metadata", "labels"]).and_then(Value::as_object);
    let roles: BTreeSet<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| {
            k.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()).or_else(|| v.as_str().filter(|v| k == "kubernetes.io/role" && !v.is_empty()))
        })
        .collect();
    if roles.is_empty() { "<none>".into() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn taints(object: &Value) -> Vec<String> {
    let mut all: Vec<&Value> = object.list_at(&["spec", "taints"]).iter().collect();
    all.sort_by_key(|t| format!("{},{}", text(t, &["effect"]), text(t, &["key"])));
    all.into_iter()
        .map(|t| {
            let (key, value, effect) = (text(t, &["key"]), text(t, &["value"]), text(t, &["effect"]));
            match (value, effect) {
                ("", "") => key.to_owned(),
                ("", effect) => format!("{key}:{effect}"),
                (value, "") => format!("{key}={value}:"),
                (value, effect) => format!("{key}={value}:{effect}"),
            }
        })
        .collect()
}

type Amounts = BTreeMap<String, Quantity>;

fn amounts(container: &Value, list: &str) -> Amounts {
    let map = container.at(&["resources", list]).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), Quantity::from_json(v)?))).collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match to.get_mut(name) {
            Some(there) => *there += amount.clone(),
            None => drop(to.insert(name.clone(), amount.clone())),
        }
    }
}

fn at_least(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        if to.get(name).is_none_or(|there| there < amount) {
            to.insert(name.clone(), amount.clone());
        }
    }
}

/// What a pod asks for, or may use at most (`resourcehelper.PodRequests`, `PodLimits`).
pub fn of_pod(pod: &Value, list: &str) -> Amounts {
    let mut total = Amounts::new();
    pod.list_at(&["spec", "containers"]).iter().for_each(|c| add(&mut total, &amounts(c, list)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in pod.list_at(&["spec", "initContainers"]) {
        let own = amounts(container, list);
        let mut during = sidecars.clone();
        add(&mut during, &own);
        if container.str_at(&["restartPolicy"]) == Some("Always") {
            add(&mut total, &own);
            add(&mut sidecars, &own);
        }
        at_least(&mut peak, &during);
    }
    at_least(&mut total, &peak);
    for (name, amount) in amounts(pod.at(&["spec"]).unwrap_or(&Value::Null), list) {
        total.insert(name, amount);
    }
    let overhead: Amounts = pod
        .at(&["spec", "overhead"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), Quantity::from_json(v)?)))
        .collect();
    if list == "requests" {
        add(&mut total, &overhead);
    } else {
        for (name, amount) in &overhead {
            if let Some(there) = total.get_mut(name).filter(|t| !t.is_zero()) {
                *there += amount.clone();
            }
        }
    }
    total
}

fn resources(page: &mut Page, node: &Value, pods: &[Value]) {
    page.field(0, "Non-terminated Pods", format!("({} in total)", pods.len()));
    page.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    page.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let list = if node.at(&["status", "allocatable"]).and_then(Value::as_object).is_some_and(|m| !m.is_empty()) { "allocatable" } else { "capacity" };
    let whole = |name: &str| node.at(&["status", list, name]).and_then(Quantity::from_json).unwrap_or_else(|| Quantity::from_i64(0));
    let zero = || Quantity::from_i64(0);
    let share = |name: &str, amount: &Quantity| {
        let (part, all) = if name == "cpu" { (amount.millis(), whole(name).millis()) } else { (amount.value(), whole(name).value()) };
        format!("{amount} ({}%)", if all == 0 { 0 } else { (part as f64 / all as f64 * 100.0) as i64 })
    };
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (request, limit) = (of_pod(pod, "requests"), of_pod(pod, "limits"));
        let cell = |of: &Amounts, name: &str| share(name, &of.get(name).cloned().unwrap_or_else(zero));
        page.line(
            1,
            format!(
                "{}\t{}\t\t{}\t{}\t{}\t{}\t{}",
                text(pod, &["metadata", "namespace"]),
                text(pod, &["metadata", "name"]),
                cell(&request, "cpu"),
                cell(&limit, "cpu"),
                cell(&request, "memory"),
                cell(&limit, "memory"),
                since(pod.str_at(&["metadata", "creationTimestamp"]))
            ),
        );
        add(&mut requests, &request);
        add(&mut limits, &limit);
    }
    page.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    page.line(1, "Resource\tRequests\tLimits");
    page.line(1, "--------\t--------\t------");
    let names: Vec<String> = node.at(&["status", list]).and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()).collect();
    let huge = names.iter().filter(|n| n.starts_with("hugepages-")).map(String::as_str);
    for name in ["cpu", "memory", "ephemeral-storage"].into_iter().chain(huge) {
        let of = |amounts: &Amounts| share(name, &amounts.get(name).cloned().unwrap_or_else(zero));
        page.line(1, format!("{name}\t{}\t{}", of(&requests), of(&limits)));
    }
    for name in names.iter().filter(|n| !["cpu", "memory", "ephemeral-storage", "pods"].contains(&n.as_str()) && !n.starts_with("hugepages-")) {
        let of = |amounts: &Amounts| amounts.get(name).cloned().unwrap_or_else(zero).to_string();
        page.line(1, format!("{name}\t{}\t{}", of(&requests), of(&limits)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_pod_asks_for_its_containers_or_its_biggest_init_container() {
        let cpu = |n: &str| json!({"resources": {"requests": {"cpu": n}}});
        let mut sidecar = cpu("300m");
        sidecar["restartPolicy"] = json!("Always");
        let pod = json!({"spec": {"containers": [cpu("100m"), cpu("200m")], "initContainers": [sidecar, cpu("1")]}});
        assert_eq!(of_pod(&pod, "requests")["cpu"].to_string(), "1300m");
    }

    #[test]
    fn taints_are_sorted_by_effect() {
        let node = json!({"spec": {"taints": [{"key": "b", "effect": "NoSchedule"}, {"key": "a", "value": "v", "effect": "NoExecute"}]}});
        assert_eq!(taints(&node), ["a=v:NoExecute", "b:NoSchedule"]);
    }
}
