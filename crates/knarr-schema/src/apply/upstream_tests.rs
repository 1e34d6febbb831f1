//! Writes and patches whose outcome upstream's own libraries have told (`schema-tools/writeref`).

use knarr_core::{Value, ValueExt as _};

use super::*;
use crate::registry::Registry;
use crate::{codec, patch};

/// One line of the file.
struct Case {
    resource: std::sync::Arc<Resource>,
    line: Value,
}

impl Case {
    fn text(&self, key: &str) -> &str {
        self.line.str_at(&["op", key]).unwrap_or_default()
    }

    /// The tree that a handler would have of it.
    fn decoded(&self, value: &Value) -> Option<Value> {
        let decoded = codec::decode_value(&self.resource, value, codec::FieldValidation::Ignore);
        (!value.is_null()).then(|| decoded.expect("the file has valid objects").value)
    }

    fn run(&self) -> Result<Value> {
        let op = &self.line["op"];
        let manager = Manager { name: self.text("manager"), subresource: self.text("sub"), now: "2026-01-02T03:04:05Z" };
        let live = self.decoded(&self.line["live"]);
        let type_id = self.resource.type_id.expect("a built-in kind");
        match self.text("op") {
            "update" => {
                let mut new = self.decoded(&op["body"]).expect("an update has a body");
                track_update(&self.resource, live.as_ref(), &mut new, manager);
                Ok(new)
            }
            "apply" => apply(&self.resource, live.as_ref(), &op["body"], manager, op["force"] == true),
            "smp" => patch::strategic_merge(type_id, &op["body"], &op["other"]),
            "two" => patch::create_two_way(type_id, &op["body"], &op["other"]),
            _ => patch::create_three_way(type_id, &op["body"], &op["other"], &op["third"]),
        }
    }

    /// Objects without what differs from run to run; patches as they are.
    fn comparable(&self, value: &Value) -> Value {
        if !matches!(self.text("op"), "update" | "apply") {
            return value.clone();
        }
        let mut object = self.decoded(value).unwrap_or_default();
        let mut entries = object.remove(MANAGED_FIELDS).unwrap_or_default();
        entries.as_array_mut().into_iter().flatten().for_each(|e| drop(e.remove(&["time"])));
        if let Some(entries) = entries.as_array_mut() {
            // Without times their order says nothing.
            entries.sort_by_key(|e| (e["operation"].to_string(), e["manager"].to_string(), e["subresource"].to_string()));
        }
        object.set(MANAGED_FIELDS, entries);
        object
    }
}

#[test]
fn writes_come_out_as_upstream_has_them() {
    let registry = Registry::builtin();
    let lines = include_str!("../../fixtures/writes.jsonl").lines();
    for (number, line) in lines.enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        let [group, version, kind] = [0, 1, 2].map(|i| line["gvk"][i].as_str().unwrap());
        let case = Case { resource: registry.by_kind(group, version, kind).unwrap().clone(), line: line.clone() };
        let story = format!("line {}: {} of a {kind}", number + 1, case.text("op"));
        match (case.run(), line["error"].as_str()) {
            (Ok(ours), None) => assert_eq!(case.comparable(&ours), case.comparable(&line["result"]), "{story}"),
            (ours, theirs) => assert_eq!(ours.map_err(|e| e.message).err().as_deref(), theirs, "{story}"),
        }
    }
}
