//! `kubectl describe`: for each built-in kind kubectl's own page, for others their fields
//! (`k8s.io/kubectl/pkg/describe/describe.go`).

mod access;
mod cluster;
mod network;
pub mod page;
pub mod pods;
mod storage;
mod volumes;
mod workloads;

pub use access::rule_lines;

use knarr_core::{Value, ValueExt};

use self::page::{Page, text};
use super::options::{ALL_NAMESPACES, CHUNK, SELECTOR};
use crate::kubectl::command::{Context, Verb};
use crate::kubectl::failure::{Failure, Result};
use crate::kubectl::flags::{Flag, switch_on};
use crate::kubectl::manifest;
use crate::kubectl::print::go;
use crate::kubectl::print::out;
use crate::kubectl::resources::known;
use crate::kubectl::select::{Found, Info, Selection};
use crate::kubectl::session::{Session, with_query};

const FLAGS: &[Flag] = &[switch_on("show-events", "Display events related to the described object"), SELECTOR, ALL_NAMESPACES, CHUNK];

pub static VERB: Verb = Verb {
    name: "describe",
    usage: "(-f FILENAME | TYPE [NAME_PREFIX | -l label] | TYPE/NAME) [flags]",
    about: "Show details of a specific resource or group of resources",
    flags: &[FLAGS, manifest::FLAGS],
    run: Some(|cx| Box::pin(run(cx))),
    ..Verb::NONE
};

/// What a page may ask for beside the object.
pub struct Asker<'a> {
    pub session: &'a Session,
    show_events: bool,
}

impl Asker<'_> {
    /// The events of an object, unless they are not wanted.
    pub async fn events(&self, object: &Value) -> Option<Vec<Value>> {
        let kind = text(object, &["kind"]);
        let kind = if kind == "Pod" { "" } else { kind };
        self.events_about(object, kind, text(object, &["metadata", "uid"])).await
    }

    /// The same with another kind and uid: some components write events under names of their own.
    pub async fn events_about(&self, object: &Value, kind: &str, uid: &str) -> Option<Vec<Value>> {
        if !self.show_events {
            return None;
        }
        let namespace = text(object, &["metadata", "namespace"]);
        let mut terms = vec![format!("involvedObject.name={}", text(object, &["metadata", "name"])), format!("involvedObject.namespace={namespace}")];
        if !kind.is_empty() {
            terms.push(format!("involvedObject.kind={kind}"));
        }
        if !uid.is_empty() {
            terms.push(format!("involvedObject.uid={uid}"));
        }
        let path = known("events").path(Some(namespace), None);
        self.list(&path, &[("fieldSelector", terms.join(","))]).await.ok()
    }

    /// The items of a list.
    pub async fn list(&self, path: &str, query: &[(&'static str, String)]) -> Result<Vec<Value>> {
        Ok(self.session.get(&with_query(path, query)).await?.list_at(&["items"]).to_vec())
    }

    /// How many pods that belong to an object are in each phase: running, waiting, succeeded, failed.
    pub async fn pod_phases(&self, object: &Value) -> Result<[usize; 4]> {
        let selector = super::pods::selector_of(object)?;
        let pods = super::pods::pods_matching(self.session, text(object, &["metadata", "namespace"]), &selector.to_string()).await?;
        let uid = text(object, &["metadata", "uid"]);
        let own = pods.iter().filter(|p| controller(p).is_some_and(|c| text(c, &["uid"]) == uid));
        let mut counts = [0; 4];
        for pod in own {
            match text(pod, &["status", "phase"]) {
                "Running" => counts[0] += 1,
                "Pending" => counts[1] += 1,
                "Succeeded" => counts[2] += 1,
                "Failed" => counts[3] += 1,
                _ => {}
            }
        }
        Ok(counts)
    }
}

/// The owner that controls an object.
pub fn controller(object: &Value) -> Option<&Value> {
    object.list_at(&["metadata", "ownerReferences"]).iter().find(|o| o.bool_at(&["controller"]) == Some(true))
}

async fn run(cx: &Context) -> Result<()> {
    let flags = &cx.flags;
    let session = cx.session()?;
    if cx.words().is_empty() && !manifest::named(flags) {
        return Err(format!(
            "You must specify the type of resource to describe. {}",
            "Use \"kubectl api-resources\" for a complete list of supported resources."
        )
        .into());
    }
    let mut selection = Selection::of(session, flags).type_is_all();
    selection.chunk = flags.int("chunk-size");
    let mut found = selection.objects(cx.words()).await?;
    let mut by_prefix = false;
    if let ([kind, prefix], [failure]) = (cx.words(), found.failures.as_slice())
        && found.infos.is_empty()
        && failure.is_not_found()
    {
        let mut alike = with_prefix(&selection, kind, prefix).await?;
        if !alike.infos.is_empty() {
            by_prefix = true;
            alike.failures.clear();
            found = alike;
        }
    }
    // Several objects are shown without their events, unless those are asked for.
    let several = found.infos.len() > 1 || by_prefix;
    let asker = Asker { session, show_events: flags.on("show-events") && (!several || flags.given("show-events")) };
    let mut failures = found.failures;
    let mut first = true;
    for info in &found.infos {
        match page_of(&asker, info).await {
            // Pages of objects whose names only begin so end with a line more.
            Ok(page) if by_prefix => out(&format!("{page}\n"))?,
            Ok(page) => out(&format!("{}{page}", if std::mem::take(&mut first) { "" } else { "\n\n" }))?,
            Err(e) => failures.push(e),
        }
    }
    if found.infos.is_empty() && failures.is_empty() {
        let (targets, _) = selection.targets(cx.words()).await?;
        let namespaced = !flags.on("all-namespaces") && targets.iter().all(|t| t.meant().namespaced);
        eprintln!("{}", if namespaced { format!("No resources found in {} namespace.", session.namespace) } else { "No resources found".into() });
    }
    Failure::all(failures)
}

/// Objects whose names begin so.
async fn with_prefix(selection: &Selection<'_>, kind: &str, prefix: &str) -> Result<Found> {
    let mut found = selection.objects(&[kind.to_owned()]).await?;
    found.infos.retain(|i| i.name.starts_with(prefix));
    Ok(found)
}

async fn page_of(asker: &Asker<'_>, info: &Info) -> Result<String> {
    let object = &info.object;
    let group = info.meant.resource.group.as_str();
    match (group, info.meant.kind.as_str()) {
        ("", "Pod") => Ok(pods::pod(asker, object).await),
        ("", "ReplicationController") => workloads::replication_controller(asker, object).await,
        ("", "Secret") => Ok(cluster::secret(object)),
        ("", "ConfigMap") => Ok(cluster::config_map(asker, object).await),
        ("", "Service") => network::service(asker, object).await,
        ("", "Endpoints") => Ok(network::endpoints(asker, object).await),
        ("", "ServiceAccount") => Ok(access::service_account(asker, object).await),
        ("", "Node") => cluster::node(asker, object).await,
        ("", "Namespace") => cluster::namespace(asker, object).await,
        ("", "LimitRange") => Ok(cluster::limit_range(object)),
        ("", "ResourceQuota") => Ok(cluster::quota(object)),
        ("", "PersistentVolume") => Ok(storage::volume(asker, object).await),
        ("", "PersistentVolumeClaim") => storage::claim(asker, object).await,
        ("apps", "Deployment") => workloads::deployment(asker, object).await,
        ("apps", "ReplicaSet") => workloads::replica_set(asker, object).await,
        ("apps", "StatefulSet") => workloads::stateful_set(asker, object).await,
        ("apps", "DaemonSet") => workloads::daemon_set(asker, object).await,
        ("batch", "Job") => Ok(workloads::job(asker, object).await),
        ("batch", "CronJob") => Ok(workloads::cron_job(asker, object).await),
        ("autoscaling", "HorizontalPodAutoscaler") => Ok(workloads::autoscaler(asker, object).await),
        ("policy", "PodDisruptionBudget") => Ok(workloads::disruption_budget(asker, object).await),
        ("scheduling.k8s.io", "PriorityClass") => Ok(cluster::priority_class(asker, object).await),
        ("discovery.k8s.io", "EndpointSlice") => Ok(network::endpoint_slice(asker, object).await),
        ("networking.k8s.io", "Ingress") => Ok(network::ingress(asker, object).await),
        ("networking.k8s.io", "IngressClass") => Ok(network::ingress_class(asker, object).await),
        ("networking.k8s.io", "NetworkPolicy") => Ok(network::policy(object)),
        ("networking.k8s.io", "ServiceCIDR") => Ok(network::service_cidr(asker, object).await),
        ("networking.k8s.io", "IPAddress") => Ok(network::ip_address(asker, object).await),
        ("certificates.k8s.io", "CertificateSigningRequest") => access::signing_request(asker, object).await,
        ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => Ok(access::role(object)),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => Ok(access::binding(object)),
        ("storage.k8s.io", "StorageClass") => Ok(storage::class(asker, object).await),
        ("storage.k8s.io", "CSINode") => Ok(storage::csi_node(asker, object).await),
        ("storage.k8s.io", "VolumeAttributesClass") => Ok(storage::attributes_class(asker, object).await),
        _ => Ok(generic(asker, object).await),
    }
}

/// Every field of an object that has no page of its own.
async fn generic(asker: &Asker<'_>, object: &Value) -> String {
    let mut page = Page::default();
    page.head(object);
    const SKIPPED: &[&str] = &[".metadata.managedFields", ".metadata.name", ".metadata.namespace", ".metadata.labels", ".metadata.annotations"];
    content(&mut page, 0, object, "", SKIPPED);
    page.events(asker.events(object).await.as_deref());
    page.finish()
}

fn content(page: &mut Page, level: usize, object: &Value, prefix: &str, skipped: &[&str]) {
    for (field, value) in object.as_object().into_iter().flatten() {
        let path = format!("{prefix}.{field}");
        if skipped.contains(&path.as_str()) {
            continue;
        }
        match value {
            Value::Object(_) => {
                page.line(level, format!("{}:", smart_label(field)));
                content(page, level + 1, value, &path, skipped);
            }
            Value::Array(list) => {
                page.line(level, format!("{}:", smart_label(field)));
                for item in list {
                    if item.is_object() { content(page, level + 1, item, &path, skipped) } else { page.line(level + 1, go::sprint(item)) }
                }
            }
            other => page.field(level, &smart_label(field), go::sprint(other)),
        }
    }
}

/// `clusterIP` as `Cluster IP`; acronyms stay together.
fn smart_label(field: &str) -> String {
    if !field.chars().all(|c| c.is_alphabetic() || c == '-') {
        return field.to_owned();
    }
    let parts = camel_case(field);
    let mut merged: Vec<String> = Vec::new();
    let mut i = 0;
    while i < parts.len() {
        let part = &parts[i];
        let upper = part.chars().all(|c| !c.is_alphabetic() || c.is_uppercase());
        if let Some(next) = parts.get(i + 1).filter(|n| part.len() >= 2 && upper && n.starts_with(char::is_uppercase)) {
            merged.push(format!("{part}{next}"));
            i += 2;
            continue;
        }
        merged.push(part.clone());
        i += 1;
    }
    let titled = merged.iter().filter(|p| *p != "_").map(|part| {
        if ["API", "URL", "UID", "GUID"].contains(&part.to_uppercase().as_str()) {
            return part.to_uppercase();
        }
        if part.to_lowercase() != *part {
            return part.clone();
        }
        let mut chars = part.chars();
        chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
    });
    titled.collect::<Vec<_>>().join(" ")
}

/// Parts of a name in camel case: runs of one class of characters; the last capital before small letters goes with them.
fn camel_case(text: &str) -> Vec<String> {
    let class = |c: char| {
        if c.is_lowercase() {
            1
        } else if c.is_uppercase() {
            2
        } else if c.is_numeric() {
            3
        } else {
            4
        }
    };
    let mut runs: Vec<Vec<char>> = Vec::new();
    let mut last = 0;
    for c in text.chars() {
        match runs.last_mut() {
            Some(run) if class(c) == last => run.push(c),
            _ => runs.push(vec![c]),
        }
        last = class(c);
    }
    for i in 0..runs.len().saturating_sub(1) {
        if runs[i][0].is_uppercase()
            && runs[i + 1][0].is_lowercase()
            && let Some(c) = runs[i].pop()
        {
            runs[i + 1].insert(0, c);
        }
    }
    runs.into_iter().filter(|r| !r.is_empty()).map(|r| r.into_iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_become_titles() {
        for (field, wanted) in [
            ("apiVersion", "API Version"),
            ("clusterIP", "Cluster IP"),
            ("kind", "Kind"),
            ("uid", "UID"),
            ("a.b", "a.b"),
            ("creationTimestamp", "Creation Timestamp"),
        ] {
            assert_eq!(smart_label(field), wanted);
        }
    }
}
