//! `Impersonate-*` headers: the request goes on as somebody else, if its user may (upstream: `filters/impersonation`, KEP-5284).
//!
//! There are several ways to be allowed. The constrained ones take two rights, one to be somebody (`impersonate:<mode>`) and one to
//! do what the request does as somebody (`impersonate-on:<mode>:<verb>`); the old one takes `impersonate` and allows everything.
//! The first way that suffices counts; if none does, the first refusal is told.

use http::{HeaderMap, HeaderName};
use knarr_core::{Reason, Result, Status, field::go_quote, names};

use crate::{
    audit::Record,
    authn::{ANONYMOUS, AUTHENTICATED, MASTERS, UNAUTHENTICATED, User, extra},
    authz::Attributes,
    pipeline::{attributes_for, forbidden},
    request::{RequestInfo, percent_decode},
    server::Inner,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
const NODES_GROUP: &str = "system:nodes";
/// Extra of a service account's token that is bound to a pod: its node.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// From this many values on, one question about all of them is put before one about each.
const MANY: usize = 4;

/// A way to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its pod runs on.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Anybody who is neither a node nor a service account.
    UserInfo,
    Legacy,
}

const MODES: [Mode; 5] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::AssociatedNode => "associated-node",
            Self::ArbitraryNode => "arbitrary-node",
            Self::ServiceAccount => "serviceaccount",
            Self::UserInfo => "user-info",
            Self::Legacy => "",
        }
    }

    fn is_constrained(self) -> bool {
        self != Self::Legacy
    }

    fn verb(self) -> String {
        if self.is_constrained() { format!("impersonate:{}", self.name()) } else { "impersonate".into() }
    }

    /// Whether this is a way to become `wanted` at all.
    fn applies(self, wanted: &User, requestor: &User) -> bool {
        let name_only = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
        match self {
            Self::AssociatedNode => name_only && account_of(&requestor.name).is_some() && node_of(&wanted.name).is_some_and(|n| runs_on(requestor, n)),
            Self::ArbitraryNode => name_only && node_of(&wanted.name).is_some(),
            Self::ServiceAccount => name_only && account_of(&wanted.name).is_some(),
            Self::UserInfo => node_of(&wanted.name).is_none() && account_of(&wanted.name).is_none(),
            Self::Legacy => true,
        }
    }
}

fn runs_on(requestor: &User, node: &str) -> bool {
    requestor.extra.get(NODE_NAME).is_some_and(|values| values.as_slice() == [node])
}

/// The node whose user this is.
fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix("system:node:").filter(|n| names::is_dns1123_subdomain(n).is_empty())
}

/// Namespace and name of the service account whose user this is (upstream: `serviceaccount.SplitUsername`).
fn account_of(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (names::is_dns1123_label(namespace).is_empty() && names::is_dns1123_subdomain(name).is_empty()).then_some((namespace, name))
}

/// What the headers ask for, as it stands in them.
fn wanted(headers: &HeaderMap) -> Result<Option<User>> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let mut user = User { name: text(USER), uid: text(UID), ..User::default() };
    user.groups = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix(EXTRA) {
            let value = value.to_str().unwrap_or_default().to_owned();
            user.extra.entry(percent_decode(key, false).into_owned()).or_default().push(value);
        }
    }
    let named = !user.name.is_empty();
    if !named && (!user.uid.is_empty() || headers.contains_key(GROUP) || !user.extra.is_empty()) {
        let why = format!("requested {} without impersonating a user name", go_syntax(&user));
        return Err(Status::new(400, Reason::BadRequest, why));
    }
    Ok(named.then_some(user))
}

/// The user as Go prints it by `%#v`.
fn go_syntax(user: &User) -> String {
    let texts = |all: &[String]| match all {
        [] => "[]string(nil)".to_owned(),
        all => format!("[]string{{{}}}", all.iter().map(|t| go_quote(t)).collect::<Vec<_>>().join(", ")),
    };
    let extra = match user.extra.is_empty() {
        true => "map[string][]string(nil)".to_owned(),
        false => {
            let pairs: Vec<String> = user.extra.iter().map(|(k, v)| format!("{}:{}", go_quote(k), texts(v))).collect();
            format!("map[string][]string{{{}}}", pairs.join(", "))
        }
    };
    format!("&user.DefaultInfo{{Name:{}, UID:{}, Groups:{}, Extra:{extra}}}", go_quote(&user.name), go_quote(&user.uid), texts(&user.groups))
}

/// The user that the request goes on as; its headers tell nobody any more that it is somebody else.
///
/// # Errors
/// `Forbidden` when the user may not be this somebody; `BadRequest` for headers without a user.
pub async fn apply(inner: &Inner, user: User, info: &RequestInfo, headers: &mut HeaderMap, record: Option<&Record>) -> Result<User> {
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    let theirs: Vec<HeaderName> = headers.keys().filter(|k| matches!(k.as_str(), USER | GROUP | UID) || k.as_str().starts_with(EXTRA)).cloned().collect();
    theirs.iter().for_each(|name| drop(headers.remove(name)));
    let mut refused = None;
    for mode in MODES.into_iter().filter(|mode| mode.applies(&wanted, &user)) {
        let ask = Ask { inner, mode, requestor: &user };
        match ask.all(&wanted, info).await {
            Ok(other) => {
                if let Some(record) = record {
                    record.impersonated(&other, &if mode.is_constrained() { mode.verb() } else { String::new() });
                }
                return Ok(other);
            }
            Err(why) => drop(refused.get_or_insert(why)),
        }
    }
    Err(refused.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// The questions of one mode.
struct Ask<'a> {
    inner: &'a Inner,
    mode: Mode,
    requestor: &'a User,
}

impl Ask<'_> {
    async fn all(&self, wanted: &User, info: &RequestInfo) -> Result<User> {
        if self.mode.is_constrained() {
            let mut on = attributes_for(self.requestor, info);
            on.verb = format!("impersonate-on:{}:{}", self.mode.name(), info.verb);
            self.check(on).await?;
        }
        let mut other = wanted.clone();
        self.name(&mut other).await?;
        if !wanted.uid.is_empty() {
            self.check(self.about(AUTHENTICATION, "uids", "", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(wanted).await?;
        Ok(with_group(other))
    }

    fn about(&self, group: &str, resource: &str, subresource: &str, name: &str) -> Attributes {
        Attributes {
            user: self.requestor.clone(),
            verb: self.mode.verb(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            is_resource_request: true,
            ..Attributes::default()
        }
    }

    /// Group of users and groups: constrained rights live where those on uids and extras do.
    fn group(&self) -> &'static str {
        if self.mode.is_constrained() { AUTHENTICATION } else { "" }
    }

    /// Asks; for an associated node without what tells one node from another.
    async fn check(&self, mut attributes: Attributes) -> Result<()> {
        if self.mode == Mode::AssociatedNode {
            let keys = attributes.user.extra.keys().cloned().collect();
            attributes.user.extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
            if attributes.verb == self.mode.verb() {
                attributes.name = "*".into();
            }
        }
        let verdict = self.inner.authorize(&attributes).await;
        if verdict.is_allowed() {
            return Ok(());
        }
        let why = match (verdict.error, verdict.reason) {
            (Some(error), reason) if reason.is_empty() => error,
            (Some(error), reason) => format!("{error}: {reason}"),
            (None, reason) => reason,
        };
        Err(forbidden(&attributes, &why))
    }

    async fn name(&self, other: &mut User) -> Result<()> {
        let mut about = self.about(self.group(), "users", "", &other.name);
        if let Some(node) = node_of(&other.name).filter(|_| self.mode.is_constrained()) {
            (about.resource, about.name) = ("nodes".into(), node.into());
            other.groups = vec![NODES_GROUP.into()];
        }
        if let Some((namespace, account)) = account_of(&other.name) {
            (about.resource, about.namespace, about.name) = ("serviceaccounts".into(), namespace.into(), account.into());
            if other.groups.is_empty() {
                other.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        self.check(about).await
    }

    async fn groups(&self, groups: &[String]) -> Result<()> {
        let about = |name: &str| self.about(self.group(), "groups", "", name);
        if self.mode.is_constrained() {
            if groups.iter().any(String::is_empty) {
                return Err(forbidden(&about(""), "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|g| g == MASTERS) {
                return Err(forbidden(&about(MASTERS), "impersonating the system:masters group is not allowed"));
            }
            if groups.len() >= MANY && self.check(about("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.check(about(group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, wanted: &User) -> Result<()> {
        let about = |key: &str, value: &str| self.about(AUTHENTICATION, "userextras", key, value);
        if self.mode.is_constrained() {
            bad_extra(wanted).map_or(Ok(()), |why| Err(forbidden(&about("", ""), &why)))?;
            let values: usize = wanted.extra.values().map(Vec::len).sum();
            if values >= MANY && self.check(about("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in &wanted.extra {
            for value in values {
                self.check(about(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// What constrained modes do not take for extra.
fn bad_extra(wanted: &User) -> Option<String> {
    let place = knarr_core::field::Path::new("extra").child("key");
    wanted.extra.iter().find_map(|(key, values)| {
        let errors = extra::domain_prefixed_path(&place, key);
        match key.as_str() {
            "" => Some("impersonating the empty string key in extra is not allowed".to_owned()),
            _ if !errors.is_empty() => Some(format!("impersonating an invalid key in extra is not allowed: {}", extra::aggregate(&errors))),
            key if key != key.to_lowercase() => Some(format!("impersonating a non-lowercase key in extra is not allowed: {}", go_quote(key))),
            _ => values.iter().any(String::is_empty).then(|| "impersonating the empty string value in extra is not allowed".to_owned()),
        }
    })
}

/// Everybody is in one of the two groups; who asked to be without a credential stays so.
fn with_group(mut user: User) -> User {
    let group = match user.name.as_str() {
        ANONYMOUS => UNAUTHENTICATED,
        _ if user.is_in(UNAUTHENTICATED) => return user,
        _ => AUTHENTICATED,
    };
    if !user.is_in(group) {
        user.groups.push(group.into());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> User {
        User { name: name.into(), ..User::default() }
    }

    fn modes(wanted: &User, requestor: &User) -> Vec<Mode> {
        MODES.into_iter().filter(|m| m.applies(wanted, requestor)).collect()
    }

    #[test]
    fn who_is_wanted_tells_the_ways_there_are() {
        let mut agent = named("system:serviceaccount:kube-system:agent");
        agent.extra.insert(NODE_NAME.into(), vec!["n1".into()]);
        assert_eq!(modes(&named("system:node:n1"), &agent), [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::Legacy]);
        assert_eq!(modes(&named("system:node:n2"), &agent), [Mode::ArbitraryNode, Mode::Legacy]);
        assert_eq!(modes(&named("system:serviceaccount:a:b"), &agent), [Mode::ServiceAccount, Mode::Legacy]);
        assert_eq!(modes(&named("jane"), &agent), [Mode::UserInfo, Mode::Legacy]);
        let with_group = User { groups: vec!["g".into()], ..named("system:node:n1") };
        assert_eq!(modes(&with_group, &agent), [Mode::Legacy]);
    }

    #[test]
    fn headers_without_a_user_are_shown_as_they_were_read() {
        let headers: HeaderMap =
            [("impersonate-group", "g"), ("impersonate-extra-a%2fb", "x")].into_iter().map(|(k, v)| (HeaderName::from_static(k), v.parse().unwrap())).collect();
        let refused = wanted(&headers).unwrap_err();
        let text = r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"g"}, Extra:map[string][]string{"a/b":[]string{"x"}}} without impersonating a user name"#;
        assert_eq!((refused.code, refused.message.as_str()), (400, text));
        assert_eq!(wanted(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn groups_follow_the_name() {
        assert_eq!(with_group(named("jane")).groups, [AUTHENTICATED]);
        assert_eq!(with_group(named(ANONYMOUS)).groups, [UNAUTHENTICATED]);
        assert_eq!(with_group(User { groups: vec![UNAUTHENTICATED.into()], ..named("jane") }).groups, [UNAUTHENTICATED]);
    }
}
