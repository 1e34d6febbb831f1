//! What a question about access may say (upstream: `pkg/apis/authorization/validation`).

use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::{GroupVersionKind, Result, Status, Value, ValueExt};
use knarr_schema::internal::{self, Step};
use knarr_schema::types;

use crate::authz::review::selector_errors;
use crate::call::Exchange;

const EXACTLY_ONE: &str = "exactly one of nonResourceAttributes or resourceAttributes must be specified";

/// Refuses a `SubjectAccessReview` or one of its like that upstream would not answer.
///
/// # Errors
/// `Invalid`, of no kind in particular, as upstream has it.
pub fn check_access_review(ex: &Exchange<'_>, resource: &str, review: &Value) -> Result<()> {
    let spec = Path::new("spec");
    let mut errors = ErrorList::new();
    let (on_resource, on_path) = (review.at(&["spec", "resourceAttributes"]), review.at(&["spec", "nonResourceAttributes"]));
    if on_resource.is_some() == on_path.is_some() {
        errors.push(showing(review, &["spec", "nonResourceAttributes"], Error::invalid(&spec, Value::Null, EXACTLY_ONE)));
    }
    let own = resource == "selfsubjectaccessreviews";
    if !own && review.str_at(&["spec", "user"]).is_none_or(str::is_empty) && review.list_at(&["spec", "groups"]).is_empty() {
        errors.push(Error::invalid(&spec.child("user"), "", "at least one of user or group must be specified"));
    }
    errors.extend(selector_errors(&review["spec"]));
    let local = resource == "localsubjectaccessreviews";
    let allowed: &[&str] = if local { &["managedFields", "namespace"] } else { &["managedFields"] };
    let metadata = review.at(&["metadata"]).and_then(Value::as_object);
    if metadata.is_some_and(|m| m.iter().any(|(k, v)| !allowed.contains(&k.as_str()) && !is_nothing(v))) {
        let why = if local { "must be empty except for namespace" } else { "must be empty" };
        errors.push(showing(review, &["metadata"], Error::invalid(&Path::new("metadata"), Value::Null, why)));
    }
    if local {
        let namespace = on_resource.map(|a| a.str_at(&["namespace"]).unwrap_or_default());
        if let Some(wrong) = namespace.filter(|n| *n != ex.call.info.namespace) {
            errors.push(Error::invalid(&spec.child("resourceAttributes").child("namespace"), wrong, "must match metadata.namespace"));
        }
        if on_path.is_some() {
            let error = Error::invalid(&spec.child("nonResourceAttributes"), Value::Null, "disallowed on this kind of request");
            errors.push(showing(review, &["spec", "nonResourceAttributes"], error));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&GroupVersionKind::new("authorization.k8s.io", "v1", ""), "", &errors)) }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(n) => n.as_i64() == Some(0),
        Value::Bool(_) => false,
    }
}

/// The error with the value at a place of the review, as upstream shows it.
fn showing(review: &Value, path: &[&str], error: Error) -> Error {
    let kind = review.str_at(&["kind"]).unwrap_or_default();
    let shown = types::of_kind("authorization.k8s.io", "v1", kind).and_then(|root| {
        let steps: Vec<Step<'_>> = path.iter().map(|name| Step::Field(name)).collect();
        internal::shown(root, &steps, review.at(path))
    });
    match shown {
        Some(text) => error.showing(text),
        None => error,
    }
}
