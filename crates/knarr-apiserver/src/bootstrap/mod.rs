//! What every cluster has from its first second: namespaces, the bootstrap roles and bindings, priority classes, flow control,
//! the Services `kubernetes` and `kube-dns`. Made through the pipeline like anything else; what is there already is left as its
//! owner wants it, except for the server's own address and what it believes.
//!
//! `data/bootstrap.jsonl` holds the objects as a server of the release makes them, one a line.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::try_join_all;
use ipnet::IpNet;
use knarr_core::api::{PatchType, Reply, Request, Transport, Verb};
use knarr_core::{GroupVersionResource, Result, Status, Value, ValueExt, json};
use knarr_schema::registry::Registry;

use crate::authn::FrontProxy;
use crate::flowcontrol::ensure as flow_control;

const OBJECTS: &str = include_str!("../../data/bootstrap.jsonl");

/// What differs from cluster to cluster.
#[derive(Clone, Debug)]
pub struct Config {
    pub advertise: IpAddr,
    pub port: u16,
    pub service_cidr: IpNet,
    /// The API server is all there is: no nodes of ours, and so neither their roles nor their class of volumes.
    pub alone: bool,
    /// Address of the DNS Service; without one there is no such Service.
    pub cluster_dns: Option<IpAddr>,
    /// PEM of the authority that client certificates are checked against.
    pub client_ca: String,
    /// Whom the server believes who asks; extension servers are to believe the same.
    pub front_proxy: Option<FrontProxy>,
    /// By which port of every node the Service `kubernetes` is reached; none: by its address only (`--kubernetes-service-node-port`).
    pub node_port: Option<u16>,
    /// Whether the server's own address is written down as the endpoint of that Service (`--endpoint-reconciler-type`).
    pub endpoints: bool,
}

/// The rules of the cluster role `system:node`, for the node authorizer.
pub fn system_node_role() -> Value {
    objects().find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "system:node").unwrap_or_default()
}

pub(crate) fn objects() -> impl Iterator<Item = Value> {
    OBJECTS.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// Makes what is missing. `transport` must be allowed everything.
///
/// # Errors
/// What the pipeline says.
pub async fn run(transport: &Arc<dyn Transport>, registry: &Registry, config: &Config) -> Result<()> {
    let wanted = |o: &Value| !flow_control::is_ours(o) && !(config.alone && is_of_a_cluster(o));
    let (first, rest): (Vec<Value>, Vec<Value>) = objects().filter(wanted).partition(|o| o["kind"] == "Namespace");
    let mut own = vec![service_cidr(config)];
    if !config.alone {
        own.push(storage_class());
    }
    try_join_all(first.into_iter().map(|o| ensure(transport, registry, o))).await?;
    try_join_all(rest.into_iter().chain(own).map(|o| ensure(transport, registry, o))).await?;
    if !config.client_ca.is_empty() || config.front_proxy.is_some() {
        tell_of_authentication(transport, registry, &config.client_ca, config.front_proxy.as_ref()).await?;
    }
    flow_control::run(transport).await?;
    ensure(transport, registry, kubernetes_service(config)).await?;
    if let Some(address) = config.cluster_dns {
        ensure(transport, registry, dns_service(address)).await?;
    }
    // A server that nobody else can reach has no endpoint.
    if config.endpoints && !config.advertise.is_loopback() {
        for object in kubernetes_endpoints(config) {
            put(transport, registry, object).await?;
        }
    }
    Ok(())
}

/// Makes further objects of the cluster's own: `kept` as they should be now, `made` only where they are missing.
///
/// # Errors
/// What the pipeline says.
pub async fn publish(transport: &Arc<dyn Transport>, registry: &Registry, kept: Vec<Value>, made: Vec<Value>) -> Result<()> {
    try_join_all(made.into_iter().map(|o| ensure(transport, registry, o))).await?;
    try_join_all(kept.into_iter().map(|o| put(transport, registry, o))).await.map(drop)
}

/// Roles of what runs in our clusters and not beside a lone API server.
fn is_of_a_cluster(object: &Value) -> bool {
    const NAMES: [&str; 5] =
        ["kubeadm:cluster-admins", "system:controller:kubelet-serving-approver", "system:coredns", "system:node-local-volumes", "system:node-network-policies"];
    object.str_at(&["metadata", "name"]).is_some_and(|name| NAMES.contains(&name))
}

fn request(registry: &Registry, verb: Verb, object: &Value) -> Result<Request> {
    let api_version = object.str_at(&["apiVersion"]).unwrap_or_default();
    let kind = object.str_at(&["kind"]).unwrap_or_default();
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let resource = registry.by_kind(group, version, kind).ok_or_else(|| Status::internal(format!("no kind {kind} in {api_version}")))?;
    let mut request = Request::new(verb, GroupVersionResource::new(group, version, &resource.plural));
    request.namespace = object.str_at(&["metadata", "namespace"]).map(str::to_owned);
    Ok(request)
}

/// Whether the object is there. Asked before a create: a Service's address that is taken by the Service itself is refused before
/// its name is looked at.
async fn exists(transport: &Arc<dyn Transport>, registry: &Registry, object: &Value) -> Result<bool> {
    let mut request = request(registry, Verb::Get, object)?;
    request.name = object.str_at(&["metadata", "name"]).map(str::to_owned);
    match transport.call(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.is_not_found() => Ok(false),
        Err(status) => Err(status),
    }
}

async fn ensure(transport: &Arc<dyn Transport>, registry: &Registry, object: Value) -> Result<()> {
    if exists(transport, registry, &object).await? {
        return Ok(());
    }
    let mut request = request(registry, Verb::Create, &object)?;
    request.body = Some(object);
    match transport.call(request).await {
        Err(status) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// Makes the object what it should be, whoever changed it.
async fn put(transport: &Arc<dyn Transport>, registry: &Registry, object: Value) -> Result<()> {
    if !exists(transport, registry, &object).await? {
        return ensure(transport, registry, object).await;
    }
    let mut patch = request(registry, Verb::Patch(PatchType::Merge), &object)?;
    patch.name = object.str_at(&["metadata", "name"]).map(str::to_owned);
    patch.body = Some(object);
    transport.call(patch).await.map(|_: Reply| ())
}

fn service_cidr(config: &Config) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": [config.service_cidr.to_string()]}})
}

/// The class of claims that name none: a folder of the node on which their pod runs, made when the pod is scheduled.
fn storage_class() -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "knarr.io/local", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"})
}

/// Tells extension servers which CAs clients have here, and what a front proxy must show.
///
/// # Errors
/// What the pipeline says.
pub async fn tell_of_authentication(transport: &Arc<dyn Transport>, registry: &Registry, client_ca: &str, front_proxy: Option<&FrontProxy>) -> Result<()> {
    put(transport, registry, authentication(client_ca, front_proxy)?).await
}

/// What extension servers need to check who asks (`kube-system/extension-apiserver-authentication`; upstream: `getConfigMapDataFor`).
fn authentication(client_ca: &str, front_proxy: Option<&FrontProxy>) -> Result<Value> {
    let list = |items: &[String]| serde_json::to_string(items).map_err(Status::internal);
    let mut data = json!({});
    if !client_ca.is_empty() {
        data.set(&["client-ca-file"], client_ca);
    }
    if let Some(proxy) = front_proxy {
        data.set(&["requestheader-client-ca-file"], proxy.ca.as_str());
        data.set(&["requestheader-allowed-names"], list(&proxy.allowed_names)?);
        data.set(&["requestheader-username-headers"], list(&proxy.username_headers)?);
        data.set(&["requestheader-group-headers"], list(&proxy.group_headers)?);
        data.set(&["requestheader-extra-headers-prefix"], list(&proxy.extra_prefixes)?);
        if !proxy.uid_headers.is_empty() {
            data.set(&["requestheader-uid-headers"], list(&proxy.uid_headers)?);
        }
    }
    Ok(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}, "data": data}))
}

fn kubernetes_service(config: &Config) -> Value {
    let first = config.service_cidr.hosts().next().map(|a| a.to_string());
    let mut port = json!({"name": "https", "protocol": "TCP", "port": 443, "targetPort": config.port});
    if let Some(node_port) = config.node_port {
        port.set(&["nodePort"], node_port);
    }
    let service_type = if config.node_port.is_some() { "NodePort" } else { "ClusterIP" };
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": service_type, "clusterIP": first, "sessionAffinity": "None", "ipFamilyPolicy": "SingleStack",
            "ports": [port]}})
}

fn kubernetes_endpoints(config: &Config) -> [Value; 2] {
    let ip = config.advertise.to_string();
    let family = if config.advertise.is_ipv4() { "IPv4" } else { "IPv6" };
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family, "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}]});
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": config.port, "protocol": "TCP"}]}]});
    [slice, endpoints]
}

/// DNS is answered on every node; the Service is there for whoever looks for it.
fn dns_service(address: IpAddr) -> Value {
    let port = |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port, "targetPort": port});
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
        "spec": {"clusterIP": address.to_string(), "ports": [port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", 9153)]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_server_has_upstreams_roles_only() {
        let ours: Vec<Value> = objects().filter(is_of_a_cluster).collect();
        assert_eq!(ours.iter().filter(|o| o["kind"] == "ClusterRole").count(), 4);
        assert_eq!(ours.iter().filter(|o| o["kind"] == "ClusterRoleBinding").count(), 5);
    }

    #[test]
    fn every_bootstrap_object_is_of_a_kind_that_is_served() {
        let registry = Registry::builtin();
        let mut count = 0;
        for object in objects() {
            request(&registry, Verb::Create, &object).unwrap();
            count += 1;
        }
        assert_eq!(count, OBJECTS.lines().count());
        assert!(!system_node_role().list_at(&["rules"]).is_empty());
    }
}
