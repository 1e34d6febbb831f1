//! The one error type of the API: `metav1.Status`. Inside the server an error is one of these from the moment it is
//! known to be the caller's; it becomes HTTP at the edge and nowhere else.
//!
//! Texts follow `k8s.io/apimachinery/pkg/api/errors/errors.go`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field;
use crate::gvk::{GroupResource, GroupVersionKind};

/// `reason` of a `Status`, with the HTTP code that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    #[serde(rename = "")]
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StorageReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    /// A reason that this list does not name (a newer server's, or a webhook's own).
    #[serde(other)]
    Other,
}

/// One cause inside `details`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// `details` of a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: i32,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// A failure as the API tells it. `Clone` and small, so that it can travel through queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
}

/// The result of anything that the API can refuse.
pub type Result<T, E = Status> = std::result::Result<T, E>;

impl Status {
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, resource: &GroupResource, name: &str) -> Self {
        self.details = Some(Box::new(Details { name: name.into(), group: resource.group.clone(), kind: resource.resource.clone(), ..Default::default() }));
        self
    }

    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::new(404, Reason::NotFound, format!("{resource} {} not found", field::go_quote(name))).about(resource, name)
    }

    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::new(409, Reason::AlreadyExists, format!("{resource} {} already exists", field::go_quote(name))).about(resource, name)
    }

    pub fn conflict(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        Self::new(409, Reason::Conflict, format!("Operation cannot be fulfilled on {resource} {}: {why}", field::go_quote(name))).about(resource, name)
    }

    /// The conflict of optimistic locking, in the words that clients look for.
    pub fn modified(resource: &GroupResource, name: &str) -> Self {
        Self::conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    pub fn forbidden(resource: &GroupResource, name: &str, why: impl fmt::Display) -> Self {
        let message = match (name.is_empty(), resource.resource.is_empty()) {
            (true, _) if resource.resource.is_empty() => format!("forbidden: {why}"),
            (true, _) => format!("{resource} is forbidden: {why}"),
            (false, true) => format!("forbidden: {why}"),
            (false, false) => format!("{resource} {} is forbidden: {why}", field::go_quote(name)),
        };
        Self::new(403, Reason::Forbidden, message).about(resource, name)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(401, Reason::Unauthorized, if message.is_empty() { "not authorized".to_owned() } else { message })
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    pub fn internal(why: impl fmt::Display) -> Self {
        let mut status = Self::new(500, Reason::InternalError, format!("Internal error occurred: {why}"));
        status.details = Some(Box::new(Details { causes: vec![Cause { message: why.to_string(), ..Default::default() }], ..Default::default() }));
        status
    }

    pub fn method_not_supported(resource: &GroupResource, action: &str) -> Self {
        Self::new(405, Reason::MethodNotAllowed, format!("{action} is not supported on resources of kind {}", field::go_quote(&resource.to_string())))
            .with_details(Details { group: resource.group.clone(), kind: resource.resource.clone(), ..Default::default() })
    }

    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, Reason::NotAcceptable, message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, Reason::UnsupportedMediaType, message)
    }

    /// 410 with reason `Expired`: the resource version or the continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {message}"))
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, Reason::TooManyRequests, message).with_details(Details { retry_after_seconds, ..Default::default() })
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    pub fn timeout(message: impl fmt::Display, retry_after_seconds: i32) -> Self {
        Self::new(504, Reason::Timeout, format!("Timeout: {message}")).with_details(Details { retry_after_seconds, ..Default::default() })
    }

    /// 422 with a cause for each field (upstream: `NewInvalid`).
    pub fn invalid(kind: &GroupVersionKind, name: &str, errors: &[field::Error]) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let list = match unique(&texts).as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let subject = if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        Self::new(422, Reason::Invalid, format!("{subject} {} is invalid: {list}", field::go_quote(name))).with_details(Details {
            name: name.into(),
            group: kind.group.clone(),
            kind: kind.kind.clone(),
            causes: errors.iter().map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.field.to_string() }).collect(),
            ..Default::default()
        })
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound || self.code == 404 && self.reason == Reason::Other
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    /// The list or watch must start anew.
    pub fn is_expired(&self) -> bool {
        matches!(self.reason, Reason::Expired | Reason::Gone)
    }

    /// Whether the same request may succeed later without being changed.
    pub fn is_retriable(&self) -> bool {
        matches!(self.reason, Reason::ServerTimeout | Reason::Timeout | Reason::TooManyRequests | Reason::ServiceUnavailable | Reason::InternalError)
            || self.code >= 500
    }

    /// The JSON body, without a final newline.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&StatusBody::from(self)).unwrap_or_default()
    }

    /// The body as a tree.
    pub fn to_value(&self) -> crate::Value {
        serde_json::to_value(StatusBody::from(self)).unwrap_or_default()
    }

    /// Reads a failure's body back. `None` when it is not a failed `Status`.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let body: StatusBody = serde_json::from_slice(body).ok()?;
        (body.kind == "Status" && body.status == "Failure").then(|| body.into())
    }
}

fn unique(texts: &[String]) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    texts.iter().filter(|t| seen.insert(t.as_str())).cloned().collect()
}

#[derive(Serialize, Deserialize)]
struct StatusBody {
    kind: String,
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    metadata: serde_json::Map<String, crate::Value>,
    #[serde(default)]
    status: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(default = "unknown", skip_serializing_if = "is_unknown")]
    reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    details: Option<Box<Details>>,
    #[serde(default)]
    code: u16,
}

fn unknown() -> Reason {
    Reason::Unknown
}

fn is_unknown(reason: &Reason) -> bool {
    *reason == Reason::Unknown
}

impl From<&Status> for StatusBody {
    fn from(s: &Status) -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: Default::default(),
            status: "Failure".into(),
            message: s.message.clone(),
            reason: s.reason,
            details: s.details.clone(),
            code: s.code,
        }
    }
}

impl From<StatusBody> for Status {
    fn from(b: StatusBody) -> Self {
        Self { code: b.code, reason: b.reason, message: b.message, details: b.details }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_its_own_body() {
        let status = Status::not_found(&GroupResource::new("apps", "deployments"), "web");
        assert_eq!(
            String::from_utf8(status.to_json()).unwrap(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"deployments.apps \"web\" not found","reason":"NotFound","details":{"name":"web","group":"apps","kind":"deployments"},"code":404}"#
        );
        assert_eq!(Status::from_json(&status.to_json()), Some(status));
    }

    #[test]
    fn several_wrong_fields_are_listed_in_brackets() {
        let errors = [field::Error::required(&field::Path::new("a"), ""), field::Error::required(&field::Path::new("b"), "")];
        let status = Status::invalid(&GroupVersionKind::new("apps", "v1", "Deployment"), "web", &errors);
        assert_eq!(status.message, "Deployment.apps \"web\" is invalid: [a: Required value, b: Required value]");
        assert_eq!(status.details.unwrap().causes.len(), 2);
    }
}
