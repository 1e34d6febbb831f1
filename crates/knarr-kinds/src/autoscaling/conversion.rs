//! HorizontalPodAutoscalers in `autoscaling/v1` and `v2` (upstream: `pkg/apis/autoscaling/v1/conversion.go`).
//!
//! v1 knows one metric, CPU utilisation. What else v2 says travels in annotations, as JSON in v1's (for behaviour: in Go's)
//! spelling.

use knarr_core::{Map, Value, ValueExt, json};

use super::METRICS_ANNOTATION;
use crate::tree::{default_to, is_set, is_zero_at, object};

const STATUSES_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Annotations that carry fields of another version; none of them is stored.
const CARRIERS: [&str; 6] = [
    METRICS_ANNOTATION,
    STATUSES_ANNOTATION,
    CONDITIONS_ANNOTATION,
    BEHAVIOR_ANNOTATION,
    "autoscaling.alpha.kubernetes.io/scale-down-tolerance",
    "autoscaling.alpha.kubernetes.io/scale-up-tolerance",
];

const CPU_PERCENT: &str = "targetCPUUtilizationPercentage";
const CPU_PERCENT_NOW: &str = "currentCPUUtilizationPercentage";

/// From v2 to v1.
pub fn to_v1(autoscaler: &mut Value) {
    drop_carriers(autoscaler);
    let metrics = take_list(autoscaler, &["spec", "metrics"]);
    let (cpu, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(|m| is_cpu(m) && m.at(&["resource", "target", "averageUtilization"]).is_some());
    if let Some(percent) = cpu.first().and_then(|m| m.i64_at(&["resource", "target", "averageUtilization"])) {
        autoscaler.set(&["spec", CPU_PERCENT], percent);
    }
    let statuses = take_list(autoscaler, &["status", "currentMetrics"]);
    if let Some(percent) = statuses.iter().filter(|m| is_cpu(m)).filter_map(|m| m.i64_at(&["resource", "current", "averageUtilization"])).next_back() {
        autoscaler.set(&["status", CPU_PERCENT_NOW], percent);
    }
    carry_list(autoscaler, METRICS_ANNOTATION, others.iter().map(|m| metric_to_v1(m, Part::Target)).collect());
    carry_list(autoscaler, STATUSES_ANNOTATION, statuses.iter().map(|m| metric_to_v1(m, Part::Current)).collect());
    let conditions = take_list(autoscaler, &["status", "conditions"]);
    carry_list(autoscaler, CONDITIONS_ANNOTATION, conditions);
    if let Some(behavior) = autoscaler.remove(&["spec", "behavior"]).filter(|b| !b.is_null()) {
        carry(autoscaler, BEHAVIOR_ANNOTATION, go_behavior(&behavior));
    }
    // v2 leaves out a count of nothing, v1 does not.
    default_to(autoscaler.ensure(&["status"]), "currentReplicas", 0);
}

/// v1's utilisation is a metric to v2, and comes back in the annotation, too: whoever sends it owns both.
pub fn carry_measured(autoscaler: &mut Value) {
    if let Some(metric) = autoscaler.at(&["status", CPU_PERCENT_NOW]).filter(|p| !p.is_null()).map(measured_cpu) {
        carry_list(autoscaler, STATUSES_ANNOTATION, vec![metric_to_v1(&metric, Part::Current)]);
    }
}

fn measured_cpu(percent: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})
}

/// From v1 to v2.
pub fn from_v1(autoscaler: &mut Value) {
    let carried = |o: &Value, key: &str| o.str_at(&["metadata", "annotations", key]).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let list = |value: Option<Value>| value.as_ref().and_then(Value::as_array).cloned();
    let mut metrics: Vec<Value> = list(carried(autoscaler, METRICS_ANNOTATION)).unwrap_or_default().iter().map(|m| metric_from_v1(m, Part::Target)).collect();
    let has_others = !metrics.is_empty();
    match autoscaler.remove(&["spec", CPU_PERCENT]).filter(|p| !p.is_null()) {
        Some(percent) => metrics.push(cpu_metric(percent)),
        // A bookmark is an autoscaler of nothing.
        None if !has_others && autoscaler.str_at(&["spec", "scaleTargetRef", "name"]).is_some_and(|n| !n.is_empty()) => metrics.push(cpu_metric(80.into())),
        None => {}
    }
    autoscaler.set(&["spec", "metrics"], metrics);
    if let Some(behavior) = carried(autoscaler, BEHAVIOR_ANNOTATION).map(|b| from_go_behavior(&b)).filter(|b| b.as_object().is_some_and(|m| !m.is_empty())) {
        autoscaler.set(&["spec", "behavior"], behavior);
    }
    let percent_now = autoscaler.remove(&["status", CPU_PERCENT_NOW]).filter(|p| !p.is_null());
    if let Some(statuses) = list(carried(autoscaler, STATUSES_ANNOTATION)) {
        let statuses: Vec<Value> = statuses.iter().map(|m| metric_from_v1(m, Part::Current)).collect();
        autoscaler.set(&["status", "currentMetrics"], statuses);
    } else if let Some(percent) = percent_now {
        autoscaler.set(&["status", "currentMetrics"], vec![measured_cpu(&percent)]);
    }
    if let Some(conditions) = list(carried(autoscaler, CONDITIONS_ANNOTATION)) {
        autoscaler.set(&["status", "conditions"], conditions);
    }
    if is_zero_at(autoscaler, &["status", "currentReplicas"]) {
        autoscaler.remove(&["status", "currentReplicas"]);
    }
    drop_carriers(autoscaler);
}

fn cpu_metric(percent: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["type"]) == Some("Resource") && metric.str_at(&["resource", "name"]) == Some("cpu")
}

fn drop_carriers(autoscaler: &mut Value) {
    let Some(annotations) = autoscaler.at_mut(&["metadata", "annotations"]).and_then(Value::as_object_mut) else { return };
    annotations.retain(|key, _| !CARRIERS.contains(&key.as_str()));
    if annotations.is_empty() {
        autoscaler.remove(&["metadata", "annotations"]);
    }
}

fn take_list(object: &mut Value, path: &[&str]) -> Vec<Value> {
    match object.remove(path) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn carry_list(autoscaler: &mut Value, annotation: &str, list: Vec<Value>) {
    if !list.is_empty() {
        carry(autoscaler, annotation, Value::Array(list).to_string());
    }
}

fn carry(autoscaler: &mut Value, annotation: &str, text: String) {
    object(autoscaler.ensure(&["metadata", "annotations"])).insert(annotation.into(), text.into());
}

/// Whether a metric is what is wanted or what was measured: v1 spells both into the field names.
#[derive(Clone, Copy)]
enum Part {
    Target,
    Current,
}

impl Part {
    fn field(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Current => "current",
        }
    }

    /// `targetValue`, `currentAverageValue`, …
    fn v1(self, name: &str) -> String {
        format!("{}{name}", self.field())
    }
}

/// The key under which a metric of this type stands.
fn source(metric: &Value) -> Option<&'static str> {
    Some(match metric.str_at(&["type"])? {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "External" => "external",
        _ => return None,
    })
}

fn copy(to: &mut Value, key: &str, from: &Value, path: &[&str]) {
    if let Some(value) = from.at(path) {
        to.set(&[key], value.clone());
    }
}

fn metric_to_v1(metric: &Value, part: Part) -> Value {
    let Some((key, from)) = source(metric).and_then(|key| Some((key, metric.at(&[key])?))) else { return metric.clone() };
    let (mut to, values) = (json!({}), part.field());
    match key {
        "resource" | "containerResource" => {
            copy(&mut to, "name", from, &["name"]);
            copy(&mut to, "container", from, &["container"]);
            copy(&mut to, &part.v1("AverageUtilization"), from, &[values, "averageUtilization"]);
            copy(&mut to, &part.v1("AverageValue"), from, &[values, "averageValue"]);
        }
        "pods" => {
            copy(&mut to, "metricName", from, &["metric", "name"]);
            copy(&mut to, "selector", from, &["metric", "selector"]);
            copy(&mut to, &part.v1("AverageValue"), from, &[values, "averageValue"]);
        }
        "object" => {
            copy(&mut to, "target", from, &["describedObject"]);
            copy(&mut to, "metricName", from, &["metric", "name"]);
            copy(&mut to, "selector", from, &["metric", "selector"]);
            copy(&mut to, "averageValue", from, &[values, "averageValue"]);
            let value = from.at(&[values, "value"]).cloned().unwrap_or_else(|| "0".into());
            to.set(&[&part.v1("Value")], value);
        }
        _ => {
            copy(&mut to, "metricName", from, &["metric", "name"]);
            copy(&mut to, "metricSelector", from, &["metric", "selector"]);
            copy(&mut to, &part.v1("Value"), from, &[values, "value"]);
            copy(&mut to, &part.v1("AverageValue"), from, &[values, "averageValue"]);
        }
    }
    let mut out = json!({"type": metric["type"]});
    out.set(&[key], to);
    out
}

fn metric_from_v1(metric: &Value, part: Part) -> Value {
    let Some((key, from)) = source(metric).and_then(|key| Some((key, metric.at(&[key])?))) else { return metric.clone() };
    let (mut to, mut values) = (json!({}), json!({}));
    match key {
        "resource" | "containerResource" => {
            copy(&mut to, "name", from, &["name"]);
            copy(&mut to, "container", from, &["container"]);
            copy(&mut values, "averageUtilization", from, &[&part.v1("AverageUtilization")]);
            copy(&mut values, "averageValue", from, &[&part.v1("AverageValue")]);
        }
        "object" => {
            copy(&mut to, "describedObject", from, &["target"]);
            copy(&mut values, "averageValue", from, &["averageValue"]);
            copy(&mut values, "value", from, &[&part.v1("Value")]);
            if is_set(&values, "averageValue") && values.at(&["value"]).is_some_and(|v| v == "0") {
                values.remove(&["value"]);
            }
        }
        _ => {
            copy(&mut values, "value", from, &[&part.v1("Value")]);
            copy(&mut values, "averageValue", from, &[&part.v1("AverageValue")]);
        }
    }
    if !["resource", "containerResource"].contains(&key) {
        copy(to.ensure(&["metric"]), "name", from, &["metricName"]);
        copy(to.ensure(&["metric"]), "selector", from, &[if key == "external" { "metricSelector" } else { "selector" }]);
    }
    if matches!(part, Part::Target) {
        values.set(&["type"], target_type(key, &values));
    }
    to.set(&[part.field()], values);
    let mut out = json!({"type": metric["type"]});
    out.set(&[key], to);
    out
}

fn target_type(key: &str, values: &Value) -> &'static str {
    match key {
        "resource" | "containerResource" if is_set(values, "averageUtilization") => "Utilization",
        "object" if !is_set(values, "averageValue") => "Value",
        "external" if is_set(values, "value") => "Value",
        _ => "AverageValue",
    }
}

/// Behaviour as Go writes its internal struct: upper-case names, its order, nulls spelled out.
fn go_behavior(behavior: &Value) -> String {
    let null = Value::Null;
    let field = |v: &Value, key: &str| v.at(&[key]).unwrap_or(&null).to_string();
    let policy = |p: &Value| format!("{{\"Type\":{},\"Value\":{},\"PeriodSeconds\":{}}}", field(p, "type"), field(p, "value"), field(p, "periodSeconds"));
    let rules = |key: &str| match behavior.at(&[key]) {
        None => "null".to_owned(),
        Some(r) => {
            let policies =
                r.at(&["policies"]).map_or("null".into(), |_| format!("[{}]", r.list_at(&["policies"]).iter().map(policy).collect::<Vec<_>>().join(",")));
            format!(
                "{{\"StabilizationWindowSeconds\":{},\"SelectPolicy\":{},\"Policies\":{policies},\"Tolerance\":{}}}",
                field(r, "stabilizationWindowSeconds"),
                field(r, "selectPolicy"),
                field(r, "tolerance")
            )
        }
    };
    format!("{{\"ScaleUp\":{},\"ScaleDown\":{}}}", rules("scaleUp"), rules("scaleDown"))
}

/// Lowers the first letter of every key and drops nulls.
fn from_go_behavior(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let lower = |key: &str| key.chars().next().map_or(String::new(), |c| c.to_lowercase().collect::<String>() + &key[c.len_utf8()..]);
            let kept: Map<String, Value> = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (lower(k), from_go_behavior(v))).collect();
            Value::Object(kept)
        }
        Value::Array(list) => list.iter().map(from_go_behavior).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1_cannot_say_travels_in_annotations() {
        let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {
            "minReplicas": 1, "maxReplicas": 3,
            "behavior": {"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            ]}, "status": {"conditions": [{"type": "AbleToScale", "status": "True"}]}});
        let v1 = crate::convert(v2.clone(), "autoscaling", "v1").unwrap();
        assert_eq!(v1["spec"], json!({"minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}));
        assert_eq!(v1["metadata"]["annotations"][METRICS_ANNOTATION], json!(r#"[{"pods":{"metricName":"m","targetAverageValue":"1"},"type":"Pods"}]"#));
        assert_eq!(crate::convert(v1, "autoscaling", "v2").unwrap(), v2);
    }

    #[test]
    fn a_plain_v1_autoscaler_is_about_cpu() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70}});
        let v2 = crate::convert(v1, "autoscaling", "v2").unwrap();
        assert_eq!(v2["spec"], json!({"maxReplicas": 3, "metrics": [cpu_metric(70.into())]}));
    }
}
