//! A page of `describe`: lines with an indent, tabs between columns, laid out when it is whole (`describe.PrefixWriter`).

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use knarr_core::selector::LabelSelector;
use knarr_core::{Value, ValueExt, time};

use crate::kubectl::print::{go, tabs};

/// An annotation longer than this is cut or put on lines of its own.
const ANNOTATION_MAX: usize = 140;
/// Annotations that are not shown.
const HIDDEN: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];

/// A page in the making.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// A line at a level of indentation.
    pub fn line(&mut self, level: usize, text: impl AsRef<str>) {
        self.part(level, text);
        self.0.push('\n');
    }

    /// The same without the line's end.
    pub fn part(&mut self, level: usize, text: impl AsRef<str>) {
        self.0.extend(std::iter::repeat_n("  ", level));
        self.0.push_str(text.as_ref());
    }

    /// The table of conditions that have no heartbeat.
    pub fn conditions(&mut self, conditions: &[Value]) {
        self.line(0, "Conditions:");
        self.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
        self.line(1, "----\t------\t------------------\t------\t-------");
        for c in conditions {
            let cell = |field| text(c, &[field]);
            let since = date(c.str_at(&["lastTransitionTime"]));
            self.line(1, format!("{}\t{}\t{since}\t{}\t{}", cell("type"), cell("status"), cell("reason"), cell("message")));
        }
    }

    /// `Name:` and a value, in two columns.
    pub fn field(&mut self, level: usize, name: &str, value: impl std::fmt::Display) {
        self.line(level, format!("{name}:\t{value}"));
    }

    /// The same, when there is a value.
    pub fn some(&mut self, level: usize, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.field(level, name, value);
        }
    }

    /// Several values under one name, one a line.
    pub fn several(&mut self, title: &str, values: &[String]) {
        self.part(0, format!("{title}:\t"));
        if values.is_empty() {
            self.line(0, "<none>");
        }
        for (i, value) in values.iter().enumerate() {
            self.line(0, format!("{}{value}", if i > 0 { "\t" } else { "" }));
        }
    }

    pub fn labels(&mut self, title: &str, labels: Option<&Value>) {
        let pairs: Vec<String> =
            labels.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
        self.several(title, &pairs);
    }

    pub fn annotations(&mut self, title: &str, annotations: Option<&Value>) {
        self.part(0, format!("{title}:\t"));
        let mut first = true;
        for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten().filter(|(k, _)| !HIDDEN.contains(&k.as_str())) {
            let value = value.as_str().unwrap_or_default();
            let value = value.strip_suffix('\n').unwrap_or(value);
            if !std::mem::take(&mut first) {
                self.part(0, "\t");
            }
            if value.len() + key.len() + 2 > ANNOTATION_MAX || value.contains('\n') {
                self.line(0, format!("{key}:"));
                for part in value.split('\n') {
                    self.line(0, format!("\t  {}", shorten(part, ANNOTATION_MAX - 2)));
                }
            } else {
                self.line(0, format!("{key}: {value}"));
            }
        }
        if first {
            self.line(0, "<none>");
        }
    }

    /// Name, namespace, labels, annotations: how most pages begin.
    pub fn head(&mut self, object: &Value) {
        self.field(0, "Name", text(object, &["metadata", "name"]));
        self.field(0, "Namespace", text(object, &["metadata", "namespace"]));
        self.labels("Labels", object.at(&["metadata", "labels"]));
        self.annotations("Annotations", object.at(&["metadata", "annotations"]));
    }

    /// The same for what has no namespace.
    pub fn cluster_head(&mut self, object: &Value) {
        self.field(0, "Name", text(object, &["metadata", "name"]));
        self.labels("Labels", object.at(&["metadata", "labels"]));
        self.annotations("Annotations", object.at(&["metadata", "annotations"]));
    }

    /// The events of an object; `None` when they were not asked for.
    pub fn events(&mut self, events: Option<&[Value]>) {
        let Some(events) = events else { return };
        if events.is_empty() {
            return self.line(0, "Events:\t<none>");
        }
        let mut sorted: Vec<&Value> = events.iter().collect();
        sorted.sort_by_key(|e| e.str_at(&["lastTimestamp"]).and_then(time::parse));
        self.line(0, "Events:");
        self.line(1, "Type\tReason\tAge\tFrom\tMessage");
        self.line(1, "----\t------\t----\t----\t-------");
        for event in sorted {
            self.line(1, event_line(event));
        }
    }

    /// The page, laid out.
    pub fn finish(self) -> String {
        tabs::layout(&self.0, 0, 2)
    }

    /// The page as it is, columns not lined up.
    pub fn plain(self) -> String {
        self.0
    }
}

fn event_line(event: &Value) -> String {
    let first = event.str_at(&["eventTime"]).or_else(|| event.str_at(&["firstTimestamp"]));
    let interval = match (event.at(&["series"]), event.i64_at(&["count"]).unwrap_or(0)) {
        (Some(series), _) => format!("{} (x{} over {})", since(series.str_at(&["lastObservedTime"])), int(series, &["count"]), since(first)),
        (None, count) if count > 1 => format!("{} (x{count} over {})", since(event.str_at(&["lastTimestamp"])), since(first)),
        _ => since(first),
    };
    let source = event.str_at(&["source", "component"]).filter(|s| !s.is_empty()).unwrap_or_else(|| text(event, &["reportingComponent"]));
    let mut message = text(event, &["message"]).trim().to_owned();
    if let Some(path) = event.str_at(&["involvedObject", "fieldPath"]).filter(|p| !p.is_empty()) {
        message = format!("{path}: {message}");
    }
    format!("{}\t{}\t{interval}\t{source}\t{message}", text(event, &["type"]), text(event, &["reason"]))
}

fn shorten(text: &str, length: usize) -> String {
    if text.len() <= length {
        return text.to_owned();
    }
    let end = (0..=length).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// The text there, or nothing.
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    object.str_at(path).unwrap_or_default()
}

pub fn int(object: &Value, path: &[&str]) -> i64 {
    object.i64_at(path).unwrap_or(0)
}

pub fn yes(object: &Value, path: &[&str]) -> bool {
    object.bool_at(path).unwrap_or(false)
}

/// `True` or `False`.
pub fn title_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Text or number there, or what stands for nothing.
pub fn or(object: &Value, path: &[&str], default: &str) -> String {
    object.at(path).map_or_else(|| default.to_owned(), go::sprint)
}

/// The texts of a list.
pub fn texts(object: &Value, path: &[&str]) -> Vec<String> {
    object.list_at(path).iter().map(go::sprint).collect()
}

/// `a=b,c=d`, or `<none>`.
pub fn format_labels(labels: Option<&Value>) -> String {
    let pairs: Vec<String> = labels.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    if pairs.is_empty() { "<none>".into() } else { pairs.join(",") }
}

/// A label selector, or `<none>`.
pub fn format_selector(selector: Option<&Value>) -> String {
    let formatted = selector.and_then(|s| LabelSelector::from_value(Some(s)).ok()).map(|s| s.to_string()).unwrap_or_default();
    if formatted.is_empty() { "<none>".into() } else { formatted }
}

/// How long ago.
pub fn since(at: Option<&str>) -> String {
    match at.and_then(time::parse) {
        None => "<unknown>".into(),
        Some(at) => match Duration::try_from(Timestamp::now().duration_since(at)) {
            Ok(age) => time::human_duration(age),
            Err(_) => "<invalid>".into(),
        },
    }
}

/// How long between two times.
pub fn between(from: &str, to: &str) -> Option<String> {
    let (from, to) = (time::parse(from)?, time::parse(to)?);
    Duration::try_from(to.duration_since(from)).ok().map(time::human_duration)
}

/// A time as RFC 1123 with a numeric zone, in this machine's zone.
pub fn date(at: Option<&str>) -> String {
    match at.and_then(time::parse) {
        Some(at) => at.to_zoned(zone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        None => "Mon, 01 Jan 0001 00:00:00 +0000".into(),
    }
}

/// A time as Go prints it: `2006-01-02 15:04:05 -0700 MST`.
pub fn go_date(at: Option<&str>) -> String {
    match at.and_then(time::parse) {
        Some(at) => at.to_zoned(zone()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string(),
        None => "0001-01-01 00:00:00 +0000 UTC".into(),
    }
}

fn zone() -> TimeZone {
    let named = std::env::var("TZ").ok();
    let path = match named.as_deref() {
        Some("" | "UTC") => return TimeZone::UTC,
        Some(name) => std::path::Path::new("/usr/share/zoneinfo").join(name.trim_start_matches(':')),
        None => "/etc/localtime".into(),
    };
    std::fs::read(path).ok().and_then(|bytes| TimeZone::tzif("Local", &bytes).ok()).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn long_annotations_stand_on_their_own_lines() {
        let mut page = Page::default();
        page.annotations("Annotations", Some(&json!({"a": "b", "c": "x\ny", "kubectl.kubernetes.io/last-applied-configuration": "{}"})));
        page.labels("Labels", Some(&json!({"l": "1", "m": "2"})));
        assert_eq!(page.finish(), "Annotations:  a: b\n              c:\n                x\n                y\nLabels:       l=1\n              m=2\n");
    }

    #[test]
    fn events_tell_how_often_and_from_whom() {
        let event = json!({"type": "Normal", "reason": "R", "count": 3, "firstTimestamp": "2020-01-01T00:00:00Z", "lastTimestamp": "2020-01-01T00:00:00Z",
            "source": {"component": "kubelet"}, "message": " m ", "involvedObject": {"fieldPath": "spec.containers{a}"}});
        let line = event_line(&event);
        assert!(line.starts_with("Normal\tR\t") && line.contains("(x3 over ") && line.ends_with("\tkubelet\tspec.containers{a}: m"), "{line}");
    }
}
