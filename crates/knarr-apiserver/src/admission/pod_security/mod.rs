//! The Pod Security Standards: a namespace's labels say what its pods may do, and what happens when they do more
//! (upstream: `k8s.io/pod-security-admission`).

mod checks;
mod config;
mod policy;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use knarr_core::{GroupVersionKind, Result, Status, Value, ValueExt, field};

use super::{Objects, Operation, Passes, Plugin, Review};
use crate::authz::Attributes;
use checks::{Finding, evaluate};
pub use config::Configuration;
use policy::{Level, LevelVersion, Policy};

pub struct PodSecurity(pub Arc<dyn Objects>, pub Configuration);

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Most pods of a namespace that a new level is tried on.
const PODS_MAX: usize = 3000;
/// Subresources of pods that do not show the pod, or do not change its spec.
const IGNORED_SUBRESOURCES: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Where workloads keep their pod template.
fn template_of(a: &Attributes) -> Option<&'static [&'static str]> {
    Some(match (a.group.as_str(), a.resource.as_str()) {
        ("", "podtemplates") => &["template"],
        ("" | "apps", "replicationcontrollers" | "replicasets" | "deployments" | "statefulsets" | "daemonsets") | ("batch", "jobs") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    })
}

/// What one level says of a pod.
fn verdict(level: LevelVersion, metadata: Option<&Value>, spec: &Value) -> Vec<Finding> {
    evaluate(level, metadata.unwrap_or(&Value::Null), spec)
}

/// Reasons with their details (upstream: `AggregateCheckResult.ForbiddenDetail`).
fn details(findings: &[Finding]) -> String {
    let one = |f: &Finding| if f.detail.is_empty() { f.reason.clone() } else { format!("{} ({})", f.reason, f.detail) };
    findings.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl PodSecurity {
    fn policy(&self, namespace: &str) -> Result<(Policy, field::ErrorList)> {
        let found = self.0.value("", "namespaces", "", namespace);
        let found = found.ok_or_else(|| Status::internal(format!("failed to lookup namespace {}", field::go_quote(namespace))))?;
        Ok(self.of_labels(found.at(&["metadata", "labels"])))
    }

    fn of_labels(&self, labels: Option<&Value>) -> (Policy, field::ErrorList) {
        policy::of_labels(labels, self.1.defaults)
    }

    fn exempts_namespace(&self, name: &str) -> bool {
        self.1.exemptions.namespaces.iter().any(|n| n == name)
    }

    fn exempts_class_of(&self, spec: Option<&Value>) -> bool {
        let class = spec.and_then(|s| s.str_at(&["runtimeClassName"])).unwrap_or_default();
        self.1.exemptions.runtime_classes.iter().any(|c| c == class)
    }

    /// For whom nothing is looked at.
    fn exempts(&self, review: &Review<'_>) -> bool {
        let why = if self.exempts_namespace(&review.attributes.namespace) {
            "namespace"
        } else if self.1.exemptions.usernames.contains(&review.attributes.user.name) {
            "user"
        } else {
            return false;
        };
        exempted(review, why);
        true
    }

    /// Labels of a namespace that is exempt are of no effect.
    fn warn_of_exemption(&self, review: &Review<'_>, policy: Policy, labels: Option<&Value>) {
        let same = policy.is_equivalent(&self.1.defaults);
        if policy.is_privileged() || same || !self.exempts_namespace(review.name()) {
            return;
        }
        let is_said = |mode: &str| ["", "-version"].iter().any(|s| labels.is_some_and(|l| l.get(format!("{PREFIX}{mode}{s}")).is_some()));
        let modes = [("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn)];
        let told = modes.iter().filter(|(mode, level)| level.level != Level::Privileged && is_said(mode)).map(|(mode, level)| format!("{mode}={level}"));
        let told = told.collect::<Vec<_>>().join(", ");
        review.notes.warn(format!("namespace {} is exempt from Pod Security, and the policy ({told}) will be ignored", field::go_quote(review.name())));
    }

    fn validate_namespace(&self, review: &Review<'_>, namespace: &Value) -> Result<()> {
        let labels = namespace.at(&["metadata", "labels"]);
        let (new, errors) = self.of_labels(labels);
        let invalid = || Err(Status::invalid(&GroupVersionKind::new("", "v1", "Namespace"), review.name(), &errors));
        let Some(old) = review.old.filter(|_| review.operation == Operation::Update) else {
            if !errors.is_empty() {
                return invalid();
            }
            self.warn_of_exemption(review, new, labels);
            return Ok(());
        };
        let (old, old_errors) = self.of_labels(old.at(&["metadata", "labels"]));
        if !errors.is_empty() && errors != old_errors {
            return invalid();
        }
        let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
        if new.enforce != old.enforce && new.enforce.level != Level::Privileged && !relaxed {
            match self.exempts_namespace(review.name()) {
                true => self.warn_of_exemption(review, new, labels),
                false => self.warn_of_pods(review, new.enforce),
            }
        }
        Ok(())
    }

    /// Warns of pods that the new level would not let in. Of several pods of one controller, one is tried first.
    fn warn_of_pods(&self, review: &Review<'_>, level: LevelVersion) {
        let namespace = review.name();
        let mut pods = self.0.values("", "pods", Some(namespace));
        pods.retain(|pod| !self.exempts_class_of(pod.at(&["spec"])));
        let mut controllers = std::collections::BTreeSet::new();
        let controller = |pod: &Value| {
            let owners = pod.list_at(&["metadata", "ownerReferences"]);
            owners.iter().find(|o| o.bool_at(&["controller"]) == Some(true)).and_then(|o| o.str_at(&["uid"])).map(str::to_owned)
        };
        let (first, others): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|p| controller(p).is_none_or(|uid| controllers.insert(uid)));
        // Each finding with the first pod by name and the number of pods.
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for pod in first.into_iter().chain(others).take(PODS_MAX) {
            let findings = verdict(level, pod.at(&["metadata"]), pod.at(&["spec"]).unwrap_or(&Value::Null));
            if findings.is_empty() {
                continue;
            }
            let name = pod.str_at(&["metadata", "name"]).unwrap_or_default();
            let reasons = findings.into_iter().map(|f| f.reason).collect::<Vec<_>>().join(", ");
            let entry = found.entry(reasons).or_insert_with(|| (name.to_owned(), 0));
            entry.1 += 1;
            if name < entry.0.as_str() {
                name.clone_into(&mut entry.0);
            }
        }
        if pods.len() > PODS_MAX {
            review.notes.warn(format!("new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods", pods.len()));
        }
        if found.is_empty() {
            return;
        }
        let (namespace, level) = (field::go_quote(namespace), field::go_quote(&level.to_string()));
        review.notes.warn(format!("existing pods in namespace {namespace} violate the new PodSecurity enforce level {level}"));
        let mut lines: Vec<String> = found.into_iter().map(|(reasons, (pod, count))| told(&pod, count, &reasons)).collect();
        lines.sort();
        lines.into_iter().for_each(|line| review.notes.warn(line));
    }

    fn validate_pod(&self, review: &Review<'_>, pod: &Value) -> Result<()> {
        if self.exempts(review) {
            return Ok(());
        }
        let (policy, errors) = self.policy(&review.attributes.namespace)?;
        let untouched = review.old.is_some_and(|old| review.operation == Operation::Update && !is_significant(pod, old));
        if errors.is_empty() && policy.is_privileged() || untouched {
            return Ok(());
        }
        self.judge(review, policy, &errors, (pod.at(&["metadata"]), pod.at(&["spec"])), true)
    }

    fn validate_workload(&self, review: &Review<'_>, object: &Value, path: &[&str]) -> Result<()> {
        if self.exempts(review) {
            return Ok(());
        }
        let Ok((policy, errors)) = self.policy(&review.attributes.namespace) else { return Ok(()) };
        if errors.is_empty() && policy.warn.level == Level::Privileged && policy.audit.level == Level::Privileged {
            return Ok(());
        }
        let Some(template) = object.at(path) else { return Ok(()) };
        self.judge(review, policy, &errors, (template.at(&["metadata"]), template.at(&["spec"])), false)
    }

    /// Looks at a pod, or at what one is made of.
    fn judge(
        &self,
        review: &Review<'_>,
        policy: Policy,
        errors: &field::ErrorList,
        (metadata, spec): (Option<&Value>, Option<&Value>),
        enforce: bool,
    ) -> Result<()> {
        if self.exempts_class_of(spec) {
            exempted(review, "runtimeClass");
            return Ok(());
        }
        judge(review, policy, errors, metadata, spec, enforce)
    }
}

fn exempted(review: &Review<'_>, why: &str) {
    review.notes.annotate(format!("{PREFIX}exempt"), why.to_owned());
}

fn told(pod: &str, count: usize, reasons: &str) -> String {
    match count {
        1 => format!("{pod}: {reasons}"),
        2 => format!("{pod} (and 1 other pod): {reasons}"),
        n => format!("{pod} (and {} other pods): {reasons}", n - 1),
    }
}

/// Refuses, annotates and warns (upstream: `EvaluatePod`).
fn judge(review: &Review<'_>, policy: Policy, errors: &field::ErrorList, metadata: Option<&Value>, spec: Option<&Value>, enforce: bool) -> Result<()> {
    let spec = spec.unwrap_or(&Value::Null);
    let violates = |level: LevelVersion| {
        let findings = verdict(level, metadata, spec);
        (!findings.is_empty()).then(|| format!("violate PodSecurity {}: {}", field::go_quote(&level.to_string()), details(&findings)))
    };
    let annotate = |key: &str, value: String| review.notes.annotate(format!("{PREFIX}{key}"), value);
    if !errors.is_empty() {
        annotate("error", format!("Failed to parse policy: {}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    }
    if let Some(why) = violates(policy.audit) {
        annotate("audit-violations", format!("would {why}"));
    }
    if enforce {
        annotate("enforce-policy", policy.enforce.to_string());
        if let Some(why) = violates(policy.enforce) {
            let a = review.attributes;
            let resource = knarr_core::GroupResource::new(&a.group, &a.resource);
            return Err(Status::forbidden(&resource, review.name(), why.replacen("violate ", "violates ", 1)));
        }
    }
    if let Some(why) = violates(policy.warn) {
        review.notes.warn(format!("would {why}"));
    }
    Ok(())
}

/// Of what can change in a pod, images and added containers count.
fn is_significant(pod: &Value, old: &Value) -> bool {
    let image = |c: &Value| c.str_at(&["image"]).unwrap_or_default().to_owned();
    let differ = |kind: &str| {
        let (new, old) = (pod.list_at(&["spec", kind]), old.list_at(&["spec", kind]));
        new.len() != old.len() || new.iter().zip(old).any(|(n, o)| image(n) != image(o))
    };
    let known = old.list_at(&["spec", "ephemeralContainers"]);
    let added = |c: &Value| known.iter().find(|o| o["name"] == c["name"]).is_none_or(|o| image(o) != image(c));
    differ("containers") || differ("initContainers") || pod.list_at(&["spec", "ephemeralContainers"]).iter().any(added)
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn passes(&self) -> Passes {
        Passes::Validating
    }

    fn handles(&self, operation: Operation, a: &Attributes) -> bool {
        let is_pod = a.group.is_empty() && a.resource == "pods" && !IGNORED_SUBRESOURCES.contains(&a.subresource.as_str());
        let is_object = a.subresource.is_empty() && (a.group.is_empty() && a.resource == "namespaces" || template_of(a).is_some());
        matches!(operation, Operation::Create | Operation::Update) && (is_pod || is_object)
    }

    async fn validate(&self, review: &Review<'_>) -> Result<()> {
        let Some(object) = &review.object else { return Ok(()) };
        match template_of(review.attributes) {
            Some(path) => self.validate_workload(review, object, path),
            None if review.attributes.resource == "namespaces" => self.validate_namespace(review, object),
            None => self.validate_pod(review, object),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixed;
    use super::*;
    use knarr_core::json;

    fn objects() -> Arc<Fixed> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/enforce-version": "v1.30", "pod-security.kubernetes.io/warn": "restricted"});
        Arc::new(Fixed(vec![
            ("namespaces", json!({"metadata": {"name": "n", "labels": labels}})),
            ("pods", json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"hostPID": true}})),
            ("pods", json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"hostPID": true}})),
        ]))
    }

    async fn review(resource: &str, object: Value, old: Option<&Value>) -> (Result<()>, Vec<String>) {
        review_by(Configuration::default(), resource, object, old).await
    }

    async fn review_by(config: Configuration, resource: &str, object: Value, old: Option<&Value>) -> (Result<()>, Vec<String>) {
        let namespace = if resource == "namespaces" { "" } else { "n" };
        let group = if resource == "deployments" { "apps" } else { "" };
        let attributes = Attributes { resource: resource.into(), namespace: namespace.into(), group: group.into(), name: "n".into(), ..Attributes::default() };
        let kind = GroupVersionKind::new(group, "v1", "X");
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let review = Review { object: Some(object), old, ..Review::new(operation, &attributes, &kind) };
        let plugin = PodSecurity(objects(), config);
        assert!(plugin.handles(operation, &attributes));
        (plugin.validate(&review).await, review.notes.take_warnings())
    }

    #[tokio::test]
    async fn a_pod_is_refused_or_warned_about() {
        let (refused, _) =
            review("pods", json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "securityContext": {"privileged": true}}]}}), None).await;
        assert_eq!(
            refused.unwrap_err().message,
            "pods \"n\" is forbidden: violates PodSecurity \"baseline:v1.30\": host namespaces (hostNetwork=true), privileged (container \"c\" must not set securityContext.privileged=true)"
        );
        let (good, warnings) = review("deployments", json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}), None).await;
        assert_eq!(good, Ok(()));
        assert_eq!(
            warnings,
            [
                "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
            ]
        );
    }

    #[tokio::test]
    async fn a_namespace_is_told_of_its_pods() {
        let labelled = |level: &str| json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/enforce": level}}});
        let old = json!({"metadata": {"name": "n"}});
        let (good, warnings) = review("namespaces", labelled("baseline"), Some(&old)).await;
        assert_eq!(good, Ok(()));
        assert_eq!(
            warnings,
            ["existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"", "a (and 1 other pod): host namespaces"]
        );
        let (bad, _) = review("namespaces", labelled("high"), None).await;
        assert_eq!(
            bad.unwrap_err().message,
            "Namespace \"n\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"high\": must be one of privileged, baseline, restricted"
        );
    }

    #[tokio::test]
    async fn a_configuration_says_what_holds_without_labels_and_for_whom_nothing_does() {
        let read =
            |rest: &str| Configuration::parse(&format!("kind: PodSecurityConfiguration\napiVersion: pod-security.admission.config.k8s.io/v1\n{rest}")).unwrap();
        let bad = json!({"spec": {"hostNetwork": true, "runtimeClassName": "kata", "containers": [{"name": "c"}]}});
        for (rest, is_let_in) in [
            ("exemptions: {namespaces: ['n']}", true),
            ("exemptions: {namespaces: [m], usernames: [b]}", false),
            ("exemptions: {runtimeClasses: [kata]}", true),
        ] {
            assert_eq!(review_by(read(rest), "pods", bad.clone(), None).await.0.is_ok(), is_let_in, "{rest}");
        }
        // Labels go before the defaults, which hold for what they do not say.
        let (policy, _) = PodSecurity(objects(), read("defaults: {enforce: restricted, audit: restricted}")).policy("n").unwrap();
        assert_eq!((policy.enforce.to_string(), policy.audit.to_string()), ("baseline:v1.30".into(), "restricted:latest".into()));
        let labelled = json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
        let (good, warnings) = review_by(read("exemptions: {namespaces: ['n']}"), "namespaces", labelled, None).await;
        assert_eq!(good, Ok(()));
        assert_eq!(warnings, ["namespace \"n\" is exempt from Pod Security, and the policy (enforce=baseline:latest) will be ignored"]);
    }
}
