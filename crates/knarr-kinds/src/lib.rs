//! What a kind has of its own: defaulting, strategy, validation, conversion, printer cells. One file a kind, all pure.
//!
//! Generic handlers ask [`strategy`] by group and resource; a kind without behaviour of its own gets the plain one.

use knarr_core::{Value, clock::Env, field::ErrorList};

/// What a strategy may know of the request.
pub struct Context<'a> {
    pub env: &'a Env,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Name of the user who asks.
    pub user: &'a str,
    /// Groups of the user.
    pub groups: &'a [String],
}

/// How a delete of an object goes on (upstream: `RESTGracefulDeleteStrategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graceful {
    /// Delete at once.
    Immediate,
    /// Set `deletionTimestamp` and wait for somebody to delete with grace 0.
    Wait { seconds: i64 },
}

/// The behaviour of one resource, or of one subresource of it (`status`, `scale`, `ephemeralcontainers`, …).
///
/// The default methods are those of a plain kind with `spec` and `status`: a write to the object leaves `status` as it was,
/// a write to `status` leaves everything but `status` as it was, and a changed `spec` raises `generation`.
pub trait Strategy: Sync + Send {
    /// Defaults that the type table does not declare. Declared ones are already in.
    fn default(&self, _object: &mut Value) {}

    fn prepare_for_create(&self, _cx: &Context<'_>, _object: &mut Value) {}

    fn validate_create(&self, _cx: &Context<'_>, _object: &Value) -> ErrorList {
        ErrorList::new()
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, _object: &mut Value, _old: &Value) {}

    /// Ratcheting: what was wrong before may stay wrong.
    fn validate_update(&self, _cx: &Context<'_>, _object: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// `Warning` headers.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether a PUT may create (upstream: `AllowCreateOnUpdate`).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT needs no resourceVersion (upstream: `AllowUnconditionalUpdate`).
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// How a delete with this wanted grace goes (`None`: the caller named none).
    fn graceful(&self, _object: &Value, _grace_seconds: Option<i64>) -> Graceful {
        Graceful::Immediate
    }

    /// Values of the selectable fields of the resource, by name.
    fn field(&self, object: &Value, name: &str) -> String {
        plain_field(object, name)
    }

    /// Cells of the table row, in the order of the resource's columns. `None`: name and age.
    fn cells(&self, _object: &Value, _now: jiff::Timestamp) -> Option<Vec<Value>> {
        None
    }

    /// `metadata.name` rules; texts of upstream's `NameIsDNSSubdomain` and like.
    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_core::names::is_dns1123_subdomain(name)
    }
}

fn plain_field(object: &Value, name: &str) -> String {
    let found = name.split('.').try_fold(object, |v, key| v.get(key));
    match found {
        Some(Value::String(s)) => s.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The strategy of a resource (`subresource` empty) or of one of its subresources.
pub fn strategy(_group: &str, _resource: &str, _subresource: &str) -> &'static dyn Strategy {
    todo!()
}

/// Validation of `metadata`, common to all kinds (upstream: `ValidateObjectMetaAccessor`).
pub fn validate_metadata(_object: &Value, _namespaced: bool, _name_rules: &dyn Strategy) -> ErrorList {
    todo!()
}

/// The same for an update: immutable fields, finalizers, owner references.
pub fn validate_metadata_update(_object: &Value, _old: &Value) -> ErrorList {
    todo!()
}

/// Converts an object between two versions of its kind: `autoscaling/v1` and `v2`, `v1` and `events.k8s.io/v1`, ….
/// Equal versions give the object back.
pub fn convert(_object: Value, _to_group: &str, _to_version: &str) -> knarr_core::Result<Value> {
    todo!()
}
