//! Defaults of pods and pod templates (upstream: `pkg/apis/core/v1/defaults.go`).

use knarr_core::{Value, ValueExt, json};

use super::image;
use crate::tree::{self, default_if_zero, default_to, each, object, round_amounts, with};

/// The kinds of containers, by their field in a pod's spec.
pub const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Defaults of a whole Pod: those of its spec, and some that templates do not get.
pub fn pod(pod: &mut Value) {
    let spec = pod.ensure(&["spec"]);
    object(spec);
    if spec.i64_at(&["terminationGracePeriodSeconds"]).is_some_and(|s| s < 0) {
        spec.set(&["terminationGracePeriodSeconds"], 1);
    }
    default_to(spec, "enableServiceLinks", true);
    let host_network = spec.bool_at(&["hostNetwork"]) == Some(true);
    for kind in ["containers", "initContainers"] {
        each(spec, &[kind], |container| {
            requests_from_limits(container);
            if host_network {
                each(container, &["ports"], host_port_from_container_port);
            }
        });
    }
    pod_spec(spec);
    with(pod, &["status"], pod_status);
}

/// Keeps `podIP` and `podIPs` the same; the single one wins.
fn pod_status(status: &mut Value) {
    let ip = status.str_at(&["podIP"]).unwrap_or_default().to_owned();
    let first = status.list_at(&["podIPs"]).first().and_then(|i| i.str_at(&["ip"])).map(str::to_owned);
    match (ip.is_empty(), first) {
        (false, Some(first)) if first == ip => {}
        (false, _) => status.set(&["podIPs"], json!([{ "ip": ip }])),
        (true, Some(first)) => status.set(&["podIP"], first),
        (true, None) => {}
    }
    for kind in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        each(status, &[kind], |container| {
            round_amounts(container, &["allocatedResources"]);
            resource_requirements(container, "resources");
        });
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.at(&["resources", "limits"]).and_then(Value::as_object).cloned() else { return };
    let requests = object(container.ensure(&["resources", "requests"]));
    for (name, amount) in limits {
        requests.entry(name).or_insert(amount);
    }
    if requests.is_empty() {
        container.remove(&["resources", "requests"]);
    }
}

fn host_port_from_container_port(port: &mut Value) {
    let container_port = port.i64_at(&["containerPort"]).unwrap_or(0);
    default_if_zero(port, "hostPort", container_port);
}

/// Defaults of a pod template's spec.
pub fn template(template: &mut Value) {
    pod_spec(template.ensure(&["spec"]));
}

/// Defaults that pods and templates share.
pub fn pod_spec(spec: &mut Value) {
    service_account(spec);
    default_if_zero(spec, "dnsPolicy", "ClusterFirst");
    default_if_zero(spec, "restartPolicy", "Always");
    default_to(spec, "securityContext", json!({}));
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_if_zero(spec, "schedulerName", "default-scheduler");
    each(spec, &["volumes"], volume);
    for kind in CONTAINERS {
        each(spec, &[kind], container);
    }
    round_amounts(spec, &["overhead"]);
    resource_requirements(spec, "resources");
}

/// `serviceAccount` is the old name of `serviceAccountName`.
fn service_account(spec: &mut Value) {
    let old = spec.str_at(&["serviceAccount"]).unwrap_or_default().to_owned();
    let name = spec.str_at(&["serviceAccountName"]).filter(|n| !n.is_empty()).unwrap_or(&old).to_owned();
    let map = object(spec);
    if name.is_empty() {
        map.remove("serviceAccount");
    } else {
        map.insert("serviceAccountName".into(), name.clone().into());
        map.insert("serviceAccount".into(), name.into());
    }
}

fn resource_requirements(parent: &mut Value, key: &str) {
    round_amounts(parent, &[key, "limits"]);
    round_amounts(parent, &[key, "requests"]);
}

fn container(container: &mut Value) {
    let policy = image::default_pull_policy(container.str_at(&["image"]).unwrap_or_default());
    default_if_zero(container, "imagePullPolicy", policy);
    default_if_zero(container, "terminationMessagePath", "/dev/termination-log");
    default_if_zero(container, "terminationMessagePolicy", "File");
    each(container, &["env"], |env| with(env, &["valueFrom"], field_reference));
    resource_requirements(container, "resources");
    for probe_kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        with(container, &[probe_kind], probe);
    }
    for hook in ["postStart", "preStop"] {
        with(container, &["lifecycle", hook, "httpGet"], http_get);
    }
}

fn probe(probe: &mut Value) {
    default_if_zero(probe, "timeoutSeconds", 1);
    default_if_zero(probe, "periodSeconds", 10);
    default_if_zero(probe, "successThreshold", 1);
    default_if_zero(probe, "failureThreshold", 3);
    with(probe, &["httpGet"], http_get);
}

fn http_get(action: &mut Value) {
    default_if_zero(action, "path", "/");
    default_if_zero(action, "scheme", "HTTP");
}

/// `fieldRef` speaks of version v1 unless it says another.
fn field_reference(parent: &mut Value) {
    with(parent, &["fieldRef"], |field| default_if_zero(field, "apiVersion", "v1"));
}

/// Default mode of files in volumes: 0644.
const FILE_MODE: i64 = 0o644;

fn volume(volume: &mut Value) {
    if object(volume).iter().all(|(key, source)| key == "name" || source.is_null()) {
        volume.set(&["emptyDir"], json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        with(volume, &[source], |s| default_to(s, "defaultMode", FILE_MODE));
    }
    each(volume, &["downwardAPI", "items"], field_reference);
    each(volume, &["projected", "sources"], |source| {
        each(source, &["downwardAPI", "items"], field_reference);
        with(source, &["serviceAccountToken"], |token| default_to(token, "expirationSeconds", 3600));
    });
    with(volume, &["hostPath"], |path| default_to(path, "type", ""));
    with(volume, &["image"], |image| {
        let policy = image::default_pull_policy(image.str_at(&["reference"]).unwrap_or_default());
        default_if_zero(image, "pullPolicy", policy);
    });
    with(volume, &["ephemeral", "volumeClaimTemplate"], |template| claim_spec(template.ensure(&["spec"])));
}

/// Defaults of a PersistentVolumeClaim's spec.
pub fn claim_spec(spec: &mut Value) {
    default_to(spec, "volumeMode", "Filesystem");
    tree::round_amounts(spec, &["resources", "limits"]);
    tree::round_amounts(spec, &["resources", "requests"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaulting_twice_changes_nothing_more() {
        let mut once = json!({"spec": {"hostNetwork": true, "serviceAccount": "sa", "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}], "volumes": [{"name": "v"}]}, "status": {"podIP": "1.2.3.4"}});
        pod(&mut once);
        let mut twice = once.clone();
        pod(&mut twice);
        assert_eq!(once, twice);
        assert_eq!(once["spec"]["containers"][0]["ports"][0], json!({"containerPort": 80, "hostPort": 80}));
        assert_eq!(once["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1"}));
        assert_eq!(once["spec"]["serviceAccountName"], json!("sa"));
        assert_eq!(once["spec"]["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(once["status"]["podIPs"], json!([{"ip": "1.2.3.4"}]));
    }
}
