//! What webhook configurations must look like (upstream: `pkg/apis/admissionregistration/validation`, and
//! `apiserver/pkg/util/webhook` for places). Definitions of custom resources share the rules for places.

use std::collections::BTreeMap;

use knarr_cel::admission::{Declarations, MatchConditions};
use knarr_core::field::ErrorList;
use knarr_core::names::{is_dns1035_label, is_dns1123_subdomain, is_qualified_name};
use knarr_core::{Value, ValueExt};

use crate::at::At;
use crate::metadata::has_invalid_label_value;
use crate::rules::port_number;
use crate::tree::strings;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
pub(super) const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const FORM: &str = "; desired format: https://host[/path]";

/// What an update may leave wrong because it was wrong before.
#[derive(Clone, Copy, Default)]
struct Leniency {
    side_effects: bool,
    review_versions: bool,
    same_names: bool,
    label_values: bool,
}

impl Leniency {
    fn of(old: &Value) -> Self {
        let all = old.list_at(&["webhooks"]);
        let side_effects = |w: &Value| matches!(w.str_at(&["sideEffects"]), Some("None" | "NoneOnDryRun"));
        let speaks =
            |w: &Value| w.list_at(&["admissionReviewVersions"]).is_empty() || strings(w, &["admissionReviewVersions"]).any(|v| REVIEW_VERSIONS.contains(&v));
        let names: Vec<&str> = all.iter().filter_map(|w| w.str_at(&["name"])).collect();
        let bad_label = |w: &Value| has_invalid_label_value(w.at(&["namespaceSelector"])) || has_invalid_label_value(w.at(&["objectSelector"]));
        Self {
            side_effects: !all.iter().all(side_effects),
            review_versions: !all.iter().all(speaks),
            same_names: (1..names.len()).any(|i| names[..i].contains(&names[i])),
            label_values: all.iter().any(bad_label),
        }
    }
}

/// Validates a whole configuration; `old` on update.
pub fn validate(root: &At, old: Option<&Value>, mutating: bool, e: &mut ErrorList) {
    let lenient = old.map(Leniency::of).unwrap_or_default();
    let webhooks = root.get("webhooks");
    let mut names: Vec<&str> = Vec::new();
    let conditions = |configuration: &Value| configuration.list_at(&["webhooks"]).iter().map(|w| w.at(&["matchConditions"]).cloned()).collect::<Vec<_>>();
    let new = webhooks.items().map(|w| w.get("matchConditions").value().cloned()).collect::<Vec<_>>();
    let keeps_conditions = old.is_some_and(|old| conditions(old) == new);
    for webhook in webhooks.items() {
        validate_one(&webhook, lenient, mutating, e);
        if !keeps_conditions {
            match_conditions(&webhook.get("matchConditions"), Declarations { authorizer: true, ..Declarations::default() }, e);
        }
        review_versions(&webhook.get("admissionReviewVersions"), lenient.review_versions, e);
        let name = webhook.str_of("name");
        if !lenient.same_names && !name.is_empty() {
            if names.contains(&name) {
                e.push(webhook.get("name").duplicate());
            }
            names.push(name);
        }
    }
}

fn validate_one(webhook: &At, lenient: Leniency, mutating: bool, e: &mut ErrorList) {
    fully_qualified(&webhook.get("name"), e);
    for rule in webhook.get("rules").items() {
        rule_with_operations(&rule, &OPERATIONS, e);
    }
    webhook.get("failurePolicy").if_set_one_of(e, &["Fail", "Ignore"]);
    webhook.get("matchPolicy").if_set_one_of(e, &["Equivalent", "Exact"]);
    let classes: &[&str] = if lenient.side_effects { &["None", "NoneOnDryRun", "Some", "Unknown"] } else { &["None", "NoneOnDryRun"] };
    let side_effects = webhook.get("sideEffects");
    match side_effects.is_set() {
        false => e.push(side_effects.required(&format!("must specify one of {}", classes.join(", ")))),
        true if !classes.contains(&side_effects.str()) => e.push(side_effects.not_supported(classes)),
        true => {}
    }
    let timeout = webhook.get("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.int()) {
        e.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        webhook.get(selector).label_selector_ratcheting(lenient.label_values, e);
    }
    if mutating {
        webhook.get("reinvocationPolicy").if_set_one_of(e, &["IfNeeded", "Never"]);
    }
    client_config(&webhook.get("clientConfig"), e);
}

/// Most conditions of one webhook or policy.
const CONDITIONS_MAX: i64 = 64;

/// Named expressions that compile to a boolean.
pub(super) fn match_conditions(conditions: &At, declared: Declarations, e: &mut ErrorList) {
    if conditions.len() as i64 > CONDITIONS_MAX {
        e.push(conditions.too_many(CONDITIONS_MAX));
    }
    let list = conditions.value().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let compiled = MatchConditions::new(list, declared);
    let problems: BTreeMap<usize, &str> = compiled.errors().collect();
    let mut names: Vec<&str> = Vec::new();
    for (i, condition) in conditions.items().enumerate() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        match (expression.str().trim(), problems.get(&i)) {
            ("", _) => e.push(expression.required("")),
            (text, Some(why)) => e.push(expression.invalid_as(text, *why)),
            _ => {}
        }
        name.name(e, is_qualified_name);
        if !name.is_empty() && names.contains(&name.str()) {
            e.push(name.duplicate());
        }
        names.push(name.str());
    }
}

/// `IsFullyQualifiedName`: a name of at least three parts.
fn fully_qualified(name: &At, e: &mut ErrorList) {
    let text = name.str();
    if text.is_empty() {
        return e.push(name.required(""));
    }
    let problems = is_dns1123_subdomain(text);
    if !problems.is_empty() {
        return e.push(name.invalid(problems.join(",")));
    }
    if text.split('.').count() < 3 {
        e.push(name.invalid("should be a domain with at least three segments separated by dots"));
    }
}

fn review_versions(versions: &At, lenient: bool, e: &mut ErrorList) {
    let known = REVIEW_VERSIONS.join(", ");
    if versions.len() == 0 {
        return e.push(versions.required(&format!("must specify one of {known}")));
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in versions.items() {
        if seen.contains(&version.str()) {
            e.push(version.invalid("duplicate version"));
            continue;
        }
        seen.push(version.str());
        version.problems(e, is_dns1035_label(version.str()));
    }
    if !lenient && !seen.iter().any(|v| REVIEW_VERSIONS.contains(v)) {
        e.push(versions.invalid(format!("must include at least one of {known}")));
    }
}

/// A `RuleWithOperations`, whose operations are among those given.
pub fn rule_with_operations(rule: &At, supported: &[&str], e: &mut ErrorList) {
    let operations = rule.get("operations");
    wildcards(&operations, "operations", e);
    for operation in operations.items().filter(|o| !supported.contains(&o.str())) {
        e.push(operation.not_supported(supported));
    }
    wildcards(&rule.get("apiGroups"), "API groups", e);
    let versions = rule.get("apiVersions");
    wildcards(&versions, "API versions", e);
    for version in versions.items().filter(|v| v.str().is_empty()) {
        e.push(version.required(""));
    }
    resources(&rule.get("resources"), e);
    rule.get("scope").if_set_one_of(e, &["*", "Cluster", "Namespaced"]);
}

/// Required; `*` stands alone.
fn wildcards(list: &At, what: &str, e: &mut ErrorList) {
    if list.len() == 0 {
        e.push(list.required(""));
    }
    if list.len() > 1 && list.strings().any(|s| s == "*") {
        e.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
    }
}

fn resources(list: &At, e: &mut ErrorList) {
    if list.len() == 0 {
        e.push(list.required(""));
    }
    let (mut any_sub, mut any_resource): (Vec<&str>, Vec<&str>) = Default::default();
    let mut plain = false;
    for item in list.items() {
        let text = item.str();
        if text.is_empty() {
            e.push(item.required(""));
            continue;
        }
        let Some((resource, sub)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if any_sub.contains(&resource) {
            e.push(item.invalid(format!("if '{resource}/*' is present, must not specify {text}")));
        }
        if any_resource.contains(&sub) {
            e.push(item.invalid(format!("if '*/{sub}' is present, must not specify {text}")));
        }
        if sub == "*" {
            any_sub.push(resource);
        }
        if resource == "*" {
            any_resource.push(sub);
        }
    }
    if list.len() > 1 && list.strings().any(|s| s == "*/*") {
        e.push(list.invalid("if '*/*' is present, must not specify other resources"));
    }
    if plain && list.strings().any(|s| s == "*") {
        e.push(list.invalid("if '*' is present, must not specify other resources without subresources"));
    }
}

/// Either `url` or `service`.
pub fn client_config(config: &At, e: &mut ErrorList) {
    let (place, service) = (config.get("url"), config.get("service"));
    match (place.is_set(), service.is_set()) {
        (true, false) => url(&place, e),
        (false, true) => self::service(&service, e),
        _ => e.push(config.required("exactly one of url or service is required")),
    }
}

fn url(place: &At, e: &mut ErrorList) {
    let (scheme, rest) = place.str().split_once("://").unwrap_or(("", place.str()));
    if scheme != "https" {
        e.push(place.invalid_as(scheme, format!("'https' is the only allowed URL scheme{FORM}")));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() { "" } else { rest.split('/').next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        e.push(place.invalid_as(host, format!("host must be specified{FORM}")));
    }
    if let Some(user) = user {
        e.push(place.invalid_as(user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        e.push(place.invalid_as(fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        e.push(place.invalid_as(query, "query parameters are not permitted in the URL"));
    }
}

fn service(service: &At, e: &mut ErrorList) {
    // Upstream takes the one for the other.
    for (shown, looked_at) in [("name", "namespace"), ("namespace", "name")] {
        if service.get(looked_at).is_empty() {
            e.push(service.get(shown).required(""));
        }
    }
    let port = service.get("port");
    let problems = port_number(port.int());
    if !problems.is_empty() {
        e.push(port.invalid(format!("port is not valid: {}", problems.join(", "))));
    }
    let path = service.get("path");
    match path.str() {
        "" | "/" => return,
        "//" => return e.push(path.invalid("segment[0] may not be empty")),
        text if !text.starts_with('/') => e.push(path.invalid("must start with a '/'")),
        _ => {}
    }
    let mut chars = path.str().chars();
    chars.next();
    let steps = chars.as_str();
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            e.push(path.invalid(format!("segment[{i}] may not be empty")));
            continue;
        }
        is_dns1123_subdomain(step).into_iter().for_each(|why| e.push(path.invalid(format!("segment[{i}]: {why}"))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::at;
    use knarr_core::json;

    fn found(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut configuration = json!({"webhooks": [{
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "n", "name": "s", "port": 443}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        }]});
        change(&mut configuration["webhooks"][0]);
        at::check(&configuration, |root, e| validate(root, None, true, e)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        assert!(found(|_| {}).is_empty());
        assert_eq!(
            found(|w| w.set(&["name"], "a.b")),
            ["webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"]
        );
        assert_eq!(
            found(|w| w.set(&["sideEffects"], "Some")),
            ["webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""]
        );
        assert_eq!(
            found(|w| w.set(&["timeoutSeconds"], 31)),
            ["webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"]
        );
        assert_eq!(found(|w| w.set(&["clientConfig"], json!({}))), ["webhooks[0].clientConfig: Required value: exactly one of url or service is required"]);
        assert_eq!(
            found(|w| w.set(&["clientConfig"], json!({"url": "http://x?y"}))),
            [
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "webhooks[0].clientConfig.url: Invalid value: \"y\": query parameters are not permitted in the URL",
            ]
        );
        assert_eq!(
            found(|w| w
                .set(&["rules"], json!([{"operations": ["*", "CREATE"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods/*", "pods/status"]}]))),
            [
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
                "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            ]
        );
        let bad = found(|w| w.set(&["matchConditions"], json!([{"name": "a", "expression": "request.name =="}, {"name": "a", "expression": "true"}])));
        assert!(bad[0].starts_with("webhooks[0].matchConditions[0].expression: Invalid value: \"request.name ==\": compilation failed: "), "{bad:?}");
        assert_eq!(bad[1..], ["webhooks[0].matchConditions[1].name: Duplicate value: \"a\""]);
        assert_eq!(
            found(|w| w.set(&["admissionReviewVersions"], json!(["v2"]))),
            ["webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1"]
        );
    }
}
