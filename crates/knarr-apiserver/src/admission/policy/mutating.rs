//! MutatingAdmissionPolicy: changes writes by configurations that are merged in, or by JSON patches, which expressions make.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_cel::{
    RUNTIME_BUDGET, Value as Cel,
    admission::{Compiled, Evaluator, Schemas, environment},
    mutation,
};
use knarr_core::{Result, Status, Value, ValueExt, status::Cause};

use super::{Binding, Bound, Policy, Seen, Sources, binding, bound, conditions_hold};
use crate::{
    admission::{Objects, Operation, Passes, Plugin, Review, configurations::Configurations, matching::Invocation},
    authz::Attributes,
};

const NAME: &str = "MutatingAdmissionPolicy";

/// One entry of `mutations`.
enum Mutation {
    Apply(Compiled),
    Patch(Compiled),
}

/// One policy, compiled.
struct Mutations {
    policy: Policy,
    mutations: Vec<Mutation>,
    may_be_reinvoked: bool,
}

fn parse(object: &Value) -> Vec<Arc<Mutations>> {
    let policy = Policy::new(object, true);
    let env = environment(policy.declared, &policy.composition.types, &Schemas::default());
    let mutation = |m: &Value| {
        let expression = |key: &str| m.str_at(&[key, "expression"]).unwrap_or_default().to_owned();
        match m.str_at(&["patchType"]) {
            Some("JSONPatch") => Mutation::Patch(Compiled::new(&expression("jsonPatch"), &env, &[mutation::patches()])),
            _ => Mutation::Apply(Compiled::new(&expression("applyConfiguration"), &env, &[mutation::object()])),
        }
    };
    let mutations = object.list_at(&["spec", "mutations"]).iter().map(mutation).collect();
    let may_be_reinvoked = object.str_at(&["spec", "reinvocationPolicy"]) == Some("IfNeeded");
    vec![Arc::new(Mutations { mutations, may_be_reinvoked, policy })]
}

/// What went wrong with a policy; the failure policy decides.
struct Problem {
    binding: Option<Arc<Binding>>,
    why: String,
    is_invalid: bool,
}

/// Why a mutation was not made.
enum Failed {
    /// The failure policy decides.
    Policy(String),
    Request(Status),
}

impl Mutation {
    /// What the object becomes.
    fn of(&self, objects: &dyn Objects, review: &Review<'_>, policy: &Policy, invocation: &Invocation, params: Option<&Value>) -> Result<Value, Failed> {
        let seen = Seen::new(objects, review, invocation).map_err(Failed::Request)?;
        let input = seen.input(params);
        let evaluator = Evaluator::new(&input, Some(&policy.composition));
        let evaluate = |compiled: &Compiled| -> Result<Value, String> {
            let made = evaluator.evaluate(compiled, &mut { RUNTIME_BUDGET })??;
            check_names(&made)?;
            made.to_json().map_err(|e| e.to_string())
        };
        match self {
            Self::Patch(compiled) => {
                let patch = evaluate(compiled).map_err(Failed::Policy)?;
                patched(&seen.object, &patch).map_err(Failed::Policy)
            }
            Self::Apply(compiled) => {
                let mut config = evaluate(compiled).map_err(Failed::Policy)?;
                config.set(&["kind"], invocation.kind.kind.as_str());
                config.set(&["apiVersion"], invocation.kind.api_version());
                let kind = &invocation.kind;
                let resource = review.request.as_ref().and_then(|r| r.catalog.registry.by_kind(&kind.group, &kind.version, &kind.kind));
                let missing = || {
                    let why = format!(
                        "Resource kind {kind} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available."
                    );
                    Failed::Request(Status::service_unavailable(why))
                };
                let merged = knarr_schema::apply::merge_configuration(resource.ok_or_else(missing)?, &seen.object, &config);
                merged.map_err(|why| Failed::Policy(format!("error applying patch: {why}")))
            }
        }
    }
}

/// The object with a JSON patch applied. A test that fails leaves it alone.
fn patched(object: &Value, patch: &Value) -> Result<Value, String> {
    let mut document = object.clone();
    for operation in patch.as_array().into_iter().flatten() {
        match knarr_schema::patch::json_patch(&document, &Value::Array(vec![operation.clone()])) {
            Ok(next) => document = next,
            Err(_) if operation.str_at(&["op"]) == Some("test") => return Ok(object.clone()),
            Err(e) => return Err(format!("JSON Patch: {}", e.message)),
        }
    }
    Ok(document)
}

/// Whether each `Object.a.b{…}` stands at the path that its name tells.
fn check_names(value: &Cel<'_>) -> Result<(), String> {
    match value {
        Cel::Object(made) if *made.type_name == *"JSONPatch" => made.fields.get("value").map_or(Ok(()), check_names),
        Cel::Object(made) => made.fields.iter().try_for_each(|(name, field)| check_field(&format!("{}.{name}", made.type_name), field)),
        Cel::List(items) => items.iter().try_for_each(|item| check_names(&item.map_err(|e| e.to_string())?)),
        _ => Ok(()),
    }
}

fn check_field(path: &str, value: &Cel<'_>) -> Result<(), String> {
    match value {
        Cel::Object(made) if *made.type_name != *path => {
            let quoted = (knarr_core::field::go_quote(&made.type_name), knarr_core::field::go_quote(path));
            Err(format!("type mismatch: unexpected type name {}, expected {}, which matches field name path from root Object type", quoted.0, quoted.1))
        }
        Cel::Object(made) => made.fields.iter().try_for_each(|(name, field)| check_field(&format!("{}.{name}", made.type_name), field)),
        Cel::List(items) => items.iter().try_for_each(|item| check_field(path, &item.map_err(|e| e.to_string())?)),
        _ => Ok(()),
    }
}

/// The plugin.
pub struct Mutating(Sources<Mutations>);

impl Mutating {
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        let policies = Configurations::new("mutatingadmissionpolicies", parse);
        Self(Sources { objects, policies, bindings: Configurations::new("mutatingadmissionpolicybindings", binding) })
    }

    /// Makes one mutation of the object under review.
    fn change(&self, review: &mut Review<'_>, policy: &Policy, mutation: &Mutation, invocation: &Invocation, params: Option<&Value>) -> Result<(), Failed> {
        let Some(under) = review.object.clone() else { return Ok(()) };
        let changed = mutation.of(&*self.0.objects, review, policy, invocation, params)?;
        let Some(request) = &review.request else { return Ok(()) };
        let changed = request.conform(changed, &invocation.kind).map_err(|e| Failed::Policy(e.message))?;
        let taken = request.take_back(changed, &invocation.kind, &review.attributes.subresource, &under).map_err(Failed::Request)?;
        review.object = Some(taken);
        Ok(())
    }

    /// Runs one policy for one binding and its parameters; gives what went wrong.
    fn invoke(&self, review: &mut Review<'_>, hook: &Mutations, binding: &Binding, invocation: &Invocation, params: Option<&Value>) -> Result<Vec<String>> {
        let seen = Seen::new(&*self.0.objects, review, invocation)?;
        let holds = conditions_hold(&hook.policy, &Evaluator::new(&seen.input(params), Some(&hook.policy.composition)));
        drop(seen);
        match holds {
            Ok(true) => {}
            Ok(false) => return Ok(Vec::new()),
            Err(why) => return Ok(vec![why]),
        }
        let named = |key: &str| params.and_then(|p| p.str_at(&["metadata", key])).unwrap_or_default();
        let id = format!("{}/{}/{}/{}", hook.policy.name, binding.name, named("namespace"), named("name"));
        if review.reinvocation.again && !review.reinvocation.of(NAME).is_required(&id) {
            return Ok(Vec::new());
        }
        let (before, mut wrong) = (review.object.clone(), Vec::new());
        for mutation in &hook.mutations {
            match self.change(review, &hook.policy, mutation, invocation, params) {
                Ok(()) => {}
                Err(Failed::Policy(why)) => wrong.push(why),
                Err(Failed::Request(status)) => return Err(status),
            }
        }
        if before != review.object {
            review.reinvocation.of(NAME).require();
            review.reinvocation.wanted = true;
        }
        if hook.may_be_reinvoked {
            review.reinvocation.of(NAME).add_invoked(&id);
        }
        Ok(wrong)
    }

    fn run(&self, review: &mut Review<'_>) -> Result<()> {
        if review.reinvocation.again && review.reinvocation.of(NAME).has_changed(review.object.as_ref()) {
            review.reinvocation.of(NAME).require();
        }
        // All are matched with the object as it came, as upstream does.
        let (mut matched, mut problems) = (Vec::new(), Vec::new());
        for (hook, bindings) in self.0.hooks(|p| &p.policy.name) {
            let (invocation, found, wrong) = bound(&*self.0.objects, review, &hook.policy, &bindings);
            let told = wrong.into_iter().map(|w| (hook.clone(), Problem { binding: w.binding, why: w.why, is_invalid: false }));
            problems.extend(told);
            matched.extend(invocation.map(|invocation| (hook, invocation, found)));
        }
        for (hook, invocation, found) in matched {
            for Bound { binding, params } in found {
                for param in &params {
                    let wrong = self.invoke(review, &hook, &binding, &invocation, param.as_ref())?;
                    let told = wrong.into_iter().map(|why| (hook.clone(), Problem { binding: Some(binding.clone()), why, is_invalid: true }));
                    problems.extend(told);
                }
            }
        }
        let output = review.object.clone();
        review.reinvocation.of(NAME).set_output(output.as_ref());
        problems.retain(|(hook, _)| !hook.policy.ignores_failures);
        if problems.is_empty() { Ok(()) } else { Err(refusal(review, &problems)) }
    }
}

/// The first problem in its words, all of them as causes.
fn refusal(review: &Review<'_>, problems: &[(Arc<Mutations>, Problem)]) -> Status {
    let a = review.attributes;
    let mut status = Status::forbidden(&knarr_core::GroupResource::new(&a.group, &a.resource), review.name(), "admission request denied by policy");
    let text = |(hook, problem): &(Arc<Mutations>, Problem)| {
        let name = &hook.policy.name;
        match &problem.binding {
            Some(b) => format!("policy '{name}' with binding '{}' denied request: {}", b.name, problem.why),
            None => format!("policy {} denied request: {}", knarr_core::field::go_quote(name), problem.why),
        }
    };
    if let Some(first) = problems.first() {
        status.message = text(first);
        if first.1.is_invalid {
            status.reason = knarr_core::Reason::Invalid;
        }
    }
    if let Some(details) = &mut status.details {
        details.causes.extend(problems.iter().map(|p| Cause { message: text(p), ..Cause::default() }));
    }
    status
}

#[async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        NAME
    }

    fn passes(&self) -> Passes {
        Passes::Mutating
    }

    fn handles(&self, _operation: Operation, attributes: &Attributes) -> bool {
        self.0.handles(attributes)
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        if review.request.is_none() { Ok(()) } else { self.run(review) }
    }
}
