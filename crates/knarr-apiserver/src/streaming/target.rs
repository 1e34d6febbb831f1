//! Where a connecting request leads: to the node that runs the pod, or to a pod, a Service's endpoint, a node itself.
//!
//! A target is resolved once, to an address, and that address is dialled. Loopback, link-local and unspecified addresses are no
//! targets: whoever may write an EndpointSlice must not reach the server's own machine by it.

use std::net::{IpAddr, SocketAddr};

use knarr_core::{GroupResource, Result, Status, Value, ValueExt};

use crate::admission::Objects;
use crate::request::{Query, RequestInfo};

/// Annotation that names the container that is meant when none is.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Port of the node API where a node names none.
const KUBELET_PORT: u16 = 10250;

/// Which certificate a backend must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    None,
    /// The node's name or address, signed by the cluster's CA; we show our own certificate.
    Node(String),
    /// Any certificate: pods and Services have none of ours.
    Unverified,
}

/// What to dial and what to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Tls,
    /// Path and query as the backend gets them.
    pub path: String,
    /// What stands before the path in our own URLs: put before redirects of the backend.
    pub prefix: Option<String>,
}

/// Resolves the target of a request.
///
/// # Errors
/// Objects that are not there, pods without node, containers that do not exist, addresses that are refused.
pub fn resolve(objects: &dyn Objects, info: &RequestInfo, raw_path: &str, raw_query: &str) -> Result<Target> {
    match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "log" | "exec" | "attach" | "portforward") => pod_stream(objects, info, raw_query),
        ("pods", "proxy") => pod_proxy(objects, info, raw_path, raw_query),
        ("services", "proxy") => service_proxy(objects, info, raw_path, raw_query),
        ("nodes", "proxy") => {
            let (address, name) = node(objects, &split(&info.name).1)?;
            let (prefix, path) = behind_proxy(raw_path, raw_query);
            Ok(Target { address, tls: Tls::Node(name), path, prefix: Some(prefix) })
        }
        (resource, subresource) => Err(Status::method_not_supported(&GroupResource::new(&info.group, resource), subresource)),
    }
}

/// The node API's address, and the name its certificate must have.
fn node(objects: &dyn Objects, name: &str) -> Result<(SocketAddr, String)> {
    let node = objects.value("", "nodes", "", name).ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), name))?;
    let of_type = |wanted: &str| {
        let list = node.list_at(&["status", "addresses"]);
        list.iter().find(|a| a["type"] == wanted).and_then(|a| a.str_at(&["address"])).and_then(|a| a.parse::<IpAddr>().ok())
    };
    let ip = ["InternalIP", "ExternalIP", "Hostname"].into_iter().find_map(of_type);
    let ip = ip.ok_or_else(|| {
        Status::service_unavailable(format!("no preferred addresses found; known addresses: {}", node.at(&["status", "addresses"]).unwrap_or(&Value::Null)))
    })?;
    let port = node.i64_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
    Ok((SocketAddr::new(ip, port.unwrap_or(KUBELET_PORT)), ip.to_string()))
}

fn pod(objects: &dyn Objects, namespace: &str, name: &str) -> Result<Value> {
    objects.value("", "pods", namespace, name).ok_or_else(|| Status::not_found(&GroupResource::new("", "pods"), name))
}

/// Whether a log is asked for of a pod that no node has yet: it is empty (upstream: `LogLocation`).
///
/// # Errors
/// Pods and containers that are not there.
pub fn has_no_log(objects: &dyn Objects, info: &RequestInfo, raw_query: &str) -> Result<bool> {
    if info.subresource != "log" {
        return Ok(false);
    }
    let pod = pod(objects, &info.namespace, &info.name)?;
    container(&pod, &info.name, Query::parse(raw_query).get("container").unwrap_or_default())?;
    Ok(pod.str_at(&["spec", "nodeName"]).is_none_or(str::is_empty))
}

fn pod_stream(objects: &dyn Objects, info: &RequestInfo, raw_query: &str) -> Result<Target> {
    let pod = pod(objects, &info.namespace, &info.name)?;
    let query = Query::parse(raw_query);
    let container = if info.subresource == "portforward" { String::new() } else { container(&pod, &info.name, query.get("container").unwrap_or_default())? };
    let host = pod.str_at(&["spec", "nodeName"]).unwrap_or_default();
    if host.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name)));
    }
    // Upstream calls a node that is not there a pod here.
    let (address, name) = node(objects, host).map_err(|e| if e.is_not_found() { Status::not_found(&GroupResource::new("", "pods"), host) } else { e })?;
    let (verb, query) = match info.subresource.as_str() {
        "log" => ("containerLogs", without(raw_query, "container")),
        "portforward" => ("portForward", ports_query(&query)),
        other => (other, stream_query(raw_query)),
    };
    let mut path = format!("/{verb}/{}/{}", info.namespace, info.name);
    for part in [("/", container.as_str()), ("?", query.as_str())] {
        if !part.1.is_empty() {
            path += part.0;
            path += part.1;
        }
    }
    Ok(Target { address, tls: Tls::Node(name), path, prefix: None })
}

/// The container that is meant: the one named, the only one, or the one that the annotation names.
fn container(pod: &Value, pod_name: &str, named: &str) -> Result<String> {
    let names = |kind: &str| pod.list_at(&["spec", kind]).iter().filter_map(|c| c.str_at(&["name"])).map(str::to_owned).collect::<Vec<_>>();
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let known = |name: &str| [&main, &init, &ephemeral].into_iter().any(|list| list.iter().any(|n| n == name));
    if !named.is_empty() {
        return if known(named) { Ok(named.to_owned()) } else { Err(Status::bad_request(format!("container {named} is not valid for pod {pod_name}"))) };
    }
    if let Some(default) = pod.str_at(&["metadata", "annotations", DEFAULT_CONTAINER]).filter(|n| known(n)) {
        return Ok(default.to_owned());
    }
    if let [only] = main.as_slice() {
        return Ok(only.clone());
    }
    let mut text = format!("a container name must be specified for pod {pod_name}, choose one of: [{}]", main.join(" "));
    if !init.is_empty() {
        text += &format!(" or one of the init containers: [{}]", init.join(" "));
    }
    Err(Status::bad_request(text))
}

/// `stdin`, `stdout`, `stderr` are `input`, `output`, `error` for the node API.
fn stream_query(raw: &str) -> String {
    let renamed = raw.split('&').filter(|p| !p.is_empty()).filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let on = |name: &str| crate::request::parse_bool(value).then(|| format!("{name}=1"));
        match key {
            "stdin" => on("input"),
            "stdout" => on("output"),
            "stderr" => on("error"),
            "tty" => on("tty"),
            "container" => None,
            _ => Some(pair.to_owned()),
        }
    });
    renamed.collect::<Vec<_>>().join("&")
}

/// `ports`, which may come several times, is one `port` for the node API (upstream: `streamParams`).
fn ports_query(query: &Query) -> String {
    let ports = query.all("ports").collect::<Vec<_>>().join(",");
    if ports.is_empty() { ports } else { format!("port={ports}") }
}

fn without(raw: &str, key: &str) -> String {
    raw.split('&').filter(|pair| pair.split('=').next() != Some(key)).collect::<Vec<_>>().join("&")
}

/// `https:name:port` → scheme, name, port.
fn split(name: &str) -> (String, String, String) {
    let parts: Vec<&str> = name.split(':').collect();
    let owned = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    match parts.as_slice() {
        [name] => owned("", name, ""),
        [name, port] => owned("", name, port),
        [scheme, name, port] => owned(scheme, name, port),
        _ => owned("", name, ""),
    }
}

/// What our URL has before the proxied path, and the proxied path with its query. Namespaces and objects may be called `proxy`
/// themselves: the word that counts is the one after the object's name.
fn behind_proxy(raw_path: &str, raw_query: &str) -> (String, String) {
    // /api/v1/namespaces/NS/RESOURCE/NAME/proxy or /api/v1/nodes/NAME/proxy
    let slashes = if raw_path.split('/').nth(3) == Some("namespaces") { 7 } else { 5 };
    let before = raw_path.match_indices('/').nth(slashes - 1).map_or(raw_path.len(), |(at, _)| at);
    let end = raw_path[before..].strip_prefix("/proxy").map_or(raw_path.len(), |rest| raw_path.len() - rest.len());
    let (prefix, path) = raw_path.split_at(end);
    let path = if path.is_empty() { "/" } else { path };
    (prefix.to_owned(), if raw_query.is_empty() { path.to_owned() } else { format!("{path}?{raw_query}") })
}

fn proxied(ip: &str, port: u16, scheme: &str, raw_path: &str, raw_query: &str) -> Result<Target> {
    let ip: IpAddr = ip.parse().map_err(|_| Status::service_unavailable("address not allowed"))?;
    if is_refused(ip) {
        return Err(Status::bad_request("address not allowed"));
    }
    let (prefix, path) = behind_proxy(raw_path, raw_query);
    let tls = if scheme == "https" { Tls::Unverified } else { Tls::None };
    Ok(Target { address: SocketAddr::new(ip, port), tls, path, prefix: Some(prefix) })
}

/// Addresses that lead to the server's own machine or to its neighbours on the wire.
fn is_refused(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_multicast(),
        IpAddr::V6(a) => {
            a.is_loopback() || a.is_unspecified() || a.is_unicast_link_local() || a.is_multicast() || a.to_ipv4_mapped().is_some_and(|v4| is_refused(v4.into()))
        }
    }
}

fn pod_proxy(objects: &dyn Objects, info: &RequestInfo, raw_path: &str, raw_query: &str) -> Result<Target> {
    let (scheme, name, port) = split(&info.name);
    let pod = pod(objects, &info.namespace, &name)?;
    let first = || {
        let mut ports = pod.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"]));
        ports.find_map(|p| p.i64_at(&["containerPort"])).and_then(|p| u16::try_from(p).ok())
    };
    let port = if port.is_empty() {
        first().unwrap_or(80)
    } else {
        port.parse().map_err(|_| Status::bad_request(format!("invalid pod request {}", knarr_core::field::go_quote(&info.name))))?
    };
    let ip = pod.str_at(&["status", "podIP"]).unwrap_or_default();
    if ip.is_empty() {
        return Err(Status::service_unavailable(format!("pod {name} has no address yet")));
    }
    proxied(ip, port, &scheme, raw_path, raw_query)
}

fn service_proxy(objects: &dyn Objects, info: &RequestInfo, raw_path: &str, raw_query: &str) -> Result<Target> {
    let (scheme, name, port) = split(&info.name);
    let quoted = knarr_core::field::go_quote(&name);
    // The Service itself is looked at only for the name of a port that is given by number.
    let port_name = match port.parse::<i64>() {
        Err(_) => port,
        Ok(number) => {
            let services = GroupResource::new("", "services");
            let service = objects.value("", "services", &info.namespace, &name).ok_or_else(|| Status::not_found(&services, &name))?;
            let found = service.list_at(&["spec", "ports"]).iter().find(|p| p.i64_at(&["port"]) == Some(number));
            let found = found.ok_or_else(|| Status::service_unavailable(format!("no service port {number} found for service {quoted}")))?;
            found.str_at(&["name"]).unwrap_or_default().to_owned()
        }
    };
    let (ip, number) = endpoint(objects, &info.namespace, &name, &port_name)
        .ok_or_else(|| Status::service_unavailable(format!("no endpoints available for service {quoted}")))?;
    proxied(&ip, number, &scheme, raw_path, raw_query)
}

/// A ready endpoint of a Service's port.
pub(crate) fn endpoint(objects: &dyn Objects, namespace: &str, service: &str, port_name: &str) -> Option<(String, u16)> {
    let slices = objects.values("discovery.k8s.io", "endpointslices", Some(namespace));
    let mut found = Vec::new();
    for slice in slices.iter().filter(|s| s.str_at(&["metadata", "labels", "kubernetes.io/service-name"]) == Some(service)) {
        let port = slice.list_at(&["ports"]).iter().find(|p| p.str_at(&["name"]).unwrap_or_default() == port_name).and_then(|p| p.i64_at(&["port"]));
        let Some(port) = port.and_then(|p| u16::try_from(p).ok()) else { continue };
        for endpoint in slice.list_at(&["endpoints"]).iter().filter(|e| e.bool_at(&["conditions", "ready"]) != Some(false)) {
            found.extend(endpoint.list_at(&["addresses"]).first().and_then(Value::as_str).map(|a| (a.to_owned(), port)));
        }
    }
    if found.is_empty() {
        return None;
    }
    let pick = usize::try_from(knarr_core::clock::Env::system().below(found.len() as u64)).unwrap_or(0);
    Some(found.swap_remove(pick))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Fixed;
    use knarr_core::json;

    #[test]
    fn the_proxied_path_begins_after_the_object_whatever_it_is_called() {
        for (path, prefix, rest) in [
            ("/api/v1/namespaces/proxy-8/services/proxy:proxy/proxy/proxy/x", "/api/v1/namespaces/proxy-8/services/proxy:proxy/proxy", "/proxy/x?a=b"),
            ("/api/v1/namespaces/d/pods/p/proxy", "/api/v1/namespaces/d/pods/p/proxy", "/?a=b"),
            ("/api/v1/nodes/proxy/proxy/", "/api/v1/nodes/proxy/proxy", "/?a=b"),
        ] {
            assert_eq!(behind_proxy(path, "a=b"), (prefix.to_owned(), rest.to_owned()), "{path}");
        }
    }

    fn objects() -> Fixed {
        Fixed(vec![
            (
                "nodes",
                json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}}),
            ),
            (
                "pods",
                json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"nodeName": "n1", "containers": [{"name": "a", "ports": [{"containerPort": 8080}]}, {"name": "b"}]}, "status": {"podIP": "10.244.0.5"}}),
            ),
            ("services", json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"ports": [{"name": "web", "port": 80}]}})),
            (
                "endpointslices",
                json!({"metadata": {"name": "s-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "s"}}, "ports": [{"name": "web", "port": 8080}], "endpoints": [{"addresses": ["10.244.0.5"], "conditions": {"ready": true}}]}),
            ),
            ("services", json!({"metadata": {"name": "evil", "namespace": "d"}, "spec": {"ports": [{"port": 80}]}})),
            (
                "endpointslices",
                json!({"metadata": {"name": "evil-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "evil"}}, "ports": [{"port": 80}], "endpoints": [{"addresses": ["127.0.0.1"]}]}),
            ),
        ])
    }

    fn ask(url: &str) -> String {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::parse(&http::Method::GET, path, &Query::parse(query)).unwrap();
        match resolve(&objects(), &info, path, query) {
            Ok(t) => format!("{} {:?} {}", t.address, t.tls, t.path),
            Err(e) => e.message,
        }
    }

    #[test]
    fn streams_lead_to_the_node_of_the_pod() {
        let pod = "/api/v1/namespaces/d/pods/p";
        assert_eq!(ask(&format!("{pod}/log?container=a&follow=true")), "10.0.0.1:10251 Node(\"10.0.0.1\") /containerLogs/d/p/a?follow=true");
        assert_eq!(
            ask(&format!("{pod}/exec?container=b&stdin=true&stdout=1&tty=false&command=ls")),
            "10.0.0.1:10251 Node(\"10.0.0.1\") /exec/d/p/b?input=1&output=1&command=ls"
        );
        assert_eq!(ask(&format!("{pod}/portforward?ports=80&ports=81,82&port=83")), "10.0.0.1:10251 Node(\"10.0.0.1\") /portForward/d/p?port=80,81,82");
        assert_eq!(ask(&format!("{pod}/portforward")), "10.0.0.1:10251 Node(\"10.0.0.1\") /portForward/d/p");
        assert_eq!(ask(&format!("{pod}/log")), "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(ask(&format!("{pod}/log?container=x")), "container x is not valid for pod p");
    }

    #[test]
    fn proxies_lead_to_pods_and_to_ready_endpoints() {
        assert_eq!(ask("/api/v1/namespaces/d/pods/p/proxy/a%20b?x=1"), "10.244.0.5:8080 None /a%20b?x=1");
        assert_eq!(ask("/api/v1/namespaces/d/pods/https:p:443/proxy/"), "10.244.0.5:443 Unverified /");
        assert_eq!(ask("/api/v1/namespaces/d/services/s:web/proxy/"), "10.244.0.5:8080 None /");
        assert_eq!(ask("/api/v1/namespaces/d/services/s:none/proxy/"), "no endpoints available for service \"s\"");
        assert_eq!(ask("/api/v1/namespaces/d/services/s:80/proxy/"), "10.244.0.5:8080 None /");
        assert_eq!(ask("/api/v1/namespaces/d/services/s:81/proxy/"), "no service port 81 found for service \"s\"");
        assert_eq!(ask("/api/v1/namespaces/d/services/missing/proxy/"), "no endpoints available for service \"missing\"");
        assert_eq!(ask("/api/v1/namespaces/d/services/missing:80/proxy/"), "services \"missing\" not found");
    }

    #[test]
    fn the_servers_own_machine_is_no_target() {
        assert_eq!(ask("/api/v1/namespaces/d/services/evil/proxy/"), "address not allowed");
    }
}
