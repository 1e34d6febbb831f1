//! FlowSchemas and PriorityLevelConfigurations as they are used: read once, then asked for each request
//! (upstream: `rule.go`, `queueSetCompleterForPL`).

use knarr_core::{Value, ValueExt};

use super::{dealer, queue_set::Discipline};
use crate::{authn::User, request::RequestInfo};

/// Name of the schema and of the level that are always there and take whatever nothing else takes.
pub const CATCH_ALL: &str = "catch-all";
/// Name of the schema and of the level whose requests never wait.
pub const EXEMPT: &str = "exempt";

const ALL: &str = "*";

/// Who a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PathRule {
    verbs: Vec<String>,
    urls: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

/// What tells the flows of one schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    None,
    ByUser,
    ByNamespace,
}

impl Distinguisher {
    pub fn of<'a>(self, user: &'a User, info: &'a RequestInfo) -> &'a str {
        match self {
            Self::None => "",
            Self::ByUser => &user.name,
            Self::ByNamespace => &info.namespace,
        }
    }
}

/// What a FlowSchema says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaSpec {
    pub name: String,
    pub uid: String,
    pub precedence: i64,
    /// Name of the priority level.
    pub level: String,
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

impl SchemaSpec {
    pub fn new(object: &Value) -> Self {
        let distinguisher = match object.str_at(&["spec", "distinguisherMethod", "type"]) {
            Some("ByUser") => Distinguisher::ByUser,
            Some("ByNamespace") => Distinguisher::ByNamespace,
            _ => Distinguisher::None,
        };
        Self {
            name: text(object, &["metadata", "name"]),
            uid: text(object, &["metadata", "uid"]),
            precedence: object.i64_at(&["spec", "matchingPrecedence"]).unwrap_or_default(),
            level: text(object, &["spec", "priorityLevelConfiguration", "name"]),
            distinguisher,
            rules: object.list_at(&["spec", "rules"]).iter().map(rule).collect(),
        }
    }

    /// Whether the request is of this schema.
    pub fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            let by_what = || match info.is_resource_request {
                true => rule.resources.iter().any(|r| r.matches(info)),
                false => rule.paths.iter().any(|r| r.matches(info)),
            };
            rule.subjects.iter().any(|s| s.matches(user)) && by_what()
        })
    }
}

fn text(object: &Value, path: &[&str]) -> String {
    object.str_at(path).unwrap_or_default().to_owned()
}

fn strings(object: &Value, key: &str) -> Vec<String> {
    object.list_at(&[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn rule(value: &Value) -> Rule {
    let subject = |s: &Value| match s.str_at(&["kind"])? {
        "User" => Some(Subject::User(text(s, &["user", "name"]))),
        "Group" => Some(Subject::Group(text(s, &["group", "name"]))),
        "ServiceAccount" => Some(Subject::ServiceAccount { namespace: text(s, &["serviceAccount", "namespace"]), name: text(s, &["serviceAccount", "name"]) }),
        _ => None,
    };
    let resource = |r: &Value| ResourceRule {
        verbs: strings(r, "verbs"),
        groups: strings(r, "apiGroups"),
        resources: strings(r, "resources"),
        namespaces: strings(r, "namespaces"),
        cluster_scope: r.bool_at(&["clusterScope"]).unwrap_or_default(),
    };
    let path = |p: &Value| PathRule { verbs: strings(p, "verbs"), urls: strings(p, "nonResourceURLs") };
    Rule {
        subjects: value.list_at(&["subjects"]).iter().filter_map(subject).collect(),
        resources: value.list_at(&["resourceRules"]).iter().map(resource).collect(),
        paths: value.list_at(&["nonResourceRules"]).iter().map(path).collect(),
    }
}

impl Subject {
    fn matches(&self, user: &User) -> bool {
        match self {
            Self::User(name) => name == ALL || *name == user.name,
            Self::Group(name) => name == ALL || user.is_in(name),
            Self::ServiceAccount { namespace, name } => {
                let rest = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.strip_prefix(namespace.as_str()));
                rest.and_then(|rest| rest.strip_prefix(':')).is_some_and(|account| name == ALL || account == name)
            }
        }
    }
}

/// The wildcard counts only as the single member.
fn has(list: &[String], wanted: &str) -> bool {
    matches!(list, [only] if only == ALL) || list.iter().any(|x| x == wanted)
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = || {
            let whole = |r: &String| match r.split_once('/') {
                None => info.subresource.is_empty() && *r == info.resource,
                Some((resource, subresource)) => resource == info.resource && subresource == info.subresource,
            };
            matches!(self.resources.as_slice(), [only] if only == ALL) || self.resources.iter().any(whole)
        };
        let place = || if info.namespace.is_empty() { self.cluster_scope } else { has(&self.namespaces, &info.namespace) };
        has(&self.verbs, &info.verb) && has(&self.groups, &info.group) && resource() && place()
    }
}

impl PathRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let below = |url: &str| {
            let start = url.strip_suffix('*').unwrap_or(url);
            let start = start.strip_suffix('/').unwrap_or(start);
            info.path.strip_prefix(start).is_some_and(|rest| rest.starts_with('/'))
        };
        has(&self.verbs, &info.verb) && self.urls.iter().any(|url| url == ALL || *url == info.path || below(url))
    }
}

/// What a PriorityLevelConfiguration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LevelSpec {
    pub name: String,
    pub uid: String,
    pub discipline: Discipline,
    pub shares: u32,
    pub lendable_percent: u32,
    pub borrowing_percent: Option<u32>,
}

impl LevelSpec {
    /// # Errors
    /// What keeps the level from being used.
    pub fn new(object: &Value) -> Result<Self, String> {
        let name = text(object, &["metadata", "name"]);
        let exempt = object.str_at(&["spec", "type"]) == Some("Exempt");
        let (limited, exempted) = (object.at(&["spec", "limited"]), object.at(&["spec", "exempt"]));
        if exempt != exempted.is_some() || exempt == limited.is_some() {
            return Err("broken union structure at the top".into());
        }
        if exempt != (name == EXEMPT) {
            return Err("non-alignment between name and type".into());
        }
        let settings = limited.or(exempted).cloned().unwrap_or_default();
        let number = |key: &str| settings.i64_at(&[key]).and_then(|n| u32::try_from(n).ok());
        Ok(Self {
            discipline: if exempt { Discipline::Exempt } else { discipline(&settings)? },
            shares: number("nominalConcurrencyShares").unwrap_or(if exempt { 0 } else { 30 }),
            lendable_percent: number("lendablePercent").unwrap_or_default(),
            borrowing_percent: number("borrowingLimitPercent"),
            uid: text(object, &["metadata", "uid"]),
            name,
        })
    }
}

fn discipline(limited: &Value) -> Result<Discipline, String> {
    let queuing = limited.at(&["limitResponse", "queuing"]);
    if (limited.str_at(&["limitResponse", "type"]) == Some("Reject")) != queuing.is_none() {
        return Err("broken union structure for limit response".into());
    }
    let Some(queuing) = queuing else { return Ok(Discipline::Reject) };
    let number = |key: &str| queuing.i64_at(&[key]).and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
    let (queues, hand_size, length_limit) = (number("queues"), number("handSize"), number("queueLengthLimit"));
    if !dealer::is_possible(queues, hand_size) {
        return Err(format!("no hands of {hand_size} can be dealt out of {queues} queues"));
    }
    Ok(Discipline::Queue { queues, hand_size, length_limit })
}

#[cfg(test)]
mod tests {
    use knarr_core::json;

    use super::*;
    use crate::request::Query;

    fn schema(rule: Value) -> SchemaSpec {
        SchemaSpec::new(&json!({"metadata": {"name": "s"}, "spec": {"rules": [rule]}}))
    }

    fn check(schema: &SchemaSpec, user: &str, method: &str, url: &str, wanted: bool) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let info = RequestInfo::parse(&http::Method::from_bytes(method.as_bytes()).unwrap(), path, &Query::parse(query)).unwrap();
        let user = User { name: user.into(), groups: vec!["g".into()], ..User::default() };
        assert_eq!(schema.matches(&user, &info), wanted, "{} {method} {url}", user.name);
    }

    #[test]
    fn requests_are_matched_by_what_they_ask_for() {
        let subjects = json!([{"kind": "Group", "group": {"name": "g"}}]);
        let pods = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/status"], "namespaces": ["a"]});
        let pods = schema(json!({"subjects": subjects, "resourceRules": [pods]}));
        check(&pods, "u", "GET", "/api/v1/namespaces/a/pods", true);
        check(&pods, "u", "GET", "/api/v1/namespaces/a/pods/p/status", true);
        check(&pods, "u", "GET", "/api/v1/namespaces/a/pods/p/log", false);
        check(&pods, "u", "GET", "/api/v1/namespaces/b/pods", false);
        check(&pods, "u", "GET", "/api/v1/pods", false);
        check(&pods, "u", "POST", "/api/v1/namespaces/a/pods", false);
        check(&pods, "u", "GET", "/healthz", false);
        let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true});
        let all = schema(json!({"subjects": subjects, "resourceRules": [all]}));
        check(&all, "u", "GET", "/api/v1/nodes/n", true);
        check(&all, "u", "GET", "/api/v1/namespaces/a/pods", false);
        let paths = schema(json!({"subjects": subjects, "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}]}));
        check(&paths, "u", "GET", "/healthz", true);
        check(&paths, "u", "GET", "/healthz/ping", true);
        check(&paths, "u", "GET", "/healthzz", false);
        check(&paths, "u", "GET", "/apis/apps/v1", true);
        check(&paths, "u", "GET", "/api/v1/nodes", false);
    }

    #[test]
    fn subjects_are_users_groups_and_accounts() {
        let of = |subject: Value| schema(json!({"subjects": [subject], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}));
        let account = |name: &str| of(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "n", "name": name}}));
        check(&account("*"), "system:serviceaccount:n:a", "GET", "/x", true);
        check(&account("*"), "system:serviceaccount:nn:a", "GET", "/x", false);
        check(&account("b"), "system:serviceaccount:n:a", "GET", "/x", false);
        check(&account("a"), "system:serviceaccount:n:a", "GET", "/x", true);
        check(&of(json!({"kind": "User", "user": {"name": "jane"}})), "jane", "GET", "/x", true);
        check(&of(json!({"kind": "User", "user": {"name": "jane"}})), "joe", "GET", "/x", false);
        check(&of(json!({"kind": "Group", "group": {"name": "*"}})), "joe", "GET", "/x", true);
    }

    #[test]
    fn a_broken_level_is_not_used() {
        let level = |name: &str, spec: Value| LevelSpec::new(&json!({"metadata": {"name": name}, "spec": spec}));
        let queuing = |queues: u32, hand: u32| {
            let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 7, "limitResponse": {"type": "Queue", "queuing": queuing}}})
        };
        let good = level("a", queuing(64, 6)).unwrap();
        assert_eq!((good.shares, good.discipline), (7, Discipline::Queue { queues: 64, hand_size: 6, length_limit: 50 }));
        assert!(level("a", queuing(4, 6)).is_err());
        assert!(level("a", json!({"type": "Exempt", "exempt": {}})).is_err());
        assert!(level("exempt", json!({"type": "Exempt", "exempt": {}})).is_ok());
        assert!(level("a", json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}})).is_err());
        assert!(level("a", json!({"type": "Limited"})).is_err());
    }
}
