//! Events about pods and the node, as `kubectl describe` shows them. The recorder itself is the client's; this is the
//! agent's way to say whom an event concerns.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use crate::pod::spec::{PodExt, field_path};

/// How serious an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Normal,
    Warning,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Takes events and sends them on in its own time.
pub trait Recorder: Send + Sync + 'static {
    fn record(&self, about: ObjectReference, level: Level, reason: &str, message: &str);
}

/// A reference to a pod.
pub fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace().into()),
        name: Some(pod.name().into()),
        uid: Some(pod.uid().into()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// A reference to one container of a pod.
pub fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    ObjectReference { field_path: Some(field_path(pod.spec(), container)), ..pod_reference(pod) }
}

/// The client's recorder.
impl Recorder for knarr_client::Recorder {
    fn record(&self, about: ObjectReference, level: Level, reason: &str, message: &str) {
        let kind = match level {
            Level::Normal => knarr_client::EventKind::Normal,
            Level::Warning => knarr_client::EventKind::Warning,
        };
        self.event(&about, kind, reason, message);
    }
}

/// A reference to the node.
pub fn node_reference(name: &str, uid: Option<&str>) -> ObjectReference {
    // Upstream uses the name where the uid is not known.
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(uid.unwrap_or(name).into()),
        ..Default::default()
    }
}

/// Forgets everything: simulated nodes.
pub struct Silent;

impl Recorder for Silent {
    fn record(&self, _about: ObjectReference, _level: Level, _reason: &str, _message: &str) {}
}

/// Keeps everything: tests.
#[derive(Default)]
pub struct Kept(parking_lot::Mutex<Vec<String>>);

impl Kept {
    /// `Level Reason message`, in order.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

impl Recorder for Kept {
    fn record(&self, _about: ObjectReference, level: Level, reason: &str, message: &str) {
        self.0.lock().push(format!("{} {reason} {message}", level.as_str()));
    }
}
