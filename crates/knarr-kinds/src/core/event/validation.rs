//! What Events may say: core's take nearly everything, those of `events.k8s.io` are held to more (upstream:
//! `pkg/apis/core/validation/events.go`). Errors name the fields as core does, for both.

use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{Value, ValueExt, names};

use crate::metadata::IMMUTABLE;
use knarr_schema::{internal, types};

const SHORT_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

/// An Event in either spelling.
pub struct Fields<'a> {
    event: &'a Value,
    strict: bool,
}

impl<'a> Fields<'a> {
    /// `strict`: it came through `events.k8s.io`.
    pub fn of(event: &'a Value, strict: bool) -> Self {
        Self { event, strict }
    }

    /// A field by core's name.
    fn get(&self, core: &str) -> Option<&'a Value> {
        let name = if self.strict { super::RENAMED.iter().find(|(c, _)| *c == core).map_or(core, |(_, other)| other) } else { core };
        // The server validates the form that is stored, which is core's.
        self.event.at(&[name]).or_else(|| self.event.at(&[core]))
    }

    fn text(&self, core: &str) -> &'a str {
        self.get(core).and_then(Value::as_str).unwrap_or_default()
    }

    /// What holds of every Event.
    pub fn validate(&self, e: &mut ErrorList) {
        let namespace = self.event.str_at(&["metadata", "namespace"]).unwrap_or_default();
        let of = self.get("involvedObject").and_then(|o| o.str_at(&["namespace"])).unwrap_or_default();
        let is_new_style = self.get("eventTime").is_some();
        let matches = match (is_new_style, of) {
            (false, "") => matches!(namespace, "" | "default"),
            (false, of) => namespace == of,
            (true, "") => matches!(namespace, "default" | "kube-system"),
            (true, _) => true,
        };
        if !matches {
            e.push(Error::invalid(&Path::new("involvedObject").child("namespace"), of, "does not match event.namespace"));
        }
        if is_new_style {
            self.new_style(e);
        }
    }

    fn new_style(&self, e: &mut ErrorList) {
        let controller = self.text("reportingComponent");
        let place = Path::new(if self.strict { "reportingController" } else { "reportingComponent" });
        if controller.is_empty() {
            e.push(Error::required(&place, ""));
        }
        e.extend(names::is_qualified_name(controller).into_iter().map(|p| Error::invalid(&place, controller, p)));
        for (field, required, max) in
            [("reportingInstance", true, SHORT_MAX), ("action", true, SHORT_MAX), ("reason", true, SHORT_MAX), ("message", false, NOTE_MAX)]
        {
            let text = self.text(field);
            if required && text.is_empty() {
                e.push(Error::required(&Path::new(field), ""));
            }
            if text.len() > max {
                e.push(Error::invalid(&Path::new(field), "", format!("can have at most {max} characters")));
            }
        }
    }

    /// What only `events.k8s.io` demands of a new Event.
    pub fn validate_strictly(&self, e: &mut ErrorList) {
        self.series(e);
        if self.get("eventTime").is_none() {
            e.push(Error::required(&Path::new("eventTime"), ""));
        }
        let kind = self.text("type");
        if !matches!(kind, "Normal" | "Warning") {
            e.push(Error::invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
        }
        for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
            if !self.get(field).is_none_or(crate::tree::is_zero) {
                e.push(Error::invalid(&Path::new(field), "", "needs to be unset"));
            }
        }
    }

    fn series(&self, e: &mut ErrorList) {
        let Some(series) = self.get("series") else { return };
        if series.i64_at(&["count"]).unwrap_or(0) < 2 {
            e.push(Error::invalid(&Path::new("series.count"), "", "should be at least 2"));
        }
        if series.at(&["lastObservedTime"]).is_none() {
            e.push(Error::required(&Path::new("series.lastObservedTime"), ""));
        }
    }

    /// What only `events.k8s.io` demands of a change: nothing but the series changes.
    pub fn validate_update(&self, old: &Fields, e: &mut ErrorList) {
        if self.get("series") != old.get("series") {
            self.series(e);
        }
        const FIXED: [&str; 12] = [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
        ];
        for field in FIXED.into_iter().chain(["reportingInstance"]) {
            let (new, old) = (self.get(field), old.get(field));
            if !crate::semantic::same(new.filter(|v| !crate::tree::is_zero(v)), old.filter(|v| !crate::tree::is_zero(v))) {
                let shown = if field == "reportingComponent" { "reportingController" } else { field };
                let absent = || if field == "reportingComponent" { "".into() } else { Value::Null };
                let error = Error::invalid(&Path::new(shown), new.cloned().unwrap_or_else(absent), IMMUTABLE);
                // Structs, and what is not there, are shown as core has them inside.
                let inside = new.is_none_or(Value::is_object).then(|| types::of_kind("", "v1", "Event")).flatten();
                e.push(match inside.and_then(|event| internal::shown(event, &[internal::Step::Field(field)], new)) {
                    Some(text) => error.showing(text),
                    None => error,
                });
            }
        }
    }
}
