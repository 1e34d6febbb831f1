//! Validation of pods and pod templates (upstream: `pkg/apis/core/validation/validation.go`).
//!
//! [`create`], [`update`] and their like are for pods, [`template`] for everything that makes pods. What was wrong in the old
//! object may stay wrong in the new one; [`Options`] remembers what.

mod affinity;
mod annotations;
mod containers;
mod env;
mod network;
mod options;
mod os;
mod probes;
mod resize;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
mod volumes;

pub use affinity::{node_selector, node_selector_requirement};
pub use options::Options;
pub use probes::port_number_or_name;
pub use resize::validate as resize;
pub use resources::amounts_as_limits;
pub use scheduling::{label_selector_keys, taint_effect, tolerations};
pub use security::app_armor_profile;
pub use status::validate as status;
pub use update::{ephemeral as update_ephemeral, validate as update};
pub use volumes::{csi_driver_name, sources as volume_sources};

use knarr_core::field::ErrorList;
use knarr_core::{Value, names};

use crate::at::At;
use crate::metadata;

/// Protocols of ports, sorted.
pub const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// What a spec shares with the parts of it that are checked one by one.
struct Pod<'v, 'p> {
    spec: &'p At<'v, 'p>,
    /// `metadata` of a Pod; templates have no name yet.
    metadata: Option<&'p At<'v, 'p>>,
    options: &'p Options,
    volumes: Vec<&'v Value>,
    claims: Vec<&'v str>,
}

impl<'v> Pod<'v, '_> {
    /// The volume of this name.
    fn volume(&self, name: &str) -> Option<&'v Value> {
        self.volumes.iter().copied().find(|v| v["name"] == name)
    }

    fn grace_seconds(&self) -> i64 {
        self.spec.get("terminationGracePeriodSeconds").int()
    }

    /// The pod's users are the host's.
    fn host_users(&self) -> bool {
        let users = self.spec.get("hostUsers");
        !users.is_set() || users.bool()
    }

    fn os(&self) -> &'v str {
        self.spec.get("os").str_of("name")
    }
}

/// A new pod.
pub fn create(pod: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let root = At::root(pod);
    metadata_and_spec(&root, &Options::of_pod(pod, None), &mut e);
    let spec = root.get("spec");
    if !spec.get("ephemeralContainers").is_empty() {
        e.push(spec.get("ephemeralContainers").forbidden("cannot be set on create"));
    }
    if !spec.get("nodeName").is_empty() && !spec.get("schedulingGates").is_empty() {
        e.push(spec.get("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"));
    }
    annotations::match_fields(&root.get("metadata"), &spec, &mut e);
    e
}

/// What create and update check alike.
fn metadata_and_spec(root: &At, options: &Options, e: &mut ErrorList) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    annotations::validate(&metadata.get("annotations"), &spec, options, e);
    validate_spec(&spec, Some(&metadata), options, e);
    if spec.get("serviceAccountName").is_empty() {
        volumes::no_service_account_tokens(&spec, e);
    }
    spec.get("terminationGracePeriodSeconds").nonnegative(e);
    for kind in ["containers", "initContainers"] {
        for container in spec.get(kind).items() {
            containers::image_without_spaces(&container, e);
        }
    }
}

/// The template of a pod, wherever it stands.
pub fn template(template: &At, options: &Options, e: &mut ErrorList) {
    let (metadata, spec) = (template.get("metadata"), template.get("spec"));
    let (labels, notes) = (metadata.get("labels"), metadata.get("annotations"));
    // Upstream shows a template's labels and annotations as if they were its own fields.
    e.extend(metadata::labels(labels.value(), &template.shown_as("labels", None).path()));
    e.extend(metadata::annotations(notes.value(), &template.shown_as("annotations", None).path()));
    annotations::validate(&template.shown_as("annotations", notes.value()), &spec, options, e);
    validate_spec(&spec, None, options, e);
    annotations::match_fields(&metadata, &spec, e);
    if !spec.get("ephemeralContainers").is_empty() {
        e.push(spec.get("ephemeralContainers").forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// A pod's spec (upstream: `ValidatePodSpec`).
fn validate_spec<'v>(spec: &At<'v, '_>, metadata: Option<&At<'v, '_>>, options: &Options, e: &mut ErrorList) {
    if !spec.get("terminationGracePeriodSeconds").is_set() {
        e.push(spec.get("terminationGracePeriodSeconds").required(""));
    }
    let claims = spec.get("resourceClaims").items().map(|c| c.str_of("name")).filter(|n| !n.is_empty()).collect();
    let mut pod = Pod { spec, metadata, options, volumes: Vec::new(), claims };
    pod.volumes = volumes::validate(&pod, e);
    resources::pod_claims(&pod, e);
    containers::validate(&pod, e);
    resources::pod_level(&pod, e);
    network::host_ports(&pod, e);
    restart_and_dns_policy(spec, e);
    e.extend(metadata::labels(spec.get("nodeSelector").value(), &spec.get("nodeSelector").path()));
    security::pod(&pod, e);
    image_pull_secrets(&spec.get("imagePullSecrets"), e);
    affinity::validate(&spec.get("affinity"), options, e);
    network::dns_config(spec, e);
    scheduling::readiness_gates(&spec.get("readinessGates"), e);
    scheduling::gates(&spec.get("schedulingGates"), e);
    scheduling::topology_spread(&spec.get("topologySpreadConstraints"), options, e);
    os::windows_host_process(spec, e);
    os::host_users(&pod, e);
    network::host_name_override(spec, e);
    names_of(spec, e);
    active_deadline(spec, e);
    scheduling::tolerations(&spec.get("tolerations"), e);
    network::host_aliases(&spec.get("hostAliases"), e);
    preemption_policy(&spec.get("preemptionPolicy"), e);
    resources::overhead(&pod, e);
    os::validate(spec, e);
    env::file_keys(&pod, e);
}

fn restart_and_dns_policy(spec: &At, e: &mut ErrorList) {
    spec.get("restartPolicy").one_of(e, &["Always", "OnFailure", "Never"]);
    spec.get("dnsPolicy").one_of(e, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
}

/// Names of other objects, and the pod's own.
fn names_of(spec: &At, e: &mut ErrorList) {
    spec.get("serviceAccountName").optional_name(e, names::is_dns1123_subdomain);
    spec.get("nodeName").optional_name(e, names::is_dns1123_subdomain);
    spec.get("hostname").optional_name(e, names::is_dns1123_label);
    spec.get("subdomain").optional_name(e, names::is_dns1123_label);
    spec.get("priorityClassName").optional_name(e, names::is_dns1123_subdomain);
    let runtime_class = spec.get("runtimeClassName");
    if runtime_class.is_set() {
        runtime_class.problems(e, names::is_dns1123_subdomain(runtime_class.str()));
    }
}

fn active_deadline(spec: &At, e: &mut ErrorList) {
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        deadline.in_range(e, 1, i64::from(i32::MAX));
    }
}

fn preemption_policy(policy: &At, e: &mut ErrorList) {
    if policy.is_set() {
        policy.one_of(e, &["PreemptLowerPriority", "Never"]);
    }
}

/// Only the name of a secret may be said.
fn image_pull_secrets(secrets: &At, e: &mut ErrorList) {
    for secret in secrets.items() {
        if secret.value().and_then(Value::as_object).is_some_and(|map| map.keys().any(|k| k != "name")) {
            e.push(secret.invalid("only name may be set"));
        }
    }
}
