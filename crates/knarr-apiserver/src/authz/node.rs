//! The node authorizer: an agent may read the secrets, config maps and claims of the pods that are bound to its node, and of
//! no other. What every node may do besides is the cluster role `system:node`.
//!
//! Follows `k8s.io/kubernetes/plugin/pkg/auth/authorizer/node`.

use std::collections::{HashMap, HashSet};

use knarr_core::selector::FieldSelector;
use knarr_core::{Value, ValueExt};
use parking_lot::RwLock;

use super::rbac::{Index, Rule};
use super::{Attributes, Authorizer, Decision, Opinion, Rules};
use crate::authn::User;

const NODES_GROUP: &str = "system:nodes";
const NODE_USER_PREFIX: &str = "system:node:";

/// Something a pod refers to: resource, namespace, name.
type Reference = (&'static str, String, String);

/// Which pods live on which node, and what they refer to.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pods: HashMap<(String, String), (String, Vec<Reference>)>,
    nodes: HashMap<String, HashMap<Reference, usize>>,
    /// Volume of each claim.
    volumes: HashMap<(String, String), String>,
    /// Node of each PodCertificateRequest.
    requests: HashMap<(String, String), String>,
}

impl Graph {
    /// Enters, replaces or removes a pod.
    pub fn set_pod(&mut self, namespace: &str, name: &str, pod: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some((node, references)) = self.pods.remove(&key)
            && let Some(counts) = self.nodes.get_mut(&node)
        {
            for reference in references {
                if let Some(count) = counts.get_mut(&reference) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(&reference);
                    }
                }
            }
        }
        let Some(node) = pod.and_then(|p| p.str_at(&["spec", "nodeName"])).filter(|n| !n.is_empty()) else { return };
        let references = pod.map(|p| references(p, namespace)).unwrap_or_default();
        let counts = self.nodes.entry(node.to_owned()).or_default();
        for reference in &references {
            *counts.entry(reference.clone()).or_default() += 1;
        }
        self.pods.insert(key, (node.to_owned(), references));
    }

    /// Enters or removes the volume that a claim is bound to.
    pub fn set_claim(&mut self, namespace: &str, name: &str, claim: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match claim.and_then(|c| c.str_at(&["spec", "volumeName"])) {
            Some(volume) => drop(self.volumes.insert(key, volume.to_owned())),
            None => drop(self.volumes.remove(&key)),
        }
    }

    /// Enters or removes a PodCertificateRequest.
    pub fn set_request(&mut self, namespace: &str, name: &str, request: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match request.and_then(|r| r.str_at(&["spec", "nodeName"])) {
            Some(node) => drop(self.requests.insert(key, node.to_owned())),
            None => drop(self.requests.remove(&key)),
        }
    }

    pub fn clear_requests(&mut self) {
        self.requests.clear();
    }

    pub fn clear_pods(&mut self) {
        self.pods.clear();
        self.nodes.clear();
    }

    pub fn clear_claims(&mut self) {
        self.volumes.clear();
    }

    fn refers(&self, node: &str, resource: &'static str, namespace: &str, name: &str) -> bool {
        self.nodes.get(node).is_some_and(|counts| counts.contains_key(&(resource, namespace.to_owned(), name.to_owned())))
    }

    fn runs(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.pods.get(&(namespace.to_owned(), name.to_owned())).is_some_and(|(on, _)| on == node)
    }

    fn has_requested(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.requests.get(&(namespace.to_owned(), name.to_owned())).is_some_and(|of| of == node)
    }

    fn refers_to_volume(&self, node: &str, volume: &str) -> bool {
        let Some(counts) = self.nodes.get(node) else { return false };
        counts
            .keys()
            .filter(|r| r.0 == "persistentvolumeclaims")
            .any(|(_, ns, name)| self.volumes.get(&(ns.clone(), name.clone())).is_some_and(|v| v == volume))
    }
}

/// Everything that a pod's node must be able to read for it.
fn references(pod: &Value, namespace: &str) -> Vec<Reference> {
    let mut found: HashSet<Reference> = HashSet::new();
    let mut add = |resource: &'static str, name: Option<&str>| {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            found.insert((resource, namespace.to_owned(), name.to_owned()));
        }
    };
    add("serviceaccounts", pod.str_at(&["spec", "serviceAccountName"]));
    for secret in pod.list_at(&["spec", "imagePullSecrets"]) {
        add("secrets", secret.str_at(&["name"]));
    }
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for container in pod.list_at(&["spec", kind]) {
            for env in container.list_at(&["env"]) {
                add("secrets", env.str_at(&["valueFrom", "secretKeyRef", "name"]));
                add("configmaps", env.str_at(&["valueFrom", "configMapKeyRef", "name"]));
            }
            for source in container.list_at(&["envFrom"]) {
                add("secrets", source.str_at(&["secretRef", "name"]));
                add("configmaps", source.str_at(&["configMapRef", "name"]));
            }
        }
    }
    let pod_name = pod.str_at(&["metadata", "name"]).unwrap_or_default();
    for volume in pod.list_at(&["spec", "volumes"]) {
        add("secrets", volume.str_at(&["secret", "secretName"]));
        add("secrets", volume.str_at(&["csi", "nodePublishSecretRef", "name"]));
        add("configmaps", volume.str_at(&["configMap", "name"]));
        add("persistentvolumeclaims", volume.str_at(&["persistentVolumeClaim", "claimName"]));
        if volume.at(&["ephemeral"]).is_some() {
            add("persistentvolumeclaims", Some(&format!("{pod_name}-{}", volume.str_at(&["name"]).unwrap_or_default())));
        }
        for source in volume.list_at(&["projected", "sources"]) {
            add("secrets", source.str_at(&["secret", "name"]));
            add("configmaps", source.str_at(&["configMap", "name"]));
        }
    }
    for status in pod.list_at(&["status", "resourceClaimStatuses"]) {
        add("resourceclaims", status.str_at(&["resourceClaimName"]));
    }
    for claim in pod.list_at(&["spec", "resourceClaims"]) {
        add("resourceclaims", claim.str_at(&["resourceClaimName"]));
    }
    found.into_iter().collect()
}

/// The authorizer. `rules` are those of the cluster role `system:node`.
pub struct NodeAuthorizer {
    pub graph: RwLock<Graph>,
    rules: Index,
}

impl NodeAuthorizer {
    pub fn new(system_node_role: &Value) -> Self {
        let mut rules = Index::default();
        rules.set("clusterroles", "", "system:node", Some(system_node_role));
        let binding = knarr_core::json!({"roleRef": {"kind": "ClusterRole", "name": "system:node"}, "subjects": [{"kind": "Group", "name": NODES_GROUP}]});
        rules.set("clusterrolebindings", "", "system:node", Some(&binding));
        Self { graph: RwLock::default(), rules }
    }

    /// `None`: this resource is not one that depends on the node's pods.
    fn by_relation(&self, node: &str, a: &Attributes) -> Option<bool> {
        let verb = a.verb.as_str();
        let reading = matches!(verb, "get" | "list" | "watch");
        let related = |resource| !a.name.is_empty() && self.graph.read().refers(node, resource, &a.namespace, &a.name);
        match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
            ("", "secrets", "") => Some(reading && related("secrets")),
            ("", "configmaps", "") => Some(reading && related("configmaps")),
            ("", "persistentvolumeclaims", "") => Some(verb == "get" && related("persistentvolumeclaims")),
            ("", "persistentvolumeclaims", "status") => Some(matches!(verb, "get" | "update" | "patch") && related("persistentvolumeclaims")),
            ("", "persistentvolumes", "") => Some(verb == "get" && self.graph.read().refers_to_volume(node, &a.name)),
            ("resource.k8s.io", "resourceclaims", "") => Some(verb == "get" && related("resourceclaims")),
            ("", "serviceaccounts", "") => Some(verb == "get" && related("serviceaccounts")),
            ("", "serviceaccounts", subresource) => Some(subresource == "token" && verb == "create" && related("serviceaccounts")),
            ("coordination.k8s.io", "leases", "") => Some(a.namespace == "kube-node-lease" && is_ones_own(verb) && (verb == "create" || a.name == node)),
            ("storage.k8s.io", "csinodes", "") => Some(is_ones_own(verb) && (verb == "create" || a.name == node)),
            ("", "nodes", subresource) => Some(self.nodes(node, a, subresource)),
            ("", "pods", subresource) => Some(self.pods(node, a, subresource)),
            ("certificates.k8s.io", "podcertificaterequests", subresource) => Some(subresource.is_empty() && self.pod_certificates(node, a)),
            _ => None,
        }
    }

    /// What is written is looked at by the admission plugin NodeRestriction.
    fn nodes(&self, node: &str, a: &Attributes, subresource: &str) -> bool {
        match (subresource, a.verb.as_str()) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => true,
            ("", "get" | "list" | "watch") => a.name == node || selects(a, "metadata.name", node),
            _ => false,
        }
    }

    fn pods(&self, node: &str, a: &Attributes, subresource: &str) -> bool {
        match (subresource, a.verb.as_str()) {
            ("", "get") => self.graph.read().runs(node, &a.namespace, &a.name),
            ("", "list" | "watch") => selects(a, "spec.nodeName", node) || !a.name.is_empty() && self.graph.read().runs(node, &a.namespace, &a.name),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => true,
            _ => false,
        }
    }

    fn pod_certificates(&self, node: &str, a: &Attributes) -> bool {
        match a.verb.as_str() {
            "create" => true,
            "get" => self.graph.read().has_requested(node, &a.namespace, &a.name),
            "list" | "watch" => selects(a, "spec.nodeName", node),
            _ => false,
        }
    }
}

/// The verbs on an object that a node has for itself.
fn is_ones_own(verb: &str) -> bool {
    matches!(verb, "get" | "create" | "update" | "patch" | "delete")
}

/// Whether a list or watch selects nothing but what has this value.
fn selects(a: &Attributes, field: &str, value: &str) -> bool {
    let selector = a.field_selector.as_deref().and_then(|text| FieldSelector::parse(text).ok());
    selector.is_some_and(|s| s.requires(field) == Some(value))
}

impl Authorizer for NodeAuthorizer {
    /// What a node may do depends on what runs there, which no list shows; upstream calls the list complete all the same.
    fn rules(&self, _user: &User, _namespace: &str) -> Rules {
        Rules::default()
    }

    fn name(&self) -> &'static str {
        "node"
    }

    fn authorize<'a>(&'a self, a: &'a Attributes) -> Opinion<'a> {
        let Some(node) = a.user.name.strip_prefix(NODE_USER_PREFIX).filter(|_| a.user.is_in(NODES_GROUP)) else {
            return (Decision::NoOpinion, String::new()).into();
        };
        let (allowed, reason) = match self.by_relation(node, a) {
            Some(related) => (related, format!("no relationship found between node '{node}' and this object")),
            None => (self.rules.rules_for(&a.user, "").any(|r: &Rule| r.allows(a)), String::new()),
        };
        if allowed { (Decision::Allow, String::new()) } else { (Decision::NoOpinion, reason) }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::User;
    use knarr_core::json;

    fn ask(authorizer: &NodeAuthorizer, node: &str, verb: &str, resource: &str, name: &str) -> bool {
        ask_selecting(authorizer, node, verb, ("", resource), name, None)
    }

    fn ask_selecting(authorizer: &NodeAuthorizer, node: &str, verb: &str, (group, resource): (&str, &str), name: &str, fields: Option<&str>) -> bool {
        let user = User { name: format!("system:node:{node}"), groups: vec![NODES_GROUP.into()], ..User::default() };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let a = Attributes {
            user,
            verb: verb.into(),
            group: group.into(),
            namespace: "d".into(),
            field_selector: fields.map(str::to_owned),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            is_resource_request: true,
            ..Attributes::default()
        };
        matches!(authorizer.authorize(&a), Opinion::Formed(v) if v.is_allowed())
    }

    #[test]
    fn a_node_reads_what_its_own_pods_need_and_nothing_else() {
        let authorizer = NodeAuthorizer::new(&json!({"rules": [{"verbs": ["get", "list", "watch"], "apiGroups": [""], "resources": ["pods", "services"]}]}));
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "serviceAccountName": "sa", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}});
        let mut graph = Graph::default();
        graph.set_pod("d", "p", Some(&pod));
        *authorizer.graph.write() = graph.clone();
        assert!(ask(&authorizer, "n1", "get", "secrets", "s"));
        assert!(!ask(&authorizer, "n1", "get", "secrets", "other"));
        assert!(!ask(&authorizer, "n1", "list", "secrets", ""));
        assert!(!ask(&authorizer, "n2", "get", "secrets", "s"));
        assert!(ask(&authorizer, "n1", "create", "serviceaccounts/token", "sa"));
        assert!(ask(&authorizer, "n2", "list", "services", ""));
        assert!(!ask(&authorizer, "n2", "delete", "services", "x"));
        graph.set_pod("d", "p", None);
        *authorizer.graph.write() = graph;
        assert!(!ask(&authorizer, "n1", "get", "secrets", "s"));
    }

    #[test]
    fn a_node_sees_its_own_pods_accounts_and_requests_alone() {
        let authorizer = NodeAuthorizer::new(&json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]}));
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "serviceAccountName": "sa"}});
        authorizer.graph.write().set_pod("d", "p", Some(&pod));
        authorizer.graph.write().set_request("d", "r", Some(&json!({"spec": {"nodeName": "n1"}})));
        assert!(ask(&authorizer, "n1", "get", "serviceaccounts", "sa") && !ask(&authorizer, "n1", "get", "serviceaccounts", "other"));
        assert!(!ask(&authorizer, "n1", "list", "serviceaccounts", "") && !ask(&authorizer, "n2", "get", "serviceaccounts", "sa"));
        assert!(ask(&authorizer, "n1", "get", "pods", "p") && !ask(&authorizer, "n2", "get", "pods", "p"));
        assert!(
            !ask(&authorizer, "n1", "list", "pods", "")
                && !ask(&authorizer, "n1", "update", "pods", "p")
                && ask(&authorizer, "n1", "patch", "pods/status", "p")
        );
        assert!(ask(&authorizer, "n1", "get", "nodes", "n1") && !ask(&authorizer, "n1", "get", "nodes", "n2") && !ask(&authorizer, "n1", "list", "nodes", ""));
        assert!(ask_selecting(&authorizer, "n1", "watch", ("", "pods"), "", Some("spec.nodeName=n1")));
        assert!(!ask_selecting(&authorizer, "n2", "watch", ("", "pods"), "", Some("spec.nodeName=n1")));
        let requests = ("certificates.k8s.io", "podcertificaterequests");
        assert!(ask_selecting(&authorizer, "n1", "get", requests, "r", None) && !ask_selecting(&authorizer, "n2", "get", requests, "r", None));
        assert!(
            ask_selecting(&authorizer, "n2", "list", requests, "", Some("spec.nodeName=n2")) && !ask_selecting(&authorizer, "n2", "list", requests, "", None)
        );
        let status = ("certificates.k8s.io", "podcertificaterequests/status");
        assert!(!ask_selecting(&authorizer, "n1", "update", status, "r", None) && !ask_selecting(&authorizer, "n1", "delete", requests, "r", None));
    }
}
