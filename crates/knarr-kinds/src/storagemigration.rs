//! StorageVersionMigrations (upstream: `pkg/registry/storagemigration`).

use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::names::{is_dns1035_label, is_dns1123_subdomain};
use knarr_core::{Value, ValueExt};

use crate::at::{self, At};
use crate::cells::{Cells, name, text};
use crate::conditions::conditions;
use crate::strategy::{Context, Shape, Strategy};

pub struct StorageVersionMigration;

impl Strategy for StorageVersionMigration {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }

    fn validate_create(&self, _cx: &Context<'_>, migration: &Value) -> ErrorList {
        at::check(migration, validate)
    }

    fn validate_update(&self, _cx: &Context<'_>, migration: &Value, old: &Value) -> ErrorList {
        at::check(migration, |root, e| {
            validate(root, e);
            root.get("spec").immutable(old.at(&["spec"]), e);
        })
    }

    fn validate_status_update(&self, _cx: &Context<'_>, migration: &Value, old: &Value) -> ErrorList {
        at::check(migration, |root, e| validate_status(&root.get("status"), migration, old, e))
    }

    fn cells(&self, migration: &Value, _now: Timestamp) -> Cells {
        let (group, resource) = (text(migration, &["spec", "resource", "group"]), text(migration, &["spec", "resource", "resource"]));
        let subject = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let conditions = migration.list_at(&["status", "conditions"]).iter().filter(|c| text(c, &["status"]) == "True").map(|c| text(c, &["type"]));
        let state = conditions.filter(|k| ["Running", "Failed", "Succeeded"].contains(k)).next_back().unwrap_or("Unknown");
        Some(vec![name(migration), subject.into(), state.into()])
    }
}

fn validate(root: &At, e: &mut ErrorList) {
    let subject = root.get("spec");
    let subject = subject.get("resource");
    let (group, resource) = (subject.get("group"), subject.get("resource"));
    let problems = |place: &At, found: Vec<String>, e: &mut ErrorList| {
        if !found.is_empty() {
            e.push(place.invalid(found.join(",")));
        }
    };
    if resource.is_empty() {
        e.push(resource.required("resource is required to be set"));
    } else {
        problems(&resource, is_dns1035_label(resource.str()), e);
    }
    if !group.is_empty() {
        problems(&group, is_dns1123_subdomain(group.str()), e);
    }
}

fn validate_status(status: &At, new: &Value, old: &Value, e: &mut ErrorList) {
    let (list, revision) = (status.get("conditions"), status.get("resourceVersion"));
    let before = text(old, &["status", "resourceVersion"]);
    if !revision.is_empty() && !(revision.str().bytes().all(|b| b.is_ascii_digit()) && !revision.str().starts_with('0')) {
        e.push(revision.invalid(format!("resource version is not well formed: {}", revision.str())));
    }
    conditions(&list, e);
    if !before.is_empty() && before != revision.str() {
        e.push(revision.invalid("field is immutable"));
    }
    let holds =
        |object: &Value, kind: &str| object.list_at(&["status", "conditions"]).iter().any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True");
    if holds(new, "Succeeded") && holds(new, "Failed") {
        e.push(list.invalid("Both success and failed conditions cannot be true at the same time"));
    }
    for (kind, shown) in [("Succeeded", "Success"), ("Failed", "Failed")] {
        if holds(old, kind) && !holds(new, kind) {
            e.push(list.invalid(format!("{shown} condition cannot be set to false once it is true")));
        }
    }
}
