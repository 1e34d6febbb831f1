//! The table row of a HorizontalPodAutoscaler (upstream: `printHorizontalPodAutoscaler`).

use jiff::Timestamp;
use knarr_core::{Value, ValueExt};

use crate::cells::{NONE, UNKNOWN, UNSET, age, int_or_string, name, number, quantity, text};

/// How many metrics a cell shows before it says "more".
const METRICS_SHOWN: usize = 2;

/// Cells of an object in version `autoscaling/v2`.
pub fn cells(autoscaler: &Value, now: Timestamp) -> Vec<Value> {
    let target = |key| text(autoscaler, &["spec", "scaleTargetRef", key]);
    vec![
        name(autoscaler),
        format!("{}/{}", target("kind"), target("name")).into(),
        metrics(autoscaler).into(),
        int_or_string(autoscaler.at(&["spec", "minReplicas"]), UNSET).into(),
        number(autoscaler, &["spec", "maxReplicas"]).into(),
        number(autoscaler, &["status", "currentReplicas"]).into(),
        age(autoscaler, now),
    ]
}

fn metrics(autoscaler: &Value) -> String {
    let current = autoscaler.list_at(&["status", "currentMetrics"]);
    let shown: Vec<String> = autoscaler.list_at(&["spec", "metrics"]).iter().enumerate().map(|(i, metric)| one(metric, current.get(i))).collect();
    match shown.len() {
        0 => NONE.into(),
        n if n > METRICS_SHOWN => format!("{} + {} more...", shown[..METRICS_SHOWN].join(", "), n - METRICS_SHOWN),
        _ => shown.join(", "),
    }
}

fn one(metric: &Value, status: Option<&Value>) -> String {
    let key = match text(metric, &["type"]) {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let status = status.and_then(|s| s.at(&[key]));
    let target = |field: &str| metric.at(&[key, "target", field]);
    let current = |field: &str| status.and_then(|s| s.at(&["current", field]));
    let amount = |field: &str| if status.is_some() { int_or_string(current(field), "0") } else { UNKNOWN.into() };
    let wanted = |field: &str| quantity(metric, &[key, "target", field]);
    match key {
        "pods" => format!("{}/{}", amount("averageValue"), wanted("averageValue")),
        "external" | "object" if target("averageValue").is_some() => {
            format!("{}/{} (avg)", int_or_string(current("averageValue"), UNKNOWN), wanted("averageValue"))
        }
        "external" | "object" => format!("{}/{}", amount("value"), wanted("value")),
        _ => {
            let resource = text(metric, &[key, "name"]);
            let percent = |value: Option<&Value>, otherwise: &str| value.map_or(otherwise.to_owned(), |v| format!("{v}%"));
            if target("averageValue").is_some() {
                format!("{resource}: {}/{}", amount("averageValue"), wanted("averageValue"))
            } else {
                format!("{resource}: {}/{}", percent(current("averageUtilization"), UNKNOWN), percent(target("averageUtilization"), "<auto>"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    #[test]
    fn metrics_show_current_and_target() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "100m"}}});
        let hpa = json!({"spec": {"metrics": [cpu, pods, cpu]}, "status": {"currentMetrics": [{"type": "Resource", "resource": {"current": {"averageUtilization": 50}}}]}});
        assert_eq!(metrics(&hpa), "cpu: 50%/80%, <unknown>/100m + 1 more...");
    }
}
