//! Warnings about pods and templates (upstream: `pkg/api/pod/warnings.go`).

use std::collections::BTreeMap;

use knarr_core::Value;
use knarr_core::field::go_quote;
use knarr_core::quantity::Quantity;

use super::annotation_profile;
use crate::at::At;
use crate::core::persistentvolumeclaim::validation::spec_warnings;
use crate::semantic::same;
use crate::warnings;

const SINCE_1_16: &str = "non-functional in v1.16+; use the \"priorityClassName\" field instead";
const SINCE_1_11: &str = "non-functional in v1.11+; use the \"sysctls\" field instead";

const DEPRECATED_ANNOTATIONS: [(&str, &str); 3] = [
    ("scheduler.alpha.kubernetes.io/critical-pod", SINCE_1_16),
    ("security.alpha.kubernetes.io/sysctls", SINCE_1_11),
    ("security.alpha.kubernetes.io/unsafe-sysctls", SINCE_1_11),
];

/// Kinds of volumes that are gone: the field, how it is shown, what to say.
const DEPRECATED_VOLUMES: [(&str, &str, &str); 7] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
];

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const TO_FIELD: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// A new pod.
pub fn of_pod(pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    warnings::host_name_of_pods(pod, "the Pod's hostname", &mut out);
    let root = At::root(pod);
    spec_and_metadata(&root, false, &mut out);
    out
}

/// A template, at its place.
pub fn of_template(template: &At, out: &mut Vec<String>) {
    spec_and_metadata(template, true, out);
}

/// Addresses in the status of a pod.
pub fn of_status(pod: &Value) -> Vec<String> {
    let (root, mut out) = (At::root(pod), Vec::new());
    for list in ["podIPs", "hostIPs"] {
        root.get("status").get(list).items().for_each(|ip| warnings::ip(&ip.get("ip"), &mut out));
    }
    out
}

fn spec_and_metadata(root: &At, is_template: bool, out: &mut Vec<String>) {
    let (spec, metadata) = (root.get("spec"), root.get("metadata"));
    let annotations = metadata.get("annotations");
    node_labels(&spec, out);
    for (key, text) in DEPRECATED_ANNOTATIONS {
        if annotations.key(key).is_set() {
            out.push(format!("{}: {text}", annotations.key(key).path()));
        }
    }
    for volume in spec.get("volumes").items() {
        deprecated_volume(&volume, out);
    }
    for volume in spec.get("volumes").items() {
        overlapping_paths(&volume, out);
    }
    duplicates(&spec.get("hostAliases"), "ip", out);
    duplicates(&spec.get("imagePullSecrets"), "name", out);
    for secret in spec.get("imagePullSecrets").items().filter(|s| s.str_of("name").is_empty()) {
        out.push(format!("{}: invalid empty name \"\"", secret.get("name").path()));
    }
    fractional_bytes(&spec.get("overhead"), out);
    let pod_context = spec.get("securityContext");
    if !pod_context.get("seccompProfile").is_set() && annotations.key(SECCOMP_POD).is_set() {
        out.push(format!("{}: {TO_FIELD}", annotations.key(SECCOMP_POD).path()));
    }
    let pod_profile = pod_context.get("appArmorProfile");
    each_container(&spec, |container| {
        let context = container.get("securityContext");
        let seccomp = format!("{SECCOMP_CONTAINER}{}", container.str_of("name"));
        if !context.get("seccompProfile").is_set() && annotations.key(&seccomp).is_set() {
            out.push(format!("{}: {TO_FIELD}", annotations.key(&seccomp).path()));
        }
        if !context.get("appArmorProfile").is_set() {
            app_armor(&annotations, container, pod_profile.value(), is_template, out);
        }
        let resources = container.get("resources");
        fractional_bytes_of(&[resources.get("limits"), resources.get("requests")], out);
        hidden_variables(&container.get("env"), out);
    });
    ports(&spec, out);
    if spec.get("terminationGracePeriodSeconds").int() < 0 {
        out.push(format!("{}: must be >= 0; negative values are invalid and will be treated as 1", spec.get("terminationGracePeriodSeconds").path()));
    }
    selectors_of_nothing(&spec.get("affinity"), out);
    spec.get("dnsConfig").get("nameservers").items().for_each(|ip| warnings::ip(&ip, out));
    spec.get("hostAliases").items().for_each(|alias| warnings::ip(&alias.get("ip"), out));
}

/// Calls `f` with each container in upstream's order.
fn each_container<'v>(spec: &At<'v, '_>, mut f: impl FnMut(&At<'v, '_>)) {
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        spec.get(kind).items().for_each(|c| f(&c));
    }
}

fn node_labels(spec: &At, out: &mut Vec<String>) {
    for (key, place) in spec.get("nodeSelector").entries() {
        if let Some(text) = warnings::deprecated_node_label(key) {
            out.push(format!("{}: {text}", place.path()));
        }
    }
    let affinity = spec.get("affinity");
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    required.get("nodeSelectorTerms").items().for_each(|term| warnings::node_selector_term(&term, false, out));
    for weighted in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        warnings::node_selector_term(&weighted.get("preference"), true, out);
    }
    for constraint in spec.get("topologySpreadConstraints").items() {
        let key = constraint.get("topologyKey");
        if let Some(text) = warnings::deprecated_node_label(key.str()) {
            out.push(format!("{}: {} is {text}", key.path(), key.str()));
        }
        selects_nothing(&constraint.get("labelSelector"), out);
    }
}

fn selects_nothing(selector: &At, out: &mut Vec<String>) {
    if !selector.is_set() {
        out.push(format!("{}: a null labelSelector results in matching no pod", selector.path()));
    }
}

fn selectors_of_nothing(affinity: &At, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let kind = affinity.get(kind);
        kind.get("requiredDuringSchedulingIgnoredDuringExecution").items().for_each(|term| selects_nothing(&term.get("labelSelector"), out));
        for weighted in kind.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            selects_nothing(&weighted.get("podAffinityTerm").get("labelSelector"), out);
        }
    }
}

fn deprecated_volume(volume: &At, out: &mut Vec<String>) {
    let late = [("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"), ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+")];
    let mut tell = |list: &[(&'static str, &'static str, &'static str)]| {
        for (field, shown, text) in list {
            if volume.get(field).is_set() {
                out.push(format!("{}: {text}", volume.get(shown).path()));
            }
        }
    };
    tell(&DEPRECATED_VOLUMES);
    tell(&late);
    let ephemeral = volume.get("ephemeral");
    let template = ephemeral.get("volumeClaimTemplate");
    let spec = template.get("spec");
    if let Some(claim) = spec.value() {
        out.extend(spec_warnings(spec.path().as_str(), claim));
    }
}

/// A path of a file in a volume, and where it is from.
#[derive(PartialEq)]
struct Placed {
    path: String,
    source: String,
}

impl std::fmt::Display for Placed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&go_quote(&self.path))?;
        if self.source.is_empty() { Ok(()) } else { write!(f, " ({})", self.source) }
    }
}

/// Files of one volume that lie upon or inside each other.
fn overlapping_paths(volume: &At, out: &mut Vec<String>) {
    let name = go_quote(volume.str_of("name"));
    for (field, of, label) in [("configMap", "name", "ConfigMap"), ("secret", "secretName", "Secret"), ("downwardAPI", "", "DownwardAPI")] {
        let source = volume.get(field);
        let described = if of.is_empty() { label.to_owned() } else { format!("{label} {}", go_quote(source.str_of(of))) };
        let mut seen = Vec::new();
        for item in source.get("items").items() {
            let placed = Placed { path: item.str_of("path").to_owned(), source: String::new() };
            collide(placed, &mut seen, |text| out.push(format!("volume {name} ({described}): overlapping paths: {text}")));
        }
    }
    let projected = volume.get("projected");
    let mut seen = Vec::new();
    for source in projected.get("sources").items() {
        if source.is_empty() {
            out.push(format!("volume {name} (Projected) has no sources provided"));
            continue;
        }
        for placed in projected_paths(&source) {
            collide(placed, &mut seen, |text| out.push(format!("volume {name} (Projected): overlapping paths: {text}")));
        }
    }
}

fn collide(mut placed: Placed, seen: &mut Vec<Placed>, mut tell: impl FnMut(String)) {
    placed.path.truncate(placed.path.trim_end_matches('/').len());
    let inside = |a: &str, b: &str| format!("{a}/").starts_with(&format!("{b}/"));
    for other in seen.iter().filter(|o| !o.path.is_empty() && !placed.path.is_empty()) {
        if *other == placed || inside(&other.path, &placed.path) || inside(&placed.path, &other.path) {
            tell(format!("{placed} with {other}"));
        }
    }
    seen.push(placed);
}

fn projected_paths(source: &At) -> Vec<Placed> {
    let items = |of: &At, label: String| -> Vec<Placed> {
        of.get("items").items().map(|i| Placed { path: i.str_of("path").to_owned(), source: label.clone() }).collect()
    };
    let one = |path: &str, label: &str| Placed { path: path.to_owned(), source: label.to_owned() };
    for (field, label) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "DownwardAPI")] {
        let of = source.get(field);
        if of.get("items").is_set() {
            return items(&of, if field == "downwardAPI" { label.to_owned() } else { format!("{label} {}", go_quote(of.str_of("name"))) });
        }
    }
    let (token, bundle, certificate) = (source.get("serviceAccountToken"), source.get("clusterTrustBundle"), source.get("podCertificate"));
    if token.is_set() {
        return vec![one(token.str_of("path"), "ServiceAccountToken")];
    }
    if bundle.is_set() {
        let name = if bundle.get("name").is_set() { bundle.str_of("name") } else { bundle.str_of("signerName") };
        return vec![one(bundle.str_of("path"), &format!("ClusterTrustBundle {}", go_quote(name)))];
    }
    let files =
        [("certificateChainPath", "PodCertificate chain"), ("keyPath", "PodCertificate key"), ("credentialBundlePath", "PodCertificate credential bundle")];
    files.iter().filter(|(field, _)| !certificate.str_of(field).is_empty()).map(|(field, label)| one(certificate.str_of(field), label)).collect()
}

fn duplicates(list: &At, field: &'static str, out: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for item in list.items() {
        let value = item.get(field);
        if seen.contains(&value.str()) {
            out.push(format!("{}: duplicate {field} {}", value.path(), go_quote(value.str())));
        } else {
            seen.push(value.str());
        }
    }
}

fn fractional_bytes(amounts: &At, out: &mut Vec<String>) {
    fractional_bytes_of(std::slice::from_ref(amounts), out);
}

fn fractional_bytes_of(lists: &[At], out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        for amounts in lists {
            let place = amounts.key(name);
            if let Some(amount) = place.value().and_then(Quantity::from_json).filter(|q| !q.is_whole()) {
                out.push(format!("{}: fractional byte value \"{amount}\" is invalid, must be an integer", place.path()));
            }
        }
    }
}

/// An annotation that says what a field should say. On templates it is told unless the pod's profile says the same; on pods,
/// where annotations become fields, only when it would change something or cannot be read.
fn app_armor(annotations: &At, container: &At, pod_profile: Option<&Value>, _is_template: bool, out: &mut Vec<String>) {
    let key = format!("{}{}", super::APP_ARMOR_ANNOTATION, container.str_of("name"));
    let place = annotations.key(&key);
    if !place.is_set() {
        return;
    }
    let told = annotation_profile(place.str());
    if pod_profile.is_none() || told.is_none() || !same(told.as_ref(), pod_profile) {
        out.push(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", place.path()));
    }
}

fn hidden_variables(env: &At, out: &mut Vec<String>) {
    let mut seen: Vec<&str> = Vec::new();
    for variable in env.items() {
        let (name, value) = (variable.str_of("name"), variable.str_of("value"));
        let reference = format!("$({name})");
        if !seen.contains(&name) {
            seen.push(name);
        } else if variable.get("valueFrom").is_set() || value == reference || !value.contains(&reference) {
            out.push(format!("{}: hides previous definition of {}, which may be dropped when using apply", variable.path(), go_quote(name)));
        }
    }
}

/// A port of a container, for comparison with others.
struct Port {
    path: String,
    host_ip: String,
    host_port: i64,
}

fn ports(spec: &At, out: &mut Vec<String>) {
    let mut seen: BTreeMap<(i64, String), Vec<Port>> = BTreeMap::new();
    each_container(spec, |container| {
        for place in container.get("ports").items() {
            let port = Port { path: place.path().to_string(), host_ip: place.str_of("hostIP").to_owned(), host_port: place.get("hostPort").int() };
            if !port.host_ip.is_empty() && port.host_port == 0 {
                out.push(format!("{}: hostIP set without hostPort: {}", port.path, go_port(&place)));
            }
            let others = seen.entry((place.get("containerPort").int(), place.str_of("protocol").to_owned())).or_default();
            for other in others.iter() {
                let what = if (&port.host_ip, port.host_port) == (&other.host_ip, other.host_port) {
                    "duplicate"
                } else if port.host_port == 0 || other.host_port == 0 {
                    "overlapping"
                } else if port.host_port == other.host_port && port.host_ip.is_empty() != other.host_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{}: {what} port definition with {}", port.path, other.path));
            }
            others.push(port);
        }
    });
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    each_container(spec, |container| {
        for port in container.get("ports").items().filter(|p| !p.str_of("name").is_empty()) {
            let (name, path) = (port.str_of("name"), port.path().to_string());
            match names.get(name) {
                Some(other) => out.push(format!(
                    "{path}: duplicate port name {} with {other}, services and probes that select ports by name will use {other}",
                    go_quote(name)
                )),
                None => {
                    names.insert(name.to_owned(), path);
                }
            }
        }
    });
}

/// A port as Go's `%+v` prints it.
fn go_port(port: &At) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        port.str_of("name"),
        port.get("hostPort").int(),
        port.get("containerPort").int(),
        port.str_of("protocol"),
        port.str_of("hostIP")
    )
}
