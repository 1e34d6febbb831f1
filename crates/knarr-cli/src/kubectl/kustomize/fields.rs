//! Where in objects of which kind something stands: paths with `/` between names, into every item of a list on the way.

use knarr_core::{Map, Value};

use super::resource::Id;

/// What there shall be at the end of a path when there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Leave,
    /// An empty map; maps on the way are made, too.
    MakeMap,
    MakeScalar,
}

/// Calls `change` on everything that a path leads to. A part that ends in `[]` is a list, and never made.
pub fn visit(value: &mut Value, path: &str, missing: Missing, change: &mut dyn FnMut(&mut Value)) {
    let parts = split(path);
    walk(value, &parts.iter().map(String::as_str).collect::<Vec<_>>(), missing, change);
}

/// `a/b\/c` is `a`, `b/c`.
fn split(path: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, parts.last_mut()) {
            ('\\', Some(last)) if chars.peek() == Some(&'/') => last.extend(chars.next()),
            ('/', _) => parts.push(String::new()),
            (_, Some(last)) => last.push(c),
            _ => {}
        }
    }
    parts
}

fn walk(value: &mut Value, path: &[&str], missing: Missing, change: &mut dyn FnMut(&mut Value)) {
    let Some((first, rest)) = path.split_first() else { return change(value) };
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, path, missing, change)),
        Value::Object(map) => {
            let name = first.strip_suffix("[]");
            let makes = missing != Missing::Leave && name.is_none();
            let name = name.unwrap_or(first);
            if makes && map.get(name).is_none_or(Value::is_null) {
                let scalar = rest.is_empty() && missing == Missing::MakeScalar;
                map.insert(name.to_owned(), if scalar { Value::Null } else { Value::Object(Map::new()) });
            }
            if let Some(next) = map.get_mut(name).filter(|n| makes || !n.is_null()) {
                walk(next, rest, missing, change);
            }
        }
        _ => {}
    }
}

/// A path in objects of a kind; an empty part means any.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub path: &'static str,
    pub create: bool,
}

impl Spec {
    pub fn fits(&self, id: &Id) -> bool {
        fits((self.group, self.version, self.kind), id)
    }
}

pub fn fits((group, version, kind): (&str, &str, &str), id: &Id) -> bool {
    let same = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    same(group, &id.group) && same(version, &id.version) && same(kind, &id.kind)
}

const fn spec(group: &'static str, version: &'static str, kind: &'static str, path: &'static str, create: bool) -> Spec {
    Spec { group, version, kind, path, create }
}

/// Labels of the pods that an object makes.
pub const TEMPLATE_LABELS: &[Spec] = &[
    spec("", "v1", "ReplicationController", "spec/template/metadata/labels", true),
    spec("", "", "Deployment", "spec/template/metadata/labels", true),
    spec("", "", "ReplicaSet", "spec/template/metadata/labels", true),
    spec("", "", "DaemonSet", "spec/template/metadata/labels", true),
    spec("apps", "", "StatefulSet", "spec/template/metadata/labels", true),
    spec("apps", "", "StatefulSet", "spec/volumeClaimTemplates[]/metadata/labels", true),
    spec("batch", "", "Job", "spec/template/metadata/labels", true),
    spec("batch", "", "CronJob", "spec/jobTemplate/metadata/labels", true),
    spec("batch", "", "CronJob", "spec/jobTemplate/spec/template/metadata/labels", true),
];

const AFFINITY_OF: [&str; 2] = ["Deployment", "StatefulSet"];
const AFFINITY: [&str; 5] = [
    "spec/template/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels",
    "spec/template/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    "spec/template/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/podAffinityTerm/labelSelector/matchLabels",
    "spec/template/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/labelSelector/matchLabels",
    "spec/template/spec/topologySpreadConstraints/labelSelector/matchLabels",
];

/// Selectors that choose by labels.
const SELECTORS: &[Spec] = &[
    spec("", "v1", "Service", "spec/selector", true),
    spec("", "v1", "ReplicationController", "spec/selector", true),
    spec("", "", "Deployment", "spec/selector/matchLabels", true),
    spec("", "", "ReplicaSet", "spec/selector/matchLabels", true),
    spec("", "", "DaemonSet", "spec/selector/matchLabels", true),
    spec("apps", "", "StatefulSet", "spec/selector/matchLabels", true),
    spec("batch", "", "Job", "spec/selector/matchLabels", false),
    spec("batch", "", "CronJob", "spec/jobTemplate/spec/selector/matchLabels", false),
    spec("policy", "", "PodDisruptionBudget", "spec/selector/matchLabels", false),
    spec("networking.k8s.io", "", "NetworkPolicy", "spec/podSelector/matchLabels", false),
    spec("networking.k8s.io", "", "NetworkPolicy", "spec/ingress/from/podSelector/matchLabels", false),
    spec("networking.k8s.io", "", "NetworkPolicy", "spec/egress/to/podSelector/matchLabels", false),
];

pub fn selectors() -> impl Iterator<Item = Spec> {
    let affinity = AFFINITY_OF.into_iter().flat_map(|kind| AFFINITY.into_iter().map(move |path| spec("apps", "", kind, path, false)));
    SELECTORS.iter().copied().chain(affinity)
}

/// Where common annotations go, besides the object's own.
pub const ANNOTATIONS: &[Spec] = &[
    spec("", "v1", "ReplicationController", "spec/template/metadata/annotations", true),
    spec("", "", "Deployment", "spec/template/metadata/annotations", true),
    spec("", "", "ReplicaSet", "spec/template/metadata/annotations", true),
    spec("", "", "DaemonSet", "spec/template/metadata/annotations", true),
    spec("", "", "StatefulSet", "spec/template/metadata/annotations", true),
    spec("batch", "", "Job", "spec/template/metadata/annotations", true),
    spec("batch", "", "CronJob", "spec/jobTemplate/metadata/annotations", true),
    spec("batch", "", "CronJob", "spec/jobTemplate/spec/template/metadata/annotations", true),
];

/// Where a namespace stands besides `metadata.namespace`.
pub const NAMESPACES: &[Spec] = &[
    spec("", "", "Namespace", "metadata/name", true),
    spec("apiregistration.k8s.io", "", "APIService", "spec/service/namespace", true),
    spec("apiextensions.k8s.io", "", "CustomResourceDefinition", "spec/conversion/webhook/clientConfig/service/namespace", false),
];

/// Kinds with a number of replicas.
pub const REPLICAS: &[&str] = &["Deployment", "ReplicationController", "ReplicaSet", "StatefulSet"];

/// Where images stand by default. Lists of any other kind named `containers` and `initContainers` are looked into, too.
pub const IMAGES: &[&str] = &[
    "spec/containers[]/image",
    "spec/initContainers[]/image",
    "spec/volumes[]/image/reference",
    "spec/template/spec/containers[]/image",
    "spec/template/spec/initContainers[]/image",
    "spec/template/spec/volumes[]/image/reference",
];

/// Where the pod spec of a kind is.
fn pod_spec(kind: &str) -> &'static str {
    match kind {
        "Pod" => "spec",
        "PodTemplate" => "template/spec",
        "CronJob" => "spec/jobTemplate/spec/template/spec",
        _ => "spec/template/spec",
    }
}

/// A field that holds the name of an object of another kind.
#[derive(Debug)]
pub struct Reference {
    /// Group (empty: any) and kind of what is named.
    pub target: (&'static str, &'static str),
    /// Group (empty: any) and kind of what names it.
    pub from: (&'static str, &'static str),
    pub path: String,
}

const RUN_WITH_CONFIG: &[&str] = &["Pod", "PodTemplate", "Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "Job", "CronJob"];
const RUN: &[&str] = &["Pod", "StatefulSet", "Deployment", "ReplicationController", "CronJob", "Job", "DaemonSet"];

/// Names in pod specs: what is named, by which kinds, where.
const IN_POD_SPECS: &[(&str, &str, &[&str], &[&str])] = &[
    (
        "",
        "ConfigMap",
        RUN_WITH_CONFIG,
        &[
            "volumes/configMap/name",
            "containers/env/valueFrom/configMapKeyRef/name",
            "initContainers/env/valueFrom/configMapKeyRef/name",
            "containers/envFrom/configMapRef/name",
            "initContainers/envFrom/configMapRef/name",
            "volumes/projected/sources/configMap/name",
        ],
    ),
    (
        "",
        "Secret",
        RUN_WITH_CONFIG,
        &[
            "volumes/secret/secretName",
            "containers/env/valueFrom/secretKeyRef/name",
            "initContainers/env/valueFrom/secretKeyRef/name",
            "containers/envFrom/secretRef/name",
            "initContainers/envFrom/secretRef/name",
            "imagePullSecrets/name",
            "volumes/projected/sources/secret/name",
        ],
    ),
    ("", "ServiceAccount", RUN, &["serviceAccountName"]),
    ("", "PersistentVolumeClaim", RUN, &["volumes/persistentVolumeClaim/claimName"]),
    ("scheduling.k8s.io", "PriorityClass", RUN, &["priorityClassName"]),
];

const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// Names elsewhere: what is named, by what, where.
const ELSEWHERE: &[((&str, &str), (&str, &str), &str)] = &[
    (("", "Deployment"), ("", "HorizontalPodAutoscaler"), "spec/scaleTargetRef/name"),
    (("", "ReplicationController"), ("", "HorizontalPodAutoscaler"), "spec/scaleTargetRef/name"),
    (("", "ReplicaSet"), ("", "HorizontalPodAutoscaler"), "spec/scaleTargetRef/name"),
    (("", "StatefulSet"), ("", "HorizontalPodAutoscaler"), "spec/scaleTargetRef/name"),
    (("", "ConfigMap"), ("", "Node"), "spec/configSource/configMap"),
    (("", "ConfigMap"), ("", "Role"), "rules/resourceNames"),
    (("", "ConfigMap"), ("", "ClusterRole"), "rules/resourceNames"),
    (("", "ConfigMap"), ("", "Ingress"), "metadata/annotations/nginx.ingress.kubernetes.io\\/fastcgi-params-configmap"),
    (("", "Secret"), ("", "Ingress"), "spec/tls/secretName"),
    (("", "Secret"), ("", "Ingress"), "metadata/annotations/ingress.kubernetes.io\\/auth-secret"),
    (("", "Secret"), ("", "Ingress"), "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-secret"),
    (("", "Secret"), ("", "Ingress"), "metadata/annotations/nginx.ingress.kubernetes.io\\/auth-tls-secret"),
    (("", "Secret"), ("", "ServiceAccount"), "imagePullSecrets/name"),
    (("", "Secret"), ("", "StorageClass"), "parameters/secretName"),
    (("", "Secret"), ("", "StorageClass"), "parameters/adminSecretName"),
    (("", "Secret"), ("", "StorageClass"), "parameters/userSecretName"),
    (("", "Secret"), ("", "StorageClass"), "parameters/secretRef"),
    (("", "Secret"), ("", "Role"), "rules/resourceNames"),
    (("", "Secret"), ("", "ClusterRole"), "rules/resourceNames"),
    (("", "Secret"), ("serving.knative.dev", "Service"), "spec/template/spec/containers/env/valueFrom/secretKeyRef/name"),
    (("", "Secret"), ("", "PersistentVolume"), "spec/azureFile/secretName"),
    (("", "Service"), ("apps", "StatefulSet"), "spec/serviceName"),
    (("", "Service"), ("", "Ingress"), "spec/rules/http/paths/backend/serviceName"),
    (("", "Service"), ("", "Ingress"), "spec/backend/serviceName"),
    (("", "Service"), ("", "Ingress"), "spec/rules/http/paths/backend/service/name"),
    (("", "Service"), ("", "Ingress"), "spec/defaultBackend/service/name"),
    (("", "Service"), ("apiregistration.k8s.io", "APIService"), "spec/service/name"),
    (("", "Service"), (ADMISSION, "ValidatingWebhookConfiguration"), "webhooks/clientConfig/service"),
    (("", "Service"), (ADMISSION, "MutatingWebhookConfiguration"), "webhooks/clientConfig/service"),
    ((RBAC, "Role"), (RBAC, "RoleBinding"), "roleRef/name"),
    ((RBAC, "ClusterRole"), (RBAC, "RoleBinding"), "roleRef/name"),
    ((RBAC, "ClusterRole"), (RBAC, "ClusterRoleBinding"), "roleRef/name"),
    (("", "ServiceAccount"), (RBAC, "RoleBinding"), "subjects"),
    (("", "ServiceAccount"), (RBAC, "ClusterRoleBinding"), "subjects"),
    (("", "PersistentVolume"), ("", "PersistentVolumeClaim"), "spec/volumeName"),
    (("", "PersistentVolume"), ("", "ClusterRole"), "rules/resourceNames"),
    (("storage.k8s.io", "StorageClass"), ("", "PersistentVolume"), "spec/storageClassName"),
    (("storage.k8s.io", "StorageClass"), ("", "PersistentVolumeClaim"), "spec/storageClassName"),
    (("storage.k8s.io", "StorageClass"), ("", "StatefulSet"), "spec/volumeClaimTemplates/spec/storageClassName"),
    (("networking.k8s.io", "IngressClass"), ("", "Ingress"), "spec/ingressClassName"),
    ((ADMISSION, "ValidatingAdmissionPolicy"), (ADMISSION, "ValidatingAdmissionPolicyBinding"), "spec/policyName"),
];

/// Every field that holds a name.
pub fn references() -> Vec<Reference> {
    let pods = IN_POD_SPECS.iter().flat_map(|(group, target, kinds, paths)| {
        kinds.iter().flat_map(move |kind| {
            paths.iter().map(move |path| Reference { target: (group, target), from: ("", kind), path: format!("{}/{path}", pod_spec(kind)) })
        })
    });
    pods.chain(ELSEWHERE.iter().map(|(target, from, path)| Reference { target: *target, from: *from, path: (*path).to_owned() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn a_path_leads_into_every_item_and_makes_what_is_missing() {
        let mut object = json!({"spec": {"containers": [{"image": "a"}, {"image": "b"}]}, "none": null});
        visit(&mut object, "spec/containers[]/image", Missing::Leave, &mut |v| *v = json!("c"));
        visit(&mut object, "metadata/labels", Missing::MakeMap, &mut |v| v["x"] = json!("y"));
        visit(&mut object, "none/at/all", Missing::Leave, &mut |v| *v = json!(1));
        visit(&mut object, "a/b\\/c", Missing::MakeScalar, &mut |v| *v = json!(2));
        assert_eq!(
            object,
            json!({"spec": {"containers": [{"image": "c"}, {"image": "c"}]}, "none": null, "metadata": {"labels": {"x": "y"}}, "a": {"b/c": 2}})
        );
    }
}
