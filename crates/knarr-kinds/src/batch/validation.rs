//! The spec of Jobs (upstream: `pkg/apis/batch/validation`).

use knarr_core::field::{Error, ErrorList, go_quote};
use knarr_core::{Value, ValueExt, names};

use super::indexes;
use super::job::{CONTROLLER_UID_LABELS, JOB_NAME_LABELS};
use crate::at::At;
use crate::pod::validation::{self, Options};
use crate::rules;

const INDEXED: &str = "Indexed";
const MANAGED_BY_MAX: i64 = 63;
const RULES_MAX: i64 = 20;
const EXIT_CODES_MAX: i64 = 255;
const PATTERNS_MAX: i64 = 20;
const INDEX_TEXT_MAX: i64 = 64 * 1024;
const PARALLELISM_MAX: i64 = 100_000;
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_WITH_MANY_COMPLETIONS: i64 = 10_000;

/// Everything about a Job but its selector.
pub fn spec(spec: &At, options: &Options, e: &mut ErrorList) {
    for field in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "backoffLimitPerIndex", "maxFailedIndexes"]
    {
        spec.get(field).nonnegative(e);
    }
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        e.push(spec.get("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    managed_by(&spec.get("managedBy"), e);
    completion_mode(spec, e);
    failure_policy(spec, e);
    success_policy(spec, e);
    replacement_policy(spec, e);
    let template = spec.get("template");
    validation::template(&template, options, e);
    restart_policy(spec, &template, e);
}

fn managed_by(place: &At, e: &mut ErrorList) {
    if place.is_set() {
        domain_prefixed_path(place, e);
        if place.str().len() as i64 > MANAGED_BY_MAX {
            e.push(place.too_long(MANAGED_BY_MAX));
        }
    }
}

/// `example.com/something` (upstream: `IsDomainPrefixedPath`).
pub fn domain_prefixed_path(place: &At, e: &mut ErrorList) {
    if place.is_empty() {
        e.push(place.required(""));
        return;
    }
    let Some((host, path)) = place.str().split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) else {
        e.push(place.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    e.extend(names::is_dns1123_subdomain(host).into_iter().map(|p| place.invalid_as(host, p)));
    e.extend(rules::http_path(path).into_iter().map(|p| place.invalid_as(path, p)));
}

fn completion_mode(spec: &At, e: &mut ErrorList) {
    let mode = spec.get("completionMode");
    mode.if_set_one_of(e, &["NonIndexed", INDEXED]);
    let (limit, failed) = (spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"));
    if mode.str() == INDEXED {
        indexed(spec, e);
    } else if !mode.is_set() || mode.str() == "NonIndexed" {
        for place in [limit, failed].iter().filter(|p| p.is_set()) {
            e.push(place.invalid("requires indexed completion mode"));
        }
    }
}

fn indexed(spec: &At, e: &mut ErrorList) {
    let (completions, parallelism, failed) = (spec.get("completions"), spec.get("parallelism"), spec.get("maxFailedIndexes"));
    if !completions.is_set() {
        e.push(completions.required("when completion mode is Indexed"));
    }
    if parallelism.int() > PARALLELISM_MAX {
        e.push(parallelism.invalid(format!("must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed")));
    }
    if completions.is_set() && failed.is_set() && failed.int() > completions.int() {
        e.push(failed.invalid("must be less than or equal to completions"));
    }
    if failed.int() > PARALLELISM_MAX {
        e.push(failed.invalid(format!("must be less than or equal to {PARALLELISM_MAX}")));
    }
    if completions.int() <= MANY_COMPLETIONS || !spec.get("backoffLimitPerIndex").is_set() {
        return;
    }
    if !failed.is_set() {
        e.push(failed.required(&format!("must be specified when completions is above {MANY_COMPLETIONS}")));
    }
    for place in [parallelism, failed] {
        if place.int() > MAX_WITH_MANY_COMPLETIONS {
            let text = "must be less than or equal to";
            e.push(
                place
                    .invalid(format!("{text} {MAX_WITH_MANY_COMPLETIONS} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index")),
            );
        }
    }
}

/// What upstream's `%q` of a list prints.
fn valid(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|v| go_quote(v)).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

/// One of these; a missing one is told which there are.
fn one_of(place: &At, values: &[&str], e: &mut ErrorList) {
    if place.str().is_empty() {
        e.push(place.required(&valid(values)));
    } else {
        place.if_set_one_of(e, values);
    }
}

fn failure_policy(spec: &At, e: &mut ErrorList) {
    let policy = spec.get("podFailurePolicy");
    let rules = policy.get("rules");
    if rules.len() as i64 > RULES_MAX {
        e.push(rules.too_many(RULES_MAX));
    }
    for rule in rules.items() {
        failure_rule(spec, &rule, e);
    }
}

fn failure_rule(spec: &At, rule: &At, e: &mut ErrorList) {
    let action = rule.get("action");
    if action.str() != "FailIndex" {
        one_of(&action, &["Count", "FailIndex", "FailJob", "Ignore"], e);
    } else if !spec.get("backoffLimitPerIndex").is_set() {
        e.push(action.invalid("requires the backoffLimitPerIndex to be set"));
    }
    let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
    if codes.is_set() {
        exit_codes(spec, &codes, e);
    }
    if conditions.len() as i64 > PATTERNS_MAX {
        e.push(conditions.too_many(PATTERNS_MAX));
    }
    for pattern in conditions.items() {
        pattern.get("type").problems(e, names::is_qualified_name(pattern.str_of("type")));
        one_of(&pattern.get("status"), &["False", "True", "Unknown"], e);
    }
    match (codes.is_set(), !conditions.is_empty()) {
        (true, true) => e.push(without_value(rule, "specifying both OnExitCodes and OnPodConditions is not supported")),
        (false, false) => e.push(without_value(rule, "specifying one of OnExitCodes and OnPodConditions is required")),
        _ => {}
    }
}

/// An error that leaves its value out.
pub fn without_value(place: &At, detail: &str) -> Error {
    Error::invalid_omitted(&place.path(), detail)
}

fn exit_codes(spec: &At, codes: &At, e: &mut ErrorList) {
    one_of(&codes.get("operator"), &["In", "NotIn"], e);
    let container = codes.get("containerName");
    let template = spec.get("template");
    let pod = template.get("spec");
    let named = |kind: &'static str| pod.get(kind).items().any(|c| c.str_of("name") == container.str());
    if container.is_set() && !named("containers") && !named("initContainers") {
        e.push(container.invalid("must be one of the container or initContainer names in the pod template"));
    }
    let values = codes.get("values");
    if values.is_empty() {
        e.push(values.invalid_as(Value::Null, "at least one value is required"));
    } else if values.len() as i64 > EXIT_CODES_MAX {
        e.push(values.too_many(EXIT_CODES_MAX));
    }
    let all: Vec<i64> = values.items().map(|v| v.int()).collect();
    for (i, value) in values.items().enumerate() {
        if codes.str_of("operator") == "In" && value.int() == 0 {
            e.push(value.invalid("must not be 0 for the In operator"));
        }
        if all[..i].contains(&value.int()) {
            e.push(value.duplicate());
        }
    }
    if !all.is_sorted() {
        e.push(values.invalid("must be ordered"));
    }
}

fn success_policy(spec: &At, e: &mut ErrorList) {
    let policy = spec.get("successPolicy");
    if !policy.is_set() {
        return;
    }
    if spec.str_of("completionMode") != INDEXED {
        e.push(policy.invalid("requires indexed completion mode"));
        return;
    }
    let rules = policy.get("rules");
    if rules.is_empty() {
        e.push(rules.required("at least one rules must be specified when the successPolicy is specified"));
    }
    if rules.len() as i64 > RULES_MAX {
        e.push(rules.too_many(RULES_MAX));
    }
    let completions = spec.get("completions").int();
    for rule in rules.items() {
        success_rule(&rule, completions, e);
    }
}

fn success_rule(rule: &At, completions: i64, e: &mut ErrorList) {
    let (count, list) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
    if !count.is_set() && !list.is_set() {
        e.push(rule.required("at least one of succeededCount or succeededIndexes must be specified"));
    }
    if list.str().len() as i64 > INDEX_TEXT_MAX {
        e.push(list.too_long(INDEX_TEXT_MAX));
    }
    let total = indexes::count(list.str(), completions).unwrap_or_else(|problem| {
        e.push(list.invalid(format!("error parsing succeededIndexes: {problem}")));
        0
    });
    if !count.is_set() {
        return;
    }
    count.nonnegative(e);
    if count.int() > completions {
        e.push(count.invalid(format!("must be less than or equal to {completions} (the number of specified completions)")));
    }
    if list.is_set() && count.int() > total {
        e.push(count.invalid(format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)")));
    }
}

fn replacement_policy(spec: &At, e: &mut ErrorList) {
    let policies: &[&str] = if spec.get("podFailurePolicy").is_set() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    spec.get("podReplacementPolicy").if_set_one_of(e, policies);
}

fn restart_policy(spec: &At, template: &At, e: &mut ErrorList) {
    let pod = template.get("spec");
    let policy = pod.get("restartPolicy");
    match policy.str() {
        "" | "Always" => e.push(policy.required("valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" if spec.get("podFailurePolicy").is_set() => e.push(policy.invalid("only \"Never\" is supported when podFailurePolicy is specified")),
        "OnFailure" => {}
        _ => e.push(policy.not_supported(&["OnFailure", "Never"])),
    }
}

/// The selector of a Job, given or made.
pub fn selector(spec: &At, lenient: bool, e: &mut ErrorList) {
    let selector = spec.get("selector");
    if !selector.is_set() {
        e.push(selector.required(""));
    }
    selector.label_selector_ratcheting(lenient, e);
    let template = spec.get("template");
    if let Some(matcher) = crate::apps::validation::matcher(spec, "", &mut ErrorList::new()) {
        let metadata = template.get("metadata");
        let labels = metadata.get("labels");
        if !matcher.matches(labels.value()) {
            e.push(labels.invalid_as(labels.value().cloned().unwrap_or_default(), "`selector` does not match template `labels`"));
        }
    }
}

/// A selector that was made is the Job's own.
pub fn generated_selector(root: &At, e: &mut ErrorList) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let selector = spec.get("selector");
    if spec.get("manualSelector").bool() || !selector.is_set() {
        return;
    }
    let (name, uid) = (metadata.str_of("name"), metadata.str_of("uid"));
    let template = spec.get("template");
    let template_metadata = template.get("metadata");
    let labels = template_metadata.get("labels");
    let mut expected = knarr_core::Map::new();
    for (keys, value) in [(CONTROLLER_UID_LABELS, uid), (JOB_NAME_LABELS, name)] {
        for key in keys {
            has_label(&labels, key, value, e);
            expected.insert(key.into(), value.into());
        }
    }
    if let Some(matcher) = crate::apps::validation::matcher(&spec, "", &mut ErrorList::new())
        && !matcher.matches(Some(&Value::Object(expected)))
    {
        e.push(selector.invalid("`selector` not auto-generated"));
    }
}

fn has_label(labels: &At, key: &str, value: &str, e: &mut ErrorList) {
    let label = labels.key(key);
    if !label.is_set() {
        e.push(label.required(&format!("must be '{value}'")));
    } else if label.str() != value {
        e.push(label.invalid_as(labels.value().cloned().unwrap_or_default(), format!("must be '{value}'")));
    }
}

/// Pods of an indexed Job are called after it and their index.
pub fn name_allows_completions(root: &At, e: &mut ErrorList) {
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let completions = spec.get("completions").int();
    if spec.str_of("completionMode") == INDEXED && completions > 0 {
        let name = metadata.get("name");
        let last = format!("{}-{}", name.str(), completions - 1);
        if !names::is_dns1123_label(&last).is_empty() {
            e.push(name.invalid(format!("will not able to create pod with invalid DNS label: {last}")));
        }
    }
}

/// Warnings about a Job's spec.
pub fn warn(spec: &At, out: &mut Vec<String>) {
    let many = spec.get("completions").int() > MANY_COMPLETIONS && spec.get("parallelism").int() > MAX_WITH_MANY_COMPLETIONS;
    if spec.str_of("completionMode") == INDEXED && many {
        let text = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
        out.push(format!("{}: {text}", spec.path()));
    }
    crate::pod::warnings::of_template(&spec.get("template"), out);
}

/// What the template of the old Job may keep.
pub fn template_options(old_spec: Option<&Value>) -> Options {
    Options::of_template(old_spec.map(|o| o.at(&["template"]).unwrap_or(&Value::Null)))
}
