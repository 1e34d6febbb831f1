//! ServiceAccounts (upstream: `pkg/registry/core/serviceaccount`).

use crate::cells::{Cells, age, name};
use jiff::Timestamp;
use knarr_core::{Value, ValueExt, json};

use crate::strategy::{Context, Shape, Strategy};
use crate::tree::each;

const ENFORCE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

pub struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn shape(&self) -> Shape {
        Shape::PLAIN.judges_prefix_again()
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, account: &mut Value) {
        clean_secrets(account);
    }

    fn prepare_for_update(&self, _cx: &Context<'_>, account: &mut Value, old: &Value) {
        clean_secrets(account);
        crate::separation::update(self.shape(), account, old);
    }

    fn warnings(&self, account: &Value, old: Option<&Value>) -> Vec<String> {
        let has = |account: &Value| account.at(&["metadata", "annotations", ENFORCE_SECRETS]).is_some();
        if old.is_some_and(has) || !has(account) {
            return Vec::new();
        }
        vec![format!("metadata.annotations[{ENFORCE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets")]
    }

    fn cells(&self, account: &Value, now: Timestamp) -> Cells {
        Some(vec![name(account), age(account, now)])
    }
}

/// A reference to a secret is its name, nothing else.
fn clean_secrets(account: &mut Value) {
    each(account, &["secrets"], |secret| {
        *secret = match secret.str_at(&["name"]) {
            Some(name) => json!({ "name": name }),
            None => json!({}),
        };
    });
}
