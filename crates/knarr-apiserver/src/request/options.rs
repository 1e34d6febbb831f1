//! The options of each verb, from the query or (for deletes) the body, and the rules between them
//! (upstream: `metav1.*Options` and their validation).

use std::{borrow::Cow, time::Duration};

use knarr_core::{
    GroupVersionKind, Result, Status, Value, ValueExt,
    api::Options,
    field::{self, Path},
};

use super::query::{Query, parse_bool};

/// Longest allowed `fieldManager`, in bytes.
const FIELD_MANAGER_BYTES_MAX: usize = 128;

/// Reads the query parameters of a verb, as RBAC names it (deletes of one object have [`delete_options_from_query`]). What belongs to other
/// verbs may be anything. `apply` tells that a patch is one.
///
/// # Errors
/// `BadRequest` for a number that is none, `Invalid` for a `dryRun` that is none, with all other broken rules.
pub fn options_from_query(query: &Query, verb: &str, apply: bool) -> Result<Options> {
    if query.is_empty() {
        return Ok(Options::default());
    }
    let text = |key: &str| query.get(key).filter(|v| !v.is_empty()).map(str::to_owned);
    let is_list = matches!(verb, "list" | "watch" | "deletecollection");
    let number = |key: &str| if is_list { number(query, key) } else { Ok(None) };
    let kind = write_options_kind(verb);
    let runs: Vec<&str> = kind.map(|_| query.all("dryRun").collect()).unwrap_or_default();
    let options = Options {
        label_selector: text("labelSelector"),
        field_selector: text("fieldSelector"),
        resource_version: text("resourceVersion"),
        resource_version_match: text("resourceVersionMatch"),
        limit: number("limit")?,
        continue_token: text("continue"),
        timeout: number("timeoutSeconds")?.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0))),
        allow_watch_bookmarks: query.get("allowWatchBookmarks").is_some_and(parse_bool),
        send_initial_events: query.get("sendInitialEvents").map(parse_bool),
        dry_run: !runs.is_empty(),
        field_manager: text("fieldManager"),
        field_validation: text("fieldValidation"),
        force: query.get("force").map(parse_bool),
    };
    match kind {
        Some(kind) if runs.iter().any(|run| *run != "All") => Err(bad_dry_run(&options, (kind, apply), &runs)),
        _ => Ok(options),
    }
}

fn write_options_kind(verb: &str) -> Option<&'static str> {
    match verb {
        "create" => Some("CreateOptions"),
        "update" => Some("UpdateOptions"),
        "patch" => Some("PatchOptions"),
        _ => None,
    }
}

fn number(query: &Query, key: &str) -> Result<Option<i64>> {
    let Some(text) = query.get(key) else { return Ok(None) };
    match text.parse::<i64>() {
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow) => {
            Err(Status::bad_request(format!("strconv.ParseInt: parsing {}: value out of range", field::go_quote(text))))
        }
        Err(_) => Err(Status::bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", field::go_quote(text)))),
    }
}

fn meta_kind(kind: &str) -> GroupVersionKind {
    GroupVersionKind::new("meta.k8s.io", "v1", kind)
}

/// A `dryRun` that is none, told in its place among the other broken rules.
fn bad_dry_run(options: &Options, (kind, apply): (&str, bool), runs: &[&str]) -> Status {
    let mut errors = patch_problems(options, kind, apply);
    errors.extend(manager_problems(options));
    errors.push(field::Error::not_supported(&Path::new("dryRun"), serde_json::json!(runs), &["All"]));
    errors.extend(validation_problem(options));
    Status::invalid(&meta_kind(kind), "", &errors)
}

/// The rules between the options of a list or a watch (upstream: `ValidateListOptions`).
///
/// # Errors
/// `Invalid` with every broken rule.
pub fn validate_list_options(options: &Options, watch: bool) -> Result<()> {
    let errors = if watch { watch_problems(options) } else { list_problems(options) };
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&meta_kind("ListOptions"), "", &errors)) }
}

/// A watch that begins at no version and says nothing of its first state asks for all of it (upstream: `SetListOptionsDefaults`).
pub fn watch_defaults(options: &Options) -> Cow<'_, Options> {
    let said = options.send_initial_events.is_some() || options.resource_version_match.is_some();
    if said || !matches!(options.resource_version.as_deref(), None | Some("" | "0")) {
        return Cow::Borrowed(options);
    }
    let complete = Options { send_initial_events: Some(true), resource_version_match: Some("NotOlderThan".into()), ..options.clone() };
    Cow::Owned(complete)
}

const MATCH: &str = "resourceVersionMatch";

fn list_problems(options: &Options) -> field::ErrorList {
    let (mut errors, path) = (Vec::new(), Path::new(MATCH));
    if let Some(wanted) = &options.resource_version_match {
        if options.resource_version.is_none() {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if options.continue_token.is_some() {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
        }
        if wanted != "Exact" && wanted != "NotOlderThan" {
            errors.push(field::Error::not_supported(&path, wanted.as_str(), &["Exact", "NotOlderThan", ""]));
        }
        if wanted == "Exact" && options.resource_version.as_deref() == Some("0") {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if options.send_initial_events.is_some() {
        errors.push(field::Error::forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list"));
    }
    errors
}

fn watch_problems(options: &Options) -> field::ErrorList {
    let (mut errors, path) = (Vec::new(), Path::new(MATCH));
    let wanted = options.resource_version_match.as_deref();
    if options.send_initial_events.is_some() && wanted != Some("NotOlderThan") {
        errors.push(field::Error::forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if let Some(wanted) = wanted {
        if options.send_initial_events.is_none() {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
        }
        if wanted != "NotOlderThan" {
            errors.push(field::Error::not_supported(&path, wanted, &["NotOlderThan"]));
        }
        if options.continue_token.is_some() {
            errors.push(field::Error::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    errors
}

/// The rules for the options of a write: `fieldManager`, `fieldValidation`, and what goes with apply alone
/// (upstream: `ValidateCreateOptions`, `ValidateUpdateOptions`, `ValidatePatchOptions`).
///
/// # Errors
/// `Invalid` with every broken rule.
pub fn validate_write_options(options: &Options, kind: &str, apply: bool) -> Result<()> {
    let mut errors = patch_problems(options, kind, apply);
    errors.extend(manager_problems(options));
    errors.extend(validation_problem(options));
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&meta_kind(kind), "", &errors)) }
}

/// What goes with apply alone, and what apply cannot do without.
fn patch_problems(options: &Options, kind: &str, apply: bool) -> field::ErrorList {
    match kind {
        "PatchOptions" if !apply && options.force.is_some() => {
            vec![field::Error::forbidden(&Path::new("force"), "may not be specified for non-apply patch")]
        }
        "PatchOptions" if apply && options.field_manager.is_none() => {
            vec![field::Error::required(&Path::new("fieldManager"), "is required for apply patch")]
        }
        _ => Vec::new(),
    }
}

fn manager_problems(options: &Options) -> field::ErrorList {
    let (mut errors, manager) = (Vec::new(), Path::new("fieldManager"));
    let Some(name) = &options.field_manager else { return errors };
    if name.len() > FIELD_MANAGER_BYTES_MAX {
        errors.push(field::Error::too_long(&manager, FIELD_MANAGER_BYTES_MAX as i64));
    }
    if let Some((at, c)) = name.char_indices().find(|(_, c)| c.is_control()) {
        let detail = format!("invalid character U+{:04X} (at position {at})", c as u32);
        errors.push(field::Error::invalid(&manager, name.as_str(), detail));
    }
    errors
}

fn validation_problem(options: &Options) -> Option<field::Error> {
    let bad = options.field_validation.as_deref().filter(|v| !matches!(*v, "Ignore" | "Warn" | "Strict"))?;
    Some(field::Error::not_supported(&Path::new("fieldValidation"), bad, &["", "Ignore", "Strict", "Warn"]))
}

/// What must hold of the stored object for a delete to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub preconditions: Preconditions,
    /// The deprecated predecessor of `propagation`.
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
    /// Delete what cannot be read from the store (`ignoreStoreReadErrorWithClusterBreakingPotential`).
    pub unreadable: bool,
}

/// # Errors
/// `BadRequest` for a number that is none, `Invalid` for an unknown policy or two policies at once.
pub fn delete_options_from_query(query: &Query) -> Result<DeleteOptions> {
    let orphan_dependents = query.get("orphanDependents").map(parse_bool);
    let grace_period_seconds = number(query, "gracePeriodSeconds")?;
    let runs: Vec<Value> = query.all("dryRun").map(Value::from).collect();
    let propagation = validate_delete_options(query.get("propagationPolicy"), orphan_dependents, &runs)?;
    Ok(DeleteOptions {
        grace_period_seconds,
        preconditions: Preconditions::default(),
        orphan_dependents,
        propagation,
        dry_run: !runs.is_empty(),
        unreadable: query.get(UNREADABLE).is_some_and(parse_bool),
    })
}

/// Reads a body of kind `DeleteOptions`; `apiVersion` may be any group's.
///
/// # Errors
/// `BadRequest` for another kind, `Invalid` for an unknown policy or two policies at once.
pub fn delete_options_from_value(body: &Value) -> Result<DeleteOptions> {
    if let Some(kind) = body.str_at(&["kind"]).filter(|k| *k != "DeleteOptions") {
        return Err(Status::bad_request(format!("no kind {} is registered for version \"meta.k8s.io/__internal\"", field::go_quote(kind))));
    }
    let text = |path: &[&str]| body.str_at(path).map(str::to_owned);
    let orphan_dependents = body.bool_at(&["orphanDependents"]);
    let runs = body.list_at(&["dryRun"]);
    let propagation = validate_delete_options(body.str_at(&["propagationPolicy"]), orphan_dependents, runs)?;
    Ok(DeleteOptions {
        grace_period_seconds: body.i64_at(&["gracePeriodSeconds"]),
        preconditions: Preconditions { uid: text(&["preconditions", "uid"]), resource_version: text(&["preconditions", "resourceVersion"]) },
        orphan_dependents,
        propagation,
        dry_run: !runs.is_empty(),
        unreadable: body.bool_at(&[UNREADABLE]).unwrap_or(false),
    })
}

const UNREADABLE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// What becomes of dependents, if all that goes together is right (upstream: `ValidateDeleteOptions`).
fn validate_delete_options(policy: Option<&str>, orphan: Option<bool>, runs: &[Value]) -> Result<Option<Propagation>> {
    let (mut errors, path) = (Vec::new(), Path::new("propagationPolicy"));
    if let (Some(policy), Some(_)) = (policy, orphan) {
        errors.push(field::Error::invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set"));
    }
    let propagation = match policy {
        Some("Orphan") => Some(Propagation::Orphan),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some(other) => {
            errors.push(field::Error::not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]));
            None
        }
        None => None,
    };
    if runs.iter().any(|run| run != "All") {
        errors.push(field::Error::not_supported(&Path::new("dryRun"), Value::from(runs.to_vec()), &["All"]));
    }
    if errors.is_empty() { Ok(propagation) } else { Err(Status::invalid(&meta_kind("DeleteOptions"), "", &errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list_error(query: &str, watch: bool) -> String {
        let options = options_from_query(&Query::parse(query), if watch { "watch" } else { "list" }, false).unwrap();
        let options = if watch { watch_defaults(&options) } else { Cow::Borrowed(&options) };
        validate_list_options(&options, watch).err().map(|s| s.message).unwrap_or_default()
    }

    #[test]
    fn options_that_contradict_are_refused_in_upstreams_words() {
        assert_eq!(
            list_error("resourceVersionMatch=Exact", false),
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"
        );
        assert_eq!(list_error("resourceVersion=5&resourceVersionMatch=Exact&limit=3", false), "");
        assert_eq!(list_error("sendInitialEvents=true&resourceVersionMatch=NotOlderThan", true), "");
        assert!(list_error("sendInitialEvents=true", true).contains("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
        assert_eq!(list_error("", true), "");
        let continued = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided";
        assert_eq!(list_error("continue=x", true), continued);
        assert_eq!(list_error("continue=x&resourceVersion=5", true), "");
        assert_eq!(options_from_query(&Query::parse("limit=x"), "list", false).unwrap_err().message, "strconv.ParseInt: parsing \"x\": invalid syntax");
    }

    #[test]
    fn options_of_other_verbs_are_not_looked_at() {
        for (query, verb) in [("limit=x&dryRun=x", "get"), ("limit=x", "create"), ("dryRun=x", "list")] {
            assert!(options_from_query(&Query::parse(query), verb, false).is_ok_and(|o| !o.dry_run), "{verb} {query}");
        }
    }

    #[test]
    fn a_bad_dry_run_is_told_with_the_verbs_own_kind_and_the_other_broken_rules() {
        let message = |verb: &str| options_from_query(&Query::parse("dryRun=All&dryRun=x&fieldValidation=y"), verb, true).unwrap_err().message;
        assert_eq!(
            message("update"),
            "UpdateOptions.meta.k8s.io \"\" is invalid: [dryRun: Unsupported value: [\"All\",\"x\"]: supported values: \"All\", \
             fieldValidation: Unsupported value: \"y\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]"
        );
        assert!(message("patch").contains("[fieldManager: Required value: is required for apply patch, dryRun: "));
        assert!(message("patch").starts_with("PatchOptions.") && message("create").starts_with("CreateOptions."));
    }

    #[test]
    fn every_broken_rule_of_delete_options_is_told() {
        let message = |query: &str| delete_options_from_query(&Query::parse(query)).unwrap_err().message;
        assert_eq!(
            message("propagationPolicy=Bad&orphanDependents=true&dryRun=All&dryRun=x"),
            "DeleteOptions.meta.k8s.io \"\" is invalid: [propagationPolicy: Invalid value: \"Bad\": orphanDependents and deletionPropagation cannot be both set, \
             propagationPolicy: Unsupported value: \"Bad\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\", \
             dryRun: Unsupported value: [\"All\",\"x\"]: supported values: \"All\"]"
        );
        assert!(message("propagationPolicy=").contains("Unsupported value: \"\""));
    }

    #[test]
    fn delete_options_come_from_query_or_body() {
        let q = delete_options_from_query(&Query::parse("gracePeriodSeconds=0&propagationPolicy=Foreground&dryRun=All")).unwrap();
        let body =
            serde_json::json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "propagationPolicy": "Foreground", "dryRun": ["All"]});
        assert_eq!(delete_options_from_value(&body).unwrap(), q);
        assert!(delete_options_from_query(&Query::parse("orphanDependents=true&propagationPolicy=Orphan")).is_err());
        assert!(delete_options_from_value(&serde_json::json!({"kind": "Pod"})).is_err());
    }
}
