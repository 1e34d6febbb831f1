//! Environment variables, and the fields of a pod that they and volumes may show.

use std::collections::BTreeMap;

use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, names};

use super::Pod;
use crate::at::At;
use crate::rules;

/// Fields that an environment variable may show, sorted.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Resources of a container that may be shown, sorted.
const RESOURCES: [&str; 6] = ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

const AMOUNTS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
const AMOUNTS_TEXT: &str = "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the";

/// Upstream: `ValidateEnv`.
pub fn validate(variables: &At, e: &mut ErrorList) {
    for variable in variables.items() {
        variable.get("name").name(e, rules::env_name);
        let from = variable.get("valueFrom");
        if from.is_set() {
            value_from(&variable, &from, e);
        }
    }
}

fn value_from(variable: &At, from: &At, e: &mut ErrorList) {
    let mut sources = 0;
    let mut source = |name: &str, check: &mut dyn FnMut(&At)| {
        let place = from.get(name);
        if place.is_set() {
            sources += 1;
            check(&place);
        }
    };
    source("fieldRef", &mut |p| field_reference(p, &ENV_FIELDS, e));
    source("resourceFieldRef", &mut |p| resource_reference(p, false, e));
    for name in ["configMapKeyRef", "secretKeyRef"] {
        source(name, &mut |p| key_reference(p, e));
    }
    source("fileKeyRef", &mut |p| file_key(p, e));
    if sources == 0 {
        e.push(from.invalid_as("", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"));
    } else if !variable.get("value").is_empty() {
        e.push(from.invalid_as("", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        e.push(from.invalid_as("", "may not have more than one field specified at a time"));
    }
}

fn key_reference(reference: &At, e: &mut ErrorList) {
    let name = reference.get("name");
    name.problems(e, names::is_dns1123_subdomain(name.str()));
    reference.get("key").name(e, rules::config_map_key);
}

fn file_key(reference: &At, e: &mut ErrorList) {
    reference.get("key").name(e, rules::env_name);
    reference.get("volumeName").name(e, names::is_dns1123_label);
    reference.get("path").name(e, rules::no_backsteps);
}

/// A field of the pod (upstream: `validateObjectFieldSelector`).
pub fn field_reference(reference: &At, fields: &[&str], e: &mut ErrorList) {
    reference.get("apiVersion").require(e);
    let place = reference.get("fieldPath");
    if place.is_empty() {
        e.push(place.required(""));
        return;
    }
    let path = place.str();
    if let Some(problem) = unknown_field(reference.str_of("apiVersion"), path) {
        e.push(place.invalid(format!("error converting fieldPath: {problem}")));
        return;
    }
    match subscripted(path) {
        Some(("metadata.annotations", key)) => {
            e.extend(names::is_qualified_name(&key.to_lowercase()).into_iter().map(|p| reference.invalid_as(key.to_lowercase(), p)))
        }
        Some(("metadata.labels", key)) => e.extend(names::is_qualified_name(key).into_iter().map(|p| reference.invalid_as(key, p))),
        Some((path, _)) => e.push(reference.invalid_as(path, "does not support subscript")),
        None => {
            let path = if path == "spec.host" { "spec.nodeName" } else { path };
            if !fields.contains(&path) {
                e.push(knarr_core::field::Error::not_supported(&place.path(), path, fields));
            }
        }
    }
}

/// `metadata.labels['a/b']` as path and key.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (path, rest) = path.split_once("['")?;
    Some((path, rest.strip_suffix("']")?)).filter(|(path, _)| !path.is_empty())
}

/// Why a field is none that the downward API knows (upstream: `ConvertDownwardAPIFieldLabel`).
fn unknown_field(version: &str, path: &str) -> Option<String> {
    if version != "v1" {
        return Some(format!("unsupported pod version: {version}"));
    }
    if let Some((field, _)) = subscripted(path) {
        return (!["metadata.annotations", "metadata.labels"].contains(&field)).then(|| format!("field label does not support subscript: {path}"));
    }
    const KNOWN: [&str; 14] = [
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    (!KNOWN.contains(&path) && path != "spec.host").then(|| format!("field label not supported: {path}"))
}

/// Resources of a container (upstream: `validateContainerResourceFieldSelector`).
pub fn resource_reference(reference: &At, in_volume: bool, e: &mut ErrorList) {
    let (resource, container) = (reference.get("resource"), reference.get("containerName"));
    let huge = |name: &str| name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if in_volume && container.is_empty() {
        e.push(container.required(""));
    } else if resource.is_empty() {
        e.push(resource.required(""));
    } else if !RESOURCES.contains(&resource.str()) && !huge(resource.str()) {
        e.push(resource.not_supported(&RESOURCES));
    }
    let divisor = reference.get("divisor");
    if divisor.is_empty() || divisor.str() == "0" {
        return;
    }
    let (kind, allowed) = match resource.str().split_once('.').map_or("", |(_, r)| r) {
        "cpu" => ("", divisor.str() == "1m" || divisor.str() == "1"),
        "memory" => (" memory resource", AMOUNTS.contains(&divisor.str())),
        "ephemeral-storage" => (" local ephemeral storage resource", AMOUNTS.contains(&divisor.str())),
        name if name.starts_with("hugepages-") => (" hugepages resource", AMOUNTS.contains(&divisor.str())),
        _ => return,
    };
    if !allowed {
        let text =
            if kind.is_empty() { "only divisor's values 1m and 1 are supported with the cpu resource".to_owned() } else { format!("{AMOUNTS_TEXT}{kind}") };
        e.push(divisor.invalid_as(resource.str(), text));
    }
}

/// Upstream: `ValidateEnvFrom`.
pub fn sources(list: &At, e: &mut ErrorList) {
    for source in list.items() {
        source.get("prefix").optional_name(e, rules::env_name);
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.get(kind);
            if reference.is_set() {
                count += 1;
                let name = reference.get("name");
                name.name(e, names::is_dns1123_subdomain);
            }
        }
        match count {
            0 => e.push(list.invalid_as("", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => e.push(list.invalid_as("", "may not have more than one field specified at a time")),
        }
    }
}

/// A variable read from a file needs an emptyDir that holds it.
pub fn file_keys(pod: &Pod, e: &mut ErrorList) {
    let volumes: BTreeMap<&str, &Value> = pod.spec.get("volumes").items().filter_map(|v| Some((v.str_of("name"), v.value()?))).collect();
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in pod.spec.get(kind).items() {
            for variable in container.get("env").items() {
                let from = variable.get("valueFrom");
                let reference = from.get("fileKeyRef");
                if !reference.is_set() {
                    continue;
                }
                let name = reference.get("volumeName");
                match volumes.get(name.str()) {
                    None => e.push(name.not_found()),
                    Some(volume) if volume.at(&["emptyDir"]).is_none() => e.push(name.invalid("referenced volume must be of type emptyDir")),
                    Some(_) => {}
                }
            }
        }
    }
}
