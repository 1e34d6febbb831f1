//! The `continue` token of a list in pages (upstream: `storage/continue.go`): the revision of the first page and the key after
//! which the next one begins. We add how many objects are left, which upstream ignores.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

const VERSION: &str = "meta.k8s.io/v1";

/// Where a list goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    #[serde(rename = "v")]
    version: String,
    /// Below zero: at whatever the revision is now.
    #[serde(rename = "rv")]
    pub revision: i64,
    /// A key relative to the list's own, followed by a zero byte.
    start: String,
    /// How many objects came after this page.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub left: Option<i64>,
}

impl Token {
    /// `last` is the last key of the page, relative to the list's own.
    pub fn new(revision: i64, last: &str, left: Option<i64>) -> Self {
        Self { version: VERSION.into(), revision, start: format!("{last}\0"), left }
    }

    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// # Errors
    /// A sentence in upstream's words.
    pub fn decode(text: &str) -> Result<Self, String> {
        let invalid = |why: String| format!("continue key is not valid: {why}");
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|e| invalid(format!("illegal base64 data at input byte {}", offset(&e, text))))?;
        let token: Self = serde_json::from_slice(&json).map_err(|e| invalid(e.to_string()))?;
        if token.version != VERSION {
            return Err(format!("continue key is not valid: server does not recognize this encoded version {}", token.version));
        }
        if token.revision == 0 {
            return Err("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into());
        }
        if token.start.is_empty() {
            return Err("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)".into());
        }
        if token.start.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(invalid(token.start));
        }
        Ok(token)
    }

    /// The last key of the page before.
    pub fn after(&self) -> &str {
        self.start.strip_suffix('\0').unwrap_or(&self.start).trim_start_matches('/')
    }
}

/// Where Go's decoder stops: at the bad byte, or where a group of four is not complete.
fn offset(error: &base64::DecodeError, text: &str) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        _ => text.len() / 4 * 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_client() {
        let token = Token::new(7, "ns/a", Some(3));
        assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        assert_eq!(token.after(), "ns/a");
        // As kube-apiserver writes it.
        let upstream = URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"b\u0000"}"#);
        assert_eq!(Token::decode(&upstream).unwrap().after(), "b");
        let without_start = URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1}"#);
        assert_eq!(Token::decode(&without_start).unwrap_err(), "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)");
        for bad in ["!", "e30", &URL_SAFE_NO_PAD.encode(r#"{"v":"x","rv":5,"start":"b"}"#), &Token::new(1, "../x", None).encode()] {
            assert!(Token::decode(bad).unwrap_err().starts_with("continue key is not valid"), "{bad}");
        }
    }
}
