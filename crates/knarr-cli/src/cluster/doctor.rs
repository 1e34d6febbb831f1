//! `knarr doctor`: why something does not run, and what mends it. It looks at the machine, the cluster's processes, and at every
//! pod, claim and Service that is stuck, or at the one that was named.

use std::fmt;

use k8s_openapi::api::core::v1::Node;
use knarr_client::{Client, TlsTransport, read};
use knarr_core::api::Options;
use knarr_core::selector::LabelSelector;
use knarr_core::{GroupVersionResource, Value, ValueExt};

use super::config::Cluster;
use super::failure::{Exit, Failure, Result};
use super::process::Process;
use super::{kubeconfig, preflight, status, supervise};

/// Something that is wrong: what it is about, why, and what mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub about: String,
    pub cause: String,
    pub advice: String,
}

impl Finding {
    fn new(about: impl Into<String>, cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { about: about.into(), cause: cause.into(), advice: advice.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.cause)?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, "\n  to mend it: {}", self.advice) }
    }
}

/// Runs the verb: `target` is `pod/NAME`, `pvc/NAME` or `service/NAME`; without one everything is looked at.
pub async fn run(cluster: &Cluster, target: Option<&str>, namespace: Option<&str>) -> Result<()> {
    let mut found = machine(cluster);
    let client = TlsTransport::new(kubeconfig::client_config(cluster)?).map_err(Failure::program)?.client();
    match objects(&client, target, namespace).await {
        Ok(more) => found.extend(more),
        Err(status) if target.is_some() => return Err(Failure::new("API", Exit::Cluster, status.message, "knarr status")),
        Err(status) => found.push(Finding::new("API server", format!("it does not answer: {}", status.message), "knarr start, or knarr logs server")),
    }
    if found.is_empty() {
        println!("Nothing is wrong that can be seen from here");
        return Ok(());
    }
    found.iter().for_each(|f| println!("{f}"));
    Err(Failure::new(
        "FINDINGS",
        Exit::Cluster,
        format!("{} found", if found.len() == 1 { "1 problem was".into() } else { format!("{} problems were", found.len()) }),
        String::new(),
    ))
}

/// What is wrong with this machine and the cluster's processes.
fn machine(cluster: &Cluster) -> Vec<Finding> {
    let mut found = Vec::new();
    for check in [preflight::kernel(), preflight::disk(&cluster.data)] {
        if let Err(failure) = check {
            found.push(Finding::new("this machine", failure.cause, failure.advice));
        }
    }
    for (role, _) in supervise::roles(cluster) {
        if Process::from_pid_file(&cluster.pid_file(&role)).is_none() {
            found.push(Finding::new(
                format!("process {role}"),
                "it does not run",
                format!("knarr start --profile {}; why it ended stands in `knarr logs {role}`", cluster.profile),
            ));
        }
    }
    found
}

async fn list(client: &Client, plural: &str, namespace: Option<&str>) -> knarr_core::Result<Vec<Value>> {
    let group = if plural == "endpointslices" {
        "discovery.k8s.io"
    } else if plural == "storageclasses" {
        "storage.k8s.io"
    } else {
        ""
    };
    let found = client.dynamic(GroupVersionResource::new(group, "v1", plural), namespace).list(&Options::default()).await?;
    found.items.iter().map(read::value).collect()
}

/// What is wrong with objects.
async fn objects(client: &Client, target: Option<&str>, namespace: Option<&str>) -> knarr_core::Result<Vec<Finding>> {
    let (kind, name) = target.map_or((None, None), |t| t.split_once('/').map_or((Some("pod"), Some(t)), |(k, n)| (Some(k), Some(n))));
    let namespace = if target.is_some() { Some(namespace.unwrap_or("default")) } else { namespace };
    let wants = |names: &[&str]| kind.is_none_or(|k| names.contains(&k));
    let chosen = |o: &Value| name.is_none_or(|n| o.str_at(&["metadata", "name"]) == Some(n));
    let pods = list(client, "pods", namespace).await?;
    let mut found = Vec::new();
    if wants(&["pod", "pods", "po"]) {
        let events = list(client, "events", namespace).await?;
        found.extend(pods.iter().filter(|p| chosen(p)).filter_map(|p| pod(p, &events)));
    }
    if wants(&["pvc", "persistentvolumeclaim", "persistentvolumeclaims"]) {
        let (classes, volumes) = (list(client, "storageclasses", None).await?, list(client, "persistentvolumes", None).await?);
        found.extend(list(client, "persistentvolumeclaims", namespace).await?.iter().filter(|c| chosen(c)).filter_map(|c| claim(c, &classes, &volumes)));
    }
    if wants(&["service", "services", "svc"]) {
        found.extend(list(client, "services", namespace).await?.iter().filter(|s| chosen(s)).filter_map(|s| service(s, &pods)));
    }
    if kind.is_none() {
        for node in client.all::<Node>().list(&Options::default()).await?.0 {
            found.extend(not_ready(&node).into_iter().chain(pressures(&node)));
        }
    }
    Ok(found)
}

fn title(kind: &str, object: &Value) -> String {
    let text = |key: &str| object.str_at(&["metadata", key]).unwrap_or_default();
    if text("namespace").is_empty() { format!("{kind} {}", text("name")) } else { format!("{kind} {}/{}", text("namespace"), text("name")) }
}

fn flags(object: &Value) -> String {
    format!("-n {} {}", object.str_at(&["metadata", "namespace"]).unwrap_or_default(), object.str_at(&["metadata", "name"]).unwrap_or_default())
}

fn not_ready(node: &Node) -> Option<Finding> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let ready = node.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    match ready {
        Some(c) if c.status == "True" => None,
        Some(c) => Some(Finding::new(
            format!("node {name}"),
            format!("it is not Ready: {}", c.message.as_deref().unwrap_or_default()),
            format!("knarr status, and the node's log: knarr logs {name}"),
        )),
        None => Some(Finding::new(format!("node {name}"), "it has never reported", "knarr start")),
    }
}

/// What a node runs short of, and with it every pod that would go there.
pub(super) fn pressures(node: &Node) -> Vec<Finding> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let finding = |pressure: &String| {
        let advice = match pressure.as_str() {
            "DiskPressure" => "free some space on the disk of its data; it is noticed within seconds, the node takes pods again after five minutes",
            "MemoryPressure" => "end what needs the memory, on the machine or in the cluster",
            _ => "end some processes, or allow more: sysctl kernel.pid_max",
        };
        Finding::new(format!("node {name}"), format!("it has {pressure}: it takes no new pods, and ends some that it has"), advice)
    };
    status::pressures(node).iter().map(finding).collect()
}

/// Why a pod does not run.
pub fn pod(object: &Value, events: &[Value]) -> Option<Finding> {
    let about = || title("pod", object);
    if object.str_at(&["metadata", "deletionTimestamp"]).is_some() {
        let finalizers = object.list_at(&["metadata", "finalizers"]);
        return (!finalizers.is_empty()).then(|| {
            let names: Vec<&str> = finalizers.iter().filter_map(Value::as_str).collect();
            Finding::new(
                about(),
                format!("it is being deleted, but waits for {}", names.join(", ")),
                "let the controller behind that finalizer do its work, or take the finalizer out",
            )
        });
    }
    if object.str_at(&["status", "phase"]) == Some("Succeeded") {
        return None;
    }
    let conditions = object.list_at(&["status", "conditions"]);
    if let Some(c) = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False") {
        let why = c.str_at(&["message"]).unwrap_or_default();
        return Some(Finding::new(about(), format!("no node takes it: {why}"), scheduling_advice(why)));
    }
    for status in ["initContainerStatuses", "containerStatuses"].iter().flat_map(|l| object.list_at(&["status", l])) {
        if let Some(finding) = container(object, status) {
            return Some(finding);
        }
    }
    if conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True") {
        return None;
    }
    let uid = object.at(&["metadata", "uid"]);
    let warning = events
        .iter()
        .filter(|e| e["type"] == "Warning" && e.at(&["involvedObject", "uid"]) == uid)
        .max_by_key(|e| e.str_at(&["lastTimestamp"]).unwrap_or_default());
    let said = warning.map(|e| format!("{}: {}", e.str_at(&["reason"]).unwrap_or_default(), e.str_at(&["message"]).unwrap_or_default()))?;
    Some(Finding::new(about(), format!("it is not ready; the last warning: {said}"), event_advice(warning?, object)))
}

fn scheduling_advice(why: &str) -> String {
    let rules = [
        ("node affinity/selector", "label a node as the pod asks (kubectl label node NAME KEY=VALUE), or change its nodeSelector or affinity"),
        ("Insufficient", "ask for less in resources.requests, or add a node: knarr node add"),
        ("node.kubernetes.io/disk-pressure", "free some space on the disk of the node's data"),
        ("untolerated taint", "give the pod a toleration, or take the taint away (kubectl taint node NAME KEY-)"),
        ("were unschedulable", "let the node take pods again: kubectl uncordon NAME"),
        ("unbound immediate PersistentVolumeClaims", "see why its claim is not bound: knarr doctor pvc/NAME"),
        ("not found", "make what the pod refers to"),
        ("free ports", "a hostPort is taken on every node: use another, or a Service"),
    ];
    rules.iter().find(|(text, _)| why.contains(text)).map_or_else(|| "kubectl describe the pod".to_owned(), |(_, advice)| (*advice).to_owned())
}

fn event_advice(event: &Value, pod: &Value) -> String {
    match event.str_at(&["reason"]) {
        Some("FailedMount" | "FailedAttachVolume") => "make the ConfigMap, Secret or claim that the volume names".into(),
        Some("Unhealthy") => format!("see what the container says (kubectl logs {}), and whether the probe asks the right port and path", flags(pod)),
        Some("FailedCreatePodSandBox") => "knarr logs, for the node's own words".into(),
        _ => format!("kubectl describe pod {}", flags(pod)),
    }
}

fn container(pod: &Value, status: &Value) -> Option<Finding> {
    let name = status.str_at(&["name"]).unwrap_or_default();
    let about = format!("{}, container {name}", title("pod", pod));
    let waiting = status.at(&["state", "waiting"])?;
    let message = waiting.str_at(&["message"]).unwrap_or_default();
    let logs = format!("kubectl logs {} -c {name} --previous", flags(pod));
    match waiting.str_at(&["reason"]).unwrap_or_default() {
        "ImagePullBackOff" | "ErrImagePull" => {
            let image = status.str_at(&["image"]).unwrap_or_default();
            Some(Finding::new(
                about,
                format!("its image {image} cannot be pulled: {message}"),
                "check the image's name; take it in by hand (knarr image load ARCHIVE), or give the pod imagePullSecrets",
            ))
        }
        "ErrImageNeverPull" => Some(Finding::new(about, "its image is not there and must not be pulled", "knarr image load ARCHIVE")),
        "InvalidImageName" => Some(Finding::new(about, format!("its image has no valid name: {message}"), "mend the image's name")),
        "CreateContainerConfigError" => Some(Finding::new(about, message, "make the ConfigMap or Secret, or the key in it, that the container refers to")),
        "CreateContainerError" | "RunContainerError" | "StartError" => {
            Some(Finding::new(about, format!("it cannot be started: {message}"), "check its command and its volume mounts"))
        }
        "CrashLoopBackOff" => {
            let last = status.at(&["lastState", "terminated"]);
            let code = last.and_then(|t| t.i64_at(&["exitCode"])).unwrap_or(0);
            let why = match (last.and_then(|t| t.str_at(&["reason"])), code) {
                (Some("OOMKilled"), _) | (_, 137) if last.and_then(|t| t.str_at(&["reason"])) == Some("OOMKilled") => {
                    return Some(Finding::new(about, "it needs more memory than its limit and is killed for it", "raise resources.limits.memory"));
                }
                (_, 0) => "it ends by itself at once, which a pod that shall run on may not".to_owned(),
                (_, 126) => "its command cannot be executed".into(),
                (_, 127) => "its command is not in the image".into(),
                (_, code) => format!("it ends again and again, with exit code {code}"),
            };
            Some(Finding::new(about, why, logs))
        }
        _ => None,
    }
}

/// Why a claim is not bound.
pub fn claim(object: &Value, classes: &[Value], volumes: &[Value]) -> Option<Finding> {
    if object.str_at(&["status", "phase"]) == Some("Bound") {
        return None;
    }
    let about = title("claim", object);
    let is_default = |c: &Value| c.str_at(&["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"]) == Some("true");
    let named = object.str_at(&["spec", "storageClassName"]);
    let free = volumes.iter().any(|v| {
        v.str_at(&["status", "phase"]) == Some("Available") && v.str_at(&["spec", "storageClassName"]).unwrap_or_default() == named.unwrap_or_default()
    });
    let class = classes.iter().find(|c| c.str_at(&["metadata", "name"]) == named);
    Some(match (named, class) {
        (None, _) if !classes.iter().any(is_default) => {
            Finding::new(about, "it names no storage class, and there is no default one", "name one in storageClassName, or make one the default")
        }
        (Some(""), _) if !free => {
            Finding::new(about, "it wants a volume without a class, and none is free that fits", "make a PersistentVolume of its size and access mode")
        }
        (Some(name), None) if !name.is_empty() && !free => Finding::new(
            about,
            format!("there is no storage class {name:?}, and no free volume of that class"),
            "kubectl get storageclass; then mend storageClassName, or make a PersistentVolume",
        ),
        (_, Some(class)) if class.str_at(&["volumeBindingMode"]) == Some("WaitForFirstConsumer") => {
            Finding::new(about, "its volume is made when the first pod uses it, and none does yet", "make a pod that uses it")
        }
        (_, Some(class)) => Finding::new(
            about,
            format!("the provisioner {} has not made its volume yet", class.str_at(&["provisioner"]).unwrap_or_default()),
            "see whether that provisioner runs; kubectl describe the claim",
        ),
        _ => Finding::new(about, "no free volume fits its size and access modes", "kubectl get pv; make one that fits"),
    })
}

/// Why a Service leads nowhere.
pub fn service(object: &Value, pods: &[Value]) -> Option<Finding> {
    let selector = object.at(&["spec", "selector"])?;
    if object.str_at(&["spec", "type"]) == Some("ExternalName") {
        return None;
    }
    let wanted = LabelSelector::from_map(Some(selector));
    let namespace = object.at(&["metadata", "namespace"]);
    let chosen: Vec<&Value> = pods.iter().filter(|p| p.at(&["metadata", "namespace"]) == namespace && wanted.matches(p.at(&["metadata", "labels"]))).collect();
    let about = title("service", object);
    if chosen.is_empty() {
        return Some(Finding::new(
            about,
            format!("no pod has the labels {wanted}"),
            format!("kubectl get pods -n {} --show-labels; then mend the selector or the labels", namespace.and_then(Value::as_str).unwrap_or_default()),
        ));
    }
    let ready = |p: &&&Value| p.list_at(&["status", "conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    if !chosen.iter().any(|p| ready(&p)) {
        let names: Vec<&str> = chosen.iter().filter_map(|p| p.str_at(&["metadata", "name"])).collect();
        return Some(Finding::new(
            about,
            format!("none of its pods is ready: {}", names.join(", ")),
            format!("knarr doctor pod/{} --namespace {}", names[0], namespace.and_then(Value::as_str).unwrap_or_default()),
        ));
    }
    for port in object.list_at(&["spec", "ports"]) {
        let Some(name) = port.str_at(&["targetPort"]) else { continue };
        let has =
            chosen.iter().any(|p| p.list_at(&["spec", "containers"]).iter().flat_map(|c| c.list_at(&["ports"])).any(|c| c.str_at(&["name"]) == Some(name)));
        if !has {
            return Some(Finding::new(
                about,
                format!("no container of its pods has a port named {name:?}"),
                "name the container's port, or put its number into targetPort",
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn cause(finding: Option<Finding>) -> String {
        finding.map(|f| f.cause).unwrap_or_default()
    }

    #[test]
    fn a_stuck_pod_is_explained() {
        let with = |status: Value| json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "status": status});
        let unschedulable =
            with(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}]}));
        let finding = pod(&unschedulable, &[]).unwrap();
        assert!(finding.cause.starts_with("no node takes it") && finding.advice.contains("knarr node add"));
        let waiting = |reason: &str, last: Value| {
            with(json!({"containerStatuses": [{"name": "c", "image": "x", "state": {"waiting": {"reason": reason, "message": "m"}}, "lastState": last}]}))
        };
        assert_eq!(cause(pod(&waiting("ImagePullBackOff", json!({})), &[])), "its image x cannot be pulled: m");
        assert_eq!(cause(pod(&waiting("CrashLoopBackOff", json!({"terminated": {"exitCode": 3}})), &[])), "it ends again and again, with exit code 3");
        assert!(cause(pod(&waiting("CrashLoopBackOff", json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}})), &[])).contains("memory"));
        assert_eq!(pod(&with(json!({"conditions": [{"type": "Ready", "status": "True"}]})), &[]), None);
    }

    #[test]
    fn a_node_that_runs_short_is_named_with_what_it_lacks() {
        let node = |disk: &str| {
            let conditions = serde_json::json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": disk}]);
            serde_json::from_value::<Node>(serde_json::json!({"metadata": {"name": "n"}, "status": {"conditions": conditions}})).unwrap()
        };
        let found = pressures(&node("True"));
        assert_eq!(found.len(), 1);
        assert!(found[0].about == "node n" && found[0].cause.contains("DiskPressure") && found[0].advice.contains("free some space"), "{}", found[0]);
        assert!(pressures(&node("False")).is_empty() && not_ready(&node("True")).is_none());
    }

    #[test]
    fn a_service_without_pods_is_explained() {
        let object = json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": "http"}]}});
        let with = |ready: &str, ports: Value| json!({"metadata": {"name": "p", "namespace": "d", "labels": {"app": "x"}}, "spec": {"containers": [{"ports": ports}]}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        assert_eq!(cause(service(&object, &[])), "no pod has the labels app=x");
        assert_eq!(cause(service(&object, &[with("False", json!([]))])), "none of its pods is ready: p");
        assert!(cause(service(&object, &[with("True", json!([]))])).contains("http"));
        assert_eq!(service(&object, &[with("True", json!([{"name": "http"}]))]), None);
    }

    #[test]
    fn a_claim_without_a_class_is_explained() {
        let claim_of = |class: Value| json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"storageClassName": class}, "status": {"phase": "Pending"}});
        assert!(cause(claim(&claim_of(Value::Null), &[], &[])).contains("no default"));
        assert!(cause(claim(&claim_of("fast".into()), &[], &[])).contains("no storage class \"fast\""));
        let waits = json!({"metadata": {"name": "fast"}, "volumeBindingMode": "WaitForFirstConsumer"});
        assert!(cause(claim(&claim_of("fast".into()), &[waits], &[])).contains("first pod"));
    }
}
