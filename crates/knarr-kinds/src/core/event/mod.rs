//! Events of both groups (upstream: `pkg/registry/core/event`).

mod validation;

use crate::cells::{Cells, UNKNOWN, name, number, since, text, text_or};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::{Value, ValueExt, names};

use validation::Fields;

use crate::strategy::{Context, Shape, Strategy, plain_field};

/// `strict`: Events of the group `events.k8s.io`.
pub struct Event {
    pub strict: bool,
}

impl Strategy for Event {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update()
    }

    fn validate_create(&self, _cx: &Context<'_>, event: &Value) -> ErrorList {
        let (fields, mut e) = (Fields::of(event, self.strict), ErrorList::new());
        fields.validate(&mut e);
        if self.strict {
            fields.validate_strictly(&mut e);
        }
        e
    }

    fn validate_update(&self, _cx: &Context<'_>, event: &Value, old: &Value) -> ErrorList {
        let (fields, mut e) = (Fields::of(event, self.strict), ErrorList::new());
        fields.validate(&mut e);
        if self.strict {
            fields.validate_update(&Fields::of(old, self.strict), &mut e);
        }
        e
    }

    fn domain_finalizers(&self) -> bool {
        self.strict
    }

    /// Old clients name Events as they like.
    fn validate_name(&self, name: &str) -> Vec<String> {
        if self.strict { names::is_dns1123_subdomain(name) } else { names::is_path_segment(name) }
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

    fn cells(&self, event: &Value, now: Timestamp) -> Cells {
        let either = |core: &[&str], events: &[&str]| text_or(event, core, text(event, events)).to_owned();
        let object = |key| either(&["involvedObject", key], &["regarding", key]);
        let (kind, named) = (object("kind").to_lowercase(), object("name"));
        let (first, last, count) = times(event, now);
        let component = text_or(event, &["source", "component"], text(event, &["deprecatedSource", "component"]));
        let component = if component.is_empty() { either(&["reportingComponent"], &["reportingController"]) } else { component.into() };
        let host = text_or(event, &["source", "host"], text(event, &["deprecatedSource", "host"]));
        let host = if host.is_empty() { text(event, &["reportingInstance"]) } else { host };
        Some(vec![
            last.into(),
            text(event, &["type"]).into(),
            text(event, &["reason"]).into(),
            if named.is_empty() { kind.into() } else { format!("{kind}/{named}").into() },
            object("fieldPath").into(),
            if host.is_empty() { component.into() } else { format!("{component}, {host}").into() },
            either(&["message"], &["note"]).trim().into(),
            first.into(),
            count.into(),
            name(event),
        ])
    }
}

/// First and last time as ages, and how often it happened, in either spelling.
fn times(event: &Value, now: Timestamp) -> (String, String, i64) {
    let ago = |paths: &[&[&str]]| paths.iter().find(|p| event.at(p).is_some()).map(|p| since(event, p, now));
    let first = ago(&[&["firstTimestamp"], &["deprecatedFirstTimestamp"], &["eventTime"]]).unwrap_or_else(|| UNKNOWN.into());
    let last = ago(&[&["lastTimestamp"], &["deprecatedLastTimestamp"]]).unwrap_or_else(|| first.clone());
    let count = number(event, &["count"]).max(number(event, &["deprecatedCount"]));
    match event.at(&["series"]) {
        Some(series) => (first, since(series, &["lastObservedTime"], now), number(series, &["count"])),
        None => (first, last, count.max(1)),
    }
}

/// Fields that the two groups call differently: core's name, then that of `events.k8s.io`.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("message", "note"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// From core's spelling to that of `events.k8s.io`.
pub fn to_events_group(event: &mut Value) {
    RENAMED.iter().for_each(|(core, events)| rename(event, core, events));
}

/// From the spelling of `events.k8s.io` to core's.
pub fn to_core_group(event: &mut Value) {
    RENAMED.iter().for_each(|(core, events)| rename(event, events, core));
}

fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(value) = object.remove(&[from]) {
        object.set(&[to], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::{json, time};

    #[test]
    fn an_event_survives_the_other_group() {
        let event = json!({"apiVersion": "v1", "kind": "Event", "message": "m", "involvedObject": {"name": "p"}, "count": 2, "reportingComponent": "c", "eventTime": null});
        let there = crate::convert(event.clone(), "events.k8s.io", "v1").unwrap();
        assert_eq!(there["note"], json!("m"));
        assert_eq!(crate::convert(there, "", "v1").unwrap(), event);
    }

    #[test]
    fn both_spellings_give_the_same_row() {
        let core = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n"}, "message": " m ", "type": "Normal", "reason": "R", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 3});
        let other = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "deprecatedSource": {"component": "kubelet", "host": "n"}, "note": "m", "type": "Normal", "reason": "R", "deprecatedLastTimestamp": "2026-01-01T00:00:00Z", "deprecatedCount": 3});
        let now = time::parse("2026-01-01T00:00:07Z").unwrap();
        let wanted = json!(["7s", "Normal", "R", "pod/p", "", "kubelet, n", "m", "<unknown>", 3, "e"]);
        assert_eq!(json!(Event { strict: false }.cells(&core, now)), wanted);
        assert_eq!(json!(Event { strict: true }.cells(&other, now)), wanted);
    }
}
