//! [`PodView`]: the few facts about a pod that most controllers decide by.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_client::Project;
use knarr_client::read::{self, Owner};
use knarr_core::{Object, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::net::IpAddr;
use std::time::Duration;

use crate::ownership::{ControllerRef, Ownable};

/// In the order in which pods are preferred for deletion (upstream: `podPhaseToOrdinal`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    #[default]
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// The projection of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    pub uid: Box<str>,
    pub controller: Option<Box<ControllerRef>>,
    pub node: Option<Box<str>>,
    pub phase: Phase,
    /// Since when the condition `Ready` is true. The outer none: it is not.
    pub ready: Option<Option<Timestamp>>,
    pub created: Timestamp,
    pub deleting: Option<Timestamp>,
    /// Most restarts of a container, and of a sidecar.
    pub restarts: (i32, i32),
    /// Somebody is about to take the pod away (condition `DisruptionTarget`).
    pub disruption_target: bool,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    /// `status.podIPs`.
    pub ips: Box<[IpAddr]>,
    /// `spec.hostname` and `spec.subdomain`, where there is a hostname.
    pub host: Option<Box<(String, String)>>,
    /// Names of the claims that its volumes use.
    pub claims: Box<[Box<str>]>,
}

impl PodView {
    pub fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Neither over nor being deleted.
    pub fn is_active(&self) -> bool {
        !self.is_over() && self.deleting.is_none()
    }

    /// Succeeded or failed.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Being deleted and not yet over.
    pub fn is_terminating(&self) -> bool {
        self.deleting.is_some() && !self.is_over()
    }

    /// How long until the pod has been ready for `min_ready_seconds`: zero when it has, none when it is not ready.
    pub fn available_in(&self, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
        let since = self.ready?;
        if min_ready_seconds <= 0 {
            return Some(Duration::ZERO);
        }
        let at = since? + Duration::from_secs(min_ready_seconds.unsigned_abs().into());
        Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
    }

    pub fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.available_in(min_ready_seconds, now) == Some(Duration::ZERO)
    }
}

impl Ownable for PodView {
    fn uid(&self) -> &str {
        &self.uid
    }

    fn controller(&self) -> Option<&ControllerRef> {
        self.controller.as_deref()
    }

    fn is_deleting(&self) -> bool {
        self.deleting.is_some()
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
    name: String,
    uid: String,
    annotations: WireAnnotations,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    owner_references: Vec<Owner>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireAnnotations {
    #[serde(rename = "controller.kubernetes.io/pod-deletion-cost")]
    deletion_cost: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireSpec {
    node_name: Option<String>,
    hostname: String,
    subdomain: String,
    volumes: Vec<WireVolume>,
    init_containers: Vec<WireInit>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireVolume {
    name: String,
    persistent_volume_claim: Option<WireClaim>,
    ephemeral: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireClaim {
    claim_name: String,
}

impl WireVolume {
    /// The claim behind the volume; a generic ephemeral volume has one named after pod and volume.
    fn claim(self, pod: &str) -> Option<Box<str>> {
        let named = self.persistent_volume_claim.map(|c| c.claim_name.into());
        named.or_else(|| self.ephemeral.is_some().then(|| format!("{pod}-{}", self.name).into()))
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireInit {
    name: String,
    restart_policy: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireStatus {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<WireIp>,
    conditions: Vec<WireCondition>,
    container_statuses: Vec<WireContainer>,
    init_container_statuses: Vec<WireContainer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireIp {
    ip: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireCondition {
    r#type: String,
    status: String,
    last_transition_time: Option<Time>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireContainer {
    name: String,
    restart_count: i32,
}

impl Project for PodView {
    fn project(object: &Object) -> Result<Self> {
        let Wire { metadata, spec, status } = read::typed(object)?;
        let is_sidecar = |c: &&WireContainer| spec.init_containers.iter().any(|i| i.name == c.name && i.restart_policy == "Always");
        let true_one = |kind: &str| status.conditions.iter().find(|c| c.r#type == kind && c.status == "True");
        let ready = true_one("Ready");
        Ok(Self {
            uid: metadata.uid.into(),
            controller: ControllerRef::of(&metadata.owner_references),
            node: spec.node_name.filter(|n| !n.is_empty()).map(Into::into),
            phase: match status.phase.as_str() {
                "Running" => Phase::Running,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Unknown" => Phase::Unknown,
                _ => Phase::Pending,
            },
            ready: ready.map(|c| c.last_transition_time.as_ref().map(|t| t.0)),
            disruption_target: true_one("DisruptionTarget").is_some(),
            created: metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |t| t.0),
            deleting: metadata.deletion_timestamp.map(|t| t.0),
            restarts: (
                status.container_statuses.iter().map(|c| c.restart_count).max().unwrap_or_default(),
                status.init_container_statuses.iter().filter(is_sidecar).map(|c| c.restart_count).max().unwrap_or_default(),
            ),
            ips: status.pod_ips.iter().filter_map(|i| i.ip.parse().ok()).collect(),
            claims: spec.volumes.into_iter().filter_map(|v| v.claim(&metadata.name)).collect(),
            host: (!spec.hostname.is_empty()).then(|| Box::new((spec.hostname, spec.subdomain))),
            deletion_cost: metadata.annotations.deletion_cost.and_then(|c| c.parse().ok()).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use knarr_core::{Encoding, json};

    use super::*;

    #[test]
    fn the_view_is_the_same_from_json_and_from_protobuf() {
        let value = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"x": "y"}, "annotations": {"other": "z", "controller.kubernetes.io/pod-deletion-cost": "-3"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "ru", "controller": true}]},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "mine"}}, {"name": "b", "emptyDir": {}}, {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}],
                "containerStatuses": [{"name": "c", "restartCount": 2, "image": "", "imageID": "", "ready": true}],
                "initContainerStatuses": [{"name": "i", "restartCount": 9, "image": "", "imageID": "", "ready": true},
                    {"name": "s", "restartCount": 1, "image": "", "imageID": "", "ready": true}]}});
        let json = knarr_client::client::json_object(&value);
        let protobuf = Object { encoding: Encoding::Protobuf, bytes: knarr_schema::codec::encode_protobuf(&value).unwrap().into(), ..json.clone() };
        let view = PodView::project(&json).unwrap();
        assert_eq!(PodView::project(&protobuf).unwrap(), view);
        assert_eq!((view.restarts, view.deletion_cost, view.node.as_deref()), ((2, 1), -3, Some("n")));
        assert_eq!((view.ips.len(), view.claims.iter().map(AsRef::as_ref).collect::<Vec<&str>>()), (2, vec!["mine", "p-c"]));
        assert_eq!(view.available_in(30, "2026-01-01T00:01:10Z".parse().unwrap()), Some(Duration::from_secs(20)));
        assert_eq!(view.controller.unwrap().uid.as_ref(), "ru");
    }
}
