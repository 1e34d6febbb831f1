//! Bootstrap tokens, `ID.SECRET`: by these a machine that is to become a node comes in for the first time. Each is a Secret in
//! `kube-system` (upstream: `plugin/pkg/auth/authenticator/token/bootstrap`).

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use knarr_core::clock::Env;
use knarr_core::{Result, Value, ValueExt, time};

use super::legacy_tokens::equal;
use super::{Authenticator, User};
use crate::admission::Objects;

const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Every token is in this group; its others begin with the name.
const GROUP: &str = "system:bootstrappers";
const USER_PREFIX: &str = "system:bootstrap:";
/// Characters of a group's name after the prefix.
const GROUP_SUFFIX_MAX: usize = 256;

/// Takes the tokens of a cluster.
pub struct BootstrapTokens {
    pub objects: Arc<dyn Objects>,
    /// The API server's own audiences.
    pub audiences: Vec<String>,
    pub env: Env,
}

impl BootstrapTokens {
    fn check(&self, token: &str) -> Option<User> {
        let (id, secret) = parts(token)?;
        let object = self.objects.value("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
        user(&object, id, secret, self.env.now())
    }
}

/// A token taken apart, if it has the form of one.
fn parts(token: &str) -> Option<(&str, &str)> {
    let plain = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    token.split_once('.').filter(|(id, secret)| plain(id, 6) && plain(secret, 16))
}

/// Who comes with the token of this Secret; none if it is not good for that.
fn user(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<User> {
    let data = |key: &str| {
        let decoded = object.str_at(&["data", key]).and_then(|text| STANDARD.decode(text).ok());
        String::from_utf8(decoded.unwrap_or_default()).unwrap_or_default()
    };
    let good = object.at(&["metadata", "deletionTimestamp"]).is_none()
        && object.str_at(&["type"]) == Some(TYPE)
        && equal(data("token-secret").as_bytes(), secret.as_bytes())
        && data("token-id") == id
        && !has_expired(&data("expiration"), now)
        && data("usage-bootstrap-authentication") == "true";
    good.then(|| groups(&data("auth-extra-groups"))).flatten().map(|groups| User { name: format!("{USER_PREFIX}{id}"), groups, ..User::default() })
}

/// A time that cannot be read is over.
fn has_expired(expiration: &str, now: Timestamp) -> bool {
    !expiration.is_empty() && !time::parse(expiration).is_some_and(|end| end > now)
}

/// The groups of a token, sorted; none if one of them may not be given (upstream: `GetGroups`).
fn groups(extra: &str) -> Option<Vec<String>> {
    let mut all = BTreeSet::from([GROUP.to_owned()]);
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        let rest = group.strip_prefix(GROUP)?.strip_prefix(':')?;
        let last = rest.bytes().last()?;
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if rest.len() > GROUP_SUFFIX_MAX || !letter(last) || !rest.bytes().all(|b| letter(b) || b == b':' || b == b'-') {
            return None;
        }
        all.insert(group.to_owned());
    }
    Some(all.into_iter().collect())
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn review_token(&self, token: &str, audiences: &[String]) -> Result<Option<(User, Vec<String>)>> {
        let common: Vec<String> = self.audiences.iter().filter(|a| audiences.is_empty() || audiences.contains(a)).cloned().collect();
        Ok(if common.is_empty() { None } else { self.check(token).map(|user| (user, common)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_core::json;

    fn secret() -> Value {
        let text = |text: &str| STANDARD.encode(text);
        json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": TYPE, "data": {"token-id": text("abcdef"), "token-secret": text("0123456789abcdef"),
            "usage-bootstrap-authentication": text("true"), "expiration": text("2026-02-01T00:00:00Z"),
            "auth-extra-groups": text("system:bootstrappers:z,system:bootstrappers:kubeadm:default-node-token")}})
    }

    fn ask(secret: &Value) -> Option<User> {
        user(secret, "abcdef", "0123456789abcdef", "2026-01-31T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_token_is_a_user_in_its_groups() {
        let user = ask(&secret()).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:bootstrappers:z"]);
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "abcdef0123456789abcdef", "a.b.c"] {
            assert_eq!(parts(bad), None);
        }
    }

    #[test]
    fn what_is_not_meant_for_it_does_not_let_in() {
        for (path, value) in [
            (&["type"][..], "Opaque"),
            (&["metadata", "deletionTimestamp"], "2026-01-31T00:00:00Z"),
            (&["data", "token-id"], "eA=="),
            (&["data", "token-secret"], "eA=="),
            (&["data", "usage-bootstrap-authentication"], "eA=="),
            (&["data", "expiration"], "eA=="),
            (&["data", "expiration"], "MjAyNi0wMS0zMFQwMDowMDowMFo="),
            (&["data", "auth-extra-groups"], "c3lzdGVtOm1hc3RlcnM="),
        ] {
            let mut object = secret();
            object.set(path, value);
            assert_eq!(ask(&object), None, "{path:?}");
        }
    }
}
