//! Levels and versions out of a namespace's labels (upstream: `pod-security-admission/api`).

use std::fmt;

use knarr_core::{
    Value,
    field::{self, ErrorList, Path},
};

use super::PREFIX;

/// From the most to the least that a pod may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }
}

/// A level as it was defined by a version of Kubernetes: the minor number, absent for the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Option<u32>,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.version {
            None => f.write_str(":latest"),
            Some(minor) => write!(f, ":v1.{minor}"),
        }
    }
}

/// The three modes of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    /// Whether it says the same of all pods: of what is privileged the version does not matter.
    pub fn is_equivalent(&self, other: &Self) -> bool {
        let same = |one: LevelVersion, other: LevelVersion| one.level == other.level && (one.level == Level::Privileged || one.version == other.version);
        same(self.enforce, other.enforce) && same(self.audit, other.audit) && same(self.warn, other.warn)
    }

    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|l| l.level == Level::Privileged)
    }
}

pub(super) const NO_LEVEL: &str = "must be one of privileged, baseline, restricted";
pub(super) const NO_VERSION: &str = "must be \"latest\" or \"v1.x\"";

/// `latest` or `v1.x`.
pub(super) fn version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("v1.").filter(|d| *d == "0" || !d.starts_with('0'))?;
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok().map(Some) } else { None }
}

/// The policy that labels ask for, or the defaults where they say nothing, and what is wrong with them. Errors close what is enforced, and open
/// the other modes.
pub fn of_labels(labels: Option<&Value>, defaults: Policy) -> (Policy, ErrorList) {
    let mut errors = ErrorList::new();
    let label = |key: &str| labels.and_then(|l| l.get(format!("{PREFIX}{key}"))).and_then(Value::as_str);
    let mut wrong = |key: &str, value: &str, why: &str| {
        let path = Path::new("metadata").child("labels").key(&format!("{PREFIX}{key}"));
        errors.push(field::Error::invalid(&path, value, why));
    };
    let mut mode = |key: &str, otherwise: Level| {
        let level = label(key).map(|text| Level::parse(text).ok_or(()).inspect_err(|()| wrong(key, text, NO_LEVEL)).map_err(|()| otherwise));
        let version_key = format!("{key}-version");
        let version = label(&version_key).map(|text| {
            version(text).unwrap_or_else(|| {
                wrong(&version_key, text, NO_VERSION);
                None
            })
        });
        (level, version)
    };
    let (enforce, enforce_version) = mode("enforce", Level::Restricted);
    let (audit, audit_version) = mode("audit", Level::Privileged);
    let (warn, warn_version) = mode("warn", Level::Privileged);
    let either = |level: Option<Result<Level, Level>>, version: Option<Option<u32>>, default: LevelVersion| LevelVersion {
        level: level.map_or(default.level, |l| l.unwrap_or_else(|otherwise| otherwise)),
        version: version.unwrap_or(default.version),
    };
    let mut policy = Policy {
        enforce: either(enforce, enforce_version, defaults.enforce),
        audit: either(audit, audit_version, defaults.audit),
        warn: either(warn, warn_version, defaults.warn),
    };
    // What is enforced is warned of, where nothing is said about warnings.
    if warn.is_none() && matches!(enforce, Some(Ok(level)) if level > policy.warn.level) {
        policy.warn.level = policy.enforce.level;
        if warn_version.is_none() {
            policy.warn.version = policy.enforce.version;
        }
    }
    (policy, errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn read(labels: &[(&str, &str)]) -> (String, String, String, usize) {
        let labels: Value = labels.iter().map(|(k, v)| (format!("{PREFIX}{k}"), json!(v))).collect::<knarr_core::Map<_, _>>().into();
        let (p, errors) = of_labels(Some(&labels), Policy::default());
        (p.enforce.to_string(), p.audit.to_string(), p.warn.to_string(), errors.len())
    }

    #[test]
    fn labels_name_levels_and_versions() {
        let text = |e: &str, a: &str, w: &str, n| (e.to_owned(), a.to_owned(), w.to_owned(), n);
        assert_eq!(read(&[]), text("privileged:latest", "privileged:latest", "privileged:latest", 0));
        assert_eq!(read(&[("enforce", "baseline"), ("enforce-version", "v1.9")]), text("baseline:v1.9", "privileged:latest", "baseline:v1.9", 0));
        assert_eq!(read(&[("enforce", "baseline"), ("warn", "privileged")]), text("baseline:latest", "privileged:latest", "privileged:latest", 0));
        assert_eq!(read(&[("enforce", "x"), ("audit", "y"), ("warn", "z")]), text("restricted:latest", "privileged:latest", "privileged:latest", 3));
        assert_eq!(read(&[("audit", "restricted"), ("audit-version", "v1.01")]), text("privileged:latest", "restricted:latest", "privileged:latest", 1));
    }
}
