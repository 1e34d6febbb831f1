//! `managedFields` between an object and its Scale: who owns `spec.replicas` of one owns it in the other
//! (`managedfields/scalehandler.go`).

use std::sync::LazyLock;

use knarr_core::{GroupVersion, Value};

use super::managed::{self, Entry, Fields};
use super::managed_list;
use super::set::{Element, Set};
use super::track::is_known_version;
use crate::registry::Resource;
use crate::types;

/// `autoscaling/v1` Scale as a resource, for [`super::track_update`] and [`super::apply`] of a scale.
pub fn resource() -> &'static Resource {
    static SCALE: LazyLock<Resource> = LazyLock::new(|| Resource {
        group: "autoscaling".into(),
        version: "v1".into(),
        plural: "scales".into(),
        singular: "scale".into(),
        kind: "Scale".into(),
        list_kind: "ScaleList".into(),
        namespaced: true,
        verbs: Vec::new(),
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
        columns: Vec::new(),
        selectable_fields: Vec::new(),
        storage: ("autoscaling".into(), "v1".into()),
        type_id: types::of_kind("autoscaling", "v1", "Scale"),
        deprecated: None,
        lenient: false,
        custom: None,
    });
    &SCALE
}

/// Where an object has what a scale calls `spec.replicas`; `None` where a version has no such place.
fn replicas(resource: &Resource, api_version: &str) -> Option<Vec<Element<'static>>> {
    let path = match &resource.custom {
        Some(custom) => {
            let same_group = GroupVersion::parse(api_version).is_some_and(|gv| gv.group == resource.group);
            custom.scale.as_ref().filter(|_| same_group)?.0.trim_start_matches('.').to_owned()
        }
        None => is_known_version(resource, &api_version.into()).then(|| "spec.replicas".to_owned())?,
    };
    Some(path.split('.').map(|name| Element::Field(name.to_owned().into())).collect())
}

fn set_of(path: &[Element<'static>]) -> Set<'static> {
    let mut set = Set::new();
    path.iter().fold(&mut set, |node, element| node.child_mut(element.clone())).member = true;
    set
}

fn scale_path() -> Vec<Element<'static>> {
    vec![Element::Field("spec".into()), Element::Field("replicas".into())]
}

/// The `managedFields` of a scale, from those of its object.
///
/// # Errors
/// What is wrong with an entry.
pub fn to_scale(resource: &Resource, object: &Value) -> Result<Vec<Value>, String> {
    let entries = managed::decode(managed_list(object).unwrap_or_default())?;
    let owns = |entry: &Entry<'_>| replicas(resource, &entry.api_version).is_some_and(|path| entry.set().has(&path));
    let scale =
        entries.into_iter().filter(owns).map(|entry| Entry { api_version: "autoscaling/v1".into(), fields: Fields::Set(set_of(&scale_path())), ..entry });
    Ok(managed::encode(scale.collect()))
}

/// The `managedFields` of an object, after its scale was written: `object` with its old ones, and those of the scale.
///
/// # Errors
/// What is wrong with an entry.
pub fn to_object(resource: &Resource, object: &Value, scale: &[Value]) -> Result<Vec<Value>, String> {
    let mut scale = managed::decode(scale)?;
    let mut out = Vec::new();
    for entry in managed::decode(managed_list(object).unwrap_or_default())? {
        let set = entry.set();
        let Some(path) = replicas(resource, &entry.api_version) else { continue };
        if !set.has(&path) {
            out.push(entry);
            continue;
        }
        match scale.iter().position(|s| is_same_manager(s, &entry)) {
            Some(i) => {
                scale.remove(i);
                out.push(entry);
            }
            None => {
                let set = set.difference(&set_of(&path));
                if !set.is_empty() {
                    out.push(Entry { fields: Fields::Set(set), ..entry });
                }
            }
        }
    }
    let path = replicas(resource, &resource.api_version()).unwrap_or_else(scale_path);
    for entry in scale.into_iter().filter(|s| s.set().has(&scale_path())) {
        // As upstream, which looks for the time under the name that the entry had in the scale, and finds none.
        out.push(Entry { time: None, api_version: resource.api_version().into(), fields: Fields::Set(set_of(&path)), ..entry });
    }
    Ok(managed::encode(out))
}

fn is_same_manager(scale: &Entry<'_>, object: &Entry<'_>) -> bool {
    scale.manager == object.manager && scale.applies == object.applies && scale.subresource == object.subresource
}
