//! Events of both groups (upstream: `pkg/registry/core/event`).

use knarr_core::{Value, ValueExt};

use crate::strategy::{Shape, Strategy, plain_field};

pub struct Event;

impl Strategy for Event {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update()
    }

    /// Both spellings: `involvedObject.*`, `reportingComponent`, `source` of core and `regarding.*`, `reportingController` of
    /// `events.k8s.io`, whichever form the object is in.
    fn field(&self, event: &Value, name: &str) -> String {
        let first = |paths: &[&[&str]]| paths.iter().filter_map(|p| event.str_at(p)).find(|s| !s.is_empty()).unwrap_or_default().to_owned();
        if let Some(key) = name.strip_prefix("involvedObject.").or(name.strip_prefix("regarding.")) {
            return first(&[&["involvedObject", key], &["regarding", key]]);
        }
        match name {
            "source" => first(&[&["source", "component"], &["deprecatedSource", "component"], &["reportingComponent"], &["reportingController"]]),
            "reportingComponent" | "reportingController" => first(&[&["reportingComponent"], &["reportingController"]]),
            _ => plain_field(event, name),
        }
    }
}
