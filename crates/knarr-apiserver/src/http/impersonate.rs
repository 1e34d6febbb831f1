//! `Impersonate-*` headers: the request goes on as somebody else, if its user may (upstream: `filters/impersonation.go`).

use http::HeaderMap;
use knarr_core::{Result, Status};

use crate::{
    authn::{ANONYMOUS, AUTHENTICATED, User},
    authz::Attributes,
    request::percent_decode,
    server::Inner,
};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user that the request goes on as.
///
/// # Errors
/// `Forbidden` when the user may not be this somebody; 500 for headers without a user.
pub fn apply(inner: &Inner, user: User, headers: &HeaderMap) -> Result<User> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let has_extra = headers.keys().any(|k| k.as_str().starts_with(EXTRA));
    let name = text(USER);
    if name.is_empty() {
        let others = headers.contains_key(GROUP) || headers.contains_key(UID) || has_extra;
        return if others { Err(Status::internal("requested impersonation without impersonating a user")) } else { Ok(user) };
    }
    let mut other = User { uid: text(UID), ..User::default() };
    let may = |resource: &str, group: &str, namespace: &str, name: &str, subresource: &str| {
        inner.check(&Attributes {
            user: user.clone(),
            verb: "impersonate".into(),
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            is_resource_request: true,
            ..Attributes::default()
        })
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, account)) => may("serviceaccounts", "", namespace, account, "")?,
        None => may("users", "", "", &name, "")?,
    }
    for group in headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()) {
        may("groups", "", "", group, "")?;
        other.groups.push(group.to_owned());
    }
    if !other.uid.is_empty() {
        may("uids", "authentication.k8s.io", "", &other.uid, "")?;
    }
    for (key, value) in headers {
        if let Some(key) = key.as_str().strip_prefix(EXTRA) {
            let key = percent_decode(key, false).into_owned();
            let value = value.to_str().unwrap_or_default();
            may("userextras", "authentication.k8s.io", "", value, &key)?;
            other.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    if let (Some((namespace, account)), true) = (account, other.groups.is_empty()) {
        other.groups = User::service_account(namespace, account).groups;
    }
    let wanted = if name == ANONYMOUS { crate::authn::UNAUTHENTICATED } else { AUTHENTICATED };
    if !other.is_in(wanted) {
        other.groups.push(wanted.into());
    }
    other.name = name;
    Ok(other)
}
