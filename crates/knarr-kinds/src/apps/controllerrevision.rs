//! ControllerRevisions: the past of StatefulSets and DaemonSets (upstream: `pkg/registry/apps/controllerrevision`).

use jiff::Timestamp;
use knarr_core::{GroupVersion, Value, ValueExt};

use crate::cells::{Cells, NONE, age, name, number, text};
use crate::strategy::Strategy;

pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn cells(&self, revision: &Value, now: Timestamp) -> Cells {
        let owners = revision.list_at(&["metadata", "ownerReferences"]);
        let controller = owners.iter().find(|o| o.bool_at(&["controller"]) == Some(true)).map_or(NONE.into(), |owner| {
            let group = GroupVersion::parse(text(owner, &["apiVersion"])).map(|gv| gv.group).filter(|g| !g.is_empty());
            let kind = text(owner, &["kind"]).to_lowercase();
            format!("{}/{}", group.map_or(kind.clone(), |g| format!("{kind}.{g}")), text(owner, &["name"]))
        });
        Some(vec![name(revision), controller.into(), number(revision, &["revision"]).into(), age(revision, now)])
    }
}
