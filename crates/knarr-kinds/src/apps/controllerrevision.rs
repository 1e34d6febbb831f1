//! ControllerRevisions: the past of StatefulSets and DaemonSets (upstream: `pkg/registry/apps/controllerrevision`).

use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{GroupVersion, Value, ValueExt};

use crate::at;
use crate::cells::{Cells, NONE, age, name, number, text};
use crate::strategy::{Context, Shape, Strategy};

pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    fn validate_create(&self, _cx: &Context<'_>, revision: &Value) -> ErrorList {
        at::check(revision, |root, e| {
            root.get("revision").nonnegative(e);
            let data = root.get("data");
            if !data.is_set() {
                e.push(data.required("data is mandatory"));
            } else if !data.value().is_some_and(Value::is_object) {
                e.push(data.required("data must be a valid JSON object"));
            }
        })
    }

    fn validate_update(&self, _cx: &Context<'_>, revision: &Value, old: &Value) -> ErrorList {
        at::check(revision, |root, e| {
            root.get("revision").nonnegative(e);
            root.get("data").immutable(old.at(&["data"]), e);
        })
    }

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
