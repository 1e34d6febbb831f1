//! The Node's status, from facts to fields (upstream: `pkg/kubelet/nodestatus/setters.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeStatus,
    NodeSwapStatus, NodeSystemInfo,
};
use knarr_client::ToTree;
use knarr_core::{KUBERNETES_VERSION, Map, Value, json};
use knarr_runtime::cri::Image;

use super::Pressure;
use crate::context::Context;
use crate::pod::sandbox::HANDLERS;
use crate::pod::spec::ResourceList;

/// Images told, and names of each.
const IMAGES_MAX: usize = 50;
const NAMES_MAX: usize = 5;

pub struct Facts<'a> {
    pub context: &'a Context,
    pub port: u16,
    pub images: Vec<Image>,
    pub pressure: Pressure,
    pub network_problem: Option<String>,
    pub now: Timestamp,
}

/// As Go names the processor.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// The status that follows from the facts. Conditions and extended resources of others in `old` are kept.
pub fn node_status(facts: &Facts<'_>, old: &NodeStatus) -> NodeStatus {
    let context = facts.context;
    let machine = &context.machine;
    NodeStatus {
        addresses: Some(addresses(context)),
        capacity: Some(keep_extended(machine.capacity(&context.config), old.capacity.as_ref())),
        allocatable: Some(keep_extended(context.allocatable(), old.allocatable.as_ref())),
        conditions: Some(conditions(facts, old)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(facts.port) }) }),
        declared_features: Some(
            [
                "ExtendWebSocketsToKubelet",
                "InPlacePodLevelResourcesVerticalScaling",
                "InPlacePodVerticalScalingInitContainers",
                "RestartAllContainersOnContainerExits",
            ]
            .map(str::to_owned)
            .to_vec(),
        ),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        images: Some(images(&facts.images)),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().into(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: context.runtime.version(),
            kernel_version: machine.kernel_version.clone(),
            kubelet_version: KUBERNETES_VERSION.into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            swap: i64::try_from(machine.swap).ok().filter(|bytes| *bytes > 0).map(|capacity| NodeSwapStatus { capacity: Some(capacity) }),
            ..Default::default()
        }),
        runtime_handlers: Some(HANDLERS.map(runtime_handler).to_vec()),
        volumes_attached: old.volumes_attached.clone(),
        ..Default::default()
    }
}

fn runtime_handler(name: &str) -> NodeRuntimeHandler {
    let features = NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces: Some(false) };
    NodeRuntimeHandler { name: Some(name.into()), features: Some(features) }
}

fn addresses(context: &Context) -> Vec<NodeAddress> {
    let config = &context.config;
    let ips = config.host_ips().into_iter().map(|address| NodeAddress { type_: "InternalIP".into(), address });
    ips.chain([NodeAddress { type_: "Hostname".into(), address: config.hostname.clone() }]).collect()
}

/// Resources of others (their names have a domain) are not ours to take away.
fn keep_extended(mut own: ResourceList, old: Option<&ResourceList>) -> ResourceList {
    for (name, quantity) in old.into_iter().flatten().filter(|(name, _)| name.contains('/')) {
        own.entry(name.clone()).or_insert_with(|| quantity.clone());
    }
    own
}

fn images(all: &[Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = all.iter().collect();
    sorted.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let of = |image: &Image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(NAMES_MAX).cloned().collect()),
        size_bytes: Some(i64::try_from(image.size).unwrap_or(i64::MAX)),
    };
    sorted.into_iter().take(IMAGES_MAX).map(of).collect()
}

fn conditions(facts: &Facts<'_>, old: &NodeStatus) -> Vec<NodeCondition> {
    let p = &facts.pressure;
    let pressure = |type_: &'static str, bad: bool, insufficient: (&'static str, &'static str), sufficient: (&'static str, &'static str)| {
        let (reason, message) = if bad { insufficient } else { sufficient };
        (type_, bad, reason.to_owned(), message.to_owned())
    };
    let mut wanted = vec![
        pressure(
            "MemoryPressure",
            p.memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure("DiskPressure", p.disk, ("KubeletHasDiskPressure", "kubelet has disk pressure"), ("KubeletHasNoDiskPressure", "kubelet has no disk pressure")),
        pressure(
            "PIDPressure",
            p.pid,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
    ];
    wanted.push(match &facts.network_problem {
        None => ("Ready", true, "KubeletReady".to_owned(), "kubelet is posting ready status".to_owned()),
        Some(problem) => {
            let message = format!("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{problem}");
            ("Ready", false, "KubeletNotReady".to_owned(), message)
        }
    });
    let mut all: Vec<NodeCondition> = old.conditions.iter().flatten().filter(|c| !wanted.iter().any(|w| w.0 == c.type_)).cloned().collect();
    for (type_, status, reason, message) in wanted {
        let status = if status { "True" } else { "False" };
        let before = old.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == status);
        let now = crate::pod::status::api_time(facts.now);
        all.push(NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason),
            message: Some(message),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(now.clone())),
            last_heartbeat_time: Some(now),
        });
    }
    all
}

/// Whether more differs than the times of heartbeats (upstream: `nodeStatusHasChanged`).
pub fn has_changed(old: &NodeStatus, new: &NodeStatus) -> bool {
    let quiet = |status: &NodeStatus| {
        let mut status = status.clone();
        status.conditions.iter_mut().flatten().for_each(|c| c.last_heartbeat_time = None);
        status.conditions.iter_mut().for_each(|c| c.sort_by(|a, b| a.type_.cmp(&b.type_)));
        status.to_tree().unwrap_or_default()
    };
    quiet(old) != quiet(new)
}

/// The strategic merge patch from one status to another; nothing when they are equal. Conditions merge by type, addresses and
/// all other lists are replaced.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let patch = differences(old, new);
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn differences(old: &Value, new: &Value) -> Map<String, Value> {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut patch = Map::new();
    for (key, value) in new {
        match old.get(key) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => drop(patch.insert(key.clone(), Value::Object(differences(before, value)))),
            before => match key.as_str() {
                "conditions" => drop(patch.insert(key.clone(), changed_elements(before, value, "type"))),
                "addresses" => drop(patch.insert(key.clone(), replaced(value))),
                _ => drop(patch.insert(key.clone(), value.clone())),
            },
        }
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    patch
}

fn changed_elements(before: Option<&Value>, after: &Value, key: &str) -> Value {
    let list = |v: Option<&Value>| v.and_then(Value::as_array).cloned().unwrap_or_default();
    let before: BTreeMap<String, Value> = list(before).into_iter().map(|e| (e[key].to_string(), e)).collect();
    list(Some(after)).into_iter().filter(|e| before.get(&e[key].to_string()) != Some(e)).collect()
}

/// A list that is merged by key otherwise, to be taken whole.
fn replaced(value: &Value) -> Value {
    let mut list = value.as_array().cloned().unwrap_or_default();
    list.push(json!({"$patch": "replace"}));
    Value::Array(list)
}
