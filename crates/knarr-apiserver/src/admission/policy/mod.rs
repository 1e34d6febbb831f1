//! Policies of admission: expressions that refuse or change writes, and the bindings that say where they hold
//! (upstream: `apiserver/pkg/admission/plugin/policy`).
//!
//! A policy is compiled once for each of its versions. A write is matched with each policy, then with each of its bindings;
//! for each object of parameters that a binding names the expressions are evaluated once.

pub mod mutating;
pub mod validating;

use std::{collections::BTreeMap, sync::Arc};

use knarr_cel::{
    admission::{Composition, Declarations, Evaluator, Input, MatchConditions, Schemas},
    authz::Authorizer,
};
use knarr_core::{GroupResource, Result, Status, Value, ValueExt, selector::LabelSelector};

use super::{
    Objects, Request, Review,
    configurations::{Configurations, GROUP},
    matching::{Asked, Criteria, Invocation, request, shown},
};
use crate::authz::Attributes;

/// What both kinds of policies have.
pub struct Policy {
    pub name: String,
    pub ignores_failures: bool,
    /// `apiVersion` and `kind`.
    param_kind: Option<(String, String)>,
    criteria: Criteria,
    pub declared: Declarations,
    pub conditions: MatchConditions,
    pub composition: Composition,
}

impl Policy {
    fn new(policy: &Value, patch_types: bool) -> Self {
        let spec = policy.at(&["spec"]).unwrap_or(&Value::Null);
        let text = |path: &[&str]| spec.str_at(path).unwrap_or_default().to_owned();
        let param_kind = spec.at(&["paramKind"]).map(|_| (text(&["paramKind", "apiVersion"]), text(&["paramKind", "kind"])));
        let declared = Declarations { params: param_kind.is_some(), authorizer: true, patch_types, composed: true };
        let composition = Composition::new(spec.list_at(&["variables"]), declared, &Schemas::default());
        Self {
            name: policy.str_at(&["metadata", "name"]).unwrap_or_default().to_owned(),
            ignores_failures: spec.str_at(&["failurePolicy"]) == Some("Ignore"),
            param_kind,
            criteria: Criteria::of_policy(spec.at(&["matchConstraints"]).unwrap_or(&Value::Null)),
            declared,
            conditions: MatchConditions::composed(spec.list_at(&["matchConditions"]), declared, &composition.types),
            composition,
        }
    }
}

/// Where a policy holds, and with which parameters.
pub struct Binding {
    pub name: String,
    pub policy: String,
    pub actions: Vec<String>,
    criteria: Option<Criteria>,
    param_ref: Option<Value>,
}

/// What a binding object says.
fn binding(object: &Value) -> Vec<Arc<Binding>> {
    let text = |path: &[&str]| object.str_at(path).unwrap_or_default().to_owned();
    vec![Arc::new(Binding {
        name: text(&["metadata", "name"]),
        policy: text(&["spec", "policyName"]),
        actions: object.list_at(&["spec", "validationActions"]).iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        criteria: object.at(&["spec", "matchResources"]).map(Criteria::of_policy),
        param_ref: object.at(&["spec", "paramRef"]).cloned(),
    })]
}

/// The policies of one kind and their bindings.
struct Sources<P> {
    objects: Arc<dyn Objects>,
    policies: Configurations<P>,
    bindings: Configurations<Binding>,
}

impl<P> Sources<P> {
    /// Whether a write is one that policies may be about. Nobody can lock himself out of taking a policy back, and what is only
    /// asked of the server (reviews) is never refused.
    fn handles(&self, attributes: &Attributes) -> bool {
        let is_review = matches!(attributes.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io");
        attributes.group != GROUP && !is_review && !self.bindings.current(&*self.objects).is_empty()
    }

    /// Each policy that has bindings, with them.
    fn hooks(&self, name: impl Fn(&P) -> &str) -> Vec<(Arc<P>, Vec<Arc<Binding>>)> {
        let mut by_policy: BTreeMap<String, Vec<Arc<Binding>>> = BTreeMap::new();
        for binding in self.bindings.current(&*self.objects).iter() {
            by_policy.entry(binding.policy.clone()).or_default().push(binding.clone());
        }
        let policies = self.policies.current(&*self.objects);
        policies.iter().filter_map(|p| Some((p.clone(), by_policy.remove(name(p))?))).collect()
    }
}

/// Why a policy could not be asked, and of which binding that is told.
struct Misconfigured {
    binding: Option<Arc<Binding>>,
    why: String,
}

/// A binding that a write has to do with, and the parameters to evaluate with.
struct Bound {
    binding: Arc<Binding>,
    params: Vec<Option<Value>>,
}

/// The bindings of a policy that a write has to do with, and those of which that cannot be told.
fn bound(objects: &dyn Objects, review: &Review<'_>, policy: &Policy, bindings: &[Arc<Binding>]) -> (Option<Invocation>, Vec<Bound>, Vec<Misconfigured>) {
    let invocation = match policy.criteria.matches(objects, review) {
        Ok(Some(invocation)) => invocation,
        Ok(None) => return (None, Vec::new(), Vec::new()),
        Err(e) => return (None, Vec::new(), vec![Misconfigured { binding: None, why: format!("failed to configure policy: {}", e.message) }]),
    };
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for binding in bindings {
        let matched = binding.criteria.as_ref().map_or(Ok(true), |c| c.matches(objects, review).map(|m| m.is_some())).map_err(|e| e.message);
        let params = matched.and_then(|matched| if matched { params(objects, review, policy, binding).map(Some) } else { Ok(None) });
        match params {
            Ok(Some(params)) => found.push(Bound { binding: binding.clone(), params }),
            Ok(None) => {}
            Err(why) => wrong.push(Misconfigured { binding: Some(binding.clone()), why: format!("failed to configure binding: {why}") }),
        }
    }
    (Some(invocation), found, wrong)
}

/// The objects that a binding refers to; one that is `None` where there is no such reference (upstream: `CollectParams`).
fn params(objects: &dyn Objects, review: &Review<'_>, policy: &Policy, binding: &Binding) -> Result<Vec<Option<Value>>, String> {
    let (Some((api_version, kind)), Some(reference), Some(own)) = (&policy.param_kind, &binding.param_ref, &review.request) else { return Ok(vec![None]) };
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = own.catalog.registry.by_kind(group, version, kind);
    let served = resource.and_then(|r| own.catalog.find(group, version, &r.plural));
    let served = served.ok_or_else(|| format!("paramKind kind `&ParamKind{{APIVersion:{api_version},Kind:{kind},}}` not known"))?;
    let text = |key: &str| reference.str_at(&[key]).unwrap_or_default();
    let namespace = match (served.resource.namespaced, text("namespace"), review.attributes.namespace.as_str()) {
        (true, "", "") => return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()),
        (true, "", own) => own,
        (true, wanted, _) => wanted,
        (false, "", _) => "",
        (false, ..) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
    };
    let (group, resource) = (&served.key.group, &served.key.resource);
    let name = text("name");
    let stored = match reference.at(&["selector"]) {
        _ if !name.is_empty() => objects.value(group, resource, namespace, name).into_iter().collect(),
        None => return Err("one of name or selector must be provided".into()),
        Some(selector) => {
            let selector = LabelSelector::from_value(Some(selector))?;
            let mut all = objects.values(group, resource, Some(namespace).filter(|n| !n.is_empty()));
            all.retain(|o| selector.matches(o.at(&["metadata", "labels"])));
            all
        }
    };
    if stored.is_empty() && text("parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    let read = |object: Value| -> Result<Option<Value>, String> {
        let mut object = served.to_served(object).map_err(|e| e.message)?;
        object.set(&["kind"], kind.as_str());
        object.set(&["apiVersion"], api_version.as_str());
        Ok(Some(object))
    };
    stored.into_iter().map(read).collect()
}

/// What expressions see of a write.
struct Seen<'a> {
    object: Value,
    old: Value,
    request: Value,
    namespace: Value,
    authorizer: Option<Asked<'a>>,
}

impl<'a> Seen<'a> {
    fn new(objects: &dyn Objects, review: &'a Review<'_>, invocation: &Invocation) -> Result<Self> {
        let (object, old) = shown(review, &invocation.kind)?;
        Ok(Self {
            object,
            old,
            request: request(review, invocation, "").unwrap_or_default(),
            namespace: namespace(objects, review)?,
            authorizer: review.request.as_ref().map(|r: &Request<'_>| Asked { server: r.server, user: &review.attributes.user }),
        })
    }

    fn input<'s>(&'s self, params: Option<&'s Value>) -> Input<'s> {
        Input {
            object: &self.object,
            old_object: &self.old,
            decl: None,
            params,
            request: &self.request,
            namespace: &self.namespace,
            authorizer: self.authorizer.as_ref().map(|a| a as &dyn Authorizer),
        }
    }
}

/// The namespace that the object is in; a namespace is in none.
fn namespace(objects: &dyn Objects, review: &Review<'_>) -> Result<Value> {
    let a = review.attributes;
    if a.namespace.is_empty() || (a.group.is_empty() && a.resource == "namespaces" && a.subresource.is_empty()) {
        return Ok(Value::Null);
    }
    objects.value("", "namespaces", "", &a.namespace).ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), &a.namespace))
}

/// Whether a policy's conditions let it be evaluated.
fn conditions_hold(policy: &Policy, evaluator: &Evaluator<'_>) -> Result<bool, String> {
    if policy.conditions.is_empty() {
        return Ok(true);
    }
    policy.conditions.matches(evaluator).map(|matched| matched == knarr_cel::admission::Matched::Yes)
}
