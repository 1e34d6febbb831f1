//! ValidatingAdmissionPolicy: refuses, warns about or records writes of which its expressions are not true.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use knarr_cel::{
    RUNTIME_BUDGET, Type, Value as Cel,
    admission::{Compiled, Declarations, Evaluated, Evaluator, OUT_OF_BUDGET, Schemas, environment},
};
use knarr_core::{Reason, Result, Status, Value, ValueExt, json, status::Cause};

use super::{Binding, Bound, Misconfigured, Policy, Seen, Sources, binding, bound, conditions_hold};
use crate::{
    admission::{Objects, Operation, Passes, Plugin, Review, configurations::Configurations},
    authz::Attributes,
};

/// Longest message that an expression may make.
const MESSAGE_MAX: usize = 5 << 10;
/// What is beyond is cut off a value for the audit event.
const ANNOTATION_MAX: usize = 10 << 10;
/// Most failures told in one audit event.
const FAILURES_MAX: usize = 50;

/// One entry of `validations`.
struct Validation {
    compiled: Compiled,
    message: String,
    message_expression: Option<Compiled>,
    reason: String,
}

/// One policy, compiled.
struct Validations {
    policy: Policy,
    validations: Vec<Validation>,
    /// Keys and expressions.
    annotations: Vec<(String, Compiled)>,
}

fn parse(object: &Value) -> Vec<Arc<Validations>> {
    let policy = Policy::new(object, false);
    let env = environment(policy.declared, &policy.composition.types, &Schemas::default());
    let unauthorized = Declarations { authorizer: false, ..policy.declared };
    let message_env = environment(unauthorized, &policy.composition.types, &Schemas::default());
    let text = |v: &Value, key: &str| v.str_at(&[key]).unwrap_or_default().to_owned();
    let validation = |v: &Value| Validation {
        compiled: Compiled::new(&text(v, "expression"), &env, &[Type::Bool]),
        message: text(v, "message").trim().to_owned(),
        message_expression: Some(text(v, "messageExpression")).filter(|m| !m.is_empty()).map(|m| Compiled::new(&m, &message_env, &[Type::String])),
        reason: text(v, "reason"),
    };
    let annotation = |a: &Value| (text(a, "key"), Compiled::new(&text(a, "valueExpression"), &env, &[Type::String, Type::Null]));
    let validations = object.list_at(&["spec", "validations"]).iter().map(validation).collect();
    let annotations = object.list_at(&["spec", "auditAnnotations"]).iter().map(annotation).collect();
    vec![Arc::new(Validations { validations, annotations, policy })]
}

/// What became of one expression that did not hold.
struct Failure {
    index: usize,
    message: String,
    reason: String,
}

/// What a policy says of a write.
#[derive(Default)]
struct Verdict {
    failures: Vec<Failure>,
    annotations: Vec<(String, String)>,
    /// Of annotations; they refuse whatever the binding's actions are.
    errors: Vec<String>,
}

impl Verdict {
    fn failed(&mut self, policy: &Policy, index: usize, message: String) {
        if !policy.ignores_failures {
            self.failures.push(Failure { index, message, reason: String::new() });
        }
    }
}

impl Validations {
    /// Evaluates everything (upstream: `validator.Validate`).
    fn verdict(&self, seen: &Seen<'_>, params: Option<&Value>) -> Verdict {
        let mut verdict = Verdict::default();
        let input = seen.input(params);
        let evaluator = Evaluator::new(&input, Some(&self.policy.composition));
        match conditions_hold(&self.policy, &evaluator) {
            Ok(true) => {}
            Ok(false) => return verdict,
            Err(why) => {
                verdict.failed(&self.policy, 0, why);
                return verdict;
            }
        }
        let mut budget = RUNTIME_BUDGET;
        let results: Result<Vec<Evaluated<'_>>, String> = self.validations.iter().map(|v| evaluator.evaluate(&v.compiled, &mut budget)).collect();
        let results = match results {
            Ok(results) => results,
            Err(why) => {
                verdict.failed(&self.policy, 0, why);
                return verdict;
            }
        };
        let messages = self.messages(&evaluator, budget);
        for (index, (validation, result)) in self.validations.iter().zip(results).enumerate() {
            match (result, &messages) {
                (Err(why), _) => verdict.failed(&self.policy, index, why),
                (Ok(_), Err(why)) => verdict.failed(&self.policy, index, format!("failed messageExpression: {why}")),
                (Ok(Cel::Bool(true)), _) => {}
                (Ok(_), Ok(messages)) => {
                    let made = messages.get(index).cloned().flatten();
                    let told = made.or_else(|| Some(validation.message.clone()).filter(|m| !m.is_empty()));
                    let message = told.unwrap_or_else(|| format!("failed expression: {}", validation.compiled.expression.trim()));
                    verdict.failures.push(Failure { index, message, reason: validation.reason.clone() });
                }
            }
        }
        self.annotate(&evaluator, &mut verdict);
        verdict
    }

    /// What the expressions for messages give: one line of text, or nothing that can be used.
    fn messages(&self, evaluator: &Evaluator<'_>, mut budget: u64) -> Result<Vec<Option<String>>, &'static str> {
        let mut messages = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            let Some(compiled) = &validation.message_expression else {
                messages.push(None);
                continue;
            };
            let text = match evaluator.evaluate(compiled, &mut budget).map_err(|_| OUT_OF_BUDGET)? {
                Ok(Cel::String(text)) => text.trim().to_owned(),
                Ok(_) => String::new(),
                Err(why) => {
                    tracing::debug!(policy = self.policy.name, why, "a message cannot be evaluated");
                    String::new()
                }
            };
            messages.push(Some(text).filter(|t| !t.is_empty() && t.len() <= MESSAGE_MAX && !t.contains('\n')));
        }
        Ok(messages)
    }

    fn annotate(&self, evaluator: &Evaluator<'_>, verdict: &mut Verdict) {
        let mut budget = RUNTIME_BUDGET;
        for (key, compiled) in &self.annotations {
            match evaluator.evaluate(compiled, &mut budget) {
                Ok(Ok(Cel::String(text))) if !text.trim().is_empty() => verdict.annotations.push((key.clone(), cut(text.trim()).to_owned())),
                Ok(Ok(_)) => {}
                Ok(Err(why)) if !self.policy.ignores_failures => verdict.errors.push(why),
                Ok(Err(_)) => {}
                Err(why) => {
                    // Upstream drops all other decisions, too.
                    *verdict = Verdict::default();
                    return verdict.failed(&self.policy, 0, why);
                }
            }
        }
    }
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(ANNOTATION_MAX)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or_default();
    &text[..end]
}

/// What all policies together make of one write.
#[derive(Default)]
struct Decisions {
    /// The first refusal: message, and reason.
    denied: Option<(String, String)>,
    audited: Vec<Value>,
}

impl Decisions {
    fn deny(&mut self, policy: &Policy, binding: Option<&Binding>, message: &str, reason: &str) {
        let with = binding.map_or_else(String::new, |b| format!(" with binding '{}'", b.name));
        let message = || (format!("ValidatingAdmissionPolicy '{}'{with} denied request: {message}", policy.name), reason.to_owned());
        self.denied.get_or_insert_with(message);
    }

    fn misconfigured(&mut self, policy: &Policy, wrong: Vec<Misconfigured>) {
        for Misconfigured { binding, why } in wrong.into_iter().filter(|_| !policy.ignores_failures) {
            self.deny(policy, binding.as_deref(), &why, "");
        }
    }

    /// Does what the binding says is to be done about failures.
    fn act(&mut self, review: &Review<'_>, policy: &Policy, binding: &Binding, verdict: &Verdict) {
        for Failure { index, message, reason } in &verdict.failures {
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => self.deny(policy, Some(binding), message, reason),
                    "Warn" => {
                        let name = (&policy.name, &binding.name);
                        review.notes.warn(format!("Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {message}", name.0, name.1));
                    }
                    "Audit" => self.audited.push(json!({
                        "message": message, "policy": binding.policy, "binding": binding.name, "expressionIndex": index, "validationActions": binding.actions,
                    })),
                    _ => {}
                }
            }
        }
        verdict.errors.iter().for_each(|why| self.deny(policy, Some(binding), why, ""));
    }

    fn finish(mut self, review: &Review<'_>) -> Result<()> {
        if !self.audited.is_empty() {
            self.audited.truncate(FAILURES_MAX);
            review.notes.annotate("validation.policy.admission.k8s.io/validation_failure", Value::Array(self.audited).to_string());
        }
        self.denied.map_or(Ok(()), |(message, reason)| Err(refusal(review, message, &reason)))
    }
}

/// `Forbidden` in its words, with the code of the reason.
fn refusal(review: &Review<'_>, message: String, reason: &str) -> Status {
    let a = review.attributes;
    let mut status = Status::forbidden(&knarr_core::GroupResource::new(&a.group, &a.resource), review.name(), &message);
    (status.code, status.reason) = match reason {
        "Unauthorized" => (401, Reason::Unauthorized),
        "Forbidden" => (403, Reason::Forbidden),
        "RequestEntityTooLarge" => (413, Reason::RequestEntityTooLarge),
        _ => (422, Reason::Invalid),
    };
    if let Some(details) = &mut status.details {
        details.causes.push(Cause { message, ..Cause::default() });
    }
    status
}

/// The plugin.
pub struct Validating(Sources<Validations>);

impl Validating {
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        let policies = Configurations::new("validatingadmissionpolicies", parse);
        Self(Sources { objects, policies, bindings: Configurations::new("validatingadmissionpolicybindings", binding) })
    }

    fn decide(&self, review: &Review<'_>) -> Result<()> {
        let (objects, mut decisions) = (&*self.0.objects, Decisions::default());
        for (hook, bindings) in self.0.hooks(|p| &p.policy.name) {
            let (invocation, found, wrong) = bound(objects, review, &hook.policy, &bindings);
            decisions.misconfigured(&hook.policy, wrong);
            let Some(invocation) = invocation.filter(|_| !found.is_empty()) else { continue };
            let seen = Seen::new(objects, review, &invocation)?;
            let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for Bound { binding, params } in found {
                for param in &params {
                    let verdict = hook.verdict(&seen, param.as_ref());
                    decisions.act(review, &hook.policy, &binding, &verdict);
                    for (key, value) in verdict.annotations {
                        let values = annotations.entry(key).or_default();
                        if !values.contains(&value) {
                            values.push(value);
                        }
                    }
                }
            }
            for (key, values) in annotations {
                review.notes.annotate(format!("{}/{key}", hook.policy.name), values.join(", "));
            }
        }
        decisions.finish(review)
    }
}

#[async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, _operation: Operation, attributes: &Attributes) -> bool {
        self.0.handles(attributes)
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        if review.request.is_none() { Ok(()) } else { self.decide(review) }
    }
}
