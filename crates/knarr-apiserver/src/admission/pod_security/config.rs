//! PodSecurityConfiguration: what holds for namespaces whose labels say nothing, and for whom nothing holds (upstream:
//! `pod-security-admission/admission/api`).

use std::collections::HashSet;

use knarr_core::field::{Error, ErrorList, Path};
use knarr_core::names;
use serde::Deserialize;

use super::policy::{Level, LevelVersion, NO_LEVEL, NO_VERSION, Policy, version};
use crate::authn::extra::aggregate;
use crate::authn::jwt::config::read;

const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

/// For whom nothing holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Exemptions {
    pub(super) usernames: Vec<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) runtime_classes: Vec<String>,
}

/// What the plugin is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    pub(super) defaults: Policy,
    pub(super) exemptions: Exemptions,
}

impl Configuration {
    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// What cannot be read or is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let versions = VERSIONS.map(|version| format!("pod-security.admission.config.k8s.io/{version}"));
        let file: File = read(text, "PodSecurityConfiguration", &versions.each_ref().map(String::as_str))?;
        let mut errors = ErrorList::new();
        let d = &file.defaults;
        let mut mode = |name: &str, level: &str, of: &str| of_mode(name, level, of, &mut errors);
        let defaults = Policy {
            enforce: mode("enforce", &d.enforce, &d.enforce_version),
            warn: mode("warn", &d.warn, &d.warn_version),
            audit: mode("audit", &d.audit, &d.audit_version),
        };
        let e = &file.exemptions;
        exempt("namespaces", &e.namespaces, names::is_dns1123_label, &mut errors);
        exempt("runtimeClasses", &e.runtime_classes, names::is_dns1123_subdomain, &mut errors);
        let empty = |name: &str| if name.is_empty() { vec!["username must not be empty".to_owned()] } else { Vec::new() };
        exempt("usernames", &e.usernames, empty, &mut errors);
        if errors.is_empty() { Ok(Self { defaults, exemptions: file.exemptions }) } else { Err(aggregate(&errors)) }
    }
}

fn of_mode(name: &str, level: &str, of: &str, errors: &mut ErrorList) -> LevelVersion {
    let path = |suffix: &str| Path::new("defaults").child(&format!("{name}{suffix}"));
    let mut read = LevelVersion::default();
    if !level.is_empty() {
        read.level = Level::parse(level).unwrap_or_default();
        errors.extend(Level::parse(level).is_none().then(|| Error::invalid(&path(""), level, NO_LEVEL)));
    }
    if !of.is_empty() {
        read.version = version(of).flatten();
        errors.extend(version(of).is_none().then(|| Error::invalid(&path("-version"), of, NO_VERSION)));
    }
    read
}

fn exempt(what: &str, names: &[String], wrong: impl Fn(&str) -> Vec<String>, errors: &mut ErrorList) {
    let mut known = HashSet::new();
    for (at, name) in names.iter().enumerate() {
        let path = Path::new("exemptions").child(what).index(at);
        let why = wrong(name).join(", ");
        if !why.is_empty() {
            errors.push(Error::invalid(&path, name.as_str(), why));
        } else if !known.insert(name) {
            errors.push(Error::duplicate(&path, name.as_str()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Configuration, String> {
        Configuration::parse(&format!("kind: PodSecurityConfiguration\napiVersion: pod-security.admission.config.k8s.io/v1\n{rest}"))
    }

    #[test]
    fn what_is_not_said_is_privileged() {
        assert_eq!(parse("").unwrap(), Configuration::default());
        let read = parse(
            "defaults: {enforce: baseline, enforce-version: v1.30, warn: restricted}\nexemptions: {usernames: [a], namespaces: [b], runtimeClasses: [c]}",
        )
        .unwrap();
        assert_eq!(read.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!((read.defaults.warn.to_string(), read.defaults.audit.to_string()), ("restricted:latest".into(), "privileged:latest".into()));
        assert_eq!(read.exemptions.runtime_classes, ["c"]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        for (rest, wanted) in [
            ("defaults: {enforce: high}", "defaults.enforce: Invalid value: \"high\": must be one of privileged, baseline, restricted"),
            ("defaults: {audit-version: v2}", "defaults.audit-version: Invalid value: \"v2\": must be \"latest\" or \"v1.x\""),
            ("exemptions: {namespaces: [a, a]}", "exemptions.namespaces[1]: Duplicate value: \"a\""),
            ("exemptions: {usernames: ['']}", "exemptions.usernames[0]: Invalid value: \"\": username must not be empty"),
        ] {
            assert_eq!(parse(rest).unwrap_err(), wanted);
        }
        assert!(parse("exemptions: {namespaces: [A]}").is_err() && parse("default: {}").is_err());
    }
}
