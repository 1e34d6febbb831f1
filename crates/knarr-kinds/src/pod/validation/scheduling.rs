//! Tolerations, gates and the spread over domains.

use std::collections::BTreeSet;

use knarr_core::field::{Error, ErrorList};
use knarr_core::names;

use super::Options;
use crate::at::At;
use crate::metadata::label_selector;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Upstream: `ValidateTolerations`.
pub fn tolerations(list: &At, e: &mut ErrorList) {
    for toleration in list.items() {
        let (key, operator, effect) = (toleration.get("key"), toleration.get("operator"), toleration.get("effect"));
        key.optional_name(e, names::is_qualified_name);
        if key.is_empty() && operator.str() != "Exists" {
            e.push(operator.invalid("operator must be Exists when `key` is empty, which means \"match all values and all keys\""));
        }
        if toleration.get("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            e.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        let value = toleration.str_of("value");
        match operator.str() {
            "" | "Equal" => {
                let problems = names::is_label_value(value);
                if !problems.is_empty() {
                    e.push(operator.invalid_as(value, problems.join(";")));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => e.push(operator.invalid_as(value, "value must be empty when `operator` is 'Exists'")),
            "Lt" | "Gt" => e.push(operator.not_supported(&["Equal", "Exists", "Lt", "Gt"])),
            _ => e.push(operator.not_supported(&["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            taint_effect(&effect, e);
        }
    }
}

/// What a taint does to pods that do not tolerate it.
pub fn taint_effect(effect: &At, e: &mut ErrorList) {
    effect.one_of(e, &EFFECTS);
}

pub fn readiness_gates(gates: &At, e: &mut ErrorList) {
    for gate in gates.items() {
        let kind = gate.get("conditionType");
        kind.problems(e, names::is_qualified_name(kind.str()));
    }
}

pub fn gates(gates: &At, e: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.str_of("name");
        e.extend(names::is_qualified_name(name).into_iter().map(|p| gate.invalid_as(name, p)));
        if !seen.insert(name) {
            e.push(gate.duplicate_as(name));
        }
    }
}

/// Upstream: `validateTopologySpreadConstraints`.
pub fn topology_spread(constraints: &At, options: &Options, e: &mut ErrorList) {
    for (i, constraint) in constraints.items().enumerate() {
        constraint.get("maxSkew").positive(e);
        let (key, action) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if key.is_empty() {
            e.push(key.required("can not be empty"));
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action.str()) {
            e.push(action.not_supported(&["DoNotSchedule", "ScheduleAnyway"]));
        }
        let again = constraints.items().skip(i + 1).any(|c| c.str_of("topologyKey") == key.str() && c.str_of("whenUnsatisfiable") == action.str());
        if again {
            let place = constraint.shown_as("{topologyKey, whenUnsatisfiable}", None);
            e.push(place.duplicate_as(format!("{{{}, {}}}", key.str(), action.str())));
        }
        min_domains(&constraint.get("minDomains"), action.str(), e);
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            constraint.get(policy).if_set_one_of(e, &["Honor", "Ignore"]);
        }
        if options.old_violates_match_label_keys {
            match_label_keys(&constraint, e);
        } else {
            label_selector_keys(&constraint, e);
        }
        if !options.invalid_topology_spread_selectors {
            let selector = constraint.get("labelSelector");
            e.extend(label_selector(selector.value(), &selector.path()));
        }
    }
}

fn min_domains(domains: &At, action: &str, e: &mut ErrorList) {
    if domains.is_set() {
        domains.positive(e);
        if action != "DoNotSchedule" {
            e.push(domains.invalid(format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}")));
        }
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` beside a selector (upstream: `ValidateMatchLabelKeysAndMismatchLabelKeys`).
pub fn label_selector_keys(term: &At, e: &mut ErrorList) {
    let (selector, keys, others) = (term.get("labelSelector"), term.get("matchLabelKeys"), term.get("mismatchLabelKeys"));
    for list in [&keys, &others] {
        if list.is_empty() {
            continue;
        }
        if !selector.is_set() {
            e.push(list.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        for key in list.items() {
            key.problems(e, names::is_qualified_name(key.str()));
        }
    }
    let labels = selector.get("matchLabels");
    let mut selected: BTreeSet<&str> = labels.entries().map(|(key, _)| key).collect();
    let expressions = selector.get("matchExpressions");
    for key in expressions.value().and_then(knarr_core::Value::as_array).into_iter().flatten().filter_map(|x| x.get("key")?.as_str()) {
        let listed = keys.strings().collect::<Vec<_>>().iter().rposition(|k| *k == key);
        if let Some(i) = listed.filter(|_| selected.contains(key)) {
            e.push(term.index(i).invalid_as(key, "exists in both matchLabelKeys and labelSelector"));
        }
        selected.insert(key);
    }
    for key in keys.items().filter(|k| others.strings().any(|o| o == k.str())) {
        e.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
    }
}

/// The older rule (upstream: `ValidateMatchLabelKeysInTopologySpread`).
fn match_label_keys(constraint: &At, e: &mut ErrorList) {
    let (selector, keys) = (constraint.get("labelSelector"), constraint.get("matchLabelKeys"));
    if keys.is_empty() {
        return;
    }
    if !selector.is_set() {
        e.push(keys.forbidden("must not be specified when labelSelector is not set"));
    }
    let expressions = selector.get("matchExpressions");
    for key in keys.items() {
        key.problems(e, names::is_qualified_name(key.str()));
        let selected = selector.get("matchLabels").key(key.str()).is_set() || expressions.items().any(|x| x.str_of("key") == key.str());
        if selected {
            e.push(Error::invalid(&key.path(), key.str(), "exists in both matchLabelKeys and labelSelector"));
        }
    }
}
