//! What an old object did wrong and a new one may therefore do again (upstream: `pkg/api/pod.GetValidationOptionsFromPodSpec…`).

use knarr_core::{Value, ValueExt, names};

use crate::tree::{entries, strings};

/// Leniencies for an update.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// A Pod, not a template.
    pub is_pod: bool,
    pub invalid_label_values_in_selectors: bool,
    pub invalid_label_values_in_node_affinity: bool,
    pub invalid_topology_spread_selectors: bool,
    pub old_violates_match_label_keys: bool,
    pub invalid_deletion_cost: bool,
    pub indivisible_huge_pages: bool,
    pub sys_admin_without_escalation: bool,
    pub host_sysctls: bool,
    pub non_local_token_path: bool,
    pub empty_image_volume: bool,
    pub block_devices_in_user_namespaces: bool,
    pub host_network_in_user_namespaces: bool,
    pub restart_of_init_containers: bool,
    pub only_recursive_selinux_change: bool,
}

impl Options {
    /// For a pod and the one that it replaces.
    pub fn of_pod(pod: &Value, old: Option<&Value>) -> Self {
        let none = Value::Null;
        let mut options = Self::of_spec(old.map(|o| o.at(&["spec"]).unwrap_or(&none)));
        options.is_pod = true;
        let cost = |p: &Value| p.str_at(&["metadata", "annotations", super::annotations::DELETION_COST]).is_some_and(|c| c.parse::<i32>().is_err());
        options.invalid_deletion_cost = old.is_some_and(cost) && cost(pod);
        options
    }

    /// For a template and the one that it replaces.
    pub fn of_template(old: Option<&Value>) -> Self {
        let none = Value::Null;
        Self::of_spec(old.map(|o| o.at(&["spec"]).unwrap_or(&none)))
    }

    fn of_spec(old: Option<&Value>) -> Self {
        let Some(old) = old else { return Self::default() };
        Self {
            invalid_label_values_in_selectors: affinity_selectors(old).any(has_invalid_value),
            invalid_label_values_in_node_affinity: node_affinity_values(old).any(|v| !names::is_label_value(v).is_empty()),
            invalid_topology_spread_selectors: spread_selectors(old).any(is_invalid),
            old_violates_match_label_keys: old.list_at(&["topologySpreadConstraints"]).iter().any(violates_match_label_keys),
            indivisible_huge_pages: containers(old).any(has_indivisible_huge_pages),
            sys_admin_without_escalation: containers(old).any(asks_sys_admin_without_escalation),
            host_sysctls: !old.list_at(&["securityContext", "sysctls"]).is_empty() && (flag(old, "hostNetwork") || flag(old, "hostIPC")),
            non_local_token_path: tokens(old).any(|p| !crate::rules::local_non_reserved_path(p).is_empty()),
            empty_image_volume: old
                .list_at(&["volumes"])
                .iter()
                .any(|v| v.at(&["image"]).is_some() && v.str_at(&["image", "reference"]).unwrap_or_default().is_empty()),
            block_devices_in_user_namespaces: old.bool_at(&["hostUsers"]) == Some(false) && containers(old).any(|c| !c.list_at(&["volumeDevices"]).is_empty()),
            host_network_in_user_namespaces: old.bool_at(&["hostUsers"]) == Some(false) && flag(old, "hostNetwork"),
            restart_of_init_containers: old.list_at(&["initContainers"]).iter().any(|c| !super::super::resources::is_sidecar(c) && restarts_on_resize(c)),
            ..Self::default()
        }
    }
}

fn flag(spec: &Value, field: &str) -> bool {
    spec.bool_at(&[field]) == Some(true)
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    crate::pod::defaults::CONTAINERS.iter().flat_map(|kind| spec.list_at(&[kind]))
}

fn affinity_selectors(spec: &Value) -> impl Iterator<Item = &Value> {
    let terms = |kind: &'static str| {
        let required = spec.list_at(&["affinity", kind, "requiredDuringSchedulingIgnoredDuringExecution"]).iter();
        let preferred = spec.list_at(&["affinity", kind, "preferredDuringSchedulingIgnoredDuringExecution"]).iter().filter_map(|w| w.at(&["podAffinityTerm"]));
        required.chain(preferred)
    };
    terms("podAffinity").chain(terms("podAntiAffinity")).flat_map(|t| [t.at(&["labelSelector"]), t.at(&["namespaceSelector"])]).flatten()
}

fn has_invalid_value(selector: &Value) -> bool {
    crate::metadata::has_invalid_label_value(Some(selector))
}

fn spread_selectors(spec: &Value) -> impl Iterator<Item = &Value> {
    spec.list_at(&["topologySpreadConstraints"]).iter().filter_map(|c| c.at(&["labelSelector"]))
}

fn is_invalid(selector: &Value) -> bool {
    !crate::metadata::label_selector(Some(selector), &knarr_core::field::Path::root()).is_empty()
}

fn violates_match_label_keys(constraint: &Value) -> bool {
    let mut e = knarr_core::field::ErrorList::new();
    super::label_selector_keys(&crate::at::At::root(constraint), &mut e);
    !e.is_empty()
}

fn node_affinity_values(spec: &Value) -> impl Iterator<Item = &str> {
    let terms = spec.list_at(&["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"]);
    terms.iter().flat_map(|t| t.list_at(&["matchExpressions"])).flat_map(|e| strings(e, &["values"]))
}

fn has_indivisible_huge_pages(container: &Value) -> bool {
    ["limits", "requests"].iter().any(|kind| entries(container, &["resources", kind]).any(|(name, v)| !crate::resource_names::is_divisible(name, v)))
}

fn asks_sys_admin_without_escalation(container: &Value) -> bool {
    container.bool_at(&["securityContext", "allowPrivilegeEscalation"]) == Some(false)
        && strings(container, &["securityContext", "capabilities", "add"]).any(|c| c == "CAP_SYS_ADMIN")
}

fn tokens(spec: &Value) -> impl Iterator<Item = &str> {
    let sources = spec.list_at(&["volumes"]).iter().flat_map(|v| v.list_at(&["projected", "sources"]));
    sources.filter_map(|s| s.str_at(&["serviceAccountToken", "path"]))
}

fn restarts_on_resize(container: &Value) -> bool {
    container.list_at(&["resizePolicy"]).iter().any(|p| p.str_at(&["restartPolicy"]) == Some("RestartContainer"))
}
