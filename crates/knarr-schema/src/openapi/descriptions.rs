//! What types and fields are for, in the words of the published API.

/// The text of a definition (name without `io.k8s.`).
pub(super) fn of_type(_name: &str) -> Option<&'static str> {
    None
}

/// The text of a field.
pub(super) fn of_field(_type_name: &str, _field: &str) -> Option<&'static str> {
    None
}

/// The text of `kind` or `apiVersion`.
pub(super) fn of_type_meta(_name: &str) -> Option<&'static str> {
    None
}
