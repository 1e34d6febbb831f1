//! The pages of Services, endpoints, ingresses and network policies.

use knarr_core::{Value, ValueExt};

use super::Asker;
use super::page::{Page, format_labels, format_selector, go_date, int, or, text, texts};
use crate::kubectl::failure::Result;
use crate::kubectl::print::go;
use crate::kubectl::resources::known;

/// Addresses that are shown before the rest is only counted.
const ENDPOINTS_SHOWN: usize = 3;

async fn slices(asker: &Asker<'_>, namespace: &str, service: &str) -> Result<Vec<Value>> {
    let path = known("endpointslices").path(Some(namespace), None);
    asker.list(&path, &[("labelSelector", format!("kubernetes.io/service-name={service}"))]).await
}

/// The ready addresses behind a port.
fn endpoints_of(slices: &[Value], port_name: &str) -> String {
    if slices.is_empty() {
        return "<none>".into();
    }
    let (mut shown, mut count) = (Vec::new(), 0);
    let mut add = |endpoint: &Value, port: Option<i64>| {
        if endpoint.bool_at(&["conditions", "ready"]) == Some(false) {
            return;
        }
        let address = texts(endpoint, &["addresses"]).into_iter().next().unwrap_or_default();
        count += 1;
        if shown.len() < ENDPOINTS_SHOWN {
            shown.push(match port {
                Some(port) if address.contains(':') => format!("[{address}]:{port}"),
                Some(port) => format!("{address}:{port}"),
                None => address,
            });
        }
    };
    for slice in slices {
        let (ports, endpoints) = (slice.list_at(&["ports"]), slice.list_at(&["endpoints"]));
        if ports.is_empty() {
            endpoints.iter().for_each(|e| add(e, None));
        }
        for port in ports.iter().filter(|p| text(p, &["name"]) == port_name) {
            endpoints.iter().for_each(|e| add(e, port.i64_at(&["port"])));
        }
    }
    let list = shown.join(",");
    if count > ENDPOINTS_SHOWN { format!("{list} + {} more...", count - ENDPOINTS_SHOWN) } else { list }
}

pub async fn service(asker: &Asker<'_>, object: &Value) -> Result<String> {
    let slices = slices(asker, text(object, &["metadata", "namespace"]), text(object, &["metadata", "name"])).await.unwrap_or_default();
    let mut page = Page::default();
    page.head(object);
    let spec = object.at(&["spec"]).unwrap_or(&Value::Null);
    let some = |key: &str| spec.str_at(&[key]).filter(|t| !t.is_empty());
    let joined = |key: &str| Some(texts(spec, &[key]).join(",")).filter(|t| !t.is_empty());
    page.field(0, "Selector", format_labels(spec.at(&["selector"])));
    page.field(0, "Type", text(spec, &["type"]));
    page.some(0, "IP Family Policy", some("ipFamilyPolicy"));
    page.field(0, "IP Families", joined("ipFamilies").unwrap_or_else(|| "<none>".into()));
    page.field(0, "IP", text(spec, &["clusterIP"]));
    page.field(0, "IPs", joined("clusterIPs").unwrap_or_else(|| "<none>".into()));
    page.some(0, "External IPs", joined("externalIPs"));
    page.some(0, "Desired LoadBalancer IP", some("loadBalancerIP"));
    page.some(0, "External Name", some("externalName"));
    let ingress: Vec<String> = object
        .list_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| match (i.str_at(&["ip"]).filter(|ip| !ip.is_empty()), i.str_at(&["ipMode"])) {
            (Some(ip), Some(mode)) => format!("{ip} ({mode})"),
            (Some(ip), None) => ip.to_owned(),
            _ => text(i, &["hostname"]).to_owned(),
        })
        .collect();
    if !ingress.is_empty() {
        page.field(0, "LoadBalancer Ingress", ingress.join(", "));
    }
    for port in spec.list_at(&["ports"]) {
        let (own, protocol) = (text(port, &["name"]), text(port, &["protocol"]));
        let name = if own.is_empty() { "<unset>" } else { own };
        page.field(0, "Port", format!("{name}\t{}/{protocol}", int(port, &["port"])));
        page.field(0, "TargetPort", format!("{}/{protocol}", or(port, &["targetPort"], "0")));
        page.some(0, "AppProtocol", port.str_at(&["appProtocol"]));
        if let Some(node) = port.i64_at(&["nodePort"]).filter(|p| *p != 0) {
            page.field(0, "NodePort", format!("{name}\t{node}/{protocol}"));
        }
        page.field(0, "Endpoints", endpoints_of(&slices, own));
    }
    page.field(0, "Session Affinity", text(spec, &["sessionAffinity"]));
    page.some(0, "External Traffic Policy", some("externalTrafficPolicy"));
    page.some(0, "Internal Traffic Policy", some("internalTrafficPolicy"));
    page.some(0, "HealthCheck NodePort", spec.i64_at(&["healthCheckNodePort"]).filter(|p| *p != 0));
    page.some(0, "LoadBalancer Source Ranges", joined("loadBalancerSourceRanges"));
    page.some(0, "Traffic Distribution", some("trafficDistribution"));
    page.events(asker.events(object).await.as_deref());
    Ok(page.finish())
}

pub async fn endpoints(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    page.line(0, "Subsets:");
    for subset in object.list_at(&["subsets"]) {
        for (title, key) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")] {
            let list: Vec<&str> = subset.list_at(&[key]).iter().map(|a| text(a, &["ip"])).collect();
            page.field(1, title, if list.is_empty() { "<none>".into() } else { list.join(",") });
        }
        let ports = subset.list_at(&["ports"]);
        if !ports.is_empty() {
            page.line(1, "Ports:");
            page.line(2, "Name\tPort\tProtocol");
            page.line(2, "----\t----\t--------");
            ports.iter().for_each(|p| page.line(2, format!("{}\t{}\t{}", or(p, &["name"], "<unset>"), int(p, &["port"]), text(p, &["protocol"]))));
        }
        page.line(0, "");
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn endpoint_slice(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    page.field(0, "AddressType", text(object, &["addressType"]));
    let ports = object.list_at(&["ports"]);
    if ports.is_empty() {
        page.line(0, "Ports: <unset>");
    } else {
        page.line(0, "Ports:");
        page.line(1, "Name\tPort\tProtocol");
        page.line(1, "----\t----\t--------");
        for port in ports {
            let name = port.str_at(&["name"]).filter(|n| !n.is_empty()).unwrap_or("<unset>");
            page.line(1, format!("{name}\t{}\t{}", or(port, &["port"], "<unset>"), text(port, &["protocol"])));
        }
    }
    let endpoints = object.list_at(&["endpoints"]);
    page.line(0, if endpoints.is_empty() { "Endpoints: <none>" } else { "Endpoints:" });
    for endpoint in endpoints {
        let addresses = texts(endpoint, &["addresses"]).join(", ");
        page.field(1, "- Addresses", if addresses.is_empty() { "<none>" } else { &addresses });
        page.line(2, "Conditions:");
        page.field(3, "Ready", or(endpoint, &["conditions", "ready"], "<unset>"));
        page.field(2, "Hostname", or(endpoint, &["hostname"], "<unset>"));
        if let Some(target) = endpoint.at(&["targetRef"]) {
            page.field(2, "TargetRef", format!("{}/{}", text(target, &["kind"]), text(target, &["name"])));
        }
        page.field(2, "NodeName", or(endpoint, &["nodeName"], "<unset>"));
        page.field(2, "Zone", or(endpoint, &["zone"], "<unset>"));
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

async fn backend(asker: &Asker<'_>, namespace: &str, backend: &Value) -> String {
    if let Some(service) = backend.at(&["service"]) {
        let name = text(service, &["name"]);
        let port = service.i64_at(&["port", "number"]).filter(|n| *n != 0);
        let title = format!("{name}:{}", port.map_or_else(|| text(service, &["port", "name"]).to_owned(), |p| p.to_string()));
        let found = async {
            let slices = slices(asker, namespace, name).await?;
            let object = asker.session.get(&known("services").path(Some(namespace), Some(name))).await?;
            let wanted = object.list_at(&["spec", "ports"]).iter().rfind(|p| match port {
                Some(number) => p.i64_at(&["port"]) == Some(number),
                None => text(p, &["name"]) == text(service, &["port", "name"]),
            });
            Result::Ok(endpoints_of(&slices, wanted.map_or("", |p| text(p, &["name"]))))
        };
        return match found.await {
            Ok(list) => format!("{title} ({list})"),
            Err(e) => format!("{title} (<error: {}>)", e.message()),
        };
    }
    backend
        .at(&["resource"])
        .map_or_else(String::new, |r| format!("APIGroup: {}, Kind: {}, Name: {}", or(r, &["apiGroup"], "<none>"), text(r, &["kind"]), text(r, &["name"])))
}

pub async fn ingress(asker: &Asker<'_>, object: &Value) -> String {
    let namespace = text(object, &["metadata", "namespace"]);
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.field(0, "Namespace", namespace);
    let addresses: std::collections::BTreeSet<String> = object
        .list_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .filter_map(|i| i.str_at(&["ip"]).filter(|t| !t.is_empty()).or_else(|| i.str_at(&["hostname"])).map(str::to_owned))
        .collect();
    page.field(0, "Address", addresses.into_iter().collect::<Vec<_>>().join(","));
    page.field(0, "Ingress Class", or(object, &["spec", "ingressClassName"], "<none>"));
    let default = match object.at(&["spec", "defaultBackend"]) {
        Some(b) => backend(asker, namespace, b).await,
        None => "<default>".into(),
    };
    page.field(0, "Default backend", &default);
    let tls = object.list_at(&["spec", "tls"]);
    if !tls.is_empty() {
        page.line(0, "TLS:");
        for entry in tls {
            let hosts = texts(entry, &["hosts"]).join(",");
            let secret = text(entry, &["secretName"]);
            page.line(1, if secret.is_empty() { format!("SNI routes {hosts}") } else { format!("{secret} terminates {hosts}") });
        }
    }
    page.line(0, "Rules:");
    page.line(1, "Host\tPath\tBackends");
    page.line(1, "----\t----\t--------");
    let mut count = 0;
    for rule in object.list_at(&["spec", "rules"]).iter().filter(|r| r.at(&["http"]).is_some()) {
        count += 1;
        page.line(1, format!("{}\t", Some(text(rule, &["host"])).filter(|h| !h.is_empty()).unwrap_or("*")));
        for path in rule.list_at(&["http", "paths"]) {
            let target = backend(asker, namespace, path.at(&["backend"]).unwrap_or(&Value::Null)).await;
            page.line(2, format!("\t{} \t{target}", text(path, &["path"])));
        }
    }
    if count == 0 {
        page.line(1, format!("*\t*\t{default}"));
    }
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn ingress_class(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.cluster_head(object);
    page.field(0, "Controller", text(object, &["spec", "controller"]));
    if let Some(parameters) = object.at(&["spec", "parameters"]) {
        page.line(0, "Parameters:");
        page.some(1, "APIGroup", parameters.str_at(&["apiGroup"]));
        page.field(1, "Kind", text(parameters, &["kind"]));
        page.field(1, "Name", text(parameters, &["name"]));
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn service_cidr(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.cluster_head(object);
    page.field(0, "CIDRs", texts(object, &["spec", "cidrs"]).join(", "));
    let conditions = object.list_at(&["status", "conditions"]);
    if !conditions.is_empty() {
        page.line(0, "Status:");
        page.conditions(conditions);
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub async fn ip_address(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.cluster_head(object);
    if let Some(parent) = object.at(&["spec", "parentRef"]) {
        page.line(0, "Parent Reference:");
        for (title, key) in [("Group", "group"), ("Resource", "resource"), ("Namespace", "namespace"), ("Name", "name")] {
            page.field(1, title, text(parent, &[key]));
        }
    }
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

pub fn policy(object: &Value) -> String {
    let mut page = Page::default();
    page.field(0, "Name", text(object, &["metadata", "name"]));
    page.field(0, "Namespace", text(object, &["metadata", "namespace"]));
    page.field(0, "Created on", go_date(object.str_at(&["metadata", "creationTimestamp"])));
    page.labels("Labels", object.at(&["metadata", "labels"]));
    page.annotations("Annotations", object.at(&["metadata", "annotations"]));
    page.line(0, "Spec:");
    let selected = format_selector(object.at(&["spec", "podSelector"]));
    let selected = if selected == "<none>" { "<none> (Allowing the specific traffic to all pods in this namespace)".to_owned() } else { selected };
    page.line(1, format!("PodSelector:     {selected}"));
    let types = texts(object, &["spec", "policyTypes"]);
    for (kind, key, peers, selected) in [("Ingress", "ingress", "from", "From"), ("Egress", "egress", "to", "To")] {
        let word = key;
        if types.iter().any(|t| t == kind) {
            page.line(1, format!("Allowing {word} traffic:"));
            rules(&mut page, object.list_at(&["spec", key]), word, peers, selected);
        } else {
            page.line(1, format!("Not affecting {word} traffic"));
        }
    }
    page.line(1, format!("Policy Types: {}", if types.is_empty() { "<none>".into() } else { types.join(", ") }));
    page.finish()
}

fn rules(page: &mut Page, rules: &[Value], direction: &str, peers_key: &str, title: &str) {
    if rules.is_empty() {
        return page.line(2, format!("<none> (Selected pods are isolated for {direction} connectivity)"));
    }
    for (i, rule) in rules.iter().enumerate() {
        let ports = rule.list_at(&["ports"]);
        if ports.is_empty() {
            page.line(2, "To Port: <any> (traffic allowed to all ports)");
        }
        for port in ports {
            let (number, protocol) = (port.at(&["port"]).map_or_else(|| "<nil>".into(), go::sprint), or(port, &["protocol"], "TCP"));
            match port.i64_at(&["endPort"]) {
                Some(end) => page.line(2, format!("To Port Range: {number}-{end}/{protocol}")),
                None => page.line(2, format!("To Port: {number}/{protocol}")),
            }
        }
        let peers = rule.list_at(&[peers_key]);
        if peers.is_empty() {
            let side = if peers_key == "from" { "source" } else { "destination" };
            page.line(2, format!("{title}: <any> (traffic not restricted by {side})"));
        }
        for peer in peers {
            page.line(2, format!("{title}:"));
            for (title, key) in [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")] {
                if let Some(selector) = peer.get(key).filter(|s| !s.is_null()) {
                    page.line(3, format!("{title}: {}", format_selector(Some(selector))));
                }
            }
            if let Some(block) = peer.at(&["ipBlock"]) {
                page.line(3, "IPBlock:");
                page.line(4, format!("CIDR: {}", text(block, &["cidr"])));
                page.line(4, format!("Except: {}", texts(block, &["except"]).join(", ")));
            }
        }
        if i + 1 < rules.len() {
            page.line(2, "----------");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn many_endpoints_are_counted() {
        let endpoint = |ip: &str, ready: bool| json!({"addresses": [ip], "conditions": {"ready": ready}});
        let slice = json!({"ports": [{"name": "", "port": 80}], "endpoints": [endpoint("1", true), endpoint("2", false), endpoint("3", true), endpoint("4", true), endpoint("5", true)]});
        assert_eq!(endpoints_of(std::slice::from_ref(&slice), ""), "1:80,3:80,4:80 + 1 more...");
        assert_eq!(endpoints_of(&[slice], "other"), "");
        assert_eq!(endpoints_of(&[], ""), "<none>");
    }
}
