//! What controllers know of nodes: the projection that the shared informer keeps, taints, and how they are written.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::{Client, EventKind, Informer, Patch, Project, Recorder, read};
use knarr_core::{Object, Result, json};
use serde::Deserialize;

use crate::context::ControllerContext;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What a condition says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    True,
    False,
    Unknown,
}

impl Truth {
    pub fn of(text: &str) -> Self {
        match text {
            "True" => Self::True,
            "False" => Self::False,
            _ => Self::Unknown,
        }
    }
}

/// The projection of a node. Labels are read out of the bytes when asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub uid: Box<str>,
    pub created: Timestamp,
    /// The condition `Ready` and its last heartbeat; none before the node agent's first report.
    pub ready: Option<(Truth, Option<Timestamp>)>,
    pub taints: Vec<Taint>,
    pub pod_cidrs: Vec<Box<str>>,
    /// Addresses of type `InternalIP`.
    pub internal_ips: Vec<Box<str>>,
}

impl NodeView {
    pub fn is_ready(&self) -> bool {
        matches!(self.ready, Some((Truth::True, _)))
    }

    /// Taints that drive pods away.
    pub fn no_execute(&self) -> Vec<&Taint> {
        self.taints.iter().filter(|t| t.effect == "NoExecute").collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wire {
    metadata: WireMeta,
    spec: WireSpec,
    status: WireStatus,
}

knarr_client::partial!(Wire);

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireMeta {
    uid: String,
    creation_timestamp: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    taints: Vec<Taint>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    conditions: Vec<WireCondition>,
    addresses: Vec<WireAddress>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireCondition {
    r#type: String,
    status: String,
    last_heartbeat_time: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAddress {
    r#type: String,
    address: String,
}

impl Project for NodeView {
    fn project(object: &Object) -> Result<Self> {
        let Wire { metadata, spec, status } = read::typed(object)?;
        let ready = status.conditions.iter().find(|c| c.r#type == "Ready");
        Ok(Self {
            uid: metadata.uid.into(),
            created: metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
            ready: ready.map(|c| (Truth::of(&c.status), c.last_heartbeat_time.as_ref().map(|t| t.0))),
            taints: spec.taints,
            pod_cidrs: spec.pod_cidrs.into_iter().map(Into::into).collect(),
            internal_ips: status.addresses.into_iter().filter(|a| a.r#type == "InternalIP").map(|a| a.address.into()).collect(),
        })
    }
}

/// The shared informer of all nodes.
pub fn informer(context: &ControllerContext) -> Informer<NodeView> {
    context.informer::<Node, NodeView>()
}

/// The zone of a node, its region before it; both empty where nothing is told.
pub fn zone_key(object: &Object) -> String {
    let label = |key| crate::ownership::label(object, key).unwrap_or_default();
    let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
    if region.is_empty() && zone.is_empty() { String::new() } else { format!("{region}:{zone}") }
}

/// A taint as this control plane sets it.
pub fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    Taint { key: key.into(), effect: effect.into(), time_added: Some(Time(now)), value: None }
}

/// Whether a toleration tolerates a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty_or = |field: &Option<String>, wanted: &str| field.as_deref().is_none_or(|f| f.is_empty() || f == wanted);
    let value = match toleration.operator.as_deref() {
        None | Some("" | "Equal") => toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
        Some("Exists") => true,
        _ => false,
    };
    value && empty_or(&toleration.effect, &taint.effect) && empty_or(&toleration.key, &taint.key)
}

/// Gives a node these taints, if it has not changed since it was read.
///
/// # Errors
/// `Conflict` when it has changed; or as the API's.
pub async fn write_taints(client: &Client, node: &Node, taints: &[Taint]) -> Result<Object> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": if taints.is_empty() { json!(null) } else { json!(taints) }}});
    client.all::<Node>().dynamic().patch(name, Patch::merge(patch)).await
}

/// How node controllers refer to nodes in events.
pub fn reference(name: &str, uid: &str) -> ObjectReference {
    ObjectReference { api_version: Some("v1".into()), kind: Some("Node".into()), name: Some(name.into()), uid: Some(uid.into()), ..ObjectReference::default() }
}

/// Tells that a node came or went (upstream: `RecordNodeEvent`).
pub fn tell(recorder: &Recorder, name: &str, uid: &str, reason: &str, event: &str) {
    recorder.event(&reference(name, uid), EventKind::Normal, reason, format!("Node {name} event: {event}"));
}

/// Tells a node's new status (upstream: `RecordNodeStatusChange`).
pub fn tell_status(recorder: &Recorder, name: &str, uid: &str, status: &str) {
    recorder.event(&reference(name, uid), EventKind::Normal, status, format!("Node {name} status is now: {status}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_match_by_key_effect_and_value() {
        let taint = Taint { key: "k".into(), value: Some("v".into()), effect: "NoExecute".into(), time_added: None };
        let check = |value: knarr_core::Value| tolerates(&serde_json::from_value(value).unwrap(), &taint);
        assert!(check(json!({"operator": "Exists"})));
        assert!(check(json!({"key": "k", "value": "v"})));
        assert!(check(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})));
        assert!(!check(json!({"key": "k", "value": "w"})));
        assert!(!check(json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"})));
    }
}
