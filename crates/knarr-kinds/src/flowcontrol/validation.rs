//! Validation of FlowSchemas and PriorityLevelConfigurations (upstream: `pkg/apis/flowcontrol/validation`).

use std::collections::BTreeSet;

use knarr_core::field::ErrorList;
use knarr_core::{Value, json, names};

use crate::at::{At, check, range_text};

const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits that a hash of a flow has (upstream: `shufflesharding.MaxHashBits`).
const HASH_BITS: u32 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// The schema and the level that nobody may imitate.
const EXEMPT: &str = "exempt";
/// What told versions before `v1` that zero shares are meant.
const ZERO_SHARES: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

/// A FlowSchema, new or changed.
pub fn flow_schema(schema: &Value) -> ErrorList {
    check(schema, |root, e| {
        let spec = root.get("spec");
        precedence(root, &spec.get("matchingPrecedence"), e);
        let method = spec.get("distinguisherMethod");
        let kind = method.get("type");
        if method.is_set() && !["ByNamespace", "ByUser"].contains(&kind.str()) {
            // Upstream shows the struct around it.
            e.push(kind.with_value(Some(&json!({"Type": kind.str()}))).not_supported(&["ByNamespace", "ByUser"]));
        }
        let level = spec.get("priorityLevelConfiguration");
        let level = level.get("name");
        if level.is_empty() {
            e.push(level.required("must reference a priority level"));
        } else {
            level.problems(e, names::is_dns1123_subdomain(level.str()));
        }
        spec.get("rules").items().for_each(|rule| rule_with_subjects(&rule, e));
        if let Some(wanted) = mandatory_schema(root.get("metadata").str_of("name"))
            && !spec.same(Some(&wanted))
        {
            e.push(spec.invalid(format!("spec of '{}' must equal the fixed value", root.get("metadata").str_of("name"))));
        }
        conditions(root, e);
    })
}

fn precedence(root: &At, precedence: &At, e: &mut ErrorList) {
    let number = precedence.int();
    if number <= 0 {
        e.push(precedence.invalid_as(number, "must be a positive value"));
    }
    if number > PRECEDENCE_MAX {
        e.push(precedence.invalid_as(number, format!("must not be greater than {PRECEDENCE_MAX}")));
    }
    if number == 1 && root.get("metadata").str_of("name") != EXEMPT {
        e.push(precedence.invalid_as(number, "only the schema named 'exempt' may have matchingPrecedence 1"));
    }
}

fn rule_with_subjects(rule: &At, e: &mut ErrorList) {
    let (subjects, on_resources, on_paths) = (rule.get("subjects"), rule.get("resourceRules"), rule.get("nonResourceRules"));
    subjects.items().for_each(|s| subject(&s, e));
    if subjects.is_empty() {
        e.push(subjects.required("subjects must contain at least one value"));
    }
    if on_resources.is_empty() && on_paths.is_empty() {
        e.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    on_resources.items().for_each(|r| resource_rule(&r, e));
    on_paths.items().for_each(|r| path_rule(&r, e));
}

/// The field of each kind of subject.
const SUBJECTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(subject: &At, e: &mut ErrorList) {
    let kind = subject.get("kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(name, _)| *name == kind.str()) else {
        e.push(kind.not_supported(&["Group", "ServiceAccount", "User"]));
        return;
    };
    let of = subject.get(own);
    if of.is_set() {
        let name = of.get("name");
        if name.is_empty() {
            e.push(name.required(""));
        } else if *own == "serviceAccount" && name.str() != "*" {
            name.problems(e, names::is_dns1123_subdomain(name.str()));
        }
        if *own == "serviceAccount" {
            let namespace = of.get("namespace");
            if namespace.is_empty() {
                e.push(namespace.required("must specify namespace for service account"));
            } else {
                namespace.problems(e, names::is_dns1123_label(namespace.str()));
            }
        }
    } else {
        e.push(of.required(&format!("{own} is required when subject kind is '{}'", kind.str())));
    }
    for (name, field) in SUBJECTS.iter().filter(|(_, field)| field != own) {
        if subject.get(field).is_set() {
            e.push(subject.get(field).forbidden(format!("{field} is forbidden when subject kind is not '{name}'")));
        }
    }
}

fn has_wildcard(list: &At) -> bool {
    list.strings().any(|s| s == "*")
}

fn verbs(verbs: &At, e: &mut ErrorList) {
    if verbs.is_empty() {
        e.push(verbs.required("verbs must contain at least one value"));
    } else if has_wildcard(verbs) {
        if verbs.len() > 1 {
            e.push(verbs.invalid("if '*' is present, must not specify other verbs"));
        }
    } else if !verbs.strings().all(|v| VERBS.contains(&v)) {
        e.push(verbs.not_supported(&VERBS));
    }
}

fn path_rule(rule: &At, e: &mut ErrorList) {
    verbs(&rule.get("verbs"), e);
    let urls = rule.get("nonResourceURLs");
    if urls.is_empty() {
        e.push(urls.required("nonResourceURLs must contain at least one value"));
    } else if has_wildcard(&urls) {
        if urls.len() > 1 {
            e.push(urls.invalid("if '*' is present, must not specify other non-resource URLs"));
        }
    } else {
        urls.items().for_each(|url| path(&url, e));
    }
}

/// Upstream: `ValidateNonResourceURLPath`.
fn path(path: &At, e: &mut ErrorList) {
    let text = path.str();
    let stars = text.matches('*').count();
    let problem = match () {
        () if text.is_empty() => "must not be empty",
        () if text == "/" => return,
        () if !text.starts_with('/') => "must start with slash",
        () if text.contains(' ') => "must not contain white-space",
        () if text.contains("//") => "must not contain double slash",
        () if stars > 1 || stars == 1 && !text.ends_with("/*") => "wildcard can only do suffix matching",
        () => return,
    };
    e.push(path.invalid(problem));
}

fn resource_rule(rule: &At, e: &mut ErrorList) {
    verbs(&rule.get("verbs"), e);
    for (field, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let list = rule.get(field);
        if list.is_empty() {
            e.push(list.required(&format!("resource rules must supply at least one {one}")));
        } else if list.len() > 1 && has_wildcard(&list) {
            e.push(list.invalid(format!("if '*' is present, must not specify other {many}")));
        }
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() && !rule.get("clusterScope").bool() {
        e.push(namespaces.required("resource rules that are not cluster scoped must supply at least one namespace"));
    } else if has_wildcard(&namespaces) {
        if namespaces.len() > 1 {
            e.push(namespaces.invalid("if '*' is present, must not specify other namespaces"));
        }
    } else {
        for namespace in namespaces.items() {
            let problems = names::is_dns1123_label(namespace.str());
            namespace.problems(e, problems.into_iter().map(|p| format!("each member of this list must be '*' or a DNS-1123 label; {p}")).collect());
        }
    }
}

/// The conditions of either kind.
pub fn conditions(root: &At, e: &mut ErrorList) {
    let mut types = BTreeSet::new();
    for condition in root.get("status").get("conditions").items() {
        let kind = condition.get("type");
        if !types.insert(kind.str()) {
            e.push(kind.duplicate());
        }
        kind.require(e);
    }
}

/// The status of either kind.
pub fn status(object: &Value) -> ErrorList {
    check(object, conditions)
}

/// A PriorityLevelConfiguration, new or changed. What upstream declares comes last.
pub fn priority_level(level: &Value) -> ErrorList {
    let mut declared = ErrorList::new();
    let mut errors = check(level, |root, e| {
        let spec = root.get("spec");
        let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
        let metadata = root.get("metadata");
        let name = metadata.str_of("name");
        let annotations = metadata.get("annotations");
        if annotations.key(ZERO_SHARES).is_set() {
            e.push(annotations.forbidden(format!("annotation '{ZERO_SHARES}' is forbidden")));
        }
        if (name == EXEMPT) != (kind.str() == "Exempt") {
            e.push(kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
        }
        match kind.str() {
            "Exempt" => {
                if exempt.is_set() {
                    shares(&exempt, e);
                    lendable(&exempt, e);
                }
            }
            "Limited" if limited.is_set() => limits(&limited, &mut declared, e),
            "Limited" => {}
            "" => declared.push(kind.required("")),
            _ => e.push(kind.not_supported(&["Exempt", "Limited"])),
        }
        member_of_union(&limited, kind.str() == "Limited", &mut declared);
        if exempt.is_set() && kind.str() != "Exempt" {
            declared.push(exempt.forbidden(""));
        }
        fixed(&spec, name, e);
        conditions(root, e);
    });
    // The type is looked at after its members.
    declared.sort_by_key(|d| d.field.as_str() == "spec.type");
    errors.extend(declared);
    errors
}

/// A field that is there exactly when the type says so.
fn member_of_union(member: &At, wanted: bool, declared: &mut ErrorList) {
    match (member.is_set(), wanted) {
        (true, false) => declared.push(member.forbidden("")),
        (false, true) => declared.push(member.required("")),
        _ => {}
    }
}

fn shares(of: &At, e: &mut ErrorList) {
    let shares = of.get("nominalConcurrencyShares");
    if shares.int() < 0 {
        e.push(shares.invalid("must be a non-negative integer"));
    }
}

fn lendable(of: &At, e: &mut ErrorList) {
    let percent = of.get("lendablePercent");
    if percent.is_set() && !(0..=100).contains(&percent.int()) {
        e.push(percent.invalid(range_text(0, 100)));
    }
}

fn limits(limited: &At, declared: &mut ErrorList, e: &mut ErrorList) {
    shares(limited, e);
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.str() {
        "Queue" if queuing.is_set() => self::queuing(&queuing, e),
        "Queue" | "Reject" | "" => {}
        _ => e.push(kind.not_supported(&["Queue", "Reject"])),
    }
    member_of_union(&queuing, kind.str() == "Queue", declared);
    if kind.is_empty() {
        declared.push(kind.required(""));
    }
    lendable(limited, e);
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.int() < 0 {
        e.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
}

fn queuing(queuing: &At, e: &mut ErrorList) {
    let (length, queues, hand) = (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    if length.int() <= 0 {
        e.push(length.invalid_as(length.int(), "must be positive"));
    }
    if queues.int() <= 0 {
        e.push(queues.invalid_as(queues.int(), "must be positive"));
    } else if queues.int() > QUEUES_MAX {
        e.push(queues.invalid(format!("must not be greater than {QUEUES_MAX}")));
    }
    if hand.int() <= 0 {
        e.push(hand.invalid_as(hand.int(), "must be positive"));
    } else if hand.int() > queues.int() {
        e.push(hand.invalid(format!("should not be greater than queues ({})", queues.int())));
    } else if entropy_bits(queues.int(), hand.int()) > HASH_BITS {
        let why = format!("required entropy bits of deckSize {} and handSize {} should not be greater than {HASH_BITS}", queues.int(), hand.int());
        e.push(hand.invalid(why));
    }
}

/// How many bits it takes to deal a hand (upstream: `shufflesharding.RequiredEntropyBits`).
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    (hand as f64 * (deck as f64).log2()).ceil() as u32
}

/// What of the two mandatory levels may not change.
fn fixed(spec: &At, name: &str, e: &mut ErrorList) {
    match name {
        EXEMPT => {
            let mut others = spec.value().cloned().unwrap_or_default();
            if let Value::Object(map) = &mut others {
                map.remove("exempt");
            }
            if others != json!({"type": "Exempt"}) {
                e.push(spec.invalid("spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"));
            }
        }
        "catch-all" => {
            let wanted = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
            if !spec.same(Some(&wanted)) {
                e.push(spec.invalid("spec of 'catch-all' must equal the fixed value"));
            }
        }
        _ => {}
    }
}

/// The specs of the two mandatory schemas.
fn mandatory_schema(name: &str) -> Option<Value> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let everything = |subjects: Value| {
        json!([{
            "subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    match name {
        EXEMPT => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1, "rules": everything(json!([group("system:masters")])),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"}, "matchingPrecedence": 10_000, "distinguisherMethod": {"type": "ByUser"},
            "rules": everything(json!([group("system:unauthenticated"), group("system:authenticated")])),
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_level_is_checked_in_upstreams_words_and_order() {
        let level = |spec: Value| json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": {"name": "a"}, "spec": spec});
        assert_eq!(
            texts(&priority_level(&level(json!({"type": "", "limited": {"limitResponse": {"type": "Reject"}}})))),
            ["spec.limited: Forbidden", "spec.type: Required value"]
        );
        let queuing = json!({"queues": 2_147_483_647, "handSize": 2, "queueLengthLimit": 10});
        let limited = json!({"limitResponse": {"type": "Queue", "queuing": queuing}});
        assert_eq!(
            texts(&priority_level(&level(json!({"type": "Limited", "limited": limited})))),
            [
                "spec.limited.limitResponse.queuing.queues: Invalid value: 2147483647: must not be greater than 10000000",
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 2: required entropy bits of deckSize 2147483647 and handSize 2 should not be greater than 60"
            ]
        );
    }

    #[test]
    fn a_schema_needs_subjects_rules_and_a_level() {
        let schema = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": "a"},
            "spec": {"matchingPrecedence": 0, "rules": [{}], "priorityLevelConfiguration": {"name": ""}}});
        assert_eq!(
            texts(&flow_schema(&schema)),
            [
                "spec.matchingPrecedence: Invalid value: 0: must be a positive value",
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"
            ]
        );
    }
}
