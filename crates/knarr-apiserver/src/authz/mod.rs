//! May they: a chain of authorizers, of which the first with an opinion decides. [`rbac`] for everybody, [`node`] for the agents.

pub mod config;
pub mod feed;
pub mod node;
pub mod rbac;
pub mod review;
pub mod webhook;

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use knarr_cel::admission::aggregate;
use knarr_core::{Value, json};

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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    #[default]
    NoOpinion,
}

/// What an authorizer says of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    pub reason: String,
    /// What went wrong on the way. A request that is allowed all the same is allowed.
    pub error: Option<String>,
}

impl Verdict {
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// An authorizer that knows answers at once, without a future that somebody would have to allocate; one that must ask somebody
/// else lets the caller wait.
pub enum Opinion<'a> {
    Formed(Verdict),
    Pending(BoxFuture<'a, Verdict>),
}

impl From<(Decision, String)> for Opinion<'_> {
    fn from((decision, reason): (Decision, String)) -> Self {
        Self::Formed(Verdict { decision, reason, error: None })
    }
}

impl Opinion<'_> {
    /// Waits for the verdict.
    pub async fn verdict(self) -> Verdict {
        match self {
            Self::Formed(verdict) => verdict,
            Self::Pending(work) => work.await,
        }
    }
}

pub trait Authorizer: Send + Sync {
    /// What reasons and metrics call it (`node`, `rbac`, or the name in an AuthorizationConfiguration).
    fn name(&self) -> &str;

    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Opinion<'a>;

    /// Whether an opinion may be one that has to be waited for.
    fn may_wait(&self) -> bool {
        false
    }

    /// Why something is allowed, where the verdict leaves that out: most requests ask for no reason, and it takes time to find.
    fn explain(&self, _attributes: &Attributes) -> String {
        String::new()
    }

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

/// Asks one after the other until one allows or denies; `system:masters` are let through before (upstream: `union.New`).
pub struct Union(pub Vec<Arc<dyn Authorizer>>);

/// What those without an opinion have said.
#[derive(Default)]
struct Heard {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl Heard {
    /// The verdict, if it decides; else it is kept for later.
    fn decides(&mut self, name: &str, verdict: Verdict) -> Option<Verdict> {
        if verdict.decision != Decision::NoOpinion {
            return Some(verdict);
        }
        if !verdict.reason.is_empty() {
            self.reasons.push(format!("{name}: {}", verdict.reason));
        }
        self.errors.extend(verdict.error);
        None
    }

    fn nothing(self) -> Verdict {
        let error = (!self.errors.is_empty()).then(|| aggregate(&self.errors));
        Verdict { decision: Decision::NoOpinion, reason: self.reasons.join("\n"), error }
    }
}

impl Union {
    /// The rest of the chain, from one that must be waited for.
    async fn later(&self, from: usize, mut heard: Heard, attributes: &Attributes) -> Verdict {
        for authorizer in &self.0[from..] {
            let verdict = authorizer.authorize(attributes).verdict().await;
            if let Some(decided) = heard.decides(authorizer.name(), verdict) {
                return decided;
            }
        }
        heard.nothing()
    }
}

impl Authorizer for Union {
    fn name(&self) -> &'static str {
        "union"
    }

    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Opinion<'a> {
        if attributes.user.is_in(MASTERS) {
            return (Decision::Allow, String::new()).into();
        }
        let mut heard = Heard::default();
        for (i, authorizer) in self.0.iter().enumerate() {
            match authorizer.authorize(attributes) {
                Opinion::Pending(_) => return Opinion::Pending(self.later(i, heard, attributes).boxed()),
                Opinion::Formed(verdict) => {
                    if let Some(decided) = heard.decides(authorizer.name(), verdict) {
                        return Opinion::Formed(decided);
                    }
                }
            }
        }
        Opinion::Formed(heard.nothing())
    }

    fn may_wait(&self) -> bool {
        self.0.iter().any(|a| a.may_wait())
    }

    fn explain(&self, attributes: &Attributes) -> String {
        if attributes.user.is_in(MASTERS) {
            return String::new();
        }
        for authorizer in &self.0 {
            match authorizer.authorize(attributes) {
                // It may have been the one, and has given its own reason then.
                Opinion::Pending(_) => break,
                Opinion::Formed(verdict) if verdict.is_allowed() => return authorizer.explain(attributes),
                Opinion::Formed(_) => {}
            }
        }
        String::new()
    }

    fn rules(&self, user: &User, namespace: &str) -> Rules {
        let mut all = Rules::default();
        for rules in self.0.iter().map(|a| a.rules(user, namespace)) {
            all.resource.extend(rules.resource);
            all.non_resource.extend(rules.non_resource);
            all.incomplete |= rules.incomplete;
            if !rules.error.is_empty() {
                all.error = if all.error.is_empty() { rules.error } else { format!("{}, {}", all.error, rules.error) };
            }
        }
        all
    }
}

/// Says the same of everything (`--authorization-mode=AlwaysAllow`, `AlwaysDeny`).
pub struct Always(pub Decision);

impl Authorizer for Always {
    fn name(&self) -> &'static str {
        if self.0 == Decision::Allow { "alwaysallow" } else { "alwaysdeny" }
    }

    fn authorize<'a>(&'a self, _: &'a Attributes) -> Opinion<'a> {
        let reason = if self.0 == Decision::Allow { "" } else { "Everything is forbidden." };
        (self.0, reason.to_owned()).into()
    }

    /// All or nothing, and that is the whole of it (upstream: `alwaysAllowAuthorizer.RulesFor`).
    fn rules(&self, _: &User, _: &str) -> Rules {
        if self.0 != Decision::Allow {
            return Rules::default();
        }
        let all = ["*"];
        let resource = vec![json!({"verbs": all, "apiGroups": all, "resources": all})];
        Rules { resource, non_resource: vec![json!({"verbs": all, "nonResourceURLs": all})], ..Rules::default() }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it was told to say, at once or after a turn of the runtime.
    struct Says(&'static str, Verdict, bool);

    impl Authorizer for Says {
        fn name(&self) -> &str {
            self.0
        }

        fn authorize<'a>(&'a self, _: &'a Attributes) -> Opinion<'a> {
            if !self.2 {
                return Opinion::Formed(self.1.clone());
            }
            Opinion::Pending(
                async {
                    tokio::task::yield_now().await;
                    self.1.clone()
                }
                .boxed(),
            )
        }
    }

    fn says(name: &'static str, decision: Decision, reason: &str, error: Option<&str>, later: bool) -> Arc<dyn Authorizer> {
        Arc::new(Says(name, Verdict { decision, reason: reason.into(), error: error.map(str::to_owned) }, later))
    }

    #[tokio::test]
    async fn the_first_with_an_opinion_decides_whether_it_had_to_be_waited_for_or_not() {
        let anybody = Attributes::default();
        for later in [false, true] {
            let first = says("a", Decision::NoOpinion, "not mine", Some("broken"), later);
            let denies = says("b", Decision::Deny, "no", None, false);
            let allows = says("c", Decision::Allow, "", None, later);
            let verdict = async |chain: Vec<Arc<dyn Authorizer>>| Union(chain).authorize(&anybody).verdict().await;
            assert_eq!(verdict(vec![first.clone(), denies.clone(), allows.clone()]).await.decision, Decision::Deny);
            assert_eq!(verdict(vec![first.clone(), allows, denies]).await, Verdict { decision: Decision::Allow, ..Verdict::default() });
            let nobody = verdict(vec![first.clone(), says("d", Decision::NoOpinion, "nor mine", Some("too"), false)]).await;
            assert_eq!((nobody.reason.as_str(), nobody.error.as_deref()), ("a: not mine\nd: nor mine", Some("[broken, too]")));
        }
    }

    #[test]
    fn masters_are_not_asked_about() {
        let user = User { groups: vec![MASTERS.into()], ..User::default() };
        let chain = Union(vec![says("a", Decision::Deny, "no", None, false)]);
        assert!(matches!(chain.authorize(&Attributes { user, ..Attributes::default() }), Opinion::Formed(v) if v.is_allowed()));
    }
}
