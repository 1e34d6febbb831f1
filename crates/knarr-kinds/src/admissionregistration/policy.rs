//! What admission policies and their bindings must look like (upstream: `pkg/apis/admissionregistration/validation`).

use knarr_cel::admission::{Compiled, Composition, Declarations, Schemas, environment};
use knarr_cel::parser::is_reserved;
use knarr_cel::{Type, mutation};
use knarr_core::field::ErrorList;
use knarr_core::names::{is_dns1035_label, is_dns1123_subdomain, is_qualified_name};
use knarr_core::{Value, ValueExt};

use super::webhook::{match_conditions, rule_with_operations};
use crate::at::At;

/// Most audit annotations of a policy.
const ANNOTATIONS_MAX: usize = 20;
/// Longest expression of an audit annotation.
const ANNOTATION_EXPRESSION_MAX: usize = 5 << 10;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

/// Validates a policy; `old` on update.
pub fn validate(root: &At, old: Option<&Value>, mutating: bool, e: &mut ErrorList) {
    let spec = root.get("spec");
    set_one_of(&spec.get("failurePolicy"), &["Fail", "Ignore"], e);
    let param_kind = spec.get("paramKind");
    if param_kind.is_set() {
        self::param_kind(&param_kind, e);
    }
    constraints(&spec, mutating, e);
    let declared = Declarations { params: param_kind.is_set(), authorizer: true, patch_types: false, composed: false };
    let same = |key: &str| old.is_some_and(|old| spec.get(key).same(old.at(&["spec", key])));
    if !(same("matchConditions") && same("paramKind")) {
        match_conditions(&spec.get("matchConditions"), declared, e);
    }
    let declared = Declarations { patch_types: mutating, composed: spec.get("variables").len() > 0, ..declared };
    let mut composition = Composition::default();
    for variable in spec.get("variables").items() {
        self::variable(&variable, &mut composition, declared, e);
    }
    if mutating { mutations(&spec, &composition, declared, e) } else { validations(root, &spec, &composition, declared, e) }
}

/// A pointer to a text: absent it is missing, empty it is wrong.
fn set_one_of(text: &At, supported: &[&str], e: &mut ErrorList) {
    if text.is_set() {
        text.if_set_one_of(e, supported);
    } else {
        e.push(text.required(""));
    }
}

fn constraints(spec: &At, mutating: bool, e: &mut ErrorList) {
    let constraints = spec.get("matchConstraints");
    if !constraints.is_set() {
        return e.push(constraints.required(""));
    }
    match_resources(&constraints, e);
    let rules = constraints.get("resourceRules");
    if rules.len() == 0 {
        e.push(rules.required(""));
    }
    if mutating {
        operations(&rules, e);
    }
}

/// Only what brings an object can be changed. Upstream does not name the rule.
fn operations(rules: &At, e: &mut ErrorList) {
    const SUPPORTED: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
    for operation in rules.items().flat_map(|r| r.get("operations").strings().collect::<Vec<_>>()).filter(|o| !SUPPORTED.contains(o)) {
        let value = Value::from(operation);
        e.push(rules.shown_as("operations", Some(&value)).not_supported(&SUPPORTED));
    }
}

fn param_kind(kind: &At, e: &mut ErrorList) {
    let (api_version, name) = (kind.get("apiVersion"), kind.get("kind"));
    let text = api_version.str();
    match text.split('/').collect::<Vec<_>>()[..] {
        _ if text.is_empty() => e.push(api_version.required("")),
        _ if text.matches('/').count() > 1 => e.push(api_version.invalid(format!("unexpected GroupVersion string: {text}"))),
        [group, ""] => {
            group_problems(&api_version, group, e);
            e.push(api_version.invalid("version must be specified"));
        }
        [group, version] => {
            group_problems(&api_version, group, e);
            version_problems(&api_version, version, e);
        }
        _ => version_problems(&api_version, text, e),
    }
    if name.is_empty() {
        return e.push(name.required(""));
    }
    let problems = is_dns1035_label(&name.str().to_lowercase());
    if !problems.is_empty() {
        e.push(name.invalid(format!("may have mixed case, but should otherwise match: {}", problems.join(","))));
    }
}

fn group_problems(at: &At, group: &str, e: &mut ErrorList) {
    let problems = if group.is_empty() { Vec::new() } else { is_dns1123_subdomain(group) };
    if !problems.is_empty() {
        e.push(at.invalid_as(group, problems.join(",")));
    }
}

fn version_problems(at: &At, version: &str, e: &mut ErrorList) {
    let problems = is_dns1035_label(version);
    if !problems.is_empty() {
        e.push(at.invalid_as(version, problems.join(",")));
    }
}

fn match_resources(resources: &At, e: &mut ErrorList) {
    set_one_of(&resources.get("matchPolicy"), &["Equivalent", "Exact"], e);
    for key in ["namespaceSelector", "objectSelector"] {
        let selector = resources.get(key);
        if selector.is_set() { selector.label_selector(e) } else { e.push(selector.required("")) }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.get(key).items() {
            named_rule(&rule, e);
        }
    }
}

fn named_rule(rule: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for name in rule.get("resourceNames").items() {
        path_segment(&name, e);
        if seen.contains(&name.str()) {
            e.push(name.duplicate());
        }
        seen.push(name.str());
    }
    rule_with_operations(rule, &super::webhook::OPERATIONS, e);
}

fn path_segment(name: &At, e: &mut ErrorList) {
    let text = name.str();
    if text == "." || text == ".." {
        return e.push(name.invalid(format!("may not be '{text}'")));
    }
    for illegal in ["/", "%"].into_iter().filter(|c| text.contains(c)) {
        e.push(name.invalid(format!("may not contain '{illegal}'")));
    }
}

fn is_identifier(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    starts && name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric()) && !is_reserved(name)
}

fn variable(variable: &At, composition: &mut Composition, declared: Declarations, e: &mut ErrorList) {
    let (name, expression) = (variable.get("name"), variable.get("expression"));
    match name.str() {
        text if text.trim().is_empty() => e.push(name.required("name is not specified")),
        text if !is_identifier(text) => e.push(name.invalid("must be a valid CEL identifier")),
        _ => {}
    }
    if expression.str().trim().is_empty() {
        return e.push(expression.required("expression is not specified"));
    }
    composition.add(name.str(), expression.str(), declared, &Schemas::default());
    if let Some(why) = composition.variables.last().and_then(|(_, c)| c.program.as_ref().err()) {
        e.push(expression.invalid(why.clone()));
    }
}

/// What is wrong with an expression, at its place.
fn compile(at: &At, text: &str, composition: &Composition, declared: Declarations, results: &[Type], e: &mut ErrorList) {
    let env = environment(declared, &composition.types, &Schemas::default());
    if let Err(why) = Compiled::new(text, &env, results).program {
        e.push(at.invalid_as(text, why));
    }
}

fn validations(root: &At, spec: &At, composition: &Composition, declared: Declarations, e: &mut ErrorList) {
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.len() == 0 && annotations.len() == 0 {
        const NONE: &str = "validations or auditAnnotations must contain at least one item";
        e.push(validations.required(NONE));
        return e.push(annotations.required(NONE));
    }
    for validation in validations.items() {
        self::validation(&validation, composition, declared, e);
    }
    if annotations.len() > ANNOTATIONS_MAX {
        e.push(annotations.invalid(format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations")));
    }
    let mut keys: Vec<&str> = Vec::new();
    for annotation in annotations.items() {
        audit_annotation(root, &annotation, composition, declared, e);
        let key = annotation.get("key");
        if keys.contains(&key.str()) {
            e.push(key.duplicate());
        }
        keys.push(key.str());
    }
}

fn validation(validation: &At, composition: &Composition, declared: Declarations, e: &mut ErrorList) {
    let expression = validation.get("expression");
    if expression.str().trim().is_empty() {
        e.push(expression.required("expression is not specified"));
    } else {
        compile(&expression, expression.str(), composition, declared, &[Type::Bool], e);
    }
    let made = validation.get("messageExpression");
    if !made.is_empty() && made.str().trim().is_empty() {
        e.push(made.invalid("must be non-empty if specified"));
    } else if !made.is_empty() {
        compile(&made, made.str(), composition, Declarations { authorizer: false, ..declared }, &[Type::String], e);
    }
    let message = validation.get("message");
    if !message.is_empty() && message.str().trim().is_empty() {
        e.push(message.invalid("must be non-empty if specified"));
    } else if message.str().trim().contains(['\n', '\r']) {
        e.push(message.invalid("must not contain line breaks"));
    }
    validation.get("reason").if_set_one_of(e, &REASONS);
}

fn audit_annotation(root: &At, annotation: &At, composition: &Composition, declared: Declarations, e: &mut ErrorList) {
    let (key, expression) = (annotation.get("key"), annotation.get("valueExpression"));
    match root.get("metadata").str_of("name") {
        "" => e.push(key.invalid("requires metadata.name be non-empty")),
        name => {
            let full = format!("{name}/{}", key.str());
            is_qualified_name(&full).into_iter().for_each(|why| e.push(key.invalid_as(full.as_str(), why)));
        }
    }
    match expression.str().trim() {
        "" => e.push(expression.required("valueExpression is not specified")),
        text if text.len() > ANNOTATION_EXPRESSION_MAX => {
            e.push(expression.required(&format!("must not exceed {ANNOTATION_EXPRESSION_MAX} bytes in length")));
        }
        text => compile(&expression, text, composition, declared, &[Type::String, Type::Null], e),
    }
}

fn mutations(spec: &At, composition: &Composition, declared: Declarations, e: &mut ErrorList) {
    let declared = Declarations { composed: true, ..declared };
    let mutations = spec.get("mutations");
    if mutations.len() == 0 {
        e.push(mutations.required("mutations must contain at least one item"));
    }
    for mutation in mutations.items() {
        let patch_type = mutation.get("patchType");
        let (own, other, result) = match patch_type.str() {
            "JSONPatch" => ("jsonPatch", "applyConfiguration", mutation::patches()),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch", mutation::object()),
            _ => {
                patch_type.one_of(e, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        let (own, other_at) = (mutation.get(own), mutation.get(other));
        let expression = own.get("expression");
        match (own.is_set(), expression.str().trim()) {
            (false, _) => e.push(own.required(&format!("must be specified when patchType is {}", patch_type.str()))),
            (true, "") => e.push(expression.required("")),
            (true, text) => compile(&expression, text, composition, declared, &[result], e),
        }
        if other_at.is_set() {
            e.push(other_at.invalid_as(format!("{{{other}}}"), format!("must not be specified when patchType is {}", patch_type.str())));
        }
    }
    spec.get("reinvocationPolicy").one_of(e, &["IfNeeded", "Never"]);
}

/// Validates a binding of either kind.
pub fn validate_binding(root: &At, mutating: bool, e: &mut ErrorList) {
    let spec = root.get("spec");
    let name = spec.get("policyName");
    if name.is_empty() {
        e.push(name.required(""));
    } else {
        name.problems(e, is_dns1123_subdomain(name.str()));
    }
    let reference = spec.get("paramRef");
    if reference.is_set() {
        param_ref(&reference, e);
    }
    let resources = spec.get("matchResources");
    if resources.is_set() {
        match_resources(&resources, e);
        if mutating {
            operations(&resources.get("resourceRules"), e);
        }
    }
    if !mutating {
        actions(&spec.get("validationActions"), e);
    }
}

fn param_ref(reference: &At, e: &mut ErrorList) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let (name, selector) = (reference.get("name"), reference.get("selector"));
    if !name.is_empty() {
        path_segment(&name, e);
        if selector.is_set() {
            e.push(name.forbidden(EXCLUSIVE));
        }
    }
    if selector.is_set() {
        selector.label_selector(e);
        if !name.is_empty() {
            e.push(selector.forbidden(EXCLUSIVE));
        }
    }
    if name.is_empty() && !selector.is_set() {
        e.push(reference.required("one of name or selector must be specified"));
    }
    reference.get("parameterNotFoundAction").one_of(e, &["Deny", "Allow"]);
}

fn actions(actions: &At, e: &mut ErrorList) {
    let mut seen: Vec<&str> = Vec::new();
    for action in actions.items() {
        action.if_set_one_of(e, &["Audit", "Deny", "Warn"]);
        if seen.contains(&action.str()) {
            e.push(action.duplicate());
        }
        seen.push(action.str());
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
        e.push(actions.invalid(
            "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        ));
    }
    if seen.is_empty() {
        e.push(actions.required(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::at;
    use knarr_core::json;

    fn found(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        let constraints = json!({"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}, "resourceRules": [rule]});
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"failurePolicy": "Fail", "matchConstraints": constraints,
            "validations": [{"expression": "object.spec.replicas > 1"}]}});
        change(&mut policy["spec"]);
        at::check(&policy, |root, e| validate(root, None, false, e)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_told_in_its_place() {
        assert!(found(|_| {}).is_empty());
        assert_eq!(found(|s| s["matchConstraints"]["resourceRules"] = json!([])), ["spec.matchConstraints.resourceRules: Required value"]);
        assert_eq!(found(|s| s["validations"] = json!([])).len(), 2);
        let wrong = found(|s| s["validations"] = json!([{"expression": "1"}]));
        assert_eq!(wrong, ["spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool but got int"]);
        let wrong = found(|s| s["variables"] = json!([{"name": "a-b", "expression": "x +"}]));
        assert_eq!(wrong[0], "spec.variables[0].name: Invalid value: \"a-b\": must be a valid CEL identifier");
        assert!(wrong[1].starts_with("spec.variables[0].expression: Invalid value: \"x +\": compilation failed: "), "{wrong:?}");
        assert!(found(|s| s["validations"] = json!([{"expression": "params.x == 1"}]))[0].contains("undeclared reference to 'params'"));
    }

    #[test]
    fn a_binding_names_actions_and_one_kind_of_reference() {
        let binding = json!({"spec": {"policyName": "p", "validationActions": ["Deny", "Deny"], "paramRef": {"parameterNotFoundAction": "Deny"}}});
        let found: Vec<String> = at::check(&binding, |root, e| validate_binding(root, false, e)).iter().map(ToString::to_string).collect();
        let wanted = ["spec.paramRef: Required value: one of name or selector must be specified", "spec.validationActions[1]: Duplicate value: \"Deny\""];
        assert_eq!(found, wanted);
    }
}
