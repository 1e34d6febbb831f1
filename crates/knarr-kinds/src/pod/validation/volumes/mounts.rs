//! Mounts and block devices of a container.

use std::collections::BTreeSet;

use knarr_core::field::ErrorList;

use super::is_claim;
use crate::at::At;
use crate::pod::validation::Pod;
use crate::rules;

/// Upstream: `ValidateVolumeMounts`.
pub fn mounts(pod: &Pod, container: &At, e: &mut ErrorList) {
    let (mounts, devices) = (container.get("volumeMounts"), container.get("volumeDevices"));
    let mut paths = BTreeSet::new();
    for mount in mounts.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        name.require(e);
        if pod.volume(name.str()).is_none() {
            e.push(name.not_found());
        }
        path.require(e);
        if !paths.insert(path.str()) {
            e.push(path.invalid("must be unique"));
        }
        if devices.items().any(|d| d.str_of("name") == name.str()) {
            e.push(name.invalid("must not already exist in volumeDevices"));
        }
        if devices.items().any(|d| d.str_of("devicePath") == path.str()) {
            e.push(path.invalid("must not already exist as a path in volumeDevices"));
        }
        sub_paths(&mounts, &mount, e);
        propagation(&mounts, &mount, container, e);
        recursive_read_only(&mounts, &mount, e);
    }
}

/// Upstream names the list where the path is wrong, the item where two are given.
fn sub_paths(mounts: &At, mount: &At, e: &mut ErrorList) {
    let (path, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
    if !path.is_empty() {
        mounts.shown_as("subPath", path.value()).problems(e, rules::local_descending_path(path.str()));
    }
    if !expression.is_empty() {
        if !path.is_empty() {
            e.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
        }
        mounts.shown_as("subPathExpr", expression.value()).problems(e, rules::local_descending_path(expression.str()));
    }
}

fn propagation(mounts: &At, mount: &At, container: &At, e: &mut ErrorList) {
    let value = mount.get("mountPropagation");
    if !value.is_set() {
        return;
    }
    let place = mounts.shown_as("mountPropagation", value.value());
    place.if_set_one_of(e, &["Bidirectional", "HostToContainer", "None"]);
    let context = container.get("securityContext");
    if value.str() == "Bidirectional" && !context.get("privileged").bool() {
        e.push(place.forbidden("Bidirectional mount propagation is available only to privileged containers"));
    }
}

fn recursive_read_only(mounts: &At, mount: &At, e: &mut ErrorList) {
    let value = mount.get("recursiveReadOnly");
    let place = mounts.shown_as("recursiveReadOnly", value.value());
    match value.str() {
        "Enabled" | "IfPossible" => {
            if !mount.get("readOnly").bool() {
                e.push(place.forbidden("may only be specified when readOnly is true"));
            }
            if mount.get("mountPropagation").is_set() && mount.str_of("mountPropagation") != "None" {
                e.push(place.forbidden("may only be specified when mountPropagation is None or not specified"));
            }
        }
        "Disabled" => {}
        _ => place.if_set_one_of(e, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// Upstream: `ValidateVolumeDevices`.
pub fn devices(pod: &Pod, container: &At, e: &mut ErrorList) {
    let (mounts, devices) = (container.get("volumeMounts"), container.get("volumeDevices"));
    let (mut paths, mut names_seen) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        name.require(e);
        if names_seen.contains(name.str()) {
            e.push(name.invalid("must be unique"));
        }
        match pod.volume(name.str()) {
            Some(volume) if !is_claim(volume) => e.push(name.invalid("can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")),
            Some(_) => {}
            None => e.push(name.not_found()),
        }
        path.require(e);
        if paths.contains(path.str()) {
            e.push(path.invalid("must be unique"));
        }
        if path.is_empty() || rules::no_backsteps(path.str()).is_empty() {
            paths.insert(path.str());
        } else {
            e.push(path.invalid("can not contain backsteps ('..')"));
        }
        if mounts.items().any(|m| m.str_of("name") == name.str()) {
            e.push(name.invalid("must not already exist in volumeMounts"));
        }
        if mounts.items().any(|m| m.str_of("mountPath") == path.str()) {
            e.push(path.invalid("must not already exist as a path in volumeMounts"));
        }
        if !name.is_empty() {
            names_seen.insert(name.str());
        }
    }
}
