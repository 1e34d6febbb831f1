//! May they: RBAC, the node authorizer, always-allow for `system:masters`.

use crate::authn::User;

/// What is asked for (`authorizer.Attributes`).
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub user: User,
    pub verb: String,
    pub namespace: String,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub name: String,
    /// Set for requests that name no resource.
    pub path: String,
    pub is_resource_request: bool,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    NoOpinion,
}

pub trait Authorizer: Send + Sync {
    /// The decision and its reason.
    fn authorize(&self, attributes: &Attributes) -> (Decision, String);
}
