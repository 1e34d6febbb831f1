//! `--runtime-config`: which of the built-in resources are served (upstream: `k8s.io/apiserver/pkg/server/resourceconfig`,
//! `options.APIEnablementOptions`). Without it, those of stable versions are.

use std::collections::{BTreeMap, BTreeSet};

use knarr_core::{GroupVersion, go};

use crate::types;

/// What was chosen, by level of stability, by version and by resource. The more specific wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    levels: BTreeMap<Level, bool>,
    versions: BTreeMap<(String, String), bool>,
    resources: BTreeMap<(String, String, String), bool>,
}

/// How stable a version is, as its name tells. In the order in which the choices are made: the later wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    All,
    Stable,
    Beta,
    Alpha,
}

impl Level {
    fn named(key: &str) -> Option<Self> {
        Some(match key {
            "api/all" => Self::All,
            "api/ga" => Self::Stable,
            "api/beta" => Self::Beta,
            "api/alpha" => Self::Alpha,
            _ => return None,
        })
    }

    /// `v1`, `v1beta2`, `v1alpha3`.
    fn of(version: &str) -> Self {
        match version.trim_start_matches('v').trim_matches(|c: char| c.is_ascii_digit()) {
            "" => Self::Stable,
            "beta" => Self::Beta,
            _ => Self::Alpha,
        }
    }
}

/// Groups of the type table that no part of the server registers.
const NOT_REGISTERED: [&str; 3] = ["apidiscovery.k8s.io", "meta.k8s.io", "metrics.k8s.io"];

impl RuntimeConfig {
    /// Reads `KEY=BOOL,…`. Of keys that come twice, the last counts.
    ///
    /// # Errors
    /// A key or value that means nothing, in upstream's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let given = pairs(text);
        if given.len() == 1 && given.get("api/all").is_some_and(|v| v == "false") {
            return Err("invalid runtime-config with only api/all=false".into());
        }
        let keys: Vec<(&str, Key)> =
            given.keys().filter(|k| Level::named(k).is_none()).map(|k| Ok((k.as_str(), Key::read(k)?))).collect::<Result<_, String>>()?;
        let unknown: BTreeSet<String> = keys.iter().filter(|(_, key)| !key.has_known_group()).map(|(_, key)| key.group_version()).collect();
        if !unknown.is_empty() {
            return Err(format!("unknown api groups {}", unknown.into_iter().collect::<Vec<_>>().join(",")));
        }
        let mut config = Self::default();
        for (level, value) in given.iter().filter_map(|(k, v)| Some((Level::named(k)?, (k, v)))) {
            config.levels.insert(level, level_value(value)?);
        }
        for (text, key) in keys {
            key.check(text)?;
            let on = switch(text, &given[text])?;
            let (group, version) = (key.group, key.version);
            match key.resource {
                None => drop(config.versions.insert((group, version), on)),
                Some(resource) => drop(config.resources.insert((group, version, resource), on)),
            }
        }
        Ok(config)
    }

    /// Whether a resource is to be served.
    pub fn serves(&self, group: &str, version: &str, resource: &str) -> bool {
        let by_level = || {
            let level = Level::of(version);
            self.levels.get(&level).or_else(|| self.levels.get(&Level::All)).copied().unwrap_or(level == Level::Stable)
        };
        let by_version = || self.versions.get(&(group.to_owned(), version.to_owned())).copied().unwrap_or_else(by_level);
        self.resources.get(&(group.to_owned(), version.to_owned(), resource.to_owned())).copied().unwrap_or_else(by_version)
    }
}

/// The keys with their values. The core group goes by `v1`, `/v1` or `api/v1`; `api/legacy` means nothing any more.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let core = |key: &str| key == "v1" || key == "api/v1" || key.starts_with("v1/") || key.starts_with("api/v1/");
    let pair = |item: &str| {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        (key.trim().to_owned(), value.trim().to_owned())
    };
    let all = text.split(',').filter(|item| !item.is_empty()).map(pair).filter(|(key, _)| key != "api/legacy");
    all.map(|(key, value)| if core(&key) { ("/v1".to_owned(), value) } else { (key, value) }).collect()
}

/// `GROUP/VERSION` or `GROUP/VERSION/RESOURCE`.
struct Key {
    group: String,
    version: String,
    resource: Option<String>,
}

impl Key {
    fn read(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let (group, version, resource) = match parts.as_slice() {
            [group, version] => (*group, *version, None),
            [group, version, resource] => (*group, *version, Some((*resource).to_owned())),
            _ => return Err(format!("runtime-config invalid key {text}")),
        };
        Ok(Self { group: group.to_owned(), version: version.to_owned(), resource })
    }

    fn group_version(&self) -> String {
        GroupVersion::new(&self.group, &self.version).to_string()
    }

    fn has_known_group(&self) -> bool {
        !NOT_REGISTERED.contains(&&*self.group) && types::kinds().any(|k| k.group == self.group)
    }

    fn check(&self, text: &str) -> Result<(), String> {
        if !types::kinds().any(|k| k.group == self.group && k.version == self.version) {
            return Err(format!("group version {} that has not been registered", self.group_version()));
        }
        match &self.resource {
            Some(resource) if resource.to_lowercase() != *resource => {
                Err(format!("invalid key {text}: group/version/resource and resource is always lowercase plural, not {resource:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// Levels are on or off, and nothing else will do.
fn level_value((key, value): (&String, &String)) -> Result<bool, String> {
    value.parse().map_err(|_| format!("invalid value {key}={value}"))
}

/// A value as Go reads it; none is `true`.
fn switch(key: &str, value: &str) -> Result<bool, String> {
    let wrong = || format!("invalid value of {key}: {value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax");
    if value.is_empty() { Ok(true) } else { go::boolean(value).ok_or_else(wrong) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;

    fn served(text: &str) -> Registry {
        Registry::everything().chosen(&RuntimeConfig::parse(text).unwrap())
    }

    #[test]
    fn nothing_chosen_is_what_is_stable() {
        assert_eq!(served("").groups(), Registry::builtin().groups());
        assert!(Registry::builtin().all().iter().all(|r| Level::of(&r.version) == Level::Stable));
    }

    #[test]
    fn the_more_specific_wins() {
        let versions = |text: &str, group: &str| served(text).groups().into_iter().find(|(g, _)| g == group).map(|(_, v)| v.join(" ")).unwrap_or_default();
        for (text, group, wanted) in [
            ("api/beta=true", "resource.k8s.io", "v1 v1beta2 v1beta1"),
            ("api/all=true", "certificates.k8s.io", "v1 v1beta1"),
            ("api/all=true,api/beta=false", "certificates.k8s.io", "v1"),
            ("api/beta=true,api/all=false", "certificates.k8s.io", "v1beta1"),
            ("api/beta=true,resource.k8s.io/v1beta1=false", "resource.k8s.io", "v1 v1beta2"),
            ("resource.k8s.io/v1beta1=false,resource.k8s.io/v1beta1/deviceclasses", "resource.k8s.io", "v1 v1beta1"),
            ("coordination.k8s.io/v1beta1", "coordination.k8s.io", "v1 v1beta1"),
            ("apps/v1=false", "apps", ""),
            ("v1=0", "", ""),
            ("api/legacy=nonsense, batch/v1 = F ", "batch", ""),
        ] {
            assert_eq!(versions(text, group), wanted, "{text}");
        }
        let registry = served("batch/v1/jobs=false");
        assert!(registry.by_resource("batch", "v1", "jobs").is_none() && registry.by_resource("batch", "v1", "cronjobs").is_some());
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (text, wanted) in [
            ("foo/v1=true", "unknown api groups foo/v1"),
            ("foo.bar/v1=true,batch/v9=true,a/v2", "unknown api groups a/v2,foo.bar/v1"),
            ("metrics.k8s.io/v1beta1=true", "unknown api groups metrics.k8s.io/v1beta1"),
            ("api/gamma=true", "unknown api groups api/gamma"),
            ("apps/v9=true", "group version apps/v9 that has not been registered"),
            ("apps/v1=maybe", "invalid value of apps/v1: maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax"),
            ("api/beta=maybe", "invalid value api/beta=maybe"),
            ("api/beta", "invalid value api/beta="),
            (
                "apps/v1/Deployments=true",
                "invalid key apps/v1/Deployments: group/version/resource and resource is always lowercase plural, not \"Deployments\"",
            ),
            ("api/all=false", "invalid runtime-config with only api/all=false"),
            ("a/b/c/d=true", "runtime-config invalid key a/b/c/d"),
            ("apps/v1/nothing=true,x=1", "runtime-config invalid key x"),
        ] {
            assert_eq!(RuntimeConfig::parse(text).unwrap_err(), wanted, "{text}");
        }
        for text in ["apps/v1/nothing=true", "apiregistration.k8s.io/v1beta1=true", "storage.k8s.io/v1beta1=true", "storage.k8s.io/v1alpha1=true"] {
            assert!(RuntimeConfig::parse(text).is_ok(), "{text}");
        }
    }
}
