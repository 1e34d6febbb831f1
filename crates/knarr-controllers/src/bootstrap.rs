//! Bootstrap tokens as controllers read them: Secrets `bootstrap-token-ID` in `kube-system` (upstream:
//! `k8s.io/cluster-bootstrap`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use knarr_client::{Informer, Meta, Query};
use knarr_core::time;

use crate::context::ControllerContext;

pub const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";

/// The tokens of the cluster.
pub fn informer(context: &ControllerContext) -> Informer<Meta> {
    context.informers.get(Query::all::<Secret>().within(NAMESPACE).fields(&format!("type={TYPE}")))
}

/// A text of the Secret's data, empty when it is not there.
pub fn data(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |b| &b.0);
    String::from_utf8_lossy(bytes).into_owned()
}

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    Never,
    At(Timestamp),
    /// It is over, or nobody can read when.
    Over,
}

/// Upstream: `GetExpiration`.
pub fn expiration(secret: &Secret, now: Timestamp) -> Expiration {
    let text = data(secret, "expiration");
    match time::parse(&text) {
        _ if text.is_empty() => Expiration::Never,
        Some(end) if end > now => Expiration::At(end),
        _ => Expiration::Over,
    }
}

/// ID and secret of a token that may sign `cluster-info` (upstream: `validateSecretForSigning`).
pub fn signing_token(secret: &Secret, now: Timestamp) -> Option<(String, String)> {
    let (id, key) = (data(secret, "token-id"), data(secret, "token-secret"));
    let named = secret.metadata.name.as_deref()?.strip_prefix(PREFIX)?;
    let plain = named.len() == 6 && named.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let good = plain && named == id && !key.is_empty() && data(secret, "usage-bootstrap-signing") == "true";
    (good && expiration(secret, now) != Expiration::Over).then_some((id, key))
}

#[cfg(test)]
pub mod testing {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use knarr_core::{Value, json};

    use super::*;

    pub fn token(id: &str, data: &[(&str, &str)]) -> Secret {
        let mut all = vec![("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        all.extend(data);
        let data: serde_json::Map<String, Value> = all.iter().map(|(key, text)| ((*key).to_owned(), STANDARD.encode(text).into())).collect();
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "data": data,
            "metadata": {"name": format!("{PREFIX}{id}"), "namespace": NAMESPACE}}))
        .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::token;
    use super::*;

    #[test]
    fn a_token_signs_while_it_may_and_lives() {
        let now = "2026-01-31T00:00:00Z".parse().unwrap();
        let signs = |secret: &Secret| signing_token(secret, now).is_some();
        assert!(signs(&token("abcdef", &[])) && signs(&token("abcdef", &[("expiration", "2026-02-01T00:00:00Z")])));
        assert!(!signs(&token("abcdef", &[("expiration", "2026-01-31T00:00:00Z")])) && !signs(&token("abcdef", &[("expiration", "soon")])));
        assert!(!signs(&token("abcdef", &[("usage-bootstrap-signing", "yes")])) && !signs(&token("abcdef", &[("token-id", "fedcba")])));
        assert!(!signs(&token("ABCDEF", &[])) && !signs(&token("abcdef", &[("token-secret", "")])));
    }
}
