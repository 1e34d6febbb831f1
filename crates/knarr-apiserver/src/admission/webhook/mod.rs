//! Admission webhooks: servers of others that change or refuse writes, as MutatingWebhookConfigurations and
//! ValidatingWebhookConfigurations name them (upstream: `apiserver/pkg/admission/plugin/webhook`).

mod call;
mod configuration;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::future::join_all;
use knarr_core::{Result, Status, Value, json};

use super::{
    Objects, Operation, Passes, Plugin, Review,
    configurations::Configurations,
    matching::{Invocation, shown},
};
use crate::{
    authz::Attributes,
    metrics::{Called, Step, waited},
};
use call::{Answer, Problem};
use configuration::{Webhook, webhooks};

pub use super::configurations::GROUP;

/// Under which code calls that failed are counted.
const CALLING_FAILED: u16 = 503;

/// Either plugin.
pub struct Webhooks {
    mutating: bool,
    objects: Arc<dyn Objects>,
    configurations: Configurations<Webhook>,
}

impl Webhooks {
    /// `MutatingAdmissionWebhook`.
    pub fn mutating(objects: Arc<dyn Objects>) -> Self {
        Self { mutating: true, configurations: Configurations::new("mutatingwebhookconfigurations", webhooks), objects }
    }

    /// `ValidatingAdmissionWebhook`.
    pub fn validating(objects: Arc<dyn Objects>) -> Self {
        Self { mutating: false, configurations: Configurations::new("validatingwebhookconfigurations", webhooks), objects }
    }

    async fn call(&self, review: &Review<'_>, hook: &Webhook, invocation: &Invocation, object: &Value, old: &Value) -> Result<Answer, Problem> {
        if review.dry_run && !hook.is_free_of_side_effects {
            let why = format!("admission webhook {} does not support dry run", knarr_core::field::go_quote(&hook.name));
            return Err(Problem::Other(Status::bad_request(why)));
        }
        let answer = call::ask(&*self.objects, review, hook, invocation, object, old, self.mutating).await?;
        for (key, value) in &answer.annotations {
            review.notes.annotate(format!("{}/{key}", hook.name), value);
        }
        answer.warnings.iter().for_each(|w| review.notes.warn(w));
        if answer.allowed { Ok(answer) } else { Err(Problem::Denied(crate::hook::denied(&hook.name, answer.result.as_ref()))) }
    }

    fn measure(&self, review: &Review<'_>, hook: &Webhook, problem: Option<&Problem>, took: Duration) {
        let Some(request) = &review.request else { return };
        let called = match problem {
            None => Called::Allowed,
            Some(Problem::Denied(status)) => Called::Denied(status.code),
            Some(Problem::Calling(_)) => Called::Failed { code: CALLING_FAILED, open: hook.ignores_failures },
            Some(Problem::Other(_)) => Called::OwnError,
        };
        let step = if self.mutating { Step::Admit } else { Step::Validate };
        request.server.metrics.admission.webhook(&hook.name, step, review.operation, called, took);
    }

    /// What becomes of the write when a webhook did not let it pass.
    fn verdict(review: &Review<'_>, hook: &Webhook, problem: Problem, failed_open: &str) -> Result<()> {
        match problem {
            Problem::Denied(status) | Problem::Other(status) => Err(status),
            Problem::Calling(why) if hook.ignores_failures => {
                tracing::warn!(webhook = hook.name, why, "a webhook could not be called; the write goes on");
                review.notes.annotate(failed_open, &hook.name);
                Ok(())
            }
            Problem::Calling(why) => Err(Status::internal(format!("failed calling webhook {}: {why}", knarr_core::field::go_quote(&hook.name)))),
        }
    }

    /// Asks one webhook that mutates; gives whether it has changed the object.
    async fn mutate_by(&self, review: &mut Review<'_>, hook: &Webhook, invocation: &Invocation) -> Result<bool, Problem> {
        let (object, old) = shown(review, &invocation.kind).map_err(Problem::Other)?;
        let answer = self.call(review, hook, invocation, &object, &old).await?;
        let Some(patch) = answer.patch.filter(|p| p.as_array().is_some_and(|list| !list.is_empty())) else { return Ok(false) };
        let (Some(under), Some(request)) = (&review.object, &review.request) else {
            let name = knarr_core::field::go_quote(&hook.name);
            let why = format!("admission webhook {name} attempted to modify the object, which is not supported for this operation");
            return Err(Problem::Other(Status::internal(why)));
        };
        let failed = |e: Status| Problem::Other(Status::internal(e.message));
        let patched = knarr_schema::patch::json_patch(&object, &patch).map_err(failed)?;
        let patched = request.conform(patched, &invocation.kind).map_err(failed)?;
        let changed = patched != object;
        review.object = Some(request.take_back(patched, &invocation.kind, &review.attributes.subresource, under).map_err(Problem::Other)?);
        Ok(changed)
    }
}

#[async_trait]
impl Plugin for Webhooks {
    fn name(&self) -> &'static str {
        if self.mutating { "MutatingAdmissionWebhook" } else { "ValidatingAdmissionWebhook" }
    }

    fn passes(&self) -> Passes {
        if self.mutating { Passes::Mutating } else { Passes::Validating }
    }

    fn handles(&self, _operation: Operation, attributes: &Attributes) -> bool {
        // Nobody can lock himself out of taking a configuration back.
        attributes.group != GROUP && !self.configurations.current(&*self.objects).is_empty()
    }

    async fn mutate(&self, review: &mut Review<'_>) -> Result<()> {
        if !self.mutating || review.request.is_none() {
            return Ok(());
        }
        let (name, round) = (self.name(), usize::from(review.reinvocation.again));
        let memory = review.reinvocation.of(name);
        if round > 0 && memory.has_changed(review.object.as_ref()) {
            review.reinvocation.of(name).require();
        }
        for (index, hook) in self.configurations.current(&*self.objects).iter().enumerate() {
            let Some(invocation) = configuration::invocation(&*self.objects, review, hook)? else { continue };
            if round > 0 && !review.reinvocation.of(name).is_required(&hook.id) {
                continue;
            }
            let started = Instant::now();
            let result = self.mutate_by(review, hook, &invocation).await;
            waited(started.elapsed());
            self.measure(review, hook, result.as_ref().err(), started.elapsed());
            let changed = matches!(result, Ok(true));
            let told = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed}).to_string();
            review.notes.annotate(format!("mutation.webhook.admission.k8s.io/round_{round}_index_{index}"), told);
            if changed {
                review.reinvocation.of(name).require();
                review.reinvocation.wanted = true;
            }
            if hook.may_be_reinvoked {
                review.reinvocation.of(name).add_invoked(&hook.id);
            }
            if let Err(problem) = result {
                Self::verdict(review, hook, problem, &format!("failed-open.mutation.webhook.admission.k8s.io/round_{round}_index_{index}"))?;
            }
        }
        let output = review.object.clone();
        review.reinvocation.of(name).set_output(output.as_ref());
        Ok(())
    }

    /// All are asked at once.
    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        if self.mutating || review.request.is_none() {
            return Ok(());
        }
        let hooks = self.configurations.current(&*self.objects);
        let mut calls = Vec::new();
        for hook in hooks.iter() {
            if let Some(invocation) = configuration::invocation(&*self.objects, review, hook)? {
                let (object, old) = shown(review, &invocation.kind)?;
                calls.push(async move {
                    let started = Instant::now();
                    let result = self.call(review, hook, &invocation, &object, &old).await;
                    self.measure(review, hook, result.as_ref().err(), started.elapsed());
                    (hook, result)
                });
            }
        }
        let started = Instant::now();
        let results = join_all(calls).await;
        waited(started.elapsed());
        for (index, (hook, result)) in results.into_iter().enumerate() {
            if let Err(problem) = result {
                Self::verdict(review, hook, problem, &format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}"))?;
            }
        }
        Ok(())
    }
}
