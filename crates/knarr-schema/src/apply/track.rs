//! `managedFields` after a create, an update or a patch (`merge.Updater.Update` and the managers around it).

use std::borrow::Cow;

use knarr_core::{GroupVersion, Value, ValueExt as _};

use super::compare::{Comparison, compare};
use super::managed::{self, Entry, Fields};
use super::schema::Schema;
use super::set::Set;
use super::{MANAGED_FIELDS, Manager, managed_list, zero};
use crate::registry::{Resource, reset_fields};
use crate::types;

pub fn track_update(resource: &Resource, old: Option<&Value>, new: &mut Value, manager: Manager<'_>) {
    if !new.get("metadata").is_some_and(Value::is_object) {
        return;
    }
    let mut given = new.remove(MANAGED_FIELDS);
    let live = old.and_then(managed_list).unwrap_or_default();
    let zero = zero::object(resource);
    let changes = changes(resource, manager.subresource, old.unwrap_or(&zero), new);
    let is_as_stored = given.as_ref().is_none_or(|g| g.as_array().is_some_and(|g| g == live));
    let encoded = if changes.is_none() && old.is_some() && is_as_stored {
        given.take().unwrap_or_else(|| Value::Array(live.to_vec()))
    } else {
        let entries = choose(given.as_ref(), live, !manager.subresource.is_empty());
        if entries.is_empty() && old.is_some() {
            // Nobody has tracked it so far, and nobody will before the first apply.
            return;
        }
        Value::Array(managed::encode(record(resource, entries, changes.unwrap_or_default(), manager)))
    };
    if encoded.as_array().is_some_and(|list| !list.is_empty()) {
        new.set(MANAGED_FIELDS, encoded);
    }
}

/// Which entries count: those that came with the object, or those of the stored one.
fn choose<'a>(given: Option<&'a Value>, live: &'a [Value], is_subresource: bool) -> Vec<Entry<'a>> {
    let stored = || managed::decode(live).unwrap_or_default();
    let given = match given.and_then(Value::as_array) {
        Some(given) if !is_subresource => given,
        _ => return stored(),
    };
    if is_reset(given) {
        return Vec::new();
    }
    managed::decode(given).ok().filter(|entries| !entries.is_empty()).unwrap_or_else(stored)
}

/// An empty list, or one empty entry, takes all entries away.
fn is_reset(given: &[Value]) -> bool {
    match given {
        [] => true,
        [only] => only.as_object().is_some_and(|entry| entry.values().all(|v| v.is_null() || v.as_str() == Some(""))),
        _ => false,
    }
}

/// What a write through this path changed, without the fields that it may not own.
pub fn changes<'a>(resource: &'a Resource, subresource: &str, old: &'a Value, new: &'a Value) -> Option<Comparison<'a>> {
    let comparison = compare(Schema::of(resource), old, new);
    if comparison.is_same() {
        return None;
    }
    let reset = reset_fields(resource, subresource);
    let comparison = if reset.is_empty() { comparison } else { comparison.without(&Set::of_paths(reset.iter().map(String::as_str))) };
    (!comparison.is_same()).then_some(comparison)
}

/// Gives what was changed to the manager, and takes it from all others.
pub fn record<'a>(resource: &Resource, entries: Vec<Entry<'a>>, changes: Comparison<'a>, manager: Manager<'a>) -> Vec<Entry<'a>> {
    let Comparison { added, modified, removed } = changes;
    let changed = modified.union(added);
    let mut entries = take_from_all(resource, entries, &[&changed, &removed]);
    let own = changed.difference(never_owned());
    if !own.is_empty() {
        give(&mut entries, resource, own, manager);
    }
    managed::cap(&mut entries);
    entries
}

/// Takes fields from every entry; entries without any, and those of versions that are no more, go.
pub fn take_from_all<'a>(resource: &Resource, entries: Vec<Entry<'a>>, gone: &[&Set<'_>]) -> Vec<Entry<'a>> {
    let mut kept = Vec::with_capacity(entries.len() + 1);
    for mut entry in entries {
        if gone.iter().any(|set| entry.touches(set)) {
            let set = gone.iter().fold(entry.set(), |set, gone| set.difference(gone));
            if set.is_empty() {
                continue;
            }
            entry.fields = Fields::Set(set);
        }
        if is_known_version(resource, &entry.api_version) {
            kept.push(entry);
        }
    }
    kept
}

fn give<'a>(entries: &mut Vec<Entry<'a>>, resource: &Resource, set: Set<'a>, manager: Manager<'a>) {
    let name = if manager.name.is_empty() { "unknown" } else { manager.name };
    let own = Entry {
        manager: name.into(),
        applies: false,
        api_version: resource.api_version().into(),
        subresource: manager.subresource.into(),
        time: Some(manager.now.into()),
        fields: Fields::Set(Set::new()),
    };
    match entries.iter_mut().find(|e| e.is_same(&own)) {
        Some(entry) => {
            entry.fields = Fields::Set(set.union(entry.set()));
            entry.time = own.time;
        }
        None => entries.push(Entry { fields: Fields::Set(set), ..own }),
    }
}

/// Entries of versions that a kind no longer has are dropped.
pub fn is_known_version(resource: &Resource, api_version: &Cow<'_, str>) -> bool {
    if resource.type_id.is_none() {
        return true;
    }
    GroupVersion::parse(api_version).is_some_and(|gv| types::of_kind(&gv.group, &gv.version, &resource.kind).is_some())
}

/// Fields that say what an object is, not how somebody wants it.
pub fn never_owned() -> &'static Set<'static> {
    static SET: std::sync::LazyLock<Set<'static>> = std::sync::LazyLock::new(|| {
        let metadata = ["name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"];
        let mut set = Set::of_paths(["apiVersion", "kind", "metadata"]);
        let below = set.child_mut(super::set::Element::Field("metadata".into()));
        for name in metadata {
            below.insert(super::set::Element::Field(name.into()), Set::leaf());
        }
        set
    });
    &SET
}
