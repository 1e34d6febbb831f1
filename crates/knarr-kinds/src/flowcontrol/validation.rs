//! What FlowSchemas and PriorityLevelConfigurations must be (upstream: `pkg/apis/flowcontrol/validation`).

use knarr_core::{Value, ValueExt, field::ErrorList, json, names};

use crate::at::At;
use crate::semantic;

const EXEMPT: &str = "exempt";
const CATCH_ALL: &str = "catch-all";
const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a flow's hash that dealing its queues may use up.
const HASH_BITS_MAX: i64 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub fn flow_schema(root: &At, e: &mut ErrorList) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let name = metadata.str_of("name");
    precedence(name, &spec.get("matchingPrecedence"), e);
    let (method, level) = (spec.get("distinguisherMethod"), spec.get("priorityLevelConfiguration"));
    if method.is_set() {
        let kind = method.get("type");
        if !["ByNamespace", "ByUser"].contains(&kind.str()) {
            e.push(kind.not_supported(&["ByNamespace", "ByUser"]));
        }
    }
    let reference = level.get("name");
    if reference.str().is_empty() {
        e.push(reference.required("must reference a priority level"));
    } else {
        reference.problems(e, names::is_dns1123_subdomain(reference.str()));
    }
    spec.get("rules").items().for_each(|rule| policy_rule(&rule, e));
    if let Some(fixed) = mandatory_schema(name)
        && !semantic::same(spec.value(), Some(&fixed))
    {
        e.push(spec.invalid(format!("spec of '{name}' must equal the fixed value")));
    }
    conditions(root, e);
}

fn precedence(name: &str, precedence: &At, e: &mut ErrorList) {
    if precedence.int() <= 0 {
        e.push(precedence.invalid_as(precedence.int(), "must be a positive value"));
    }
    if precedence.int() > PRECEDENCE_MAX {
        e.push(precedence.invalid(format!("must not be greater than {PRECEDENCE_MAX}")));
    }
    if precedence.int() == 1 && name != EXEMPT {
        e.push(precedence.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
    }
}

fn policy_rule(rule: &At, e: &mut ErrorList) {
    let (subjects, resources, paths) = (rule.get("subjects"), rule.get("resourceRules"), rule.get("nonResourceRules"));
    if subjects.len() == 0 {
        e.push(subjects.required("subjects must contain at least one value"));
    }
    subjects.items().for_each(|s| subject(&s, e));
    if resources.len() == 0 && paths.len() == 0 {
        e.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    resources.items().for_each(|r| resource_rule(&r, e));
    paths.items().for_each(|r| path_rule(&r, e));
}

/// The kinds of subjects, each with the field that tells which.
const SUBJECTS: [(&str, &str); 3] = [("User", "user"), ("Group", "group"), ("ServiceAccount", "serviceAccount")];

fn subject(subject: &At, e: &mut ErrorList) {
    let kind = subject.get("kind");
    let Some((kind, field)) = SUBJECTS.iter().find(|(k, _)| *k == kind.str()) else {
        return e.push(kind.not_supported(&["Group", "ServiceAccount", "User"]));
    };
    let told = subject.get(field);
    if !told.is_set() {
        e.push(told.required(&format!("{field} is required when subject kind is '{kind}'")));
    } else if *kind == "ServiceAccount" {
        account(&told, e);
    } else if told.str_of("name").is_empty() {
        e.push(told.get("name").required(""));
    }
    // Upstream looks at the others in an order of its own.
    let others = match *kind {
        "ServiceAccount" => ["user", "group"],
        "User" => ["serviceAccount", "group"],
        _ => ["serviceAccount", "user"],
    };
    for other in others.iter().filter(|other| subject.get(other).is_set()) {
        let kind = SUBJECTS.iter().find(|(_, f)| f == other).map_or("", |(k, _)| k);
        e.push(subject.get(other).forbidden(format!("{other} is forbidden when subject kind is not '{kind}'")));
    }
}

fn account(account: &At, e: &mut ErrorList) {
    let (name, namespace) = (account.get("name"), account.get("namespace"));
    match name.str() {
        "" => e.push(name.required("")),
        "*" => {}
        text => name.problems(e, names::is_dns1123_subdomain(text)),
    }
    match namespace.str() {
        "" => e.push(namespace.required("must specify namespace for service account")),
        text => namespace.problems(e, names::is_dns1123_label(text)),
    }
}

fn verbs(rule: &At, e: &mut ErrorList) {
    let verbs = rule.get("verbs");
    if verbs.len() == 0 {
        e.push(verbs.required("verbs must contain at least one value"));
    } else if !alone(&verbs, "verbs", e) && !verbs.strings().all(|v| VERBS.contains(&v)) {
        e.push(verbs.not_supported(&VERBS));
    }
}

/// Whether the list has the wildcard, which stands alone.
fn alone(list: &At, what: &str, e: &mut ErrorList) -> bool {
    let wild = list.strings().any(|s| s == "*");
    if wild && list.len() > 1 {
        e.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
    }
    wild
}

fn resource_rule(rule: &At, e: &mut ErrorList) {
    verbs(rule, e);
    for (field, none, what) in [
        ("apiGroups", "resource rules must supply at least one api group", "api groups"),
        ("resources", "resource rules must supply at least one resource", "resources"),
    ] {
        let list = rule.get(field);
        if list.len() == 0 {
            e.push(list.required(none));
        } else {
            alone(&list, what, e);
        }
    }
    let namespaces = rule.get("namespaces");
    if namespaces.len() == 0 && !rule.get("clusterScope").bool() {
        e.push(namespaces.required("resource rules that are not cluster scoped must supply at least one namespace"));
    } else if !alone(&namespaces, "namespaces", e) {
        for namespace in namespaces.items() {
            let problems = names::is_dns1123_label(namespace.str()).into_iter();
            namespace.problems(e, problems.map(|p| format!("each member of this list must be '*' or a DNS-1123 label; {p}")).collect());
        }
    }
}

fn path_rule(rule: &At, e: &mut ErrorList) {
    verbs(rule, e);
    let urls = rule.get("nonResourceURLs");
    if urls.len() == 0 {
        e.push(urls.required("nonResourceURLs must contain at least one value"));
    } else if !alone(&urls, "non-resource URLs", e) {
        for url in urls.items() {
            url.problems(e, path_problem(url.str()).map(str::to_owned).into_iter().collect());
        }
    }
}

fn path_problem(path: &str) -> Option<&'static str> {
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        p if !p.starts_with('/') => Some("must start with slash"),
        p if p.contains(' ') => Some("must not contain white-space"),
        p if p.contains("//") => Some("must not contain double slash"),
        p if p.strip_suffix("/*").unwrap_or(p).contains('*') => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

/// Conditions have types, each once. Also the rule of a write to `status`.
pub fn conditions(root: &At, e: &mut ErrorList) {
    let status = root.get("status");
    let mut seen = Vec::new();
    for condition in status.get("conditions").items() {
        let kind = condition.get("type");
        if seen.contains(&kind.str()) {
            e.push(kind.duplicate());
        }
        seen.push(kind.str());
        if kind.str().is_empty() {
            e.push(kind.required(""));
        }
    }
}

pub fn priority_level(root: &At, e: &mut ErrorList) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let name = metadata.str_of("name");
    const ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";
    let annotations = metadata.get("annotations");
    if annotations.key(ZERO).is_set() {
        e.push(annotations.forbidden(format!("annotation '{ZERO}' is forbidden")));
    }
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (name == EXEMPT) != (kind.str() == "Exempt") {
        e.push(kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match kind.str() {
        "Exempt" => {
            if limited.is_set() {
                e.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            shares(&exempt, e);
            percent(&exempt.get("lendablePercent"), e);
        }
        "Limited" => {
            if exempt.is_set() {
                e.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                level_limits(&limited, e);
            } else {
                e.push(limited.required("must not be empty when type is Limited"));
            }
        }
        "" => e.push(kind.required("")),
        _ => e.push(kind.not_supported(&["Exempt", "Limited"])),
    }
    mandatory_level(name, &spec, e);
    conditions(root, e);
}

fn shares(of: &At, e: &mut ErrorList) {
    let shares = of.get("nominalConcurrencyShares");
    if shares.int() < 0 {
        e.push(shares.invalid("must be a non-negative integer"));
    }
}

fn percent(percent: &At, e: &mut ErrorList) {
    if !(0..=100).contains(&percent.int()) {
        e.push(percent.invalid("must be between 0 and 100, inclusive"));
    }
}

fn level_limits(limited: &At, e: &mut ErrorList) {
    shares(limited, e);
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.str() {
        "Reject" if queuing.is_set() => e.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited")),
        "Reject" => {}
        "Queue" if queuing.is_set() => queues(&queuing, e),
        "Queue" => e.push(queuing.required("must not be empty if limited.limitResponse.type is Limited")),
        "" => e.push(kind.required("")),
        _ => e.push(kind.not_supported(&["Queue", "Reject"])),
    }
    percent(&limited.get("lendablePercent"), e);
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.int() < 0 {
        e.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
}

fn queues(queuing: &At, e: &mut ErrorList) {
    let (length, queues, hand) = (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    let positive = |at: &At, e: &mut ErrorList| {
        let good = at.int() > 0;
        if !good {
            e.push(at.invalid_as(at.int(), "must be positive"));
        }
        good
    };
    positive(&length, e);
    if positive(&queues, e) && queues.int() > QUEUES_MAX {
        e.push(queues.invalid(format!("must not be greater than {QUEUES_MAX}")));
    }
    if !positive(&hand, e) {
        return;
    }
    let entropy = ((queues.int() as f64).log2() * hand.int() as f64).ceil() as i64;
    if hand.int() > queues.int() {
        e.push(hand.invalid(format!("should not be greater than queues ({})", queues.int())));
    } else if entropy > HASH_BITS_MAX {
        let sizes = format!("deckSize {} and handSize {}", queues.int(), hand.int());
        e.push(hand.invalid(format!("required entropy bits of {sizes} should not be greater than {HASH_BITS_MAX}")));
    }
}

/// The specs that nobody may change.
fn mandatory_schema(name: &str) -> Option<Value> {
    let groups = |names: &[&str]| names.iter().map(|n| json!({"kind": "Group", "group": {"name": n}})).collect::<Value>();
    let rule = |subjects: Value| {
        json!([{"subjects": subjects,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}])
    };
    match name {
        EXEMPT => Some(json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {"name": EXEMPT}, "rules": rule(groups(&["system:masters"]))})),
        CATCH_ALL => Some(json!({"matchingPrecedence": PRECEDENCE_MAX, "priorityLevelConfiguration": {"name": CATCH_ALL},
            "distinguisherMethod": {"type": "ByUser"}, "rules": rule(groups(&["system:unauthenticated", "system:authenticated"]))})),
        _ => None,
    }
}

/// Of the exempt level the administrator may set how its seats are counted, of the other nothing.
fn mandatory_level(name: &str, spec: &At, e: &mut ErrorList) {
    let mut have = spec.value().cloned().unwrap_or_default();
    let (fixed, but) = match name {
        EXEMPT => {
            have.remove(&["exempt"]);
            (json!({"type": "Exempt"}), " except the 'spec.exempt' field")
        }
        CATCH_ALL => {
            let limited = json!({"nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}});
            (json!({"type": "Limited", "limited": limited}), "")
        }
        _ => return,
    };
    if !semantic::same(Some(&have), Some(&fixed)) {
        e.push(spec.invalid(format!("spec of '{name}'{but} must equal the fixed value")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::at;

    fn texts(object: &Value, rules: fn(&At, &mut ErrorList)) -> Vec<String> {
        at::check(object, rules).iter().map(ToString::to_string).collect()
    }

    fn schema(name: &str, spec: Value) -> Vec<String> {
        texts(&json!({"metadata": {"name": name}, "spec": spec}), flow_schema)
    }

    fn level(name: &str, spec: Value) -> Vec<String> {
        texts(&json!({"metadata": {"name": name}, "spec": spec}), priority_level)
    }

    #[test]
    fn the_mandatory_objects_are_what_they_are() {
        assert_eq!(schema(EXEMPT, mandatory_schema(EXEMPT).unwrap()), [] as [String; 0]);
        let mut changed = mandatory_schema(CATCH_ALL).unwrap();
        changed.set(&["matchingPrecedence"], 9999);
        assert!(schema(CATCH_ALL, changed)[0].ends_with("spec of 'catch-all' must equal the fixed value"));
        assert_eq!(level(EXEMPT, json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 9, "lendablePercent": 10}})), [] as [String; 0]);
        assert_eq!(level(EXEMPT, json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}})).len(), 2);
    }

    #[test]
    fn what_is_wrong_with_a_schema_is_told_by_field() {
        let wrong = json!({"matchingPrecedence": 1, "priorityLevelConfiguration": {}, "rules": [{
            "subjects": [{"kind": "User", "group": {"name": "g"}}, {"kind": "Nobody"}, {"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}],
            "resourceRules": [{"verbs": ["*", "get"], "apiGroups": [], "resources": ["*", "pods"]}],
            "nonResourceRules": [{"verbs": ["connect"], "nonResourceURLs": ["x", "/a*/b"]}]}]});
        let wanted = [
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
            "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            "spec.rules[0].subjects[1].kind: Unsupported value: \"Nobody\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            "spec.rules[0].subjects[2].serviceAccount.namespace: Required value: must specify namespace for service account",
            "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
            "spec.rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "spec.rules[0].resourceRules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources",
            "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
        ];
        let found = schema("s", wrong);
        assert_eq!(found[..wanted.len()], wanted);
        assert!(found[10].starts_with("spec.rules[0].nonResourceRules[0].verbs: Unsupported value"), "{found:?}");
        assert!(found[11].ends_with("must start with slash") && found[12].ends_with("wildcard can only do suffix matching"), "{found:?}");
    }

    #[test]
    fn what_is_wrong_with_a_level_is_told_by_field() {
        let queuing = |queues: i64, hand: i64| {
            let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 1});
            level("l", json!({"type": "Limited", "limited": {"lendablePercent": 101, "limitResponse": {"type": "Queue", "queuing": queuing}}}))
        };
        let lent = "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive";
        let hand = "spec.limited.limitResponse.queuing.handSize: Invalid value";
        assert_eq!(queuing(8, 8), [lent]);
        assert_eq!(queuing(4, 8), [format!("{hand}: 8: should not be greater than queues (4)"), lent.to_owned()]);
        assert_eq!(
            queuing(1000, 7),
            [format!("{hand}: 7: required entropy bits of deckSize 1000 and handSize 7 should not be greater than 60"), lent.to_owned()]
        );
        assert_eq!(level("l", json!({"type": "Limited"})), ["spec.limited: Required value: must not be empty when type is Limited"]);
        assert_eq!(level("l", json!({})), ["spec.type: Required value"]);
    }
}
