//! AuthorizationConfiguration (`apiserver.config.k8s.io`): which authorizers are asked, in which order. The flags
//! `--authorization-mode` and `--authorization-webhook-*` are another way to write one. Read strictly, validated in upstream's
//! words (`apis/apiserver/validation`, `kubeapiserver/authorizer`).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path as File, PathBuf},
    sync::Arc,
    time::Duration,
};

use knarr_cel::{authorization::Conditions, time::parse_duration};
use knarr_core::{
    field::{Error, ErrorList, Path, go_quote},
    names,
};
use serde::Deserialize;

use super::{Always, Authorizer, Decision, Union, webhook};
use crate::{
    authn::{extra::aggregate, jwt::config::read},
    outside::ReviewHook,
};

const VERSIONS: [&str; 3] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
/// What can stand for an authorizer (upstream: `AuthorizationModeChoices`).
pub const MODES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const CONDITIONS_MAX: usize = 64;
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
const AUTHORIZED_TTL: &str = "5m0s";
const UNAUTHORIZED_TTL: &str = "30s";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    kind: String,
    api_version: String,
    pub authorizers: Vec<AuthorizerConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizerConfig {
    pub r#type: String,
    pub name: String,
    pub webhook: Option<WebhookConfig>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct WebhookConfig {
    #[serde(rename = "authorizedTTL")]
    pub authorized_ttl: String,
    pub cache_authorized_requests: bool,
    #[serde(rename = "unauthorizedTTL")]
    pub unauthorized_ttl: String,
    pub cache_unauthorized_requests: bool,
    pub timeout: String,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: ConnectionInfo,
    pub match_conditions: Vec<MatchCondition>,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            authorized_ttl: AUTHORIZED_TTL.into(),
            cache_authorized_requests: true,
            unauthorized_ttl: UNAUTHORIZED_TTL.into(),
            cache_unauthorized_requests: true,
            timeout: String::new(),
            subject_access_review_version: String::new(),
            match_condition_subject_access_review_version: String::new(),
            failure_policy: String::new(),
            connection_info: ConnectionInfo::default(),
            match_conditions: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionInfo {
    pub r#type: String,
    pub kube_config_file: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchCondition {
    pub expression: String,
}

/// A duration in Go's form; zero where it is empty or none.
pub fn duration(text: &str) -> Duration {
    parse_duration(text).and_then(|n| u64::try_from(n).ok()).map_or(Duration::ZERO, Duration::from_nanos)
}

/// What the old flags say of the one webhook that they know.
#[derive(Clone, Debug)]
pub struct WebhookFlags {
    pub config_file: PathBuf,
    pub version: String,
    pub authorized_ttl: String,
    pub unauthorized_ttl: String,
}

impl Configuration {
    /// Reads the text of a file and checks it.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self =
            read(text, "AuthorizationConfiguration", &VERSIONS).map_err(|why| format!("failed to load AuthorizationConfiguration from file: {why}"))?;
        let errors = config.errors();
        if !errors.is_empty() {
            return Err(aggregate(&errors));
        }
        let misnamed = config.authorizers.iter().find(|a| a.r#type != "Webhook" && a.name != a.r#type.to_lowercase());
        misnamed.map_or(Ok(()), |a| Err(format!("expected name {} for authorizer {} instead of {}", a.r#type.to_lowercase(), a.r#type, a.name)))?;
        Ok(config)
    }

    /// The same out of `--authorization-mode` (upstream: `buildAuthorizationConfiguration`).
    ///
    /// # Errors
    /// Modes that do not exist, come twice, or lack their file.
    pub fn of_modes(modes: &[&str], webhook: Option<&WebhookFlags>) -> Result<Self, String> {
        let mut authorizers = Vec::new();
        for (i, mode) in modes.iter().enumerate() {
            if !MODES.contains(mode) {
                return Err(format!("authorization-mode {mode:?} is not a valid mode"));
            }
            if modes[..i].contains(mode) {
                return Err(format!("authorization-mode {modes:?} has mode specified more than once"));
            }
            let (name, hook) = match (*mode, webhook) {
                ("Webhook", None) => return Err("authorization-mode Webhook's authorization config file not passed".into()),
                ("Webhook", Some(flags)) => ("default".to_owned(), Some(of_flags(flags))),
                (mode, _) => (mode.to_lowercase(), None),
            };
            authorizers.push(AuthorizerConfig { r#type: (*mode).to_owned(), name, webhook: hook });
        }
        if webhook.is_some() && !modes.contains(&"Webhook") {
            return Err("cannot specify --authorization-webhook-config-file without mode Webhook".into());
        }
        Ok(Self { authorizers, ..Self::default() })
    }

    /// Types of all authorizers but webhooks.
    pub fn local_types(&self) -> BTreeSet<String> {
        self.authorizers.iter().map(|a| a.r#type.clone()).filter(|t| t != "Webhook").collect()
    }

    fn errors(&self) -> ErrorList {
        let (mut errors, place) = (ErrorList::new(), Path::new("authorizers"));
        if self.authorizers.is_empty() {
            errors.push(Error::required(&place, "at least one authorization mode must be defined"));
        }
        let (mut types, mut seen) = (HashSet::new(), HashSet::new());
        for (i, authorizer) in self.authorizers.iter().enumerate() {
            let place = place.index(i);
            let (kind, at) = (authorizer.r#type.as_str(), place.child("type"));
            if kind.is_empty() {
                errors.push(Error::required(&at, ""));
                continue;
            }
            if !MODES.contains(&kind) {
                errors.push(Error::not_supported(&at, kind, &MODES));
                continue;
            }
            if !types.insert(kind) && kind != "Webhook" {
                errors.push(Error::duplicate(&at, kind));
                continue;
            }
            check_name(&authorizer.name, &place.child("name"), &mut seen, &mut errors);
            match (&authorizer.webhook, kind == "Webhook") {
                (None, true) => errors.push(Error::required(&place.child("webhook"), "required when type=Webhook")),
                (Some(webhook), true) => check_webhook(webhook, &place, &mut errors),
                (Some(_), false) => errors.push(Error::invalid(&place.child("webhook"), "non-null", "may only be specified when type=Webhook")),
                (None, false) => {}
            }
        }
        errors
    }

    /// Makes the chain. `local` are the authorizers of this server by type.
    ///
    /// # Errors
    /// A type that this server does not have, or a webhook whose kubeconfig cannot be read.
    pub fn build(&self, local: &BTreeMap<&'static str, Arc<dyn Authorizer>>) -> Result<Union, String> {
        let chain = self.authorizers.iter().map(|a| match (a.r#type.as_str(), &a.webhook) {
            ("AlwaysAllow", _) => Ok(Arc::new(Always(Decision::Allow)) as Arc<dyn Authorizer>),
            ("AlwaysDeny", _) => Ok(Arc::new(Always(Decision::NoOpinion)) as Arc<dyn Authorizer>),
            ("Webhook", Some(config)) => Ok(Arc::new(made(&a.name, config)?) as Arc<dyn Authorizer>),
            (other, _) => local.get(other).cloned().ok_or_else(|| format!("authorizer type {other} is not supported")),
        });
        chain.collect::<Result<_, _>>().map(Union)
    }
}

fn of_flags(flags: &WebhookFlags) -> WebhookConfig {
    WebhookConfig {
        cache_authorized_requests: !duration(&flags.authorized_ttl).is_zero(),
        cache_unauthorized_requests: !duration(&flags.unauthorized_ttl).is_zero(),
        authorized_ttl: flags.authorized_ttl.clone(),
        unauthorized_ttl: flags.unauthorized_ttl.clone(),
        timeout: "30s".into(),
        failure_policy: "NoOpinion".into(),
        subject_access_review_version: flags.version.clone(),
        connection_info: ConnectionInfo { r#type: "KubeConfigFile".into(), kube_config_file: Some(flags.config_file.to_string_lossy().into_owned()) },
        ..WebhookConfig::default()
    }
}

fn made(name: &str, config: &WebhookConfig) -> Result<webhook::Webhook, String> {
    let version = match config.subject_access_review_version.as_str() {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        other => return Err(format!("unsupported webhook authorizer version {}, supported versions are \"v1\", \"v1beta1\"", go_quote(other))),
    };
    let file = config.connection_info.kube_config_file.clone().unwrap_or_default();
    let hook = ReviewHook::from_kubeconfig(File::new(&file), duration(&config.timeout))?;
    let ttl = |kept: bool, text: &str| if kept { duration(text) } else { Duration::ZERO };
    let settings = webhook::Settings {
        name: name.to_owned(),
        version,
        on_error: if config.failure_policy == "Deny" { Decision::Deny } else { Decision::NoOpinion },
        conditions: Conditions::new(config.match_conditions.iter().map(|c| c.expression.as_str())),
        authorized_ttl: ttl(config.cache_authorized_requests, &config.authorized_ttl),
        unauthorized_ttl: ttl(config.cache_unauthorized_requests, &config.unauthorized_ttl),
    };
    Ok(webhook::Webhook::new(settings, hook))
}

fn check_name<'n>(name: &'n str, place: &Path, seen: &mut HashSet<&'n str>, errors: &mut ErrorList) {
    let problems = names::is_dns1123_subdomain(name);
    if name.is_empty() {
        errors.push(Error::required(place, ""));
    } else if !seen.insert(name) {
        errors.push(Error::duplicate(place, name));
    } else if !problems.is_empty() {
        errors.push(Error::invalid(place, name, format!("authorizer name is invalid: {}", problems.join(", "))));
    }
}

fn check_webhook(c: &WebhookConfig, place: &Path, errors: &mut ErrorList) {
    check_times(c, place, errors);
    one_of(&c.subject_access_review_version, &["v1", "v1beta1"], true, "", &place.child("subjectAccessReviewVersion"), errors);
    let needed = !c.match_conditions.is_empty();
    let version = place.child("matchConditionSubjectAccessReviewVersion");
    one_of(&c.match_condition_subject_access_review_version, &["v1"], needed, "required if match conditions are specified", &version, errors);
    one_of(&c.failure_policy, &["NoOpinion", "Deny"], true, "", &place.child("failurePolicy"), errors);
    check_connection(&c.connection_info, &place.child("connectionInfo"), errors);
    check_conditions(&c.match_conditions, &place.child("matchConditions"), errors);
}

fn check_times(c: &WebhookConfig, place: &Path, errors: &mut ErrorList) {
    let timeout = place.child("timeout");
    match (c.timeout.as_str(), parse_duration(&c.timeout)) {
        ("", _) | (_, Some(0)) => errors.push(Error::required(&timeout, "")),
        (text, Some(n)) if n < 0 || duration(text) > TIMEOUT_MAX => errors.push(Error::invalid(&timeout, text, "must be > 0s and <= 30s")),
        (text, None) => errors.push(Error::invalid(&timeout, text, "must be a duration")),
        _ => {}
    }
    for (text, field) in [(&c.authorized_ttl, "authorizedTTL"), (&c.unauthorized_ttl, "unauthorizedTTL")] {
        match parse_duration(text) {
            Some(n) if n > 0 => {}
            Some(0) => errors.push(Error::required(&place.child(field), "")),
            _ => errors.push(Error::invalid(&place.child(field), text.as_str(), "must be > 0s")),
        }
    }
}

fn one_of(text: &str, known: &[&str], required: bool, why: &str, place: &Path, errors: &mut ErrorList) {
    if text.is_empty() {
        if required {
            errors.push(Error::required(place, why));
        }
    } else if !known.contains(&text) {
        errors.push(Error::not_supported(place, text, known));
    }
}

fn check_connection(c: &ConnectionInfo, place: &Path, errors: &mut ErrorList) {
    let (at, file) = (place.child("kubeConfigFile"), c.kube_config_file.as_deref().unwrap_or_default());
    match c.r#type.as_str() {
        "" => errors.push(Error::required(&place.child("type"), "")),
        // A server that asks itself would wait for itself.
        "InClusterConfig" => errors.push(Error::not_supported(&place.child("type"), "InClusterConfig", &["KubeConfigFile"])),
        "KubeConfigFile" if file.is_empty() => errors.push(Error::required(&at, "")),
        "KubeConfigFile" if !file.starts_with('/') => errors.push(Error::invalid(&at, file, "must be an absolute path")),
        "KubeConfigFile" => match std::fs::metadata(file) {
            Err(e) => errors.push(Error::invalid(&at, file, format!("error loading file: {e}"))),
            Ok(meta) if !meta.is_file() => errors.push(Error::invalid(&at, file, "must be a regular file")),
            Ok(_) => {}
        },
        other => errors.push(Error::not_supported(&place.child("type"), other, &["InClusterConfig", "KubeConfigFile"])),
    }
}

fn check_conditions(all: &[MatchCondition], place: &Path, errors: &mut ErrorList) {
    if all.len() > CONDITIONS_MAX {
        return errors.push(Error::too_many(place, all.len(), CONDITIONS_MAX as i64));
    }
    let mut seen = HashSet::new();
    let at = |i: usize| place.index(i).child("expression");
    for (i, condition) in all.iter().enumerate() {
        let text = condition.expression.as_str();
        if text.trim().is_empty() {
            errors.push(Error::required(&at(i), ""));
        } else if !seen.insert(text) {
            errors.push(Error::duplicate(&at(i), text));
        } else if let Some((_, why)) = Conditions::new([text]).errors().next() {
            errors.push(Error::invalid(&at(i), text, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(authorizers: &str) -> String {
        Configuration::parse(&format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n{authorizers}"))
            .err()
            .unwrap_or_default()
    }

    fn webhook(change: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        std::fs::write(&file, "").unwrap();
        let good = format!(
            "- type: Webhook\n  name: w\n  webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, \
             connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {}}}, matchConditions: [{{expression: 'request.user != \"\"'}}]}}\n",
            file.display()
        );
        let (from, to) = change.split_once(" -> ").unwrap_or(("Webhook", "Webhook"));
        assert!(good.contains(from), "{from}");
        errors(&good.replace(from, to))
    }

    #[test]
    fn a_chain_is_read_in_its_order() {
        let text = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthorizationConfiguration\nauthorizers: [{type: Node, name: node}, {type: AlwaysDeny, name: alwaysdeny}]\n";
        let config = Configuration::parse(text).unwrap();
        assert_eq!(config.local_types().into_iter().collect::<Vec<_>>(), ["AlwaysDeny", "Node"]);
        let local: BTreeMap<&'static str, Arc<dyn Authorizer>> = [("Node", Arc::new(Always(Decision::Allow)) as Arc<dyn Authorizer>)].into();
        assert_eq!(config.build(&local).unwrap().0.len(), 2);
        assert_eq!(config.build(&BTreeMap::new()).err().unwrap(), "authorizer type Node is not supported");
        assert_eq!(webhook(""), "");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        assert_eq!(errors("  []\n"), "authorizers: Required value: at least one authorization mode must be defined");
        assert_eq!(errors("- {type: RBAC, name: rbac}\n- {type: RBAC, name: rbac}\n"), "authorizers[1].type: Duplicate value: \"RBAC\"");
        assert_eq!(errors("- {type: RBAC, name: other}\n"), "expected name rbac for authorizer RBAC instead of other");
        assert!(errors("- {type: Rbac, name: rbac}\n").starts_with("authorizers[0].type: Unsupported value: \"Rbac\": supported values: "));
        assert_eq!(errors("- {type: Webhook, name: w}\n"), "authorizers[0].webhook: Required value: required when type=Webhook");
        assert_eq!(webhook("timeout: 3s -> timeout: 31s"), "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s");
        assert_eq!(
            webhook("failurePolicy: Deny -> failurePolicy: Allow"),
            "authorizers[0].failurePolicy: Unsupported value: \"Allow\": supported values: \"NoOpinion\", \"Deny\""
        );
        assert_eq!(
            webhook(" matchConditionSubjectAccessReviewVersion: v1, -> "),
            "authorizers[0].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified"
        );
        let condition = webhook("request.user != \"\" -> request.user");
        assert_eq!(condition, "authorizers[0].matchConditions[0].expression: Invalid value: \"request.user\": must evaluate to bool but got string");
        assert!(webhook("kubeConfigFile: / -> kubeConfigFile: /nowhere/").contains("error loading file"));
    }

    #[test]
    fn modes_are_another_way_to_write_it() {
        let flags = WebhookFlags { config_file: "/x".into(), version: "v1".into(), authorized_ttl: "5m".into(), unauthorized_ttl: "0s".into() };
        let config = Configuration::of_modes(&["Node", "Webhook"], Some(&flags)).unwrap();
        let hook = config.authorizers[1].webhook.as_ref().unwrap();
        assert_eq!((hook.cache_authorized_requests, hook.cache_unauthorized_requests, hook.failure_policy.as_str()), (true, false, "NoOpinion"));
        let wrong = |modes: &[&str], webhook: Option<&WebhookFlags>| Configuration::of_modes(modes, webhook).unwrap_err();
        assert_eq!(wrong(&["Magic"], None), "authorization-mode \"Magic\" is not a valid mode");
        assert!(wrong(&["RBAC", "RBAC"], None).contains("more than once"));
        assert!(wrong(&["Webhook"], None).contains("config file not passed"));
        assert!(wrong(&["RBAC"], Some(&flags)).contains("without mode Webhook"));
    }
}
