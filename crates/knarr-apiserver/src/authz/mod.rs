//! May they: a chain of authorizers, of which the first with an opinion decides. [`rbac`] for everybody, [`node`] for the agents.

pub mod feed;
pub mod node;
pub mod rbac;

use std::sync::Arc;

use knarr_core::Value;

use crate::authn::{MASTERS, User};

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

    /// What the user may do in a namespace, as far as it can be listed (`SelfSubjectRulesReview`).
    fn rules(&self, _user: &User, _namespace: &str) -> Rules {
        Rules { incomplete: true, ..Rules::default() }
    }
}

/// Rules as `SelfSubjectRulesReview` shows them.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub resource: Vec<Value>,
    pub non_resource: Vec<Value>,
    /// There may be more that cannot be listed.
    pub incomplete: bool,
    pub error: String,
}

/// Asks one after the other; `system:masters` are let through before.
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

impl Authorizer for Union {
    fn authorize(&self, attributes: &Attributes) -> (Decision, String) {
        if attributes.user.is_in(MASTERS) {
            return (Decision::Allow, String::new());
        }
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(attributes) {
                (Decision::NoOpinion, reason) => reasons.extend((!reason.is_empty()).then_some(reason)),
                decided => return decided,
            }
        }
        (Decision::NoOpinion, reasons.join("\n"))
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for rules in self.0.iter().map(|a| a.rules(user, namespace)) {
            all.resource.extend(rules.resource);
            all.non_resource.extend(rules.non_resource);
            all.incomplete |= rules.incomplete;
            all.error += &rules.error;
        }
        all
    }
}

/// Says the same of everything (`--authorization-mode=AlwaysAllow`, `AlwaysDeny`).
pub struct Always(pub Decision);

impl Authorizer for Always {
    fn authorize(&self, _: &Attributes) -> (Decision, String) {
        let reason = if self.0 == Decision::Allow { "" } else { "Everything is forbidden." };
        (self.0.clone(), reason.to_owned())
    }
}

/// The sentence of a refusal (upstream: `responsewriters.ForbiddenMessage`).
pub fn forbidden_message(a: &Attributes) -> String {
    let user = knarr_core::field::go_quote(&a.user.name);
    if !a.is_resource_request {
        return format!("User {user} cannot {} path {}", a.verb, knarr_core::field::go_quote(&a.path));
    }
    let mut resource = a.resource.clone();
    if !a.subresource.is_empty() {
        resource = format!("{resource}/{}", a.subresource);
    }
    let group = knarr_core::field::go_quote(&a.group);
    let place =
        if a.namespace.is_empty() { "at the cluster scope".to_owned() } else { format!("in the namespace {}", knarr_core::field::go_quote(&a.namespace)) };
    format!("User {user} cannot {} resource {} in API group {group} {place}", a.verb, knarr_core::field::go_quote(&resource))
}
