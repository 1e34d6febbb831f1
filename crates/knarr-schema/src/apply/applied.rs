//! Apply (`merge.Updater.Apply` and the managers around it).

use knarr_core::{Reason, Result, Status, Value, ValueExt as _};

use super::compare::{compare, field_set, is_equal};
use super::conflict::{self, Conflict};
use super::fields::json_text;
use super::managed::{self, Entry, Fields};
use super::merge::{merge, reconcile, remove, with_named_fields};
use super::schema::Schema;
use super::set::Set;
use super::track::{changes, is_known_version, never_owned, record, take_from_all};
use super::{MANAGED_FIELDS, Manager, managed_list, validate, zero};
use crate::codec;
use crate::registry::{Resource, reset_fields};

/// Who owns the fields that were there before anybody applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// What client-side apply remembers the last configuration by.
const LAST_APPLIED: &[&str] = &["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"];
/// The manager that takes over from client-side apply.
const KUBECTL: &str = "kubectl";
/// Larger annotations are refused, so the last configuration is rather not written.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

pub fn apply(resource: &Resource, live: Option<&Value>, config: &Value, manager: Manager<'_>, force: bool) -> Result<Value> {
    check_config(resource, config)?;
    let stored = live.and_then(managed_list).unwrap_or_default();
    let entries = managed::decode(stored).map_err(|why| plain(format!("failed to decode managed fields: {why}")))?;
    let zero = zero::object(resource);
    let mut object = live.unwrap_or(&zero).clone();
    object.remove(MANAGED_FIELDS);
    let entries = if entries.is_empty() { before_first_apply(resource, &zero, &object, manager) } else { entries };

    let applying = Applying { resource, live: &object, config, manager };
    let done = match applying.run(entries.clone(), force) {
        Err(Refusal::Conflicts(conflicts)) if manager.name == KUBECTL => applying.take_over(entries, conflicts),
        other => other,
    };
    let Applied { object: merged, entries } = done.map_err(Refusal::into_status)?;
    let encoded = managed::encode(entries);
    let mut result = merged.unwrap_or_else(|| object.clone());
    if manager.name == KUBECTL && result.str_at(LAST_APPLIED).is_some_and(|text| !text.is_empty()) {
        renew_last_applied(&mut result, config);
    }
    if !encoded.is_empty() {
        result.set(MANAGED_FIELDS, Value::Array(encoded));
    }
    Ok(result)
}

/// 500 without a reason, as upstream answers errors that are no `Status`.
fn plain(message: String) -> Status {
    Status::new(500, Reason::Unknown, message)
}

fn check_config(resource: &Resource, config: &Value) -> Result<()> {
    let text = |key: &str| config.str_at(&[key]).unwrap_or_default();
    if text("apiVersion") != resource.api_version() || text("kind") != resource.kind {
        return Err(Status::bad_request(format!(
            "invalid object type: {}{}, Kind={}",
            if text("apiVersion").contains('/') { "" } else { "/" },
            text("apiVersion"),
            text("kind")
        )));
    }
    if config.at(MANAGED_FIELDS).is_some() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let errors = validate::validate(Schema::of(resource), config);
    if errors.is_empty() {
        return Ok(());
    }
    let meta = |key: &str| config.str_at(&["metadata", key]).unwrap_or_default();
    let place = format!("{}/{}; {}", meta("namespace"), meta("name"), resource.gvk());
    Err(plain(format!("failed to create typed patch object ({place}): {}", validate::message(&errors))))
}

/// Gives what is there to a manager of its own.
fn before_first_apply<'a>(resource: &'a Resource, zero: &'a Value, object: &'a Value, manager: Manager<'a>) -> Vec<Entry<'a>> {
    match changes(resource, manager.subresource, zero, object) {
        Some(changes) => record(resource, Vec::new(), changes, Manager { name: BEFORE_FIRST_APPLY, ..manager }),
        None => Vec::new(),
    }
}

struct Applied<'a> {
    /// Nothing when the object stays as it is.
    object: Option<Value>,
    entries: Vec<Entry<'a>>,
}

enum Refusal<'a> {
    Conflicts(Vec<Conflict<'a>>),
}

impl Refusal<'_> {
    fn into_status(self) -> Status {
        match self {
            Self::Conflicts(conflicts) => conflict::status(conflicts),
        }
    }
}

#[derive(Clone, Copy)]
struct Applying<'a> {
    resource: &'a Resource,
    live: &'a Value,
    config: &'a Value,
    manager: Manager<'a>,
}

impl<'a> Applying<'a> {
    fn schema(&self) -> Schema<'a> {
        Schema::of(self.resource)
    }

    fn own_entry(&self, fields: Set<'a>) -> Entry<'a> {
        Entry {
            manager: self.manager.name.into(),
            applies: true,
            api_version: self.resource.api_version().into(),
            subresource: self.manager.subresource.into(),
            time: None,
            fields: Fields::Set(fields),
        }
    }

    fn run(&self, mut entries: Vec<Entry<'a>>, force: bool) -> std::result::Result<Applied<'a>, Refusal<'a>> {
        let schema = self.schema();
        entries.retain(|e| is_known_version(self.resource, &e.api_version));
        for entry in &mut entries {
            entry.fields = Fields::Set(reconcile(entry.set(), schema));
        }
        let merged = merge(schema, self.live, self.config);
        let reset = Set::of_paths(reset_fields(self.resource, self.manager.subresource).iter().map(String::as_str));
        let mut own = self.own_entry(field_set(schema, self.config).recursive_difference(&reset));
        let before = entries.iter().position(|e| e.is_same(&own)).map(|i| entries.remove(i));
        own.time = before.as_ref().and_then(|e| e.time.clone());
        let object = match before {
            Some(before) => self.prune(merged, &before.set(), entries.iter().chain([&own])),
            None => merged,
        };
        let mut entries = self.settle(entries, &object, &reset, force)?;
        let is_changed = !is_equal(self.live, &object);
        self.keep(&mut entries, own, is_changed);
        Ok(Applied { object: is_changed.then_some(object), entries })
    }

    /// Adds the entry of the applying manager.
    fn keep(&self, entries: &mut Vec<Entry<'a>>, own: Entry<'a>, is_changed: bool) {
        let set = own.set().difference(never_owned());
        if set.is_empty() {
            return;
        }
        let time = if is_changed { Some(self.manager.now.into()) } else { own.time };
        entries.push(Entry { fields: Fields::Set(set), time, ..own });
    }

    /// Takes what changed from all other managers, if it is theirs no longer or `force` says so.
    fn settle(&self, entries: Vec<Entry<'a>>, object: &Value, reset: &Set<'_>, force: bool) -> std::result::Result<Vec<Entry<'a>>, Refusal<'a>> {
        let comparison = compare(self.schema(), self.live, object).without(reset);
        if comparison.is_same() {
            return Ok(entries);
        }
        let changed = comparison.modified.union(comparison.added);
        if !force {
            let conflicts: Vec<_> = entries.iter().filter_map(|entry| conflict_of(entry, &changed)).collect();
            if !conflicts.is_empty() {
                return Err(Refusal::Conflicts(conflicts));
            }
        }
        Ok(take_from_all(self.resource, entries, &[&changed, &comparison.removed]))
    }

    /// Takes out what this manager applied last and does not apply now, unless somebody else owns it.
    fn prune<'e>(&self, merged: Value, last: &Set<'a>, owners: impl Iterator<Item = &'e Entry<'a>>) -> Value
    where
        'a: 'e,
    {
        if last.is_empty() {
            return merged;
        }
        let schema = self.schema();
        let named = |set: Set<'_>| -> Set<'static> { owned(&with_named_fields(set, Some(schema))) };
        let last = named(last.clone());
        let all = named(field_set(schema, &merged));
        let pruned = remove(schema, &merged, &last);
        let theirs = named(owners.fold(Set::new(), |all, entry| all.union(entry.set())));
        // What somebody owns comes back.
        let kept = named(field_set(schema, &pruned)).union(theirs);
        let pruned = remove(schema, &merged, &all.clone().difference(&kept));
        // And so does what this manager never applied: it only hung on something that is gone.
        let kept = named(field_set(schema, &pruned));
        remove(schema, &merged, &all.difference(&kept).intersection(&last))
    }

    /// kubectl takes over what it applied before on the client's side, and only that (`lastappliedmanager.go`).
    fn take_over(&self, entries: Vec<Entry<'a>>, conflicts: Vec<Conflict<'a>>) -> std::result::Result<Applied<'a>, Refusal<'a>> {
        let Some(allowed) = self.allowed() else { return Err(Refusal::Conflicts(conflicts)) };
        let left = conflicts.into_iter().map(|c| Conflict { set: c.set.difference(&allowed), ..c });
        let left: Vec<_> = left.filter(|c| !c.set.is_empty()).collect();
        if left.is_empty() { self.run(entries, true) } else { Err(Refusal::Conflicts(left)) }
    }

    /// The fields of the last client-side configuration that are still as it wanted them.
    fn allowed(&self) -> Option<Set<'static>> {
        let last = codec::parse_json(self.live.str_at(LAST_APPLIED)?.as_bytes()).ok()?;
        if last.str_at(&["apiVersion"]) != Some(self.resource.api_version().as_str()) || !validate::validate(self.schema(), &last).is_empty() {
            return None;
        }
        let differs = compare(self.schema(), &last, self.live);
        let set = field_set(self.schema(), &last).difference(&differs.modified).difference(&differs.added).difference(&differs.removed);
        Some(owned(&set))
    }
}

fn conflict_of<'a>(entry: &Entry<'a>, changed: &Set<'_>) -> Option<Conflict<'a>> {
    let set = entry.set().intersection(changed);
    (!set.is_empty()).then(|| Conflict { entry: entry.clone(), set })
}

/// A set that borrows nothing.
fn owned(set: &Set<'_>) -> Set<'static> {
    let mut out = Set::new().with_member(set.member);
    for (element, child) in set.children() {
        out.insert(element.to_static(), owned(child));
    }
    out
}

/// Writes the configuration into the annotation from which client-side apply goes on, unless it is too large for one.
fn renew_last_applied(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    config.remove(LAST_APPLIED);
    let text = json_text(&config) + "\n";
    object.set(LAST_APPLIED, text);
    let annotations = object.at(&LAST_APPLIED[..2]).and_then(Value::as_object);
    let size: usize = annotations.into_iter().flatten().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > ANNOTATIONS_BYTES_MAX {
        object.remove(LAST_APPLIED);
    }
}
