//! What depends on the operating system, and on the pod having users of its own.

use knarr_core::field::ErrorList;

use super::Pod;
use crate::at::At;
use crate::pod::defaults::CONTAINERS;

const NOT_FOR_WINDOWS: &str = "cannot be set for a windows pod";

const WINDOWS_POD_CONTEXT: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const WINDOWS_CONTAINER_CONTEXT: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `spec.os` and what goes with it.
pub fn validate(spec: &At, e: &mut ErrorList) {
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    match os.str_of("name") {
        "" => e.push(os.get("name").required("")),
        "linux" => linux(spec, e),
        "windows" => windows(spec, e),
        other => e.push(knarr_core::field::Error::not_supported(&os.path(), other, &["linux", "windows"])),
    }
}

fn linux(spec: &At, e: &mut ErrorList) {
    let text = "windows options cannot be set for a linux pod";
    let context = spec.get("securityContext");
    if context.get("windowsOptions").is_set() {
        e.push(context.get("windowsOptions").forbidden(text));
    }
    each_context(spec, |context| {
        if context.get("windowsOptions").is_set() {
            e.push(context.get("windowsOptions").forbidden(text));
        }
    });
}

fn windows(spec: &At, e: &mut ErrorList) {
    let context = spec.get("securityContext");
    for field in WINDOWS_POD_CONTEXT {
        let place = context.get(field);
        if place.is_set() && (field != "sysctls" || !place.is_empty()) {
            e.push(place.forbidden(NOT_FOR_WINDOWS));
        }
    }
    for field in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"] {
        let place = spec.get(field);
        let by_value = ["hostPID", "hostIPC"].contains(&field);
        if if by_value { place.bool() } else { place.is_set() } {
            e.push(place.forbidden(NOT_FOR_WINDOWS));
        }
    }
    each_context(spec, |context| {
        for field in WINDOWS_CONTAINER_CONTEXT {
            if context.get(field).is_set() {
                e.push(context.get(field).forbidden(NOT_FOR_WINDOWS));
            }
        }
    });
}

/// Init containers come first, as upstream visits them.
fn each_context(spec: &At, mut f: impl FnMut(&At)) {
    for kind in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.get(kind).items() {
            f(&container.get("securityContext"));
        }
    }
}

/// Either all containers of a pod are processes of a Windows host, or none (upstream: `validateWindowsHostProcessPod`).
pub fn windows_host_process(spec: &At, e: &mut ErrorList) {
    let context = spec.get("securityContext");
    let options = context.get("windowsOptions");
    let of_pod = options.get("hostProcess");
    let (mut all, mut on_host) = (0, 0);
    each_context(spec, |context| {
        let options = context.get("windowsOptions");
        let own = options.get("hostProcess");
        all += 1;
        if of_pod.is_set() && own.is_set() && of_pod.bool() != own.bool() {
            e.push(own.invalid(format!("pod hostProcess value must be identical if both are specified, was {}", of_pod.bool())));
        }
        on_host += usize::from(if own.is_set() { own.bool() } else { of_pod.bool() });
    });
    if on_host == 0 {
        return;
    }
    if on_host != all {
        e.push(spec.invalid_as("", "If pod contains any hostProcess containers then all containers must be HostProcess containers"));
    }
    let network = spec.get("hostNetwork");
    if !network.bool() {
        e.push(network.invalid_as(false, "hostNetwork must be true if pod contains any hostProcess containers"));
    }
}

/// A pod with users of its own keeps away from the host's namespaces (upstream: `validateHostUsers`).
pub fn host_users(pod: &Pod, e: &mut ErrorList) {
    if pod.host_users() {
        return;
    }
    let text = "when `hostUsers` is false";
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if pod.spec.get(field).bool() && !(field == "hostNetwork" && pod.options.host_network_in_user_namespaces) {
            e.push(pod.spec.shown_as(shown, None).forbidden(text));
        }
    }
    if pod.options.block_devices_in_user_namespaces {
        return;
    }
    for kind in CONTAINERS {
        for container in pod.spec.get(kind).items() {
            if !container.get("volumeDevices").is_empty() {
                e.push(container.get("volumeDevices").forbidden(text));
            }
        }
    }
}
