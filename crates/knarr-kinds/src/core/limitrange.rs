//! LimitRanges (upstream: `pkg/registry/core/limitrange`).

use std::collections::BTreeSet;

use crate::cells::{Cells, created_at, name};
use jiff::Timestamp;
use knarr_core::field::ErrorList;
use knarr_core::quantity::Quantity;
use knarr_core::{Map, Value, ValueExt, names};

use crate::at::{self, At};
use crate::resource_names::{container_resource, is_overcommit_allowed, resource};
use crate::separation;
use crate::strategy::{Context, Shape, Strategy};
use crate::tree::{each, is_zero_at, object, round_amounts};

pub struct LimitRange;

impl Strategy for LimitRange {
    fn shape(&self) -> Shape {
        Shape::PLAIN.create_on_update().judges_prefix_again()
    }

    fn default(&self, range: &mut Value) {
        each(range, &["spec", "limits"], |item| {
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                round_amounts(item, &[list]);
            }
            if item.str_at(&["type"]) == Some("Container") {
                default_container(item);
            }
        });
    }

    fn prepare_for_create(&self, cx: &Context<'_>, range: &mut Value) {
        separation::create(self.shape(), range);
        if is_zero_at(range, &["metadata", "name"]) {
            range.set(&["metadata", "name"], cx.env.uuid());
        }
    }

    fn validate_create(&self, _cx: &Context<'_>, range: &Value) -> ErrorList {
        at::check(range, |root, e| limits(&root.get("spec").get("limits"), e))
    }

    fn validate_update(&self, cx: &Context<'_>, range: &Value, _old: &Value) -> ErrorList {
        self.validate_create(cx, range)
    }

    fn cells(&self, range: &Value, _now: Timestamp) -> Cells {
        Some(vec![name(range), created_at(range)])
    }
}

/// A limit defaults to the maximum, a request to the limit or else to the minimum.
fn default_container(item: &mut Value) {
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let amounts: Map<String, Value> = item.at(&[from]).and_then(Value::as_object).cloned().unwrap_or_default();
        if amounts.is_empty() {
            continue;
        }
        let target = object(item.ensure(&[to]));
        for (name, amount) in amounts {
            target.entry(name).or_insert(amount);
        }
    }
}

/// The lists of amounts of one limit.
const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn limits(list: &At, e: &mut ErrorList) {
    let mut kinds: Vec<&str> = Vec::new();
    for limit in list.items() {
        let kind = limit.get("type");
        limit_type(&kind, e);
        if kinds.contains(&kind.str()) {
            e.push(kind.duplicate());
        }
        kinds.push(kind.str());
        limit_resources(&limit, e);
    }
}

fn limit_type(kind: &At, e: &mut ErrorList) {
    let problems = names::is_qualified_name(kind.str());
    if problems.is_empty() && !kind.str().contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind.str()) {
        e.push(kind.invalid("must be a standard limit type or fully qualified"));
    }
    kind.problems(e, problems);
}

fn limit_resources(limit: &At, e: &mut ErrorList) {
    let kind = limit.str_of("type");
    let rule = if matches!(kind, "Pod" | "Container") { container_resource } else { resource };
    let mut resources: BTreeSet<&str> = BTreeSet::new();
    for list in LISTS {
        let amounts = limit.get(list);
        if kind == "Pod" && matches!(list, "default" | "defaultRequest") {
            if !amounts.is_empty() {
                e.push(amounts.forbidden("may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, place) in amounts.value().and_then(Value::as_object).into_iter().flatten().map(|(name, _)| (name.as_str(), amounts.key(name))) {
            rule(name, &place, e);
            resources.insert(name);
        }
    }
    if kind == "PersistentVolumeClaim" && !limit.get("min").key("storage").is_set() && !limit.get("max").key("storage").is_set() {
        e.push(limit.get("limits").required("either minimum or maximum storage value is required, but neither was provided"));
    }
    resources.into_iter().for_each(|name| bounds(limit, name, e));
}

/// min ≤ defaultRequest ≤ default ≤ max, for one resource.
fn bounds(limit: &At, name: &str, e: &mut ErrorList) {
    let is_pod = limit.str_of("type") == "Pod";
    let read = |list: &'static str| limit.get(list).key(name).value().and_then(Quantity::from_json);
    let default_of = |list| if is_pod { None } else { read(list) };
    let (min, max, default, request) = (read("min"), read("max"), default_of("default"), default_of("defaultRequest"));
    let mut ordered = |low: &Option<Quantity>, high: &Option<Quantity>, words: [&str; 2], list: &'static str, shown: &Option<Quantity>| {
        if let (Some(low), Some(high), Some(shown)) = (low, high, shown)
            && low > high
        {
            let text = format!("{} value {low} is greater than {} value {high}", words[0], words[1]);
            e.push(limit.get(list).key(name).invalid_as(shown.to_string(), text));
        }
    };
    ordered(&min, &max, ["min", "max"], "min", &min);
    ordered(&min, &request, ["min", "default request"], "defaultRequest", &request);
    ordered(&request, &max, ["default request", "max"], "defaultRequest", &request);
    ordered(&request, &default, ["default request", "default limit"], "defaultRequest", &request);
    ordered(&min, &default, ["min", "default"], "default", &min);
    ordered(&default, &max, ["default", "max"], "default", &max);
    ratio(limit, name, min.as_ref(), max.as_ref(), e);
    if let (Some(default), Some(request)) = (&default, &request)
        && default != request
        && !is_overcommit_allowed(name)
    {
        let text = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        e.push(limit.get("defaultRequest").key(name).invalid_as(request.to_string(), text));
    }
}

/// How much more than the request a limit may be.
fn ratio(limit: &At, name: &str, min: Option<&Quantity>, max: Option<&Quantity>, e: &mut ErrorList) {
    let list = limit.get("maxLimitRequestRatio");
    let place = list.key(name);
    let Some(ratio) = place.value().and_then(Quantity::from_json) else { return };
    if ratio < Quantity::from_millis(1000) {
        e.push(place.invalid_as(ratio.to_string(), format!("ratio {ratio} is less than 1")));
    }
    let (Some(min), Some(max)) = (min, max) else { return };
    let most = max.millis() as f64 / min.millis() as f64;
    if ratio.millis() as f64 / 1000.0 > most {
        let most = if most.is_infinite() { "+Inf".to_owned() } else { format!("{most:.6}") };
        e.push(place.invalid_as(ratio.to_string(), format!("ratio {ratio} is greater than max/min = {most}")));
    }
}
