//! StorageVersionMigrations (upstream: `pkg/registry/storagemigration`).

use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::cells::{Cells, name, text};
use crate::strategy::{Shape, Strategy};

pub struct StorageVersionMigration;

impl Strategy for StorageVersionMigration {
    fn shape(&self) -> Shape {
        Shape::PLAIN.status_keeps_metadata().needs_resource_version()
    }

    fn cells(&self, migration: &Value, _now: Timestamp) -> Cells {
        let (group, resource) = (text(migration, &["spec", "resource", "group"]), text(migration, &["spec", "resource", "resource"]));
        let subject = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let conditions = migration.list_at(&["status", "conditions"]).iter().filter(|c| text(c, &["status"]) == "True").map(|c| text(c, &["type"]));
        let state = conditions.filter(|k| ["Running", "Failed", "Succeeded"].contains(k)).next_back().unwrap_or("Unknown");
        Some(vec![name(migration), subject.into(), state.into()])
    }
}
