//! The audit policy: which requests are written down, and how much of each (upstream: `audit/policy`, `apis/audit/validation`).

use knarr_core::{
    Value, ValueExt,
    field::{Error, ErrorList, Path},
    names, yaml,
};

use crate::{authn::User, request::RequestInfo};

/// How much is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

const LEVELS: [(&str, Level); 4] =
    [("None", Level::None), ("Metadata", Level::Metadata), ("Request", Level::Request), ("RequestResponse", Level::RequestResponse)];

impl Level {
    pub fn as_str(self) -> &'static str {
        LEVELS.iter().find(|(_, level)| *level == self).map_or("None", |(name, _)| name)
    }
}

/// When an event is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    #[default]
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

const STAGES: [(&str, Stage); 4] = [
    ("RequestReceived", Stage::RequestReceived),
    ("ResponseStarted", Stage::ResponseStarted),
    ("ResponseComplete", Stage::ResponseComplete),
    ("Panic", Stage::Panic),
];

impl Stage {
    pub fn as_str(self) -> &'static str {
        STAGES.iter().find(|(_, stage)| *stage == self).map_or("", |(name, _)| name)
    }
}

/// A set of stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages(u8);

impl Stages {
    pub fn has(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }

    fn read(value: &Value) -> Self {
        let named = |s: &Value| STAGES.iter().find(|(name, _)| s == name).map(|(_, stage)| 1 << *stage as u8);
        Self(value.list_at(&["omitStages"]).iter().filter_map(named).fold(0, |all, one| all | one))
    }
}

/// What holds for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    pub level: Level,
    pub omit_stages: Stages,
    pub omit_managed_fields: bool,
}

#[derive(Clone, Debug)]
struct Resources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

#[derive(Clone, Debug)]
struct Rule {
    ruling: Ruling,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    namespaces: Vec<String>,
    resources: Vec<Resources>,
    urls: Vec<String>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    otherwise: Ruling,
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    value.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let object = yaml::parse(text).map_err(|why| format!("failed decoding: {why}"))?;
        let version = object.str_at(&["apiVersion"]).unwrap_or_default();
        if version != "audit.k8s.io/v1" || object.str_at(&["kind"]) != Some("Policy") {
            let kind = object.str_at(&["kind"]).unwrap_or_default();
            return Err(format!("unknown group version field {version}, Kind={kind} in policy"));
        }
        let errors = validate(&object);
        if !errors.is_empty() {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) });
        }
        let omit_stages = Stages::read(&object);
        let omit_managed_fields = object.bool_at(&["omitManagedFields"]).unwrap_or_default();
        let otherwise = Ruling { level: Level::None, omit_stages, omit_managed_fields };
        let rules: Vec<Rule> = object.list_at(&["rules"]).iter().map(|r| rule(r, otherwise)).collect();
        if rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".into());
        }
        Ok(Self { rules, otherwise })
    }

    /// What holds for a request: the first rule that matches decides. Nobody is known of a request that was not authenticated.
    pub fn evaluate(&self, user: Option<&User>, info: &RequestInfo) -> Ruling {
        self.rules.iter().find(|r| r.matches(user, info)).map_or(self.otherwise, |r| r.ruling)
    }
}

fn rule(value: &Value, defaults: Ruling) -> Rule {
    let level = value.str_at(&["level"]).and_then(|l| LEVELS.iter().find(|(name, _)| *name == l)).map_or(Level::None, |(_, level)| *level);
    let resources = |r: &Value| Resources {
        group: r.str_at(&["group"]).unwrap_or_default().to_owned(),
        resources: strings(r, "resources"),
        names: strings(r, "resourceNames"),
    };
    Rule {
        ruling: Ruling {
            level,
            omit_stages: Stages(Stages::read(value).0 | defaults.omit_stages.0),
            omit_managed_fields: value.bool_at(&["omitManagedFields"]).unwrap_or(defaults.omit_managed_fields),
        },
        users: strings(value, "users"),
        groups: strings(value, "userGroups"),
        verbs: strings(value, "verbs"),
        namespaces: strings(value, "namespaces"),
        resources: value.list_at(&["resources"]).iter().map(resources).collect(),
        urls: strings(value, "nonResourceURLs"),
    }
}

impl Rule {
    fn matches(&self, user: Option<&User>, info: &RequestInfo) -> bool {
        let any_or = |list: &[String], holds: &dyn Fn(&String) -> bool| list.is_empty() || list.iter().any(holds);
        if !any_or(&self.users, &|name| user.is_some_and(|u| u.name == *name))
            || !any_or(&self.groups, &|group| user.is_some_and(|u| u.is_in(group)))
            || !any_or(&self.verbs, &|verb| *verb == info.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource_request
                && any_or(&self.namespaces, &|namespace| *namespace == info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(info)));
        }
        self.urls.is_empty() || !info.is_resource_request && self.urls.iter().any(|url| path_matches(url, &info.path))
    }
}

fn path_matches(url: &str, path: &str) -> bool {
    url == "*" || url == path || url.ends_with('*') && path.starts_with(url.trim_end_matches('*'))
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        if self.group != info.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.names.is_empty() || self.names.contains(&info.name);
        let one = |rule: &String| match rule.split_once('/') {
            None => rule == "*" || info.subresource.is_empty() && *rule == info.resource,
            Some(("*", subresource)) => !info.subresource.is_empty() && subresource == info.subresource,
            Some((resource, "*")) => resource == info.resource,
            Some((resource, subresource)) => resource == info.resource && !info.subresource.is_empty() && subresource == info.subresource,
        };
        named && self.resources.iter().any(one)
    }
}

fn validate(policy: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    omit_stages(policy, &Path::new("omitStages"), &mut errors);
    for (i, rule) in policy.list_at(&["rules"]).iter().enumerate() {
        validate_rule(rule, &Path::new("rules").index(i), &mut errors);
    }
    errors
}

fn omit_stages(value: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, stage) in strings(value, "omitStages").iter().enumerate() {
        if !STAGES.iter().any(|(name, _)| name == stage) {
            let names = STAGES.map(|(name, _)| name).join(",");
            errors.push(Error::invalid(&path.index(i), stage.as_str(), format!("allowed stages are {names}")));
        }
    }
}

fn validate_rule(rule: &Value, path: &Path, errors: &mut ErrorList) {
    let level = path.child("level");
    match rule.str_at(&["level"]).unwrap_or_default() {
        "" => errors.push(Error::required(&level, "")),
        text if LEVELS.iter().any(|(name, _)| *name == text) => {}
        text => errors.push(Error::not_supported(&level, text, &LEVELS.map(|(name, _)| name))),
    }
    let (urls, urls_path) = (strings(rule, "nonResourceURLs"), path.child("nonResourceURLs"));
    for (i, url) in urls.iter().enumerate().filter(|(_, url)| *url != "*") {
        if !url.starts_with('/') {
            errors.push(Error::invalid(&urls_path.index(i), url.as_str(), "non-resource URL rules must begin with a '/' character"));
        }
        if url.char_indices().any(|(at, c)| c == '*' && at + 1 < url.len()) {
            errors.push(Error::invalid(&urls_path.index(i), url.as_str(), "non-resource URL wildcards '*' must be the final character of the rule"));
        }
    }
    validate_resources(rule, &path.child("resources"), errors);
    omit_stages(rule, &path.child("omitStages"), errors);
    if !urls.is_empty() && (!rule.list_at(&["resources"]).is_empty() || !rule.list_at(&["namespaces"]).is_empty()) {
        let shown = rule.at(&["nonResourceURLs"]).cloned().unwrap_or_default();
        errors.push(Error::invalid(&urls_path, shown, "rules cannot apply to both regular resources and non-resource URLs"));
    }
}

fn validate_resources(rule: &Value, path: &Path, errors: &mut ErrorList) {
    for entry in rule.list_at(&["resources"]) {
        let group = entry.str_at(&["group"]).unwrap_or_default();
        let problems = if group.is_empty() || group == "*" { Vec::new() } else { names::is_dns1123_subdomain(group) };
        if !problems.is_empty() {
            errors.push(Error::invalid(&path.child("group"), group, problems.join(",")));
        }
        if !entry.list_at(&["resourceNames"]).is_empty() && entry.list_at(&["resources"]).is_empty() {
            let shown = entry.at(&["resourceNames"]).cloned().unwrap_or_default();
            errors.push(Error::invalid(&path.child("resourceNames"), shown, "using resourceNames requires at least one resource"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;

    fn policy(rules: &str) -> Policy {
        Policy::read(&format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n{rules}")).unwrap()
    }

    fn level(policy: &Policy, user: &str, method: &str, url: &str) -> Level {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::parse(&http::Method::from_bytes(method.as_bytes()).unwrap(), path, &Query::parse(query)).unwrap();
        let user = User { name: user.into(), groups: vec![format!("{user}s")], ..User::default() };
        policy.evaluate((!user.name.is_empty()).then_some(&user), &info).level
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(concat!(
            "- {level: None, users: [system], verbs: [watch]}\n",
            "- {level: None, nonResourceURLs: ['/healthz*', /version]}\n",
            "- {level: RequestResponse, resources: [{group: '', resources: [pods/log, 'services/*', '*/scale']}]}\n",
            "- {level: Request, resources: [{group: '', resources: [pods], resourceNames: [p]}], namespaces: [a]}\n",
            "- {level: Metadata, userGroups: [janes]}\n",
            "- {level: Metadata, resources: [{group: apps}]}\n",
        ));
        let check = |user, method, url, wanted| assert_eq!(level(&policy, user, method, url), wanted, "{user} {method} {url}");
        check("system", "GET", "/api/v1/pods?watch=1", Level::None);
        check("jane", "GET", "/healthz/ping", Level::None);
        check("joe", "GET", "/version", Level::None);
        check("joe", "GET", "/api/v1/namespaces/a/pods/p/log", Level::RequestResponse);
        check("joe", "GET", "/api/v1/namespaces/a/services/s/proxy", Level::RequestResponse);
        check("joe", "GET", "/api/v1/namespaces/a/replicationcontrollers/s/scale", Level::RequestResponse);
        check("joe", "GET", "/api/v1/namespaces/a/pods/p", Level::Request);
        check("joe", "GET", "/api/v1/namespaces/a/pods/p/status", Level::None);
        check("joe", "GET", "/api/v1/namespaces/b/pods/p", Level::None);
        check("jane", "GET", "/api/v1/namespaces/b/pods/p", Level::Metadata);
        check("", "GET", "/apis/apps/v1/deployments", Level::Metadata);
        check("", "GET", "/api/v1/pods", Level::None);
    }

    #[test]
    fn what_is_left_out_adds_up() {
        let policy = policy("- {level: Metadata, omitStages: [Panic], omitManagedFields: true}\n");
        let ruling = policy.evaluate(None, &RequestInfo::default());
        let omitted = STAGES.map(|(_, stage)| ruling.omit_stages.has(stage));
        assert_eq!((omitted, ruling.omit_managed_fields), ([true, false, false, true], true));
    }

    #[test]
    fn a_wrong_policy_is_refused_in_upstreams_words() {
        let refused = |text: &str| Policy::read(text).unwrap_err();
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        assert_eq!(refused("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\n"), "unknown group version field audit.k8s.io/v1beta1, Kind=Policy in policy");
        assert_eq!(refused(head), "loaded illegal policy with 0 rules");
        assert_eq!(
            refused(&format!("{head}rules: [{{level: Some}}]")),
            "rules[0].level: Unsupported value: \"Some\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\""
        );
        let both = refused(&format!("{head}omitStages: [x]\nrules: [{{nonResourceURLs: [a, /a*b], namespaces: [n]}}]"));
        assert!(both.starts_with("[omitStages[0]: Invalid value: \"x\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic, rules[0].level: Required value, "), "{both}");
        assert!(both.ends_with("rules cannot apply to both regular resources and non-resource URLs]"), "{both}");
    }
}
